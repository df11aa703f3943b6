"""The disk of the embedded database: how much is free, and for how long that lasts."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from accession.core.database_url import without_password_protection
from accession.core.settings import Settings
from accession.local.servers import running_servers


@dataclass(frozen=True)
class DiskForecast:
    """Free space of a disk; `days_until_full` is None if nothing grows, or while the growth is unknown."""

    free_bytes: int
    total_bytes: int
    days_until_full: int | None


def database_disk(settings: Settings, bytes_per_day: float | None) -> DiskForecast | None:
    """Return the disk of the embedded database of this machine's home, given the growth of its tables.

    None if these settings use an external database.
    """
    running, url = running_servers(settings.home), settings.database_url
    is_of_home = (
        running is not None
        and url is not None
        and without_password_protection(url.get_secret_value())
        == without_password_protection(running.database_url)
    )
    if not is_of_home or not (settings.home / "postgres").exists():
        return None
    usage = shutil.disk_usage(settings.home / "postgres")
    return DiskForecast(usage.free, usage.total, days_until_full(usage.free, bytes_per_day))


def days_until_full(free_bytes: int, bytes_per_day: float | None) -> int | None:
    """Return for how many whole days the free space lasts; None if it lasts for ever, or is unknown."""
    if bytes_per_day is None or bytes_per_day <= 0:
        return None
    return int(free_bytes / bytes_per_day)


def folder_size(folder: Path) -> int:
    """Return the size of all files of a folder, in bytes; 0 if it does not exist."""
    if not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)


def tree_size(folder: Path) -> int:
    """Return the size of all files in a folder and below it, in bytes."""
    return sum(
        os.lstat(os.path.join(path, name)).st_size for path, _, names in os.walk(folder) for name in names
    )

"""Export files: atomic writing, local and remote."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from accession.core.errors import UserError
from accession.exports.files import (
    join_url,
    prune_old_files,
    require_writable_folder,
    write_file_atomically,
)


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    """Empty in-memory file system of fsspec."""
    store = MemoryFileSystem()
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    yield store
    store.store.clear()


class ExportError(Exception):
    """Error in the middle of an export."""


def _fail_half_way(out: BinaryIO) -> None:
    out.write(b"half")
    raise ExportError


def write(target: str, content: bytes) -> None:
    with write_file_atomically(target) as out:
        out.write(content)


def test_file_is_replaced_with_umask_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(str(tmp_path / "records.mrc"), b"first")
        write(f"file://{tmp_path}/records.mrc", b"second")
    finally:
        os.umask(before)

    assert (tmp_path / "records.mrc").read_bytes() == b"second"
    assert stat.S_IMODE((tmp_path / "records.mrc").stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [tmp_path / "records.mrc"]


@pytest.mark.parametrize("location", ["local", "memory"])
def test_failed_export_keeps_previous_file(location: str, tmp_path: Path, memory: MemoryFileSystem) -> None:
    target = str(tmp_path / "records.mrc") if location == "local" else "memory://exports/records.mrc"
    write(target, b"good")

    with pytest.raises(ExportError), write_file_atomically(target) as out:
        _fail_half_way(out)

    if location == "local":
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"good"]
    else:
        assert memory.find("/") == ["/exports/records.mrc"]
        assert memory.cat("/exports/records.mrc") == b"good"


def test_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(tmp_path / "records.mrc")

    write(str(tmp_path / "latest"), b"good")

    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "records.mrc").read_bytes() == b"good"


def test_directory_and_device_are_not_replaced(tmp_path: Path) -> None:
    for target in (str(tmp_path), "/dev/null"):
        with pytest.raises(UserError, match="is not a regular file"):
            write(target, b"anything")


def test_missing_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"records\.mrc cannot be written \(No such file or directory\)"):
        write(str(tmp_path / "missing" / "records.mrc"), b"anything")


def test_unknown_protocol_is_explained_without_password() -> None:
    with pytest.raises(UserError) as error:
        write("nowhere://ann:secret@host/records.mrc", b"anything")
    assert "nowhere://host/records.mrc cannot be written" in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "target", ["https://ann:secret@a.example/x", "HTTP://169.254.169.254", "filecache::https://a.example/x"]
)
def test_web_address_is_refused_before_any_request(target: str) -> None:
    uses: tuple[Callable[[], None], ...] = (
        lambda: write(f"{target}/records.mrc", b"anything"),
        lambda: prune_old_files(target, "alder-", keep=1),
        lambda: require_writable_folder(target),
    )
    for use in uses:
        with pytest.raises(UserError, match="is a web address, to which no file can be written: ") as error:
            use()
        assert "secret" not in str(error.value)


def test_store_without_move_gets_file_in_one_step(
    memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_not_implemented(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(MemoryFileSystem, "mv", raise_not_implemented)

    write("memory://exports/records.mrc", b"good")

    assert memory.find("/") == ["/exports/records.mrc"]
    assert memory.cat("/exports/records.mrc") == b"good"


@pytest.mark.parametrize("location", ["local", "memory"])
def test_only_newest_export_files_are_kept(location: str, tmp_path: Path, memory: MemoryFileSystem) -> None:
    folder = str(tmp_path) if location == "local" else "memory://exports"
    exports = [f"alder-2024050{day}T030000Z.mrc" for day in range(1, 6)]
    others = ["alder-all-20240501T030000Z.mrc", "alder-notes.txt", "birch-20240501T030000Z.mrc"]
    for name in [*exports, *others]:
        write(join_url(folder, name), b"records")

    prune_old_files(folder, "alder-", 2)
    prune_old_files(folder, "alder-", 9)

    names = os.listdir(tmp_path) if location == "local" else [p.rpartition("/")[2] for p in memory.find("/")]
    assert sorted(names) == sorted([*exports[-2:], *others])

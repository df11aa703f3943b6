"""Atomic and durable writing of files."""

import os
import stat
from pathlib import Path

import pytest

from accession.core.fs import atomic_write, follow_own_link
from tests.fixtures.machine import as_root


class InterruptedWriteError(Exception):
    pass


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


def write(path: Path, content: bytes = b"new", **options: object) -> None:
    with atomic_write(path, **options) as out:  # type: ignore[arg-type]
        out.write(content)


def interrupt_write(path: Path) -> None:
    with atomic_write(path) as out:
        out.write(b"half")
        raise InterruptedWriteError


def test_existing_file_is_replaced_with_private_mode(file: Path) -> None:
    file.chmod(0o644)

    write(file)

    assert file.read_bytes() == b"new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_mode_is_limited_by_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "file", mode=0o644)
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@as_root
def test_owner_is_kept_whatever_the_path_of_the_draft_is_now(file: Path) -> None:
    """In the folder of that owner, the draft may be replaced by a link to any file."""
    victim = file.with_name("victim")
    victim.touch()
    os.chown(file, 65534, 65534)

    with atomic_write(file, keep_owner=True) as out:
        drawn = Path(out.name)
        drawn.rename(drawn.with_name("draft"))
        drawn.symlink_to(victim)

    assert victim.stat().st_uid == 0
    assert file.with_name("draft").stat().st_uid == 65534


def test_own_link_is_followed(file: Path) -> None:
    link = file.with_name("link")
    link.symlink_to(file)

    assert follow_own_link(link) == file.resolve()
    assert follow_own_link(file.with_name("missing")) == file.with_name("missing")


@as_root
def test_link_of_another_user_is_not_followed(file: Path) -> None:
    link = file.with_name("link")
    link.symlink_to(file)
    os.chown(link, 65534, 65534, follow_symlinks=False)

    assert follow_own_link(link) == link


def test_interrupted_write_keeps_existing_file(file: Path) -> None:
    with pytest.raises(InterruptedWriteError):
        interrupt_write(file)

    assert file.read_bytes() == b"old"
    assert list(file.parent.iterdir()) == [file]


def test_interrupted_write_creates_no_file(tmp_path: Path) -> None:
    with pytest.raises(InterruptedWriteError):
        interrupt_write(tmp_path / "file")

    assert list(tmp_path.iterdir()) == []


def test_draft_can_be_written_by_its_name(file: Path) -> None:
    with atomic_write(file) as out:
        Path(out.name).write_bytes(b"by name")
        assert file.read_bytes() == b"old"

    assert file.read_bytes() == b"by name"


def test_leftover_at_fixed_draft_path_is_replaced(file: Path) -> None:
    draft = file.with_name(".draft")
    draft.write_bytes(b"left by a killed process")

    write(file, draft=draft)

    assert file.read_bytes() == b"new"
    assert list(file.parent.iterdir()) == [file]


def test_existing_file_is_kept_without_overwrite(file: Path) -> None:
    write(file, overwrite=False)
    write(file.with_name("other"), overwrite=False)

    assert file.read_bytes() == b"old"
    assert file.with_name("other").read_bytes() == b"new"
    assert len(list(file.parent.iterdir())) == 2


def test_write_into_missing_folder_fails(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "missing" / "file")

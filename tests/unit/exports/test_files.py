"""Files that are whole or not there, here and elsewhere."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from accession.core.errors import UserError
from accession.exports.files import joined, keep_last, replaced, shown


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    """fsspec's store in memory, with nothing in it."""
    store = MemoryFileSystem()
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    yield store
    store.store.clear()


class BrokenOffError(Exception):
    """An export ends in its middle."""


def _break_off(out: BinaryIO) -> None:
    out.write(b"half")
    raise BrokenOffError


def write(target: str, content: bytes) -> None:
    with replaced(target) as out:
        out.write(content)


def test_a_file_is_there_whole_and_everybodys_to_read(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(str(tmp_path / "records.mrc"), b"first")
        write(f"file://{tmp_path}/records.mrc", b"second")
    finally:
        os.umask(before)

    assert (tmp_path / "records.mrc").read_bytes() == b"second"
    assert stat.S_IMODE((tmp_path / "records.mrc").stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [tmp_path / "records.mrc"]


@pytest.mark.parametrize("where", ["local", "memory"])
def test_what_goes_wrong_on_the_way_leaves_the_file_that_was_there(
    where: str, tmp_path: Path, memory: MemoryFileSystem
) -> None:
    target = str(tmp_path / "records.mrc") if where == "local" else "memory://exports/records.mrc"
    write(target, b"good")

    with pytest.raises(BrokenOffError), replaced(target) as out:
        _break_off(out)

    if where == "local":
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"good"]
    else:
        assert memory.find("/") == ["/exports/records.mrc"]
        assert memory.cat("/exports/records.mrc") == b"good"


def test_a_link_goes_on_leading_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(tmp_path / "records.mrc")

    write(str(tmp_path / "latest"), b"good")

    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "records.mrc").read_bytes() == b"good"


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    for target in (str(tmp_path), "/dev/null"):
        with pytest.raises(UserError, match="is not a file"):
            write(target, b"anything")


def test_a_folder_that_is_missing_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"records\.mrc cannot be written \(No such file or directory\)"):
        write(str(tmp_path / "missing" / "records.mrc"), b"anything")


def test_a_place_that_nobody_knows_is_said_without_its_password() -> None:
    with pytest.raises(UserError) as error:
        write("nowhere://ann:secret@host/records.mrc", b"anything")
    assert "nowhere://host/records.mrc cannot be written" in str(error.value)
    assert "secret" not in str(error.value)
    assert shown("ftp://ann:p@ss@host/x") == "ftp://host/x"


def test_a_store_that_cannot_move_gets_the_file_in_one_step(
    memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(MemoryFileSystem, "mv", cannot)

    write("memory://exports/records.mrc", b"good")

    assert memory.find("/") == ["/exports/records.mrc"]
    assert memory.cat("/exports/records.mrc") == b"good"


@pytest.mark.parametrize("where", ["local", "memory"])
def test_only_the_last_files_of_an_export_are_kept(
    where: str, tmp_path: Path, memory: MemoryFileSystem
) -> None:
    folder = str(tmp_path) if where == "local" else "memory://exports"
    ours = [f"alder-2024050{day}T030000Z.mrc" for day in range(1, 6)]
    others = ["alder-all-20240501T030000Z.mrc", "alder-notes.txt", "birch-20240501T030000Z.mrc"]
    for name in [*ours, *others]:
        write(joined(folder, name), b"records")

    keep_last(folder, "alder-", 2)
    keep_last(folder, "alder-", 9)

    found = os.listdir(tmp_path) if where == "local" else [p.rpartition("/")[2] for p in memory.find("/")]
    assert sorted(found) == sorted([*ours[-2:], *others])

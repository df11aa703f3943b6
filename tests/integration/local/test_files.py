"""Files that root writes lie where only root can write, and no path in another's folder is followed."""

import os
import stat
from pathlib import Path

import pytest

from accession.core.errors import UserError
from accession.local.files import (
    create_folder,
    find_untrusted_folder,
    give_folder,
    read_foreign_file,
    remove_folder,
    require_trusted_home,
)
from accession.local.users import User
from tests.fixtures.machine import as_root

USER = User("daemon", 1, 1)
OTHER_UID = 65534


def test_folder_that_others_can_change_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "open" / "home"
    folder.mkdir(parents=True)
    assert find_untrusted_folder(folder) is None
    folder.parent.chmod(0o775)
    assert find_untrusted_folder(folder) == folder.parent
    # As in /tmp, others cannot rename what is ours.
    folder.parent.chmod(0o1777)
    assert find_untrusted_folder(folder) is None


@as_root
@pytest.mark.parametrize("owned", ["home", "parent"])
def test_root_refuses_a_home_that_another_user_can_change(tmp_path: Path, owned: str) -> None:
    folders = {"parent": tmp_path / "parent", "home": tmp_path / "parent" / "home"}
    folders["home"].mkdir(parents=True)
    require_trusted_home(folders["home"])
    os.chown(folders[owned], OTHER_UID, -1)
    with pytest.raises(
        UserError,
        match=rf"because nobody or others may replace files in {folders[owned]}: run Accession as the owner",
    ):
        require_trusted_home(folders["home"])


@as_root
def test_created_folder_belongs_to_the_user(tmp_path: Path) -> None:
    create_folder(tmp_path / "folder", USER)
    status = (tmp_path / "folder").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1, 1, 0o700)


def test_folder_in_the_way_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "folder").symlink_to(tmp_path)
    with pytest.raises(FileExistsError):
        create_folder(tmp_path / "folder", None)


def test_removed_link_keeps_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    remove_folder(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    remove_folder(tmp_path / "folder")
    remove_folder(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


@as_root
def test_given_folder_belongs_to_the_user_with_its_content(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.touch()
    data = tmp_path / "data"
    (data / "base").mkdir(parents=True)
    (data / "base" / "1").touch()
    (data / "link").symlink_to(outside)
    give_folder(data, USER)
    paths = (data, *data.rglob("*"))
    assert len(paths) == 4
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in paths} == {(1, 1)}
    assert outside.stat().st_uid == 0


@as_root
@pytest.mark.parametrize("kind", ["another user's", "also outside"])
def test_file_that_is_not_only_ours_is_not_given_away(tmp_path: Path, kind: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    victim = tmp_path / "victim"
    victim.touch()
    (data / "file").hardlink_to(victim)
    if kind == "another user's":
        victim.unlink()
        os.chown(data / "file", OTHER_UID, -1)
    owner = (data / "file").stat().st_uid
    with pytest.raises(UserError, match=rf"^The file file in {data} belongs to another user, or has another"):
        give_folder(data, USER)
    assert (data / "file").stat().st_uid == owner
    assert data.stat().st_uid == 0


def test_only_regular_files_of_others_are_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("18\n")
    assert read_foreign_file(file) == "18\n"
    (tmp_path / "link").symlink_to(file)
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "missing"):
        assert read_foreign_file(tmp_path / name) == ""
    file.write_text("x" * 1_000_000)
    assert len(read_foreign_file(file)) < 10_000

"""The home is a private folder that only one process can own at a time."""

import os
from pathlib import Path

import pytest

from accession.core.errors import UserError
from accession.local.home import home_owner, lock_home, prepare_home
from accession.local.processes import ProcessId
from tests.fixtures.machine import as_root, public_folder, run_as_nobody


def test_missing_home_is_created_unreadable_for_others(tmp_path: Path) -> None:
    home = tmp_path / "some" / "home"
    prepare_home(home)
    assert home.stat().st_mode & 0o066 == 0


def test_existing_home_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    prepare_home(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_home_that_is_a_file_is_rejected(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("")
    with pytest.raises(UserError, match=rf"^The home {home} is not a folder: make it a writable folder"):
        prepare_home(home)


def test_home_below_a_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    home = tmp_path / "file" / "home"
    with pytest.raises(UserError, match=rf"^The home {home} cannot be created \(Not a directory\): "):
        prepare_home(home)


@as_root
def test_home_of_another_user_is_rejected_as_not_writable() -> None:
    program = """
import sys
from pathlib import Path
from accession.core.errors import UserError
from accession.local.home import prepare_home
try:
    prepare_home(Path(sys.argv[1]))
except UserError as error:
    print(error)
"""
    with public_folder() as folder:
        assert run_as_nobody(program, str(folder)) == (
            f"The home {folder} is not writable: make it a writable folder, or set ACCESSION_HOME to one.\n"
        )


def test_locked_home_refuses_a_second_owner(tmp_path: Path) -> None:
    with lock_home(tmp_path):
        assert home_owner(tmp_path) == ProcessId.own()
        with (
            pytest.raises(UserError, match=rf"already running in {tmp_path} \(process {os.getpid()}\)"),
            lock_home(tmp_path),
        ):
            pytest.fail("the second owner has got the lock")
        assert home_owner(tmp_path) == ProcessId.own()
    assert home_owner(tmp_path) is None
    with lock_home(tmp_path):
        assert home_owner(tmp_path) == ProcessId.own()


def test_owner_without_recorded_pid_still_holds_the_lock(tmp_path: Path) -> None:
    with lock_home(tmp_path):
        (tmp_path / "accession.lock").write_text("")
        with pytest.raises(UserError, match=r"\(process unknown\)"), lock_home(tmp_path):
            pytest.fail("the second owner has got the lock")

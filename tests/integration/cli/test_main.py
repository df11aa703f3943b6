"""Help of all commands, usage errors, and error messages."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from redis import RedisError
from sqlalchemy.exc import OperationalError as DatabaseError

from accession import __version__
from accession.cli import commands, main
from accession.db.models import Collection
from accession.local.servers import ServerUrls
from tests.fixtures.commands import Cli, CommandResult, all_commands, settings, settings_from_environment

COMMANDS = all_commands()


def test_all_commands_exist() -> None:
    assert {name.removeprefix("accession ") for name in COMMANDS} == {
        "up",
        "down",
        "demo",
        "status",
        "export marc",
        "export kbart",
        "export csv",
        "export jsonl",
        "export parquet",
        "export columns",
        "export list",
        "env",
        "doctor",
        "backup",
        "restore",
        "worker",
        "beat",
        "web",
        "collections add",
        "collections list",
        "collections test",
        "collections set-key",
        "collections rotate-key",
        "collections remove",
        "collections schedule",
        "collections limit",
        "collections export",
        "apply",
        "import purchases",
        "import events",
        "import circulation",
        "verify",
        "titles list",
        "titles refresh",
        "titles show",
        "report",
        "rejects list",
        "rejects reasons",
        "rejects show",
        "rejects resolve",
        "rejects retry",
        "runs list",
        "collections pause",
        "collections resume",
        "runs cancel",
        "runs retry",
        "runs days",
        "runs failures",
        "runs hours",
        "runs show",
        "db sizes",
        "db prune",
        "notifications add",
        "notifications list",
        "notifications remove",
        "notifications test",
        "notifications log",
        "notifications rules add",
        "notifications rules list",
        "notifications rules remove",
        *(
            f"webhooks {name}"
            for name in (
                *("add", "list", "update", "remove", "pause", "resume", "rotate-secret", "test"),
                *("deliveries", "replay", "skip"),
            )
        ),
        *(f"digests {name}" for name in ("list", "log", "preview", "remove", "send", "set")),
        "users add",
        "users list",
        "users set-password",
        "users set-role",
        "users remove",
        "users activate",
        "users unlock",
        "users deactivate",
        "tokens add",
        "tokens list",
        "tokens revoke",
        "audit",
        "settings",
        "about",
        "db upgrade",
        "db upgrade-embedded",
        "db check",
        "sandbox serve",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_command_and_options_have_help(name: str) -> None:
    command = COMMANDS[name]
    first_paragraph = (command.help or "").split("\n\n")[0]
    assert first_paragraph.endswith("."), first_paragraph
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help text"


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_list_of_commands_shows_first_line_of_help(name: str) -> None:
    first_line = (commands.load_command(name).help or "").splitlines()[0]
    assert commands.COMMANDS[name].summary == first_line


def test_misspelt_command_suggests_others(cli: Cli) -> None:
    result = cli("statsu")
    assert result.exit_code == 2
    assert "Did you mean 'status'?" in result.stderr


def test_help_imports_no_command() -> None:
    """It is printed at once: importing all commands with their libraries takes a second."""
    program = (
        "import sys; from accession.cli.main import main\n"
        "try: main()\n"
        "finally: print({'sqlalchemy', 'celery', 'httpx', 'redis', 'psycopg'} & set(sys.modules))"
    )
    completed = subprocess.run(
        [sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=True
    )
    assert completed.stdout.endswith("\nset()\n")


def test_no_option_takes_a_secret() -> None:
    """Options are visible to every user of the machine, in the process list."""
    options = {option for command in COMMANDS.values() for p in command.params for option in p.opts}
    secrets = {option for option in options if re.search("key|password|token|secret", option)}
    assert secrets == {"--account-key-file"}


def test_help_is_printed_with_option_and_without_command(cli: Cli) -> None:
    with_option, without_arguments = cli("--help"), cli()
    assert with_option.exit_code == 0
    assert "Usage: accession [OPTIONS] COMMAND" in with_option.stdout
    assert "collections" in without_arguments.stdout + without_arguments.stderr


def test_version_is_printed(cli: Cli) -> None:
    assert cli("--version") == CommandResult(0, f"accession {__version__}\n", "")


@pytest.mark.parametrize("arguments", [("nonsense",), ("status", "--nonsense"), ("titles", "show")])
def test_wrong_command_line_is_a_usage_error(cli: Cli, arguments: tuple[str, ...]) -> None:
    result = cli(*arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


def test_error_is_one_line_and_debug_adds_traceback(cli: Cli, database: None) -> None:
    message = 'No collection found named "Nowhere".'
    assert cli("collections", "test", "Nowhere").error == message
    result = cli("--debug", "collections", "test", "Nowhere")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "CollectionNotFound" in result.stderr
    assert result.stderr.endswith(f"{message}\n")


def test_typed_text_in_error_is_sanitized(cli: Cli, database: None) -> None:
    assert cli("titles", "show", "\x1b[2Jx").error.startswith('No title found with id " [2Jx"')


def test_unexpected_error_is_raised(cli: Cli) -> None:
    broken = typer.Typer()

    @broken.command()
    def divide() -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli(program=lambda: main.run_app(broken))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RedisError("gone"), "The broker is unavailable (gone)"),
        (DatabaseError("SELECT", {}, Exception("gone\nhint")), "The database is unavailable (gone)"),
    ],
)
def test_lost_server_is_reported(cli: Cli, error: Exception, message: str) -> None:
    program = typer.Typer()

    @program.command()
    def work() -> None:
        raise error

    assert cli(program=lambda: main.run_app(program)).error.startswith(message)


# Without servers


@pytest.fixture
def unused_home(tmp_path: Path) -> Iterator[Path]:
    """A home that does not exist yet, without servers."""
    home = tmp_path / "home"
    with settings(home=home):
        yield home


@pytest.mark.parametrize(
    "arguments",
    [
        "status",
        "runs list",
        "titles list --json",
        "titles show abc",
        "rejects list",
        "rejects show 1",
        "rejects retry",
        "collections list",
        "collections test A",
        "collections remove A",
        "collections add A --library-id L --account-id A",
        "import purchases --import-all",
        "env",
        "db upgrade",
        "db check",
        "worker",
        "beat",
        "web",
    ],
)
def test_commands_without_servers_say_how_to_start_them(cli: Cli, unused_home: Path, arguments: str) -> None:
    assert cli(*arguments.split()).error == (
        f"Accession is not running in {unused_home}: start it with `accession up`, "
        "or set ACCESSION_DATABASE_URL and ACCESSION_REDIS_URL."
    )


def test_down_without_installation_is_reported(cli: Cli, unused_home: Path) -> None:
    message = f"Accession is not running in {unused_home}: there is nothing to stop."
    assert cli("down").error == message


@pytest.mark.parametrize("arguments", ["status", "down", "up", "up --detach", "env"])
def test_home_that_is_no_folder_is_reported(cli: Cli, tmp_path: Path, arguments: str) -> None:
    file = tmp_path / "file"
    file.touch()
    with settings(home=file):
        assert f"{file} is not a folder" in cli(*arguments.split()).error


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a read-only file system")
@pytest.mark.parametrize("arguments", ["up", "up --detach"])
def test_home_that_cannot_be_created_is_reported(cli: Cli, arguments: str) -> None:
    with settings(home=Path("/proc/accession")):
        message = cli(*arguments.split()).error
    assert message.startswith("The home /proc/accession cannot be created")
    assert "ACCESSION_HOME" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCESSION_TIME_ZONE", "Mars/Olympus"),
        ("ACCESSION_WORKER_CONCURRENCY", "many"),
        ("ACCESSION_DATABASE_URL", "mysql://user:hidden@host/db"),
    ],
)
def test_invalid_setting_is_named(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with settings_from_environment(monkeypatch, ACCESSION_HOME=str(tmp_path), **{name: value}):
        message = cli("status").error
    assert message.startswith(f"The setting {name} (or ")
    assert "hidden" not in message


@pytest.mark.parametrize("content", ["time_zone = 'UTC", "time_zone = 'Mars'", "time_zoom = 'UTC'"])
def test_invalid_settings_file_is_named(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (tmp_path / "accession.toml").write_text(content)
    with settings_from_environment(monkeypatch, ACCESSION_HOME=str(tmp_path)):
        assert "accession.toml" in cli("status").error


UNREACHABLE_DATABASE = "postgresql://accession:hidden@127.0.0.1:9/accession"
UNREACHABLE_BROKER = "redis://:hidden@127.0.0.1:9/0"


@pytest.mark.parametrize("arguments", ["status", "db check", "db upgrade", "collections list"])
def test_unavailable_database_is_reported(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    urls = {"ACCESSION_DATABASE_URL": UNREACHABLE_DATABASE, "ACCESSION_REDIS_URL": UNREACHABLE_BROKER}
    with settings_from_environment(monkeypatch, ACCESSION_HOME=str(tmp_path), **urls):
        message = cli(*arguments.split()).error
    assert "database" in message
    assert "127.0.0.1" in message
    assert "The database is unavailable" in message
    assert "hidden" not in message


def test_unavailable_broker_is_reported(
    cli: Cli, servers: ServerUrls, collection: Collection, tmp_path: Path
) -> None:
    with settings(home=tmp_path, database_url=servers.database_url, redis_url=UNREACHABLE_BROKER):
        message = cli("import", "purchases", "--import-all").error
    assert "ACCESSION_REDIS_URL" in message
    assert "hidden" not in message

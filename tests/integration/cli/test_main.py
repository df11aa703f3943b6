"""The command line as such: help for everything, one sentence for what a person can put right."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from redis import RedisError
from sqlalchemy.exc import OperationalError as DatabaseError
from typer.main import get_command

from accession import __version__
from accession.cli import main
from accession.db.models import Collection
from accession.local.servers import ServerUrls
from tests.fixtures.commands import Answer, Run, read_anew, settings


def commands() -> Iterator[tuple[str, typer.core.TyperCommand]]:
    """Every command by its full name."""

    def below(name: str, found: typer.core.TyperGroup) -> Iterator[tuple[str, typer.core.TyperCommand]]:
        for part, child in found.commands.items():
            if isinstance(child, typer.core.TyperGroup):
                assert child.help
                yield from below(f"{name} {part}", child)
            else:
                assert isinstance(child, typer.core.TyperCommand)
                yield f"{name} {part}", child

    group = get_command(main.app)
    assert isinstance(group, typer.core.TyperGroup)
    return below("accession", group)


COMMANDS = dict(commands())


def test_every_command_of_the_plan_is_there() -> None:
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
        "import purchases",
        "import events",
        "import circulation",
        "titles list",
        "titles refresh",
        "titles show",
        "rejects list",
        "rejects show",
        "rejects resolve",
        "rejects retry",
        "runs list",
        "users add",
        "users list",
        "users set-password",
        "users set-role",
        "users remove",
        "tokens add",
        "tokens list",
        "tokens revoke",
        "db upgrade",
        "db check",
        "sandbox serve",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does_and_what_each_option_means(name: str) -> None:
    found = COMMANDS[name]
    first_paragraph = (found.help or "").split("\n\n")[0]
    assert first_paragraph.endswith("."), first_paragraph
    for parameter in found.params:
        assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help text"


def test_no_option_takes_a_secret_itself() -> None:
    """Everybody on the machine can read it in the list of processes."""
    options = {option for found in COMMANDS.values() for p in found.params for option in p.opts}
    secrets = {option for option in options if re.search("key|password|token|secret", option)}
    assert secrets == {"--account-key-file"}


def test_help_is_printed_on_request_and_without_a_command(run: Run) -> None:
    asked, lost = run("--help"), run()
    assert asked.code == 0
    assert "Usage: accession [OPTIONS] COMMAND" in asked.out
    assert "collections" in lost.out + lost.err


def test_the_version_is_told(run: Run) -> None:
    assert run("--version") == Answer(0, f"accession {__version__}\n", "")


@pytest.mark.parametrize("wrong", [("nonsense",), ("status", "--nonsense"), ("titles", "show")])
def test_a_wrong_command_line_is_a_usage_error(run: Run, wrong: tuple[str, ...]) -> None:
    answer = run(*wrong)
    assert answer.code == 2
    assert "Usage:" in answer.err


def test_an_error_is_one_sentence_and_debug_adds_the_traceback(run: Run, database: None) -> None:
    sentence = 'No collection found named "Nowhere".'
    assert run("collections", "test", "Nowhere").sentence == sentence
    told = run("--debug", "collections", "test", "Nowhere")
    assert told.code == 1
    assert "Traceback" in told.err
    assert "UnknownCollection" in told.err
    assert told.err.endswith(f"{sentence}\n")


def test_what_a_person_typed_cannot_command_the_terminal(run: Run, database: None) -> None:
    assert run("titles", "show", "\x1b[2Jx").sentence.startswith('No title found with id " [2Jx"')


def test_an_error_that_nobody_foresaw_is_not_swallowed(run: Run) -> None:
    broken = typer.Typer()

    @broken.command()
    def divide() -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(program=lambda: main.run_app(broken))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RedisError("gone"), "The broker does not answer (gone)"),
        (DatabaseError("SELECT", {}, Exception("gone\nhint")), "The database does not answer (gone)"),
    ],
)
def test_servers_that_go_away_in_the_middle_are_said(run: Run, error: Exception, sentence: str) -> None:
    unlucky = typer.Typer()

    @unlucky.command()
    def work() -> None:
        raise error

    assert run(program=lambda: main.run_app(unlucky)).sentence.startswith(sentence)


# Without servers


@pytest.fixture
def nowhere(tmp_path: Path) -> Iterator[Path]:
    """A home that was never used, in this process's settings."""
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
def test_without_servers_every_command_says_how_to_start_them(
    run: Run, nowhere: Path, arguments: str
) -> None:
    assert run(*arguments.split()).sentence == (
        f"Accession is not running in {nowhere}: start it with `accession up`, "
        "or set ACCESSION_DATABASE_URL and ACCESSION_REDIS_URL."
    )


def test_nothing_to_stop_is_said(run: Run, nowhere: Path) -> None:
    sentence = f"Accession is not running in {nowhere}: there is nothing to stop."
    assert run("down").sentence == sentence


@pytest.mark.parametrize("arguments", ["status", "down", "up", "up --detach", "env"])
def test_a_home_that_is_no_folder_is_said(run: Run, tmp_path: Path, arguments: str) -> None:
    file = tmp_path / "file"
    file.touch()
    with settings(home=file):
        assert f"{file} is not a folder" in run(*arguments.split()).sentence


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder where nobody may write")
@pytest.mark.parametrize("arguments", ["up", "up --detach"])
def test_a_home_that_cannot_be_made_is_said(run: Run, arguments: str) -> None:
    with settings(home=Path("/proc/accession")):
        sentence = run(*arguments.split()).sentence
    assert sentence.startswith("The home /proc/accession cannot be made")
    assert "ACCESSION_HOME" in sentence


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCESSION_TIME_ZONE", "Mars/Olympus"),
        ("ACCESSION_WORKER_CONCURRENCY", "many"),
        ("ACCESSION_DATABASE_URL", "mysql://user:hidden@host/db"),
    ],
)
def test_a_bad_setting_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with read_anew(monkeypatch, ACCESSION_HOME=str(tmp_path), **{name: value}):
        sentence = run("status").sentence
    assert sentence.startswith(f"The setting {name} (or ")
    assert "hidden" not in sentence


@pytest.mark.parametrize("content", ["time_zone = 'UTC", "time_zone = 'Mars'", "time_zoom = 'UTC'"])
def test_a_bad_settings_file_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (tmp_path / "accession.toml").write_text(content)
    with read_anew(monkeypatch, ACCESSION_HOME=str(tmp_path)):
        assert "accession.toml" in run("status").sentence


DEAD_DATABASE = "postgresql://accession:hidden@127.0.0.1:9/accession"
DEAD_BROKER = "redis://:hidden@127.0.0.1:9/0"


@pytest.mark.parametrize("arguments", ["status", "db check", "db upgrade", "collections list"])
def test_a_database_that_does_not_answer_is_said(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    urls = {"ACCESSION_DATABASE_URL": DEAD_DATABASE, "ACCESSION_REDIS_URL": DEAD_BROKER}
    with read_anew(monkeypatch, ACCESSION_HOME=str(tmp_path), **urls):
        sentence = run(*arguments.split()).sentence
    assert "database" in sentence
    assert "127.0.0.1" in sentence
    assert "does not answer" in sentence
    assert "hidden" not in sentence


@pytest.mark.parametrize("url", [DEAD_BROKER, "redis://:hidden@127.0.0.1:port/0"])
def test_a_broker_that_does_not_answer_is_said(
    run: Run, servers: ServerUrls, collection: Collection, tmp_path: Path, url: str
) -> None:
    with settings(home=tmp_path, database_url=servers.database_url, redis_url=url):
        sentence = run("import", "purchases", "--import-all").sentence
    assert "ACCESSION_REDIS_URL" in sentence
    assert "hidden" not in sentence

"""What an operator can choose, and what is said when it cannot be used."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from accession.core import settings
from accession.core.errors import UserError
from accession.core.settings import Settings, get_settings, use_settings

Configure = Callable[..., Settings]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Configure]:
    """Settings read anew from these environment variables, and this text of the file in the home."""
    before = settings._settings

    def configured(file: str | None = None, **variables: str) -> Settings:
        monkeypatch.setenv("ACCESSION_HOME", str(tmp_path))
        for name, value in variables.items():
            monkeypatch.setenv(f"ACCESSION_{name.upper()}", value)
        if file is not None:
            (tmp_path / "accession.toml").write_text(file)
        use_settings(None)
        return get_settings()

    yield configured
    use_settings(before)


def complaint(configure: Configure, file: str | None = None, **variables: str) -> str:
    """The one sentence with which unusable settings are refused."""
    with pytest.raises(UserError) as error:
        configure(file, **variables)
    assert error.value.__cause__ is None
    return str(error.value)


def test_without_a_choice_everything_has_a_default(configure: Configure, tmp_path: Path) -> None:
    chosen = configure()

    assert (chosen.database_url, chosen.redis_url, chosen.secret_key) == (None, None, None)
    assert (chosen.home, chosen.time_zone, chosen.retry_backoff_seconds) == (tmp_path, "UTC", 60)
    assert (chosen.log_level, chosen.log_format) == ("info", "console")


def test_the_home_is_the_platforms_data_directory_unless_it_is_told(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configure()
    monkeypatch.delenv("ACCESSION_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    assert Settings().home == tmp_path / "data" / "accession"


def test_a_home_is_absolute_wherever_a_command_runs(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    configure()

    for told, meant in (("here", tmp_path / "here"), ("~/there", Path.home() / "there")):
        monkeypatch.setenv("ACCESSION_HOME", told)
        assert Settings().home == meant


def test_the_environment_chooses(configure: Configure) -> None:
    chosen = configure(time_zone="Europe/Berlin", retry_backoff_seconds="0.5", log_format="json")

    assert (chosen.time_zone, chosen.retry_backoff_seconds, chosen.log_format) == (
        "Europe/Berlin",
        0.5,
        "json",
    )


def test_the_file_in_the_home_chooses(configure: Configure) -> None:
    chosen = configure('time_zone = "Europe/Berlin"\nworker_concurrency = 8\n')

    assert (chosen.time_zone, chosen.worker_concurrency) == ("Europe/Berlin", 8)


def test_the_environment_wins_over_the_file(configure: Configure) -> None:
    chosen = configure('time_zone = "Europe/Berlin"\nlog_level = "debug"\n', time_zone="Asia/Tokyo")

    assert (chosen.time_zone, chosen.log_level) == ("Asia/Tokyo", "debug")


def test_a_variable_that_is_set_to_nothing_is_not_set(configure: Configure) -> None:
    chosen = configure('time_zone = "Europe/Berlin"', time_zone="", database_url="")

    assert (chosen.time_zone, chosen.database_url) == ("Europe/Berlin", None)


def test_settings_are_read_once(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = configure()
    monkeypatch.setenv("ACCESSION_TIME_ZONE", "Asia/Tokyo")

    assert get_settings() is chosen
    use_settings(None)
    assert get_settings().time_zone == "Asia/Tokyo"


def test_variables_that_are_no_settings_are_let_be(configure: Configure) -> None:
    assert configure(account_key="for a command, not for the settings").time_zone == "UTC"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("time_zone", "Mars/Olympus", "'Mars/Olympus' is not a time zone; name one as Europe/Berlin or UTC"),
        ("time_zone", "../etc/passwd", "is not a time zone"),
        ("worker_concurrency", "0", "greater than or equal to 1"),
        ("worker_concurrency", "many", "a valid integer"),
        ("retry_backoff_seconds", "-1", "greater than or equal to 0"),
        ("vendor_timeout_seconds", "0.5", "greater than or equal to 1"),
        ("vendor_timeout_seconds", "301", "less than or equal to 300"),
        ("oai_admin_email", "ann@alder", "give it as name@library.example"),
        ("title_url_template", "https://vendor.example/titles", "with {identifier} in it"),
        ("title_url_template", "javascript:alert('{identifier}')", "give it as https://host/..."),
        ("log_level", "loud", "'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_a_value_that_cannot_be_used_is_told_with_the_settings_name(
    configure: Configure, name: str, value: str, why: str
) -> None:
    said = complaint(configure, **{name: value})

    assert said.startswith(
        f"The setting ACCESSION_{name.upper()} (or {name} in accession.toml) cannot be used: "
    )
    assert why in said
    assert "Value error" not in said
    assert "\n" not in said


def test_a_value_of_the_file_that_cannot_be_used_is_told_with_the_settings_name(configure: Configure) -> None:
    assert "or worker_concurrency in accession.toml) cannot be used" in complaint(
        configure, "worker_concurrency = [1]"
    )


@pytest.mark.parametrize("url", ["mysql://user:s3cret@host/db", "host/s3cret", "s3cret"])
def test_a_database_of_another_kind_is_refused_without_showing_its_password(
    configure: Configure, url: str
) -> None:
    said = complaint(configure, database_url=url)

    assert "ACCESSION_DATABASE_URL" in said
    assert "postgresql://user:password@host:port/database" in said
    assert "s3cret" not in said


def test_a_broker_that_is_no_redis_is_refused_without_showing_the_url(configure: Configure) -> None:
    said = complaint(configure, redis_url="amqp://guest:s3cret@host//")

    assert "ACCESSION_REDIS_URL" in said
    assert "redis://:password@host:port/0" in said
    assert "s3cret" not in said


def test_a_setting_of_the_file_that_does_not_exist_is_told_with_the_one_that_may_be_meant(
    configure: Configure, tmp_path: Path
) -> None:
    said = complaint(configure, 'timezone = "Europe/Berlin"')

    assert said == (
        f"There is no setting timezone, which {tmp_path / 'accession.toml'} sets: did you mean time_zone?"
    )


def test_a_setting_of_the_file_that_is_like_no_other_is_told_with_all_there_are(configure: Configure) -> None:
    said = complaint(configure, "[celery]\nbroker = 1")

    assert "There is no setting celery, which " in said
    assert "choose among database_url, redis_url, " in said


def test_the_home_cannot_be_told_by_a_file_in_it(configure: Configure) -> None:
    said = complaint(configure, 'home = "/elsewhere"')

    assert said.endswith("cannot set it: set the environment variable ACCESSION_HOME instead.")


@pytest.mark.parametrize("text", ["time_zone = Europe/Berlin", "= 1", 'a = "'])
def test_a_file_that_is_no_toml_is_told_with_the_place_of_the_fault(
    configure: Configure, tmp_path: Path, text: str
) -> None:
    said = complaint(configure, text)

    assert said.startswith(f"The settings file {tmp_path / 'accession.toml'} cannot be read: ")
    assert "line 1" in said or "end of document" in said


def test_a_file_of_other_bytes_than_text_is_told(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "accession.toml").write_bytes(b"\xff\xfe")

    assert "accession.toml cannot be read: " in complaint(configure)


def test_secrets_are_not_shown(configure: Configure) -> None:
    chosen = configure(
        database_url="postgresql://u:s3cret@host/db", redis_url="redis://:s3cret@host", secret_key="s3cret"
    )

    assert "s3cret" not in repr(chosen)
    assert "s3cret" not in str(chosen.model_dump())

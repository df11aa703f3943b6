"""Settings: sources, precedence, and messages about invalid values."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from accession.core import settings as settings_module
from accession.core.errors import UserError
from accession.core.settings import Settings, get_settings, use_settings

Configure = Callable[..., Settings]

SECRETS = {
    "database_url": "postgresql://u:s3cret@host/db",
    "redis_url": "redis://:s3cret@host/0",
    "secret_key": "s3cret",
    "oidc_client_secret": "s3cret",
}


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Configure]:
    """Function that reads the settings from these variables and this content of accession.toml."""
    before = settings_module._settings

    def read_settings(file: str | None = None, **variables: str) -> Settings:
        monkeypatch.setenv("ACCESSION_HOME", str(tmp_path))
        for name, value in variables.items():
            monkeypatch.setenv(f"ACCESSION_{name.upper()}", value)
        if file is not None:
            (tmp_path / "accession.toml").write_text(file)
        use_settings(None)
        return get_settings()

    yield read_settings
    use_settings(before)


def error_message(configure: Configure, file: str | None = None, **variables: str) -> str:
    """Return the message about invalid settings."""
    with pytest.raises(UserError) as error:
        configure(file, **variables)
    assert error.value.__cause__ is None
    return str(error.value)


def test_settings_have_defaults(configure: Configure, tmp_path: Path) -> None:
    settings = configure()

    assert (settings.database_url, settings.redis_url, settings.secret_key) == (None, None, None)
    assert (settings.home, settings.time_zone, settings.retry_backoff_seconds) == (tmp_path, "UTC", 60)
    assert (settings.log_level, settings.log_format) == ("info", "console")


def test_default_home_is_platform_data_directory(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configure()
    monkeypatch.delenv("ACCESSION_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    assert Settings().home == tmp_path / "data" / "accession"


def test_home_is_made_absolute(configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    configure()

    for value, expected in (("here", tmp_path / "here"), ("~/there", Path.home() / "there")):
        monkeypatch.setenv("ACCESSION_HOME", value)
        assert Settings().home == expected


def test_environment_variables_are_read(configure: Configure) -> None:
    settings = configure(time_zone="Europe/Berlin", retry_backoff_seconds="0.5", log_format="json")

    assert (settings.time_zone, settings.retry_backoff_seconds, settings.log_format) == (
        "Europe/Berlin",
        0.5,
        "json",
    )


def test_file_in_home_is_read(configure: Configure) -> None:
    settings = configure('time_zone = "Europe/Berlin"\nworker_concurrency = 8\n')

    assert (settings.time_zone, settings.worker_concurrency) == ("Europe/Berlin", 8)


def test_environment_overrides_file(configure: Configure) -> None:
    settings = configure('time_zone = "Europe/Berlin"\nlog_level = "debug"\n', time_zone="Asia/Tokyo")

    assert (settings.time_zone, settings.log_level) == ("Asia/Tokyo", "debug")


def test_empty_variable_counts_as_unset(configure: Configure) -> None:
    settings = configure('time_zone = "Europe/Berlin"', time_zone="", database_url="")

    assert (settings.time_zone, settings.database_url) == ("Europe/Berlin", None)


def test_schedules_are_read(configure: Configure) -> None:
    settings = configure('purchases_cron = "30 2 * * 1-5"', events_jitter_minutes="0")

    assert (settings.purchases_cron, settings.events_cron) == ("30 2 * * 1-5", "0 * * * *")
    assert (settings.purchases_jitter_minutes, settings.events_jitter_minutes) == (60, 0)


@pytest.mark.parametrize("expression", ["daily", "0 25 * * *", "0 0 4 * * *"])
def test_invalid_cron_expression_is_rejected(configure: Configure, expression: str) -> None:
    assert error_message(configure, events_cron=expression) == (
        "The setting ACCESSION_EVENTS_CRON (or events_cron in accession.toml) is invalid: "
        f"{expression!r} is not a cron expression; enter one such as 30 2 * * *."
    )


def test_jitter_window_longer_than_a_day_is_rejected(configure: Configure) -> None:
    assert "ACCESSION_EVENTS_JITTER_MINUTES" in error_message(configure, events_jitter_minutes="1441")


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the files with secrets."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setenv("ACCESSION_SECRETS_DIR", str(folder))
    return folder


def test_secrets_are_read_from_files(configure: Configure, secrets: Path) -> None:
    for name, value in SECRETS.items():
        (secrets / f"accession_{name}").write_text(f"{value}\n")
    settings = configure('redis_url = "redis://of-the-file"')

    assert {name: getattr(settings, name).get_secret_value() for name in SECRETS} == SECRETS


def test_environment_overrides_secret_files(configure: Configure, secrets: Path) -> None:
    (secrets / "accession_redis_url").write_text("redis://of-the-secret")
    settings = configure(redis_url="redis://of-the-environment")

    assert settings.redis_url == SecretStr("redis://of-the-environment")


def test_secret_behind_link_of_kubernetes_is_read(configure: Configure, secrets: Path) -> None:
    (secrets / "..data").mkdir()
    (secrets / "..data" / "accession_secret_key").write_text("k3y")
    (secrets / "accession_secret_key").symlink_to("..data/accession_secret_key")

    assert configure().secret_key == SecretStr("k3y")


def test_missing_folder_of_secrets_is_ignored(configure: Configure, tmp_path: Path) -> None:
    assert configure(secrets_dir=str(tmp_path / "missing")).secret_key is None


def test_unreadable_secret_is_reported(
    configure: Configure, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = secrets / "accession_secret_key"
    secret.write_text("k3y")

    def refuse(path: Path, **_: object) -> str:
        # As root, every file is readable.
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)

    assert error_message(configure) == (
        f"The file of a secret cannot be read (Permission denied): make {secret} readable for the user "
        "that runs Accession, or set ACCESSION_SECRETS_DIR to another folder."
    )


def test_settings_are_read_once(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configure()
    monkeypatch.setenv("ACCESSION_TIME_ZONE", "Asia/Tokyo")

    assert get_settings() is settings
    use_settings(None)
    assert get_settings().time_zone == "Asia/Tokyo"


def test_unknown_variable_is_ignored(configure: Configure) -> None:
    assert configure(account_key="read by a command").time_zone == "UTC"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (
            "time_zone",
            "Mars/Olympus",
            "'Mars/Olympus' is not a time zone; enter one such as Europe/Berlin",
        ),
        ("time_zone", "../etc/passwd", "is not a time zone"),
        ("worker_concurrency", "0", "greater than or equal to 1"),
        ("worker_concurrency", "many", "a valid integer"),
        ("retry_backoff_seconds", "-1", "greater than or equal to 0"),
        ("vendor_timeout_seconds", "0.5", "greater than or equal to 1"),
        ("vendor_timeout_seconds", "301", "less than or equal to 300"),
        ("oai_admin_email", "ann@alder", "enter it as name@library.example"),
        ("public_url", "accession.example", "enter it as https://host or https://host/path"),
        ("public_url", "https://user@accession.example", "enter it as https://host or https://host/path"),
        ("public_url", "https://library.example/a//b", "with letters, digits, and - . _ ~ in the path"),
        ("public_url", "https://library.example/..", "with letters, digits, and - . _ ~ in the path"),
        ("title_url_template", "https://vendor.example/titles", "and include {identifier}"),
        ("title_url_template", "javascript:alert('{identifier}')", "enter it as https://host/..."),
        ("log_level", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("oidc_issuer", "http://login.example", "enter it as https://host or https://host/path"),
        ("oidc_scopes", "profile email", "it must contain openid"),
        ("oidc_required", "true", "set oidc_issuer too"),
    ],
)
def test_invalid_variable_is_named_in_message(
    configure: Configure, name: str, value: str, reason: str
) -> None:
    message = error_message(configure, **{name: value})

    assert message.startswith(
        f"The setting ACCESSION_{name.upper()} (or {name} in accession.toml) is invalid: "
    )
    assert reason in message
    assert "Value error" not in message
    assert "\n" not in message


def test_invalid_value_in_file_is_named_in_message(configure: Configure) -> None:
    assert "or worker_concurrency in accession.toml) is invalid" in error_message(
        configure, "worker_concurrency = [1]"
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('name = "two words"', "name in accession.toml) is invalid: enter 1 to 60 letters, digits, hyphens"),
        (
            'name = "koha"\nat = "6:00"',
            "at in accession.toml) is invalid: enter a time such as 06:00, or hourly.",
        ),
    ],
)
def test_invalid_scheduled_export_is_described(configure: Configure, line: str, reason: str) -> None:
    file = f'[[exports]]\nformat = "csv"\ntarget = "/exports"\n{line}\n'
    assert reason in error_message(configure, file)


PROVIDER = {
    "oidc_issuer": '"https://login.example/realms/staff"',
    "oidc_client_id": '"accession"',
    "oidc_group_roles": '{ "Library staff" = "viewer" }',
}


def test_provider_is_configured_in_file(configure: Configure) -> None:
    settings = configure("\n".join(f"{name} = {value}" for name, value in PROVIDER.items()))

    assert settings.oidc_issuer == "https://login.example/realms/staff"
    assert settings.oidc_group_roles == {"Library staff": "viewer"}


@pytest.mark.parametrize("missing", ["oidc_client_id", "oidc_group_roles"])
def test_provider_needs_client_id_and_group_roles(configure: Configure, missing: str) -> None:
    lines = [f"{name} = {value}" for name, value in PROVIDER.items() if name != missing]

    assert error_message(configure, "\n".join(lines)) == (
        f"The setting ACCESSION_{missing.upper()} (or {missing} in accession.toml) is invalid: it must be "
        "set, because oidc_issuer is set."
    )


@pytest.mark.parametrize("url", ["mysql://user:s3cret@host/db", "host/s3cret", "s3cret"])
def test_invalid_database_url_is_not_disclosed(configure: Configure, url: str) -> None:
    message = error_message(configure, database_url=url)

    assert "ACCESSION_DATABASE_URL" in message
    assert "postgresql://user:password@host:port/database" in message
    assert "s3cret" not in message


def test_invalid_redis_url_is_not_disclosed(configure: Configure) -> None:
    message = error_message(configure, redis_url="amqp://guest:s3cret@host//")

    assert "ACCESSION_REDIS_URL" in message
    assert "redis://user:password@host:port/0" in message
    assert "s3cret" not in message


def test_broker_url_is_refused(configure: Configure) -> None:
    """Other programs with Celery have such a setting."""
    assert error_message(configure, broker_url="amqp://guest:s3cret@host//") == (
        "There is no setting ACCESSION_BROKER_URL, because the broker has to be Redis or Valkey: unset it, "
        "and set ACCESSION_REDIS_URL."
    )


def test_misspelt_setting_in_file_gets_suggestion(configure: Configure, tmp_path: Path) -> None:
    message = error_message(configure, 'timezone = "Europe/Berlin"')

    assert message == (
        f"The settings file {tmp_path / 'accession.toml'} sets timezone, which does not exist: "
        "did you mean time_zone?"
    )


def test_unknown_setting_in_file_gets_list_of_all(configure: Configure) -> None:
    message = error_message(configure, "[celery]\nbroker = 1")

    assert "sets celery, which does not exist: the settings are database_url, redis_url, " in message


@pytest.mark.parametrize("name", ["home", "secrets_dir"])
def test_folders_cannot_be_set_in_file(configure: Configure, name: str) -> None:
    message = error_message(configure, f'{name} = "/elsewhere"')

    assert message.endswith(
        f"cannot set {name}, which is read before it: "
        f"set the environment variable ACCESSION_{name.upper()} instead."
    )


@pytest.mark.parametrize("text", ["time_zone = Europe/Berlin", "= 1", 'a = "'])
def test_invalid_toml_is_reported_with_position(configure: Configure, tmp_path: Path, text: str) -> None:
    message = error_message(configure, text)

    assert message.startswith(f"The settings file {tmp_path / 'accession.toml'} cannot be read: ")
    assert "line 1" in message or "end of document" in message


def test_binary_file_is_reported(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "accession.toml").write_bytes(b"\xff\xfe")

    assert "accession.toml cannot be read: " in error_message(configure)


def test_secrets_are_not_shown(configure: Configure) -> None:
    settings = configure(
        database_url="postgresql://u:s3cret@host/db", redis_url="redis://:s3cret@host", secret_key="s3cret"
    )

    assert "s3cret" not in repr(settings)
    assert "s3cret" not in str(settings.model_dump())


@pytest.mark.parametrize(
    ("name", "days", "reason"),
    [
        ("retention_days_runs", "6", "enter at least 7 days, or 0 for ever"),
        ("retention_days_event_totals", "399", "enter at least 400 days, or 0 for ever"),
        ("retention_days_audit_log", "90", "enter at least 91 days, or 0 for ever"),
    ],
)
def test_too_short_retention_is_refused(configure: Configure, name: str, days: str, reason: str) -> None:
    assert reason in error_message(configure, **{name: days})
    assert getattr(configure(**{name: "0"}), name) == 0

"""What an operator can choose: environment variables `ACCESSION_*`, or `accession.toml` in the home.

An environment variable wins over the file, and one that is set to nothing counts as not set.
`docs/configuration.md` is generated from this module.
"""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from accession.core.errors import UserError

ENV_PREFIX = "ACCESSION_"
TOML_NAME = "accession.toml"


class Home(BaseSettings):
    """Where everything of one installation lives; read first, because the settings file lies in it."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="ignore")

    home: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("accession"),
        description="Folder of the installation: embedded servers' data, key file, logs, accession.toml. "
        "Default: the platform's data directory.",
    )

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()


class ScheduledExport(BaseModel):
    """A file that is written again and again: one of `name`, a moment and the format's suffix in the folder
    `target`, a path or a URL of fsspec, which keeps the last of them.

    `at` is a time of day in the schedule's zone, or `hourly`. `since` makes it a file of changes; `options`
    are those of the format.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[\w-]{1,60}$")
    format: str
    # A URL may hold a password.
    target: str = Field(min_length=1, repr=False)
    at: str = Field(default="06:00", pattern=r"^(hourly|([01]\d|2[0-3]):[0-5]\d)$")
    keep: int = Field(default=7, ge=1)
    collections: tuple[str, ...] = ()
    since: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("target")
    @classmethod
    def _the_same_for_every_process(cls, target: str) -> str:
        if "://" not in target and not Path(target).expanduser().is_absolute():
            raise ValueError("give the folder by its whole path, or as a URL")
        return target


class Settings(Home):
    """Every setting, with its default."""

    database_url: SecretStr | None = Field(
        default=None,
        description="PostgreSQL 15 or newer to use, as postgresql://user:password@host:port/database. "
        "Unset: an embedded server in the home.",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis or Valkey to use, as redis://:password@host:port/0. "
        "Unset: an embedded server in the home.",
    )
    secret_key: SecretStr | None = Field(
        default=None,
        description="The key that encrypts account keys at rest: 32 bytes in URL-safe base64, as "
        "`secret.key` holds them. Unset: the file secret.key in the home, made on first use with mode 600.",
    )
    time_zone: str = Field(
        default="UTC", description="Zone in which the daily schedule's times are meant, as Europe/Berlin."
    )
    worker_concurrency: int = Field(
        default=2, ge=1, le=64, description="Tasks that one worker of `accession up` runs side by side."
    )
    vendor_timeout_seconds: float = Field(
        default=60,
        ge=1,
        le=300,
        description="How long the vendor may be silent before a request has timed out; "
        "a whole answer may take twice as long.",
    )
    vendor_max_concurrency: int = Field(
        default=4,
        ge=1,
        le=32,
        description="Requests that the vendor may have at once for one collection, of all workers together.",
    )
    vendor_max_requests_per_second: float | None = Field(
        default=None,
        gt=0,
        le=1000,
        description="Requests a second that the vendor may get for one collection, of all workers together. "
        "Unset: as many as it answers.",
    )
    lookup_concurrency: int = Field(
        default=2,
        ge=1,
        le=32,
        description="Requests for the metadata of one page's titles, 25 titles each, that are made at once.",
    )
    purchase_window: Literal["day", "month"] = Field(
        default="day",
        description="How much of the past one question for purchases covers. `month` needs a quarter of the "
        "requests, but of what was bought in a month that is over, no more than the month is then known.",
    )
    retry_backoff_seconds: float = Field(
        default=60,
        ge=0,
        le=600,
        description="Wait before a failed page is tried again; doubled for each of the four retries.",
    )
    exports: tuple[ScheduledExport, ...] = Field(
        default=(),
        description="Exports on a schedule, each a table with `name`, `format` and `target` (a folder or a "
        "URL of fsspec); `at` (`03:00` or `hourly`; 06:00), `keep` (the last 7), `collections` (all), "
        "`since` (changes of a span, as `7d`) and `options` (of the format). In the environment as JSON.",
    )
    web_host: str = Field(
        default="127.0.0.1",
        description="Address at which the dashboard and the API are served. Any but a loopback address needs "
        "a user: `accession users add`.",
    )
    web_port: int = Field(
        default=8642, ge=0, le=65535, description="Port of the dashboard and the API; 0: they are not served."
    )
    oai_admin_email: str = Field(
        default="nobody@accession.invalid",
        description="The address of e-mail at which OAI-PMH tells harvesters to write to you.",
    )
    title_url_template: str = Field(
        default="https://ebook.yourcloudlibrary.com/library/{library_id}-document_id-{identifier}",
        description="The vendor's page of a title, to which feeds lead patrons: {library_id} is the "
        "collection's, {identifier} the vendor's id of the title.",
    )
    shutdown_grace_seconds: float = Field(
        default=60,
        ge=1,
        description="How long a stop waits for the pages at hand before it puts them back in the queue.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log line that is written."
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="`console` for people, `json` for one object a line."
    )

    @field_validator("database_url")
    @classmethod
    def _postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not re.match(r"postgres(ql)?(\+\w+)?://", url.get_secret_value()):
            raise ValueError("give it as postgresql://user:password@host:port/database")
        return url

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not re.match(r"rediss?://", url.get_secret_value()):
            raise ValueError("give it as redis://:password@host:port/0")
        return url

    @field_validator("oai_admin_email")
    @classmethod
    def _email(cls, address: str) -> str:
        if not re.fullmatch(r"[^\s@]+@[^\s@.]+(\.[^\s@.]+)+", address):
            raise ValueError("give it as name@library.example")
        return address

    @field_validator("title_url_template")
    @classmethod
    def _web_address(cls, template: str) -> str:
        if not re.match(r"https?://[^\s{}/]+/\S*$", template) or "{identifier}" not in template:
            raise ValueError("give it as https://host/... with {identifier} in it")
        return template

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            return ZoneInfo(name).key
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{name!r} is not a time zone; name one as Europe/Berlin or UTC") from None

    @field_validator("exports")
    @classmethod
    def _of_different_names(cls, exports: tuple[ScheduledExport, ...]) -> tuple[ScheduledExport, ...]:
        names = [export.name for export in exports]
        if len(set(names)) < len(names):
            raise ValueError("two exports have the same name")
        return exports

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the file in the home."""
        home = Home(**init_settings()).home
        return init_settings, env_settings, _file_settings(settings_cls, home / TOML_NAME)


def _file_settings(settings_cls: type[BaseSettings], path: Path) -> TomlConfigSettingsSource:
    """What the file says, which may be missing; raises `UserError` when it cannot be used."""
    try:
        file = TomlConfigSettingsSource(settings_cls, path)
    except (OSError, ValueError) as error:
        raise UserError(f"The settings file {path} cannot be read: {error}.") from None
    names = [name for name in settings_cls.model_fields if name not in Home.model_fields]
    for name in file.toml_data:
        if name in Home.model_fields:
            raise UserError(
                f"The settings file {path} lies in the home and cannot set it: "
                f"set the environment variable {ENV_PREFIX}{name.upper()} instead."
            )
        if name not in names:
            alike = get_close_matches(name, names, n=1)
            advice = f"did you mean {alike[0]}?" if alike else f"choose among {', '.join(names)}."
            raise UserError(f"There is no setting {name}, which {path} sets: {advice}")
    return file


_settings: Settings | None = None


def get_settings() -> Settings:
    """This process's settings, read once.

    Raises `UserError` naming the setting when one has an unusable value.
    """
    global _settings
    if _settings is None:
        _settings = _read_settings()
    return _settings


def use_settings(settings: Settings | None) -> None:
    """Make `settings` this process's settings; None to have them read anew."""
    global _settings
    _settings = settings


def _read_settings() -> Settings:
    try:
        return Settings()
    except SettingsError as error:
        raise UserError(f"A setting is no JSON ({error}): see docs/configuration.md.") from None
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"The setting {ENV_PREFIX}{name.upper()} (or {name} in {TOML_NAME}) cannot be used: "
            f"{first['msg'].removeprefix('Value error, ')}."
        ) from None

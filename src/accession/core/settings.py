"""Settings: environment variables `ACCESSION_*`, files of secrets, and `accession.toml` in the home.

Each source overrides those after it; an empty variable counts as unset. `docs/configuration.md` is
generated from this module.
"""

import os
import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import platformdirs
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from accession.core.cron import Cron, time_zone
from accession.core.database_url import parse_database_url
from accession.core.email_address import is_email_address
from accession.core.errors import InvalidInput, UserError
from accession.core.oai_namespace import is_oai_namespace
from accession.core.provider_url import is_provider_url
from accession.core.redis_url import validate_redis_url
from accession.core.smtp_url import parse_smtp_url
from accession.core.validation import first_invalid_field

ENV_PREFIX = "ACCESSION_"
TOML_NAME = "accession.toml"
_MIN_RETENTION_DAYS = 7
MIN_EVENT_TOTAL_DAYS = 400
MIN_AUDIT_LOG_DAYS = 91


def _validate_retention(days: int) -> int:
    if 0 < days < _MIN_RETENTION_DAYS:
        raise ValueError(f"enter at least {_MIN_RETENTION_DAYS} days, or 0 for ever")
    return days


RetentionDays = Annotated[int, Field(ge=0, le=36_500), AfterValidator(_validate_retention)]
MAX_JITTER_MINUTES = 24 * 60
"""A jitter window cannot be longer than a day."""
MAX_CONCURRENCY = 32
MAX_REQUESTS_PER_SECOND = 1000
"""Highest limits of the requests to the vendor."""
ROOT_PATH_PATTERN = "(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*"
"""Path below which a proxy may serve the dashboard, such as `/accession`; empty for none."""


class Home(BaseSettings):
    """The folders from which the other settings are read; they come from the environment only."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="ignore")

    home: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("accession"),
        description="Folder of the installation: data of the embedded servers, key file, logs, "
        "accession.toml. Default: the platform's data directory.",
    )

    secrets_dir: Path = Field(
        default=Path("/run/secrets"),
        description="Folder of the files with secrets, each named like its variable in lower case: "
        "accession_database_url.",
    )

    @field_validator("home", "secrets_dir")
    @classmethod
    def _make_absolute(cls, folder: Path) -> Path:
        return folder.expanduser().absolute()


def _matching(pattern: str, instruction: str) -> AfterValidator:
    """Return a validator of texts that match the whole pattern."""

    def validate(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise ValueError(instruction)
        return text

    return AfterValidator(validate)


class ScheduledExport(BaseModel):
    """An export that is written on a schedule.

    Each file is named by `name`, the time and the format's suffix, and is written to `target`: the path of a
    folder, or a URL that fsspec supports. Older files beyond the last `keep` are deleted. `at` is a time of
    day in the time zone of the schedule, or `hourly`. `since` limits the file to changes of the last days,
    such as `7d`; `options` are those of the format.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, _matching(r"[\w-]{1,60}", "enter 1 to 60 letters, digits, hyphens and underscores")]
    format: str
    # A URL may contain a password.
    target: str = Field(min_length=1, repr=False)
    at: Annotated[
        str, _matching(r"hourly|([01]\d|2[0-3]):[0-5]\d", "enter a time such as 06:00, or hourly")
    ] = "06:00"
    keep: int = Field(default=7, ge=1)
    collections: tuple[str, ...] = ()
    since: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("target")
    @classmethod
    def _validate_target(cls, target: str) -> str:
        if "://" not in target and not Path(target).expanduser().is_absolute():
            raise ValueError("enter an absolute path or a URL")
        return target

    def cron(self, time_zone: str) -> Cron:
        """Return `at`, in this time zone, as a cron expression."""
        if self.at == "hourly":
            return Cron("0 * * * *", time_zone)
        hour, minute = map(int, self.at.split(":"))
        return Cron(f"{minute} {hour} * * *", time_zone)


class Settings(Home):
    """All settings, with their defaults."""

    database_url: SecretStr | None = Field(
        default=None,
        description="URL of a PostgreSQL server (15 or newer): "
        "postgresql://user:password@host:port/database. With standbys, all hosts: "
        "host1:port1,host2:port2. Unset: an embedded server in the home.",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="URL of a Redis or Valkey server: redis://user:password@host:port/0, with TLS "
        "rediss://user:password@host:port/0?ssl_ca_certs=/path/of/authority.crt, for a Unix socket "
        "unix://user:password@/path/of/socket?db=0. Unset: an embedded server in the home.",
    )
    secret_key: SecretStr | None = Field(
        default=None,
        description="Key that encrypts account keys and other secrets in the database: 32 bytes in URL-safe "
        "base64. "
        "Unset: the file secret.key in the home, which is created on first use with mode 600.",
    )
    configuration_secrets_dir: Path | None = Field(
        default=None,
        description="Folder of files with account keys, URLs of channels and secrets of webhooks. "
        "Configurations that are applied in the dashboard or by the API can name these files, and no other "
        "secret of the server. Unset: none.",
    )
    time_zone: str = Field(
        default="UTC",
        description="Time zone of the schedules, such as Europe/Berlin. A collection can have its own.",
    )
    purchases_cron: str = Field(
        default="0 4 * * *",
        description="When purchases are imported: a cron expression of five fields. A collection can have "
        "its own, as for the other workflows.",
    )
    purchases_jitter_minutes: int = Field(
        default=60,
        ge=0,
        le=MAX_JITTER_MINUTES,
        description="Window after that time in which the collections' imports of purchases start, each "
        "always at the same minute of it. 0: all start at that time.",
    )
    events_cron: str = Field(
        default="0 * * * *", description="When events are imported: a cron expression of five fields."
    )
    events_jitter_minutes: int = Field(
        default=30,
        ge=0,
        le=MAX_JITTER_MINUTES,
        description="Window after that time in which the collections' imports of events start.",
    )
    circulation_cron: str = Field(
        default="0 5 * * *", description="When all titles are refreshed: a cron expression of five fields."
    )
    circulation_jitter_minutes: int = Field(
        default=60,
        ge=0,
        le=MAX_JITTER_MINUTES,
        description="Window after that time in which the collections' refreshes of all titles start.",
    )
    worker_concurrency: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Number of tasks that the worker of `accession up` runs in parallel.",
    )
    vendor_timeout_seconds: float = Field(
        default=60,
        ge=1,
        le=300,
        description="Read timeout of vendor requests: longest wait for the next byte. "
        "A complete response may take twice as long.",
    )
    vendor_max_concurrency: int = Field(
        default=4,
        ge=1,
        le=MAX_CONCURRENCY,
        description="Maximum number of simultaneous vendor requests per account, over all workers. "
        "An account can have its own limit: `accession collections limit`.",
    )
    vendor_max_requests_per_second: float | None = Field(
        default=None,
        gt=0,
        le=MAX_REQUESTS_PER_SECOND,
        description="Maximum rate of vendor requests per account, over all workers. Unset: unlimited. "
        "An account can have its own limit.",
    )
    lookup_concurrency: int = Field(
        default=2,
        ge=1,
        le=32,
        description="Number of simultaneous metadata requests for one page of purchases, 25 titles each.",
    )
    purchase_window: Literal["adaptive", "day", "month"] = Field(
        default="adaptive",
        description="How purchases of the past are requested. `adaptive`: in spans of any width, which are "
        "divided until the day of each purchase is known. `day`: each day, which needs two to four times as "
        "many requests. `month`: each month, which needs fewest, but purchases of past months are then known "
        "by month only, not by day.",
    )
    verification_requests: int = Field(
        default=5,
        ge=0,
        le=10_000,
        description="Number of requests per day and collection with which the daily import verifies the "
        "months that were verified longest ago. A month that needs more is verified alone. 0: none.",
    )
    retry_backoff_seconds: float = Field(
        default=60,
        ge=0,
        le=600,
        description="Delay before the first retry of a failed step; doubled for each of the four retries.",
    )
    exports: tuple[ScheduledExport, ...] = Field(
        default=(),
        description="Scheduled exports, each a table with `name`, `format` and `target` (a folder, or a "
        "URL that fsspec supports); optional are `at` (`03:00` or `hourly`; default 06:00), "
        "`keep` (number of files; 7), `collections` (default: all), `since` (only changes of "
        "the last days, such as `7d`) and `options` (of the format). In the environment as "
        "JSON.",
    )
    web_host: str = Field(
        default="127.0.0.1",
        description="Address on which the dashboard and the API listen. An address other than loopback "
        "requires a user: `accession users add`.",
    )
    web_port: int = Field(
        default=8642, ge=0, le=65535, description="Port of the dashboard and the API; 0 disables both."
    )
    public_url: str | None = Field(
        default=None,
        description="URL under which people reach the dashboard, such as https://accession.library.example "
        "or https://library.example/accession. Links in feeds, notifications and digests begin with it, and "
        "the OpenID Connect provider returns to it. Unset: feeds have the address of the request, and "
        "notifications and digests no links.",
    )
    oidc_issuer: str | None = Field(
        default=None,
        description="URL of the OpenID Connect provider with which people log in beside passwords, such as "
        "https://login.library.example/realms/staff, exactly as the provider publishes it. Unset: people log "
        "in with passwords only.",
    )
    oidc_client_id: str | None = Field(
        default=None, validate_default=True, description="Client id of Accession at the provider."
    )
    oidc_client_secret: SecretStr | None = Field(
        default=None,
        description="Client secret of Accession at the provider. Unset: Accession is a public client.",
    )
    oidc_scopes: str = Field(
        default="openid profile email",
        description="Scopes to request from the provider, separated by spaces. Some providers send groups "
        "only for another scope, such as `groups`.",
    )
    oidc_roles_claim: str = Field(
        default="groups",
        min_length=1,
        description="Claim of the ID token with the groups of a person, as a list or a text: a name, or a "
        "path such as `realm_access.roles`.",
    )
    oidc_group_roles: dict[str, Literal["viewer", "operator", "administrator"]] = Field(
        default={},
        validate_default=True,
        description="Role of each group, as a table of groups: `viewer`, `operator` or `administrator`. A "
        "person has the highest role of the groups, and without any cannot log in. In the environment as "
        "JSON.",
    )
    oidc_button_label: str = Field(
        default="Log in with single sign-on",
        min_length=1,
        max_length=60,
        description="Label of the button on the login page that leads to the provider.",
    )
    oidc_required: bool = Field(
        default=False,
        description="Refuse passwords, except for administrators, who need one while the provider is "
        "unavailable.",
    )
    smtp_url: SecretStr | None = Field(
        default=None,
        description="Mail server that sends digests: `smtp://host`, `smtp://user:password@host:587` or "
        "`smtps://user:password@host`. With `smtp` the connection is encrypted if the server offers that, as "
        "it must for a password. Unset: digests are not mailed. Requires ACCESSION_MAIL_FROM.",
    )
    mail_from: str | None = Field(
        default=None,
        validate_default=True,
        description="Sender of mails, such as accession@library.example.",
    )
    oai_admin_email: str = Field(
        default="nobody@accession.invalid",
        description="Email address of the administrator, as published to OAI-PMH harvesters.",
    )
    oai_namespace: str | None = Field(
        default=None,
        description="Domain name in the identifiers of all OAI-PMH records, such as library.example. "
        "Changing it makes every record a new one for harvesters. Unset: the name of the first harvest, "
        "which is the host of ACCESSION_PUBLIC_URL unless this was set.",
    )
    title_url_template: str = Field(
        default="https://ebook.yourcloudlibrary.com/library/{library_id}-document_id-{identifier}",
        description="URL of a title's page at the vendor, for links in the dashboard, feeds and exports. "
        "{library_id} is replaced by the library id of the collection, {identifier} by the vendor's id of "
        "the title.",
    )
    shutdown_grace_seconds: float = Field(
        default=60,
        ge=1,
        description="Time that a shutdown gives running tasks to finish, before it puts them back in the "
        "queue.",
    )
    retention_days_runs: RetentionDays = Field(
        default=90,
        description="Number of days for which ended runs are kept, with their retries and samples. The last "
        "run of each state, of each collection and workflow, is always kept. Of this and the next settings, "
        "0 means for ever, and the minimum is 7.",
    )
    retention_days_run_totals: RetentionDays = Field(
        default=1825, description="Number of days for which totals of runs per day are kept."
    )
    retention_days_events: RetentionDays = Field(
        default=90,
        description="Number of days for which circulation events are kept. Their totals are kept longer.",
    )
    retention_days_event_totals: RetentionDays = Field(
        default=730,
        description="Number of days for which totals of circulation events per title and day are kept: at "
        f"least {MIN_EVENT_TOTAL_DAYS}, because reports cover the last year.",
    )
    retention_days_availability: RetentionDays = Field(
        default=90,
        description="Number of days for which the histories of titles contain changes of availability.",
    )
    retention_days_metadata: RetentionDays = Field(
        default=730,
        description="Number of days for which the histories of titles contain changes of metadata.",
    )
    retention_days_rejects: RetentionDays = Field(
        default=90,
        description="Number of days for which the XML of a rejected record is kept after it was resolved.",
    )
    retention_days_findings: RetentionDays = Field(
        default=365,
        description="Number of days for which a finding of a verification is kept after it was resolved.",
    )
    retention_days_notifications: RetentionDays = Field(
        default=90,
        description="Number of days for which notifications are kept that were sent or given up.",
    )
    retention_days_digests: RetentionDays = Field(
        default=365,
        description="Number of days for which issues of digests are kept, with the log of their mails.",
    )
    retention_days_webhooks: RetentionDays = Field(
        default=30,
        description="Number of days for which events of webhooks are kept that were delivered or skipped, to "
        "be sent again, and those that wait because the webhook is paused.",
    )
    retention_days_audit_log: RetentionDays = Field(
        default=1095,
        description="Number of days for which entries of the audit log are kept: at least "
        f"{MIN_AUDIT_LOG_DAYS}.",
    )
    retention_days_covers: RetentionDays = Field(
        default=180, description="Number of days after which a cached cover is deleted and fetched again."
    )
    disk_warning_days: int = Field(
        default=30,
        ge=1,
        description="`accession doctor` fails if the disk of the embedded database would be full within so "
        "many days at its present growth.",
    )
    log_max_megabytes: int = Field(
        default=20, ge=1, description="Size at which a log file in the home is rotated."
    )
    log_files: int = Field(
        default=5, ge=1, le=100, description="Number of rotated files that are kept of each log file."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Minimum severity of log messages."
    )
    log_format: Literal["console", "json"] = Field(
        default="console",
        description="Format of log messages: `console` for people, or `json` with one object per line.",
    )

    @field_validator("retention_days_event_totals", "retention_days_audit_log")
    @classmethod
    def _validate_long_retention(cls, days: int, info: ValidationInfo) -> int:
        minimum = (
            MIN_AUDIT_LOG_DAYS if info.field_name == "retention_days_audit_log" else MIN_EVENT_TOTAL_DAYS
        )
        if 0 < days < minimum:
            raise ValueError(f"enter at least {minimum} days, or 0 for ever")
        return days

    @field_validator("database_url")
    @classmethod
    def _validate_database_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            parse_database_url(url.get_secret_value())
        return url

    @field_validator("redis_url")
    @classmethod
    def _validate_redis_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            validate_redis_url(url.get_secret_value())
        return url

    @field_validator("smtp_url")
    @classmethod
    def _validate_smtp_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            parse_smtp_url(url)
        return url

    @field_validator("mail_from", "oai_admin_email")
    @classmethod
    def _validate_email(cls, address: str | None) -> str | None:
        if address is not None and not is_email_address(address):
            raise ValueError("enter it as name@library.example")
        return address

    @field_validator("mail_from")
    @classmethod
    def _require_sender(cls, address: str | None, info: ValidationInfo) -> str | None:
        if address is None and info.data.get("smtp_url") is not None:
            raise ValueError("ACCESSION_SMTP_URL requires it; enter it as name@library.example")
        return address

    @field_validator("oai_namespace")
    @classmethod
    def _validate_oai_namespace(cls, namespace: str | None) -> str | None:
        if namespace is not None and not is_oai_namespace(namespace):
            raise ValueError(
                "enter a domain name as library.example, of which each part begins with a letter"
            )
        return namespace

    @field_validator("public_url")
    @classmethod
    def _validate_public_url(cls, url: str | None) -> str | None:
        if url is not None and not re.fullmatch(rf"https?://[^\s/?#@]+{ROOT_PATH_PATTERN}/?", url):
            raise ValueError(
                "enter it as https://host or https://host/path, with letters, digits, and - . _ ~ in the path"
            )
        return url

    @field_validator("oidc_issuer")
    @classmethod
    def _validate_issuer(cls, issuer: str | None) -> str | None:
        if issuer is not None and not is_provider_url(issuer):
            raise ValueError("enter it as https://host or https://host/path")
        return issuer

    @field_validator("oidc_client_id", "oidc_group_roles")
    @classmethod
    def _require_with_issuer(cls, value: Any, info: ValidationInfo) -> Any:
        if not value and info.data.get("oidc_issuer") is not None:
            raise ValueError("it must be set, because oidc_issuer is set")
        return value

    @field_validator("oidc_scopes")
    @classmethod
    def _validate_scopes(cls, scopes: str) -> str:
        if "openid" not in scopes.split():
            raise ValueError("it must contain openid")
        return scopes

    @field_validator("oidc_required")
    @classmethod
    def _validate_required(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("oidc_issuer") is None:
            raise ValueError("set oidc_issuer too, because nobody could log in otherwise")
        return value

    @field_validator("title_url_template")
    @classmethod
    def _validate_title_url(cls, template: str) -> str:
        if not re.match(r"https?://[^\s{}/]+/\S*$", template) or "{identifier}" not in template:
            raise ValueError("enter it as https://host/... and include {identifier}")
        return template

    @field_validator("configuration_secrets_dir")
    @classmethod
    def _validate_secrets_dir(cls, folder: Path | None) -> Path | None:
        if folder is not None and not folder.is_absolute():
            raise ValueError("enter an absolute path")
        return folder

    @field_validator("time_zone")
    @classmethod
    def _validate_time_zone(cls, name: str) -> str:
        try:
            return time_zone(name).key
        except InvalidInput:
            raise ValueError(f"{name!r} is not a time zone; enter one such as Europe/Berlin or UTC") from None

    @field_validator("purchases_cron", "events_cron", "circulation_cron")
    @classmethod
    def _validate_cron(cls, expression: str) -> str:
        try:
            return Cron(expression, "UTC").expression
        except InvalidInput:
            raise ValueError(
                f"{expression!r} is not a cron expression; enter one such as 30 2 * * *"
            ) from None

    @field_validator("exports")
    @classmethod
    def _validate_exports(cls, exports: tuple[ScheduledExport, ...]) -> tuple[ScheduledExport, ...]:
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
        """Return the sources in order of precedence: arguments, environment, secrets, file in the home."""
        folders = Home(**init_settings())
        # pydantic warns of a folder that is missing.
        secrets_dir = folders.secrets_dir if folders.secrets_dir.is_dir() else None
        return (
            init_settings,
            env_settings,
            SecretsSettingsSource(settings_cls, secrets_dir),
            _file_settings(settings_cls, folders.home / TOML_NAME),
        )


def _file_settings(settings_cls: type[BaseSettings], path: Path) -> TomlConfigSettingsSource:
    """Return the settings of the file, none if it is missing.

    Raises:
        UserError: the file cannot be read, or sets an unknown setting.
    """
    try:
        file = TomlConfigSettingsSource(settings_cls, path)
    except (OSError, ValueError) as error:
        raise UserError(f"The settings file {path} cannot be read: {error}.") from None
    names = [name for name in settings_cls.model_fields if name not in Home.model_fields]
    for name in file.toml_data:
        if name in Home.model_fields:
            raise UserError(
                f"The settings file {path} cannot set {name}, which is read before it: "
                f"set the environment variable {ENV_PREFIX}{name.upper()} instead."
            )
        if name not in names:
            similar = get_close_matches(name, names, n=1)
            advice = f"did you mean {similar[0]}?" if similar else f"the settings are {', '.join(names)}."
            raise UserError(f"The settings file {path} sets {name}, which does not exist: {advice}")
    return file


def contains_secret(path: Path) -> bool:
    """Return whether a valid settings file contains a password or a key."""
    values = tomllib.loads(path.read_text())
    targets = [export.get("target", "") for export in values.get("exports", ())]
    secrets = {
        name for name, field in Settings.model_fields.items() if SecretStr in get_args(field.annotation)
    }
    return bool(secrets & values.keys()) or any("@" in target for target in targets)


_settings: Settings | None = None


def get_settings() -> Settings:
    """Return this process's settings, which are read once.

    Raises:
        UserError: a setting is invalid; the message names it.
    """
    global _settings
    if _settings is None:
        _settings = read_settings()
    return _settings


def use_settings(settings: Settings | None) -> None:
    """Set this process's settings; with None they are read again."""
    global _settings
    _settings = settings


def read_settings() -> Settings:
    """Read the settings from their sources, which may have changed since `get_settings` read them.

    Raises:
        UserError: a setting is invalid; the message names it.
    """
    if os.environ.get(f"{ENV_PREFIX}BROKER_URL"):
        raise UserError(
            f"There is no setting {ENV_PREFIX}BROKER_URL, because the broker has to be Redis or Valkey: "
            f"unset it, and set {ENV_PREFIX}REDIS_URL."
        )
    try:
        return Settings()
    except SettingsError as error:
        cause = error.__cause__
        if isinstance(cause, OSError):
            raise UserError(
                f"The file of a secret cannot be read ({cause.strerror}): make {cause.filename} readable for "
                f"the user that runs Accession, or set {ENV_PREFIX}SECRETS_DIR to another folder."
            ) from None
        raise UserError(f"A setting is not valid JSON ({error}): see docs/configuration.md.") from None
    except ValidationError as error:
        field = first_invalid_field(error.errors())
        raise UserError(
            f"The setting {ENV_PREFIX}{field.name.upper()} (or {field.name} in {TOML_NAME}) is invalid: "
            f"{field.reason}."
        ) from None

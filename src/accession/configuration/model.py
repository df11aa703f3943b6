"""Schema of a configuration file: collections, notifications, webhooks and digests."""

from collections.abc import Callable
from datetime import date
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from accession.accounts.account import DEFAULT_BASE_URL, Account
from accession.accounts.collections import validate_name as validate_collection_name
from accession.accounts.limits import MIN_REQUESTS_PER_SECOND, VendorLimits
from accession.auth.names import MAX_NAME_LENGTH, validate_name
from accession.core.clock import parse_local_datetime
from accession.core.cron import MAX_LENGTH, Cron, time_zone
from accession.core.errors import UserError
from accession.core.settings import (
    MAX_CONCURRENCY,
    MAX_JITTER_MINUTES,
    MAX_REQUESTS_PER_SECOND,
    get_settings,
)
from accession.core.workflow import Workflow
from accession.db.models import WebhookEvent
from accession.digests.options import MAX_RECIPIENTS, MAX_TITLES, DigestOptions, Frequency, Weekday
from accession.notifications.kinds import EventKind, Severity
from accession.notifications.rules import RuleSpec, normalise_rule
from accession.runs.pauses import MAX_REASON_LENGTH, check_pause
from accession.runs.schedules import ScheduleOverride
from accession.webhooks.registry import WebhookSpec
from accession.webhooks.sender import check_url

T = TypeVar("T")

_MAX_TEXT_LENGTH = 1000
_MAX_PATH_LENGTH = 4000
_MAX_NUMBER = 2**31 - 1
_DEFAULT_RULE = RuleSpec(name="", channel="")
_DEFAULT_DIGEST = DigestOptions()
_VALID_ACCOUNT = {"library_id": "library", "account_id": "account", "base_url": DEFAULT_BASE_URL}


def _call(check: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call a check, and turn its error into one that Pydantic reports with the place of the value."""
    try:
        return check(*arguments, **options)
    except UserError as error:
        raise PydanticCustomError("invalid", "{reason}", {"reason": str(error)}) from None


def _check_line(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("it has line breaks, control characters, or spaces at its beginning or end")
    return text


def _parse_time(value: Any) -> Any:
    """Return the time; without an offset it is in the installation's time zone, as on the command line."""
    zone = get_settings().time_zone
    # YAML and TOML have times and days of their own.
    text = value.isoformat() if isinstance(value, date) else value
    try:
        return parse_local_datetime(text, zone)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("enter a time such as 2026-12-01T06:00 or 2026-12-01T05:00Z") from None


Line = Annotated[str, Field(min_length=1, max_length=_MAX_TEXT_LENGTH), AfterValidator(_check_line)]
Time = Annotated[
    AwareDatetime,
    BeforeValidator(_parse_time),
    WithJsonSchema({"type": "string", "examples": ["2026-12-01T06:00", "2026-12-01T05:00Z"]}),
]


class Entry(BaseModel):
    """Part of a configuration file; unknown keys are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SecretReference(Entry):
    """Place of a secret: the name of an environment variable, or the absolute path of a file."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["env"]}, {"required": ["file"]}]})

    env: str = Field("", max_length=_MAX_TEXT_LENGTH, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    file: str = Field("", max_length=_MAX_PATH_LENGTH, pattern=r"^/[^\x00]*$")

    @model_validator(mode="before")
    @classmethod
    def _refuse_secret(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise PydanticCustomError(
                "inline_secret",
                "enter {env: NAME} for an environment variable or {file: /path} for a file",
            )
        return value

    @model_validator(mode="after")
    def _require_one(self) -> "SecretReference":
        if bool(self.env) == bool(self.file):
            raise ValueError("enter either env or file")
        return self

    def __str__(self) -> str:
        """Describe the place of the secret."""
        return f"the environment variable {self.env}" if self.env else f"the file {self.file}"


class ScheduleEntry(Entry):
    """When a workflow starts; what is left out is inherited from the settings."""

    cron: str | None = Field(
        None,
        max_length=MAX_LENGTH,
        description="Minute, hour, day of month, month and day of week.",
        examples=["30 2 * * *"],
    )
    time_zone: str | None = Field(None, max_length=_MAX_TEXT_LENGTH, examples=["Europe/Berlin"])
    jitter_minutes: int | None = Field(
        None, ge=0, le=MAX_JITTER_MINUTES, description="Window after the time in which the run starts."
    )

    @field_validator("cron")
    @classmethod
    def _check_cron(cls, expression: str | None) -> str | None:
        if expression is not None:
            _call(Cron, expression, "UTC")
        return expression

    @field_validator("time_zone")
    @classmethod
    def _check_time_zone(cls, name: str | None) -> str | None:
        if name is not None:
            _call(time_zone, name)
        return name

    def override(self) -> ScheduleOverride:
        """Return the schedule as the collection sets it."""
        return ScheduleOverride(self.cron, self.time_zone, self.jitter_minutes)


class SchedulesEntry(Entry):
    """The schedules of a collection."""

    purchases: ScheduleEntry = ScheduleEntry()
    events: ScheduleEntry = ScheduleEntry()
    circulation: ScheduleEntry = ScheduleEntry()


class LimitsEntry(Entry):
    """Limits of the requests of an account; what is left out is inherited from the settings."""

    max_concurrency: int | None = Field(
        None, ge=1, le=MAX_CONCURRENCY, description="Number of simultaneous requests."
    )
    max_requests_per_second: float | None = Field(
        None, ge=MIN_REQUESTS_PER_SECOND, le=MAX_REQUESTS_PER_SECOND, description="Rate of requests."
    )

    def limits(self) -> VendorLimits:
        """Return the limits."""
        return VendorLimits(self.max_concurrency, self.max_requests_per_second)


class PauseEntry(Entry):
    """A pause of workflows of a collection."""

    reason: str = Field(min_length=1, max_length=MAX_REASON_LENGTH, description="Why, as others will see it.")
    workflows: tuple[Workflow, ...] = Field((), max_length=50, description="Workflows; empty for all.")
    until: Time | None = Field(
        None,
        description="End of the pause, in ACCESSION_TIME_ZONE or with an offset; without it, the pause lasts "
        "until it is removed from the file. A pause whose end is over counts as none.",
    )

    @field_validator("reason")
    @classmethod
    def _check_reason(cls, reason: str) -> str:
        return _call(check_pause, reason, None)

    def selected_workflows(self) -> tuple[Workflow, ...]:
        """Return the workflows that are paused."""
        return self.workflows or tuple(Workflow)


class CollectionEntry(Entry):
    """A collection: a library's account with the vendor."""

    name: Line
    previous_name: Line | None = Field(
        None, description="Name of the collection until now: it is renamed if no collection has the new name."
    )
    library_id: Line = Field(description="Library id, as the vendor issued it.")
    account_id: Line = Field(description="Account id, as the vendor issued it.")
    account_key: SecretReference
    base_url: Line = Field(DEFAULT_BASE_URL, description="Base URL of the vendor's API.")
    schedules: SchedulesEntry = Field(SchedulesEntry(), description="What is left out is inherited.")
    limits: LimitsEntry | None = Field(
        None,
        description="Limits of the account. Of several collections with one account, one needs to have them.",
    )
    pauses: tuple[PauseEntry, ...] | None = Field(
        None, max_length=50, description="Pauses in force; without this key they stay as they are."
    )

    @field_validator("name", "previous_name")
    @classmethod
    def _check_name(cls, name: str | None) -> str | None:
        if name is not None:
            _call(validate_collection_name, name)
        return name

    @field_validator("library_id", "account_id", "base_url")
    @classmethod
    def _check_account(cls, value: str, info: ValidationInfo) -> str:
        fields = _VALID_ACCOUNT | {str(info.field_name): value}
        _call(Account, info.data.get("name", ""), account_key=SecretStr("key"), **fields)
        return value

    @field_validator("pauses")
    @classmethod
    def _check_pauses(cls, pauses: tuple[PauseEntry, ...] | None) -> tuple[PauseEntry, ...] | None:
        paused = [workflow for pause in pauses or () for workflow in pause.selected_workflows()]
        for workflow in paused:
            if paused.count(workflow) > 1:
                raise ValueError(f"the workflow {workflow} is paused twice")
        return pauses


class ChannelEntry(Entry):
    """A channel of notifications."""

    name: str = Field(min_length=1, max_length=MAX_NAME_LENGTH)
    url: SecretReference = Field(description="Where the Apprise URL of the service is.")

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        _call(validate_name, "notification channel", name)
        return name


class RuleEntry(Entry):
    """A rule of notifications; what is left out has its default."""

    name: str = Field(min_length=1, max_length=MAX_NAME_LENGTH)
    channel: Line = Field(description="Name of the channel that is notified.")
    events: tuple[EventKind, ...] = Field((), max_length=50, description="Kinds of events; empty for all.")
    collections: tuple[Line, ...] = Field(
        (), max_length=10_000, description="Names of collections; empty for all events."
    )
    min_severity: Severity = _DEFAULT_RULE.min_severity
    quiet_hours: str = Field(
        "", max_length=50, description="Daily span in which messages are held back, such as 22:00-07:00."
    )
    time_zone: str = Field(
        "",
        max_length=_MAX_TEXT_LENGTH,
        description="Time zone of the quiet hours; empty for that of the schedule.",
    )
    critical_ignores_quiet_hours: bool = _DEFAULT_RULE.critical_ignores_quiet_hours
    still_failing_hours: int = Field(_DEFAULT_RULE.still_failing_hours, ge=0, le=_MAX_NUMBER)
    no_success_hours: int = Field(_DEFAULT_RULE.no_success_hours, ge=0, le=_MAX_NUMBER)
    rejected_records: int = Field(_DEFAULT_RULE.rejected_records, ge=0, le=_MAX_NUMBER)
    disk_free_percent: int = Field(_DEFAULT_RULE.disk_free_percent, ge=0, le=_MAX_NUMBER)

    @model_validator(mode="after")
    def _check_rule(self) -> "RuleEntry":
        _call(normalise_rule, RuleSpec(**dict(self)))
        return self

    def spec(self) -> RuleSpec:
        """Return the rule as it is stored."""
        return normalise_rule(RuleSpec(**dict(self)))


class NotificationsEntry(Entry):
    """Channels and rules of notifications. A list that is left out is not managed by the file."""

    channels: tuple[ChannelEntry, ...] | None = Field(None, max_length=10_000)
    rules: tuple[RuleEntry, ...] | None = Field(None, max_length=10_000)


class WebhookEntry(Entry):
    """A webhook: a program that is sent events."""

    name: str = Field(min_length=1, max_length=MAX_NAME_LENGTH)
    url: Line = Field(description="URL to which events are sent.")
    secret: SecretReference = Field(description="Where the secret is with which requests are signed.")
    events: tuple[WebhookEvent, ...] = Field(
        tuple(WebhookEvent), min_length=1, max_length=50, description="Kinds of events."
    )
    collections: tuple[Line, ...] = Field(
        (), max_length=10_000, description="Names of collections; empty for all."
    )

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        _call(validate_name, "webhook", name)
        return name

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        return _call(check_url, url)

    def spec(self) -> WebhookSpec:
        """Return the webhook as it is stored."""
        return WebhookSpec(self.name, self.url, self.events, self.collections)


class DigestEntry(Entry):
    """The digest of a collection; what is left out has its default."""

    collection: Line = Field(description="Name of the collection.")
    frequency: Frequency = _DEFAULT_DIGEST.frequency
    weekday: Weekday = Field(_DEFAULT_DIGEST.weekday, description="Day of a weekly digest.")
    time: str = Field(_DEFAULT_DIGEST.time, max_length=50, description="Time at which an issue is made.")
    time_zone: str = Field(
        "",
        max_length=_MAX_TEXT_LENGTH,
        description="Time zone of the time; empty for that of the schedule.",
    )
    recipients: tuple[Line, ...] = Field(
        (), max_length=MAX_RECIPIENTS, description="Email addresses; without any, the digest is a feed only."
    )
    send_empty: bool = Field(
        _DEFAULT_DIGEST.send_empty, description="Whether an issue without titles is made, too."
    )
    max_titles: int = Field(
        _DEFAULT_DIGEST.max_titles, ge=1, le=MAX_TITLES, description="Maximum number of titles per section."
    )

    @model_validator(mode="after")
    def _check_digest(self) -> "DigestEntry":
        _call(self.options)
        return self

    def options(self) -> DigestOptions:
        """Return the options as they are stored."""
        values = dict(self)
        del values["collection"]
        return DigestOptions(**values).checked()


class ConfigurationFile(Entry):
    """Configuration of an installation of Accession. A list that is left out is not managed by the file."""

    collections: tuple[CollectionEntry, ...] | None = Field(None, max_length=10_000)
    notifications: NotificationsEntry = NotificationsEntry()
    webhooks: tuple[WebhookEntry, ...] | None = Field(None, max_length=10_000)
    digests: tuple[DigestEntry, ...] | None = Field(None, max_length=10_000)


def json_schema() -> dict[str, JsonValue]:
    """Return the JSON Schema of a configuration file."""
    schema: dict[str, JsonValue] = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return schema | ConfigurationFile.model_json_schema()

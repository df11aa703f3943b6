"""The settings that this process uses, and where each comes from, without secrets."""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python
from pydantic_settings import EnvSettingsSource, InitSettingsSource

from accession.core.sanitize import redact_credentials
from accession.core.settings import ENV_PREFIX, TOML_NAME, Home, Settings, get_settings, read_settings

_EMBEDDED = ("database_url", "redis_url")


class SettingSource(StrEnum):
    """The source of the value of a setting."""

    DEFAULT = "default"
    ENVIRONMENT = "environment"
    SECRET_FILE = "secret file"  # noqa: S105
    FILE = "settings file"
    EMBEDDED = "embedded server"
    """The server's URL, which `accession up` has chosen."""


@dataclass(frozen=True)
class EffectiveSetting:
    """A setting of this process.

    Attributes:
        name: name in the settings file.
        value: as text; "set" or "not set" for a secret.
        default: the default value, in the same form.
        source: where the value comes from.
        origin: environment variable or path that the value comes from; "" for a default.
        needs_restart: True if its source has another value by now, which the next start uses.
        description: what the setting does.
    """

    name: str
    value: str
    default: str
    source: SettingSource
    origin: str
    needs_restart: bool
    description: str


def effective_settings() -> list[EffectiveSetting]:
    """Return all settings of this process.

    Raises:
        UserError: a setting has become invalid since the start; the message names it.
    """
    current, stored, origins = get_settings(), read_settings(), _find_origins()
    settings = []
    for name, field in Settings.model_fields.items():
        value = getattr(current, name)
        source, origin = origins.get(name, (SettingSource.DEFAULT, ""))
        if name in _EMBEDDED and name not in origins and value is not None:
            source, value = SettingSource.EMBEDDED, None
        setting = EffectiveSetting(
            name=name,
            value=_display(field, getattr(current, name)),
            default=_display(field, field.get_default(call_default_factory=True)),
            source=source,
            origin=origin,
            needs_restart=value != getattr(stored, name),
            description=field.description or "",
        )
        settings.append(setting)
    return settings


def shared_values() -> dict[str, str]:
    """Return the values of this process's settings by name, in the form of `EffectiveSetting.value`.

    The folders are left out: they differ between machines, and say nothing of what Accession does.
    """
    settings = get_settings()
    return {
        name: _display(field, getattr(settings, name))
        for name, field in Settings.model_fields.items()
        if name not in Home.model_fields
    }


def default_values() -> dict[str, str]:
    """Return the default values of the settings in `shared_values`."""
    return {
        name: _display(field, field.get_default(call_default_factory=True))
        for name, field in Settings.model_fields.items()
        if name not in Home.model_fields
    }


def _find_origins() -> dict[str, tuple[SettingSource, str]]:
    """Return where each setting comes from that is not a default."""
    home, environment = Home(), EnvSettingsSource(Settings)
    _, _, secrets, file = Settings.settings_customise_sources(
        Settings, InitSettingsSource(Settings, {}), environment, environment, environment
    )
    origins = dict.fromkeys(file(), (SettingSource.FILE, str(home.home / TOML_NAME)))
    for name in secrets():
        origins[name] = (SettingSource.SECRET_FILE, str(home.secrets_dir / _variable(name).lower()))
    for name in environment():
        origins[name] = (SettingSource.ENVIRONMENT, _variable(name))
    return origins


def _variable(name: str) -> str:
    return f"{ENV_PREFIX}{name.upper()}"


def _display(field: FieldInfo, value: Any) -> str:
    if SecretStr in (field.annotation, *get_args(field.annotation)):
        return "not set" if value is None else "set"
    plain = to_jsonable_python(value)
    if plain is None:
        return "not set"
    if isinstance(plain, float):
        return f"{plain:g}"
    return redact_credentials(plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False))

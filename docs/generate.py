"""Writes the pages of the documentation that the program itself knows best; `make docs` runs it.

`docs/configuration.md` comes from the settings, `docs/cli.md` from the commands' help. A test fails
when a page is stale.
"""

import re
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

import typer
from pydantic_core import PydanticUndefined
from typer.cli import get_docs_for_click

from accession.cli.main import app
from accession.core.settings import ENV_PREFIX, TOML_NAME, Settings

HERE = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py: run `make docs` instead of editing it. -->"


def pages() -> dict[Path, str]:
    """Each generated page and what should stand in it."""
    return {HERE / "configuration.md": configuration(), HERE / "cli.md": commands()}


def configuration() -> str:
    """Every setting with its default."""
    rows = "\n".join(
        f"| `{ENV_PREFIX}{name.upper()}` | {_kind(field.annotation)} | {_default(field)} | "
        f"{field.description} |"
        for name, field in Settings.model_fields.items()
    )
    return f"""{NOTE}

# Configuration

Each setting is an environment variable, or a line in `{TOML_NAME}` in the home, there without the
prefix and in lower case: `{ENV_PREFIX}TIME_ZONE=Europe/Berlin`, or `time_zone = "Europe/Berlin"`. The
environment wins. `{ENV_PREFIX}HOME` itself can only come from the environment.

| variable | values | default | what it is |
| --- | --- | --- | --- |
{rows}

Beside these, `accession collections add` reads an account key from `ACCESSION_ACCOUNT_KEY`, and
`accession users add` a password from `ACCESSION_PASSWORD`.
"""


def _kind(annotation: Any) -> str:
    if get_origin(annotation) is tuple:
        return "tables"
    if isinstance(annotation, type):
        return {"SecretStr": "text (secret)", "str": "text", "Path": "folder"}.get(
            annotation.__name__, annotation.__name__
        )
    kinds = [arg for arg in get_args(annotation) if arg is not NoneType]
    return ", ".join(_kind(kind) if isinstance(kind, type) else f"`{kind}`" for kind in kinds)


def _default(field: Any) -> str:
    if field.default is PydanticUndefined:
        return "see there"
    return "unset" if field.default in (None, ()) else f"`{field.default}`"


def commands() -> str:
    """Every command with its options."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="accession")
    text = get_docs_for_click(obj=command, ctx=context, name="accession", title="Commands")
    trimmed = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).strip()
    return f"{NOTE}\n\n{trimmed}\n"


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")

"""What OPDS 2.0 asks of a document, as a JSON schema written from its drafts."""

import json
from pathlib import Path
from typing import Any

from jsonschema_rs import Draft202012Validator

_SCHEMA = json.loads((Path(__file__).parent / "schemas" / "opds.json").read_text())
_VALIDATORS = {
    name: Draft202012Validator({**_SCHEMA, "$ref": f"#/$defs/{name}"}, validate_formats=True)
    for name in ("feed", "publication")
}


def valid(kind: str, document: Any) -> Any:
    """The document, once it has been found to be a valid feed or publication."""
    _VALIDATORS[kind].validate(document)
    return document

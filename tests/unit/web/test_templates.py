"""Tests of the templates as text."""

import re
from importlib.resources import files

import pytest

_ADDRESS = re.compile(r"\b(?:href|src|srcset|action|formaction|poster)\s*=\s*(?=(\S+))")
# Below the root, within the page, or absolute, as variables named `url` or `..._url` are.
_ALLOWED = re.compile(r'"(?:\{\{ root\(\) \}\}(?:/|\{\{)|[#?]|https://|\{\{ (?:\w+_)?url \}\}")')


def _addresses_without_root(template: str) -> list[str]:
    """Return the beginnings of addresses that lead out of a dashboard which is served below a path."""
    return [match[1] for match in _ADDRESS.finditer(template) if not _ALLOWED.match(template, match.end())]


def test_addresses_in_templates_begin_with_the_root() -> None:
    templates = list((files("accession.web") / "templates").iterdir())
    addresses = {template.name: _addresses_without_root(template.read_text()) for template in templates}

    assert len(templates) > 40
    assert {name: outside for name, outside in addresses.items() if outside} == {}


@pytest.mark.parametrize("value", ['"/titles"', '"{{ path }}"', "'/titles'", '"titles"', "/titles"])
@pytest.mark.parametrize("attribute", ["href", "src", "action", "formaction"])
def test_address_without_the_root_is_found(attribute: str, value: str) -> None:
    assert _addresses_without_root(f"<a {attribute}={value} >") == value.split()[:1]

"""The documentation says what the program does."""

import importlib.util
import re
from dataclasses import fields
from pathlib import Path

import pytest

from accession.accounts.views import CollectionView
from accession.catalog.rejected_records import RejectView
from accession.catalog.titles import TitleView
from accession.cli.checks import Check
from accession.runs.views import RunView, StatusView

ROOT = Path(__file__).parents[2]


def test_the_generated_pages_are_fresh() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for path, text in generate.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is stale: run `make docs`"


@pytest.mark.parametrize("view", [TitleView, StatusView, RunView, RejectView, CollectionView, Check])
def test_every_json_field_is_documented(view: type) -> None:
    text = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    assert [field.name for field in fields(view) if f"`{field.name}`" not in text] == []


def test_every_dependency_has_its_line() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    for name in ("run.in", "dev.in"):
        lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").split("\n")
        wanted = [line for line in lines if line and not line.startswith(("#", "-r"))]
        assert [package for package in wanted if package not in text] == []


def test_every_promise_names_tests_that_there_are() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    rows = [row for row in text.splitlines() if row.startswith("| ") and "---" not in row]
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) >= len(rows) - 10
    for path, test in named:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in source, f"there is no {path}::{test}"

"""Tests that the documentation agrees with the code."""

import ast
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from accession.accounts.views import CollectionView
from accession.auth.audit import AuditEntryView
from accession.auth.tokens import TokenView
from accession.auth.users import UserView
from accession.catalog.rejected_records import OpenReason, RejectedRecordView
from accession.catalog.titles import TitleView
from accession.cli.checks import Check
from accession.core.effective_settings import EffectiveSetting
from accession.core.vocabulary import ContributorRole
from accession.db.blocking import BlockingSession
from accession.runs.failures import Failure, FailureGroup
from accession.runs.run_hours import RunHourView
from accession.runs.views import RunView, StatusView
from accession.tasks.about import AboutView, ProcessesView

ROOT = Path(__file__).parents[2]
DECISIONS = ROOT / "docs" / "decisions"


def test_generated_pages_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for path, text in generate.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is out of date: run `make docs`"


@pytest.mark.parametrize(
    "view",
    [
        TitleView,
        StatusView,
        RunView,
        RunHourView,
        FailureGroup,
        Failure,
        RejectedRecordView,
        OpenReason,
        CollectionView,
        UserView,
        TokenView,
        AuditEntryView,
        EffectiveSetting,
        AboutView,
        ProcessesView,
        BlockingSession,
        Check,
    ],
)
def test_json_fields_are_documented(view: type) -> None:
    text = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    assert [field.name for field in fields(view) if f"`{field.name}`" not in text] == []


@pytest.mark.parametrize("name", ["run.in", "dev.in"])
def test_dependencies_are_documented(name: str) -> None:
    rows = re.findall(
        r"^\| ([^|]+) \|", (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    documented = {package for row in rows for package in row.split(", ")}
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    required = {line.partition(";")[0] for line in lines if line and not line.startswith(("#", "-r"))}
    assert required - documented == set()


def logged_events() -> Iterator[tuple[str, str]]:
    """Yield the level and the text of every event that the code logs."""
    levels = {"debug", "info", "warning", "error", "exception", "critical"}
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name("log"), attr=level),
                    args=[ast.Constant(str() as event), *_],
                ) if level in levels:
                    yield "error" if level == "exception" else level, event


def test_log_events_are_documented_with_level() -> None:
    text = (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")
    documented = {
        (level, event)
        for event, level in re.findall(r"^\| `([^`]+)` \| (\w+) \| .*\|.*\|$", text, re.MULTILINE)
    }
    assert documented == set(logged_events())


def test_roles_of_contributors_are_documented() -> None:
    text = (ROOT / "docs" / "vendor.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| ([\w ]+) \| `(\w{3})` \| `(\w+)` \|$", text, re.MULTILINE)
    assert documented == [(role.value, role.code, role.opds_property) for role in ContributorRole]


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "how-to").glob("*.md")), ids=lambda page: page.stem)
def test_how_to_guide_begins_with_its_audience(page: Path) -> None:
    assert re.match(r"# .+\n\nThis page is for ", page.read_text(encoding="utf-8"))


def test_guarantees_name_existing_tests() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    rows = [row for row in text.splitlines() if row.startswith("| ") and "---" not in row]
    references = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(references) >= len(rows) - 10
    for path, test in references:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in source, f"{path}::{test} does not exist"


def test_glossary_tables_are_alphabetical() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    for table in re.findall(r"\| --- \| --- \|\n((?:\|.*\n)+)", text):
        terms = [row.split("|")[1].strip(" `").lower() for row in table.splitlines()]
        assert terms == sorted(terms)


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", *(f"docs/decisions/{n}" for n in os.listdir(DECISIONS))])
def test_documented_paths_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    # `data/...` are endpoints of the vendor.
    paths = re.findall(r"`((?!data/)(?:[\w-]+/)+[\w-]+(?:\.(?:html|js|py))?)`", text)
    roots = (ROOT, ROOT / "src" / "accession")
    assert [path for path in paths if not any((root / path).exists() for root in roots)] == []

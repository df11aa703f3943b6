"""The documentation says what the program does."""

import importlib.util
from dataclasses import fields
from pathlib import Path

import pytest

from accession.catalog.queries import CollectionView, RejectView, RunView, StatusView, TitleView
from accession.cli.checks import Check

ROOT = Path(__file__).parents[1]


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

"""Tests of the check for banned words (tools/check_language.py)."""

from pathlib import Path

import pytest

from tools import check_language
from tools.check_language import check_text


def messages(path: str, text: str) -> list[str]:
    """Return the findings of a file as `line: subject`."""
    return [f"{finding.line}: {finding.message.split(': ')[0]}" for finding in check_text(path, text)]


@pytest.mark.parametrize(
    "text",
    [
        "it was told late",
        "Told by the vendor.",
        "was_told = 1",
        "class WasToldLate:",
        "TOLD_LATE = 1",
        "_told",
        "told: fields",
    ],
)
def test_banned_word_is_found_in_any_case(text: str) -> None:
    assert messages("a.md", text) == ['1: "told"']


@pytest.mark.parametrize(
    "text", ["the page at hand", "page_at_hand", "at-hand", "at\nhand", "# the page at\n# hand"]
)
def test_banned_phrase_is_found_across_joints(text: str) -> None:
    assert messages("a.md", text) == ['1: "at hand"']


@pytest.mark.parametrize("text", ["stolden", "at. Hand", "at his hand", "greenhouse", "behold"])
def test_parts_of_other_words_are_accepted(text: str) -> None:
    assert messages("a.md", text) == []


@pytest.mark.parametrize(
    "text",
    [
        "A leap year has 366 days.",
        "27 leap seconds",
        "a publishing house",
        "from itertools import chain, repeat",
        "chain(a, b)",
    ],
)
def test_allowed_phrase_is_accepted(text: str) -> None:
    assert messages("a.md", text) == []


def test_allowed_phrase_does_not_excuse_the_next_word() -> None:
    assert messages("a.md", "a leap year\nand a leap") == ['2: "leap"']


def test_finding_has_file_line_and_replacement() -> None:
    [finding] = check_text("docs/page.md", "# Title\n\nThe run goes on.\n")
    assert str(finding) == 'docs/page.md:3: "goes on": use resumes, continues'


@pytest.mark.parametrize("word", sorted(check_language.FIRST_WORDS))
def test_docstring_with_banned_first_word_is_found(word: str) -> None:
    source = f'"""{word} it does."""\n\n\ndef run() -> None:\n    """{word} it does."""\n'
    assert messages("a.py", source) == [
        f'1: docstring begins with "{word}"',
        f'5: docstring begins with "{word}"',
    ]


def test_docstring_with_verb_or_noun_is_accepted() -> None:
    assert messages("a.py", '"""Runs of a workflow. What follows is text."""\n') == []


@pytest.mark.parametrize(
    "source",
    [
        "found = 1",
        "def f(found): pass",
        "class A:\n    found: int = 1",
        "for found in []: pass",
        "def found(): pass",
        "self.found = 1",
        "import a as found",
        "_found = 1",
    ],
)
def test_vague_name_is_found_where_it_is_bound(source: str) -> None:
    assert [message.split(": ", 1)[1].replace("_", "") for message in messages("a.py", source)] == [
        'name "found"'
    ]


def test_vague_name_of_a_library_is_accepted() -> None:
    assert messages("a.py", "from hypothesis import given\n\n\n@given(1)\ndef f() -> None: ...\n") == []


def test_constant_prefix_is_found() -> None:
    assert messages("a.py", "MOST_ROWS = 1\nrow = MOST_ROWS\n") == ['1: constant "MOST_ROWS"']


def test_test_name_over_60_characters_is_found() -> None:
    name = "test_" + "a" * 56
    assert messages("a.py", f"def {name}(): pass\ndef {name[:60]}(): pass\n") == [
        f'1: test "{name}" has 61 characters, at most 60'
    ]


def test_files_below_skips_data_and_caches() -> None:
    files = {
        file.relative_to(check_language.ROOT).as_posix()
        for file in check_language.files_below(["src", "docs"])
    }
    assert "src/accession/__init__.py" in files
    assert "docs/architecture.md" in files
    assert not [file for file in files if file.endswith((".pyc", ".tsv", ".svg", ".json"))]


def test_main_prints_findings_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_language, "ROOT", tmp_path)
    (tmp_path / "good.md").write_text("A page.\n", encoding="utf-8")
    (tmp_path / "bad.md").write_text("A spoilt page.\n", encoding="utf-8")
    assert check_language.main([str(tmp_path / "good.md")]) == 0
    assert capsys.readouterr().out == ""
    assert check_language.main([str(tmp_path / "good.md"), str(tmp_path / "bad.md")]) == 1
    assert capsys.readouterr().out.startswith('bad.md:1: "spoilt": use malformed, corrupted\n1 findings')

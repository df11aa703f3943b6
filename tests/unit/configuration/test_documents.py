"""Parsing of configuration files: data, lines, and what is rejected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accession.configuration.documents import Document, parse_document


def parse(text: str, name: str = "file.yaml") -> Document:
    return parse_document(name, text.encode())


def message(document: Document) -> str:
    (problem,) = document.problems
    return str(problem)


def test_yaml_values_have_lines() -> None:
    document = parse("a:\n  - b: 1\n    c: two\n  - b:\n      d: no\n")
    assert document.data == {"a": [{"b": 1, "c": "two"}, {"b": {"d": False}}]}
    assert document.lines == {
        ("a",): 1,
        ("a", 0): 2,
        ("a", 0, "b"): 2,
        ("a", 0, "c"): 3,
        ("a", 1): 4,
        ("a", 1, "b"): 4,
        ("a", 1, "b", "d"): 5,
    }


def test_toml_values_have_lines() -> None:
    text = """
# [[comment]]
[[a]]
name = "x"
[a.b.c]
d = 1
[[a]]  # the second
b.c = 2
[[a.list]]
e = 1
[[a.list]]
e = 2
"""
    document = parse(text, "file.TOML")
    assert document.data["a"][1]["list"][1] == {"e": 2}
    lines = {
        ("a", 0, "name"): 4,
        ("a", 0, "b", "c", "d"): 6,
        ("a", 1): 7,
        ("a", 1, "list", 0, "e"): 10,
        ("a", 1, "list", 1, "e"): 12,
    }
    assert {path: document.problem(path, "").line for path in lines} == lines
    assert document.problem(("a", 1, "missing"), "").line == 7
    assert document.problem(("unknown",), "").line is None


def test_json_is_read_as_yaml() -> None:
    assert parse('{"a": [1, "no", null, true]}', "file.json").data == {"a": [1, "no", None, True]}


def test_byte_order_mark_is_ignored() -> None:
    assert parse_document("file.yaml", b"\xef\xbb\xbfa: 1").data == {"a": 1}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a: [1\nb: 2", "file.yaml:2: This is not valid YAML: correct the syntax."),
        ("a: *secret", "file.yaml:1: This is not valid YAML: correct the syntax."),
        ("a: 1\nb: !!python/name:os.system", "file.yaml:2: This is not valid YAML: correct the syntax."),
        ("a: 2026-02-30", "file.yaml:1: This is not valid YAML: correct the syntax."),
        ("? [a, b]\n: 1", "file.yaml:1: This is not valid YAML: correct the syntax."),
        ("a: 1\n---\nb: 2", "file.yaml:2: This is not valid YAML: correct the syntax."),
        ("a: 1\nb: 2\na: 3", 'file.yaml:3: The key "a" is there twice.'),
        ("a: \x07", "file.yaml: The file has control characters: remove them."),
        ("[" * 5000, "file.yaml: The values are nested too deeply."),
    ],
)
def test_invalid_yaml_is_reported_with_its_line(text: str, shown: str) -> None:
    assert message(parse(text)) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a = 1\nb = = 2", "file.toml:2: This is not valid TOML: correct the syntax."),
        ("a = [1", "file.toml: This is not valid TOML: correct the syntax."),
        ("a = 1\na = 2\nb = 3", "file.toml:2: This is not valid TOML: correct the syntax."),
    ],
)
def test_invalid_toml_is_reported_with_its_line(text: str, shown: str) -> None:
    assert message(parse(text, "file.toml")) == shown


def test_file_in_another_encoding_is_reported() -> None:
    document = parse_document("file.yaml", "name: Bücherei".encode("latin-1"))
    assert message(document) == "file.yaml: The file is not text in UTF-8: save it as such."


def test_aliases_cannot_multiply_without_limit() -> None:
    text = "a0: &a0 [1, 1]\n" + "".join(
        f"a{number}: &a{number} [*a{number - 1}, *a{number - 1}]\n" for number in range(1, 40)
    )
    assert "This is not valid YAML" in message(parse(text))


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode), st.sampled_from(["a.yaml", "a.toml"]))
def test_any_content_is_parsed_or_reported(content: bytes, name: str) -> None:
    document = parse_document(name, content)
    assert document.data is None or document.lines is not None

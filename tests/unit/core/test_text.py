"""Normalisation of text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accession.core.text import sort_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Hobbit", "the hobbit"),
        ("“Émile” – a novel", "emile a novel"),
        ("Catch-22: a (novel)", "catch 22 a novel"),
        ("Straße", "strasse"),
        ("…", ""),
        ("x" * 3000, "x" * 80),
    ],
)
def test_sort_text_ignores_accents_case_and_signs(text: str, expected: str) -> None:
    assert sort_text(text) == expected


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=60))
def test_sort_text_treats_ascii_as_other_text(text: str) -> None:
    assert sort_text(f"{text} é") == f"{sort_text(text)} e".strip()


@given(st.text())
def test_sort_text_fits_into_an_index(text: str) -> None:
    assert len(sort_text(text).encode("utf-8", "surrogatepass")) <= 320

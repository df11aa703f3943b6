"""ISBNs of either length become ISBN-13; invalid ones are dropped."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accession.core.isbn import complete_isbn13, normalise_isbn

nine_digits = st.text(alphabet="0123456789", min_size=9, max_size=9)


@pytest.mark.parametrize(
    ("text", "isbn"),
    [
        ("9780306406157", "9780306406157"),
        ("978-0-306-40615-7", "9780306406157"),
        (" 978 0306406157 ", "9780306406157"),
        ("0306406152", "9780306406157"),
        ("080442957x", "9780804429573"),
        ("0-8044-2957-X", "9780804429573"),
        ("978\N{NON-BREAKING HYPHEN}0\N{EN DASH}306406157", "9780306406157"),
        ("\N{LEFT-TO-RIGHT MARK}978\N{ZERO WIDTH SPACE}0306406157", "9780306406157"),
        ("9780306406157 (ebook)", "9780306406157"),
        ("9780306406157(pbk)", "9780306406157"),
        ("0-306-40615-2 (hbk.) :", "9780306406157"),
        ("080442957x\N{NO-BREAK SPACE}v. 1", "9780804429573"),
        ("9780306406157 : $20.00", "9780306406157"),
        ("9780306406157; 0804429570", "9780306406157"),
        ("ISBN 9780306406157.", "9780306406157"),
        ("ISBN-13: 978-0-306-40615-7", "9780306406157"),
        ("isbn10 0306406152", "9780306406157"),
        ("eISBN (ebook): 9780306406157", "9780306406157"),
        ("urn:isbn:9780306406157", "9780306406157"),
    ],
)
def test_isbn_is_normalised_to_thirteen_digits(text: str, isbn: str) -> None:
    assert normalise_isbn(text) == isbn


@pytest.mark.parametrize(
    "text",
    [
        "9780306406158",
        "0306406153",
        "1234567890123",
        "٩٧٨٠٣٠٦٤٠٦١٥٧",
        "X306406152",
        "978030640615",
        "97803064061571",
        "9780306406157ebook",
        "9780306406158 (ebook)",
        "0306406152 123",
        "0306406152X",
        "x9780306406157",
        "",
        "none",
    ],
)
def test_invalid_isbn_is_none(text: str) -> None:
    assert normalise_isbn(text) is None


@pytest.mark.parametrize("isbn", ["9780735289215", "9781250031112", "9780446586153", "9780805094602"])
def test_check_digit_matches_published_books(isbn: str) -> None:
    assert complete_isbn13(isbn[:12]) == isbn


@settings(deadline=None)
@given(nine_digits)
def test_one_check_character_completes_an_isbn10(digits: str) -> None:
    converted = [isbn for check in "0123456789X" if (isbn := normalise_isbn(digits + check))]

    assert converted == [complete_isbn13(f"978{digits}")]
    assert normalise_isbn(converted[0]) == converted[0]


@settings(deadline=None)
@given(nine_digits, st.sampled_from(["978", "979"]), st.integers(0, 12), st.integers(1, 9))
def test_one_changed_digit_invalidates_an_isbn13(digits: str, prefix: str, position: int, shift: int) -> None:
    isbn = complete_isbn13(prefix + digits)
    changed = str((int(isbn[position]) + shift) % 10)

    assert normalise_isbn(isbn) == isbn
    assert normalise_isbn(isbn[:position] + changed + isbn[position + 1 :]) is None


@settings(deadline=None)
@given(
    nine_digits,
    st.sampled_from(["", "ISBN ", "isbn-13: "]),
    st.from_regex(r"( ?\([^()]*\)| ?[:;,.] ?\w*)?", fullmatch=True),
)
def test_isbn_is_found_before_any_remark(digits: str, prefix: str, remark: str) -> None:
    isbn = complete_isbn13(f"978{digits}")

    assert normalise_isbn(f"{prefix}{isbn}{remark}") == isbn


@settings(deadline=None)
@given(st.text(max_size=20))
def test_arbitrary_text_is_an_isbn13_or_none(text: str) -> None:
    isbn = normalise_isbn(text)

    assert isbn is None or normalise_isbn(isbn) == isbn


@pytest.mark.parametrize(
    ("text", "isbn"), [("9780306406158", "9780306406158"), ("0306406153", "9780306406157"), ("none", None)]
)
def test_check_digit_can_be_left_unchecked(text: str, isbn: str | None) -> None:
    assert normalise_isbn(text, is_checked=False) == isbn

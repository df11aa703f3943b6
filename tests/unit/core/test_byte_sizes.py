"""Sizes in bytes, for people."""

import pytest

from accession.core.byte_sizes import format_bytes, format_growth


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (1, "1 byte"), (1_500_000, "1.5 MB"), (-2_000_000_000, "-2.0 GB")]
)
def test_size_has_a_unit(size: int, text: str) -> None:
    assert format_bytes(size) == text


def test_unknown_growth_is_empty() -> None:
    assert format_growth(None) == ""
    assert format_growth(1234.5) == "1.2 kB per day"

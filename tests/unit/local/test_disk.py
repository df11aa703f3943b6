"""Forecast of when a disk will be full."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accession.local.disk import days_until_full, folder_size


@given(free=st.integers(0, 10**15), growth=st.floats(0.001, 1e12))
def test_free_space_lasts_for_the_days_and_no_longer(free: int, growth: float) -> None:
    days = days_until_full(free, growth)

    assert days is not None
    assert days * growth <= free * (1 + 1e-9)
    assert (days + 1) * growth >= free * (1 - 1e-9)


@pytest.mark.parametrize("growth", [None, 0, -5.0])
def test_disk_without_growth_is_never_full(growth: float | None) -> None:
    assert days_until_full(100, growth) is None


def test_size_of_folder_is_that_of_its_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x" * 10)

    assert folder_size(tmp_path) == 20
    assert folder_size(tmp_path / "missing") == 0

"""Faults: specification, selection by seed and share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accession.core.errors import UserError
from accession.sandbox.faults import Fault, Faults, faulty_response, response_fault


def test_specification_is_parsed_into_shares() -> None:
    assert Faults.parse("bad-gateway=0.1, slow=1").shares == {Fault.BAD_GATEWAY: 0.1, Fault.SLOW: 1.0}
    assert Faults.parse("").shares == {}


@pytest.mark.parametrize("spec", ["storm=0.1", "slow", "slow=often", "slow=1.5", "slow=-0.1", "slow=nan"])
def test_invalid_specification_lists_known_faults(spec: str) -> None:
    with pytest.raises(UserError, match=r"is not a fault.*bad-gateway.*repeat-page"):
        Faults.parse(spec)


def test_repeated_fault_is_rejected() -> None:
    with pytest.raises(UserError, match="a fault twice"):
        Faults.parse("slow=0.1,slow=0.2")


def test_response_fault_shares_above_one_are_rejected() -> None:
    with pytest.raises(UserError, match="more than 1"):
        Faults.parse("html=0.6,drop=0.6")
    assert Faults.parse("html=0.5,drop=0.5,slow=1,entities=1").shares


def test_same_seed_selects_same_faults() -> None:
    def sequence(seed: int) -> list[frozenset[Fault]]:
        faults = Faults.parse("bad-gateway=0.2,blank=0.2,slow=0.3", seed)
        return [faults.active_faults(number) for number in range(1, 200)]

    assert sequence(5) == sequence(5)
    assert sequence(5) != sequence(6)


def test_lateness_has_its_share_of_titles() -> None:
    faults = Faults.parse("late=0.3")
    delays = [faults.lateness(f"title{number}") for number in range(2000)]
    assert sum(delay > 0 for delay in delays) / 2000 == pytest.approx(0.3, abs=0.05)
    assert all(0 <= delay <= 1 for delay in delays)
    assert max(delays) > 0.9
    assert min(delay for delay in delays if delay) < 0.1


def test_lateness_depends_on_seed_and_title_only() -> None:
    def delays(spec: str, seed: int) -> list[float]:
        return [Faults.parse(spec, seed).lateness(f"title{number}") for number in range(50)]

    assert delays("late=0.5", 1) == delays("late=0.5,blank=0.1", 1)
    assert delays("late=0.5", 1) != delays("late=0.5", 2)
    assert set(delays("blank=0.5", 1)) == {0}


def test_late_fault_is_not_drawn_by_requests() -> None:
    faults = Faults.parse("late=1")
    assert not any(faults.active_faults(number) for number in range(100))


def test_faults_apply_as_often_as_their_share() -> None:
    faults = Faults.parse("bad-gateway=0.1,drop=0.3,entities=0.5")
    selected = [faults.active_faults(number) for number in range(4000)]
    for fault, share in faults.shares.items():
        assert sum(fault in active for active in selected) / 4000 == pytest.approx(share, abs=0.03)


@given(number=st.integers(0, 10**6), seed=st.integers(0, 50))
def test_at_most_one_response_fault_applies(number: int, seed: int) -> None:
    spec = "bad-gateway=0.2,unavailable=0.2,html=0.2,truncated=0.2,drop=0.2,slow=0.5"
    active = Faults.parse(spec, seed).active_faults(number)
    assert len(active - {Fault.SLOW}) == 1
    assert response_fault(active) in active


def test_content_fault_does_not_replace_response() -> None:
    assert response_fault(frozenset({Fault.SLOW, Fault.ENTITIES})) is None
    with pytest.raises(ValueError, match="does not replace"):
        faulty_response(Fault.SLOW, b"", 1)

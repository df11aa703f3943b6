"""Faults are asked for by name and strike the same requests every time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accession.core.errors import UserError
from accession.sandbox.faults import Fault, Faults, breaking, broken_answer


def test_a_specification_names_faults_and_their_shares() -> None:
    assert Faults.parse("bad-gateway=0.1, slow=1").shares == {Fault.BAD_GATEWAY: 0.1, Fault.SLOW: 1.0}
    assert Faults.parse("").shares == {}


@pytest.mark.parametrize("spec", ["storm=0.1", "slow", "slow=often", "slow=1.5", "slow=-0.1", "slow=nan"])
def test_what_is_no_fault_is_refused_naming_those_there_are(spec: str) -> None:
    with pytest.raises(UserError, match=r"is no fault.*bad-gateway.*repeat-page"):
        Faults.parse(spec)


def test_a_fault_named_twice_is_refused() -> None:
    with pytest.raises(UserError, match="twice"):
        Faults.parse("slow=0.1,slow=0.2")


def test_shares_of_faults_that_replace_the_answer_cannot_exceed_all_answers() -> None:
    with pytest.raises(UserError, match="more than 1"):
        Faults.parse("html=0.6,drop=0.6")
    assert Faults.parse("html=0.5,drop=0.5,slow=1,entities=1").shares


def test_the_same_seed_strikes_the_same_requests() -> None:
    def sequence(seed: int) -> list[frozenset[Fault]]:
        faults = Faults.parse("bad-gateway=0.2,blank=0.2,slow=0.3", seed)
        return [faults.striking(number) for number in range(1, 200)]

    assert sequence(5) == sequence(5)
    assert sequence(5) != sequence(6)


def test_faults_strike_as_often_as_their_shares_say() -> None:
    faults = Faults.parse("bad-gateway=0.1,drop=0.3,entities=0.5")
    struck = [faults.striking(number) for number in range(4000)]
    for fault, share in faults.shares.items():
        assert sum(fault in strike for strike in struck) / 4000 == pytest.approx(share, abs=0.03)


@given(number=st.integers(0, 10**6), seed=st.integers(0, 50))
def test_only_one_fault_replaces_an_answer(number: int, seed: int) -> None:
    spec = "bad-gateway=0.2,unavailable=0.2,html=0.2,truncated=0.2,drop=0.2,slow=0.5"
    struck = Faults.parse(spec, seed).striking(number)
    assert len(struck - {Fault.SLOW}) == 1
    assert breaking(struck) in struck


def test_a_fault_within_an_answer_does_not_replace_it() -> None:
    assert breaking(frozenset({Fault.SLOW, Fault.ENTITIES})) is None
    with pytest.raises(ValueError, match="does not replace"):
        broken_answer(Fault.SLOW, b"", 1)

"""The fuzzing run in short, and that the long one finds what there is to be found."""

import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accession.bibliotheca.errors import BadResponseException
from tests.chaos import fuzzing
from tests.chaos.fuzzing import Limits, Target, input_of, long_run, main, read_or_refused, spoilt, targets

KNOWN = targets()
LIMITS = Limits(seconds=0.3, mebibytes=50)


@pytest.mark.parametrize("target", KNOWN, ids=lambda target: target.name)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.integers(0, 2**32))
def test_a_spoilt_document_is_read_or_refused(target: Target, data: st.DataObject, seed: int) -> None:
    body = data.draw(st.sampled_from(target.documents))
    read_or_refused(target, spoilt(Random(seed), body))


@pytest.mark.parametrize("target", KNOWN, ids=lambda target: target.name)
def test_an_unspoilt_document_is_read_unless_it_is_an_error(target: Target) -> None:
    read = [read_or_refused(target, body) for body in target.documents]
    assert any(read) is (target.name != "error documents")
    assert len(read) > 2


# What the long run finds

SOUND = Target("sound", lambda body: None, (b"<a/>",))


def raises(body: bytes) -> None:
    raise ZeroDivisionError("a bug")


def works_long(body: bytes) -> None:
    end = time.process_time() + 0.5
    while time.process_time() < end:
        pass


def hangs(body: bytes) -> None:
    signal.pause()


def takes_memory(body: bytes) -> None:
    bytearray(200 * 1024**2).strip(b"x")


def takes_its_process_down(body: bytes) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def says_too_much(body: bytes) -> None:
    raise BadResponseException("\x1b[2J")


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (raises, "ZeroDivisionError: a bug"),
        (says_too_much, "AssertionError"),
        (works_long, "s of the processor"),
        (hangs, "it has not come back"),
        (takes_memory, "MiB of memory"),
        (takes_its_process_down, "it took its process down"),
    ],
)
def test_the_long_run_finds_what_breaks_the_promise_and_says_how_to_see_it_again(
    monkeypatch: pytest.MonkeyPatch, breaks: Callable[[bytes], None], said: str
) -> None:
    """Of a hundred inputs the one that holds "needle" breaks."""
    known = (SOUND, Target("broken", lambda body: breaks(body) if b"needle" in body else None, (b"hay",)))
    monkeypatch.setattr(fuzzing, "spoilt", lambda rng, body: body + b"needle" * (rng.random() < 0.1))
    monkeypatch.setattr(fuzzing, "targets", lambda: known)
    limits = replace(LIMITS, silent_seconds=2) if breaks is hangs else LIMITS
    monkeypatch.setattr(fuzzing, "Limits", lambda: limits)

    told = StringIO()
    assert main(["--inputs", "100", "--seed", "7"], told) == 1

    assert said in told.getvalue()
    again = re.search(r"^Again: python -m tests.chaos.fuzzing (--seed 7 --only \d+)$", told.getvalue(), re.M)
    assert again is not None
    number = int(again[1].split()[-1])
    assert b"needle" in input_of(known, 7, number)[1]
    assert not any(b"needle" in input_of(known, 7, earlier)[1] for earlier in range(1, number, 2))

    told = StringIO()
    assert main(again[1].split(), told) == 1
    assert said in told.getvalue()
    assert again[0] in told.getvalue()


def test_a_long_run_in_which_nothing_breaks_says_what_was_read() -> None:
    told = StringIO()
    assert long_run(KNOWN, 7, range(100), Limits(), told) == 0
    assert "seed 7, 100 inputs\n" in told.getvalue()
    for target in KNOWN:
        assert f"{target.name}: 20 inputs, " in told.getvalue()
    assert "BROKEN" not in told.getvalue()


def test_the_inputs_of_a_seed_are_the_same_every_time() -> None:
    def bodies(seed: int) -> Sequence[bytes]:
        return [input_of(KNOWN, seed, number)[1] for number in range(30)]

    assert bodies(1) == bodies(1)
    assert bodies(1) != bodies(2)
    assert max(map(len, bodies(1))) <= fuzzing.MOST_BYTES


def test_a_run_without_a_seed_has_another_one_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzing, "targets", lambda: (replace(SOUND),))
    seeds = set()
    for _ in range(2):
        told = StringIO()
        assert main(["--inputs", "1"], told) == 0
        seeds.add(told.getvalue().split(",")[0])
    assert len(seeds) == 2

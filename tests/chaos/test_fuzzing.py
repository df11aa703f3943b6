"""The parsers survive mutated documents, and the fuzzer detects every kind of failure."""

import math
import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from itertools import count
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accession.bibliotheca.errors import BadResponseException
from tests.chaos import fuzzing
from tests.chaos.fuzzing import Limits, Target, long_run, main, make_input, mutated, parse_or_reject, targets

TARGETS = targets()
# On a slow machine an input may take long; only a parser that never returns fails.
PATIENT = Limits(cpu_seconds=math.inf, hang_seconds=600)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.integers(0, 2**32))
def test_mutated_document_is_parsed_or_rejected(target: Target, data: st.DataObject, seed: int) -> None:
    body = data.draw(st.sampled_from(target.documents))
    parse_or_reject(target, mutated(Random(seed), body))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_unmodified_documents_are_parsed_unless_errors(target: Target) -> None:
    results = [parse_or_reject(target, body) for body in target.documents]
    assert any(results) is (target.name != "error documents")
    assert len(results) > 2


# Detected failures

WORKING_TARGET = Target("working", lambda body: None, (b"<a/>",))


class FakeClock:
    """A clock that only advances when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


cpu_clock = FakeClock()
# The fuzzer forks, so that parent and child share the event.
has_hung = multiprocessing.get_context("fork").Event()


def raise_exception(body: bytes) -> None:
    raise ZeroDivisionError("a bug")


def use_cpu_time(body: bytes) -> None:
    cpu_clock.now += 10


def hang(body: bytes) -> None:
    has_hung.set()
    signal.pause()


def use_memory(body: bytes) -> None:
    bytearray(200 * 1024**2).strip(b"x")


def kill_process(body: bytes) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def raise_unprintable_error(body: bytes) -> None:
    raise BadResponseException("\x1b[2J")


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        (raise_exception, "ZeroDivisionError: a bug"),
        (raise_unprintable_error, "AssertionError"),
        (use_cpu_time, "it took 10.0 s of CPU time"),
        (hang, "it did not return within 20 s"),
        (use_memory, "MiB of memory"),
        (kill_process, "it killed its process"),
    ],
)
def test_fuzzer_reports_a_reproducible_failure(
    monkeypatch: pytest.MonkeyPatch, fail: Callable[[bytes], None], message: str
) -> None:
    """Only inputs that contain "needle" fail."""
    fuzzed = (
        WORKING_TARGET,
        Target("failing", lambda body: fail(body) if b"needle" in body else None, (b"hay",)),
    )
    seconds = count(step=100)
    has_hung.clear()
    cpu_clock.now = 0.0
    monkeypatch.setattr(fuzzing, "mutated", lambda rng, body: body + b"needle" * (rng.random() < 0.1))
    monkeypatch.setattr(fuzzing, "targets", lambda: fuzzed)
    monkeypatch.setattr(fuzzing, "cpu_seconds", cpu_clock)
    monkeypatch.setattr(fuzzing, "monotonic_seconds", lambda: next(seconds) if has_hung.is_set() else 0)

    output = StringIO()
    assert main(["--inputs", "100", "--seed", "7"], output) == 1

    assert message in output.getvalue()
    reproduce = re.search(
        r"^Reproduce: python -m tests.chaos.fuzzing (--seed 7 --only \d+)$", output.getvalue(), re.M
    )
    assert reproduce is not None
    number = int(reproduce[1].split()[-1])
    assert b"needle" in make_input(fuzzed, 7, number)[1]
    assert not any(b"needle" in make_input(fuzzed, 7, earlier)[1] for earlier in range(1, number, 2))

    output = StringIO()
    assert main(reproduce[1].split(), output) == 1
    assert message in output.getvalue()
    assert reproduce[0] in output.getvalue()


def test_fuzzer_reports_a_run_without_failures() -> None:
    output = StringIO()
    assert long_run(TARGETS, 7, range(100), PATIENT, output) == 0
    assert "seed 7, 100 inputs\n" in output.getvalue()
    for target in TARGETS:
        assert f"{target.name}: 20 inputs, " in output.getvalue()
    assert "FAILED" not in output.getvalue()


def test_inputs_of_a_seed_are_reproducible() -> None:
    def bodies(seed: int) -> Sequence[bytes]:
        return [make_input(TARGETS, seed, number)[1] for number in range(30)]

    assert bodies(1) == bodies(1)
    assert bodies(1) != bodies(2)
    assert max(map(len, bodies(1))) <= fuzzing.MAX_BYTES


def test_run_without_a_seed_chooses_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzing, "targets", lambda: (replace(WORKING_TARGET),))
    monkeypatch.setattr(fuzzing, "Limits", lambda: PATIENT)
    seeds = set()
    for _ in range(2):
        output = StringIO()
        assert main(["--inputs", "1"], output) == 0
        seeds.add(output.getvalue().split(",")[0])
    assert len(seeds) == 2

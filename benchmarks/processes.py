"""Processes of a measurement: run it in a fresh process, and read memory and CPU time of others."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar

import psutil

SPAWN = multiprocessing.get_context("spawn")

_Setup = TypeVar("_Setup")
_Result = TypeVar("_Result")


def run_in_subprocesses(measure: Callable[[_Setup], _Result], setups: Sequence[_Setup]) -> list[_Result]:
    """Return the results of `measure` for the setups, run one after another, each in a new process."""
    with ProcessPoolExecutor(1, mp_context=SPAWN, max_tasks_per_child=1) as executor:
        return list(executor.map(measure, setups))


def process_id(home: Path, name: str) -> int:
    """Return the id of a running process of an installation, such as "worker"."""
    from accession.local.control import process_statuses

    return next(
        process.pid for process in process_statuses(home) if process.name == name and process.pid is not None
    )


def child_process_ids(pid: int) -> list[int]:
    """Return the ids of the children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def memory_mib(pid: int, kind: Literal["VmHWM", "VmRSS", "RssAnon"]) -> int:
    """Return the resident memory of a process in MiB.

    Args:
        pid: Id of the process.
        kind: `VmHWM` for the peak, `VmRSS` for now, `RssAnon` for now without files and shared memory.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(kind))
    return int(line.split()[1]) // 1024


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its descendants, including descendants that have ended."""
    process, seconds = psutil.Process(pid), 0.0
    for each in (process, *process.children(recursive=True)):
        # The time of a process that ends meanwhile is counted with its parent in the next call.
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds

"""Imports by a cluster of machines, of which one is lost or cut off: the runs continue by themselves.

`make cluster` runs these tests, and writes the times until the runs continued into docs/operations.md.
"""

import threading
import time

import pytest

from tests.cluster.conftest import RecoveryTimes
from tests.fixtures.cluster_import import running_import
from tests.fixtures.fingerprint import Fingerprint
from tests.fixtures.running_sandbox import RunningSandbox

CUT_OFF_SECONDS = 30.0


def test_run_continues_after_worker_host_is_killed(
    vendor: RunningSandbox, expected: Fingerprint, recovery_times: RecoveryTimes
) -> None:
    """The kernel of the host closes the connections of the killed processes."""
    with running_import(vendor) as work:
        host = work.suspend_busy_host()
        before, since = work.pages(), time.monotonic()
        host.kill_processes()
        seconds = work.wait_for_next_steps(before, since)
        work.finish(expected)
    recovery_times.add("all processes of a worker host are killed", seconds)


def test_run_continues_after_worker_host_loses_power(
    vendor: RunningSandbox, expected: Fingerprint, recovery_times: RecoveryTimes
) -> None:
    """Database and broker are not notified: the connections of the host stay open."""
    with running_import(vendor) as work:
        host = work.suspend_busy_host()
        before, since = work.pages(), time.monotonic()
        work.cluster.network.cut_off(host)
        host.halt()
        seconds = work.wait_for_next_steps(before, since)
        work.wait_for_closed_sessions(host)
        work.finish(expected)
    recovery_times.add("a worker host loses power", seconds)


def test_run_continues_while_worker_host_is_cut_off(
    vendor: RunningSandbox, expected: Fingerprint, recovery_times: RecoveryTimes
) -> None:
    """Both hosts may process the same step: the other one while this one is cut off, and this one after."""
    with running_import(vendor) as work:
        network, host = work.cluster.network, work.suspend_busy_host()
        before, since = work.pages(), time.monotonic()
        network.cut_off(host)
        host.resume()
        timer = threading.Timer(CUT_OFF_SECONDS, network.reconnect, [host])
        timer.start()
        seconds = work.wait_for_next_steps(before, since)
        timer.join()
        work.finish(expected)
    recovery_times.add("a worker host is cut off for 30 seconds", seconds)


@pytest.mark.parametrize("name", ["broker", "database"])
def test_run_continues_after_server_is_cut_off(
    name: str, vendor: RunningSandbox, expected: Fingerprint, recovery_times: RecoveryTimes
) -> None:
    with running_import(vendor) as work:
        since = time.monotonic()
        work.cut_off(getattr(work.cluster, name), CUT_OFF_SECONDS)
        # The step that was being processed at the fault may have been committed.
        seconds = work.wait_for_next_steps(work.pages(), since)
        work.finish(expected)
    recovery_times.add(f"the {name} is cut off for 30 seconds", seconds)


def test_run_continues_after_failover_to_standby(
    vendor: RunningSandbox, expected: Fingerprint, recovery_times: RecoveryTimes
) -> None:
    """The standby may lack the last steps, which are then processed again."""
    with running_import(vendor, with_standby=True) as work:
        standby = work.cluster.standby
        assert standby is not None
        work.disconnect()
        since = time.monotonic()
        work.cluster.network.cut_off(work.cluster.database)
        work.cluster.database.halt()
        standby.promote()
        seconds = work.wait_for_next_steps(work.pages(), since)
        work.finish(expected)
    recovery_times.add("the database loses power, and its standby is promoted", seconds)

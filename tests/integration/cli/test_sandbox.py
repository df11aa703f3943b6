"""Command `accession sandbox serve`."""

import signal
import socket
from datetime import timedelta

import httpx
import pytest

from accession.core.clock import utc_now
from tests.fixtures.commands import COMMAND_TIMEOUT_SECONDS, Cli, background_command, environment


def test_serve_prints_account_and_stops_on_ctrl_c() -> None:
    serve = (
        "sandbox",
        "serve",
        "--port",
        "0",
        "--titles",
        "30",
        "--from",
        "2024-01-01",
        "--until",
        "2024-02-01",
    )
    with background_command(*serve, "--seed", "7", env=environment()) as vendor:
        assert vendor.stdout is not None
        lines = [vendor.stdout.readline() for _ in range(3)]
        base_url = lines[0].split()[-1]
        assert lines == [
            f"The simulated vendor is at {base_url}\n",
            "  library id sandbox, account id library.sandbox, account key sandbox-key-that-is-no-secret\n",
            f"  statistics: {base_url}/sandbox/statistics\n",
        ]
        assert httpx.get(f"{base_url}/sandbox/statistics").json()["titles_purchased"] == 30
        days = {title["purchased_at"][:7] for title in httpx.get(f"{base_url}/sandbox/titles").json()}
        assert days == {"2024-01"}
        vendor.send_signal(signal.SIGINT)
        assert vendor.wait(COMMAND_TIMEOUT_SECONDS) == 0


def test_serve_with_activity_has_one_hour_of_events() -> None:
    serve = ("sandbox", "serve", "--port", "0", "--titles", "30", "--activity", "3600")
    with background_command(*serve, env=environment()) as vendor:
        assert vendor.stdout is not None
        base_url = vendor.stdout.readline().split()[-1]
        activity = httpx.get(f"{base_url}/sandbox/statistics").json()["activity"]
        assert activity["per_hour"] == 3600
        assert sum(activity["events"].values()) > 3000
        titles = httpx.get(f"{base_url}/sandbox/titles").json()
        assert len(titles) > 30, "some of the events are purchases"


def test_serve_with_late_purchases_omits_their_records() -> None:
    since = (utc_now() - timedelta(days=3)).date().isoformat()
    serve = ("sandbox", "serve", "--port", "0", "--titles", "30", "--from", since, "--faults", "late=1")
    with background_command(*serve, env=environment()) as vendor:
        assert vendor.stdout is not None
        base_url = vendor.stdout.readline().split()[-1]
        statistics = httpx.get(f"{base_url}/sandbox/statistics").json()
    assert statistics["late_records"] > 0
    assert statistics["titles_purchased"] + statistics["late_records"] == 30


@pytest.mark.parametrize(
    "faults", ["bad-weather=0.1", "html=2", "html", "html=0.1,html=0.2", "html=0.6,blank=0.6"]
)
def test_invalid_faults_are_reported(cli: Cli, faults: str) -> None:
    error = cli("sandbox", "serve", "--port", "0", "--faults", faults).error
    assert faults.split(",")[0].split("=")[0] in error
    if faults.startswith("bad"):
        assert "bad-gateway" in error


def test_empty_time_span_is_reported(cli: Cli) -> None:
    arguments = ("--port", "0", "--from", "2024-02-01", "--until", "2024-01-01")
    assert "from 2024-02-01 to 2024-01-01" in cli("sandbox", "serve", *arguments).error


@pytest.mark.parametrize(
    "option", [("--port", "70000"), ("--titles", "-1"), ("--activity", "-1"), ("--from", "yesterday")]
)
def test_invalid_values_are_usage_errors(cli: Cli, option: tuple[str, str]) -> None:
    assert cli("sandbox", "serve", *option).exit_code == 2


def test_used_port_is_reported(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        error = cli("sandbox", "serve", "--titles", "0", "--port", str(port)).error
    assert error.startswith(f"The sandbox cannot listen on port {port} (Address already in use")
    assert error.endswith("choose another port, or 0 for any.")

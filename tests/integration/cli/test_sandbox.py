"""The stand-in vendor from the command line."""

import signal
import socket

import httpx
import pytest

from tests.fixtures.commands import PATIENCE_SECONDS, Run, environment, process


def test_it_says_where_it_answers_and_as_whom_and_ends_with_ctrl_c() -> None:
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
    with process(*serve, "--seed", "7", env=environment()) as vendor:
        assert vendor.stdout is not None
        lines = [vendor.stdout.readline() for _ in range(3)]
        base_url = lines[0].split()[-1]
        assert lines == [
            f"The sandbox vendor answers at {base_url}\n",
            "  library id sandbox, account id library.sandbox, account key sandbox-key-that-is-no-secret\n",
            f"  statistics: {base_url}/sandbox/statistics\n",
        ]
        assert httpx.get(f"{base_url}/sandbox/statistics").json()["titles_bought"] == 30
        days = {title["purchased_at"][:7] for title in httpx.get(f"{base_url}/sandbox/titles").json()}
        assert days == {"2024-01"}
        vendor.send_signal(signal.SIGINT)
        assert vendor.wait(PATIENCE_SECONDS) == 0


def test_with_activity_there_is_an_hour_of_events_to_ask_for_at_once() -> None:
    serve = ("sandbox", "serve", "--port", "0", "--titles", "30", "--activity", "3600")
    with process(*serve, env=environment()) as vendor:
        assert vendor.stdout is not None
        base_url = vendor.stdout.readline().split()[-1]
        activity = httpx.get(f"{base_url}/sandbox/statistics").json()["activity"]
        assert activity["per_hour"] == 3600
        assert sum(activity["events"].values()) > 3000
        titles = httpx.get(f"{base_url}/sandbox/titles").json()
        assert len(titles) > 30, "new titles, too"


@pytest.mark.parametrize(
    "faults", ["bad-weather=0.1", "html=2", "html", "html=0.1,html=0.2", "html=0.6,blank=0.6"]
)
def test_wrong_faults_are_said(run: Run, faults: str) -> None:
    sentence = run("sandbox", "serve", "--port", "0", "--faults", faults).sentence
    assert faults.split(",")[0].split("=")[0] in sentence
    if faults.startswith("bad"):
        assert "bad-gateway" in sentence


def test_a_span_without_days_is_said(run: Run) -> None:
    arguments = ("--port", "0", "--from", "2024-02-01", "--until", "2024-01-01")
    assert "between 2024-02-01 and 2024-01-01" in run("sandbox", "serve", *arguments).sentence


@pytest.mark.parametrize(
    "wrong", [("--port", "70000"), ("--titles", "-1"), ("--activity", "-1"), ("--from", "yesterday")]
)
def test_wrong_values_are_usage_errors(run: Run, wrong: tuple[str, str]) -> None:
    assert run("sandbox", "serve", *wrong).code == 2


def test_a_port_that_is_taken_is_said(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = run("sandbox", "serve", "--titles", "0", "--port", str(port)).sentence
    assert sentence.startswith(f"The sandbox cannot listen on port {port} (Address already in use")
    assert sentence.endswith("choose another port, or 0 for any.")

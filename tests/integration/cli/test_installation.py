"""Commands `accession settings` and `accession about`."""

import pytest
from redis import Redis

from tests.fixtures.commands import Cli


def test_settings_show_value_and_source(cli: Cli, database: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCESSION_LOG_LEVEL", "debug")

    settings = {setting["name"]: setting for setting in cli("settings", "--json").json}

    assert settings["time_zone"]["source"] == "default"
    assert settings["log_level"]["origin"] == "ACCESSION_LOG_LEVEL"
    assert settings["log_level"]["needs_restart"] is True


def test_changed_settings_are_selected_and_secrets_masked(cli: Cli, database: None) -> None:
    output = cli("settings", "--changed").stdout

    assert "database_url" in output
    assert "postgresql://" not in output
    assert "time_zone" not in output


def test_about_lists_versions_workers_and_queues(cli: Cli, database: None, broker: Redis) -> None:
    from accession.tasks.heartbeats import record_worker_heartbeat

    record_worker_heartbeat("accession-42@alder.example")
    broker.lpush("default", "message")

    output = cli("about").stdout

    assert "Schema: 0001" in output
    assert "Scheduler: no tick is recorded" in output
    assert "alder.example" in output
    assert cli("about", "--json").json["processes"]["queues"][0] == {
        "name": "default",
        "waiting": 1,
        "unacknowledged": 0,
    }

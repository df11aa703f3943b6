"""Applying a configuration: runs, concurrent calls, and failures half-way."""

from typing import Any

import pytest
import yaml
from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.accounts.collections import list_collections, lock_configuration
from accession.auth.audit import Actor, ActorKind, AuditFilter, audit_entries
from accession.configuration.documents import InvalidConfiguration, parse_document
from accession.configuration.loading import Configuration, load_configuration
from accession.configuration.model import SecretReference
from accession.core.errors import UserError
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import Collection
from accession.runs.ledger import queue_runs
from tests.fixtures.broker import Broker
from tests.fixtures.factories import ACCOUNT_KEY, BackgroundThread, wait_for_blocked
from tests.fixtures.stored import all_runs

ANN = Actor(ActorKind.USER, "ann", "192.0.2.1")


def read_secret(_: SecretReference) -> SecretStr:
    return SecretStr(ACCOUNT_KEY)


def configuration(*entries: dict[str, Any]) -> Configuration:
    """Return a configuration with collections of the account of the fixture `collection`."""
    account = {
        "library_id": "alder",
        "account_id": "library.alder",
        "account_key": {"env": "KEY"},
        "base_url": "http://127.0.0.1:9",
    }
    data = {"collections": [account | entry for entry in entries]}
    return load_configuration([parse_document("file.yaml", yaml.safe_dump(data).encode())])


def apply(*entries: dict[str, Any], **options: Any) -> list[str]:
    from accession.configuration.applying import apply_configuration

    plan = apply_configuration(ANN, configuration(*entries), read_secret, **options)
    return [str(change) for change in plan.changes]


def names() -> list[str]:
    with transaction() as session:
        return [collection.name for collection in list_collections(session)]


def test_pause_cancels_a_queued_run_and_its_end_queues_one(
    celery_app: None, broker: Broker, session: Session, collection: Collection
) -> None:
    queue_runs(session, Workflow.PURCHASES, {collection.id: "run-1"}, {})
    session.commit()
    alder: dict[str, Any] = {"name": "Alder Library"}
    pause = {"reason": "building works", "workflows": ["purchases"]}
    assert apply(alder | {"pauses": [pause]}) == [
        'Pause purchases of "Alder Library" (reason: building works)'
    ]
    assert [run.state for run in all_runs()] == ["cancelled"]
    assert apply(alder | {"pauses": []}) == ['Resume purchases of "Alder Library"']
    cancelled, queued = all_runs()
    assert (cancelled.state, queued.state) == ("cancelled", "queued")
    assert [message.id for message in broker.messages()] == [queued.task_id]


def test_concurrent_applies_make_each_change_once(celery_app: None, broker: Broker, database: None) -> None:
    changes: list[str] = []
    with transaction() as session:
        lock_configuration(session)
        threads = [
            BackgroundThread(lambda: changes.extend(apply({"name": "Alder Library"}))) for _ in range(2)
        ]
        wait_for_blocked(session.connection(), 2)
    for thread in threads:
        thread.finish()
    assert (len(changes), names()) == (1, ["Alder Library"])


def test_failure_of_one_change_undoes_the_others(
    celery_app: None, broker: Broker, database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise UserError("the database is full")

    monkeypatch.setattr("accession.configuration.collection_changes.set_schedule", fail)
    schedules = {"purchases": {"cron": "0 1 * * *"}}
    with pytest.raises(UserError, match="the database is full"):
        apply({"name": "Alder Library", "schedules": schedules})
    assert names() == []
    with transaction() as session:
        assert audit_entries(session, AuditFilter(), limit=1) == []


def test_plan_that_is_outdated_is_not_applied(celery_app: None, broker: Broker, database: None) -> None:
    from accession.configuration.applying import PlanOutdated
    from accession.configuration.planning import make_plan

    configured = configuration({"name": "Alder Library"}, {"name": "Birch Library"})
    with transaction() as session:
        digest = make_plan(session, configured, read_secret, prune=False).digest
    apply({"name": "Birch Library"})
    with pytest.raises(PlanOutdated):
        apply({"name": "Alder Library"}, {"name": "Birch Library"}, digest=digest)
    assert names() == ["Birch Library"]


def test_mistakes_are_one_sentence_for_programs(celery_app: None, database: None) -> None:
    with pytest.raises(InvalidConfiguration) as error:
        apply({"name": "Alder Library", "library": "x"}, {"name": " "})
    assert str(error.value).startswith("The configuration has 2 mistakes, so nothing was changed: file.yaml:")

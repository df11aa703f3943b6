"""A sandbox that answers over real HTTP, and a caller who signs as the vendor's clients do."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from lxml import etree

from accession.sandbox.catalogue import Catalogue, build_catalogue
from accession.sandbox.faults import Faults
from accession.sandbox.server import RunningSandbox, Sandbox, running_sandbox, signature

SINCE = datetime(2014, 1, 1, tzinfo=UTC)
UNTIL = datetime(2026, 1, 1, tzinfo=UTC)
MARC = "{http://www.loc.gov/MARC21/slim}"
OPENING = datetime(2026, 3, 2, 8, tzinfo=UTC)


@dataclass
class Clock:
    """A clock that stands still until it is set."""

    moment: datetime

    def __call__(self) -> datetime:
        return self.moment


@dataclass(frozen=True)
class Caller:
    """Somebody with an account, who may sign wrongly or late."""

    running: RunningSandbox
    http: httpx.Client

    def get(
        self,
        path: str,
        *,
        key: str | None = None,
        account_id: str | None = None,
        at: datetime | None = None,
        library_id: str | None = None,
        timeout_seconds: float = 10,
    ) -> httpx.Response:
        request = self.request(path, key=key, account_id=account_id, at=at, library_id=library_id)
        request.extensions["timeout"] = httpx.Timeout(timeout_seconds).as_dict()
        return self.http.send(request)

    def request(
        self,
        path: str,
        *,
        key: str | None = None,
        account_id: str | None = None,
        at: datetime | None = None,
        library_id: str | None = None,
    ) -> httpx.Request:
        account = self.running.account
        target = f"/cirrus/library/{library_id or account.library_id}/{path}"
        date = format_datetime(at or self.running.sandbox.clock(), usegmt=True)
        signed = signature(key or account.account_key, date, "GET", target)
        headers = {
            "3mcl-Datetime": date,
            "3mcl-Authorization": f"3MCLAUTH {account_id or account.account_id}:{signed}",
            "3mcl-Version": "2.0",
        }
        return self.http.build_request("GET", f"{self.running.base_url}{target}", headers=headers)

    def records(self, query: str) -> list[etree._Element]:
        return self.documents(f"data/marc?{query}").findall(f"{MARC}record")

    def items(self, *item_ids: str) -> list[etree._Element]:
        return self.documents(f"items/{','.join(item_ids)}").findall("Item")

    def documents(self, path: str) -> etree._Element:
        answer = self.get(path)
        assert answer.status_code == 200
        return etree.fromstring(answer.content)

    def events(self, query: str = "") -> list[dict[str, str]]:
        """Each event's elements, by name."""
        batch = self.documents(f"data/cloudevents?{query}" if query else "data/cloudevents")
        return [
            {str(element.tag): element.text or "" for element in event}
            for event in batch.findall("Events/CloudLibraryEvent")
        ]

    def behind(self, path: str) -> Any:
        """What the sandbox tells people and tests."""
        answer = self.http.get(f"{self.running.base_url}/sandbox/{path}")
        assert answer.status_code == 200
        return answer.json()

    def misbehave(self, spec: str) -> None:
        assert self.http.post(f"{self.running.base_url}/sandbox/faults", content=spec).status_code == 200


def item_ids(record: etree._Element) -> list[str]:
    return [field.text or "" for field in record.findall(f"{MARC}controlfield[@tag='001']")]


def subfields(record: etree._Element, tag: str, code: str) -> list[str]:
    path = f"{MARC}datafield[@tag='{tag}']/{MARC}subfield[@code='{code}']"
    return [field.text or "" for field in record.findall(path)]


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return build_catalogue(600, SINCE, UNTIL, seed=7)


@pytest.fixture(scope="session")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=10) as client:
        yield client


@pytest.fixture(scope="session")
def vendor(catalogue: Catalogue, http: httpx.Client) -> Iterator[Caller]:
    """A well-behaved vendor, for tests that change nothing."""
    with running_sandbox(Sandbox(catalogue)) as running:
        yield Caller(running, http)


@pytest.fixture
def moody(catalogue: Catalogue, http: httpx.Client) -> Iterator[Caller]:
    """A vendor of one's own, to be made to misbehave."""
    with running_sandbox(Sandbox(catalogue, faults=Faults(), slow_ms=30)) as running:
        yield Caller(running, http)

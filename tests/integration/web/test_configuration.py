"""The configuration in the dashboard and the API: export, plan, apply, and which secrets are read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from httpx import Response
from lxml import html
from sqlalchemy.orm import Session

from accession.accounts.collections import get_account, list_collections
from accession.auth.audit import AuditFilter, audit_entries
from accession.auth.roles import UserRole
from accession.core.settings import get_settings, use_settings
from accession.db.models import Collection
from tests.fixtures.factories import ACCOUNT_KEY
from tests.fixtures.web_client import Browser, bearer, make_token

API = "/api/v1/configuration"


@pytest.fixture
def administrator(browser: Browser, ada: str) -> Browser:
    browser.log_in(ada)
    return browser


@pytest.fixture
def api(browser: Browser, session: Session, ada: str) -> Browser:
    """A program with a token of an administrator."""
    browser.headers = bearer(make_token(session, role=UserRole.ADMINISTRATOR))
    return browser


@pytest.fixture
def secrets_dir(administrator: Browser, tmp_path: Path) -> Iterator[Path]:
    """Set the folder from which secrets are read; it has the file `key`."""
    folder, before = tmp_path / "secrets", get_settings()
    folder.mkdir()
    (folder / "key").write_text("key-in-folder\n")
    use_settings(before.model_copy(update={"configuration_secrets_dir": folder}))
    yield folder
    use_settings(before)


def entry(name: str = "Birch Library", **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "library_id": "birch",
        "account_id": "library.birch",
        "account_key": {"env": "BIRCH_KEY"},
        **fields,
    }


def alder(collection: Collection, **fields: Any) -> dict[str, Any]:
    """Return the entry of the stored collection."""
    return {
        "name": collection.name,
        "library_id": collection.library_id,
        "account_id": collection.account_id,
        "account_key": {"env": "ALDER_KEY"},
        "base_url": collection.base_url,
        **fields,
    }


def upload(browser: Browser, data: dict[str, Any] | str, **form: str) -> Response:
    text = data if isinstance(data, str) else yaml.safe_dump(data)
    return browser.post("/configuration/plan", files={"file": ("accession.yaml", text.encode())}, data=form)


def submit(browser: Browser, page: Response) -> Response:
    """Submit the form that applies a plan."""
    (form,) = html.fromstring(page.text).xpath("//form[@action='/configuration/apply']")
    return browser.post("/configuration/apply", data=dict(form.fields))


def names(session: Session) -> list[str]:
    session.rollback()
    return [collection.name for collection in list_collections(session)]


def test_uploaded_file_is_planned_and_applied(
    administrator: Browser, session: Session, collection: Collection
) -> None:
    schedules = {"purchases": {"cron": "30 2 * * *"}}
    page = upload(administrator, {"collections": [alder(collection, schedules=schedules)]})
    assert page.status_code == 200
    assert "Change schedule of purchases of" in page.text
    assert "Make 1 change<" in page.text
    applied = submit(administrator, page)
    assert (applied.status_code, applied.headers["location"]) == (303, "/configuration")
    assert "1 change made." in administrator.get("/configuration").text
    session.rollback()
    recorded = audit_entries(session, AuditFilter(actor="ada"), limit=2)
    assert [(each.action, each.origin) for each in recorded] == [
        ("configuration.apply", "127.0.0.1"),
        ("collection.set_schedule", "127.0.0.1"),
    ]
    again = upload(administrator, {"collections": [alder(collection, schedules=schedules)]})
    assert "No differences" in again.text
    assert "ALDER_KEY" in again.text
    assert get_account(collection).account_key.get_secret_value() == ACCOUNT_KEY


def test_mistakes_of_an_uploaded_file_are_listed(
    administrator: Browser, session: Session, collection: Collection
) -> None:
    page = upload(administrator, {"collections": [alder(collection, library="x", account_key="inline-key")]})
    assert page.status_code == 422
    assert "The configuration has 2 mistakes" in page.text
    assert "accession.yaml:" in page.text
    assert "inline-key" not in page.text
    assert upload(administrator, "").status_code == 422
    assert (
        "is not text in UTF-8"
        in administrator.post("/configuration/plan", files={"file": ("accession.yaml", b"\xff")}).text
    )


def test_removals_need_the_box_and_the_button(
    administrator: Browser, session: Session, collection: Collection
) -> None:
    response = upload(administrator, {"collections": []})
    assert "kept without pruning" in response.text
    page = upload(administrator, {"collections": []}, prune="true")
    assert "Make 1 change, of which 1 removal" in page.text
    assert names(session) == ["Alder Library"]
    submit(administrator, page)
    assert names(session) == []


def test_outdated_plan_is_shown_again(
    administrator: Browser, session: Session, collection: Collection
) -> None:
    page = upload(administrator, {"collections": []}, prune="true")
    administrator.post(
        "/collections/new", data={**entry(), "account_key": "k", "base_url": "https://v.example"}
    )
    shown = submit(administrator, page)
    assert shown.status_code == 409
    assert "check the new plan" in shown.text
    assert names(session) == ["Alder Library", "Birch Library"]
    submit(administrator, shown)
    assert names(session) == []


def test_export_is_downloaded_without_secrets(
    administrator: Browser, session: Session, collection: Collection
) -> None:
    response = administrator.get("/configuration/export")
    assert response.headers["content-type"] == "application/yaml"
    assert "attachment" in response.headers["content-disposition"]
    assert ACCOUNT_KEY not in response.text
    assert "No differences" in upload(administrator, response.text).text


def test_key_in_the_folder_of_secrets_is_read(
    administrator: Browser, session: Session, secrets_dir: Path
) -> None:
    configured = {"collections": [entry(account_key={"file": str(secrets_dir / "key")})]}
    submit(administrator, upload(administrator, configured))
    (birch,) = list_collections(session)
    assert get_account(birch).account_key.get_secret_value() == "key-in-folder"


@pytest.mark.parametrize("place", ["env", "outside", "parent", "link", "folder"])
def test_other_secrets_of_the_server_are_not_read(
    administrator: Browser, session: Session, secrets_dir: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIRCH_KEY", "key-in-environment")
    outside = secrets_dir.parent / "outside"
    outside.write_text("key-outside")
    (secrets_dir / "link").symlink_to(outside)
    reference = {
        "env": {"env": "BIRCH_KEY"},
        "outside": {"file": str(outside)},
        "parent": {"file": f"{secrets_dir}/../outside"},
        "link": {"file": f"{secrets_dir}/link"},
        "folder": {"file": str(secrets_dir)},
    }[place]
    page = upload(administrator, {"collections": [entry(account_key=reference)]})
    assert page.status_code == 422
    assert "1 mistake" in page.text
    assert names(session) == []


def test_secrets_are_not_read_without_a_folder(api: Browser, session: Session, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("key")
    configured = {"collections": [entry(account_key={"file": str(tmp_path / "key")})]}
    response = api.post(f"{API}/apply", json=configured)
    assert response.status_code == 422
    assert "may not be read from here" in response.json()["detail"]


def test_api_plans_and_applies_json_yaml_and_toml(
    api: Browser, session: Session, collection: Collection
) -> None:
    configured = {"collections": [alder(collection, limits={"max_concurrency": 2})]}
    plan = api.post(f"{API}/plan", json=configured)
    change = {
        "action": "change",
        "description": 'Set request limits of the account of "Alder Library"',
        "details": {"max_concurrency": "inherited → 2"},
    }
    assert plan.json()["changes"] == [change]
    applied = api.post(
        f"{API}/apply", content=yaml.safe_dump(configured), headers={"Content-Type": "application/yaml"}
    )
    assert applied.json()["changes"] == [change]
    toml = f"""
    [[collections]]
    name = "{collection.name}"
    library_id = "{collection.library_id}"
    account_id = "{collection.account_id}"
    base_url = "{collection.base_url}"
    account_key.env = "ALDER_KEY"
    """
    planned = api.post(f"{API}/plan", content=toml, headers={"Content-Type": "application/toml"})
    assert planned.json()["changes"][0]["details"] == {"max_concurrency": "2 → inherited"}


def test_api_lists_all_mistakes(api: Browser, database: None) -> None:
    response = api.post(f"{API}/plan", json={"collections": [{"name": "Birch Library"}], "rules": []})
    assert response.status_code == 422
    detail = response.json()["detail"]
    assert detail.count("is missing") == 3
    assert 'The key "rules" is unknown' in detail


def test_api_prunes_on_request(api: Browser, session: Session, collection: Collection) -> None:
    response = api.post(f"{API}/apply", json={"collections": []}).json()
    assert response["changes"] == []
    assert "kept without pruning" in response["notes"][0]
    api.post(f"{API}/apply?prune=true", json={"collections": []})
    assert names(session) == []


def test_exported_json_has_no_difference(api: Browser, session: Session, collection: Collection) -> None:
    exported = api.get(API).json()
    assert exported["collections"][0]["account_key"] == {"env": "ACCOUNT_KEY_ALDER_LIBRARY"}
    assert api.post(f"{API}/plan?prune=true", json=exported).json()["changes"] == []


def test_configuration_needs_an_administrator(browser: Browser, session: Session, ann: str) -> None:
    browser.log_in()
    for path in ("/configuration", "/configuration/export"):
        assert browser.get(path).status_code == 403
    assert upload(browser, {"collections": []}).status_code == 403
    headers = bearer(make_token(session))
    assert browser.get(API, headers=headers).status_code == 403
    for action in ("plan", "apply"):
        assert browser.post(f"{API}/{action}", json={}, headers=headers).status_code == 403

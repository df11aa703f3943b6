"""Pages and API for administrators: users, tokens, settings, and the page about the installation."""

import re
from pathlib import Path
from typing import Any

import pytest
from lxml import html
from pydantic import SecretStr
from redis import Redis
from sqlalchemy.orm import Session

from accession.auth.audit import AuditFilter, read_audit_log
from accession.auth.roles import UserRole
from accession.auth.tokens import token_views
from accession.auth.users import user_views
from accession.core.settings import get_settings, use_settings
from accession.db.models import Collection
from tests.fixtures.factories import PASSWORD
from tests.fixtures.oidc import ISSUER, make_provider_user
from tests.fixtures.web_client import Browser, OpenBrowser, bearer, make_token, make_user

OTHER_PASSWORD = "another long password"
API = "/api/v1"
ADMINISTRATION = ["/users", "/users/new", "/users/1", "/tokens", "/tokens/new", "/settings"]


def text_of(page: str) -> str:
    return " ".join(" ".join(html.document_fromstring(page).xpath("//main//text()")).split())


def roles(session: Session) -> dict[str, str]:
    session.rollback()
    session.expire_all()
    return {user.name: user.role for user in user_views(session)}


def actions(session: Session) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Return actor, action, subject and details of all entries but logins, oldest first."""
    session.rollback()
    entries = list(read_audit_log(session, AuditFilter()))[::-1]
    return [
        (entry.actor, entry.action, entry.subject, dict(entry.details))
        for entry in entries
        if entry.action != "user.login"
    ]


@pytest.fixture
def administrator(browser: Browser, ada: str) -> Browser:
    """Return a browser in which an administrator is logged in."""
    browser.log_in(ada)
    return browser


# Access


@pytest.mark.parametrize("path", ADMINISTRATION)
def test_administration_needs_an_administrator(browser: Browser, ann: str, path: str) -> None:
    browser.log_in()

    assert browser.get(path).status_code == 403


def test_menu_of_administration_is_for_administrators(browser: Browser, ada: str, ann: str) -> None:
    browser.log_in(ann)
    assert "Audit log" not in browser.get("/").text
    browser.log_in(ada)
    assert "Audit log" in browser.get("/").text


def test_administrator_can_do_what_operators_can(administrator: Browser) -> None:
    assert administrator.get("/collections/new").status_code == 200
    assert "Add a collection" in administrator.get("/").text


# Users


def test_users_are_listed_with_role_and_last_login(administrator: Browser, vic: str) -> None:
    rows = html.document_fromstring(administrator.get("/users").text).xpath("//tbody/tr")

    listed = {row.xpath("string(th)"): [cell.text_content() for cell in row.xpath("td")] for row in rows}
    assert (listed["ada"][0], listed["vic"][0], listed["vic"][3]) == ("administrator", "viewer", "never")
    assert "UTC" in listed["ada"][3]


def test_user_is_added_and_can_log_in(
    administrator: Browser, open_browser: OpenBrowser, session: Session
) -> None:
    form = {"name": " ben ", "password": OTHER_PASSWORD, "role": "operator"}
    response = administrator.post("/users/new", data=form)

    assert (response.status_code, response.headers["location"]) == (303, "/users")
    assert 'User "ben" added.' in text_of(administrator.get("/users").text)
    assert open_browser().log_in("ben", OTHER_PASSWORD).status_code == 303
    assert actions(session) == [("ada", "user.add", "ben", {"role": "operator"})]


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"name": "ben", "password": "sesame"}, "The password is too short"),
        (
            {"name": "ada", "password": OTHER_PASSWORD},
            'set a new password with accession users set-password "ada"',
        ),
        ({"name": "", "password": OTHER_PASSWORD}, "The user name '' is invalid"),
    ],
    ids=["short password", "name in use", "no name"],
)
def test_invalid_user_is_explained_in_the_form(
    administrator: Browser, session: Session, form: dict[str, str], error: str
) -> None:
    response = administrator.post("/users/new", data={**form, "role": "viewer"})

    assert response.status_code == 422
    assert error in text_of(response.text)
    assert form["password"] not in response.text
    assert actions(session) == []


def test_role_and_password_are_changed(
    administrator: Browser, open_browser: OpenBrowser, session: Session, vic: str
) -> None:
    victor = open_browser()
    victor.log_in(vic)
    user_id = next(user.id for user in user_views(session) if user.name == vic)

    administrator.post(f"/users/{user_id}/role", data={"role": "operator"})
    administrator.post(f"/users/{user_id}/password", data={"password": OTHER_PASSWORD})

    assert roles(session)[vic] == "operator"
    assert victor.get("/who").status_code == 303
    assert open_browser().log_in(vic, OTHER_PASSWORD).headers["location"] == "/"
    assert actions(session) == [
        ("ada", "user.set_role", "vic", {"role": "viewer → operator"}),
        ("ada", "user.set_password", "vic", {}),
    ]


def test_too_short_password_is_explained(administrator: Browser, session: Session, vic: str) -> None:
    administrator.post("/users/2/password", data={"password": "short"})

    assert "The password is too short" in administrator.get("/users/2").text
    assert actions(session) == []


def test_user_is_removed_after_confirmation(administrator: Browser, session: Session, vic: str) -> None:
    assert "Remove vic?" in administrator.get("/users/2/remove").text
    assert vic in roles(session)

    administrator.post("/users/2/remove")

    assert roles(session) == {"ada": "administrator"}
    assert actions(session) == [("ada", "user.remove", "vic", {})]


def test_user_is_deactivated_and_activated(
    administrator: Browser, open_browser: OpenBrowser, session: Session, vic: str
) -> None:
    victor = open_browser()
    victor.log_in(vic)

    administrator.post("/users/2/deactivate")

    assert "State deactivated" in text_of(administrator.get("/users/2").text)
    assert "vic deactivated" in text_of(administrator.get("/users").text)
    assert victor.get("/who").status_code == 303
    response = victor.log_in(vic)
    assert response.status_code == 403
    assert 'The user "vic" is deactivated: ask an administrator to activate it.' in text_of(response.text)

    administrator.post("/users/2/activate")

    assert "State active" in text_of(administrator.get("/users/2").text)
    assert victor.log_in(vic).status_code == 303
    assert actions(session) == [
        ("ada", "user.deactivate", "vic", {}),
        ("", "user.login_failed", "vic", {"reason": "deactivated"}),
        ("ada", "user.activate", "vic", {}),
    ]


def test_user_of_provider_is_shown_without_password(administrator: Browser, session: Session) -> None:
    user = make_provider_user(session, "olga")

    assert f"olga operator {ISSUER}" in text_of(administrator.get("/users").text)
    page = administrator.get(f"/users/{user.id}")
    assert f"Login {ISSUER}" in text_of(page.text)
    assert "The role comes from groups at the provider at each login." in text_of(page.text)
    forms = [form.action for form in html.document_fromstring(page.text).xpath("//main//form")]
    assert forms == [f"/users/{user.id}/deactivate"]


def test_password_or_role_of_provider_user_is_refused(administrator: Browser, session: Session) -> None:
    user = make_provider_user(session, "olga")

    administrator.post(f"/users/{user.id}/password", data={"password": OTHER_PASSWORD})
    assert "has no password here" in text_of(administrator.get(f"/users/{user.id}").text)
    response = administrator.post(f"/users/{user.id}/role", data={"role": "administrator"})
    assert (response.status_code, roles(session)["olga"]) == (409, "operator")


@pytest.mark.parametrize("action", ["remove", "role", "deactivate"])
def test_administrators_cannot_lock_themselves_out(
    administrator: Browser, session: Session, action: str
) -> None:
    response = administrator.post(f"/users/1/{action}", data={"role": "viewer"})

    assert response.status_code == 409
    assert "You cannot remove or deactivate yourself or change your own role" in text_of(response.text)
    assert roles(session) == {"ada": "administrator"}
    assert "Remove" not in text_of(administrator.get("/users/1").text)


def test_first_user_must_be_an_administrator(browser: Browser, session: Session) -> None:
    form = {"name": "ben", "password": OTHER_PASSWORD}
    refused = browser.post("/users/new", data={**form, "role": "operator"})
    assert "The first user must be an administrator" in text_of(refused.text)
    assert "No users" in browser.get("/users").text

    browser.post("/users/new", data={**form, "role": "administrator"})

    assert roles(session) == {"ben": "administrator"}
    assert browser.get("/users").headers["location"] == "/login?next=/users"


def test_unknown_user_is_not_found(administrator: Browser) -> None:
    assert administrator.get("/users/99").status_code == 404


def test_api_manages_users(browser: Browser, session: Session, ann: str) -> None:
    headers = bearer(make_token(session, role=UserRole.ADMINISTRATOR))

    def send(method: str, path: str, **json: Any) -> Any:
        return browser.request(method, f"{API}{path}", json=json, headers=headers)

    added = send("POST", "/users", name="ben", password=OTHER_PASSWORD, role="viewer")
    assert (added.status_code, added.json()["name"]) == (201, "ben")
    assert send("POST", "/users", name="ben", password=OTHER_PASSWORD, role="viewer").status_code == 409
    changed = send("PATCH", f"/users/{added.json()['id']}", role="operator", password=PASSWORD)
    assert (changed.json()["role"], changed.json()["issuer"]) == ("operator", None)
    for active in (False, True):
        changed = send("PATCH", f"/users/{added.json()['id']}", active=active)
        assert (changed.json()["deactivated_at"] is None) == active
    assert [user["name"] for user in browser.get(f"{API}/users", headers=headers).json()] == ["ann", "ben"]
    assert send("DELETE", f"/users/{added.json()['id']}").status_code == 204
    assert [action for _, action, _, _ in actions(session)] == [
        "user.add",
        "user.set_role",
        "user.set_password",
        "user.deactivate",
        "user.activate",
        "user.remove",
    ]


# Tokens


def test_token_is_shown_once_and_works_until_revoked(administrator: Browser, session: Session) -> None:
    page = administrator.post("/tokens/new", data={"name": "script", "role": "viewer"}).text
    (token,) = re.findall(r'value="(acc_[\w-]+)"', page)

    assert administrator.get(f"{API}/status", headers=bearer(token)).status_code == 200
    listed = administrator.get("/tokens").text
    assert token not in listed
    assert "script" in listed

    assert "Revoke script?" in administrator.get("/tokens/1/revoke").text
    administrator.post("/tokens/1/revoke")

    assert administrator.get(f"{API}/status", headers=bearer(token)).status_code == 401
    assert "No tokens" in administrator.get("/tokens").text
    assert actions(session) == [
        ("ada", "token.add", "script", {"role": "viewer"}),
        ("ada", "token.revoke", "script", {}),
    ]


def test_feed_token_is_limited_to_a_collection(
    administrator: Browser, session: Session, collection: Collection
) -> None:
    form = {"name": "app", "role": "", "feeds": ["oai", "opds"], "collection": str(collection.id)}
    administrator.post("/tokens/new", data=form)

    session.rollback()
    (token,) = token_views(session)
    assert (token.role, token.feeds, token.collection) == (None, ("oai", "opds"), "Alder Library")
    assert actions(session)[-1][3] == {"feeds": ["oai", "opds"], "collection": "Alder Library"}


@pytest.mark.parametrize(
    "form",
    [{"role": ""}, {"role": "viewer", "feeds": "oai"}, {"role": "viewer", "collection": "1"}],
    ids=["neither", "both", "role of a collection"],
)
def test_token_needs_either_role_or_feeds(
    administrator: Browser, session: Session, collection: Collection, form: dict[str, str]
) -> None:
    response = administrator.post("/tokens/new", data={"name": "app", **form})

    assert response.status_code == 422
    assert "Choose either a role, or feeds" in text_of(response.text)
    assert token_views(session) == []


def test_api_manages_tokens(browser: Browser, session: Session, ann: str) -> None:
    headers = bearer(make_token(session, "admin", role=UserRole.ADMINISTRATOR))
    created = browser.post(f"{API}/tokens", json={"name": "app", "feeds": ["opds"]}, headers=headers)
    assert created.json()["token"].startswith("acc_")

    tokens = {token["name"]: token for token in browser.get(f"{API}/tokens", headers=headers).json()}
    assert (tokens["app"]["feeds"], tokens["admin"]["role"]) == (["opds"], "administrator")
    for status in (204, 404):
        url = f"{API}/tokens/{tokens['app']['id']}"
        assert browser.request("DELETE", url, headers=headers).status_code == status
    unknown = {"name": "x", "feeds": ["oai"], "collection": "Nowhere"}
    assert browser.post(f"{API}/tokens", json=unknown, headers=headers).status_code == 404


@pytest.mark.parametrize("path", ["users", "tokens", "settings"])
def test_api_of_administration_needs_an_administrator(browser: Browser, session: Session, path: str) -> None:
    make_user(session, "ann", UserRole.OPERATOR)

    response = browser.get(f"{API}/{path}", headers=bearer(make_token(session)))

    assert response.status_code == 403


# Settings


def settings_row(browser: Browser, name: str) -> str:
    page = html.document_fromstring(browser.get("/settings").text)
    (row,) = page.xpath(f"//tr[th/code='ACCESSION_{name}']")
    return " ".join(" ".join(row.itertext()).split())


def test_settings_show_value_source_and_description(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCESSION_LOG_LEVEL", "debug")

    row = settings_row(browser, "LOG_LEVEL")

    assert "Minimum severity of log messages." in row
    assert row.endswith("info Has changed: restart Accession to use it. environment ACCESSION_LOG_LEVEL")
    assert settings_row(browser, "TIME_ZONE").endswith("UTC default")


def test_settings_mask_secrets(browser: Browser) -> None:
    page = browser.get("/settings").text

    url = get_settings().database_url
    assert url is not None
    assert url.get_secret_value() not in page
    assert settings_row(browser, "DATABASE_URL").endswith("set Default: not set embedded server")
    assert {s["name"]: s["value"] for s in browser.get(f"{API}/settings").json()}["database_url"] == "set"


def test_settings_that_differ_can_be_filtered(browser: Browser) -> None:
    page = browser.get("/settings?changed=true").text

    assert "ACCESSION_DATABASE_URL" in page
    assert "ACCESSION_TIME_ZONE" not in page


def test_settings_from_file_and_secret_file_are_named(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "accession.toml").write_text('time_zone = "Europe/Berlin"\n')
    (tmp_path / "accession_secret_key").write_text("hunter2")
    monkeypatch.setenv("ACCESSION_HOME", str(tmp_path))
    monkeypatch.setenv("ACCESSION_SECRETS_DIR", str(tmp_path))

    assert settings_row(browser, "TIME_ZONE").endswith(f"settings file {tmp_path}/accession.toml")
    assert settings_row(browser, "SECRET_KEY").endswith(f"secret file {tmp_path}/accession_secret_key")
    assert "hunter2" not in browser.get("/settings").text


def test_settings_that_became_invalid_are_explained(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCESSION_TIME_ZONE", "Mars/Olympus")

    assert "ACCESSION_TIME_ZONE" in text_of(browser.get("/settings").text)
    assert browser.get(f"{API}/settings").status_code == 409


# About


def test_about_shows_versions_workers_and_queues(browser: Browser, redis: Redis) -> None:
    from accession.tasks.heartbeats import record_scheduler_tick, record_worker_heartbeat, record_worker_stop

    record_scheduler_tick()
    record_worker_heartbeat("accession-42@alder.example")
    record_worker_heartbeat("accession-43@gone.example")
    record_worker_stop("accession-43@gone.example")
    redis.lpush("default", "message")

    about = browser.get(f"{API}/about").json()
    page = text_of(browser.get("/about").text)

    assert about["schema"] == "0001"
    assert [(worker["host"], worker["pid"]) for worker in about["processes"]["workers"]] == [
        ("alder.example", 42)
    ]
    assert {queue["name"]: queue["waiting"] for queue in about["processes"]["queues"]} == {
        "default": 1,
        "apply": 0,
    }
    assert "alder.example 42" in page
    assert "gone.example" not in page
    assert re.search(r"valkey \d", page)


def test_about_without_processes_says_how_to_start_them(browser: Browser) -> None:
    page = text_of(browser.get("/about").text)

    assert "No worker has sent a heartbeat in the last 30 seconds: start one with accession up" in page
    assert "No tick of the scheduler is recorded" in page


def test_about_without_broker_shows_versions(browser: Browser, vic: str) -> None:
    browser.log_in(vic)
    unreachable = SecretStr("redis://:secret@127.0.0.1:1/0")
    use_settings(get_settings().model_copy(update={"redis_url": unreachable}))

    page = text_of(browser.get("/about").text)

    assert "The broker is unavailable" in page
    assert "PostgreSQL" in page
    assert "secret" not in page

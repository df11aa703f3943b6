"""Login at an OpenID Connect provider: users and roles from it, and every reason to refuse a login."""

import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import pytest
import time_machine
from joserfc.jwk import OctKey
from lxml import html
from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.auth.audit import AuditFilter, read_audit_log
from accession.auth.users import UserView, deactivate_user, user_views
from accession.core.settings import get_settings, use_settings
from accession.web.login import ID_TOKEN_COOKIE
from accession.web.sessions import COOKIE
from tests.fixtures.factories import NOON
from tests.fixtures.oidc import CLIENT_ID, CLIENT_SECRET, SimulatedProvider, new_key, simulated_provider
from tests.fixtures.web_client import Browser

CALLBACK = "http://127.0.0.1:8642/login/oidc/callback"


@pytest.fixture
def provider(browser: Browser) -> Iterator[SimulatedProvider]:
    """Return the provider of the settings."""
    before = get_settings()
    with simulated_provider() as provider:
        configure(
            oidc_issuer=provider.issuer,
            oidc_client_id=CLIENT_ID,
            oidc_client_secret=SecretStr(CLIENT_SECRET),
            oidc_group_roles={
                "library-viewers": "viewer",
                "library-operators": "operator",
                "library-administrators": "administrator",
            },
        )
        yield provider
    use_settings(before)


def configure(**values: Any) -> None:
    """Change settings of this process."""
    use_settings(get_settings().model_copy(update=values))


def start(browser: Browser, next_path: str = "/") -> str:
    """Press the button of the login page, and return the address at the provider."""
    response = browser.get("/login/oidc", params={"next": next_path})
    assert response.status_code == 303
    return response.headers["location"]


def log_in(browser: Browser, provider: SimulatedProvider, next_path: str = "/") -> httpx.Response:
    """Log in as a person does who is logged in at the provider already."""
    return browser.get(provider.approve(start(browser, next_path)))


def alert(response: httpx.Response) -> str:
    (node,) = html.document_fromstring(response.text).xpath("//*[@role='alert']")
    return " ".join(node.text_content().split())


def users(session: Session) -> list[UserView]:
    session.rollback()
    session.expire_all()
    return user_views(session)


def entries(session: Session) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Return actor, action, subject and details of all entries of the audit log, oldest first."""
    session.rollback()
    log = reversed(list(read_audit_log(session, AuditFilter())))
    return [(entry.actor, entry.action, entry.subject, dict(entry.details)) for entry in log]


def assert_refused(
    response: httpx.Response, browser: Browser, session: Session, status: int, sentence: str
) -> None:
    assert response.status_code == status
    assert sentence in alert(response)
    assert COOKIE not in browser.cookies
    assert users(session) == []


# Way there and back


def test_login_page_has_button_beside_password_form(browser: Browser, provider: SimulatedProvider) -> None:
    configure(oidc_button_label="Library & login")

    page = html.document_fromstring(browser.get("/login", params={"next": "/runs?page=2"}).text)

    (button,) = page.xpath("//a[normalize-space()='Library & login']")
    assert button.get("href") == "/login/oidc?next=%2Fruns%3Fpage%3D2"
    assert page.forms[0].action == "/login"
    assert provider.requested_paths == []


def test_request_to_provider_is_protected(browser: Browser, provider: SimulatedProvider) -> None:
    first, second = (dict(parse_qsl(urlsplit(start(browser)).query)) for _ in range(2))

    random = {name: first.pop(name) for name in ("state", "nonce", "code_challenge")}
    assert all(len(value) == 43 and value != second[name] for name, value in random.items())
    assert first == {
        "theme": "light",
        "response_type": "code",
        "client_id": CLIENT_ID,
        "redirect_uri": CALLBACK,
        "scope": "openid profile email",
        "code_challenge_method": "S256",
    }


def test_person_with_a_group_logs_in_and_becomes_user(
    browser: Browser, provider: SimulatedProvider, session: Session
) -> None:
    response = log_in(browser, provider, "/runs?page=2")

    assert (response.status_code, response.headers["location"]) == (303, "/runs?page=2")
    assert browser.get("/who").json() == {"name": "olga", "role": "operator", "by": "session"}
    (user,) = users(session)
    assert (user.name, user.role, user.issuer) == ("olga", "operator", provider.issuer)
    assert user.last_login_at is not None
    assert entries(session) == [
        ("olga", "user.add", "olga", {"role": "operator", "provider": provider.issuer}),
        ("olga", "user.login", "olga", {"provider": provider.issuer}),
    ]


def test_redirect_uri_is_below_the_public_url(browser: Browser, provider: SimulatedProvider) -> None:
    configure(public_url="https://accession.example/catalogue/")

    query = parse_qs(urlsplit(start(browser)).query)

    assert query["redirect_uri"] == ["https://accession.example/catalogue/login/oidc/callback"]


def test_login_and_its_cookies_stay_below_a_path(browser: Browser, provider: SimulatedProvider) -> None:
    configure(public_url="http://127.0.0.1:8642/catalogue")

    response = log_in(browser, provider, "/runs")

    assert (response.status_code, response.headers["location"]) == (303, "/catalogue/runs")
    paths = {cookie.name: cookie.path for cookie in browser.cookies.jar}
    assert paths == {f"{COOKIE}_catalogue": "/catalogue", ID_TOKEN_COOKIE: "/catalogue/logout"}


def test_login_never_returns_to_foreign_site(browser: Browser, provider: SimulatedProvider) -> None:
    assert log_in(browser, provider, "//evil.example").headers["location"] == "/"


def test_logged_in_user_is_not_sent_to_provider(browser: Browser, provider: SimulatedProvider) -> None:
    log_in(browser, provider)

    assert start(browser, "/runs") == "/runs"


def test_login_path_without_provider_is_not_found(browser: Browser, ann: str) -> None:
    assert browser.get("/login/oidc").status_code == 404
    assert browser.get("/login/oidc/callback").status_code == 404


def test_login_is_required_before_there_is_a_user(browser: Browser, provider: SimulatedProvider) -> None:
    assert browser.get("/who").headers["location"] == "/login?next=/who"


def test_documents_of_provider_are_cached(browser: Browser, provider: SimulatedProvider) -> None:
    for _ in range(3):
        browser.cookies.clear()
        log_in(browser, provider)

    assert provider.requested_paths == [
        "/.well-known/openid-configuration",
        "/token",
        "/keys",
        *["/token"] * 2,
    ]


def test_public_client_sends_no_secret(browser: Browser, provider: SimulatedProvider) -> None:
    configure(oidc_client_secret=None)
    provider.client_secret = None

    assert log_in(browser, provider).status_code == 303


def test_secret_is_sent_in_form_if_provider_wants_that(browser: Browser, provider: SimulatedProvider) -> None:
    provider.metadata["token_endpoint_auth_methods_supported"] = ["client_secret_post"]

    assert log_in(browser, provider).status_code == 303


# Users and roles


@pytest.mark.parametrize(
    ("groups", "role"),
    [
        (["library-viewers"], "viewer"),
        (["library-viewers", "library-administrators", "library-operators"], "administrator"),
        ("library-operators", "operator"),
        ([7, None, {"a": 1}, "library-viewers"], "viewer"),
    ],
    ids=["one group", "highest of several", "text", "other types"],
)
def test_role_is_highest_of_the_groups(
    browser: Browser, provider: SimulatedProvider, groups: Any, role: str
) -> None:
    provider.claims["groups"] = groups
    log_in(browser, provider)
    assert browser.get("/who").json()["role"] == role


@pytest.mark.parametrize(
    ("path", "claims"),
    [
        ("realm_access.roles", {"realm_access": {"roles": ["library-viewers"]}}),
        ("https://library.example/roles", {"https://library.example/roles": ["library-viewers"]}),
        ("email", {"email": "library-viewers", "email_verified": True}),
    ],
)
def test_roles_claim_is_a_name_or_a_path(
    browser: Browser, provider: SimulatedProvider, path: str, claims: dict[str, Any]
) -> None:
    configure(oidc_roles_claim=path)
    provider.claims.update(claims, groups=["library-administrators"])
    log_in(browser, provider)
    assert browser.get("/who").json()["role"] == "viewer"


@pytest.mark.parametrize(
    ("path", "claims"),
    [
        ("groups", {"groups": []}),
        ("groups", {"groups": ["library-viewer", "Library-Viewers"]}),
        ("groups", {"groups": None}),
        ("groups.roles", {}),
        ("email", {"email": "library-viewers"}),
        ("email", {"email": "library-viewers", "email_verified": "true"}),
    ],
    ids=["no group", "other groups", "no claim", "no path", "email not verified", "email verified as text"],
)
def test_person_without_matching_group_is_refused(
    browser: Browser, provider: SimulatedProvider, session: Session, path: str, claims: dict[str, Any]
) -> None:
    configure(oidc_roles_claim=path)
    provider.claims.update(claims)

    response = log_in(browser, provider)

    sentence = '"olga" is in no group that may use Accession: ask an administrator of the provider'
    assert_refused(response, browser, session, 403, sentence)
    details = {"provider": provider.issuer, "reason": "no group with a role"}
    assert entries(session) == [("", "user.login_failed", "olga", details)]


def test_role_follows_the_groups_at_every_login(
    browser: Browser, provider: SimulatedProvider, session: Session
) -> None:
    log_in(browser, provider)
    browser.cookies.clear()
    provider.claims.update(groups=["library-viewers"], preferred_username="olga.new")

    log_in(browser, provider)

    assert browser.get("/who").json() == {"name": "olga", "role": "viewer", "by": "session"}
    details = {"role": "operator → viewer", "provider": provider.issuer}
    assert ("olga", "user.set_role", "olga", details) in entries(session)


def test_loss_of_all_groups_ends_sessions_of_user(browser: Browser, provider: SimulatedProvider) -> None:
    other = Browser(browser.app)
    log_in(other, provider)
    provider.claims["groups"] = []

    assert log_in(browser, provider).status_code == 403

    assert other.get("/who").status_code == 303


def test_name_or_email_never_leads_to_other_user(
    browser: Browser, provider: SimulatedProvider, session: Session, ada: str
) -> None:
    """Otherwise whoever can choose a name at the provider could take over an administrator."""
    provider.claims.update(preferred_username=ada, email=ada)
    log_in(browser, provider)
    second = Browser(browser.app)
    provider.claims["sub"] = "subject-2"
    log_in(second, provider)

    assert browser.get("/who").json() == {"name": "ada (2)", "role": "operator", "by": "session"}
    assert second.get("/who").json()["name"] == "ada (3)"
    assert [(user.name, user.issuer is None) for user in users(session)] == [
        ("ada", True),
        ("ada (2)", False),
        ("ada (3)", False),
    ]


def test_same_subject_of_other_issuer_is_another_user(
    browser: Browser, provider: SimulatedProvider, session: Session
) -> None:
    log_in(browser, provider)
    old = Browser(browser.app, cookies=browser.cookies)
    with simulated_provider() as other:
        configure(oidc_issuer=other.issuer)
        assert old.get("/who").status_code == 303
        fresh = Browser(browser.app)
        log_in(fresh, other)
        assert fresh.get("/who").json()["name"] == "olga (2)"


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"preferred_username": None, "email": "olga@library.example"}, "olga@library.example"),
        ({"preferred_username": None, "name": "Olga\n Tokarczuk\u202e "}, "Olga Tokarczuk"),
        ({"preferred_username": None}, "subject-1"),
        ({"preferred_username": ["olga"]}, "subject-1"),
        ({"preferred_username": "\x00"}, "subject-1"),
        ({"preferred_username": "o" * 5000}, "o" * 90),
    ],
    ids=["email", "full name", "subject", "no text", "no printable character", "long"],
)
def test_user_has_a_valid_name_whatever_provider_sends(
    browser: Browser, provider: SimulatedProvider, claims: dict[str, Any], name: str
) -> None:
    provider.claims.update(claims)
    log_in(browser, provider)
    assert browser.get("/who").json()["name"] == name


def test_deactivated_user_cannot_log_in(
    browser: Browser, provider: SimulatedProvider, session: Session
) -> None:
    log_in(browser, provider)
    deactivate_user(session, "olga")
    session.commit()
    assert browser.get("/who").status_code == 303

    response = log_in(browser, provider)

    assert (response.status_code, alert(response)) == (
        403,
        'The user "olga" is deactivated: ask an administrator to activate it.',
    )
    assert browser.get("/who").status_code == 303


def test_session_of_provider_user_ends_after_12_hours(browser: Browser, provider: SimulatedProvider) -> None:
    """Whoever is deactivated at the provider loses access by then, however busy the session is."""
    with time_machine.travel(NOON, tick=False) as clock:
        log_in(browser, provider)
        for hours in (5, 6):
            clock.shift(timedelta(hours=hours))
            response = browser.get("/who")
            assert (response.status_code, "set-cookie" in response.headers) == (200, False)
        clock.shift(timedelta(hours=2))
        assert browser.get("/who").status_code == 303


# Refused ID tokens

HOUR = 60 * 60
NOT_FOR_THIS_LOGIN = "the provider's ID token is not for this login ({})"
CLOCKS = "the clocks of the OpenID Connect provider and of this server differ"


@pytest.mark.parametrize(
    ("claims", "sentence"),
    [
        ({"nonce": "of another login"}, NOT_FOR_THIS_LOGIN.format("nonce")),
        ({"nonce": None}, NOT_FOR_THIS_LOGIN.format("nonce")),
        ({"aud": "another client"}, NOT_FOR_THIS_LOGIN.format("aud")),
        ({"aud": None}, NOT_FOR_THIS_LOGIN.format("aud")),
        ({"azp": "another client", "aud": [CLIENT_ID, "another client"]}, NOT_FOR_THIS_LOGIN.format("azp")),
        ({"iss": "https://evil.example"}, NOT_FOR_THIS_LOGIN.format("iss")),
        ({"sub": None}, NOT_FOR_THIS_LOGIN.format("sub")),
        ({"sub": 7}, NOT_FOR_THIS_LOGIN.format("sub")),
        ({"sub": "a\x00"}, "unusable response (ID token: sub)"),
        ({"exp": lambda now: now - 61}, CLOCKS),
        ({"exp": None}, NOT_FOR_THIS_LOGIN.format("exp")),
        ({"iat": lambda now: now + HOUR}, CLOCKS),
        ({"nbf": lambda now: now + HOUR}, CLOCKS),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_id_token_with_wrong_claim_is_refused(
    browser: Browser, provider: SimulatedProvider, session: Session, claims: dict[str, Any], sentence: str
) -> None:
    now = int(time.time())
    provider.claims = {name: value(now) if callable(value) else value for name, value in claims.items()}

    response = log_in(browser, provider)

    assert_refused(response, browser, session, 502, sentence)


def test_clocks_may_differ_by_less_than_a_minute(browser: Browser, provider: SimulatedProvider) -> None:
    now = int(time.time())
    provider.claims = {"iat": now + 30, "exp": now + 60}

    assert log_in(browser, provider).status_code == 303


def use_wrong_key(provider: SimulatedProvider) -> None:
    provider.signing_key = new_key()


def use_client_secret(provider: SimulatedProvider) -> None:
    provider.algorithm, provider.signing_key = "HS256", OctKey.import_key(CLIENT_SECRET)


def use_public_key_as_secret(provider: SimulatedProvider) -> None:
    provider.algorithm = "HS256"
    provider.signing_key = OctKey.import_key(urlsafe_b64encode(provider.keys[0].as_bytes(private=False)))


def withdraw_key(provider: SimulatedProvider) -> None:
    provider.published = [new_key()]


@pytest.mark.parametrize("forge", [use_wrong_key, use_client_secret, use_public_key_as_secret, withdraw_key])
def test_id_token_without_valid_signature_is_refused(
    browser: Browser,
    provider: SimulatedProvider,
    session: Session,
    forge: Callable[[SimulatedProvider], None],
) -> None:
    forge(provider)

    response = log_in(browser, provider)

    sentence = "the signature of the provider's ID token cannot be verified"
    assert_refused(response, browser, session, 502, sentence)


def encoded(value: Any) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def replace_claims(id_token: str) -> str:
    header, _, signature = id_token.split(".")
    return ".".join((header, encoded({"sub": "administrator"}), signature))


def remove_signature(id_token: str) -> str:
    _, claims, _ = id_token.split(".")
    return ".".join((encoded({"alg": "none"}), claims, ""))


@pytest.mark.parametrize(
    "change",
    [
        replace_claims,
        remove_signature,
        lambda token: token[:-4],
        lambda token: "",
        lambda token: "a.b.c",
        lambda token: "é.\0",
        lambda token: ".".join(map(encoded, ({"alg": "ES256"}, "text", ""))),
        lambda token: ".".join(map(encoded, ({"alg": "ES256", "crit": None}, {}, ""))),
    ],
)
def test_tampered_id_token_is_refused(
    browser: Browser, provider: SimulatedProvider, session: Session, change: Callable[[str], str]
) -> None:
    callback = provider.approve(start(browser))
    (parameters,) = provider.codes.values()
    body = json.dumps({"id_token": change(provider._sign(parameters["nonce"]))})
    provider.documents["/token"] = 200, body.encode()

    response = browser.get(callback)

    sentence = "the signature of the provider's ID token cannot be verified"
    assert_refused(response, browser, session, 502, sentence)


def test_new_key_of_provider_is_fetched_at_once(browser: Browser, provider: SimulatedProvider) -> None:
    log_in(browser, provider)
    browser.cookies.clear()
    provider.keys = [new_key()]

    assert log_in(browser, provider).status_code == 303

    provider.published = [new_key()]
    browser.cookies.clear()
    assert log_in(browser, provider).status_code == 303, "a withdrawn key is trusted while it is cached"


def test_keys_that_are_not_understood_are_ignored(browser: Browser, provider: SimulatedProvider) -> None:
    keys = [{"kty": "PQ", "kid": "1"}, {"kty": "EC", "crv": "P-999"}, {}, 7]
    keys.append(provider.keys[0].as_dict(private=False))
    provider.documents["/keys"] = 200, json.dumps({"keys": keys}).encode()

    assert log_in(browser, provider).status_code == 303


# Responses that belong to no login

WRONG_STATE = "The login took longer than 10 minutes, or was started in another window"


def test_response_with_wrong_state_is_refused(
    browser: Browser, provider: SimulatedProvider, session: Session
) -> None:
    """Otherwise another site could log in its visitors as somebody else."""
    path, query = provider.approve(start(browser)).split("?")

    response = browser.get(path, params={"code": parse_qs(query)["code"][0], "state": "ä"})

    assert_refused(response, browser, session, 400, WRONG_STATE)
    assert "/token" not in provider.requested_paths


def test_response_in_another_browser_is_refused(
    browser: Browser, provider: SimulatedProvider, session: Session
) -> None:
    other = Browser(browser.app)

    response = other.get(provider.approve(start(browser)))

    assert_refused(response, other, session, 400, WRONG_STATE)


def test_response_after_ten_minutes_is_refused(
    browser: Browser, provider: SimulatedProvider, session: Session
) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        callback = provider.approve(start(browser))
        cookies = {cookie.name: cookie.value or "" for cookie in browser.cookies.jar}
        clock.shift(timedelta(minutes=10, seconds=1))
        browser.cookies = httpx.Cookies(cookies)
        response = browser.get(callback)

    assert_refused(response, browser, session, 400, WRONG_STATE)


def test_response_cannot_be_used_twice(browser: Browser, provider: SimulatedProvider) -> None:
    callback = provider.approve(start(browser))
    pending = Browser(browser.app, cookies=httpx.Cookies(browser.cookies))
    assert browser.get(callback).status_code == 303

    assert browser.get(callback).status_code == 400
    response = pending.get(callback)
    assert response.status_code == 502
    assert "because it took too long or was used before: log in again" in alert(response)


# Errors of the provider


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("access_denied", "The login was cancelled, or you may not use Accession at the provider"),
        ("server_error", "The OpenID Connect provider refused the login (server_error)"),
        ("<b>Call 555-1234</b>", "The OpenID Connect provider refused the login (unknown error)"),
        ("", "The OpenID Connect provider refused the login (unknown error)"),
    ],
)
def test_error_of_provider_is_explained(
    browser: Browser, provider: SimulatedProvider, session: Session, error: str, sentence: str
) -> None:
    parameters = dict(parse_qsl(urlsplit(start(browser, "/runs")).query))

    response = browser.get(provider.callback(parameters, error=error, error_description="555-1234"))

    assert_refused(response, browser, session, 403, sentence)
    assert "555" not in response.text
    assert "next=%2Fruns" in response.text


def test_wrong_client_secret_is_explained(
    browser: Browser, provider: SimulatedProvider, session: Session
) -> None:
    provider.client_secret = "another"

    response = log_in(browser, provider)

    sentence = "an administrator has to correct ACCESSION_OIDC_CLIENT_ID and ACCESSION_OIDC_CLIENT_SECRET."
    assert_refused(response, browser, session, 502, sentence)


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/keys", "/token"])
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"Internal error"),
        (302, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b"\xff"),
        (200, b'{"keys": 1, "issuer": 7}'),
        (200, b'{"padding": "' + b" " * 2_000_000 + b'"}'),
    ],
    ids=["error", "redirect", "HTML", "no object", "no UTF-8", "wrong types", "2 MB"],
)
def test_unusable_response_of_provider_is_explained(
    browser: Browser, provider: SimulatedProvider, session: Session, path: str, status: int, body: bytes
) -> None:
    if path != "/.well-known/openid-configuration":
        callback = provider.approve(start(browser))
    provider.documents[path] = status, body

    if path == "/.well-known/openid-configuration":
        response = browser.get("/login/oidc")
    else:
        response = browser.get(callback)

    assert_refused(response, browser, session, 502, "The OpenID Connect provider sent an unusable response (")


def test_unreachable_provider_leaves_password_login(
    browser: Browser, provider: SimulatedProvider, ann: str
) -> None:
    configure(oidc_issuer="http://127.0.0.1:9")

    response = browser.get("/login/oidc")

    assert response.status_code == 502
    assert "The OpenID Connect provider at 127.0.0.1 cannot be reached: try again later" in alert(response)
    assert browser.log_in(ann).status_code == 303


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({"issuer": "https://login.example"}, "calls itself https://login.example, not http://127.0.0.1:"),
        ({"token_endpoint": "http://login.example/token"}, "(discovery document: token_endpoint)"),
        ({"jwks_uri": None}, "(discovery document: jwks_uri)"),
    ],
    ids=["issuer", "no TLS", "missing"],
)
def test_wrong_discovery_document_is_explained(
    browser: Browser,
    provider: SimulatedProvider,
    session: Session,
    metadata: dict[str, Any],
    sentence: str,
) -> None:
    provider.metadata = metadata

    assert_refused(browser.get("/login/oidc"), browser, session, 502, sentence)


def test_no_code_token_or_secret_is_logged(
    browser: Browser, provider: SimulatedProvider, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    responses = []
    codes: list[str] = []
    for claims, secret in (({}, CLIENT_SECRET), ({"nonce": "x"}, CLIENT_SECRET), ({}, "another")):
        provider.claims, provider.client_secret = claims, secret
        browser.cookies.clear()
        url = start(browser)
        callback = provider.approve(url)
        codes += [*provider.codes, *(value for value in parse_qs(urlsplit(url).query)["state"])]
        responses.append(browser.get(callback))

    output = "".join(capsys.readouterr()) + "".join(response.text for response in responses)
    assert "login at provider failed" in output
    assert [response.status_code for response in responses] == [303, 502, 502]
    audit = json.dumps(entries(session))
    for secret in (*codes, *provider.id_tokens, CLIENT_SECRET):
        assert secret not in output
        assert secret not in audit


# Only the provider


def test_only_administrators_keep_their_passwords(
    browser: Browser, provider: SimulatedProvider, session: Session, ann: str, ada: str
) -> None:
    earlier = Browser(browser.app)
    earlier.log_in(ann)
    configure(oidc_required=True)

    response = browser.log_in(ann)

    assert (response.status_code, alert(response)) == (
        403,
        "Only administrators may log in with a password: use “Log in with single sign-on”.",
    )
    assert earlier.get("/who").status_code == 303
    assert ("", "user.login_failed", "ann", {"reason": "password not allowed"}) in entries(session)
    assert browser.log_in(ann, "a wrong password").status_code == 401
    assert browser.log_in(ada).status_code == 303


def test_password_form_is_folded_if_provider_is_required(
    browser: Browser, provider: SimulatedProvider
) -> None:
    configure(oidc_required=True)

    page = html.document_fromstring(browser.get("/login").text)

    (details,) = page.xpath("//details[not(@open)]")
    assert [form.action for form in details.xpath(".//form")] == ["/login"]
    assert page.xpath("//a[@class='btn btn-primary w-100']/@href") == ["/login/oidc?next=%2F"]


# Logout


def test_logout_continues_at_the_provider(browser: Browser, provider: SimulatedProvider) -> None:
    log_in(browser, provider)

    response = browser.post("/logout")

    page = html.document_fromstring(response.text)
    (refresh,) = page.xpath("//meta[@http-equiv='refresh']/@content")
    (link,) = page.xpath("//main//a/@href")
    assert refresh == f"0; url={link}"
    assert link.startswith(f"{provider.issuer}/logout?")
    assert dict(parse_qsl(urlsplit(link).query)) == {
        "client_id": CLIENT_ID,
        "post_logout_redirect_uri": "http://127.0.0.1:8642/login",
        "id_token_hint": provider.id_tokens[-1],
    }
    assert browser.get("/who").status_code == 303


def test_long_id_token_is_not_kept_for_the_logout(browser: Browser, provider: SimulatedProvider) -> None:
    provider.claims["groups"] = ["library-viewers", *(f"group {number}" for number in range(500))]
    log_in(browser, provider)

    response = browser.post("/logout")

    assert response.status_code == 200
    assert "id_token_hint" not in response.text


def test_logout_without_logout_of_provider_shows_login(browser: Browser, provider: SimulatedProvider) -> None:
    provider.metadata["end_session_endpoint"] = None
    log_in(browser, provider)

    assert browser.post("/logout").headers["location"] == "/login"


def test_logout_while_provider_is_away_shows_login(browser: Browser, provider: SimulatedProvider) -> None:
    log_in(browser, provider)
    configure(oidc_client_id="new registration, without cached documents")
    provider.documents["/.well-known/openid-configuration"] = 503, b""

    assert browser.post("/logout").headers["location"] == "/login"
    assert browser.get("/who").status_code == 303


def test_logout_of_password_user_stays_here(browser: Browser, provider: SimulatedProvider, ann: str) -> None:
    browser.log_in(ann)

    assert browser.post("/logout").headers["location"] == "/login"

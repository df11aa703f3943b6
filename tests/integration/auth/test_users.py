"""Users, their passwords and sessions."""

import unicodedata
from typing import Any

import pytest
from argon2 import PasswordHasher, extract_parameters
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.auth import passwords
from accession.auth.roles import UserRole
from accession.auth.tokens import add_token
from accession.auth.users import (
    LoginRefusal,
    activate_user,
    add_user,
    authenticate_user,
    deactivate_user,
    find_session_user,
    find_user,
    has_users,
    remove_user,
    set_password,
    set_role,
    user_views,
)
from accession.core.errors import UserError
from accession.db.models import User
from tests.fixtures.factories import PASSWORD
from tests.fixtures.oidc import ISSUER, make_provider_user
from tests.fixtures.passwords import PRODUCTION_HASHER

OTHER_PASSWORD = SecretStr("another long password")


def secret(text: str = PASSWORD) -> SecretStr:
    return SecretStr(text)


@pytest.fixture
def ann(session: Session) -> User:
    add_user(session, "ann", secret(), UserRole.OPERATOR)
    session.commit()
    return find_user(session, "ann")


def test_user_is_authenticated_only_with_name_and_password(session: Session, ann: User) -> None:
    assert authenticate_user(session, "ann", secret()) is ann
    for name, password in (
        ("ann", OTHER_PASSWORD),
        ("Ann", secret()),
        ("bob", secret()),
        ("", secret("")),
        ("a\0", OTHER_PASSWORD),
    ):
        assert authenticate_user(session, name, password) is None


def test_unknown_user_costs_as_much_as_wrong_password(
    session: Session, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fast answer would reveal that the name does not exist."""
    verified: list[str] = []

    class RecordingHasher(PasswordHasher):
        def verify(self, hash: Any, password: Any) -> Any:  # noqa: A002
            verified.append(hash)
            return super().verify(hash, password)

    parameters = extract_parameters(ann.password_hash or "")
    hasher = RecordingHasher(parameters.time_cost, parameters.memory_cost, parameters.parallelism)
    monkeypatch.setattr(passwords, "_hasher", hasher)

    for name in ("ann", "bob"):
        assert authenticate_user(session, name, OTHER_PASSWORD) is None

    assert verified[0] == ann.password_hash
    assert [extract_parameters(password_hash) for password_hash in verified] == [parameters] * 2


def test_password_is_stored_as_salted_argon2_hash(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_hasher", PRODUCTION_HASHER)
    for name in ("ann", "bob"):
        add_user(session, name, secret(), UserRole.VIEWER)

    hashes = session.scalars(select(User.password_hash)).all()
    assert len(set(hashes)) == 2
    assert all(str(text).startswith("$argon2id$v=19$m=65536,t=3,p=4$") for text in hashes)


def test_login_replaces_hash_with_old_parameters(session: Session, ann: User) -> None:
    present = extract_parameters(ann.password_hash or "")
    ann.password_hash = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(PASSWORD)
    session_key = ann.session_key
    assert authenticate_user(session, "ann", OTHER_PASSWORD) is None
    assert extract_parameters(ann.password_hash or "") != present

    assert authenticate_user(session, "ann", secret()) is ann
    assert extract_parameters(ann.password_hash or "") == present
    assert ann.session_key == session_key
    assert authenticate_user(session, "ann", secret()) is ann


def test_password_is_independent_of_unicode_composition(session: Session) -> None:
    forms = {unicodedata.normalize(form, "Żółć gęślą jaźń") for form in ("NFC", "NFD")}
    assert len(forms) == 2
    add_user(session, "ann", secret(forms.pop()), UserRole.VIEWER)
    assert authenticate_user(session, "ann", secret(forms.pop())) is not None


@pytest.mark.parametrize(
    "change", [lambda s, p: add_user(s, "bob", p, UserRole.VIEWER), lambda s, p: set_password(s, "ann", p)]
)
def test_short_password_is_refused(session: Session, ann: User, change: Any) -> None:
    with pytest.raises(UserError, match="at least 12 characters"):
        change(session, secret("elevenchars"))
    change(session, secret("twelve chars"))


@pytest.mark.parametrize("name", ["", " ann", "ann ", "a\nb", "a\0b", "x" * 101])
def test_invalid_name_is_refused(session: Session, name: str) -> None:
    with pytest.raises(UserError, match="is invalid: enter 1 to 100 characters"):
        add_user(session, name, secret(), UserRole.VIEWER)
    with pytest.raises(UserError, match="is invalid: enter 1 to 100 characters"):
        add_token(session, name, UserRole.VIEWER)


def test_duplicate_user_name_is_refused(session: Session, ann: User) -> None:
    with pytest.raises(UserError, match='A user named "ann" already exists'):
        add_user(session, "ann", OTHER_PASSWORD, UserRole.VIEWER)
    assert authenticate_user(session, "ann", secret()) is ann


def test_unknown_user_cannot_be_changed(session: Session) -> None:
    changes: list[Any] = [
        lambda: set_password(session, "bob", OTHER_PASSWORD),
        lambda: set_role(session, "bob", UserRole.VIEWER),
        lambda: remove_user(session, "bob"),
        lambda: deactivate_user(session, "bob"),
        lambda: activate_user(session, "bob"),
    ]
    for change in changes:
        with pytest.raises(UserError, match='No user found named "bob": see `accession users list`'):
            change()


@pytest.mark.parametrize(
    "change",
    [
        lambda s: set_password(s, "ann", OTHER_PASSWORD),
        lambda s: set_role(s, "ann", UserRole.VIEWER),
        lambda s: remove_user(s, "ann"),
        lambda s: deactivate_user(s, "ann"),
    ],
)
def test_change_of_user_ends_sessions(session: Session, ann: User, change: Any) -> None:
    login = (ann.id, ann.session_key)
    assert find_session_user(session, *login) is ann
    assert find_session_user(session, ann.id, "another") is None
    change(session)
    session.commit()
    session.expire_all()
    assert find_session_user(session, *login) is None


def test_deactivated_user_is_refused_until_activated(session: Session, ann: User) -> None:
    deactivate_user(session, "ann")

    assert authenticate_user(session, "ann", secret()) == LoginRefusal(
        'The user "ann" is deactivated: ask an administrator to activate it.', "deactivated"
    )
    assert authenticate_user(session, "ann", OTHER_PASSWORD) is None
    assert find_session_user(session, ann.id, ann.session_key) is None

    activate_user(session, "ann")
    assert authenticate_user(session, "ann", secret()) is ann


def test_time_of_deactivation_is_that_of_the_first(session: Session, ann: User) -> None:
    deactivate_user(session, "ann")
    since = ann.deactivated_at
    deactivate_user(session, "ann")
    assert ann.deactivated_at == since


def test_user_of_provider_has_no_password(session: Session) -> None:
    make_provider_user(session, "olga")

    for password in (secret(""), secret("id token")):
        assert authenticate_user(session, "olga", password) is None
    with pytest.raises(UserError, match=f'"olga" logs in at {ISSUER} and has no password here'):
        set_password(session, "olga", OTHER_PASSWORD)


def test_role_of_user_of_provider_cannot_be_set(session: Session) -> None:
    make_provider_user(session, "olga")

    with pytest.raises(UserError, match=f'The role of "olga" comes from groups at {ISSUER}'):
        set_role(session, "olga", UserRole.ADMINISTRATOR)


def test_users_are_listed(session: Session, ann: User) -> None:
    add_user(session, "Zoe", secret(), UserRole.VIEWER)
    assert {(view.name, view.role) for view in user_views(session)} == {
        ("ann", "operator"),
        ("Zoe", "viewer"),
    }
    remove_user(session, "ann")
    assert has_users(session)
    remove_user(session, "Zoe")
    assert not has_users(session)

"""Users and tokens, as they are stored."""

import re
import time
import unicodedata
from typing import Any

import pytest
from argon2 import PasswordHasher
from pydantic import SecretStr
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from accession.auth.roles import UserRole
from accession.auth.tokens import add_token, revoke_token, token_views, use_token
from accession.auth.users import add_user, has_users, find_user, remove_user, set_password, set_role, find_session_user, user_views, authenticate_user
from accession.catalog.written_rows import count_rows_written_since, read_table_state
from accession.core.errors import UserError
from accession.db.models import ApiToken, Base, User
from tests.fixtures.factories import PASSWORD

OTHER = SecretStr("another long password")


def secret(word: str = PASSWORD) -> SecretStr:
    return SecretStr(word)


@pytest.fixture
def ann(session: Session) -> User:
    add_user(session, "ann", secret(), UserRole.OPERATOR)
    session.commit()
    return find_user(session, "ann")


def test_a_user_is_found_by_name_and_password_and_by_nothing_less(session: Session, ann: User) -> None:
    assert authenticate_user(session, "ann", secret()) is ann
    for name, password in (
        ("ann", OTHER),
        ("Ann", secret()),
        ("bob", secret()),
        ("", secret("")),
        ("a\0", OTHER),
    ):
        assert authenticate_user(session, name, password) is None


def test_a_name_that_nobody_has_takes_as_long_as_a_wrong_password(session: Session, ann: User) -> None:
    def processor_seconds(name: str) -> float:
        began = time.process_time()
        assert authenticate_user(session, name, OTHER) is None
        return time.process_time() - began

    known, unknown = (min(processor_seconds(name) for _ in range(3)) for name in ("ann", "bob"))
    assert 0.5 < unknown / known < 2


def test_a_password_is_stored_as_an_argon2_hash_of_its_own(session: Session, ann: User) -> None:
    add_user(session, "bob", secret(), UserRole.VIEWER)
    hashes = session.scalars(select(User.password_hash)).all()
    assert len(set(hashes)) == 2
    assert all(found.startswith("$argon2id$v=19$m=65536,t=3,p=4$") for found in hashes)


def test_neither_a_password_nor_a_token_stands_in_any_table(session: Session, ann: User) -> None:
    token = add_token(session, "script", UserRole.VIEWER).get_secret_value()
    session.flush()
    stored = [
        row
        for table in Base.metadata.tables
        for row in session.scalars(text(f"SELECT t::text FROM {table} t"))  # noqa: S608
    ]
    assert len(stored) == 2
    for clear in (PASSWORD, token, token.removeprefix("acc_")):
        assert not any(clear in row for row in stored)


def test_a_hash_of_former_parameters_is_renewed_at_the_next_login(session: Session, ann: User) -> None:
    ann.password_hash = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(PASSWORD)
    key = ann.session_key
    assert authenticate_user(session, "ann", OTHER) is None
    assert "m=8192" in ann.password_hash

    assert authenticate_user(session, "ann", secret()) is ann
    assert "m=65536" in ann.password_hash
    assert ann.session_key == key
    assert authenticate_user(session, "ann", secret()) is ann


def test_the_same_letters_are_the_same_password_however_a_keyboard_writes_them(session: Session) -> None:
    written = {unicodedata.normalize(form, "Żółć gęślą jaźń") for form in ("NFC", "NFD")}
    assert len(written) == 2
    add_user(session, "ann", secret(written.pop()), UserRole.VIEWER)
    assert authenticate_user(session, "ann", secret(written.pop())) is not None


@pytest.mark.parametrize(
    "change", [lambda s, p: add_user(s, "bob", p, UserRole.VIEWER), lambda s, p: set_password(s, "ann", p)]
)
def test_a_password_of_less_than_twelve_characters_is_refused(
    session: Session, ann: User, change: Any
) -> None:
    with pytest.raises(UserError, match="at least 12 characters"):
        change(session, secret("elevenchars"))
    change(session, secret("twelve chars"))


@pytest.mark.parametrize("name", ["", " ann", "ann ", "a\nb", "a\0b", "x" * 101])
def test_what_is_no_name_is_refused(session: Session, name: str) -> None:
    with pytest.raises(UserError, match="cannot be named"):
        add_user(session, name, secret(), UserRole.VIEWER)
    with pytest.raises(UserError, match="cannot be named"):
        add_token(session, name, UserRole.VIEWER)


def test_a_name_is_one_users_alone(session: Session, ann: User) -> None:
    with pytest.raises(UserError, match='There is a user named "ann" already'):
        add_user(session, "ann", OTHER, UserRole.VIEWER)
    assert authenticate_user(session, "ann", secret()) is ann


def test_whoever_is_unknown_cannot_be_changed(session: Session) -> None:
    changes: list[Any] = [
        lambda: set_password(session, "bob", OTHER),
        lambda: set_role(session, "bob", UserRole.VIEWER),
        lambda: remove_user(session, "bob"),
    ]
    for change in changes:
        with pytest.raises(UserError, match='No user found named "bob": see `accession users list`'):
            change()


@pytest.mark.parametrize(
    "change",
    [
        lambda s: set_password(s, "ann", OTHER),
        lambda s: set_role(s, "ann", UserRole.VIEWER),
        lambda s: remove_user(s, "ann"),
    ],
)
def test_a_change_ends_what_was_begun_with_the_session_key(session: Session, ann: User, change: Any) -> None:
    begun = (ann.id, ann.session_key)
    assert find_session_user(session, *begun) is ann
    assert find_session_user(session, ann.id, "another") is None
    change(session)
    session.commit()
    session.expire_all()
    assert find_session_user(session, *begun) is None


def test_the_views_show_who_there_is(session: Session, ann: User) -> None:
    add_user(session, "Zoe", secret(), UserRole.VIEWER)
    assert {(view.name, view.role) for view in user_views(session)} == {
        ("ann", "operator"),
        ("Zoe", "viewer"),
    }
    remove_user(session, "ann")
    assert has_users(session)
    remove_user(session, "Zoe")
    assert not has_users(session)


def test_a_token_is_43_characters_of_chance_behind_its_prefix(session: Session) -> None:
    made = {add_token(session, f"script {number}", UserRole.VIEWER).get_secret_value() for number in range(5)}
    assert len(made) == 5
    assert all(re.fullmatch(r"acc_[A-Za-z0-9_-]{43}", token) for token in made)


def test_a_revoked_token_opens_nothing_and_its_name_is_free(session: Session) -> None:
    token = add_token(session, "script", UserRole.OPERATOR)
    with pytest.raises(UserError, match='There is a token named "script" already'):
        add_token(session, "script", UserRole.VIEWER)
    found = use_token(session, token)
    assert found is not None
    assert (found.name, found.role) == ("script", "operator")

    revoke_token(session, "script")
    assert use_token(session, token) is None
    assert token_views(session) == []
    with pytest.raises(UserError, match='No token in use is named "script"'):
        revoke_token(session, "script")
    assert use_token(session, add_token(session, "script", UserRole.VIEWER)) is not None
    assert len(session.scalars(select(ApiToken)).all()) == 2


def test_who_may_use_it_is_no_part_of_the_catalogue(session: Session) -> None:
    mark = read_table_state(session)
    session.commit()
    add_user(session, "ann", secret(), UserRole.OPERATOR)
    use_token(session, add_token(session, "script", UserRole.VIEWER))
    session.commit()
    assert count_rows_written_since(session, mark) == 0

"""API tokens, and what the database holds of tokens and passwords."""

import re

import pytest
from pydantic import SecretStr
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from accession.auth.roles import UserRole
from accession.auth.tokens import add_token, revoke_token, token_views, use_token
from accession.auth.users import add_user
from accession.catalog.written_rows import count_rows_written_since, read_table_state
from accession.core.errors import UserError
from accession.db.models import ApiToken, Base
from tests.fixtures.factories import PASSWORD


def test_token_is_prefix_and_43_random_characters(session: Session) -> None:
    tokens = {
        add_token(session, f"script {number}", UserRole.VIEWER).get_secret_value() for number in range(5)
    }

    assert len(tokens) == 5
    assert all(re.fullmatch(r"acc_[A-Za-z0-9_-]{43}", token) for token in tokens)


def test_revoked_token_is_rejected_and_its_name_is_free(session: Session) -> None:
    token = add_token(session, "script", UserRole.OPERATOR)
    with pytest.raises(UserError, match='A token named "script" already exists'):
        add_token(session, "script", UserRole.VIEWER)
    stored = use_token(session, token)
    assert stored is not None
    assert (stored.name, stored.role) == ("script", "operator")

    revoke_token(session, "script")

    assert use_token(session, token) is None
    assert token_views(session) == []
    with pytest.raises(UserError, match='No active token is named "script"'):
        revoke_token(session, "script")
    assert use_token(session, add_token(session, "script", UserRole.VIEWER)) is not None
    assert len(session.scalars(select(ApiToken)).all()) == 2


def test_no_table_contains_passwords_or_tokens(session: Session) -> None:
    add_user(session, "ann", SecretStr(PASSWORD), UserRole.OPERATOR)
    token = add_token(session, "script", UserRole.VIEWER).get_secret_value()
    session.flush()

    rows = [
        row
        for table in Base.metadata.tables
        for row in session.scalars(text(f"SELECT t::text FROM {table} t"))  # noqa: S608
    ]

    assert len(rows) == 2
    for clear_text in (PASSWORD, token, token.removeprefix("acc_")):
        assert not any(clear_text in row for row in rows)


def test_users_and_tokens_do_not_count_as_catalogue_rows(session: Session) -> None:
    before = read_table_state(session)
    session.commit()

    add_user(session, "ann", SecretStr(PASSWORD), UserRole.OPERATOR)
    use_token(session, add_token(session, "script", UserRole.VIEWER))
    session.commit()

    assert count_rows_written_since(session, before) == 0

"""URLs of databases: parameters of libpq, several hosts, and malformed URLs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from accession.core.database_url import parse_database_url

# Any text but NUL, which PostgreSQL cannot store, and surrogates, which UTF-8 cannot encode.
TEXTS = st.text(st.characters(exclude_characters="\x00", codec="utf-8"), min_size=1)


def percent_encoded(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def test_url_is_split_into_parameters() -> None:
    assert parse_database_url("postgresql://ann:pw@db.example:6432/accession?sslmode=verify-full") == {
        "user": "ann",
        "password": "pw",
        "host": "db.example",
        "port": "6432",
        "dbname": "accession",
        "sslmode": "verify-full",
    }


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_parts_of_url_are_optional(scheme: str) -> None:
    assert parse_database_url(f"{scheme}://") == {}


@given(user=TEXTS, password=TEXTS, database=TEXTS)
def test_any_character_can_be_percent_encoded(user: str, password: str, database: str) -> None:
    url = f"postgresql://{percent_encoded(user)}:{percent_encoded(password)}@h/{percent_encoded(database)}"
    expected = {"user": user, "password": password, "host": "h", "dbname": database}
    assert parse_database_url(url) == expected == conninfo_to_dict(make_conninfo(**expected))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p%40%3A%2F@127.0.0.1:5433/db?options=-c%20work_mem%3D8MB&application_name=a+b",
        "postgresql://u@[::1]:5433/db",
        "postgresql://%2Fvar%2Frun%2Fpostgresql/db",
        "postgresql:///db?host=/var/run/postgresql&port=5433",
        "postgresql://a:5432,b:5433/db?target_session_attrs=any",
        "postgresql://a,b:5433/db?target_session_attrs=primary",
        "postgresql://a:5432,[::1]:5432/db?target_session_attrs=read-write",
    ],
)
def test_url_is_read_as_libpq_reads_it(url: str) -> None:
    parsed = {
        option.keyword.decode(): option.val.decode()
        for option in pq.Conninfo.parse(url.encode())
        if option.val is not None
    }
    assert parse_database_url(url) == parsed


def test_host_that_accepts_writes_is_used() -> None:
    parameters = parse_database_url("postgresql://a:5432,b:5433/db")
    assert parameters["target_session_attrs"] == "read-write"
    assert "target_session_attrs" not in parse_database_url("postgresql://a/db")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://u:s3cret@h/db", "enter it as postgresql://user:password@host:port/database"),
        ("postgresql+psycopg2://u:s3cret@h/db", "enter it as postgresql://user:password@host:port/database"),
        ("postgresql+asyncpg://u:s3cret@h/db", "enter it as postgresql://user:password@host:port/database"),
        ("s3cret", "enter it as postgresql://user:password@host:port/database"),
        ("postgresql://u:s3cret/x@h/db", "such as %40 for @"),
        ("postgresql://u:12/s3cret@h/db", "such as %40 for @"),
        ("postgresql://u:s3cret?x@h/db", "such as %40 for @"),
        ("postgresql://u:s3cret@[::1/db", "such as %40 for @"),
        ("postgresql://u:s3cret@h i/db", "such as %40 for @"),
        ("postgresql://u:s3cret%@h/db", "enter % itself as %25"),
        ("postgresql://u:s3cret%00@h/db", "enter % itself as %25"),
        ("postgresql://u:s3cret%FF@h/db", "enter % itself as %25"),
        ("postgresql://u:s3cret@h:0/db", "enter a port between 1 and 65535"),
        ("postgresql://u:s3cret@h:65536/db", "enter a port between 1 and 65535"),
        ("postgresql://u:s3cret@a,,b/db", "several hosts as host1:port1,host2:port2, none of them empty"),
        ("postgresql://u:s3cret@/db?host=a&host=b", "the parameter host twice; enter several hosts as host1"),
        ("postgresql://u:s3cret@/db?host=a,b", "the parameter host after the question mark; enter it before"),
        ("postgresql://u:s3cret@/db?host=a:1", "the parameter host after the question mark; enter it before"),
        ("postgresql://u:s3cret@h/db?host=/run", "the parameter host after the question mark; enter it"),
        ("postgresql://u@h/db?password=s3cret", "the parameter password after the question mark; enter it"),
        ("postgresql://u@h/db?port=5433", "the parameter port after the question mark; enter it before"),
        ("postgresql://u:s3cret@h/db?sslmode", "after the question mark as name=value&name=value"),
    ],
)
def test_malformed_url_is_refused_without_secrets(url: str, reason: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is compared
        parse_database_url(url)
    assert reason in str(error.value)
    assert "s3cret" not in str(error.value)

"""URLs of the broker: those that all clients read alike, and the messages about others."""

from pathlib import Path
from ssl import CERT_REQUIRED
from urllib.parse import quote

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection
from redis import Redis

from accession.core.redis_url import celery_url, validate_redis_url, with_verification, without_peer

# Any text but surrogates, which UTF-8 cannot encode.
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1)


@pytest.mark.parametrize(
    "url",
    [
        "redis://broker.example",
        "redis://:pw@broker.example:6379/0",
        "rediss://ann:pw@[::1]:6379/3",
        "rediss://broker.example/?ssl_cert_reqs=required",
        "unix:///run/redis/redis.sock",
        "unix://:pw@/run/redis/redis.sock?db=3&requirepeer=redis",
    ],
)
def test_valid_url_is_accepted(url: str) -> None:
    validate_redis_url(url)


@given(user=TEXTS, password=TEXTS, database=st.integers(0, 99))
def test_clients_read_any_percent_encoded_login_alike(user: str, password: str, database: int) -> None:
    url = f"redis://{quote(user, safe='')}:{quote(password, safe='')}@broker.example:7000/{database}"
    validate_redis_url(url)
    expected = {"username": user, "password": password, "host": "broker.example", "port": 7000}
    ours = Redis.from_url(url).get_connection_kwargs()
    assert {name: ours[name] for name in (*expected, "db")} == {**expected, "db": database}
    kombu = Connection(url)
    assert (kombu.userid, kombu.password, kombu.hostname, kombu.port) == tuple(expected.values())
    assert int(kombu.virtual_host) == database


@given(user=TEXTS, password=TEXTS, path=TEXTS, database=st.integers(0, 99))
def test_clients_read_any_url_of_a_socket_alike(user: str, password: str, path: str, database: int) -> None:
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    url = f"unix://{login}@/run/{quote(path, safe='')}?db={database}"
    validate_redis_url(f"{url}&requirepeer=ann")
    expected = {"username": user, "password": password, "path": f"/run/{path}", "db": database}
    ours = Redis.from_url(without_peer(f"{url}&requirepeer=ann")).get_connection_kwargs()
    assert {name: ours[name] for name in expected} == expected
    celery = celery_url(url)
    with Celery("clients", broker=celery, backend=celery, set_as_current=False) as app:
        backend = app.backend.connparams
        assert {name: backend[name] for name in expected} == expected
        with app.connection_for_read() as connection:
            channel = object.__new__(connection.transport.Channel)
            channel.connection = connection.transport
            parameters = channel._connparams()
    assert {name: parameters[name] for name in expected} == expected


def test_clients_verify_certificates_alike(tmp_path: Path) -> None:
    authority = tmp_path / "an authority.crt"
    authority.touch()
    url = f"rediss://broker.example/1?ssl_ca_certs={quote(str(authority))}"
    validate_redis_url(url)
    url = with_verification(url)
    expected = {"ssl_ca_certs": str(authority), "ssl_cert_reqs": CERT_REQUIRED}
    with Celery("clients", broker=url, backend=url, set_as_current=False) as celery:
        backend = celery.backend.connparams
        assert {name: backend[name] for name in expected} == expected
        assert celery.connection_for_read().ssl == expected
    ours = Redis.from_url(url).get_connection_kwargs()
    assert (ours["ssl_ca_certs"], ours["ssl_cert_reqs"]) == (str(authority), "required")
    assert with_verification(url) == url


def test_url_without_tls_stays_as_it_is() -> None:
    assert with_verification("redis://broker.example/0") == "redis://broker.example/0"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("amqp://guest:s3cret@host//", "RabbitMQ is not supported, because the work of lost machines is"),
        ("sentinel://:s3cret@a:26379;sentinel://b:26379/0", "Redis Sentinel is not supported; enter the"),
        ("redis+sentinel://:s3cret@a:26379,b:26379/0", "of a TCP proxy or managed endpoint that follows"),
        ("http://host", "enter it as redis://user:password@host:port/0, or rediss://... for TLS, and each"),
        ("redis://", "enter it as redis://"),
        ("redis://:s3cret@a:6379,b:6379/0", "enter it as redis://"),
        ("redis://:s3c/ret@host/0", "enter it as redis://"),
        ("redis://:s3c#ret@host/0", "enter it as redis://"),
        ("redis://:s3c%ret@host/0", "the characters :/?#@% in user or password as % and its code"),
        ("redis://:s3cret@host:port/0", "enter it as redis://"),
        ("redis://:s3cret@host:70000/0", "enter a port between 1 and 65535"),
        ("redis://:s3cret@host/accession", "enter the number of a database after the host"),
        ("rediss://:s3cret@host/0?ssl_ca_certs", "enter the parameters after the question mark"),
        ("redis://:s3cret@host/0?db=3", "it contains the parameter db; the parameters are ssl_ca_certs, "),
        ("redis://:s3cret@host/0?ssl_ca_certs=/a", "the parameter ssl_ca_certs needs TLS; begin"),
        ("rediss://:s3cret@host/0?ssl_ca_certs=/no/file", "the file /no/file of the parameter ssl_ca_certs"),
        ("unix://:s3cret@host/run/redis.sock", "enter it as unix://user:password@/path/of/socket?db=0, and"),
        (
            "unix://:s3c/ret@/run/redis.sock",
            "enter it as unix://user:password@/path/of/socket?db=0, and each",
        ),
        ("unix://:s3cret@/run/redis.sock?db=a", "enter the number of a database, as in unix://user:password"),
        ("unix:///run/redis.sock?password=s3cret", "it contains the parameter password; those of a Unix"),
        ("rediss://:s3cret@host/0?ssl_cert_reqs=none", "the broker's certificate is always verified"),
    ],
)
def test_other_url_is_explained_without_its_password(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+[^.\n]$") as error:
        validate_redis_url(url)
    assert reason in str(error.value)
    assert "s3c" not in str(error.value)

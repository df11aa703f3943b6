"""An account is validated before any request is signed with it."""

import pytest
from pydantic import SecretStr

from accession.accounts.account import Account
from accession.core.errors import UserError
from tests.fixtures.bibliotheca import END, KEY, PAGE, START, SignedVendor, api_with


@pytest.mark.parametrize(
    "base_url",
    [
        "https://partner.yourcloudlibrary.com",
        "https://partner.yourcloudlibrary.com/",
        "https://vendor.example:8443",
        "http://localhost:8080",
        "http://127.0.0.1:8080/",
        "http://127.8.9.1",
        "http://[::1]:8080",
    ],
)
def test_base_url_is_https_or_local_http(base_url: str) -> None:
    vendor = SignedVendor(PAGE)

    api_with(vendor, Account("Main", "rvs", "library.rvs", KEY, base_url)).fetch_marc_page(START, END)

    assert vendor.paths[0].startswith("/cirrus/library/rvs/data/marc?")


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "vendor.example",
        "http://vendor.example",
        "http://10.0.0.1",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://0x7f.1",
        "ftp://localhost",
        "https://",
        "https://user:hunter2@vendor.example",
        "https://vendor.example/cirrus",
        "https://vendor.example?a=b",
        "https://vendor.example#a",
        "https://vendor.example:port",
        "https://vendor\n.example",
    ],
)
def test_other_base_url_is_rejected(base_url: str) -> None:
    with pytest.raises(UserError, match='base URL of collection "Main" is invalid') as caught:
        Account("Main", "rvs", "a", KEY, base_url)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("library_id", "account_id", "key"),
    [
        ("", "a", "k"),
        (" ", "a", "k"),
        ("rvs", "a", ""),
        ("rvs", "", "k"),
        ("rvs", "a\r\nX: y", "k"),
        ("rvs", "é", "k"),
    ],
)
def test_incomplete_account_is_rejected(library_id: str, account_id: str, key: str) -> None:
    with pytest.raises(UserError, match='ollection "Main"'):
        Account("Main", library_id, account_id, SecretStr(key), "https://vendor.example")

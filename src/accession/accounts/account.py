"""Validated credentials of one library's account with the vendor."""

import re
from dataclasses import dataclass
from functools import lru_cache

from pydantic import SecretStr

from accession.core.errors import InvalidInput
from accession.core.loopback import is_loopback

DEFAULT_BASE_URL = "https://partner.yourcloudlibrary.com"


@dataclass(frozen=True)
class Account:
    """One library's account with the vendor, as requests need it.

    `base_url` has no path and is https, or plain http to this machine.

    Raises:
        InvalidInput: a field is invalid; the message names the collection.
    """

    collection: str
    library_id: str
    account_id: str
    account_key: SecretStr
    base_url: str

    def __post_init__(self) -> None:
        if not self.library_id.strip() or not self.account_key.get_secret_value():
            raise InvalidInput(
                f'Collection "{self.collection}" has no library id or no account key: '
                "enter both as the vendor issued them."
            )
        if not re.fullmatch(r"[!-~]+", self.account_id):
            raise InvalidInput(
                f'The account id of collection "{self.collection}" is invalid: '
                "enter it as the vendor issued it, in ASCII characters without spaces."
            )
        if not _is_valid_base_url(self.base_url):
            raise InvalidInput(
                f'The base URL of collection "{self.collection}" is invalid: enter it as https://host, '
                "without user name, path or query (plain http:// is allowed for this machine only)."
            )

    def public_fields(self) -> dict[str, str]:
        """Return the fields that are no secret: all but the account key, and the name."""
        return {"library_id": self.library_id, "account_id": self.account_id, "base_url": self.base_url}


# Each step of a run checks the same few URLs.
@lru_cache
def _is_valid_base_url(base_url: str) -> bool:
    # Imported here, because most commands load no account, and start faster without it.
    import httpx

    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        return False
    if not url.host or url.userinfo or url.raw_path != b"/" or url.fragment:
        return False
    return url.scheme == "https" or (url.scheme == "http" and is_loopback(url.host))

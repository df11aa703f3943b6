"""Signatures of requests, by the Standard Webhooks specification."""

from datetime import UTC, datetime

import pytest
import standardwebhooks
import time_machine
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from accession.webhooks.signing import generate_secret, signed_headers

# The example of the specification's libraries.
SECRET = SecretStr("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
MESSAGE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
SENT_AT = datetime.fromtimestamp(1614265330, UTC)
BODY = b'{"test": 2432232314}'


def test_example_has_the_published_signature() -> None:
    assert signed_headers([SECRET], MESSAGE_ID, SENT_AT, BODY) == {
        "webhook-id": MESSAGE_ID,
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_secrets_have_32_bytes_and_differ() -> None:
    first, second = (generate_secret().get_secret_value() for _ in range(2))
    assert first != second
    assert first.startswith("whsec_")
    assert len(standardwebhooks.Webhook(first)._whsecret) == 32


@given(body=st.text(), previous=st.booleans())
def test_any_body_is_accepted_with_any_current_secret(body: str, previous: bool) -> None:
    body = body.encode("utf-8", "ignore").decode()
    secrets = [generate_secret() for _ in range(1 + previous)]
    headers = signed_headers(secrets, "id", SENT_AT, body.encode())
    with time_machine.travel(SENT_AT, tick=False):
        for secret in secrets:
            verifier = standardwebhooks.Webhook(secret.get_secret_value())
            verifier.verify(body, headers, json_parse=False)
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            verifier.verify(body + " ", headers, json_parse=False)

"""Users who log in at an OpenID Connect provider."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from sqlalchemy.orm import Session

from accession.auth.audit import AuditFilter, read_audit_log
from accession.auth.oidc import ProviderIdentity
from accession.auth.oidc_users import log_in_identity
from accession.auth.users import LoginRefusal, user_views
from accession.core.settings import get_settings, use_settings
from accession.db.engine import transaction
from tests.fixtures.oidc import ISSUER

LOGINS = 4


def test_simultaneous_first_logins_add_one_user(session: Session) -> None:
    before = get_settings()
    use_settings(before.model_copy(update={"oidc_issuer": ISSUER, "oidc_group_roles": {"library": "viewer"}}))
    barrier = Barrier(LOGINS)

    def log_in(_: int) -> str:
        identity = ProviderIdentity(ISSUER, "subject", "olga", ("library",), "id token")
        with transaction() as own_session:
            barrier.wait()
            user = log_in_identity(own_session, identity, "127.0.0.1")
            assert not isinstance(user, LoginRefusal)
            return user.name

    try:
        with ThreadPoolExecutor(LOGINS) as pool:
            assert list(pool.map(log_in, range(LOGINS))) == ["olga"] * LOGINS
    finally:
        use_settings(before)

    assert [user.name for user in user_views(session)] == ["olga"]
    actions = [entry.action for entry in read_audit_log(session, AuditFilter())]
    assert sorted(actions) == ["user.add", *["user.login"] * LOGINS]

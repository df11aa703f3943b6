"""What `accession doctor` looks at: each check says what it found, and what to do when that is bad."""

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from accession.accounts.collections import collections_in_use
from accession.accounts.keys import KEY_FILE, account_key_of
from accession.bibliotheca.errors import RemoteIntegrationException
from accession.cli.attach import attach, require_broker
from accession.core.errors import UserError
from accession.core.settings import ScheduledExport, get_settings
from accession.db.engine import engine, transaction
from accession.db.schema import require_current
from accession.exports.files import refuse_missing_folder, shown
from accession.exports.formats import find_format
from accession.exports.wanted import since_of, wanted_titles
from accession.local.supervisor import parts
from accession.runs.views import status_views

_WORKER_ANSWERS_WITHIN_SECONDS = 1.0
_TIMES_ASKED = 4


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `ok` is how it is now, after a repair, which `repaired` describes."""

    what: str
    ok: bool
    finding: str
    repaired: str | None = None


def part_checks() -> list[Check]:
    """Home, key and servers, in the order in which a fault of one explains faults of the next."""
    settings = attach()
    checks = [Check("home", settings.home.is_dir(), _home())]
    checks += [
        Check(f"process {part.name}", part.state == "running", f"{part.state}, process {part.pid}")
        for part in parts(settings.home)
        if settings.home.is_dir() and part.name != "accession"
    ]
    checks.append(_key_file())
    named: list[tuple[str, Callable[[], str]]] = [
        ("database", _database),
        ("schema", _schema),
        ("broker", require_broker),
        ("workers", _workers),
        ("beat", _beat),
        ("account keys", _account_keys),
    ]
    named += [(f"export {each.name}", partial(_scheduled_export, each)) for each in settings.exports]
    checks += [_check(what, look) for what, look in named]
    return checks


def _check(what: str, look: Callable[[], str]) -> Check:
    try:
        return Check(what, True, look())
    except foreseen() as error:
        return Check(what, False, in_words(error))


def foreseen() -> tuple[type[Exception], ...]:
    """What a check meets in a part that is down, set wrong, or the vendor's."""
    from kombu.exceptions import OperationalError as BrokerError
    from redis import RedisError

    return UserError, RemoteIntegrationException, SQLAlchemyError, RedisError, BrokerError


def in_words(error: BaseException) -> str:
    """What to tell a person of it."""
    return str(error).strip().splitlines()[0]


def _home() -> str:
    home = get_settings().home
    return str(home) if home.is_dir() else f"{home} is not there yet; `accession up` makes it"


def _key_file() -> Check:
    path = get_settings().home / KEY_FILE
    if get_settings().secret_key is not None:
        return Check("key file", True, "the key comes from ACCESSION_SECRET_KEY")
    if not path.exists():
        return Check("key file", True, f"{path} is not there yet; the first collection makes it")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Check("key file", False, f"{path} can be read by others (mode {mode:o}): chmod 600 {path}")
    return Check("key file", True, str(path))


def _database() -> str:
    with engine().connect() as connection:
        version = connection.scalar(text("SHOW server_version"))
    return f"PostgreSQL {version} at {engine().url.host}:{engine().url.port}"


def _schema() -> str:
    return require_current(engine())


def _workers() -> str:
    require_broker()
    from accession.tasks.app import app

    # A worker that has just been started hears the first question only after a few seconds.
    for _ in range(_TIMES_ASKED):
        if answers := app.control.ping(timeout=_WORKER_ANSWERS_WITHIN_SECONDS):
            return f"{len(answers)} answering"
    raise UserError("none answers: start one with `accession up`, or `accession worker`")


def _beat() -> str:
    require_broker()
    from accession.tasks.heartbeats import read_heartbeats

    found = read_heartbeats()
    if found.beat_is_overdue:
        raise UserError(f"{found.beat_in_words}: start it with `accession up`, or `accession beat`")
    return found.beat_in_words


def _account_keys() -> str:
    with transaction() as session:
        collections = collections_in_use(session)
        for collection in collections:
            account_key_of(collection)
    return f"all {len(collections)} can be decrypted"


def _scheduled_export(planned: ScheduledExport) -> str:
    find_format(planned.format)
    if planned.since is not None:
        since_of(planned.since)
    refuse_missing_folder(planned.target)
    with transaction() as session:
        wanted_titles(session, planned.collections, None)
    return f"{planned.format} into {shown(planned.target)}, {planned.at}"


def run_checks() -> Iterator[Check]:
    """How the latest run of each workflow of each collection stands; nothing without a database."""
    try:
        with transaction() as session:
            views = status_views(session)
    except (UserError, SQLAlchemyError):
        return
    for view in views:
        ok = view.state not in ("failed", "interrupted")
        reason = f": {view.error}" if view.error else ""
        yield Check(f"{view.workflow} of {view.collection}", ok, f"{view.state}{reason}")

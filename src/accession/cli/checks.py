"""Checks of `accession doctor` that only read: home, keys, servers, processes, exports and latest runs."""

import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from accession.accounts.keys import KEY_FILE, SECRET_CHECKS
from accession.bibliotheca.errors import RemoteIntegrationException, problem_of
from accession.catalog.verification import count_open_findings
from accession.cli.connect import require_broker, resolve_servers
from accession.cli.output import count_noun
from accession.core.byte_sizes import format_bytes, format_growth
from accession.core.clock import utc_now
from accession.core.errors import UserError
from accession.core.sanitize import redact_credentials
from accession.core.settings import TOML_NAME, ScheduledExport, contains_secret, get_settings
from accession.db.blocking import find_blocking_sessions
from accession.db.engine import engine, server_address, transaction
from accession.db.models import FindingKind
from accession.db.sizes import table_sizes, total_size
from accession.exports.files import require_writable_folder
from accession.exports.formats import find_format
from accession.exports.selection import parse_since, select_titles
from accession.local.control import process_statuses
from accession.local.disk import database_disk, folder_size
from accession.local.postgres_upgrade import find_old_data
from accession.runs.scheduled_exports import scheduled_export
from accession.runs.views import status_views

_WORKER_CHECK_RETRIES = 4


@dataclass(frozen=True)
class Check:
    """Result of one check.

    `ok` is the state after the repair, if there was one; `repaired` describes the repair.
    """

    name: str
    ok: bool
    finding: str
    repaired: str | None = None


def part_checks() -> list[Check]:
    """Check home, key, servers, processes and exports.

    The order is that of dependence: a failure explains the failures after it.
    """
    settings = resolve_servers()
    checks = [_home()]
    checks += [
        Check(f"process {part.name}", part.state == "running", f"{part.state}, process {part.pid}")
        for part in process_statuses(settings.home)
        if settings.home.is_dir() and part.name != "accession"
    ]
    checks.append(_key_file())
    probes: list[tuple[str, Callable[[], str]]] = [
        ("database", _database),
        ("schema", _schema),
        ("database locks", _database_locks),
        ("broker", require_broker),
        ("workers", _workers),
        ("scheduler", _scheduler),
        *((name, partial(_secrets, check)) for name, check in SECRET_CHECKS.items()),
        ("storage", _storage),
    ]
    if settings.oidc_issuer is not None:
        probes.append(("OpenID Connect", _openid_connect))
    probes += [(f"export {export.name}", partial(_scheduled_export, export)) for export in settings.exports]
    checks += [_check(name, probe) for name, probe in probes]
    return checks


def _check(name: str, probe: Callable[[], str]) -> Check:
    try:
        return Check(name, True, probe())
    except expected_errors() as error:
        return Check(name, False, format_error(error))


def expected_errors() -> tuple[type[Exception], ...]:
    """Return the errors that fail a check: wrong settings, servers that do not answer, vendor errors."""
    from kombu.exceptions import OperationalError as BrokerError
    from redis import RedisError

    return UserError, RemoteIntegrationException, SQLAlchemyError, RedisError, BrokerError


def format_error(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().splitlines()[0]


def _home() -> Check:
    home = get_settings().home
    if not home.is_dir():
        return Check("home", False, f"{home} does not exist yet; `accession up` creates it")
    path = home / TOML_NAME
    if path.exists() and contains_secret(path) and (finding := _readable_by_others(path)):
        return Check("home", False, finding)
    return Check("home", True, str(home))


def _readable_by_others(path: Path) -> str | None:
    mode = stat.S_IMODE(path.stat().st_mode)
    return f"{path} is readable by others (mode {mode:o}): run chmod 600 {path}" if mode & 0o077 else None


def _key_file() -> Check:
    path = get_settings().home / KEY_FILE
    if get_settings().secret_key is not None:
        return Check("key file", True, "the key comes from ACCESSION_SECRET_KEY")
    if not path.exists():
        return Check("key file", True, f"{path} does not exist yet; adding the first collection creates it")
    finding = _readable_by_others(path)
    return Check("key file", finding is None, finding or str(path))


def _database() -> str:
    from accession.tasks.health_checks import check_database

    return f"{check_database()} at {server_address(engine())}"


def _schema() -> str:
    from accession.tasks.health_checks import check_schema

    return check_schema()


def _database_locks() -> str:
    with transaction() as session:
        blocking = find_blocking_sessions(session)
    if not blocking:
        return "no session waits for another one"
    first = blocking[0]
    raise UserError(
        f"{sum(each.waiting for each in blocking)} wait for {first.description}: let it end, or end it with "
        f"SELECT pg_terminate_backend({first.pid})"
    )


def _workers() -> str:
    from accession.tasks.health_checks import check_workers

    require_broker()
    # A worker that was just started needs a few seconds until its first heartbeat.
    for _ in range(_WORKER_CHECK_RETRIES):
        with suppress(UserError):
            return check_workers()
        time.sleep(1)
    return check_workers()


def _scheduler() -> str:
    from accession.tasks.health_checks import check_scheduler

    require_broker()
    return check_scheduler()


def _secrets(check: Callable[[Session], int]) -> str:
    with transaction() as session:
        number = check(session)
    return f"{number:,} can be decrypted" if number else "none are stored"


def _storage() -> str:
    """Return sizes and growth.

    Raises:
        UserError: the disk of the embedded database would soon be full.
    """
    settings = get_settings()
    with transaction() as session:
        tables = table_sizes(session, utc_now())
    size, growth = total_size(tables)
    disk = database_disk(settings, growth)
    folders = {name: folder_size(settings.home / name) for name in ("logs", "covers")}
    parts = [
        f"tables {format_bytes(size)}",
        *([f"growth {format_growth(growth)}"] if growth is not None else []),
        *(f"{name} {format_bytes(folder)}" for name, folder in folders.items() if folder),
        *(f"old data {format_bytes(old.bytes)} in {old.folder}" for old in find_old_data(settings.home)),
        *([f"{format_bytes(disk.free_bytes)} free on the disk"] if disk else []),
    ]
    finding = ", ".join(parts)
    if disk and disk.days_until_full is not None and disk.days_until_full < settings.disk_warning_days:
        raise UserError(
            f"{finding}: it will be full in {count_noun(disk.days_until_full, 'day')}; enlarge it, or keep "
            "rows for fewer days (see `accession db sizes`)"
        )
    return finding


def _openid_connect() -> str:
    # Imported late: only installations with a provider need it.
    from accession.auth.oidc import get_provider

    if (provider := get_provider()) is not None:
        provider.check()
    settings = get_settings()
    roles = ", ".join(sorted(set(settings.oidc_group_roles.values())))
    return f"{settings.oidc_issuer} publishes its configuration and keys; groups give the roles {roles}"


def _scheduled_export(export: ScheduledExport) -> str:
    find_format(export.format)
    if export.since is not None:
        parse_since(export.since)
    require_writable_folder(export.target)
    with transaction() as session:
        select_titles(session, export.collections, None)
        view = scheduled_export(session, export)
    if view.problem is not None:
        raise UserError(
            f"the last attempt was on {view.ended_at:%Y-%m-%d at %H:%M} UTC and {view.state}. "
            f"{view.problem} It is written {view.schedule}."
        )
    written = "not written yet" if view.file is None else f"last written {view.written_at:%Y-%m-%d %H:%M} UTC"
    return f"{export.format} to {redact_credentials(export.target)} at {export.at}, {written}"


def run_checks() -> Iterator[Check]:
    """Check the latest run of each workflow of each collection, and the findings of verifications.

    Without a database there are no results.
    """
    try:
        with transaction() as session:
            views, findings = status_views(session), count_open_findings(session)
    except (UserError, SQLAlchemyError):
        return
    for view in views:
        ok = view.state not in ("failed", "interrupted") or view.pause is not None
        reason = f": {problem_of(view.error, view.collection)}" if view.error else ""
        if not reason and view.unconfirmed_since is not None:
            reason = (
                f", but unconfirmed since {view.unconfirmed_since:%Y-%m-%d}: empty responses prove nothing"
            )
        if view.pause is not None:
            reason += f" (paused: {view.pause.reason})"
        yield Check(f"{view.workflow} of {view.collection}", ok, f"{view.state}{reason}")
    for collection, numbers in findings.items():
        if any(numbers.values()):
            yield _verification_check(collection, numbers)


def _verification_check(collection: str, numbers: Mapping[FindingKind, int]) -> Check:
    """Return the check of a collection's open findings; extra purchases alone are no failure."""
    ok = not (numbers[FindingKind.MISSING] or numbers[FindingKind.MOVED])
    counts = ", ".join(f"{number:,} {kind}" for kind, number in numbers.items() if number)
    advice = "" if ok else f': run `accession verify --collection "{collection}" --repair`'
    return Check(
        f"past purchases of {collection}", ok, f"purchases that differ from the vendor's: {counts}{advice}"
    )

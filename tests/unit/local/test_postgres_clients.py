"""Commands of PostgreSQL's client programs."""

from psycopg.conninfo import conninfo_to_dict

from accession.local.postgres_clients import connecting_program


def test_program_notices_a_server_that_has_disappeared() -> None:
    command = connecting_program({"host": "db.example", "keepalives_idle": "60"}, "pg_dump", "--no-sync")

    prefix = "--dbname="
    (connection,) = (part.removeprefix(prefix) for part in command if part.startswith(prefix))
    assert conninfo_to_dict(connection) == {
        "keepalives_idle": "60",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "25000",
    }
    assert command[-1] == "--no-sync"

"""Run as a script: a supervisor of small children, which write down what befalls them.

`supervised.py HOME CHILD...`, where CHILD is `name` or `name:mood`. Everything worth telling goes to
`story.txt` in the home. Some names are no children: with `given` the servers are not embedded, with
`unprepared` the preparation fails, `impatient` stops during it, `hopeless` gives servers up early.
"""

import signal
import sys
from pathlib import Path

import structlog
from pydantic import SecretStr

from accession.errors import UserError
from accession.local import embedded, supervisor
from accession.local.servers import ServerUrls
from accession.local.supervisor import ChildSpec, Supervisor
from accession.settings import Settings

NO_CHILDREN = ("given", "unprepared", "impatient", "hopeless")

CHILD = """
import os, signal, socket, sys
from pathlib import Path
from urllib.parse import urlsplit
name, mood = sys.argv[1:]
story = Path(os.environ["ACCESSION_HOME"], "story.txt")
def tell(what):
    with story.open("a") as file:
        file.write(f"{name} {what}\\n")
def on_signal(number, frame):
    tell(signal.Signals(number).name)
    if mood == "asks-servers":
        address = urlsplit(os.environ["ACCESSION_REDIS_URL"])
        socket.create_connection((address.hostname, address.port)).close()
        tell("reached the servers")
        sys.exit()
    if mood == "minds-all" or (mood == "minds-quit" and number == signal.SIGQUIT):
        sys.exit()
for number in (signal.SIGTERM, signal.SIGQUIT):
    signal.signal(number, on_signal)
tell("started")
assert os.environ["ACCESSION_DATABASE_URL"] and os.environ["ACCESSION_REDIS_URL"]
while True:
    signal.pause()
"""


def child(argument: str) -> ChildSpec:
    name, _, mood = argument.partition(":")
    command = (sys.executable, "-c", CHILD, name, mood or "minds-all")
    return ChildSpec(name, command, grace_seconds=0.2 if name == "hasty" else 30)


def main() -> None:
    home = Path(sys.argv[1])
    names = sys.argv[2:]
    given = "given" in names

    def tell(what: str) -> None:
        with (home / "story.txt").open("a") as file:
            file.write(f"{what}\n")

    def prepare(urls: ServerUrls) -> None:
        if "unprepared" in names:
            raise UserError("The database is newer than this program.")
        if "impatient" in names:
            signal.raise_signal(signal.SIGTERM)
        tell("prepared")

    if "hopeless" in names:
        embedded._RETRY_SECONDS = 0.1
    if any(name.endswith("minds-nothing") for name in names):
        supervisor._HURRY_SECONDS = 0.1
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    children = [child(name) for name in names if name not in NO_CHILDREN]
    settings = Settings(
        home=home,
        database_url=SecretStr("postgresql://there") if given else None,
        redis_url=SecretStr("redis://there") if given else None,
    )
    try:
        Supervisor(
            settings, children, prepare=prepare, on_ready=lambda urls: tell("ready"), durable=False
        ).run()
    except UserError as error:
        sys.exit(str(error))
    tell("stopped")


if __name__ == "__main__":
    main()

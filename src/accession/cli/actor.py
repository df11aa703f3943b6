"""The actor of a command, for the audit log."""

import os

from accession.auth.audit import Actor, ActorKind
from accession.core.unix_socket import user_name


def command_actor() -> Actor:
    """Return the operating system's user that runs this command; for root, with the user of sudo."""
    name, sudo_user = user_name(os.getuid()), os.environ.get("SUDO_USER")
    if os.getuid() == 0 and sudo_user:
        name = f"{name} (sudo by {sudo_user})"
    return Actor(ActorKind.OS_USER, name, "cli")

"""Common parts of the tests of compose.yaml, of the manifests and of the units."""

from collections.abc import Sequence
from pathlib import Path

from tests.fixtures.commands import all_commands

ROOT = Path(__file__).parents[2]
SECRETS = {"accession_database_url", "accession_redis_url", "accession_secret_key"}


def require_valid_arguments(arguments: Sequence[str]) -> None:
    """Check that the program has this command with these options.

    Raises:
        UsageError: it has not.
    """
    commands = all_commands()
    words = ["accession", *arguments]
    names = [" ".join(words[: n + 1]) for n in range(len(words))]
    name = next(name for name in reversed(names) if name in commands)
    commands[name].make_context(name, words[len(name.split()) :])

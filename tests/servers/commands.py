"""Commands that must succeed, and commands that must be refused in one sentence; none shows the password."""

from tests.fixtures.commands import CommandResult, run_command
from tests.fixtures.passwords import SERVER_PASSWORD


def run(env: dict[str, str], *arguments: str) -> CommandResult:
    """Run a command that must succeed."""
    result = run_command(*arguments, env=env)
    assert result.exit_code == 0, result
    assert SERVER_PASSWORD not in result.stdout + result.stderr
    return result


def refused(env: dict[str, str], *arguments: str) -> str:
    """Run a command that must fail, and return its only sentence."""
    result = run_command(*arguments, env=env)
    assert (result.exit_code, result.stdout) == (1, ""), result
    (line,) = result.stderr.splitlines()
    assert SERVER_PASSWORD not in line
    return line

"""Errors whose message is for the user."""


class UserError(Exception):
    """An error that the user can fix.

    The message is one sentence: what failed, why, and what to do. The command line prints it without a
    traceback and exits with `exit_code`.
    """

    exit_code = 1


class NotFound(UserError):
    """No object with this name or id exists."""


class InvalidInput(UserError):
    """An argument is invalid."""

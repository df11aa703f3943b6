"""The error that is meant for a person."""


class UserError(Exception):
    """Something a person can put right.

    Its text is one sentence: what happened, to what, what to do next. The command line prints it
    without a traceback and exits with `exit_code`.
    """

    exit_code = 1


class NotFound(UserError):
    """Nothing has this name or number."""


class Unusable(UserError):
    """What was given cannot be used."""

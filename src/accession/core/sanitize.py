"""Sanitize untrusted text before it is shown: no terminal control sequences, no forged log lines."""

import json
import re

# Spreadsheets evaluate a cell that starts with one of these; some accept full-width characters too. A cell
# can also start after what is a separator in another country, or after a line end in a text.
_FORMULA = re.compile(r"^(?='*[\t\r\n])|(?:^|(?<=[,;|\t\r\n]))(?=[\"']*[=+\-@＝＋－＠])")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s]+@")


def sanitize(text: str, replacement: str = " ") -> str:
    """Replace each unprintable character: line ends, control characters, direction marks, lone surrogates."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else replacement for char in text)


def sanitize_lines(text: str) -> str:
    """Sanitize each line of `text`; line ends stay."""
    return "\n".join(map(sanitize, text.splitlines()))


def escape_json_line(line: str) -> str:
    """Escape the unprintable characters in a line of JSON, which may be shown in a terminal."""
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in line)


def escape_formula(text: str) -> str:
    """Return the text with an apostrophe wherever a spreadsheet would begin to evaluate a formula.

    That is at its start and after each separator in it. An apostrophe is also added to what would be a
    formula without its leading apostrophes, so that removing the first one always restores the original.
    """
    return _FORMULA.sub("'", text)


def redact_credentials(text: str) -> str:
    """Remove user and password from every URL in the text."""
    return _CREDENTIALS.sub("", text)

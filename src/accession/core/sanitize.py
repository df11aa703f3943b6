"""Sanitize untrusted text before it is shown: no terminal control sequences, no forged log lines."""

import json


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

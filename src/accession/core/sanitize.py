"""Text from elsewhere made fit to be shown: nothing in it commands a terminal or begins a line of its own."""

import json


def harmless(text: str, instead: str = " ") -> str:
    """`text` with `instead` for each character that cannot be printed: line ends and other controls, escape
    sequences' beginnings, direction marks, lone surrogates."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else instead for char in text)


def harmless_lines(text: str) -> str:
    """`text` made harmless line by line; its line ends stay."""
    return "\n".join(map(harmless, text.splitlines()))


def escaped_json(line: str) -> str:
    """A line of JSON in which what cannot be printed is escaped: a terminal may be what reads it."""
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in line)

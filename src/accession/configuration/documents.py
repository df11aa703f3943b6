"""Configuration files as they are written: YAML or TOML, with the line of each value."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import yaml

from accession.core.errors import InvalidInput
from accession.core.sanitize import sanitize

ValuePath = tuple[str | int, ...]
"""Keys and indexes from the top of a document to a value in it."""

SUFFIXES = (".yaml", ".yml", ".toml", ".json")
"""Endings of the names of configuration files. JSON is read as YAML, of which it is a part."""

# Aliases can make a short document have any number of values.
_MAX_VALUES = 500_000
_MAX_PROBLEMS_SHOWN = 100
_TOML_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_TOML_HEADER = re.compile(r"\s*(\[\[?)\s*([\w.\s-]+?)\s*\]\]?\s*(#.*)?")
_TOML_KEY = re.compile(r"\s*([\w-]+)\s*=")


@dataclass(frozen=True)
class Problem:
    """A mistake in a configuration: file, line if known, and a sentence."""

    file: str
    line: int | None
    message: str

    def __str__(self) -> str:
        """Return the mistake as compilers print theirs."""
        location = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{location}: {sanitize(self.message)}"


class InvalidConfiguration(InvalidInput):
    """A configuration has mistakes, which are all listed, by file and line."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: (problem.file, problem.line or 0)))
        shown = "; ".join(str(problem).rstrip(".") for problem in self.problems[:_MAX_PROBLEMS_SHOWN])
        super().__init__(f"{self.summary}: {shown}.")

    @property
    def summary(self) -> str:
        """Return the sentence without the mistakes, without a full stop."""
        number = len(self.problems)
        mistakes = "1 mistake" if number == 1 else f"{number:,} mistakes"
        return f"The configuration has {mistakes}, so nothing was changed"


@dataclass(frozen=True)
class Document:
    """A parsed file: its data, and the lines of the values by their paths. `problems` are syntax errors."""

    name: str
    data: Any
    lines: Mapping[ValuePath, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def problem(self, path: ValuePath, message: str) -> Problem:
        """Return a mistake at a value; its line is that of the nearest value that contains it."""
        paths = (path[:length] for length in range(len(path), 0, -1))
        lines = (self.lines[each] for each in paths if each in self.lines)
        return Problem(self.name, next(lines, None), message)


def parse_document(name: str, content: bytes) -> Document:
    """Parse a file, as TOML if its name ends in `.toml`, else as YAML."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return _unreadable(name, None, "The file is not text in UTF-8: save it as such.")
    return _parse_toml(name, text) if PurePath(name).suffix.lower() == ".toml" else _parse_yaml(name, text)


def _unreadable(name: str, line: int | None, message: str) -> Document:
    return Document(name, None, problems=(Problem(name, line, message),))


def _parse_toml(name: str, text: str) -> Document:
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        match = _TOML_LINE.search(str(error))
        line = int(match[1]) if match and match[1] else None
        return _unreadable(name, line, "This is not valid TOML: correct the syntax.")
    return Document(name, data, dict(_toml_lines(text)))


def _toml_lines(text: str) -> Iterator[tuple[ValuePath, int]]:
    """Yield path and line of tables and their keys; `tomllib` does not tell where they are.

    A line of a multi-line string can look like a key. It then has a path that no mistake is about.
    """
    last_index: dict[ValuePath, int] = {}
    table: ValuePath = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if (header := _TOML_HEADER.fullmatch(line)) is not None:
            table = ()
            for key in re.split(r"\s*\.\s*", header[2]):
                # What follows the name of an array of tables is in its last table.
                table = (*_in_last_table(table, last_index), key)
            if header[1] == "[[":
                last_index[table] = last_index.get(table, -1) + 1
                table = _in_last_table(table, last_index)
            yield table, number
        elif (key_match := _TOML_KEY.match(line)) is not None:
            yield (*table, key_match[1]), number


def _in_last_table(path: ValuePath, last_index: Mapping[ValuePath, int]) -> ValuePath:
    return (*path, last_index[path]) if path in last_index else path


def _parse_yaml(name: str, text: str) -> Document:
    try:
        return _YamlReader(name, text).read()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        return _unreadable(name, line, "This is not valid YAML: correct the syntax.")
    except yaml.YAMLError:
        return _unreadable(name, None, "The file has control characters: remove them.")
    except RecursionError:
        return _unreadable(name, None, "The values are nested too deeply.")


class _YamlReader:
    """Converts the nodes of a YAML document to data, and notes their lines."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._loader = yaml.SafeLoader(text)
        self._lines: dict[ValuePath, int] = {}
        self._problems: list[Problem] = []
        self._values = 0

    def read(self) -> Document:
        node = self._loader.get_single_node()
        data = None if node is None else self._convert(node, ())
        return Document(self._name, data, self._lines, tuple(self._problems))

    def _convert(self, node: yaml.Node, path: ValuePath) -> Any:
        self._values += 1
        if self._values > _MAX_VALUES:
            raise yaml.MarkedYAMLError(problem_mark=node.start_mark)
        if isinstance(node, yaml.MappingNode):
            return self._convert_mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._convert_item(item, (*path, index)) for index, item in enumerate(node.value)]
        try:
            return self._loader.construct_object(node)
        except ValueError:
            # Such as the day 2026-02-30.
            raise yaml.MarkedYAMLError(problem_mark=node.start_mark) from None

    def _convert_item(self, item: yaml.Node, path: ValuePath) -> Any:
        self._lines[path] = item.start_mark.line + 1
        return self._convert(item, path)

    def _convert_mapping(self, node: yaml.MappingNode, path: ValuePath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem_mark=key_node.start_mark)
            key, line = key_node.value, key_node.start_mark.line + 1
            if key in data:
                self._problems.append(Problem(self._name, line, f'The key "{key}" is there twice.'))
            self._lines[(*path, key)] = line
            data[key] = self._convert(value_node, (*path, key))
        return data

"""Read configuration files and check them; all mistakes are collected."""

import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Generic, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from accession.configuration.documents import Document, Problem, ValuePath
from accession.configuration.model import (
    ChannelEntry,
    CollectionEntry,
    ConfigurationFile,
    DigestEntry,
    RuleEntry,
    WebhookEntry,
)

E = TypeVar("E", CollectionEntry, ChannelEntry, RuleEntry, WebhookEntry, DigestEntry)

_COLLECTIONS: ValuePath = ("collections",)
_CHANNELS: ValuePath = ("notifications", "channels")
_RULES: ValuePath = ("notifications", "rules")
_WEBHOOKS: ValuePath = ("webhooks",)
_DIGESTS: ValuePath = ("digests",)

# Reasons in the terms of the files, by the type of Pydantic's error.
_REASONS = {
    "model_type": "it must be a mapping of keys to values",
    "tuple_type": "it must be a list",
    "string_type": "it must be text; write texts such as 0123 and no in quotes",
}


@dataclass(frozen=True)
class Located(Generic[E]):
    """An entry, and where it is."""

    entry: E
    document: Document
    path: ValuePath

    def problem(self, message: str, *keys: str) -> Problem:
        """Return a mistake in the entry, at the value that the keys lead to."""
        return self.document.problem((*self.path, *keys), message)


@dataclass(frozen=True)
class Section(Generic[E]):
    """A list of the configuration: its valid entries, and the names of all entries (of digests, collections).

    `is_managed` is false if no file has the list: then what is stored stays as it is.
    """

    is_managed: bool
    entries: tuple[Located[E], ...]
    names: frozenset[str]


@dataclass(frozen=True)
class Configuration:
    """The contents of all files, and the mistakes in them."""

    files: tuple[str, ...]
    collections: Section[CollectionEntry]
    channels: Section[ChannelEntry]
    rules: Section[RuleEntry]
    webhooks: Section[WebhookEntry]
    digests: Section[DigestEntry]
    problems: tuple[Problem, ...]


def load_configuration(documents: Sequence[Document]) -> Configuration:
    """Check the documents, and join them: each can have a part of the configuration."""
    problems = [problem for document in documents for problem in document.problems]
    parsed = [document for document in documents if document.data is not None]
    for document in parsed:
        problems += _schema_problems(document)
    for path in (_COLLECTIONS, _CHANNELS, _RULES, _WEBHOOKS, _DIGESTS):
        problems += _repeated_names(parsed, path)
    collections = _section(parsed, _COLLECTIONS, CollectionEntry)
    problems += _wrong_previous_names(collections)
    return Configuration(
        files=tuple(document.name for document in documents),
        collections=collections,
        channels=_section(parsed, _CHANNELS, ChannelEntry),
        rules=_section(parsed, _RULES, RuleEntry),
        webhooks=_section(parsed, _WEBHOOKS, WebhookEntry),
        digests=_section(parsed, _DIGESTS, DigestEntry),
        problems=tuple(problems),
    )


def _schema_problems(document: Document) -> list[Problem]:
    try:
        ConfigurationFile.model_validate(document.data)
    except ValidationError as error:
        return [
            document.problem(each["loc"], _describe(each["loc"], each["type"], each["msg"]))
            # Not the input: it can be a secret.
            for each in error.errors(include_input=False, include_url=False)
        ]
    return []


def _describe(path: ValuePath, kind: str, message: str) -> str:
    name = next((part for part in reversed(path) if isinstance(part, str)), "")
    if kind == "invalid":
        return message
    if kind == "missing":
        return f'The key "{name}" is missing.'
    if kind == "extra_forbidden":
        known = _known_keys(path[:-1])
        similar = get_close_matches(name, known, n=1)
        advice = f'did you mean "{similar[0]}"?' if similar else f"the keys are {', '.join(known)}."
        return f'The key "{name}" is unknown: {advice}'
    if kind == "inline_secret":
        return f"The value of {name} must not be in the file: {message}."
    reason = _REASONS.get(kind, message.removeprefix("Value error, ").rstrip("."))
    if kind == "string_pattern_mismatch":
        reason = "enter an absolute path" if name == "file" else "enter the name of an environment variable"
    subject = f"The value of {name} is invalid" if name else "The file is invalid"
    return f"{subject}: {reason[:1].lower()}{reason[1:]}."


def _known_keys(path: ValuePath) -> list[str]:
    """Return the keys that a mapping at this path can have."""
    kind: Any = ConfigurationFile
    for part in path:
        kind = _entry_type(kind.model_fields[part].annotation if isinstance(part, str) else kind)
    return list(kind.model_fields)


def _entry_type(annotation: Any) -> type[BaseModel]:
    """Return the model in an annotation such as `tuple[CollectionEntry, ...] | None`."""
    if get_origin(annotation) in (Union, types.UnionType, tuple):
        models = [_entry_type(each) for each in get_args(annotation) if each not in (type(None), Ellipsis)]
        return models[0]
    entry: type[BaseModel] = annotation
    return entry


def _section(documents: Sequence[Document], path: ValuePath, model: type[E]) -> Section[E]:
    entries, names = [], set()
    for document, item_path, item in _items(documents, path):
        names.add(_name_of(item, path))
        if (entry := _valid_entry(model, item)) is not None:
            entries.append(Located(entry, document, item_path))
    is_managed = any(isinstance(_value_at(document.data, path), list) for document in documents)
    return Section(is_managed, tuple(entries), frozenset(names) - {""})


def _items(documents: Iterable[Document], path: ValuePath) -> Iterator[tuple[Document, ValuePath, Any]]:
    """Yield the items of a list in all documents, and where they are."""
    for document in documents:
        items = _value_at(document.data, path)
        for index, item in enumerate(items if isinstance(items, list) else ()):
            yield document, (*path, index), item


def _name_key(path: ValuePath) -> str:
    """Return the key that identifies the entries of a list."""
    return "collection" if path == _DIGESTS else "name"


def _name_of(item: Any, path: ValuePath) -> str:
    """Return the name of an entry of a list, which need not be valid; "" if it has none."""
    name = item.get(_name_key(path)) if isinstance(item, dict) else None
    return name if isinstance(name, str) else ""


def _value_at(data: Any, path: ValuePath) -> Any:
    for part in path:
        data = data.get(part) if isinstance(data, Mapping) else None
    return data


def _valid_entry(model: type[E], item: Any) -> E | None:
    try:
        return model.model_validate(item)
    except ValidationError:
        # `_schema_problems` has reported it.
        return None


def _repeated_names(documents: Iterable[Document], path: ValuePath) -> list[Problem]:
    seen: set[str] = set()
    problems, key = [], _name_key(path)
    for document, item_path, item in _items(documents, path):
        name = _name_of(item, path)
        if name and name in seen:
            problems.append(document.problem((*item_path, key), f'The {key} "{name}" is there twice.'))
        seen.add(name)
    return problems


def _wrong_previous_names(collections: Section[CollectionEntry]) -> list[Problem]:
    seen: set[str] = set()
    problems = []
    for located in collections.entries:
        name = located.entry.previous_name
        if name is None:
            continue
        if name in collections.names:
            message = f'The previous name "{name}" is the name of a collection in the file: remove it.'
            problems.append(located.problem(message, "previous_name"))
        if name in seen:
            message = f'The previous name "{name}" is there twice.'
            problems.append(located.problem(message, "previous_name"))
        seen.add(name)
    return problems

"""Fail on words that docs/glossary.md replaces with standard terms.

`make lint` runs it over src, tests, benchmarks, docs, tools and the Markdown files beside them. It prints one
`file:line: message` for each finding and exits with status 1 if there is any.

Usage: python -m tools.check_language [PATH ...]
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES: list[str | Path] = [
    "src",
    "tests",
    "benchmarks",
    "docs",
    "tools",
    "bin",
    "Makefile",
    "pyproject.toml",
    *ROOT.glob("*.md"),
]
SUFFIXES = {"", ".css", ".html", ".js", ".mako", ".md", ".py", ".toml", ".yaml"}
# These two hold the words in order to look for them.
EXCLUDED = {"tools/check_language.py", "tests/unit/test_check_language.py"}
MAX_TEST_NAME = 60

# Word or phrase -> what to write instead. It is found in prose, snake_case, CamelCase and CONSTANT_CASE.
WORDS = {
    "answer ahead": "prefetched response",
    "answers ahead": "prefetched responses",
    "at hand": "available, or the name of the thing",
    "at work": "running",
    "befall": "happen to",
    "befallen": "happened to",
    "befalls": "happens to",
    "befell": "happened to",
    "bought": "purchased",
    "chain": "run",
    "chains": "runs",
    "desert": "gap",
    "deserts": "gaps",
    "foreseen": "expected",
    "go on": "resume, continue",
    "goes on": "resumes, continues",
    "going on": "resuming, in progress",
    "house": "package layout, application",
    "in peace": "undisturbed",
    "in trouble": "failing",
    "in vain": "unnecessarily",
    "lately": "recently",
    "leap": "probe, skip",
    "leaped": "probed, skipped",
    "leaping": "probing, skipping",
    "leaps": "probes, skips",
    "leapt": "probed, skipped",
    "leash": "parent-death signal",
    "left behind": "stale",
    "read ahead": "prefetch",
    "reading ahead": "prefetching",
    "reads ahead": "prefetches",
    "shelf": "cache",
    "shelves": "caches",
    "sign of life": "heartbeat",
    "signs of life": "heartbeats",
    "spoilt": "malformed, corrupted",
    "stand in": "simulated",
    "stands in for": "replaces, simulates",
    "told": "reported, payload, response",
    "turned away": "rejected",
    "undescribed": "without metadata",
    "unkept": "unmaintained",
    "unspoilt": "well-formed",
    "went on": "resumed, continued",
}

# Text in which a word above is right.
ALLOWED = [
    r"leap (?:year|day|second)s?",
    r"(?:publishing|random) houses?",
    r"opds-spec\.org/shelf",
    r"\{shelf\}",
    r"stands? in the",
    r"chain[.(]|itertools import [\w, ]+|certificate chains?|foreign_pre_chain",
]

# Names that say nothing about the value: name the thing (payload, response, rows, selected, missing ...).
VAGUE_NAMES = {"asked", "chosen", "found", "given", "gone", "kept", "made", "said", "told", "wanted"}

# Prefix of a constant -> prefix to use instead.
CONSTANT_PREFIXES = {"LARGEST_": "MAX_", "LONGEST_": "MAX_", "MOST_": "MAX_", "SHORTEST_": "MIN_"}

# A docstring begins with a verb in the imperative, that of a class or module with a noun.
FIRST_WORDS = {"Afterwards", "How", "That", "Those", "What", "Whatever", "Whether"}


@dataclass(frozen=True)
class Finding:
    """One place that breaks a rule."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


_PHRASES = {tuple(phrase.split()): use for phrase, use in WORDS.items()}
_FIRST_WORDS_OF_PHRASES = {phrase[0] for phrase in _PHRASES}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# Between the words of a phrase: white space, a new line of a comment, or the joints of an identifier.
_GAP = re.compile(r"[\s#_-]*")
_ALLOWED = re.compile("|".join(ALLOWED), re.IGNORECASE)


def find_words(path: str, text: str) -> Iterator[Finding]:
    """Yield each banned word of a text of any kind."""
    matches = list(_WORD.finditer(text))
    words = [match[0].lower() for match in matches]
    for index, word in enumerate(words):
        if word not in _FIRST_WORDS_OF_PHRASES:
            continue
        for phrase, use in _PHRASES.items():
            end = index + len(phrase)
            if tuple(words[index:end]) == phrase and _is_connected(text, matches[index:end]):
                yield Finding(path, _line_of(text, matches[index]), f'"{" ".join(phrase)}": use {use}')


def _is_connected(text: str, matches: list[re.Match[str]]) -> bool:
    """Return whether only white space or joints separate the words, and no allowed text contains them."""
    start, end = matches[0].start(), matches[-1].end()
    if not all(_GAP.fullmatch(text, one.end(), two.start()) for one, two in pairwise(matches)):
        return False
    return not any(allowed.start() < end and start < allowed.end() for allowed in _ALLOWED.finditer(text))


def _line_of(text: str, match: re.Match[str]) -> int:
    return text.count("\n", 0, match.start()) + 1


def find_names(path: str, source: str) -> Iterator[Finding]:
    """Yield each name, constant, docstring and test of a Python file that breaks a rule."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstring_findings(path, node)
        for name in _bound_names(node):
            line: int = getattr(node, "lineno", 1)
            if name.strip("_") in VAGUE_NAMES:
                yield Finding(path, line, f'name "{name}": say what the value is')
            for prefix, use in CONSTANT_PREFIXES.items():
                if name.lstrip("_").startswith(prefix):
                    yield Finding(path, line, f'constant "{name}": begin it with {use}')
            if name.startswith("test_") and len(name) > MAX_TEST_NAME:
                yield Finding(
                    path, line, f'test "{name}" has {len(name)} characters, at most {MAX_TEST_NAME}'
                )


def _bound_names(node: ast.AST) -> list[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.arg():
            return [node.arg]
        case ast.Name(ctx=ast.Store()):
            return [node.id]
        case ast.Attribute(ctx=ast.Store()):
            return [node.attr]
        case ast.alias(asname=str(name)):
            return [name]
    return []


def _docstring_findings(
    path: str, node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
) -> Iterator[Finding]:
    docstring = ast.get_docstring(node)
    words = docstring.split(maxsplit=1) if docstring else []
    if words and words[0] in FIRST_WORDS:
        yield Finding(path, node.body[0].lineno, f'docstring begins with "{words[0]}": use a verb or a noun')


def check_text(path: str, text: str) -> list[Finding]:
    """Return everything that breaks a rule in a file, by line."""
    findings = list(find_words(path, text))
    if path.endswith(".py"):
        findings += find_names(path, text)
    return sorted(findings, key=lambda finding: finding.line)


def files_below(places: Iterable[str | Path]) -> Iterator[Path]:
    """Yield the text files that are checked, below folders or named themselves."""
    for place in places:
        path = ROOT / place
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix in SUFFIXES and "__pycache__" not in file.parts:
                yield file


def main(arguments: list[str]) -> int:
    """Check the named files, or all, and return the exit status."""
    count = 0
    places: Sequence[str | Path] = [Path(name).resolve() for name in arguments]
    for file in files_below(places or PLACES):
        path = file.relative_to(ROOT).as_posix()
        if path in EXCLUDED:
            continue
        for finding in check_text(path, file.read_text(encoding="utf-8")):
            print(finding)
            count += 1
    if count:
        print(f"{count} findings; docs/glossary.md has the terms, tools/check_language.py the rules")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

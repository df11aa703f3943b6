"""Asking the vendor for pages before it is their turn, while the page at hand waits for an answer of its own.

One page after another, the vendor's latency is what an import waits for. So whenever a page has to wait,
those that come after it in any case are asked for beside it, and their answers laid on a shelf for them.
A page that finds its answer there need not ask. One that does not, asks.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from itertools import islice
from types import TracebackType

from accession.bibliotheca.client import BibliothecaAPI
from accession.bibliotheca.errors import RETRYABLE, RemoteIntegrationException
from accession.bibliotheca.marc import MarcPage
from accession.imports.windows import Window


@dataclass(frozen=True)
class Asked:
    """A question for purchase records: a window, and the 1-based offset in it."""

    window: Window
    offset: int = 1

    @property
    def name(self) -> str:
        """What the question is called on a shelf."""
        return f"{self.window.start.isoformat()}/{self.window.end.isoformat()}/{self.offset}"


class Shelf:
    """Where answers wait for the page whose turn it is. This one keeps nothing, so that nothing is asked for
    ahead of its turn."""

    def take(self, name: str) -> bytes | None:
        """The answer to the question of this name, which is gone then; None where there is none."""

    def lay(self, name: str, answer: bytes) -> None:
        """Keep an answer for a minute or so, while the vendor would still say the same."""

    def missing(self, names: Sequence[str]) -> Sequence[str]:
        """Those of the names under which an answer is worth having."""
        return ()


class ReadingAhead:
    """The asking for one page. Within its context others are asked for beside it; at its end all those have
    been answered.

    A vendor error of another page than the one at hand is left for that page to meet.
    """

    def __init__(self, api: BibliothecaAPI, shelf: Shelf, at_once: int) -> None:
        self._api = api
        self._shelf = shelf
        self._at_once = at_once
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="ahead")
        self._under_way: dict[str, Future[bytes]] = {}

    def __enter__(self) -> "ReadingAhead":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._threads as threads:
            if error is not None:
                threads.shutdown(cancel_futures=True)
                return
            for name, answer in self._under_way.items():
                with suppress(RemoteIntegrationException):
                    self._shelf.lay(name, answer.result())

    def page(self, asked: Asked, sure: Iterable[Asked]) -> MarcPage:
        """The vendor's answer for the page at hand; when it has to be waited for, others that are `sure` to
        be needed are asked for beside it."""
        answer = self._shelf.take(asked.name)
        if answer is not None:
            # One that cannot be read is asked for again.
            with suppress(*RETRYABLE):
                return self._api.read_marc_page(answer)
        self.ask_beside(1, sure)
        return self._api.marc_page(asked.window.start, asked.window.end, asked.offset)

    def ask_beside(self, requests: int, sure: Iterable[Asked]) -> None:
        """Begin to ask for pages that are `sure` to be needed and are not there yet, beside so many requests
        of the page at hand."""
        pages = {page.name: page for page in islice(sure, self._at_once)}
        wanted = self._shelf.missing([name for name in pages if name not in self._under_way])
        for name in wanted[: max(0, self._at_once - requests)]:
            ask, window = copy_context().run, pages[name].window
            self._under_way[name] = self._threads.submit(
                ask, self._api.marc_body, window.start, window.end, pages[name].offset
            )

"""Validate OPDS documents with the models of Palace, the library platform, and write what it has read.

Standard input is a list of [type of document, document]. Documents of publications are written as a list of
publications; a document that the models reject ends the program with an error.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

from palace.opds.authentication.document import AuthenticationDocument
from palace.opds.opds2 import Feed, Publication, PublicationsGroup

_BORROW = "http://opds-spec.org/acquisition/borrow"


def _publications(kind: str, document: Any) -> Iterator[Publication]:
    if kind == "authentication":
        AuthenticationDocument.model_validate(document)
    elif kind == "publication":
        yield Publication.model_validate(document)
    else:
        feed = Feed.model_validate(document)
        yield from feed.publications
        for group in feed.groups:
            if isinstance(group, PublicationsGroup):
                yield from group.publications


def _summary(publication: Publication) -> dict[str, Any]:
    link = publication.links.get(rel=_BORROW, raising=True)
    metadata = publication.metadata
    return {
        "identifier": metadata.identifier,
        "title": str(metadata.title),
        "borrow": str(link.href),
        "copies": link.properties.copies.total,
        "available": link.properties.availability.available,
    }


json.dump(
    [
        _summary(publication)
        for kind, document in json.load(sys.stdin)
        for publication in _publications(kind, document)
    ],
    sys.stdout,
)

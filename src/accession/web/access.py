"""Placeholder until the branch `access` is merged."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends


@dataclass(frozen=True)
class Principal:
    """Who asks."""

    name: str
    role: str


def viewer() -> Principal:
    return Principal("local", "operator")


Viewer = Annotated[Principal, Depends(viewer)]
Operator = Annotated[Principal, Depends(viewer)]

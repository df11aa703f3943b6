"""Placeholder until the branch `access` is merged."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request


@dataclass(frozen=True)
class Principal:
    """Who asks."""

    name: str
    role: str
    by: str = "local"


def viewer(request: Request) -> Principal:
    request.state.principal = Principal("local", "operator")
    return request.state.principal


Viewer = Annotated[Principal, Depends(viewer)]
Operator = Annotated[Principal, Depends(viewer)]

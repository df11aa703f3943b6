"""Stands in for a package that redis-py needs before Python 3.11.3, when another user runs an older one."""

from asyncio import timeout

__all__ = ["timeout"]

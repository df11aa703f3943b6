"""What a power cut must not undo."""

import os
from pathlib import Path


def settle(path: Path) -> None:
    """Afterwards the disk knows the file, or of a folder the names in it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

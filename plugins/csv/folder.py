"""Folders, and the names in them, on disk."""

import contextlib
import os
from pathlib import Path


def make(folder: Path) -> None:
    """Make a folder and those above it, on disk."""
    if not folder.is_dir():
        make(folder.parent)
        folder.mkdir(mode=0o750, exist_ok=True)
        sync(folder.parent)


def sync(folder: Path) -> None:
    """Have the names in a folder on disk. One that may not be read cannot be synced either."""
    with contextlib.suppress(PermissionError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

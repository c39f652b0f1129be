"""The folder: made with those above it, and its names brought to disk."""

import contextlib
import os
from pathlib import Path


def make(folder: Path) -> None:
    """Make a folder and those above it, and see to it that their names are on disk."""
    if folder.is_dir():
        return
    make(folder.parent)
    folder.mkdir(mode=0o750, exist_ok=True)
    with contextlib.suppress(PermissionError):  # one that may not be read cannot be synced
        sync(folder.parent)


def existing(path: Path) -> Path:
    """The path itself or, where it is not there, the nearest folder above it that is."""
    return next(each for each in (path, *path.parents) if each.exists())


def sync(folder: Path) -> None:
    """Bring the names in a folder to disk: of files that were made, renamed or removed there."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private(path: str, flags: int) -> int:
    """An opener for files that hold contacts' data."""
    return os.open(path, flags, 0o640)

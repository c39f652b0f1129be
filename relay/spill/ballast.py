"""The ballast: a file beside the store that is given up when the disk is full.

Even to delete, SQLite has to write first; what the ballast leaves is for that.
"""

import logging
import os
from pathlib import Path

from relay import fsutil

log = logging.getLogger("relay.ballast")


class Ballast:
    """The file, which holds nothing but its place. Everything may raise OSError."""

    def __init__(self, store: Path) -> None:
        self.path = store.with_name(f"{store.name}.ballast")

    def restore(self, size: int) -> None:
        """Have it take up so many bytes; really, as a file with holes would be none."""
        if self._size() == size:
            return
        descriptor = fsutil.private(str(self.path), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
            if size:
                os.posix_fallocate(descriptor, 0, size)
        except OSError:
            self.path.unlink()
            raise
        finally:
            os.close(descriptor)

    def give_up(self) -> None:
        """Give its place to others."""
        if size := self._size():
            self.path.unlink()
            log.warning("the disk is full: %s gave up its %d bytes", self.path, size)

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

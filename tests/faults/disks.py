"""Small file systems, to fill up and to heal."""

import subprocess
from contextlib import contextmanager

import pytest


@contextmanager
def small_disk(folder, size="8m"):
    """A file system of its own; call what is given with it for more."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this needs root, to mount a small file system")

    def grow():
        subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)

    try:
        yield folder, grow
    finally:
        subprocess.run(["umount", folder], check=True)

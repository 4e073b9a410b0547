"""Files that appear whole or not at all, and outlast a power cut."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Write a file (text as UTF-8), replacing any of that name; readers see the old one or the whole new one.

    Once this returns, the file survives a power loss.
    """
    folder, name = os.path.split(os.path.abspath(path))
    # In the same folder: a rename is atomic within one file system only.
    temporary = os.path.join(folder, f".{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, os.path.join(folder, name))
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    sync_folder(folder)


def sync_folder(path: str | Path) -> None:
    """Make the names in this folder last: a file's own fsync does not cover its name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

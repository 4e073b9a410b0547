"""Files that appear whole or not at all, and outlast a power cut; on a disk or on an object store."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from pathlib import Path
from urllib.parse import unquote, urlsplit

from raymix.remote import RemotePath
from raymix.types import UsageError

AnyPath = Path | RemotePath
"""Where a run's files are."""
_ALMOST_A_URI = re.compile(r"(file|s3|gs|gcs|abfss?|hdfs):(?!//)")


def path_of(text: str | Path | RemotePath) -> AnyPath:
    """A local path (`~` is the home folder), or a URI such as s3://bucket/runs.

    Raises `UsageError` for a URI of an unknown kind, and for a file of another machine.
    """
    if isinstance(text, RemotePath):
        return text
    if match := _ALMOST_A_URI.match(str(text)):
        raise UsageError(
            f"{text} looks like a URI that lacks a slash; write {match[1]}://... or, for a folder, ./{text}"
        )
    if "://" not in str(text):
        return Path(os.path.abspath(os.path.expanduser(text)))
    if str(text).startswith("file://"):
        parts = urlsplit(str(text), allow_fragments=False)
        if parts.netloc not in ("", "localhost"):
            raise UsageError(f"{text} names a file on the machine {parts.netloc}; write file:///{parts.netloc}/...")
        return Path(os.path.abspath(unquote(parts.path)))
    return RemotePath.of(str(text))


def write_atomically(path: str | AnyPath, data: bytes | str) -> None:
    """Write a file (text as UTF-8), replacing any of that name; readers see the old one or the whole new one.

    Once this returns, the file survives a power loss.
    """
    path, data = path_of(path), data.encode() if isinstance(data, str) else data
    if isinstance(path, RemotePath):
        path.write_bytes(data)
        return
    # In the same folder: a rename is atomic within one file system only.
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def append_durably(path: AnyPath, data: bytes) -> None:
    """Append to a file; once this returns, the file survives a power loss.

    On a disk, what dies in the middle leaves a part of `data` behind; elsewhere all or nothing is appended, as the
    whole file is written anew.
    """
    fresh = not path.exists()
    if isinstance(path, RemotePath):
        path.write_bytes((b"" if fresh else path.read_bytes()) + data)
        return
    with open(path, "ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if fresh:
        sync_folder(path.parent)


def sync_folder(path: AnyPath) -> None:
    """Make the names in this folder last: a file's own fsync does not cover its name."""
    if isinstance(path, RemotePath):
        return  # what an object store has confirmed lasts
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def matching(folder: AnyPath, pattern: str) -> list[AnyPath]:
    """What `Path.glob` finds, without `**`, by name; nothing where there is no such folder."""
    return sorted(folder.glob(pattern), key=str)


def remove_tree(path: AnyPath) -> None:
    """Delete a folder with all that is in it."""
    path.remove_tree() if isinstance(path, RemotePath) else shutil.rmtree(path)

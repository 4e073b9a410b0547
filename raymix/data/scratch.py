"""Columns as they are made, a block at a time: in memory, or in a file where they would take too much of it.

The file lies in the library's folder (where that cannot be written, in the one that $TMPDIR names) for as long as
somebody in this process holds the columns. They are mapped from it, so that the system reads what is used and takes the
memory back when it needs it; other processes of this machine can map the same file. It holds the seven columns one
after the other and nothing else: their shapes follow from the data set's `Spec`.

A process that is killed leaves its file behind. The kernel lets go of the lock on it then, by which the next process
that makes such a file knows it for a remnant, and removes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import math
import mmap
import os
import tempfile
import uuid
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from raymix.data import library
from raymix.data.columns import DTYPES
from raymix.types import Columns, Spec, UsageError

IN_MEMORY = 64 * 2**20
"""Bytes up to which columns are made in memory."""
SUFFIX = ".rows"
_ALIGNED = 64
_Layout = dict[str, tuple[int, tuple[int, ...], np.dtype]]
"""Offset in bytes, shape and type of each column."""


def filled(
    rows: int, observation_dim: int, action_dim: int, blocks: Iterable[Columns], name: str, copies: int = 1
) -> tuple[Columns, str | None]:
    """Columns of so many rows, from blocks that follow one another; with the file that they are mapped from, if any.

    `copies` is how many times there must be room for such a file, this one included.

    Raises:
        UsageError: the disk has no room for the rows of the data set `name`; nothing stays behind.
    """
    layout = _layout(rows, observation_dim, action_dim)
    size = sum(math.prod(shape) * dtype.itemsize for _, shape, dtype in layout.values())
    if size <= IN_MEMORY:
        arrays = {column: np.empty(shape, dtype) for column, (_, shape, dtype) in layout.items()}
        for start, block in _placed(blocks):
            for column, array in arrays.items():
                array[start : start + len(block.episode)] = getattr(block, column)
        return Columns(**arrays), None
    folder = _folder()
    _remove_remnants(folder)
    library.require_room(folder, copies * size, name)
    path = folder / f".{uuid.uuid4().hex}{SUFFIX}"
    try:
        file = _locked(path)
    except OSError as error:
        raise library.cannot_write(name, folder, error.strerror or str(error)) from error
    try:
        # Not through a mapping, whose pages would count as this process's until they are on the disk.
        for start, block in _placed(blocks):
            for column, (offset, shape, dtype) in layout.items():
                file.seek(offset + start * dtype.itemsize * math.prod(shape[1:]))
                file.write(np.ascontiguousarray(getattr(block, column)).data)
        file.flush()
        mapped = _map(path)
    except BaseException as error:
        _remove(path, file, os.getpid())
        if isinstance(error, OSError):
            raise library.cannot_write(name, folder, error.strerror or str(error)) from error
        raise
    weakref.finalize(mapped, _remove, path, file, os.getpid())
    return _columns(mapped, layout), str(path)


def open_file(path: str, spec: Spec) -> Columns:
    """The columns of a file that `filled` made and that a process of this machine still holds.

    Raises:
        UsageError: it is gone, as the process that made it has ended.
    """
    layout = _layout(spec.num_transitions + spec.num_episodes, spec.observation_dim, spec.action_dim)
    try:
        return _columns(_map(Path(path)), layout)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the rows of data set {spec.name} are not in {path} any more ({error}); start again what made them"
        ) from error


def _layout(rows: int, observation_dim: int, action_dim: int) -> _Layout:
    widths = {"observations": (observation_dim,), "actions": (action_dim,)}
    layout: _Layout = {}
    offset = 0
    for field in dataclasses.fields(Columns):
        shape, dtype = (rows, *widths.get(field.name, ())), np.dtype(DTYPES[field.name])
        layout[field.name] = offset, shape, dtype
        offset += -(-math.prod(shape) * dtype.itemsize // _ALIGNED) * _ALIGNED
    return layout


def _placed(blocks: Iterable[Columns]) -> Iterator[tuple[int, Columns]]:
    """Blocks with the row at which each begins."""
    start = 0
    for block in blocks:
        yield start, block
        start += len(block.episode)


def _columns(mapped: mmap.mmap, layout: _Layout) -> Columns:
    """Read-only views, which keep the mapping."""
    return Columns(
        **{
            column: np.frombuffer(mapped, dtype, math.prod(shape), offset).reshape(shape)
            for column, (offset, shape, dtype) in layout.items()
        }
    )


def _map(path: Path) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _folder() -> Path:
    root = library.root()
    with contextlib.suppress(OSError):
        root.mkdir(parents=True, exist_ok=True)
    return root if os.access(root, os.W_OK) else Path(tempfile.gettempdir())


def _locked(path: Path) -> BinaryIO:
    """A new file that nobody takes for a remnant while it is open."""
    while True:
        file = open(path, "xb")  # noqa: SIM115  (open for as long as its columns are held)
        with contextlib.suppress(OSError):  # a file system without locks, where no remnant is ever removed
            fcntl.flock(file, fcntl.LOCK_SH)
        if os.fstat(file.fileno()).st_nlink:  # else it was removed before it was locked
            return file
        file.close()


def _remove_remnants(folder: Path) -> None:
    for path in folder.glob(f".*{SUFFIX}"):
        with contextlib.suppress(OSError), open(path, "rb") as file:  # of somebody else, in use, or gone by now
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _remove(path: Path, file: BinaryIO, owner: int) -> None:
    if os.getpid() != owner:  # a fork, whose parent goes on
        return
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # what could not be written is tried again
        file.close()

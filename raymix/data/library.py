"""Data sets that raymix keeps itself: what was imported or collected, one Arrow file each.

`<root>/<name>.arrow` holds the table of `raymix.data.table`, so reading one maps a file and copies nothing, and data
larger than memory can be trained on. The root is $RAYMIX_DATASETS_PATH, or ~/.raymix/datasets.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from raymix.data.table import from_table, to_table
from raymix.files import sync_folder
from raymix.types import Dataset, UsageError

_ORIGIN_KEY = b"raymix.origin"
NAME = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)*")


def root() -> Path:
    """The folder of raymix's own data sets."""
    return Path(os.environ.get("RAYMIX_DATASETS_PATH") or Path.home() / ".raymix" / "datasets")


def path_of(name: str) -> Path:
    """Where the data set of that name is, or would be.

    Raises:
        UsageError: not the form of a name.
    """
    if not NAME.fullmatch(name) or ".." in name or name.endswith(".arrow"):
        raise UsageError(
            f"{name!r} is no name for a data set; take letters, digits, '-', '_' and '.', with '/' between parts, such"
            " as hopper/expert"
        )
    return root() / f"{name}.arrow"


def names() -> list[str]:
    """Names of all data sets in the library, sorted."""
    base = root()
    return sorted(
        path.relative_to(base).as_posix().removesuffix(".arrow")
        for path in base.rglob("*.arrow")
        if not path.name.startswith(".")
    )


def holds(name: str) -> bool:
    """Whether the library has a data set of that name; False for what is no name."""
    return bool(NAME.fullmatch(name)) and ".." not in name and (root() / f"{name}.arrow").is_file()


def require_writable(name: str) -> None:
    """Look whether a data set of that name could be kept, before the work of making it; leaves nothing behind.

    Raises:
        UsageError: nothing can be written there.
    """
    folder = path_of(name).parent
    try:
        there = next(place for place in (folder, *folder.parents) if place.exists())
        probe = there / f".{uuid.uuid4().hex}.partial"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"the data set {name} cannot be written to {folder} ({error.strerror}); set RAYMIX_DATASETS_PATH to another"
            " folder"
        ) from error


def require_room(folder: Path, size: int, name: str) -> None:
    """Raise `UsageError` where the disk of a folder, which need not be there yet, has no room for `size` bytes of the
    data set `name`."""
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    if free < size:
        raise cannot_write(name, folder, f"it takes {size / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free")


def cannot_write(name: str, folder: Path, why: str) -> UsageError:
    """The refusal of a data set that cannot be written."""
    return UsageError(
        f"the data set {name} cannot be written to {folder} ({why}); make room there, or set RAYMIX_DATASETS_PATH to"
        " another folder"
    )


def save(dataset: Dataset, origin: Mapping[str, Any] | None = None) -> Path:
    """Write a data set under its `Spec.name`, whole or not at all, replacing one of that name; returns the file.

    `origin` is kept beside it: how it was made, JSON-ready. `origin(name)` reads it.

    Raises:
        UsageError: the name is none, the disk has no room for it, or the file cannot be written.
    """
    path = path_of(dataset.spec.name)
    missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    table = to_table(dataset)
    require_room(path.parent, table.nbytes, dataset.spec.name)
    if origin is not None:
        table = table.replace_schema_metadata({**table.schema.metadata, _ORIGIN_KEY: json.dumps(origin)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(dataset.spec.name, path.parent, error.strerror or str(error)) from error
    finally:
        partial.unlink(missing_ok=True)
        if not path.exists():
            for folder in missing:
                with contextlib.suppress(OSError):  # Not made, or somebody else's by now.
                    folder.rmdir()
    return path


def load(name: str) -> Dataset:
    """The data set of that name, its columns mapped from the file: pages are read when they are used.

    Raises:
        UsageError: there is none, or the file is no whole data set.
    """
    return load_file(_existing(name))


def origin(name: str) -> dict[str, Any] | None:
    """How the data set of that name was made, as `save` was told; None where it was not.

    Raises:
        UsageError: there is none, or the file is no whole data set.
    """
    path = _existing(name)
    with _readable(path), pa.memory_map(str(path)) as file:
        return json.loads((pa.ipc.open_file(file).schema.metadata or {}).get(_ORIGIN_KEY, b"null"))


def load_file(path: Path) -> Dataset:
    """A file that `save` wrote, wherever it is now.

    The columns are not hashed: that would read them all. `raymix data check` does.

    Raises:
        UsageError: the file is no whole data set of raymix.
    """
    with _readable(path), pa.memory_map(str(path)) as file:
        return replace(from_table(pa.ipc.open_file(file).read_all()), file=str(path))


def _existing(name: str) -> Path:
    path = path_of(name)
    if not path.is_file():
        raise UsageError(f"the library {root()} holds no data set {name!r}, only {names() or 'nothing'}")
    return path


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise UsageError(
            f"{path} is no whole data set of raymix ({' '.join(str(error).split())}); import or collect it again"
        ) from error

"""The folder of a run: made once, locked while a process works in it.

<root>/<name>-<date>-<hash>/
    sweep.json      what was asked, and every trial (`raymix.plan`)
    trials.jsonl    with a searcher: the trials that it has decided (`raymix.search.decided`)
    generations.jsonl, generations/
                    of populations: who copied whom, and the states that may still be copied (`raymix.search.exchange`)
    ledger/         the results
    trials/         Tune's files and the checkpoints, by attempt and configuration
    snapshots/      parameters for figures, of algorithms that keep some (`raymix.snapshots`)
    report/         tables and figures
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from filelock import FileLock, Timeout

from raymix.files import AnyPath, path_of, sync_folder
from raymix.lease import leased
from raymix.plan import write_description
from raymix.remote import RemotePath
from raymix.types import Dataset, UsageError
from raymix.waiting import shown


def load_dataset(name: str, quiet: bool, expected: Mapping[str, str] | None = None, copies: int = 1) -> Dataset:
    """Load a data set, and show how far it is where that takes a while.

    `expected` holds the hashes that a run was started with; other contents raise `UsageError`. `copies` is how many
    times a mixture must fit on the disk (`raymix.data.catalog.load`).
    """
    with shown(f"loading {name}", quiet, at_once=False) as tell:
        from raymix.data import catalog

        dataset = catalog.load(name, tell, copies)
    if expected is not None and dataset.spec.hash != expected[name]:
        raise UsageError(
            f"data set {name} is not the one that the run was started with ({expected[name][:12]}); restore it, or"
            " start a new run"
        )
    return dataset


def writable_folder(path: str) -> AnyPath:
    """The folder, which need not be there yet, and is not made. Raises `UsageError` where nothing can be written."""
    folder = path_of(path).resolve()
    missing = (
        [] if isinstance(folder, RemotePath) else [each for each in (folder, *folder.parents) if not each.exists()]
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".raymix-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
        for each in missing:
            with contextlib.suppress(OSError):  # somebody else has put something there
                each.rmdir()
    except OSError as problem:
        raise UsageError(
            f"cannot write to the storage folder {folder} ({problem.strerror or problem}); choose another with"
            " --storage"
        ) from problem
    return folder


def new_run_folder(root: AnyPath, name: str, plan: dict[str, Any]) -> AnyPath:
    """Make `<root>/<name>-<date>-<hash>` with its `sweep.json`; the hash is that of the plan."""
    digest = hashlib.sha256(repr(plan).encode()).hexdigest()[:6]
    root.mkdir(parents=True, exist_ok=True)
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{digest}"
    for suffix in ("", *(f"-{number}" for number in range(2, 100))):
        folder = root / (stem + suffix)
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        sync_folder(root)
        write_description(folder, plan)
        return folder
    raise UsageError(f"{root} holds a hundred runs named {stem} already; choose another --storage")


@contextlib.contextmanager
def locked(run_dir: AnyPath) -> Iterator[None]:
    """Keep two processes from running one sweep; the lock goes with the process, however it ends."""
    if isinstance(run_dir, RemotePath):
        with leased(run_dir):
            yield
        return
    lock = FileLock(run_dir / ".lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout as problem:
        raise UsageError(f"another process is running the sweep in {run_dir}; stop it, or wait for it") from problem
    # Not `with lock`, which would count a second hold and let go of one.
    with held:
        yield

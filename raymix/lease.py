"""Who runs a sweep whose folder is on an object store, where no file can be locked."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raymix.remote import RemotePath
from raymix.types import UsageError

LEASE_S = 60.0
"""After so long without news the process that ran a sweep counts as dead."""


@contextlib.contextmanager
def leased(run_dir: RemotePath) -> Iterator[None]:
    """Keep two processes from running one sweep: who runs it writes that down anew every quarter of `LEASE_S`.

    It takes the clocks of the machines to agree to a few seconds. Of two who begin at the same moment both may go
    ahead; then one finds the other's name when it looks next, and stops.
    """
    path, own = run_dir / ".lock", {**_this_process(), "token": uuid.uuid4().hex}
    holder = _holder(path)
    if holder is not None and _may_live(holder):
        raise UsageError(
            f"another process ({holder['process']} on {holder['host']}) is running the sweep in {run_dir}; stop it, or"
            f" wait for it; if it was killed, try again in {LEASE_S:g} s"
        )

    def write() -> None:
        path.write_bytes(json.dumps({**own, "renewed": time.time()}).encode())

    def renew() -> None:
        while not over.wait(LEASE_S / 4):
            with contextlib.suppress(OSError):  # the store may be away for a moment
                holder = _holder(path)
                if holder is not None and holder["token"] != own["token"]:
                    print(f"Process {holder['process']} on {holder['host']} took over {run_dir}.", file=sys.stderr)
                    os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C: the sweep saves and stops
                    return
                write()

    write()
    over = threading.Event()
    renewing = threading.Thread(target=renew, name="lease", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
        with contextlib.suppress(OSError):  # what ended the sweep may be that the store is away; a lease ends by itself
            holder = _holder(path)
            if holder is not None and holder["token"] == own["token"]:
                path.unlink()


def _holder(path: RemotePath) -> dict[str, Any] | None:
    """What the lease says; None where there is none that can be read."""
    try:
        holder = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    names = {*_this_process(), "token", "renewed"}
    return holder if isinstance(holder, dict) and holder.keys() >= names else None


def _this_process() -> dict[str, Any]:
    """The host, the process, and the space in which its number means it (containers have their own)."""
    space = Path("/proc/self/ns/pid")
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "space": os.readlink(space) if space.is_symlink() else "",
    }


def _may_live(holder: dict[str, Any]) -> bool:
    """Whether the lease is not over, and its holder not known to be dead."""
    if time.time() - holder["renewed"] > LEASE_S:
        return False
    here = _this_process()
    if any(holder[name] != here[name] for name in ("host", "space")):
        return True
    try:
        os.kill(holder["process"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process
        pass
    return True

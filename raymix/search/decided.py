"""What a search has decided, one line each: trials in the run's `trials.jsonl`, generations in `generations.jsonl`.

A line is on the disk before anybody hears of what it says, so nothing trains that a resumed run would not know. The
file only grows. A process that dies while it writes leaves a last line without an end: nobody has heard of that, so it
is dropped, and decided again. Any other damage is refused.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from typing import Any

from raymix.files import AnyPath, append_durably, write_atomically
from raymix.types import UsageError

NAME = "trials.jsonl"


def read_decided(folder: AnyPath, name: str = NAME) -> tuple[list[dict[str, Any]], int]:
    """A run's decisions in their order, and the bytes that they take; what is behind those is a torn line.

    Raises:
        UsageError: a line is damaged, or not the next one.
    """
    path = folder / name
    content = path.read_bytes() if path.is_file() else b""
    whole = content.rfind(b"\n") + 1
    trials: list[dict[str, Any]] = []
    before = ""
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        try:
            digest, _, text = line.decode().partition(" ")
            if digest != _digest(before, text):
                raise ValueError(f"{digest} is not the digest of the line and of those before it")
            trials.append(json.loads(text))
        except ValueError as problem:
            raise UsageError(
                f"line {number} of {path} was changed or damaged, so the sweep cannot be resumed; restore the file from"
                f" a copy; the results so far are whole: `raymix report {shlex.quote(str(folder))}`"
            ) from problem
        before = digest
    return trials, whole


class DecidedWriter:
    """Appends to such a file of a run. One process at a time, as the run's lock has it."""

    def __init__(self, folder: AnyPath, name: str = NAME) -> None:
        """Drops a torn last line; `torn` says whether there was one. Raises as `read_decided`."""
        self._path = folder / name
        _, whole = read_decided(folder, name)
        content = self._path.read_bytes() if self._path.is_file() else b""
        self.torn = len(content) > whole
        if self.torn:
            write_atomically(self._path, content[:whole])
        lines = content[:whole].splitlines()
        self._before = lines[-1].decode().partition(" ")[0] if lines else ""

    def append(self, decision: dict[str, Any]) -> None:
        """Write a decision down; once this returns, it survives a power loss."""
        text = json.dumps(decision)
        digest = _digest(self._before, text)
        append_durably(self._path, f"{digest} {text}\n".encode())
        self._before = digest


def _digest(before: str, text: str) -> str:
    """Of a line and, through the one before it, of all before: a missing line shows."""
    return hashlib.sha256(f"{before} {text}".encode()).hexdigest()[:16]

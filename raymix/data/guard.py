"""Finds writes to columns that other processes read: `RAYMIX_DEBUG=1`.

Shared columns are read-only arrays, but a tensor that views one can be written to in place, and every process on the
node would train on what was written. Checking reads all columns at every report, so it is off by default.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os

import numpy as np

from raymix.types import Dataset


class ColumnsGuard:
    """Remembers what a data set's columns hold."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._digests = self._read()

    def check(self, when: str) -> None:
        """Raise `RuntimeError` naming the columns that are not as they were; `when` tells what ran meanwhile."""
        now = self._read()
        if changed := [name for name, digest in now.items() if digest != self._digests[name]]:
            raise RuntimeError(
                f"column {', '.join(changed)} of data set {self._dataset.spec.name} was written to in place during"
                f" {when}; every process reads the same memory, so copy what is to be changed (tensor.clone())"
            )

    def _read(self) -> dict[str, bytes]:
        columns = self._dataset.columns
        return {
            field.name: hashlib.blake2b(np.ascontiguousarray(getattr(columns, field.name)).data).digest()
            for field in dataclasses.fields(columns)
        }


def guard(dataset: Dataset) -> ColumnsGuard | None:
    """A guard where `RAYMIX_DEBUG` asks for one."""
    return ColumnsGuard(dataset) if os.environ.get("RAYMIX_DEBUG", "0") not in ("", "0") else None

"""Parameters that an algorithm keeps at each report, for figures (`Algorithm.snapshots`).

    <run>/snapshots/<config_id>/<phase>-<step>-seed<seed>.npz     arrays by `network/parameter`

A snapshot is there before the ledger rows of its report. One beyond a gap in the ledger is written again, with the
same contents, when a resumed run comes by.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from raymix.files import AnyPath, matching, sync_folder, write_atomically

_NAME = re.compile(r"(.+)-(\d+)-seed(\d+)\.npz")


@dataclass(frozen=True)
class Snapshot:
    """One seed's kept parameters at one report."""

    path: AnyPath
    config_id: str
    phase: str
    step: int
    seed: int

    def read(self) -> dict[str, np.ndarray]:
        """The arrays by `network/parameter`."""
        with np.load(io.BytesIO(self.path.read_bytes()), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}


def write(run_dir: AnyPath, config_id: str, phase: str, step: int, seed: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Write one snapshot, replacing that of the same report."""
    folder = run_dir / "snapshots" / config_id
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        sync_folder(folder.parent.parent)
    data = io.BytesIO()
    np.savez(data, **arrays)  # type: ignore[arg-type]
    write_atomically(folder / f"{phase}-{step}-seed{seed}.npz", data.getvalue())


def find(run_dir: AnyPath) -> list[Snapshot]:
    """All snapshots of a run, by configuration, phase, step and seed."""
    found = []
    for path in matching(run_dir, "snapshots/*/*.npz"):
        if name := _NAME.fullmatch(path.name):
            found.append(Snapshot(path, path.parent.name, name[1], int(name[2]), int(name[3])))
    return sorted(found, key=lambda each: (each.config_id, each.phase, each.step, each.seed))

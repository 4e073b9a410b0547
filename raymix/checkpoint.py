"""Checkpoints on disk: plain arrays and JSON, and a manifest that tells a whole one from a damaged one.

    checkpoint_000007/
        member-0.npz ...     one file per seed: the member's tensors by path
        state.json           configuration id, phase, step, seeds, divergence
        manifest.json        size and SHA-256 of every other file; written last

Nothing is ever unpickled. A folder without a manifest, or one whose files differ from it, is not a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raymix.files import write_atomically

MANIFEST = "manifest.json"


class DamagedCheckpoint(Exception):
    """The folder is not a whole checkpoint; the message says what is wrong with it."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint's contents."""

    state: dict[str, Any]
    members: list[dict[str, np.ndarray]]


def write(folder: str | Path, content: Checkpoint) -> None:
    """Write a checkpoint into an existing empty folder; it is whole once the manifest is in place."""
    folder, state = Path(folder), content.state
    for index, tensors in enumerate(content.members):
        np.savez(folder / f"member-{index}.npz", **tensors)  # type: ignore[arg-type]
    (folder / "state.json").write_text(json.dumps(state, indent=1, sort_keys=True))
    files = {path.name: _fingerprint(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    write_atomically(folder / MANIFEST, json.dumps({"files": files, "order": order_of(state)}, indent=1))


def read(folder: str | Path) -> Checkpoint:
    """Read a checkpoint after verifying every byte of it; raises `DamagedCheckpoint`."""
    folder = Path(folder)
    files = _manifest(folder)["files"]
    for name, expected in files.items():
        if not (folder / name).is_file() or _fingerprint(folder / name) != expected:
            raise DamagedCheckpoint(f"{folder / name} is missing or differs from the manifest")
    state = json.loads((folder / "state.json").read_text())
    members = []
    for index in range(len(state["seeds"])):
        with np.load(folder / f"member-{index}.npz", allow_pickle=False) as archive:
            members.append({name: archive[name] for name in archive.files})
    return Checkpoint(state, members)


def newest(folders: list[Path], limit: list[int]) -> tuple[Checkpoint | None, list[str]]:
    """The whole checkpoint with the most training up to `limit` (an `order_of`), and what was wrong with newer ones."""
    problems: list[str] = []
    candidates = []
    for folder in folders:
        try:
            candidates.append((_manifest(folder)["order"], folder))
        except DamagedCheckpoint as problem:
            problems.append(str(problem))
    for order, folder in sorted(candidates, reverse=True):
        if order > limit:
            continue
        try:
            return read(folder), problems
        except DamagedCheckpoint as problem:
            problems.append(str(problem))
    return None, problems


def belongs_to(folder: Path) -> str | None:
    """Configuration id of the checkpoint in `folder`; None where that cannot be read."""
    try:
        return json.loads((folder / "state.json").read_text())["config_id"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def order_of(state: dict[str, Any]) -> list[int]:
    """What "more training" means: the phase's number, then the step in it."""
    return [state["phase_index"], state["step"]]


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return {"files": dict(manifest["files"]), "order": list(manifest["order"])}
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise DamagedCheckpoint(f"{folder} has no readable {MANIFEST} ({type(problem).__name__})") from problem


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}

"""Checkpoints on disk: plain arrays and JSON, and a manifest that tells a whole one from a damaged one.

    checkpoint_000007/
        member-0.npz ...     one file per seed: the member's tensors by path
        state.json           configuration id, phase, step, seeds, divergence
        manifest.json        size and SHA-256 of every other file; written last

Nothing is ever unpickled. A folder without a manifest, or one whose files differ from it, is not a checkpoint.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from raymix.files import AnyPath, path_of, write_atomically
from raymix.remote import StoreError

MANIFEST = "manifest.json"


class DamagedCheckpoint(Exception):
    """The folder is not a whole checkpoint; the message says what is wrong with it."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint's contents."""

    state: dict[str, Any]
    members: list[dict[str, np.ndarray]]


def write(folder: str | AnyPath, content: Checkpoint) -> None:
    """Write a checkpoint into an existing empty folder; it is whole once the manifest is in place."""
    folder, state = path_of(folder), content.state
    files = {}
    for name, data in _files_of(content):
        (folder / name).write_bytes(data)
        files[name] = _fingerprint(data)
    write_atomically(folder / MANIFEST, json.dumps({"files": files, "order": order_of(state)}, indent=1))


def _files_of(content: Checkpoint) -> Iterator[tuple[str, bytes]]:
    for index, tensors in enumerate(content.members):
        archive = io.BytesIO()
        np.savez(archive, **tensors)  # type: ignore[arg-type]
        yield f"member-{index}.npz", archive.getvalue()
    yield "state.json", json.dumps(content.state, indent=1, sort_keys=True).encode()


def read(folder: str | AnyPath) -> Checkpoint:
    """Read a checkpoint after verifying every byte of it; raises `DamagedCheckpoint`, or `StoreError`."""
    folder = path_of(folder)
    files = {}
    for name, expected in _manifest(folder)["files"].items():
        try:
            files[name] = (folder / name).read_bytes()
        except StoreError:  # whatever it holds may be whole
            raise
        except OSError as problem:
            raise DamagedCheckpoint(f"{folder / name} cannot be read ({type(problem).__name__})") from problem
        if _fingerprint(files[name]) != expected:
            raise DamagedCheckpoint(f"{folder / name} differs from the manifest")
    state = json.loads(files["state.json"])
    members = []
    for index in range(len(state["seeds"])):
        with np.load(io.BytesIO(files[f"member-{index}.npz"]), allow_pickle=False) as archive:
            members.append({name: archive[name] for name in archive.files})
    return Checkpoint(state, members)


def newest(folders: list[AnyPath], limit: list[int]) -> tuple[Checkpoint | None, list[str]]:
    """The whole checkpoint with the most training up to `limit` (an `order_of`), and what was wrong with newer ones."""
    problems: list[str] = []
    candidates = []
    for folder in folders:
        try:
            candidates.append((_manifest(folder)["order"], folder))
        except DamagedCheckpoint as problem:
            problems.append(str(problem))
    for order, folder in sorted(candidates, key=lambda one: (one[0], str(one[1])), reverse=True):
        if order > limit:
            continue
        try:
            return read(folder), problems
        except DamagedCheckpoint as problem:
            problems.append(str(problem))
    return None, problems


def belongs_to(folder: AnyPath) -> str | None:
    """Configuration id of the checkpoint in `folder`; None where that cannot be read."""
    try:
        return json.loads((folder / "state.json").read_text())["config_id"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def order_of(state: dict[str, Any]) -> list[int]:
    """What "more training" means: the phase's number, then the step in it."""
    return [state["phase_index"], state["step"]]


def _manifest(folder: AnyPath) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return {"files": dict(manifest["files"]), "order": list(manifest["order"])}
    except StoreError:  # whatever it holds may be whole
        raise
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise DamagedCheckpoint(f"{folder} has no readable {MANIFEST} ({type(problem).__name__})") from problem


def _fingerprint(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

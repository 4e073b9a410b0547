"""Data sets of raymix as Minari data sets, for the libraries that read those."""

from __future__ import annotations

import json
import os
import re
import tempfile
import warnings
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from raymix.data import minari as local_minari
from raymix.data.fetch import minari_root
from raymix.types import Dataset, UsageError

_OVERHEAD = 1 << 14
"""Bytes that HDF5 takes for an episode beside its numbers: 14 kB were measured."""
_ID = re.compile(r"(?:[\w-]+/)*[\w-]+-v\d+")


def to_minari(dataset: Dataset, dataset_id: str) -> Path:
    """Write a data set as a local Minari data set (HDF5), whole or not at all; returns its folder.

    `raymix.data.minari.load` gives every value and flag back, and the sources: their names are in the metadata as
    `sources`, and each episode has its number as `source`. So does the rule that made vectors of the environment's
    dictionaries: as `observations`.

    Raises:
        UsageError: not the form of an id, one that exists, an episode with two sources, or a full disk.
    """
    if not _ID.fullmatch(dataset_id):
        raise UsageError(f"{dataset_id!r} is no Minari id; give one such as mujoco/hopper/medium-v0.")
    target = local_minari.root() / dataset_id
    if target.exists():
        raise UsageError(f"{target} exists already; give another id, or delete that folder.")
    columns = dataset.columns
    last = columns.last_rows
    first = np.append(0, last[:-1] + 1)
    mixed = np.flatnonzero(np.diff(columns.source) & ~np.isin(np.arange(len(columns.source) - 1), last))
    if mixed.size:
        raise UsageError(
            f"Episode {columns.episode[mixed[0]]} of data set {dataset.spec.name} has several sources, which Minari"
            " cannot hold; cut it where the source changes."
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        workspace = local_minari.root() / ".raymix"
        workspace.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="export-", dir=workspace) as temporary:
            # Once for the file, once for the cache of reading it back.
            room = 2 * sum(array.nbytes for array in vars(columns).values()) + _OVERHEAD * len(last)
            _require_room(Path(temporary) / "room", room)
            with minari_root(Path(temporary)):
                _write(dataset, dataset_id, first, last)
                # HDF5 does not report every write that fails.
                if local_minari.load(dataset_id).spec.hash != dataset.spec.hash:
                    raise OSError("what was written does not read back")
            namespace = target.parent / "namespace_metadata.json"
            if not namespace.exists() and target.parent != local_minari.root():
                namespace.write_text(json.dumps({}))
            (Path(temporary) / dataset_id).rename(target)
    except (OSError, RuntimeError, ValueError) as error:  # h5py raises any of them where a write fails.
        told = " ".join(str(error).split())
        raise UsageError(
            f"The data set {dataset_id} cannot be written to {target.parent} ({told}); make room there, or set"
            " MINARI_DATASETS_PATH to another folder."
        ) from error
    return target


def _require_room(path: Path, size: int) -> None:
    """Raise `OSError` unless a file of that size can be written: HDF5 can crash a process whose disk is full."""
    if not hasattr(os, "posix_fallocate"):
        return
    with open(path, "xb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    path.unlink()


def _write(dataset: Dataset, dataset_id: str, first: np.ndarray, last: np.ndarray) -> None:
    import minari
    from minari.data_collector import EpisodeBuffer

    columns, spec = dataset.columns, dataset.spec
    buffers = [
        EpisodeBuffer(
            observations=columns.observations[start : stop + 1],  # type: ignore[arg-type]
            actions=columns.actions[start:stop],  # type: ignore[arg-type]
            rewards=columns.rewards[start:stop],  # type: ignore[arg-type]
            terminations=columns.terminals[start:stop],  # type: ignore[arg-type]
            truncations=columns.timeouts[start:stop],  # type: ignore[arg-type]
        )
        for start, stop in zip(first, last)
    ]
    low, high = (np.asarray(end, dtype=np.float32) for end in (spec.action_low, spec.action_high))
    with warnings.catch_warnings():
        # Minari asks for an author, an e-mail address and a permalink.
        warnings.filterwarnings("ignore", category=UserWarning, module="minari")
        written = minari.create_dataset_from_buffers(
            dataset_id,
            buffers,
            observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (spec.observation_dim,), np.float32),
            action_space=gymnasium.spaces.Box(low, high, dtype=np.float32),
            description=f"The data set {spec.name} of raymix.",
        )
    facts: dict[str, object] = {"sources": list(spec.sources)}
    if spec.environment is not None:
        # Not by Minari, which would build the environment to write its name, but with all fields that it reads.
        described = json.loads(spec.environment)
        if rule := described.pop("observations", None):
            facts["observations"] = rule
        environment = json.dumps({**json.loads(EnvSpec(described["id"]).to_json()), **described})
        facts |= {"env_spec": environment, "eval_env_spec": environment}
    if spec.reference_min is not None:
        facts |= {"ref_min_score": spec.reference_min, "ref_max_score": spec.reference_max}
    written.storage.update_metadata(facts)
    written.storage.update_episode_metadata([{"source": int(number)} for number in columns.source[first]])

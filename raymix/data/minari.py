"""Local Minari data sets (HDF5, Arrow or Parquet) as raymix data sets, and where Minari keeps them.

Minari itself is imported only where episodes are read: looking at what is installed must stay cheap.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pyarrow as pa

from raymix.data.columns import Episode, from_episodes, make_dataset
from raymix.data.table import from_table, to_table
from raymix.types import Columns, Dataset, UsageError

_CACHE_VERSION = 1
_logger = logging.getLogger(__name__)


def root() -> Path:
    """Minari's folder of data sets: $MINARI_DATASETS_PATH, or ~/.minari/datasets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def metadata(dataset_id: str) -> dict[str, Any] | None:
    """What Minari wrote about a local data set, or None if it is not here or was never finished.

    A creation that failed leaves a `data` folder without metadata, or with metadata that counts no episodes.
    """
    try:
        values = json.loads((root() / dataset_id / "data" / "metadata.json").read_text())
    except (OSError, ValueError):
        return None
    whole = isinstance(values, dict) and values.get("dataset_id") == dataset_id and values.get("total_episodes", 0) > 0
    return values if whole else None


def local_ids() -> list[str]:
    """Ids of all finished local data sets, sorted; reads metadata only.

    Not `minari.list_local_datasets`, which raises when one id of all is malformed.
    """
    found = []
    base = root()
    for folder, subfolders, _ in os.walk(base):
        if "data" in subfolders:
            dataset_id = Path(folder).relative_to(base).as_posix()
            if metadata(dataset_id) is not None:
                found.append(dataset_id)
            subfolders.clear()
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
    return sorted(found)


def load(dataset_id: str) -> Dataset:
    """Read a local Minari data set with Box observations and actions of one axis each.

    The columns are kept in a cache beside the data sets (`.raymix/cache`), named by the sizes and times of the data
    set's files, so that the next load maps one file instead of reading thousands of small arrays.

    Where the action space has no bounds, the data's minimum and maximum take their place, with a warning. The
    evaluation environment is Minari's `eval_env_spec` where there is one, else the one the data came from. Source
    names and numbers come from raymix's own metadata (`sources`, per episode `source`); other sets have one source.

    Raises:
        UsageError: not here, damaged, other spaces than Box, or data that `make_dataset` refuses.
    """
    import minari

    values = metadata(dataset_id)
    if values is None:
        raise UsageError(f"Minari holds no finished data set {dataset_id!r} under {root()}; download or copy it there.")
    try:
        source = minari.load_dataset(dataset_id)
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise UsageError(
            f"Minari cannot open the data set {dataset_id} ({error}); download or copy it again."
        ) from error
    for kind, space in (("observations", source.observation_space), ("actions", source.action_space)):
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise UsageError(
                f"The {kind} of the Minari data set {dataset_id} are {space}; raymix reads Box spaces of one axis only."
            )
    references = values.get("ref_min_score"), values.get("ref_max_score")
    facts = {
        "environment": _environment(values.get("eval_env_spec") or values.get("env_spec")),
        "reference_min": None if None in references else references[0],
        "reference_max": None if None in references else references[1],
        "sources": values.get("sources", ()),
    }

    def dataset_of(columns: Columns) -> Dataset:
        low, high = _action_bounds(dataset_id, source.action_space, columns)
        return make_dataset(columns, dataset_id, action_low=low, action_high=high, **facts)

    cache = _cache_path(dataset_id)
    if cache.exists():
        expected = _read_cache(cache)
        if expected is not None:
            dataset = dataset_of(expected.columns)
            if dataset.spec.hash == expected.spec.hash:
                return dataset
        _logger.warning("The cache %s is damaged; reading the data set %s again.", cache, dataset_id)
    dataset = dataset_of(from_episodes(_episodes(source)))
    _write_cache(cache, dataset)
    return dataset


def _episodes(source: Any) -> Iterator[Episode]:
    """The episodes of a `minari.MinariDataset`; `UsageError` for files that cannot be read to their end."""
    indices = range(source.total_episodes)
    try:
        numbers = [int(facts.get("source", 0)) for facts in source.storage.get_episode_metadata(indices)]
        for number, episode in zip(numbers, source.iterate_episodes(), strict=True):
            yield Episode(
                observations=episode.observations,
                actions=episode.actions,
                rewards=episode.rewards,
                terminations=episode.terminations,
                truncations=episode.truncations,
                source=number,
            )
    except (OSError, KeyError, TypeError) as error:
        raise UsageError(
            f"The files of the Minari data set {source.id} are damaged ({error}); download or copy it again."
        ) from error


def _action_bounds(dataset_id: str, space: gymnasium.spaces.Box, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    unbounded = ~(np.isfinite(low) & np.isfinite(high))
    if not unbounded.any():
        return low, high
    actions = columns.actions[columns.transition_rows()]
    low, high = np.where(unbounded, actions.min(axis=0), low), np.where(unbounded, actions.max(axis=0), high)
    warnings.warn(
        f"The action space of {dataset_id} has no bounds in dimensions {np.flatnonzero(unbounded).tolist()};"
        f" the data's own range is used: {low.tolist()} to {high.tolist()}.",
        stacklevel=3,
    )
    return low, high


def _environment(text: str | None) -> str | None:
    """An `EnvSpec` as JSON that the installed Gymnasium reads: older ones wrote fields that are gone."""
    if text is None:
        return None
    known = {field.name for field in dataclasses.fields(gymnasium.envs.registration.EnvSpec)}
    return json.dumps({key: value for key, value in json.loads(text).items() if key in known})


def _cache_path(dataset_id: str) -> Path:
    data = root() / dataset_id / "data"
    digest = hashlib.sha256(f"{_CACHE_VERSION} {dataset_id}".encode())
    for folder, subfolders, files in os.walk(data):
        subfolders.sort()
        for name in sorted(files):
            facts = os.stat(os.path.join(folder, name))
            digest.update(f"{folder[len(str(data)) :]}/{name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return root() / ".raymix" / "cache" / dataset_id.replace("/", "--") / f"{digest.hexdigest()[:32]}.arrow"


def _read_cache(path: Path) -> Dataset | None:
    try:
        with pa.memory_map(str(path)) as file:
            return from_table(pa.ipc.open_file(file).read_all())
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError):
        return None


def _write_cache(path: Path, dataset: Dataset) -> None:
    partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for outdated in path.parent.glob("*.arrow"):
            if outdated != path:
                outdated.unlink(missing_ok=True)
        table = to_table(dataset)
        with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        partial.replace(path)
    except OSError as error:
        # The data set itself is read; only the next load is slower.
        partial.unlink(missing_ok=True)
        _logger.warning("No cache of the data set %s was written (%s).", dataset.spec.name, error)

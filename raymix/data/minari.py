"""Local Minari data sets (HDF5, Arrow or Parquet) as raymix data sets, and where Minari keeps them.

Minari itself is imported only where episodes are read: looking at what is installed must stay cheap.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pyarrow as pa

from raymix.data.columns import Episode, from_episodes, make_dataset
from raymix.data.table import from_table, to_table
from raymix.envs import flatten
from raymix.types import Columns, Dataset, UsageError

_CACHE_VERSION = 2
_OWN = "raymix/"
_logger = logging.getLogger(__name__)


def root() -> Path:
    """Minari's folder of data sets: $MINARI_DATASETS_PATH, or ~/.minari/datasets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def metadata(dataset_id: str) -> dict[str, Any] | None:
    """What Minari wrote about a local data set, or None if it is not here, was never finished, or is damaged."""
    try:
        return checked_metadata(dataset_id)
    except UsageError:
        return None


def checked_metadata(dataset_id: str) -> dict[str, Any] | None:
    """What Minari wrote about a local data set, or None if it is not here or was never finished.

    A creation that failed leaves a `data` folder without metadata, or with metadata that counts no episodes.

    Raises:
        UsageError: there is metadata, but damaged: no data set can be read by it.
    """
    try:
        values = json.loads((root() / dataset_id / "data" / "metadata.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(dataset_id, f"its metadata.json cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise _damaged(dataset_id, "its metadata.json holds no object")
    if values.get("total_episodes", 0) == 0:
        return None
    for name, (required, fits, expected) in _FIELDS.items():
        value = values.get(name)
        if not fits(value) and (required or value is not None):
            raise _damaged(dataset_id, f"{name} in its metadata.json is {value!r}, not {expected}")
    if values["dataset_id"] != dataset_id:
        raise _damaged(dataset_id, f"its metadata.json is that of {values['dataset_id']}")
    return values


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: Any) -> bool:
    # Written so that NaN fails, and a whole number too large for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


_FIELDS: dict[str, tuple[bool, Callable[[Any], bool], str]] = {
    "total_episodes": (True, _is_count, "a positive whole number"),
    "total_steps": (True, _is_count, "a positive whole number"),
    "dataset_id": (True, _is_text, "a text"),
    # Where a space is missing, Minari would build the environment that the metadata name, by any code they name.
    "observation_space": (True, _is_text, "a text"),
    "action_space": (True, _is_text, "a text"),
    "env_spec": (False, _is_text, "a text"),
    "eval_env_spec": (False, _is_text, "a text"),
    "ref_min_score": (False, _is_number, "a finite number"),
    "ref_max_score": (False, _is_number, "a finite number"),
    "sources": (False, _are_texts, "a list of texts"),
    "observations": (False, _is_text, "a text"),
    "dataset_size": (False, _is_number, "a finite number"),
    "description": (False, _is_text, "a text"),
}
"""What is read of the metadata: whether it must be there (else it may be null too), what it must be, and in words."""


def _damaged(dataset_id: str, problem: str) -> UsageError:
    remedy = (
        "delete the folder, and raymix makes it again" if dataset_id.startswith(_OWN) else "download or copy it again"
    )
    problem = " ".join(problem.split()).rstrip(".")
    return UsageError(f"The data set {dataset_id} in {root() / dataset_id} is damaged ({problem}); {remedy}.")


def local_ids() -> list[str]:
    """Ids of all finished local data sets, sorted; reads metadata only, and leaves out sets whose metadata are damaged.

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


def load(dataset_id: str, observations: str | None = None) -> Dataset:
    """Read a local Minari data set with Box actions of one axis, and such observations or dictionaries of them.

    Dictionaries become vectors by the rule `observations` (`raymix.envs.flatten`; 'all' where None), which the
    environment then follows in evaluation.

    The columns are kept in a cache beside the data sets (`.raymix/cache`), named by the sizes and times of the data
    set's files, so that the next load maps one file instead of reading thousands of small arrays.

    Where the action space has no bounds, the data's minimum and maximum take their place, with a warning. The
    evaluation environment is Minari's `eval_env_spec` where there is one, else the one the data came from. Source
    names and numbers, and the rule that vectors are made by (which Minari's EnvSpec cannot hold), come from raymix's
    own metadata (`sources`, per episode `source`, `observations`); other sets have one source.

    Raises:
        UsageError: not here, damaged, other spaces than Box, or data that `make_dataset` refuses.
    """
    import minari

    values = checked_metadata(dataset_id)
    if values is None:
        raise UsageError(f"Minari holds no finished data set {dataset_id!r} under {root()}; download or copy it there.")
    try:
        source = minari.load_dataset(dataset_id)
    except Exception as error:  # Minari checks little: what it stumbles over decides what is raised.
        raise _damaged(dataset_id, f"Minari cannot open it: {_told(error)}") from error
    rule = _rule(dataset_id, source.observation_space, observations)
    if not isinstance(source.action_space, gymnasium.spaces.Box) or len(source.action_space.shape) != 1:
        told = " ".join(str(source.action_space).split())  # Long bounds are printed over several lines.
        raise UsageError(
            f"The actions of the Minari data set {dataset_id} are {told}; raymix reads Box spaces of one axis only."
        )
    reference_min, reference_max = values.get("ref_min_score"), values.get("ref_max_score")
    both = reference_min is not None and reference_max is not None
    facts: dict[str, Any] = {
        "environment": _environment(
            dataset_id, values.get("eval_env_spec") or values.get("env_spec"), rule or values.get("observations")
        ),
        "reference_min": reference_min if both else None,
        "reference_max": reference_max if both else None,
        "sources": values.get("sources") or (),
    }

    def dataset_of(columns: Columns) -> Dataset:
        low, high = _action_bounds(dataset_id, source.action_space, columns)
        return make_dataset(columns, dataset_id, action_low=low, action_high=high, **facts)

    try:
        cache = _cache_path(dataset_id, rule)
    except OSError as error:  # Such as a link to a file that is gone.
        raise _damaged(dataset_id, f"its files cannot be looked at: {error}") from error
    if cache.exists():
        expected = _read_cache(cache)
        if expected is not None:
            # What is wrong with the cache alone must not stop the load; what is wrong with the rest comes up again.
            with contextlib.suppress(UsageError):
                dataset = dataset_of(expected.columns)
                if dataset.spec.hash == expected.spec.hash:
                    return dataset
        _logger.warning("The cache %s is damaged; reading the data set %s again.", cache, dataset_id)
    try:
        columns = from_episodes(_episodes(source, rule))
    except UsageError as error:
        raise _damaged(dataset_id, str(error)) from error
    dataset = dataset_of(columns)
    _write_cache(cache, dataset)
    return dataset


def _rule(dataset_id: str, space: gymnasium.Space, asked: str | None) -> str | None:
    """The rule that makes vectors of the observations; None where they are vectors."""
    if not isinstance(space, gymnasium.spaces.Dict):
        if asked is not None:
            raise UsageError(
                f"observations={asked} chooses among the keys of dictionaries, but the observations of {dataset_id} are"
                " vectors; leave it out"
            )
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            told = " ".join(str(space).split())  # Long bounds are printed over several lines.
            raise UsageError(
                f"The observations of the Minari data set {dataset_id} are {told}; raymix reads Box spaces of one axis,"
                " and dictionaries of them."
            )
        return None
    rule = asked or flatten.DEFAULT
    try:
        flatten.flattened_space(space, rule)
    except UsageError as problem:
        raise UsageError(f"{dataset_id}: {problem}") from None
    return rule


def _episodes(source: Any, rule: str | None) -> Iterator[Episode]:
    """The episodes of a `minari.MinariDataset`; `UsageError` for files that cannot be read to their end."""
    indices = range(source.total_episodes)
    try:
        numbers = [facts.get("source", 0) for facts in source.storage.get_episode_metadata(indices)]
        for number, episode in zip(numbers, source.iterate_episodes(), strict=True):
            yield Episode(
                observations=flatten.flatten(episode.observations, rule, axes=1) if rule else episode.observations,
                actions=episode.actions,
                rewards=episode.rewards,
                terminations=episode.terminations,
                truncations=episode.truncations,
                source=number,
            )
    except Exception as error:  # h5py, Arrow and Minari each raise their own.
        raise UsageError(f"its files cannot be read: {_told(error)}") from error


def _told(error: Exception) -> str:
    """Its kind as well: the message of a bare assertion is empty."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


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


def _environment(dataset_id: str, text: str | None, rule: str | None) -> str | None:
    """An `EnvSpec` as JSON that the installed Gymnasium reads: older ones wrote fields that are gone.

    Its `observations` is the rule by which its observations become vectors.
    """
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(dataset_id, f"its environment is no JSON: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("id"), str):
        raise _damaged(dataset_id, f"its environment is {text}, which has no id")
    known = {field.name for field in dataclasses.fields(gymnasium.envs.registration.EnvSpec)}
    kept = {key: value for key, value in values.items() if key in known}
    return json.dumps({**kept, **({"observations": rule} if rule else {})})


def _cache_path(dataset_id: str, rule: str | None) -> Path:
    data = root() / dataset_id / "data"
    digest = hashlib.sha256(f"{_CACHE_VERSION} {dataset_id}".encode())
    for folder, subfolders, files in os.walk(data):
        subfolders.sort()
        for name in sorted(files):
            facts = os.stat(os.path.join(folder, name))
            digest.update(f"{folder[len(str(data)) :]}/{name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    kept = root() / ".raymix" / "cache" / f"{dataset_id.replace('/', '--')}{f'.{rule}' if rule else ''}"
    return kept / f"{digest.hexdigest()[:32]}.arrow"


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

"""Data sets by name: the one place that turns a string into rows.

A name is a short name (`fetchreach-multigoal`, `two-modes`), a Minari id (`mujoco/hopper/medium-v0`), or a mixture
of several joined by `+`. What raymix can make is made on first use and kept; everything else must be here already.
"""

from __future__ import annotations

import difflib
import json
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from raymix.data import fetch, minari, toy
from raymix.data.columns import make_dataset
from raymix.types import Columns, Dataset, UsageError

_TOYS: dict[str, Callable[[], Dataset]] = {
    toy.CONSTANT: toy.constant,
    toy.READABLE: toy.readable,
    toy.CHAIN: toy.chain,
    toy.BEST_ACTION: toy.best_action,
    toy.TWO_MODES: toy.two_modes,
    toy.TWO_GOALS: toy.two_goals,
    toy.WIDE_AND_NARROW: toy.wide_and_narrow,
    toy.NAVIGATION: toy.navigation,
}
_SMALL_EPISODES_PER_GOAL = 8
_MINARI_ID = re.compile(r"(?:[\w-]+/)*[\w-]+-v\d+")
_PUBLIC_IDS = (
    *(f"mujoco/{task}/{level}-v0" for task in ("hopper", "walker2d", "halfcheetah") for level in ("medium", "expert")),
    "mujoco/hopper/simple-v0",
    *(f"D4RL/pointmaze/{maze}-v2" for maze in ("open", "umaze", "medium", "large")),
    *(f"D4RL/antmaze/{maze}-v1" for maze in ("umaze", "umaze-diverse", "medium-play", "medium-diverse")),
    *(f"D4RL/antmaze/{maze}-v1" for maze in ("large-play", "large-diverse")),
    *(f"D4RL/kitchen/{level}-v2" for level in ("complete", "partial", "mixed")),
    *(f"D4RL/{task}/{level}-v2" for task in ("pen", "door", "hammer") for level in ("human", "cloned", "expert")),
)
"""Published on Minari's server; offered as near names only."""


def canonical_name(name: str) -> str:
    """The full name: `fetchreach-multigoal` is `raymix/fetchreach-multigoal-v0`, mixtures part by part.

    Raises:
        UsageError: not the form of a name; whether the data set exists is not looked at.
    """
    parts = [part.strip() for part in name.split("+")]
    return " + ".join(_canonical_part(part, name) for part in parts)


def _canonical_part(part: str, whole: str) -> str:
    made_here = fetch.parse(part)
    if made_here is not None:
        return fetch.dataset_id(*made_here)
    for toy_name in _TOYS:
        if part in (toy_name, _short_name(toy_name)):
            return toy_name
    if not _MINARI_ID.fullmatch(part):
        raise UsageError(
            f"There is no data set {part!r}{_near(part)}; give a short name, a Minari id such as"
            f" mujoco/hopper/medium-v0, or several joined by + (asked for: {whole!r})."
        )
    return part


def load(name: str, progress: fetch.Progress | None = None) -> Dataset:
    """The data set of that name; raymix's own (the Fetch tasks in all sizes) are made on first use.

    Args:
        name: short name, Minari id, or mixture `a + b`, which holds the episodes of a, then those of b; their source
            names are kept in that order.
        progress: called with (episodes done, episodes in all) while a data set is made.

    Raises:
        UsageError: unknown name (near ones and the download command are shown), damaged or unusable data, or parts
            of a mixture that differ in shapes, action bounds or environment.
    """
    names = canonical_name(name).split(" + ")
    parts = [_load_one(part, progress) for part in names]
    return parts[0] if len(parts) == 1 else _mix(parts)


def known() -> list[dict[str, Any]]:
    """Every data set that `load` would give without a download, as JSON-ready facts.

    Keys: `name`, `short_name` (None for Minari's own), `local` (False: made on first use), `transitions`, `episodes`,
    `size_mb` (on disk; None where nothing is), `description`.
    """
    entries = []
    local = minari.local_ids()
    sizes = (fetch.EPISODES_PER_GOAL, _SMALL_EPISODES_PER_GOAL)
    makeable = [fetch.dataset_id(task, size) for task in fetch.TASKS for size in sizes]
    for name in [*makeable, *(each for each in local if each not in makeable)]:
        made_here = fetch.parse(name)
        facts = minari.metadata(name) or {}
        made_on_use = f"{made_here[0].title} with four goals; made on first use." if made_here and not facts else ""
        episodes = facts.get("total_episodes", 4 * made_here[1] if made_here else 0)
        entries.append(
            {
                "name": name,
                "short_name": _short_name(name) if made_here else None,
                "local": name in local,
                "transitions": facts.get("total_steps", 50 * episodes),
                "episodes": episodes,
                "size_mb": facts.get("dataset_size"),
                "description": facts.get("description") or made_on_use,
            }
        )
    for name, build in _TOYS.items():
        spec = build().spec
        entries.append(
            {
                "name": name,
                "short_name": _short_name(name),
                "local": True,
                "transitions": spec.num_transitions,
                "episodes": spec.num_episodes,
                "size_mb": None,
                "description": (build.__doc__ or "").splitlines()[0],
            }
        )
    return entries


def _short_name(name: str) -> str:
    return name.rsplit("/", 1)[-1].removesuffix("-v0")


def _load_one(name: str, progress: fetch.Progress | None) -> Dataset:
    if name in _TOYS:
        return _TOYS[name]()
    made_here = fetch.parse(name)
    if made_here is not None:
        fetch.make(*made_here, progress=progress)
    elif minari.checked_metadata(name) is None:
        raise UsageError(
            f"The data set {name!r} is not on this machine{_near(name)}; run `minari download {name}`"
            f" (after `pip install 'minari[hf]'`), or copy its folder to {minari.root() / name}, the place that"
            " $MINARI_DATASETS_PATH or else ~/.minari/datasets names."
        )
    return minari.load(name)


def _near(name: str) -> str:
    own = [*(fetch.dataset_id(task) for task in fetch.TASKS), *_TOYS]
    names = list(dict.fromkeys([*(_short_name(each) for each in own), *own, *minari.local_ids(), *_PUBLIC_IDS]))
    near = [each for each in difflib.get_close_matches(name, names, n=3, cutoff=0.6) if each != name]
    return f" (near names: {', '.join(near)})" if near else ""


def _mix(parts: list[Dataset]) -> Dataset:
    first = parts[0].spec
    for part in parts[1:]:
        for what, mine, other in (
            ("observation sizes", part.spec.observation_dim, first.observation_dim),
            ("action sizes", part.spec.action_dim, first.action_dim),
            ("action lower bounds", part.spec.action_low, first.action_low),
            ("action upper bounds", part.spec.action_high, first.action_high),
            ("environments", _environment_key(part.spec.environment), _environment_key(first.environment)),
        ):
            if mine != other:
                raise UsageError(
                    f"The data sets {first.name} and {part.spec.name} cannot be mixed, their {what} differ"
                    f" ({other} and {mine}); mix data sets of one environment."
                )
    name = " + ".join(part.spec.name for part in parts)
    references = {(part.spec.reference_min, part.spec.reference_max) for part in parts}
    if len(references) > 1:
        warnings.warn(
            f"The parts of {name} have different reference scores, so the mixture has none and its scores are not"
            " normalized.",
            stacklevel=3,
        )
        references = {(None, None)}
    reference_min, reference_max = references.pop()
    episode_starts = np.cumsum([0, *(part.spec.num_episodes for part in parts)])
    source_starts = np.cumsum([0, *(len(part.spec.sources) for part in parts)])

    def joined(column: str, starts: np.ndarray | None = None) -> np.ndarray:
        arrays = [getattr(part.columns, column) for part in parts]
        if starts is not None:
            arrays = [array + array.dtype.type(start) for array, start in zip(arrays, starts, strict=False)]
        return np.concatenate(arrays)

    columns = Columns(
        observations=joined("observations"),
        actions=joined("actions"),
        rewards=joined("rewards"),
        terminals=joined("terminals"),
        timeouts=joined("timeouts"),
        episode=joined("episode", episode_starts),
        source=joined("source", source_starts),
    )
    return make_dataset(
        columns,
        name,
        action_low=first.action_low,
        action_high=first.action_high,
        environment=first.environment,
        reference_min=reference_min,
        reference_max=reference_max,
        sources=[source for part in parts for source in part.spec.sources],
    )


def _environment_key(environment: str | None) -> str | None:
    """What must agree: not the whole `EnvSpec`, whose other fields differ between versions of Gymnasium."""
    if environment is None:
        return None
    values = json.loads(environment)
    return json.dumps([values["id"], values.get("kwargs"), values.get("max_episode_steps")])

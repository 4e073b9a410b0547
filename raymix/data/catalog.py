"""Data sets by name: the one place that turns a string into rows.

A name is a short name (`fetchreach-multigoal`, `two-modes`), a name in raymix's library (`hopper/expert`), a Minari id
(`mujoco/hopper/medium-v0`), a file, or a mixture of such (`raymix.data.recipe`). What raymix can make is made on first
use and kept; everything else must be here already.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from raymix.data import d4rl_names, fetch, files, library, minari, mixture, toy
from raymix.data.mixture import Episodes
from raymix.data.recipe import Options, Recipe, Term, parse
from raymix.types import Dataset, Spec, UsageError

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
_HETEROGENEOUS = re.compile(r"(?P<task>.+)/heterogeneous-(?P<sources>[1-9]\d?)")
"""`hopper/heterogeneous-3`: the first three of the data sets `hopper/source-<i>`."""
_POOLS = {
    f"walker2d-mix-{task}": " + ".join(
        f"1*walker2d/{part}[reward=walker2d-{task}]" for part in ("forward", "backward", "jump")
    )
    for task in ("forward", "backward", "jump")
}
"""LAPO's pools of three tasks' data with the rewards of one."""
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


def canonical_name(name: str | Mapping[str, Any]) -> str:
    """The full name: `fetchreach-multigoal` is `raymix/fetchreach-multigoal-v0`; of mixtures, part by part.

    Raises:
        UsageError: neither a name nor a recipe (`raymix.data.recipe`); whether the data set exists is not looked at.
    """
    return str(_recipe(name).named(_canonical))


def _recipe(name: str | Mapping[str, Any]) -> Recipe:
    """As `parse`, but the path of a file that is there needs no quotes."""
    if isinstance(name, str) and '"' not in name and files.is_file(name) and Path(name).expanduser().is_file():
        return Recipe((Term(name),))
    return parse(name)


def _canonical(name: str) -> str:
    made_here = fetch.parse(name)
    if made_here is not None:
        return fetch.dataset_id(*made_here)
    for toy_name in _TOYS:
        if name in (toy_name, _short_name(toy_name)):
            return toy_name
    if files.is_file(name):
        return str(Path(name).expanduser().absolute())
    if library.holds(name) or name in _POOLS or _HETEROGENEOUS.fullmatch(name) or _MINARI_ID.fullmatch(name):
        return name
    if library.NAME.fullmatch(name) and "/" in name:  # whoever resumes a run may look for it elsewhere
        return name
    if Path(name).expanduser().is_file():
        raise UsageError(f"{name} is no file of a form that raymix reads; give one of {', '.join(files.SUFFIXES)}")
    raise UsageError(
        f"There is no data set {name!r}{_near(name)}; give a short name, a name of `raymix data list`, a Minari id such"
        f" as mujoco/hopper/medium-v0, a file ({', '.join(files.SUFFIXES)}), or a mixture such as 'a + b'."
    )


def load(name: str | Mapping[str, Any], progress: fetch.Progress | None = None, copies: int = 1) -> Dataset:
    """The data set of that name; raymix's own (the Fetch tasks in all sizes) are made on first use.

    A mixture of more than 64 MiB is written to a file that is there for as long as its columns are, and mapped from it:
    see `raymix.data.scratch`.

    Args:
        name: short name, name in the library, Minari id, file, or a mixture of such (`raymix.data.recipe`).
        progress: called with (done, in all) while a data set is made.
        copies: how many times a mixture must fit on the disk; 2 for one that is kept in the library then.

    Raises:
        UsageError: unknown name (near ones and the download command are shown), damaged or unusable data, parts of a
            mixture that differ in shapes, action bounds or environment, or a disk without room for it.
    """
    recipe = _recipe(name).named(_canonical)
    made = _build(recipe, str(recipe), 0, progress)
    return made if isinstance(made, Dataset) else made.gather(progress, copies)


def _build(recipe: Recipe, name: str, seed: int, progress: fetch.Progress | None) -> Dataset | Episodes:
    """The data set of a recipe of canonical names, or what its rows are; `seed` draws what weights leave out."""
    alone = len(recipe.terms) == 1
    parts: list[Dataset | Episodes] = []
    for term in recipe.terms:
        own_name = name if alone else str(replace(term, weight=None))
        options = replace(term.options, observations=None, seed=None)
        if isinstance(term.data, Recipe):
            if term.options.observations is not None:
                raise UsageError(f"observations={term.options.observations} belongs to a data set, not to a mixture")
            part = _build(term.data, str(term.data), term.options.seed or 0, progress)
        else:
            part = _load_one(term.data, term.options.observations, progress)
        parts.append(part if options == Options() else mixture.take(_episodes(part), term.options, own_name))
    if alone:
        return replace(parts[0], spec=replace(parts[0].spec, name=name))
    episodes = [_episodes(part) for part in parts]
    if recipe.terms[0].weight is not None:
        episodes = mixture.weighed(episodes, [term.weight or 0.0 for term in recipe.terms], seed)
    return mixture.mix(episodes, name)


def _episodes(part: Dataset | Episodes) -> Episodes:
    return Episodes.of(part) if isinstance(part, Dataset) else part


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
        description = facts.get("description", "")
        if made_here is not None:
            made = "" if facts else ", made on first use"
            description = f"{fetch.described(made_here[0])} {made_here[1]:,} episodes to each goal{made}."
        episodes = facts.get("total_episodes", 4 * made_here[1] if made_here else 0)
        entries.append(
            {
                "name": name,
                "short_name": _short_name(name) if made_here else None,
                "local": name in local,
                "transitions": facts.get("total_steps", 50 * episodes),
                "episodes": episodes,
                "size_mb": facts.get("dataset_size"),
                "description": description,
            }
        )
    for name in library.names():
        with contextlib.suppress(UsageError):  # one damaged file must not hide the others
            entries.append(_facts(library.load(name).spec, library.path_of(name).stat().st_size / 2**20))
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


def _facts(spec: Spec, megabytes: float) -> dict[str, Any]:
    """A data set of the library for `known`."""
    return {
        "name": spec.name,
        "short_name": None,
        "local": True,
        "transitions": spec.num_transitions,
        "episodes": spec.num_episodes,
        "size_mb": round(megabytes, 1),
        "description": f"sources: {', '.join(spec.sources)}",
    }


def _short_name(name: str) -> str:
    return name.rsplit("/", 1)[-1].removesuffix("-v0")


def _load_one(name: str, observations: str | None, progress: fetch.Progress | None) -> Dataset | Episodes:
    """A data set by its canonical name. Observations that are dictionaries become vectors by the rule."""
    made_here = fetch.parse(name)
    if made_here is not None:
        fetch.make(*made_here, progress=progress)
    elif name not in _TOYS and (library.holds(name) or not _MINARI_ID.fullmatch(name)):
        dataset = _load_own(name, progress)
        return _without_rule(dataset, observations)
    elif name in _TOYS:
        return _without_rule(_TOYS[name](), observations)
    elif minari.checked_metadata(name) is None:
        if d4rl_names.find(name) is not None:
            raise UsageError(
                f"The data set {name!r} of D4RL is not on this machine{_near(name)}; name its file, such as"
                f" {name.replace('-', '_', 1)}.hdf5, or import it with `raymix data import` under this name."
            )
        raise UsageError(
            f"The data set {name!r} is not on this machine{_near(name)}; run `minari download {name}`"
            f" (after `pip install 'minari[hf]'`), or copy its folder to {minari.root() / name}, the place that"
            " $MINARI_DATASETS_PATH or else ~/.minari/datasets names."
        )
    return minari.load(name, observations)


def _without_rule(dataset: Dataset | Episodes, observations: str | None) -> Dataset | Episodes:
    if observations is not None:
        raise UsageError(
            f"observations={observations} chooses among the keys of dictionaries, but the observations of"
            f" {dataset.spec.name} are vectors; leave it out"
        )
    return dataset


def _load_own(name: str, progress: fetch.Progress | None) -> Dataset | Episodes:
    """From the library, from a file, or a name that stands for a mixture of such."""
    if name in _POOLS:
        return _build(parse(_POOLS[name]).named(_canonical), name, 0, progress)
    if not library.holds(name) and (match := _HETEROGENEOUS.fullmatch(name)):
        return _heterogeneous(name, match["task"], int(match["sources"]))
    if Path(name).is_absolute():
        return files.read([name], name)
    if not library.holds(name):
        raise UsageError(
            f"The data set {name!r} is not in the library {library.root()}{_near(name)}; make it with `raymix data"
            " import` or `raymix data collect`, or set RAYMIX_DATASETS_PATH to the folder that has it."
        )
    return library.load(name)


def _heterogeneous(name: str, task: str, sources: int) -> Episodes:
    """The first k sources of a task in equal shares, as much in all as the first of them has (LBRAC-v).

    So source-i needs no more than its share of heterogeneous-i.
    """
    parts = [_episodes(_load_own(f"{task}/source-{number}", None)) for number in range(1, sources + 1)]
    sizes = [int(part.transitions.sum()) for part in parts]
    share = min(sizes[0] // sources, *sizes)
    options = Options(transitions=share)
    taken = [mixture.take(part, options, f"{part.spec.name}{options}") for part in parts]
    return mixture.mix(taken, name)


def _near(name: str) -> str:
    own = [*(fetch.dataset_id(task) for task in fetch.TASKS), *_TOYS]
    here = [*library.names(), *minari.local_ids()]
    names = list(dict.fromkeys([*(_short_name(each) for each in own), *own, *here, *_PUBLIC_IDS]))
    near = [each for each in difflib.get_close_matches(name, names, n=3, cutoff=0.6) if each != name]
    return f" (near names: {', '.join(near)})" if near else ""

"""From a sweep's specification to the list of its trials, checked before anything is written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from raymix.types import UsageError


@dataclass(frozen=True)
class SweepSpec:
    """A sweep as data.

    SPEC = SweepSpec(
        algorithm="lom",
        datasets=("fetchreach-multigoal",),
        search={"num_components": tune.grid_search([1, 5, 10, 15, 20])},
        seeds=3,
    )
    """

    algorithm: str
    """Name of a file in `raymix/algorithms`."""
    datasets: tuple[str, ...]
    """Data sets are an axis of the sweep: each configuration runs on each."""
    search: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Hyperparameters to vary, by Tune's search spaces (`tune.grid_search`, `tune.choice`, `tune.uniform`, ...)."""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Hyperparameters to fix."""
    preset: str | None = None
    """The algorithm's preset underneath `settings`."""
    seeds: int | tuple[int, ...] = 3
    """How many seeds (0, 1, 2, ...), or which."""
    steps: int | None = None
    """Gradient steps of the last phase; None: the preset's or the algorithm's."""
    samples: int = 1
    """How often the search space is sampled; each sample runs its whole grid."""
    search_seed: int = 0
    """Seed of random search spaces."""
    evaluate_every: int = 1_000
    """Gradient steps between reports; in the last phase each report evaluates."""
    episodes: int = 10
    """Evaluation episodes per seed and report."""
    metric: str = "return"
    """'return', or 'normalized_score' where the data set has references."""
    select: str = "last"
    """The rule that picks the checkpoint whose score counts: 'last', 'mean_last_3', or 'best' (an oracle)."""
    cpus_per_trial: float = 1
    gpus_per_trial: float | None = None
    """None: a whole GPU where the cluster has any, else none."""
    smoke: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields to replace under `--smoke`: the same path through the code in a minute or two."""

    @property
    def seed_list(self) -> list[int]:
        """The seeds, spelt out."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)

    def replace(self, **changes: Any) -> Self:
        """A copy with other values; the unknown name is refused."""
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise UsageError(f"a sweep has no field {name!r}; it has: {', '.join(known)}")
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class Trial:
    """One configuration on one data set."""

    dataset: str
    config: dict[str, Any]
    """All hyperparameters."""
    swept: dict[str, Any]
    """Those that the sweep varies."""

    @property
    def label(self) -> str:
        """What tells it apart, for people."""
        return ", ".join(f"{name}={value}" for name, value in self.swept.items()) or "all settings fixed"


def expand(spec: SweepSpec) -> list[Trial]:
    """All trials of a sweep, in order; every hyperparameter checked. Raises `UsageError`."""
    import numpy as np
    from ray.tune.search.sample import Float
    from ray.tune.search.variant_generator import generate_variants

    from raymix.algorithms import base
    from raymix.config import kind_of
    from raymix.data.catalog import canonical_name

    _check(spec)
    algorithm = base.find(spec.algorithm)
    fixed = {**spec.settings, **({"steps": spec.steps} if spec.steps is not None else {})}
    algorithm.configure(fixed, spec.preset)
    fields = {field.name: field for field in dataclasses.fields(algorithm.Config)}
    for name, domain in spec.search.items():
        if name in fixed:
            raise UsageError(f"hyperparameter {name!r} is both fixed and searched; leave it out of one of the two")
        if name in fields and kind_of(fields[name]) == "structure" and isinstance(domain, Float):
            raise UsageError(
                f"{name} changes the shapes of the program, so a continuous range would compile one program per"
                " trial; search it with tune.choice or tune.grid_search"
            )
    random_state = np.random.RandomState(spec.search_seed)
    trials: dict[str, Trial] = {}
    for _ in range(spec.samples):
        # The trials are spelt out here, so that a resumed sweep knows them without Tune's snapshot.
        for _, variant in generate_variants({"search": dict(spec.search)}, random_state=random_state):
            swept = {name: _plain(value) for name, value in variant["search"].items()}
            config = algorithm.configure({**fixed, **swept}, spec.preset).to_dict()
            for dataset in spec.datasets:
                name = canonical_name(dataset)
                swept_values = {key: config[key] for key in swept}
                trials.setdefault(json.dumps([name, config], sort_keys=True), Trial(name, config, swept_values))
    return list(trials.values())


def _check(spec: SweepSpec) -> None:
    seeds = spec.seed_list
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise UsageError(f"seeds must be a positive number, or different numbers from 0 on, not {spec.seeds!r}")
    if not spec.datasets:
        raise UsageError("a sweep needs at least one data set; `raymix data list` names those at hand")
    for name in ("evaluate_every", "episodes", "samples"):
        if getattr(spec, name) < 1:
            raise UsageError(f"{name} must be at least 1, not {getattr(spec, name)!r}")
    for name, allowed in (("metric", ("return", "normalized_score")), ("select", ("last", "mean_last_3", "best"))):
        if getattr(spec, name) not in allowed:
            raise UsageError(f"{name} is one of {', '.join(allowed)}, not {getattr(spec, name)!r}")


def _plain(value: Any) -> Any:
    """A value that Tune drew, as Python's own type."""
    return value.item() if hasattr(value, "item") else value


def setting(text: str) -> tuple[str, Any]:
    """`beta=5` -> ('beta', 5); values are numbers, true/false, words, or widths such as 256,256."""
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise UsageError(f"--set takes NAME=VALUE such as beta=5, not {text!r}")
    if "," in value:
        return name, tuple(_number(part) for part in value.strip("()").split(",") if part)
    return name, _number(value)


def _number(text: str) -> Any:
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except ValueError:
        return text


# What a run wrote down about itself


def describe(spec: SweepSpec, name: str, trials: list[Trial], hashes: dict[str, str], version: str) -> dict[str, Any]:
    """The contents of a run's `sweep.json`: everything that resuming it needs."""
    from raymix.ledger import config_id

    return {
        "sweep": name,
        "version": version,
        "algorithm": spec.algorithm,
        "seeds": spec.seed_list,
        "evaluate_every": spec.evaluate_every,
        "episodes": spec.episodes,
        "metric": spec.metric,
        "select": spec.select,
        "cpus_per_trial": spec.cpus_per_trial,
        "gpus_per_trial": spec.gpus_per_trial,
        "dataset_hashes": hashes,
        "trials": [
            {
                "config_id": config_id(spec.algorithm, trial.dataset, hashes[trial.dataset], trial.config),
                "dataset": trial.dataset,
                "config": trial.config,
                "label": trial.label,
            }
            for trial in trials
        ],
    }


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Write `sweep.json`, whole or not at all, with a digest that tells damage."""
    content = {"digest": _digest(description), **description}
    temporary = folder / ".sweep.json"
    with temporary.open("w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / "sweep.json")


def read_description(folder: Path) -> dict[str, Any]:
    """Read a run's `sweep.json`. Raises `UsageError` where the folder is no run or the file is damaged."""
    path = folder / "sweep.json"
    if not path.is_file():
        raise UsageError(f"{folder} is no sweep to resume: it has no sweep.json; give the folder that a sweep printed")
    try:
        content = json.loads(path.read_text())
        digest = content.pop("digest")
    except (ValueError, KeyError, AttributeError) as problem:
        raise UsageError(
            f"{path} is damaged ({type(problem).__name__}), so the sweep cannot be resumed; its results so far are"
            f" whole: `raymix report {folder}`"
        ) from problem
    if digest != _digest(content):
        raise UsageError(
            f"{path} was changed or damaged since the sweep started, so it cannot be resumed; its results so far are"
            f" whole: `raymix report {folder}`"
        )
    return content


def _digest(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()

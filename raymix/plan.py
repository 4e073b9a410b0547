"""From a sweep's specification to the list of its trials, checked before anything is written."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from raymix.data.held_out import SHARE
from raymix.data.recipe import parse
from raymix.files import AnyPath, write_atomically
from raymix.report import ACTION_ERROR, HELD_OUT, SELECT, check_metric
from raymix.search.cells import Cell, all_cells
from raymix.search.conditions import When, applying, bare, check_conditions, conditions_of, grids_of
from raymix.search.decided import read_decided
from raymix.search.halving import Halving
from raymix.search.optuna import Optuna
from raymix.search.population import (
    Population,
    check_members,
    check_population,
    described_populations,
    name_of,
)
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
    """Data sets are an axis of the sweep: each configuration runs on each. A bare name is one data set; a mixture is
    text, or a dictionary that becomes such text (`raymix.data.recipe`)."""
    search: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Hyperparameters to vary, by Tune's search spaces (`tune.grid_search`, `tune.choice`, `tune.uniform`, ...). With a
    searcher, those of `tune.grid_search` span a grid, and each cell of it is a study of its own (`Optuna`). Without
    one, `tune.sample_from(lambda config: ...)` makes a value depend on others, such as config["search"]["beta"]; equal
    configurations are trained once. `raymix.when(tune.loguniform(0.1, 10), weight_mode="exp")` is searched only where
    weight_mode, another searched field, is "exp", and has its value of `settings` or of the preset elsewhere."""
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
    """Seed of random search spaces, and of searchers."""
    evaluate_every: int = 1_000
    """Gradient steps between reports; in the last phase each report evaluates."""
    episodes: int = 10
    """Evaluation episodes per seed and report."""
    metric: str | None = None
    """A key of `raymix.report.METRIC`, or held_out/NAME: a loss on held-out episodes. None: the return, or, where a
    data set has no environment to play in, held_out/action_error."""
    held_out: float | None = None
    """Share of the episodes that training does not see and held-out metrics are measured on. None: a tenth where a
    data set has no environment or the metric needs it, else none."""
    select: str = "last"
    """The rule that picks the checkpoint whose score counts: a key of `raymix.report.SELECT`."""
    scheduler: Halving | Population | None = None
    """`Halving`: which trials are stopped early. `Population`: the samples are one population, in which the worst copy
    the best. None: each trains on its own to the end. Trials on different data sets are never compared."""
    searcher: Optuna | None = None
    """What decides the trials one by one, from the results so far; None: all are spelt out before the run."""
    seats: int | None = None
    """The most agents (one per seed) that train as one program; trials of the same structure share it. None: 8 on
    CPUs, 64 on a GPU. Products are rounded by the program's width, so a run keeps it wherever it is resumed."""
    cpus_per_pack: float = 1
    """Cores that such a program trains on; its trials ask Ray for their share of them."""
    gpus_per_pack: float | None = None
    """Of one GPU. None: a whole one where the cluster has any, else none."""
    label: str | None = None
    """What people call it, where it is one configuration beside others; None: its algorithm and what is searched."""
    smoke: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields to replace under `--smoke`: the same path through the code in a minute or two."""

    def __post_init__(self) -> None:
        given: Any = self.datasets
        given = (given,) if isinstance(given, str | Mapping) else given  # ("two-modes") for ("two-modes",)
        if isinstance(given, list | tuple):
            given = tuple(str(parse(each)) if isinstance(each, Mapping) else each for each in given)
        object.__setattr__(self, "datasets", given)

    @property
    def seed_list(self) -> list[int]:
        """The seeds, spelt out; empty where `seeds` is neither a number nor numbers (`expand` refuses that)."""
        if isinstance(self.seeds, (list, tuple)):
            return list(self.seeds)
        return list(range(self.seeds)) if type(self.seeds) is int else []

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

    algorithm: str
    dataset: str
    config: dict[str, Any]
    """All hyperparameters."""
    swept: dict[str, Any]
    """Those that the sweep varies."""
    evaluate_every: int
    name: str | None = None
    """`SweepSpec.label`."""
    population: str = ""
    """The population that it is a member of, if it is."""
    left_out: tuple[str, ...] = ()
    """What the sweep varies only where others have certain values (`raymix.when`), which they have not here."""

    @property
    def label(self) -> str:
        """What tells it apart from the others of its algorithm, for people."""
        swept = ", ".join(f"{name}={value}" for name, value in self.swept.items())
        return ", ".join(filter(None, (self.name, swept))) or "all settings fixed"


_COMMON = (
    "seed_list",
    "episodes",
    "metric",
    "held_out",
    "select",
    "scheduler",
    "searcher",
    "seats",
    "cpus_per_pack",
    "gpus_per_pack",
)
"""What specifications that run as one sweep must agree on."""


def expand(*specs: SweepSpec) -> list[Trial]:
    """All trials of one or several specifications that run as one sweep, in order; every hyperparameter checked.

    With a searcher the trials are not known yet: these are examples of them, which have every end of every range and
    every choice.

    Raises:
        UsageError: what is asked for cannot be done.
    """
    for spec in specs:
        check(spec)
        if isinstance(spec.scheduler, Population):
            check_population(spec)
        for name in _COMMON:
            if (own := getattr(spec, name)) != (first := getattr(specs[0], name)):
                word = name.removesuffix("_list").replace("seed", "seeds")
                raise UsageError(f"specifications of one sweep must have the same {word}, not {first!r} and {own!r}")
    trials: dict[str, Trial] = {}
    for trial in (
        _examples(specs) if specs[0].searcher else itertools.chain(*map(_expand_one, specs, itertools.count()))
    ):
        trials.setdefault(json.dumps([trial.algorithm, trial.dataset, trial.config], sort_keys=True), trial)
    scheduler, seeds = specs[0].scheduler, len(specs[0].seed_list)
    if isinstance(scheduler, Halving):
        _check_rungs(scheduler, list(trials.values()), seeds)
    if isinstance(scheduler, Population):
        check_members(scheduler, list(trials.values()), seeds)
    return list(trials.values())


def studies(*specs: SweepSpec) -> list[Cell]:
    """The studies of specifications with a searcher, which `expand` has accepted; none without one."""
    return all_cells(specs) if specs[0].searcher else []


def _examples(specs: Sequence[SweepSpec]) -> Iterator[Trial]:
    for spec in specs:
        _check_searched(spec)
    for cell in all_cells(specs):
        for params in cell.examples():
            yield trial_of(cell, params)


def trial_of(cell: Cell, params: Mapping[str, Any]) -> Trial:
    """The trial of a study with these searched hyperparameters."""
    config = cell.config_of(params)
    swept = {**cell.grid, **cell.params_of(config)}
    left_out = (*cell.left_out, *(name for name in cell.space if name not in swept))
    return Trial(cell.algorithm, cell.dataset, config, swept, cell.evaluate_every, cell.name, left_out=left_out)


def _check_rungs(halving: Halving, trials: Sequence[Trial], seeds: int) -> None:
    """Trials that are compared must meet at the same steps."""
    from raymix.algorithms import base

    climbed: dict[str, list[int]] = {}
    for trial in trials:
        steps = trial.config[base.find(trial.algorithm).phases[-1].steps]
        halving.check(seeds, trial.evaluate_every, steps)
        rungs = halving.rungs(steps)
        if (other := climbed.setdefault(trial.dataset, rungs)) != rungs:
            raise UsageError(
                f"Halving compares trials at the same steps, but those on {trial.dataset} would meet at {other} and at"
                f" {rungs}; give them all the same steps"
            )


def _check_searched(spec: SweepSpec) -> dict[str, Any]:
    """The fixed hyperparameters of a specification, once they and the names of the searched ones are accepted."""
    from ray.tune.search.sample import Float

    from raymix.algorithms import base
    from raymix.config import kind_of

    algorithm = base.find(spec.algorithm)
    fixed = {**spec.settings, **({"steps": spec.steps} if spec.steps is not None else {})}
    algorithm.configure(fixed, spec.preset)
    fields = {field.name: field for field in dataclasses.fields(algorithm.Config)}
    for name, domain in spec.search.items():
        # A conditional one may have a setting, for where it does not apply.
        if name in fixed and not (isinstance(domain, When) and name in spec.settings):
            raise UsageError(f"hyperparameter {name!r} is both fixed and searched; leave it out of one of the two")
        if name in fields and kind_of(fields[name]) == "structure" and isinstance(bare(domain), Float):
            raise UsageError(
                f"{name} changes the shapes of the program, so a continuous range would compile one program per"
                " trial; search it with tune.choice or tune.grid_search"
            )
    return fixed


def _expand_one(spec: SweepSpec, number: int) -> list[Trial]:
    import numpy as np
    from ray.tune.search.variant_generator import generate_variants

    from raymix.algorithms import base
    from raymix.data.catalog import canonical_name

    algorithm = base.find(spec.algorithm)
    fixed = _check_searched(spec)
    conditions, grids = conditions_of(spec.search), grids_of(spec.search)
    search = {name: bare(domain) for name, domain in spec.search.items()}
    random_state = np.random.RandomState(spec.search_seed)
    trials = []
    for _ in range(spec.samples):
        # The trials are spelt out here, so that a resumed sweep knows them without Tune's snapshot.
        for _, variant in generate_variants({"search": search}, random_state=random_state):
            drawn = {name: _plain(value) for name, value in variant["search"].items()}
            swept = applying(conditions, drawn)
            # Where a grid does not apply, its first value stands for all.
            if any(name not in swept and drawn[name] != values[0] for name, values in grids.items()):
                continue
            left_out = tuple(name for name in search if name not in swept)
            config = algorithm.configure({**fixed, **swept}, spec.preset).to_dict()
            for dataset in spec.datasets:
                name = canonical_name(dataset)
                swept_values = {key: config[key] for key in swept}
                population = name_of(number, name) if isinstance(spec.scheduler, Population) else ""
                trial = Trial(spec.algorithm, name, config, swept_values, spec.evaluate_every, spec.label, population)
                trials.append(dataclasses.replace(trial, left_out=left_out))
    return trials


def check(spec: SweepSpec) -> None:
    """Raise `UsageError` for types and ranges of all that is no hyperparameter; the algorithm checks those."""
    seeds = spec.seed_list
    if not seeds or not all(_is_whole(seed, 0) for seed in seeds) or len(set(seeds)) != len(seeds):
        raise UsageError(
            "seeds takes a positive whole number such as 3, or different ones from 0 on such as (0, 1, 2), not"
            f" {spec.seeds!r}"
        )
    if not isinstance(spec.datasets, tuple) or not all(isinstance(name, str) for name in spec.datasets):
        raise UsageError(f"datasets takes names such as ('two-modes',), not {spec.datasets!r}")
    if not spec.datasets:
        raise UsageError("a sweep needs at least one data set; `raymix data list` names those at hand")
    for name, example in (("preset", "small"), ("label", "LOM")):
        if not isinstance(value := getattr(spec, name), str | None):
            raise UsageError(f"{name} takes a word such as {example!r}, or None, not {value!r}")
    for name in ("evaluate_every", "episodes", "samples"):
        if not _is_whole(value := getattr(spec, name), 1):
            raise UsageError(f"{name} takes a whole number of at least 1, such as 10, not {value!r}")
    if not _is_whole(spec.search_seed, 0) or spec.search_seed > _LARGEST_SEARCH_SEED:
        raise UsageError(f"search_seed takes a whole number from 0 to {_LARGEST_SEARCH_SEED}, not {spec.search_seed!r}")
    if not _is_number(spec.cpus_per_pack) or spec.cpus_per_pack <= 0:
        raise UsageError(f"cpus_per_pack takes a number above 0, such as 1, not {spec.cpus_per_pack!r}")
    gpus = spec.gpus_per_pack
    if gpus is not None and not (_is_number(gpus) and 0 <= gpus <= 1):
        raise UsageError(f"gpus_per_pack takes a share of a GPU from 0 to 1, or None, not {gpus!r}")
    if spec.seats is not None and not _is_whole(spec.seats, len(seeds)):
        raise UsageError(f"seats takes a whole number of at least the {len(seeds)} seeds, or None, not {spec.seats!r}")
    if spec.metric is not None:
        check_metric(str(spec.metric))
    if spec.select not in list(SELECT):
        raise UsageError(f"select is one of {', '.join(SELECT)}, not {spec.select!r}")
    if spec.held_out is not None and not (_is_number(spec.held_out) and 0 <= spec.held_out < 1):
        raise UsageError(f"held_out takes a share of the episodes from 0 to below 1, or None, not {spec.held_out!r}")
    if not isinstance(spec.scheduler, Halving | Population | None):
        raise UsageError(
            f"scheduler takes Halving(first=...) or Population(every=...), or None, not {spec.scheduler!r}"
        )
    if not isinstance(spec.searcher, Optuna | None):
        raise UsageError(f"searcher takes Optuna(trials=...), or None, not {spec.searcher!r}")
    if spec.scheduler is not None:
        spec.scheduler.check_values()
    if spec.searcher is not None:
        spec.searcher.check()
    if spec.searcher is not None and isinstance(spec.scheduler, Population):
        raise UsageError(
            "Population decides itself what is tried, and so does a searcher: leave out the searcher, or the scheduler"
        )
    if spec.searcher is not None and len(spec.searcher.objectives) > 1 and spec.scheduler is not None:
        raise UsageError(
            "Halving compares trials by their score alone, so it does not go with a search for several objectives:"
            f" leave out scheduler, or objectives={spec.searcher.objectives}"
        )
    if spec.searcher is not None and spec.searcher.cohort is not None and spec.scheduler is None:
        raise UsageError(
            "cohort of Optuna says who is compared at Halving's rungs, and there is no Halving: set scheduler, or leave"
            f" out cohort={spec.searcher.cohort}"
        )
    if spec.searcher is not None and isinstance(spec.scheduler, Halving) and spec.scheduler.seeds is not None:
        raise UsageError(
            "Optuna tells trials apart by all their seeds, so that Halving cannot add to them"
            f" seeds={spec.scheduler.seeds!r} one rung after another; leave out the searcher, or the seeds of Halving"
        )
    if spec.searcher is not None and spec.samples != 1:
        raise UsageError(
            f"Optuna says itself how many trials there are: set its trials, and leave out samples={spec.samples}"
        )
    for name in ("search", "settings"):
        value = getattr(spec, name)
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise UsageError(f"{name} takes a dictionary from hyperparameters to values, not {value!r}")
    check_conditions(spec.search, _check_domain)


def _check_domain(name: str, domain: Any) -> None:
    """Refuse what Tune would not search: it would take a bare list for one value, and an empty grid for no trials."""
    from ray.tune.search.sample import Domain

    if isinstance(domain, Domain):
        return
    if isinstance(domain, Mapping) and domain.keys() == {"grid_search"}:
        if not isinstance(domain["grid_search"], (list, tuple)) or not domain["grid_search"]:
            raise UsageError(
                f"the grid of {name!r} takes a list of at least one value, such as tune.grid_search([1, 2]), not"
                f" {domain['grid_search']!r}"
            )
        return
    if isinstance(domain, (list, tuple, range)):
        remedy = f"say tune.grid_search({list(domain)!r})"
    else:
        remedy = "say tune.grid_search([...]), or put a fixed value into settings"
    raise UsageError(f"search[{name!r}] takes one of Tune's search spaces, not {domain!r}; {remedy}")


_LARGEST_SEARCH_SEED = 2**32 - 1
"""Of NumPy's `RandomState`, from which Tune draws."""


def _is_whole(value: Any, low: int) -> bool:
    # True is an int to isinstance.
    return type(value) is int and value >= low


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _plain(value: Any) -> Any:
    """A value that Tune drew, as Python's own type."""
    return value.item() if hasattr(value, "item") else value


def setting(text: str) -> tuple[str, Any]:
    """`beta=5` -> ('beta', 5); values are numbers, true/false, words, or widths: 256,256, (256, 256), [256, 256]."""
    name, _, value = (part.strip() for part in text.partition("="))
    if not name or not value:
        raise UsageError(f"--set takes NAME=VALUE such as beta=5, not {text!r}")
    inside = value[1:-1] if value[0] + value[-1] in ("()", "[]") else value
    if inside == value and "," not in value:
        return name, _number(value)
    return name, tuple(_number(part.strip()) for part in inside.strip().removesuffix(",").split(","))


def _number(text: str) -> Any:
    """A number or true/false as people and Python write them (.5, 5., +5, 1_000, True), else the word itself."""
    for read in (json.loads, float):
        try:
            return read(text.lower() if text.lower() in ("true", "false") else text)
        except ValueError:
            continue
    return text


# What a run wrote down about itself


def settled(specs: Sequence[SweepSpec], without_environment: Sequence[str]) -> list[SweepSpec]:
    """The specifications with metric and held-out share decided, now that it is known which data sets have no
    environment.

    Raises:
        UsageError: returns are asked of a data set that nothing can be played in, or nothing is held out to judge by.
    """
    first = specs[0]
    metric = first.metric or (ACTION_ERROR if without_environment else "return")
    of_held_out = metric.startswith(HELD_OUT)
    if without_environment and not of_held_out:
        raise UsageError(
            f"data set {without_environment[0]} has no environment to play in, so there is no {metric}; choose"
            f" metric='{ACTION_ERROR}', or give the data set an environment (`raymix data import --env`)"
        )
    share = (SHARE if of_held_out else 0.0) if first.held_out is None else float(first.held_out)
    if of_held_out and share == 0:
        raise UsageError(f"metric {metric} needs episodes that training does not see; set held_out, such as {SHARE}")
    return [spec.replace(metric=metric, held_out=share) for spec in specs]


def describe(specs: Sequence[SweepSpec], name: str, hashes: dict[str, str], version: str) -> dict[str, Any]:
    """The contents of a run's `sweep.json`: everything that resuming and reporting it needs."""
    from raymix.algorithms import base

    trials, common, searcher = expand(*specs), specs[0], specs[0].searcher
    return {
        "sweep": name,
        "version": version,
        # Reports take them from here: asking the algorithm would import torch.
        "phases": {
            algorithm: [[phase.name, phase.steps] for phase in base.find(algorithm).phases]
            for algorithm in dict.fromkeys(trial.algorithm for trial in trials)
        },
        "seeds": common.seed_list,
        "episodes": common.episodes,
        "metric": common.metric,
        "held_out": common.held_out,
        "select": common.select,
        "scheduler": common.scheduler.to_dict() if isinstance(common.scheduler, Halving) else None,
        "population": dataclasses.asdict(common.scheduler) if isinstance(common.scheduler, Population) else None,
        "populations": described_populations(specs, trials) if isinstance(common.scheduler, Population) else {},
        "searcher": None if searcher is None else json.loads(json.dumps(dataclasses.asdict(searcher))),
        "seats": common.seats,
        "cpus_per_pack": common.cpus_per_pack,
        "gpus_per_pack": common.gpus_per_pack,
        "dataset_hashes": hashes,
        "studies": [cell.to_dict() for cell in studies(*specs)],
        # With a searcher they are decided during the run (`raymix.search.decided`).
        "trials": [] if searcher else [described(trial, hashes[trial.dataset]) for trial in trials],
    }


def described(trial: Trial, dataset_hash: str) -> dict[str, Any]:
    """A trial as `sweep.json` has it."""
    from raymix.ledger import config_id

    return {
        "config_id": config_id(trial.algorithm, trial.dataset, dataset_hash, trial.config),
        "algorithm": trial.algorithm,
        "dataset": trial.dataset,
        "config": trial.config,
        "label": trial.label,
        "evaluate_every": trial.evaluate_every,
        "pack": _pack_key(trial, dataset_hash),
        "population": trial.population,
        "left_out": list(trial.left_out),
    }


def _pack_key(trial: Trial, dataset_hash: str) -> str:
    """What trials must agree on to train in one program."""
    from raymix.algorithms import base

    structure = base.find(trial.algorithm).configure(trial.config).of_kind("structure")
    content = [trial.algorithm, trial.dataset, dataset_hash, structure, trial.evaluate_every]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


SEATS = {"cpu": 8, "cuda": 64}
"""Widths of programs where a sweep does not say: on CPUs more agents than these gain little (`raymix bench learner`);
on GPUs no benchmark has run yet."""


def seat(plan: dict[str, Any], device: str) -> dict[str, Any]:
    """The plan with the width of each trial's program, which is as much a part of its results as the seed.

    As many trials of one pack key sit together as fit into the seats, and no seat is made for trials that do not exist.
    With a searcher nobody knows how many there will be, so all programs have the width of full ones (`width`).
    """
    seeds, most = len(plan["seeds"]), plan["seats"] or SEATS[device]
    if plan["searcher"]:
        return {**plan, "width": seeds * max(1, most // seeds)}
    alike = Counter(trial["pack"] for trial in plan["trials"])
    together = {key: min(number, max(1, most // seeds)) for key, number in alike.items()}
    trials = [
        {
            **trial,
            "widths": [seeds * together[trial["pack"]]] * len(plan["phases"][trial["algorithm"]]),
            "shared": [],
        }
        for trial in plan["trials"]
    ]
    return {**plan, "trials": trials}


def write_description(folder: AnyPath, description: dict[str, Any]) -> None:
    """Write `sweep.json`, whole or not at all, with a digest that tells damage."""
    content = {"digest": _digest(description), **description}
    write_atomically(folder / "sweep.json", json.dumps(content, indent=1))


def read_description(folder: AnyPath) -> dict[str, Any]:
    """Read a run's `sweep.json`, and with a searcher the trials that were decided since.

    Raises:
        UsageError: the folder is no run, or a file is damaged.
    """
    path = folder / "sweep.json"
    if not path.is_file():
        raise UsageError(f"{folder} is no sweep to resume: it has no sweep.json; give the folder that a sweep printed")
    try:
        content = json.loads(path.read_text())
        digest = content.pop("digest")
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise UsageError(
            f"{path} is damaged ({type(problem).__name__}), so the sweep cannot be resumed; its results so far are"
            f" whole: `raymix report {shlex.quote(str(folder))}`"
        ) from problem
    if digest != _digest(content):
        raise UsageError(
            f"{path} was changed or damaged since the sweep started, so it cannot be resumed; its results so far are"
            f" whole: `raymix report {shlex.quote(str(folder))}`"
        )
    if content.get("searcher"):  # runs from before there was one
        content["trials"] = read_decided(folder)[0]
    return content


def _digest(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()

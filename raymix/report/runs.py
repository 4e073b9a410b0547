"""Several runs read as one: their ledgers merged, and what their plans agree on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from raymix import ledger
from raymix.files import AnyPath
from raymix.plan import read_description
from raymix.report import SELECT, find_run
from raymix.report.evaluations import Configuration, columns_for, configurations, left_out_by, require_metric
from raymix.report.tables import Phases
from raymix.search.halving import adds_seeds, rungs_of, stopped_trials
from raymix.search.truth import costs, undecided_in_words
from raymix.types import UsageError


@dataclass(frozen=True)
class Runs:
    """The configurations of one or several runs, with scores in `metric`."""

    folders: Sequence[AnyPath]
    configurations: Sequence[Configuration]
    select: str
    metric: str
    phases: Mapping[str, Phases]
    """Of each algorithm, where a plan tells."""
    seeds: Mapping[str, Sequence[int]]
    """The seeds that were planned for each configuration, by its id; empty where no run has a plan."""
    notices: Sequence[str]
    """What was left out of damaged ledgers, and how many trials searchers have still to decide."""
    plans: Sequence[Mapping[str, Any]] = ()
    """What each run's `sweep.json` says; empty for a run that has none."""
    stopped: Collection[str] = ()
    """Ids of the configurations that were stopped early."""

    @cached_property
    def in_populations(self) -> Collection[str]:
        """Ids of the members of populations, whose hyperparameters changed while they trained."""
        return {t["config_id"] for plan in self.plans if plan.get("population") for t in plan["trials"]}

    @cached_property
    def to_the_end(self) -> Sequence[Configuration]:
        """Those whose scores say something of their hyperparameters: that were not stopped early, and kept them."""
        return [
            one
            for one in self.configurations
            if one.config_id not in self.stopped and one.config_id not in self.in_populations
        ]

    @property
    def costs(self) -> bool:
        """Whether what a trial costs was an objective of a search."""
        return any(map(costs, self.plans))


def read_runs(
    folders: Sequence[str], select: str | None = None, metric: str | None = None, keep_going: bool = False
) -> Runs:
    """Read runs (or storage roots: their newest run), from their ledgers and, where there is one, `sweep.json`.

    `select` and `metric` as in `raymix.report.tables.score_table`; None: what the runs were started with. With
    `keep_going` damaged parts of ledgers are left out and named in `notices`.

    Raises:
        UsageError: a run has no results, is damaged, or holds other results under a key of another; or the runs
            were started with different rules or metrics and none is asked for.
    """
    found = list(dict.fromkeys(find_run(folder).resolve() for folder in folders))
    for folder in found:
        if not (folder / "ledger").is_dir():
            raise UsageError(f"{folder} has no ledger yet; start the run, or resume it, and ask again")
    plans = {folder: plan_of(folder) for folder in found}
    asked = metric
    select = select or _agreed("select", {folder: plan.get("select", "last") for folder, plan in plans.items()})
    metric = metric or _agreed("metric", {folder: plan.get("metric", "return") for folder, plan in plans.items()})
    if select not in SELECT:
        raise UsageError(f"select is one of {', '.join(SELECT)}, not {select!r}")
    phases = phases_told(plans)
    notices = [words for folder, plan in plans.items() for words in undecided_in_words(plan, folder)]
    on_damage = (lambda damage: notices.append(str(damage))) if keep_going else None
    columns = columns_of(plans.values(), metric)
    tables = {folder: ledger.read(folder / "ledger", None, columns, on_damage) for folder in found}
    for folder, table in tables.items():
        if not table.num_rows:
            raise UsageError(f"the ledger of {folder} has no results yet; ask again after the run's first report")
    merged = ledger.merge(tables)
    if asked is not None:
        require_metric(merged, asked)
    of_early_ends = {name for folder, plan in plans.items() for name in stopped(plan, tables[folder])}
    configured = configurations(merged, metric, left_out_by(plans.values()))
    notices += of_populations(plans.values())
    return Runs(
        folders=found,
        configurations=configured,
        plans=list(plans.values()),
        stopped=of_early_ends,
        select=select,
        metric=metric,
        phases=phases,
        seeds=seeds_of(plans.values(), configured, of_early_ends),
        notices=notices,
    )


def seeds_of(
    plans: Collection[Mapping[str, Any]], found: Iterable[Configuration], stopped: Collection[str]
) -> dict[str, Sequence[int]]:
    """The seeds that each configuration is to have; of those that were `stopped` early, the ones that had begun where
    seeds begin one after another (`Halving.seeds`)."""
    adding = {trial["config_id"] for plan in plans if adds_seeds(plan) for trial in plan["trials"]}
    ended = adding.intersection(stopped)
    return planned_seeds(plans) | {one.config_id: sorted(one.seeds) for one in found if one.config_id in ended}


def of_populations(plans: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence where hyperparameters changed during training."""
    if not any(plan.get("population") for plan in plans):
        return []
    return ["the members of a population are shown with their last values, which changed while they trained"]


def columns_of(plans: Iterable[Mapping[str, Any]], metric: str) -> Sequence[str]:
    """The columns of a ledger that runs are read from; all where trials are stopped early by what they say."""
    return ledger.SCHEMA.names if any(plan.get("scheduler") for plan in plans) else columns_for(metric)


def stopped(plan: Mapping[str, Any], table: pa.Table) -> Collection[str]:
    """Ids of the configurations that the plan's scheduler stopped early, or would now; `table` in `columns_of`."""
    if not plan.get("scheduler"):
        return ()
    # Trials are compared at the rungs, end where all seeds diverged, and are past a rung where a row beyond says so:
    # decoding all rows would take as long as all the rest.
    rungs = {step for trial in plan["trials"] for step in rungs_of(dict(plan), trial)}
    ids, seeds = table["config_id"].to_numpy(), table["seed"].to_numpy()
    last = np.append((ids[1:] != ids[:-1]) | (seeds[1:] != seeds[:-1]), np.ones(min(1, len(ids)), bool))
    told = np.isin(table["step"].to_numpy(), sorted(rungs)) | table["diverged"].to_numpy() | last
    return stopped_trials(dict(plan), ledger.rows(table.filter(pa.array(told))))


def missing(runs: Runs) -> list[str]:
    """What was planned and is not in the ledgers, in words."""
    there = {one.config_id: one.seeds for one in runs.configurations}
    words = []
    if absent := [config_id for config_id in runs.seeds if config_id not in there]:
        words.append(
            f"{len(absent)} of {len(runs.seeds)} planned configurations {'has' if len(absent) == 1 else 'have'} no"
            f" results yet: {', '.join(absent)}"
        )
    for config_id, planned in runs.seeds.items():
        if lacking := [seed for seed in planned if config_id in there and seed not in there[config_id]]:
            words.append(f"configuration {config_id} lacks seeds {', '.join(map(str, lacking))}")
    return words


def phases_told(plans: Mapping[Any, Mapping[str, Any]]) -> dict[str, Phases]:
    """Of each algorithm; `UsageError` where two runs differ."""
    phases: dict[str, Phases] = {}
    for folder, plan in plans.items():
        for algorithm, own in plan.get("phases", {}).items():
            if phases.setdefault(algorithm, own) != own:
                raise UsageError(f"{folder} trained {algorithm} in other phases than the runs before; report it apart")
    return phases


def planned_seeds(plans: Iterable[Mapping[str, Any]]) -> dict[str, Sequence[int]]:
    return {trial["config_id"]: plan.get("seeds", ()) for plan in plans for trial in plan.get("trials", ())}


def plan_of(folder: AnyPath) -> dict[str, Any]:
    """The run's `sweep.json`; empty where there is none or it is damaged, since a ledger can be reported without."""
    try:
        return read_description(folder)
    except UsageError:
        return {}


def _agreed(name: str, values: Mapping[AnyPath, str]) -> str:
    if len(set(values.values())) > 1:
        told = "; ".join(f"{value} in {folder}" for folder, value in values.items())
        raise UsageError(f"the runs have no common {name} ({told}); choose one with --{name}")
    return next(iter(values.values()))

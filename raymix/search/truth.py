"""What a study knows: a function of the trials that were decided, and of the ledger.

Imports neither torch, ray nor optuna.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raymix import ledger
from raymix.files import AnyPath
from raymix.report import HELD_OUT
from raymix.report.evaluations import agent_seconds, columns_for, configurations, score
from raymix.search.cells import Cell
from raymix.search.halving import halving_of, rank
from raymix.search.optuna import COMPLETE, DIVERGED, PRUNED, RUNNING, Told

if TYPE_CHECKING:
    from raymix.report.evaluations import Configuration


def minimizes(plan: dict[str, Any]) -> bool:
    """Whether less of the run's metric is better."""
    return plan["metric"].startswith(HELD_OUT)


def costs(plan: Mapping[str, Any]) -> bool:
    """Whether what a trial costs is an objective of the run's search."""
    searcher = plan.get("searcher") or {}
    return len(searcher.get("objectives", ())) > 1  # runs from before there was a choice


def found_in(plan: dict[str, Any], run_dir: AnyPath, config_id: str | None = None) -> dict[str, Configuration]:
    """What the run's ledger has of each configuration (or of one), by id."""
    folder = run_dir / "ledger"
    if not folder.is_dir():
        return {}
    table = ledger.read(folder, config_id, columns_for(plan["metric"]))
    return {one.config_id: one for one in configurations(table, plan["metric"])}


def told_of(
    plan: dict[str, Any], cell: Cell, trial: dict[str, Any], found: Configuration | None, stopped: bool
) -> Told:
    """What a study knows of one of its trials by what the ledger has of it; `stopped` where it was stopped early.

    The value of a trial is the statistic over its seeds that `Halving` compares by, or the mean, of the scores that
    reports show. A diverged seed is worse than any other there, so that a mean with one is no finite value.
    """
    params = cell.params_of(trial["config"])
    if found is None or not found.seeds.keys() >= set(plan["seeds"]):
        return Told(params, PRUNED if stopped else RUNNING)
    phase, steps = plan["phases"][trial["algorithm"]][-1]
    seeds = [found.seeds[seed] for seed in plan["seeds"]]
    by_step: dict[int, list[float]] = defaultdict(list)
    for each in itertools.chain(*seeds):
        if each.phase == phase and (each.diverged or each.score is not None):
            by_step[each.step].append(math.nan if each.diverged or each.score is None else each.score)
    values = {step: statistic(plan, scores) for step, scores in by_step.items() if len(scores) == len(seeds)}
    reports = {step: value for step, value in values.items() if math.isfinite(value)}
    if all(any(each.diverged for each in own) for own in seeds):
        return Told(params, DIVERGED, None, reports)
    if trial["config"][steps] in values:
        scores = [score(own, phase, plan["select"], plan["metric"]) for own in seeds]
        value = statistic(plan, [math.nan if each is None else each for each in scores])
        if not math.isfinite(value):
            return Told(params, DIVERGED, None, reports)
        return Told(params, COMPLETE, value, reports, agent_seconds(found) if costs(plan) else None)
    return Told(params, PRUNED if stopped else RUNNING, None, reports)


def statistic(plan: dict[str, Any], scores: Sequence[float]) -> float:
    """Of one score per seed, NaN being a diverged one; in the units of the metric."""
    sign = -1.0 if minimizes(plan) else 1.0
    halving = halving_of(plan)
    return sign * rank([sign * each for each in scores], halving.statistic if halving else "mean")[0]


def told_by(plan: dict[str, Any], run_dir: AnyPath, stopped: Collection[str]) -> list[list[Told]]:
    """What each study knows of its trials, in their order; `stopped` are the ids of those that were stopped early."""
    found = found_in(plan, run_dir)
    cells = [Cell.of(study) for study in plan["studies"]]
    told: list[list[Told]] = [[] for _ in cells]
    for trial in plan["trials"]:
        cell = cells[trial["study"]]
        own = found.get(trial["config_id"])
        told[trial["study"]].append(told_of(plan, cell, trial, own, trial["config_id"] in stopped))
    return told


def warm(cell: Cell) -> list[Told]:
    """What a study was told of earlier runs."""
    return [
        Told(params, DIVERGED if value is None else COMPLETE, value, cost=cost[0] if cost else None)
        for params, value, _, *cost in cell.warm
    ]


def total_trials(plan: dict[str, Any]) -> int:
    """How many trials a run has in the end."""
    return sum(study["trials"] for study in plan["studies"]) if plan.get("searcher") else len(plan["trials"])


def undecided(plan: dict[str, Any]) -> int:
    """How many trials a searcher has still to decide; 0 without one, and without a plan."""
    return total_trials(plan) - len(plan["trials"]) if plan.get("searcher") else 0


def undecided_in_words(plan: dict[str, Any], folder: str | AnyPath) -> list[str]:
    """A sentence where there are some."""
    left = undecided(plan)
    return [f"{left} of {total_trials(plan)} trials of {folder} are not decided yet"] if left else []

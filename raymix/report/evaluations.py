"""What a ledger says about each configuration: its hyperparameters, and the evaluations of each of its seeds."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from raymix import ledger
from raymix.report import HELD_OUT, check_metric
from raymix.types import UsageError

_TOGETHER = 0.1
"""Seconds between rows that were written as one."""


class Pace(NamedTuple):
    """What the rows of a configuration say of its training beside its scores."""

    attempts: int
    """How often it was started: 1, and once more after each kill or resume."""
    agent_seconds: float
    """Device seconds spent on all its seeds, in all phases."""
    reported: float
    """Unix seconds of its last report."""
    interval: float | None
    """Seconds between the last two times at which it reported; None before one start had two in one phase."""
    speed: float | None
    """Agent-steps per second (all seeds together) between them."""


class Evaluation(NamedTuple):
    """What one seed had reached at one report."""

    phase: str
    step: int
    score: float | None
    """Mean over the episodes; None where nothing was measured."""
    diverged: bool


@dataclass(frozen=True)
class Configuration:
    """One configuration on one data set."""

    config_id: str
    algorithm: str
    dataset: str
    """Name; with the start of its hash where the ledger holds several contents of that name."""
    dataset_hash: str
    config: Mapping[str, Any]
    """All hyperparameters; a member of a population may have begun with others."""
    version: str
    """Version of raymix that trained it."""
    references: tuple[float, float] | None
    """The returns of its data set that count as normalized scores of 0 and 100, where it has some."""
    seeds: Mapping[int, Sequence[Evaluation]]
    """The reports of each seed, in order."""
    pace: Pace
    left_out: Collection[str] = ()
    """Hyperparameters that its sweep searched only where others have certain values (`raymix.when`), which they have
    not here: what it was trained with is in `config`, and no result of the search."""

    @cached_property
    def applied(self) -> Mapping[str, Any]:
        """The hyperparameters that are shown and compared: all but those that were left out."""
        return {name: value for name, value in self.config.items() if name not in self.left_out}

    @property
    def method(self) -> tuple[str, str]:
        """What it has in common with the same on another data set: algorithm and hyperparameters."""
        return self.algorithm, ledger.encode(self.config)


def columns_for(metric: str) -> list[str]:
    """The columns of a ledger that `configurations` needs for a metric."""
    facts = ["algorithm", "dataset", "dataset_hash", "config", "version", "reference_min", "reference_max"]
    facts += ["attempt", "agent_seconds", "wall_time"]
    return [*ledger.KEY, *facts, "diverged", "metrics" if metric.startswith(HELD_OUT) else "returns"]


def left_out_by(plans: Iterable[Mapping[str, Any]]) -> dict[str, Collection[str]]:
    """What every plan that has a configuration leaves out of it (`Configuration.left_out`), by its id."""
    found: dict[str, set[str]] = {}
    for plan in plans:
        for trial in plan.get("trials", ()):
            own = set(trial.get("left_out", ()))  # runs from before there were conditions
            found[trial["config_id"]] = found.get(trial["config_id"], own) & own
    return {config_id: tuple(sorted(own)) for config_id, own in found.items() if own}


def configurations(
    table: pa.Table, metric: str = "return", left_out: Mapping[str, Collection[str]] | None = None
) -> list[Configuration]:
    """The configurations of a table from `raymix.ledger.read` (in `columns_for(metric)`), in its order; `left_out` as
    `left_out_by` has it.

    Raises `UsageError` for an unknown metric, and for normalized scores of a data set without references.
    """
    check_metric(metric)
    ids = table["config_id"].to_numpy()
    starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1])) if len(ids) else np.zeros(0, np.int64)
    names = ("config_id", "algorithm", "dataset", "dataset_hash", "config", "version", "reference_min", "reference_max")
    facts = table.select(names).take(pa.array(starts)).to_pylist()
    # A member of a population goes on with other hyperparameters than it began with.
    ends = np.append(starts[1:], len(ids)).astype(np.int64)
    for fact, latest in zip(facts, table["config"].take(pa.array(ends[: len(starts)] - 1)).to_pylist()):
        fact["config"] = latest
    labels = dataset_labels((fact["dataset"], fact["dataset_hash"]) for fact in facts)
    scores = _scores(table, metric)
    reports = zip(*(table[name].to_pylist() for name in ("phase", "step")), scores, table["diverged"].to_pylist())
    seeds = table["seed"].to_pylist()
    evaluations = [Evaluation(*report) for report in reports]
    paces = _paces(table, starts)
    found = []
    for fact, start, end, pace in zip(facts, starts, [*starts[1:], len(ids)], paces):
        low, high = fact["reference_min"], fact["reference_max"]
        by_seed: dict[int, list[Evaluation]] = defaultdict(list)
        for seed, evaluation in zip(seeds[start:end], evaluations[start:end]):
            by_seed[seed].append(_normalized(evaluation, fact) if metric == "normalized_score" else evaluation)
        found.append(
            Configuration(
                config_id=fact["config_id"],
                algorithm=fact["algorithm"],
                dataset=labels[fact["dataset"], fact["dataset_hash"]],
                dataset_hash=fact["dataset_hash"],
                config=ledger.decode(fact["config"]),
                version=fact["version"],
                references=None if low is None or high is None else (low, high),
                seeds=dict(by_seed),
                pace=pace,
                left_out=(left_out or {}).get(fact["config_id"], ()),
            )
        )
    return found


def _paces(table: pa.Table, starts: np.ndarray) -> list[Pace]:
    """That of each configuration, whose rows begin at `starts`."""
    names = ("seed", "step", "attempt", "agent_seconds", "wall_time")
    columns = [table[name].to_numpy() for name in names]
    phases = table["phase"].combine_chunks().dictionary_encode().indices.to_numpy()
    found = []
    for start, end in zip(starts, [*starts[1:], len(phases)]):
        seeds, steps, attempts, spent, times = (column[start:end] for column in columns)
        # Rows are sorted by seed, and what was spent only grows.
        first = np.flatnonzero(np.append(True, seeds[1:] != seeds[:-1]))
        now = attempts == attempts[np.argmax(times)]
        now &= phases[start:end] == phases[start:end][np.argmax(times)]
        order = np.argsort(times[now])
        reported, reached = times[now][order], steps[now][order]
        # Reports that were handed out together, such as those of a phase that another trial trained, are one moment.
        ends = np.flatnonzero(np.append(np.diff(reported) > _TOGETHER, True))
        interval = speed = None
        if len(ends) > 1:
            interval = float(reported[ends[-1]] - reported[ends[-2]])
            gained = reached[: ends[-1] + 1].max() - reached[: ends[-2] + 1].max()
            speed = float(gained) * len(first) / interval
        agent_seconds = float(np.maximum.reduceat(spent, first).sum())
        found.append(Pace(int(attempts.max()), agent_seconds, float(times.max()), interval, speed))
    return found


def require_metric(table: pa.Table, metric: str) -> None:
    """Raise `UsageError` for a held-out metric that no row of the table has; an empty table has none to miss.

    For metrics that somebody asks for. The one that a run was started with may still be to come.
    """
    if not metric.startswith(HELD_OUT) or not table.num_rows:
        return
    there = {name for text in table["metrics"].unique().to_pylist() for name in ledger.decode(text)}
    if metric not in there:
        known = sorted(name for name in there if name.startswith(HELD_OUT))
        told = f"there are: {', '.join(known)}" if known else "nothing was held out; train with --held-out 0.1"
        raise UsageError(f"no result has the metric {metric!r}; {told}")


def _normalized(evaluation: Evaluation, fact: Mapping[str, Any]) -> Evaluation:
    low, high = fact["reference_min"], fact["reference_max"]
    if evaluation.score is None:
        return evaluation
    if low is None or high is None:
        raise UsageError(f"{fact['dataset']} has no reference scores to normalize by; use the metric 'return'")
    return evaluation._replace(score=100.0 * (evaluation.score - low) / (high - low))


def score(evaluations: Sequence[Evaluation], phase: str, select: str, metric: str) -> float | None:
    """A seed's score in this phase, by a rule of `raymix.report.SELECT`.

    NaN for a diverged seed, None for one that was not evaluated yet. A seed that took another's state in a population
    is as sound as that, whatever became of it before.
    """
    # A copy may have healed a seed that diverged (`raymix.search.population`).
    sound = [each for each in evaluations if each.phase == phase and not each.diverged]
    found = [each.score for each in sound if each.score is not None]
    if evaluations and evaluations[-1].diverged:
        return math.nan
    if not found:
        return None
    if select == "best":
        best = min if metric.startswith(HELD_OUT) else max
        return best(filter(math.isfinite, found), default=math.nan)
    last = found[-3:] if select == "mean_last_3" else found[-1:]
    return math.fsum(last) / len(last) if all(map(math.isfinite, last)) else math.nan


def agent_seconds(one: Configuration) -> float:
    """Device seconds spent on one of its agents, in all phases: the mean over its seeds."""
    return one.pace.agent_seconds / len(one.seeds)


def swept_fields(configurations: Iterable[Configuration]) -> list[str]:
    """Fields that differ between the configurations of one algorithm, or are left out of some, in order of name."""
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    counts: dict[str, int] = defaultdict(int)
    held: dict[tuple[str, str], int] = defaultdict(int)
    for one in configurations:
        counts[one.algorithm] += 1
        for name, value in one.applied.items():
            seen[one.algorithm, name].add(json.dumps(value))
            held[one.algorithm, name] += 1
    return sorted({n for (a, n), values in seen.items() if len(values) > 1 or held[a, n] < counts[a]})


def _scores(table: pa.Table, metric: str) -> list[float | None]:
    """The mean return of each row, or its held-out metric."""
    if metric.startswith(HELD_OUT):
        return [ledger.decode(metrics).get(metric) for metrics in table["metrics"].to_pylist()]
    returns = table["returns"].combine_chunks()
    lengths = returns.value_lengths().to_numpy()
    row = np.repeat(np.arange(len(lengths)), lengths)
    sums = np.bincount(row, weights=returns.flatten().to_numpy(), minlength=len(lengths))
    means = sums / np.maximum(lengths, 1)
    return [mean if length else None for mean, length in zip(means.tolist(), lengths.tolist())]


def dataset_labels(datasets: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Data sets by name, with the start of their hash where one name has several contents."""
    hashes: dict[str, set[str]] = defaultdict(set)
    for name, content in datasets:
        hashes[name].add(content)
    return {(n, h): n if len(found) == 1 else f"{n}@{h[:8]}" for n, found in hashes.items() for h in found}


def mean_score(row: ledger.Row, metric: str) -> float | None:
    """A row's score by a metric, the mean over its episodes; None where it has none."""
    if metric.startswith(HELD_OUT):
        return row.metrics.get(metric)
    if not row.returns:
        return None
    mean = sum(row.returns) / len(row.returns)
    if metric == "return":
        return mean
    if row.reference_min is None or row.reference_max is None:
        raise UsageError(f"{row.dataset} has no reference scores to normalize by; use the metric 'return'")
    return 100.0 * (mean - row.reference_min) / (row.reference_max - row.reference_min)

"""Configurations side by side: a wide table with differences from a baseline, and two runs pair by pair."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from raymix import ledger
from raymix.report import HELD_OUT, SELECT, evaluations
from raymix.report.evaluations import Configuration
from raymix.report.front import on_fronts
from raymix.report.runs import Runs
from raymix.report.statistics import (
    aggregate,
    difference,
    expected_online_performance,
    probability_of_improvement,
    summarize,
)
from raymix.report.tables import as_long, front_score, natural, phases_of, shown, standing
from raymix.types import UsageError


def wide_table(runs: Runs, baseline: str | None = None) -> pd.DataFrame:
    """One row per data set and configuration, for any number of runs.

    Columns: dataset, algorithm, the swept fields, seeds, diverged; the mean over seeds at each choice of checkpoint
    (`last`, `mean_last_3`, and `best (oracle)`, chosen by the scores that it reports); std, iqm, low and high of the
    choice `runs.select`. With a `baseline` (an algorithm with one configuration on each data set, or a config_id):
    difference from it, difference_low, difference_high, pairs (`raymix.report.statistics.difference`) and
    probability_of_improvement, all at `runs.select`, missing where a data set lacks the baseline, and where the two
    were not trained as long (`raymix.report.tables.as_long`). Where cost was an objective of a search: agent_seconds
    and front, as in `raymix.report.tables.score_table`. step (of the last report) and stopped (whether early);
    config_id at the end.
    Raises `UsageError` for a baseline that is not there, or is several configurations.
    """
    phases = phases_of(runs.configurations, runs.phases)
    swept = evaluations.swept_fields(runs.configurations)
    against = _baselines(runs.configurations, baseline) if baseline else {}
    standings = {
        one.config_id: standing(one, phases[one.algorithm], runs.select, runs.metric) for one in against.values()
    }
    records = []
    for one in runs.configurations:
        record: dict[str, Any] = {"dataset": one.dataset, "algorithm": one.algorithm}
        record |= {name: shown(one.applied.get(name)) for name in swept}
        scores = {rule: _scores(one, phases[one.algorithm][-1][0], rule, runs.metric) for rule in SELECT}
        chosen = summarize(list(scores[runs.select].values()))
        low, high = chosen.interval or (math.nan, math.nan)
        record |= {"seeds": len(one.seeds), "diverged": chosen.diverged}
        record |= {_heading(rule): summarize(list(own.values())).mean for rule, own in scores.items()}
        record |= {"std": chosen.std, "iqm": chosen.iqm, "low": low, "high": high}
        where = standing(one, phases[one.algorithm], runs.select, runs.metric)
        other = against.get(one.dataset)
        if other is not None and scores[runs.select] and as_long(where, standings[other.config_id]):
            base = _scores(other, phases[other.algorithm][-1][0], runs.select, runs.metric)
            record |= _against(scores[runs.select], base, runs.metric)
        if runs.costs:
            record |= {"agent_seconds": evaluations.agent_seconds(one), "front": front_score(where)}
        records.append(
            record | {"step": where["step"], "stopped": one.config_id in runs.stopped, "config_id": one.config_id}
        )
    if runs.costs:
        facts = [(record["dataset"], record["front"], record["agent_seconds"]) for record in records]
        for record, on in zip(records, on_fronts(facts, runs.metric.startswith(HELD_OUT))):
            record["front"] = on
    records.sort(key=lambda record: [natural(record[name]) for name in ("dataset", "algorithm", *swept, "config_id")])
    frame = pd.DataFrame(records)
    return frame[[*(name for name in frame if name != "config_id"), "config_id"]]


def compare(one: Runs, other: Runs) -> tuple[pd.DataFrame, list[str]]:
    """Two runs, configuration by configuration, and in words what could not be compared.

    Pairs share algorithm, data set name and the hyperparameters that both sides know: the ids differ when the data
    or the code do. Members of populations, whose hyperparameters change, are paired by their ids. Columns: dataset,
    algorithm, the swept fields, a, b (means over seeds), difference (b - a), low, high, pairs. Raises `UsageError`
    where nothing matches or the two have other metrics or rules.
    """
    if (one.select, one.metric) != (other.select, other.metric):
        raise UsageError(
            f"one run is scored by {one.metric} ({one.select}), the other by {other.metric} ({other.select}); choose"
            " --metric and --select"
        )
    sides = (one.configurations, other.configurations)
    fields = [_fields(side) for side in sides]
    known = {
        algorithm: fields[0][algorithm] & fields[1][algorithm] for algorithm in fields[0].keys() & fields[1].keys()
    }
    changing = {*one.in_populations, *other.in_populations}
    left, right = (_by_key(side, known, changing) for side in sides)
    words = [
        f"{algorithm}: only one side knows {', '.join(sorted(unlike))}; matched without"
        for algorithm in sorted(known)
        if (unlike := fields[0][algorithm] ^ fields[1][algorithm])
    ]
    phases = [phases_of(runs.configurations, runs.phases) for runs in (one, other)]
    swept = evaluations.swept_fields([*sides[0], *sides[1]])
    records, hashes, versions = [], 0, 0
    for key in left.keys() & right.keys():
        pair = left[key], right[key]
        a, b = (
            _scores(side, own[side.algorithm][-1][0], one.select, one.metric)
            for side, own in zip(pair, phases, strict=True)
        )
        gap = difference(b, a)
        low, high = gap.interval or (math.nan, math.nan)
        hashes += pair[0].dataset_hash != pair[1].dataset_hash
        versions += pair[0].version != pair[1].version
        record: dict[str, Any] = {"dataset": pair[0].dataset.partition("@")[0], "algorithm": pair[0].algorithm}
        record |= {name: shown(pair[0].applied.get(name)) for name in swept}
        record |= {"a": summarize(list(a.values())).mean, "b": summarize(list(b.values())).mean}
        records.append(record | {"difference": gap.mean, "low": low, "high": high, "pairs": gap.pairs})
    if not records:
        raise UsageError(
            "the two runs share no configuration (algorithm, data set and hyperparameters); give two runs of one sweep"
        )
    words += [f"{hashes} of {len(records)} pairs were trained on other contents of their data set"] if hashes else []
    words += [f"{versions} of {len(records)} pairs were trained by other versions of raymix"] if versions else []
    for name, mine, yours in (("first", left, right), ("second", right, left)):
        if alone := len(mine.keys() - yours.keys()):
            words.append(f"{alone} configurations of the {name} run have no counterpart")
    records.sort(key=lambda record: [natural(record[name]) for name in ("dataset", "algorithm", *swept)])
    return pd.DataFrame(records), words


def online_table(runs: Runs) -> pd.DataFrame:
    """Expected online performance: what a search would deploy that can afford n evaluations.

    One row per data set and algorithm with several configurations, none of which was stopped early (what n evaluations
    are is not defined then) or belongs to a population; columns dataset, algorithm, configurations (how many were
    searched; those without scores of two seeds are not in it), and `n=1`, `n=2`, `n=4`, ... with the
    expected score (`raymix.report.statistics.expected_online_performance`) over the seeds that all of them have.
    """
    phases = phases_of(runs.configurations, runs.phases)
    groups: dict[tuple[str, str], list[dict[int, float]]] = defaultdict(list)
    for one in runs.configurations:
        scores = _scores(one, phases[one.algorithm][-1][0], runs.select, runs.metric)
        if sum(map(math.isfinite, scores.values())) > 1:
            groups[one.dataset, one.algorithm].append(scores)
    whole = {one.config_id for one in runs.to_the_end}
    incomparable = {(one.dataset, one.algorithm) for one in runs.configurations if one.config_id not in whole}
    sign = -1.0 if runs.metric.startswith(HELD_OUT) else 1.0
    records = []
    for (dataset, algorithm), searched in sorted(groups.items()):
        shared = sorted(set.intersection(*(set(scores) for scores in searched)))
        if (dataset, algorithm) in incomparable or len(searched) < 2 or len(shared) < 2:
            continue
        budgets = [2**power for power in range(len(searched).bit_length())]
        table = sign * np.array([[scores[seed] for seed in shared] for scores in searched])
        expected = [sign * score for score in expected_online_performance(table, budgets)]
        record = {"dataset": dataset, "algorithm": algorithm, "configurations": len(searched)}
        records.append(record | {f"n={n}": score for n, score in zip(budgets, expected, strict=True)})
    return pd.DataFrame(records)


def aggregate_table(runs: Runs) -> pd.DataFrame:
    """Interquartile mean of normalized scores over the data sets, of every method that was run on all of them.

    A method is an algorithm with its hyperparameters. Columns: algorithm, the swept fields, tasks, runs, iqm, low,
    high (`raymix.report.statistics.aggregate`). Empty for one data set, and for scores that are not normalized: returns
    of different tasks have no common scale.
    """
    tasks = {one.dataset for one in runs.configurations}
    if len(tasks) < 2 or runs.metric != "normalized_score":
        return pd.DataFrame()
    phases = phases_of(runs.configurations, runs.phases)
    swept = evaluations.swept_fields(runs.configurations)
    methods: dict[tuple[str, str], list[Configuration]] = defaultdict(list)
    for one in runs.configurations:
        methods[one.method].append(one)
    records = []
    for (algorithm, _), members in methods.items():
        scores = [list(_scores(one, phases[algorithm][-1][0], runs.select, runs.metric).values()) for one in members]
        if len(members) < len(tasks) or not all(scores):
            continue
        mean, ends = aggregate(scores)
        low, high = ends or (math.nan, math.nan)
        record: dict[str, Any] = {"algorithm": algorithm}
        record |= {name: shown(members[0].applied.get(name)) for name in swept}
        record |= {"tasks": len(tasks), "runs": sum(map(len, scores)), "iqm": mean, "low": low, "high": high}
        records.append(record)
    return pd.DataFrame(records)


def render(frame: pd.DataFrame) -> str:
    """A table of this module as aligned text; fields that are nowhere set are left out."""
    return frame.dropna(axis=1, how="all").to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.4g}")


def to_latex(frame: pd.DataFrame) -> str:
    """A table of this module as a LaTeX tabular (it needs the package booktabs)."""
    kept = frame.dropna(axis=1, how="all").drop(columns="config_id", errors="ignore")
    lines = [" & ".join(map(_latex, kept.columns)), *(" & ".join(map(_latex, row)) for row in kept.to_numpy(object))]
    body = [rf"{line} \\" for line in lines]
    head = [rf"\begin{{tabular}}{{{'l' * len(kept.columns)}}}", r"\toprule", body[0], r"\midrule"]
    return "\n".join([*head, *body[1:], r"\bottomrule", r"\end{tabular}", ""])


_LATEX = str.maketrans({mark: rf"\{mark}" for mark in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\^{}"})


def _latex(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "--"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("\\", "/").translate(_LATEX)


def _against(scores: Mapping[int, float], base: Mapping[int, float], metric: str) -> dict[str, Any]:
    gap = difference(scores, base)
    low, high = gap.interval or (math.nan, math.nan)
    record = {"difference": gap.mean, "difference_low": low, "difference_high": high, "pairs": gap.pairs}
    if not base:
        return record
    sign = -1.0 if metric.startswith(HELD_OUT) else 1.0
    sides = [[sign * score for score in side.values()] for side in (scores, base)]
    return record | {"probability_of_improvement": probability_of_improvement([(sides[0], sides[1])])}


def _heading(rule: str) -> str:
    return f"{rule} (oracle)" if rule == "best" else rule


def _scores(one: Configuration, phase: str, select: str, metric: str) -> dict[int, float]:
    """Scores by seed, NaN for a diverged one; seeds that were not evaluated yet are left out."""
    scores = {seed: evaluations.score(reports, phase, select, metric) for seed, reports in one.seeds.items()}
    return {seed: score for seed, score in scores.items() if score is not None}


def _baselines(found: Sequence[Configuration], name: str) -> dict[str, Configuration]:
    """The baseline on each data set."""
    chosen = [one for one in found if name in (one.algorithm, one.config_id)]
    if not chosen:
        algorithms = ", ".join(sorted({one.algorithm for one in found}))
        raise UsageError(f"there is no baseline {name!r}; give an algorithm ({algorithms}) or a config_id")
    result = {one.dataset: one for one in chosen}
    if len(result) < len(chosen):
        raise UsageError(
            f"{name} has several configurations on a data set; choose one by its config_id, such as"
            f" {chosen[0].config_id}"
        )
    return result


def _fields(side: Sequence[Configuration]) -> dict[str, set[str]]:
    """The hyperparameters that each algorithm has."""
    fields: dict[str, set[str]] = defaultdict(set)
    for one in side:
        fields[one.algorithm] |= one.config.keys()
    return fields


def _by_key(
    side: Sequence[Configuration], known: Mapping[str, set[str]], changing: Collection[str]
) -> dict[tuple[str, str, str], Configuration]:
    keyed: dict[tuple[str, str, str], Configuration] = {}
    for one in side:
        # An algorithm of one side alone matches nothing, and keeps all its fields.
        shared = {name: value for name, value in one.config.items() if name in known.get(one.algorithm, one.config)}
        what = one.config_id if one.config_id in changing else ledger.encode(shared)
        key = (one.algorithm, one.dataset.partition("@")[0], what)
        if key in keyed:
            raise UsageError(
                f"{keyed[key].config_id} and {one.config_id} differ only in what the other run does not have (a"
                " hyperparameter or the data set's contents), so they cannot be told apart; compare runs of one data"
                " set and one version each"
            )
        keyed[key] = one
    return keyed

"""What the interactive page shows, as JSON-ready facts: computed here, drawn by `web/page.js`."""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from raymix.report import HELD_OUT, METRIC, SELECT, comparison, evaluations, metric_in_words, sensitivity
from raymix.report.evaluations import Configuration
from raymix.report.front import on_fronts
from raymix.report.runs import Runs, missing
from raymix.report.sensitivity import MOST_VALUES
from raymix.report.statistics import FEWEST_SEEDS, Summary, difference, performance_profile, summarize
from raymix.report.tables import Phases, as_long, front_score, natural, phases_of, shown, standing
from raymix.search.halving import adds_seeds

CURVE_POINTS = 120_000
"""Of all bands in one page; beyond that curves are thinned evenly, so that a page stays below 5 MiB."""
SEED_POINTS = 100_000
"""Of the curves of single seeds in one page, which those of the best configurations get first."""
FEWEST_FOR_IMPORTANCE = 8
"""Finished configurations; a random forest of fewer says nothing."""
_BINS = 8
_PROFILED = 7
_THRESHOLDS = 101
_DIGITS = 4
"""Significant digits of what is drawn. Tables have all digits."""

_TREES = 32
"""Of the forest behind the importances."""


@dataclass
class Memo:
    """What was computed before, for pages that are made again while little of them changes."""

    details: dict[str, tuple[Configuration, Phases, dict[str, Any]]] = field(default_factory=dict)
    """By configuration."""
    importance: dict[tuple[str, str], tuple[Any, dict[str, Any]]] = field(default_factory=dict)
    """By data set and algorithm, with the scores that it was computed from."""


def page_facts(
    runs: Runs, baseline: str | None = None, live: bool = False, memo: Memo | None = None, forests: bool = True
) -> dict[str, Any]:
    """Everything that the page shows of these runs.

    `baseline` as in `raymix.report.comparison.wide_table`. A `live` page asks for curves one by one (`curve`) and has
    no aggregates over data sets, whose bootstraps take long. Without `forests`, which take seconds, importances are
    those of the memo. Numbers that are no numbers are None, a diverged seed's score is "diverged".

    Raises:
        UsageError: the baseline is not there, or is several configurations.
    """
    memo = Memo() if memo is None else memo
    phases = phases_of(runs.configurations, runs.phases)
    higher = not runs.metric.startswith(HELD_OUT)
    details = {one.config_id: _detail(one, phases[one.algorithm], runs, memo) for one in runs.configurations}
    swept = evaluations.swept_fields(runs.configurations)
    rows = [_row(one, details[one.config_id], swept, phases, runs) for one in runs.configurations]
    if baseline is not None:
        _add_baseline(rows, runs, baseline)
    there = {one.config_id for one in runs.configurations}
    for plan in runs.plans:
        for trial in plan.get("trials", ()):
            if trial["config_id"] not in there and "config" in trial:
                there.add(trial["config_id"])
                rows.append(_waiting(trial, swept))
    if runs.costs:
        scored = ((one, front_score(details[one.config_id])) for one in runs.configurations)
        marks = on_fronts([(one.dataset, score, evaluations.agent_seconds(one)) for one, score in scored], not higher)
        front = {one.config_id for one, on in zip(runs.configurations, marks) if on}
        for row in rows:
            row["front"] = row["id"] in front
    rows.sort(key=lambda row: [natural(row[n]) for n in ("dataset", "algorithm")] + [natural(v) for v in row["fields"]])
    ranked = sorted((row for row in rows if row["mean"] is not None), key=_rank(higher))
    groups: dict[tuple[str, str], list[Configuration]] = {}
    for one in runs.configurations:
        groups.setdefault((one.dataset, one.algorithm), []).append(one)
    groups = dict(sorted(groups.items(), key=lambda group: list(map(natural, group[0]))))
    scores = {config_id: detail["by_seed"] for config_id, detail in details.items()}
    means = {config_id: detail["mean"] for config_id, detail in details.items()}
    whole = {one.config_id for one in runs.to_the_end}
    finished = {row["id"]: means[row["id"]] for row in rows if row["status"] == "done"}
    reported = [one.pace.reported for one in runs.configurations]
    return {
        "runs": [folder.name for folder in runs.folders],
        "metric": metric_in_words(runs.metric),
        "higher": higher,
        "fixed": runs.metric in METRIC,
        "select": SELECT[runs.select],
        "newest": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(max(reported))) if reported else None,
        "notices": [*runs.notices, *missing(runs)],
        "swept": swept,
        "baseline": baseline,
        "decisions": _decisions(ranked, scores, groups, higher),
        "rows": rows,
        "best": [row["id"] for row in ranked],
        "curves": None if live else _curves(ranked, details),
        "aggregate": [] if live else _aggregate(runs, swept),
        "effects": _effects(groups, scores, means, whole),
        "maps": _maps(groups, means, whole),
        "importance": [_importance(*group, of, finished, memo, forests) for group, of in groups.items()],
        "sentences": sensitivity.sentences(runs),
        "profiles": _profiles(ranked, runs, scores, groups, higher),
        "online": _online(runs),
        "cost": _cost(rows, details, higher),
    }


def curve(one: Configuration, runs: Runs) -> dict[str, Any]:
    """The learning curve of one configuration: `x` in gradient steps, mean, low and high, and each seed's scores."""
    phases = phases_of([one], runs.phases)
    return _thinned(_curve(one, phases[one.algorithm][-1][0]), 1, with_seeds=True)


def _detail(one: Configuration, phases: Phases, runs: Runs, memo: Memo) -> dict[str, Any]:
    """What of a configuration depends on nothing but itself, from the memo where it has not changed."""
    known = memo.details.get(one.config_id)
    if known is not None and known[0] is one and known[1] == phases:
        return known[2]
    detail = standing(one, phases, runs.select, runs.metric)
    by_seed = dict(zip(sorted(one.seeds), detail["scores"], strict=True))
    detail["by_seed"] = {seed: score for seed, score in by_seed.items() if score is not None}
    detail["curve"] = _curve(one, phases[-1][0])
    totals = [int(one.config.get(steps, 0)) for _, steps in phases]
    names = [name for name, _ in phases]
    done = sum(totals[: names.index(detail["phase"])]) + detail["step"] if detail["phase"] in names else 0
    detail["progress"] = min(1.0, done / sum(totals)) if sum(totals) else None
    detail["left"] = None
    if one.pace.speed and sum(totals):
        detail["left"] = max(0, sum(totals) - done) * len(one.seeds) / one.pace.speed
    memo.details[one.config_id] = (one, phases, detail)
    return detail


def _row(
    one: Configuration, detail: Mapping[str, Any], swept: Sequence[str], phases: Mapping[str, Phases], runs: Runs
) -> dict[str, Any]:
    """A line of the table of configurations."""
    lacking = [seed for seed in runs.seeds.get(one.config_id, ()) if seed not in one.seeds]
    finished = detail["finished"] and not (lacking and any(map(adds_seeds, runs.plans)))
    is_stopped = one.config_id in runs.stopped and not finished
    if detail["diverged"] == detail["seeds"]:
        status = "diverged"
    else:
        status = "done" if finished else "stopped early" if is_stopped else "unfinished"
    seeds = sorted(one.seeds)
    over = status != "unfinished"
    return {
        "id": one.config_id,
        "dataset": one.dataset,
        "algorithm": one.algorithm,
        "label": label(one, swept, len(phases) > 1),
        "fields": [shown(one.applied.get(name)) for name in swept],
        "scores": ["diverged" if s is not None and math.isnan(s) else s for s in detail["scores"]],
        "seed_names": seeds,
        **{name: _plain(detail[name]) for name in ("mean", "std", "iqm", "low", "high")},
        "seeds": detail["seeds"],
        "diverged": detail["diverged"],
        "lacking": lacking,
        "hours": one.pace.agent_seconds / 3600,
        "status": status,
        "phase": detail["phase"] if len(phases[one.algorithm]) > 1 else None,
        "step": detail["step"],
        "progress": 1.0 if over else detail["progress"],
        "speed": None if over else one.pace.speed,
        "left": None if over else detail["left"],
        "reported": one.pace.reported,
        "patience": None if one.pace.interval is None else 60 + 3 * one.pace.interval,
        "attempts": one.pace.attempts,
        "difference": None,
        "improvement": None,
    }


def _waiting(trial: Mapping[str, Any], swept: Sequence[str]) -> dict[str, Any]:
    """The line of a configuration that was planned and has no results."""
    nothing = (
        "mean",
        "std",
        "iqm",
        "low",
        "high",
        "phase",
        "step",
        "speed",
        "left",
        "reported",
        "patience",
        "difference",
    )
    left_out = trial.get("left_out", ())
    return {
        "id": trial["config_id"],
        "dataset": trial["dataset"],
        "algorithm": trial["algorithm"],
        "label": trial.get("label") or trial["algorithm"],
        "fields": [None if name in left_out else shown(trial["config"].get(name)) for name in swept],
        "scores": [],
        "seed_names": [],
        **dict.fromkeys(nothing),
        "seeds": 0,
        "diverged": 0,
        "lacking": [],
        "hours": 0.0,
        "status": "no results yet",
        "progress": 0.0,
        "attempts": 0,
        "improvement": None,
    }


def label(one: Configuration, swept: Sequence[str], several: bool) -> str:
    """What tells a configuration from the others, for people; with its algorithm where there are several."""
    values = {name: shown(one.applied[name]) for name in swept if name in one.applied}
    words = [f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()]
    return ", ".join([one.algorithm, *words] if several or not words else words)


def _add_baseline(rows: Sequence[dict[str, Any]], runs: Runs, baseline: str) -> None:
    """Differences from the baseline, as the wide table has them."""
    frame = comparison.wide_table(runs, baseline)
    against = {record["config_id"]: record for record in frame.to_dict("records")}
    for row in rows:
        record = against[row["id"]]
        ends = ("difference", "difference_low", "difference_high")
        if _plain(record.get("difference")) is not None:
            row["difference"] = [_plain(record[name]) for name in ends]
            row["improvement"] = _plain(record["probability_of_improvement"])


def _rank(higher: bool) -> Any:
    """The best first: finished ones before others, whole ones before those with diverged seeds."""

    def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row["status"] != "done", row["diverged"] > 0, -row["mean"] if higher else row["mean"], row["id"]

    return key


def _trained_as_long(ranked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the rows that may be compared with the first of them, which is among them."""
    lengths = [{"finished": row["status"] == "done", "step": row["step"]} for row in ranked]
    return [row for row, length in zip(ranked, lengths) if as_long(length, lengths[0])]


def _decisions(
    ranked: Sequence[dict[str, Any]],
    scores: Mapping[str, Mapping[int, float]],
    groups: Mapping[tuple[str, str], Sequence[Configuration]],
    higher: bool,
) -> list[dict[str, Any]]:
    """Per data set the best configuration, how far it is from the best other one that was trained as long, and what
    finding it cost."""
    decisions = []
    for dataset in sorted({dataset for dataset, _ in groups}, key=natural):
        members = [one for (name, _), of in groups.items() if name == dataset for one in of]
        best = [row for row in ranked if row["dataset"] == dataset]
        decision: dict[str, Any] = {
            "dataset": dataset,
            "configurations": len(members),
            "unfinished": sum(row["status"] == "unfinished" for row in best) + len(members) - len(best),
            "hours": sum(one.pace.agent_seconds for one in members) / 3600,
            "best": best[0]["id"] if best else None,
            "second": None,
        }
        rivals = _trained_as_long(best)[1:]
        if rivals:
            gap = difference(scores[best[0]["id"]], scores[rivals[0]["id"]])
            low, high = gap.interval or (None, None)
            # Equal differences of all seeds have no width, which is no certainty.
            certain = low is not None and high is not None and (low > 0 if higher else high < 0) and low < high
            decision |= {"second": rivals[0]["id"], "gap": _plain(gap.mean), "gap_low": low, "gap_high": high}
            decision |= {"certain": certain, "pairs": gap.pairs}
        decisions.append(decision)
    return decisions


# Learning curves


def _curve(one: Configuration, phase: str) -> dict[str, Any]:
    """Steps (T,), mean (T,), low and high (T,) of the seeds that were finite there, and the scores of each (T,)."""
    seeds = sorted(one.seeds)
    scores: dict[int, list[float]] = {}
    for column, seed in enumerate(seeds):
        for each in one.seeds[seed]:
            if each.phase == phase and each.score is not None:
                found = scores.setdefault(each.step, [math.nan] * len(seeds))
                found[column] = each.score if not each.diverged and math.isfinite(each.score) else math.nan
    steps = sorted(scores)
    table = np.array([scores[step] for step in steps], np.float64).reshape(len(steps), len(seeds))
    mean, low, high = bands(table)
    return {"x": steps, "mean": mean, "low": low, "high": high, "seeds": dict(zip(seeds, table.T, strict=True))}


def bands(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and 95 % Student-t interval over the finite numbers of each row of (T, S); NaN where there is none.

    An interval needs three numbers. Many seeds have Student's interval here, too: it is drawn, and the bootstrap of a
    table would take its time at every step.
    """
    counts = np.isfinite(table).sum(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # rows of NaN alone
        mean = np.nanmean(table, 1)
        spread = np.nanstd(table, 1, ddof=1) / np.sqrt(counts)
    quantiles = {count: stats.t.ppf(0.975, count - 1) for count in set(counts.tolist()) if count >= FEWEST_SEEDS}
    half = spread * np.array([quantiles.get(count, math.nan) for count in counts.tolist()])
    return mean, mean - half, mean + half


def _curves(ranked: Sequence[Mapping[str, Any]], details: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """By configuration, thinned to what a page holds; seeds of the best configurations, as many as fit."""
    total = sum(len(detail["curve"]["x"]) for detail in details.values())
    every = max(1, math.ceil(total / CURVE_POINTS))
    found: dict[str, Any] = {}
    seed_points = 0
    order = [row["id"] for row in ranked]
    for config_id in [*order, *(name for name in details if name not in set(order))]:
        own = details[config_id]["curve"]
        if len(own["x"]):
            seed_points += math.ceil(len(own["x"]) / every) * len(own["seeds"])
            found[config_id] = _thinned(own, every, with_seeds=seed_points <= SEED_POINTS)
    return {"every": every, "with_seeds": sum("seeds" in own for own in found.values()), "of": found}


def _thinned(own: Mapping[str, Any], every: int, with_seeds: bool) -> dict[str, Any]:
    """Every so many points, counted from the last, which is always one of them."""
    kept = slice((len(own["x"]) - 1) % every, None, every)
    result = {"x": own["x"][kept]} | {name: _drawn(own[name][kept]) for name in ("mean", "low", "high")}
    return result | ({"seeds": {s: _drawn(scores[kept]) for s, scores in own["seeds"].items()}} if with_seeds else {})


# What the hyperparameters do


def _values(members: Sequence[Configuration], name: str) -> tuple[list[Any], dict[str, int]]:
    """The places of a swept field on an axis, and which of them each configuration has (by its id).

    Values one by one where they are few, or words; numbers that are many are binned to equal shares of the
    configurations, and a bin's place is the mean of its values.
    """
    held = {one.config_id: shown(one.applied[name]) for one in members if name in one.applied}
    values = sorted(set(held.values()), key=natural)
    if len(values) <= MOST_VALUES or not all(map(_is_number, values)):
        return values, {config_id: values.index(value) for config_id, value in held.items()}
    order = sorted(held, key=lambda config_id: held[config_id])
    parts = [part.tolist() for part in np.array_split(np.array(order), _BINS)]
    places = [float(f"{np.mean([held[config_id] for config_id in part]):.4g}") for part in parts]
    return places, {config_id: number for number, part in enumerate(parts) for config_id in part}


def _effects(
    groups: Mapping[tuple[str, str], Sequence[Configuration]],
    scores: Mapping[str, Mapping[int, float]],
    means: Mapping[str, float],
    whole: Collection[str],
) -> list[dict[str, Any]]:
    """Score against each swept field: of each seed the mean over the configurations that share a value, then over
    seeds, with its interval. All have a point; in the means are those that were trained as long, the `whole` ones."""
    found = []
    for (dataset, algorithm), members in groups.items():
        for name in evaluations.swept_fields(members):
            places, where = _values(members, name)
            own = [[c for c in where if where[c] == place and c in whole] for place in range(len(places))]
            told = [_over_seeds([scores[config_id] for config_id in each]) for each in own]
            points = [
                [shown(one.applied[name]), _drawn_one(means[one.config_id])]
                for one in members
                if name in one.applied and math.isfinite(means[one.config_id])
            ]
            effect: dict[str, Any] = {"dataset": dataset, "algorithm": algorithm, "field": name, "values": places}
            effect |= {
                "numeric": all(map(_is_number, places)),
                "binned": len({value for value, _ in points}) > len(places),
                "counts": list(map(len, own)),
                "points": points,
                "mean": [_drawn_one(each.mean) for each in told],
                "low": [None if each.interval is None else _drawn_one(each.interval[0]) for each in told],
                "high": [None if each.interval is None else _drawn_one(each.interval[1]) for each in told],
            }
            found.append(effect)
    return found


def _over_seeds(configurations: Sequence[Mapping[int, float]]) -> Summary:
    """Statistics over seeds of their means over configurations; a seed that diverged in one is left out of that one."""
    by_seed: dict[int, list[float]] = defaultdict(list)
    for scores in configurations:
        for seed, score in scores.items():
            if math.isfinite(score):
                by_seed[seed].append(score)
    return summarize([math.fsum(own) / len(own) for own in by_seed.values()])


def _maps(
    groups: Mapping[tuple[str, str], Sequence[Configuration]], means: Mapping[str, float], whole: Collection[str]
) -> list[dict[str, Any]]:
    """Mean score of the `whole` configurations where two fields were swept, for each pair of them."""
    found = []
    for (dataset, algorithm), members in groups.items():
        for first, second in itertools.combinations(evaluations.swept_fields(members), 2):
            (rows, row_of), (columns, column_of) = (_values(members, name) for name in (first, second))
            cells: dict[tuple[int, int], list[float]] = defaultdict(list)
            for config_id in row_of.keys() & column_of.keys():
                if config_id in whole and math.isfinite(means[config_id]):
                    cells[row_of[config_id], column_of[config_id]].append(means[config_id])
            grid = [[cells.get((r, c), []) for c in range(len(columns))] for r in range(len(rows))]
            found.append(
                {
                    "dataset": dataset,
                    "algorithm": algorithm,
                    "fields": [first, second],
                    "rows": rows,
                    "columns": columns,
                    "mean": [[_drawn_one(float(np.mean(cell))) if cell else None for cell in line] for line in grid],
                    "counts": [[len(cell) for cell in line] for line in grid],
                }
            )
    return found


def _importance(
    dataset: str,
    algorithm: str,
    members: Sequence[Configuration],
    finished: Mapping[str, float],
    memo: Memo,
    forests: bool,
) -> dict[str, Any]:
    """The share that each swept field explains of the variance of the finished configurations' mean scores, by Optuna's
    fANOVA, or why it is not told.

    A forest needs a value of each field in each configuration: those that are left out of some (`raymix.when`) have no
    share, as in Optuna's own importances, and what they do is in the shares of the fields that they depend on.
    """
    told: dict[str, Any] = {"dataset": dataset, "algorithm": algorithm, "shares": None}
    several = evaluations.swept_fields(members)
    swept = [name for name in several if not any(name in one.left_out for one in members)]
    told["conditional"] = [name for name in several if name not in swept]
    means = {one.config_id: finished.get(one.config_id, math.nan) for one in members}
    whole = [one for one in members if math.isfinite(means[one.config_id]) and all(n in one.config for n in swept)]
    told["configurations"] = len(whole)
    if len(swept) < 2:
        everywhere = " in all configurations" if told["conditional"] else ""
        return told | {"why": f"{len(swept) or 'no'} hyperparameter was swept{everywhere}; shares need two"}
    if len(whole) < FEWEST_FOR_IMPORTANCE:
        return told | {
            "why": f"{len(whole)} configurations are finished; a random forest needs {FEWEST_FOR_IMPORTANCE}"
        }
    if len({means[one.config_id] for one in whole}) == 1:
        return told | {"why": "all configurations score the same"}
    basis = (swept, {one.config_id: means[one.config_id] for one in whole})
    known = memo.importance.get((dataset, algorithm))
    if known is not None and (known[0] == basis or not forests):
        return known[1]
    if not forests:
        return told | {"why": "it is being computed"}
    try:
        import sklearn  # noqa: F401
    except ImportError:
        return told | {"why": "Optuna's fANOVA needs scikit-learn; pip install 'raymix[report]'"}
    import optuna

    space = {name: _distribution([shown(one.config[name]) for one in whole]) for name in swept}
    trials = [
        optuna.trial.create_trial(
            params={name: shown(one.config[name]) for name in swept},
            distributions=space,
            value=means[one.config_id],
        )
        for one in whole
    ]
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study()
        study.add_trials(trials)
        shares = optuna.importance.FanovaImportanceEvaluator(n_trees=_TREES, seed=0).evaluate(study)
    finally:
        optuna.logging.set_verbosity(before)
    told |= {"shares": {name: _drawn_one(float(share)) for name, share in shares.items()}}
    memo.importance[dataset, algorithm] = basis, told
    return told


def _distribution(values: Sequence[Any]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if not all(map(_is_number, values)):
        return CategoricalDistribution(sorted(set(values), key=natural))
    low, high = float(min(values)), float(max(values))
    return FloatDistribution(low, high, log=low > 0)


# Over many configurations


def _profiles(
    ranked: Sequence[dict[str, Any]],
    runs: Runs,
    scores: Mapping[str, Mapping[int, float]],
    groups: Mapping[tuple[str, str], Sequence[Configuration]],
    higher: bool,
) -> list[dict[str, Any]]:
    """Share of seeds that score above each threshold: on each data set of the best configuration of each algorithm (of
    one algorithm: of its best configurations), and over all data sets of the methods that were run on all of them."""
    found = []
    for dataset in sorted({dataset for dataset, _ in groups}, key=natural):
        best = _trained_as_long([row for row in ranked if row["dataset"] == dataset])
        algorithms = list(dict.fromkeys(row["algorithm"] for row in best))
        if len(algorithms) > 1:
            best = [next(row for row in best if row["algorithm"] == algorithm) for algorithm in algorithms]
        if len(best) > 1:
            lines = {row["label"]: [list(scores[row["id"]].values())] for row in best[:_PROFILED]}
            found.append({"dataset": dataset, "over": None} | _profile(lines, higher))
    tasks = {one.dataset for one in runs.configurations}
    if len(tasks) > 1 and runs.metric == "normalized_score":
        methods: dict[tuple[str, str], list[Configuration]] = defaultdict(list)
        for one in runs.configurations:
            methods[one.method].append(one)
        swept = evaluations.swept_fields(runs.configurations)
        whole = {
            label(of[0], swept, len({one.algorithm for one in runs.configurations}) > 1): [
                list(scores[one.config_id].values()) for one in of
            ]
            for of in methods.values()
            if len(of) == len(tasks) and all(_any_finite(scores[one.config_id]) for one in of)
        }
        first = sorted(whole, key=lambda name: -np.nanmean(np.concatenate(whole[name])))[:_PROFILED]
        if len(first) > 1:
            lines = {name: whole[name] for name in first}
            found.append({"dataset": None, "over": len(tasks)} | _profile(lines, higher))
    return found


def _profile(lines: Mapping[str, Sequence[Sequence[float]]], higher: bool) -> dict[str, Any]:
    finite = [score for tasks in lines.values() for task in tasks for score in task if math.isfinite(score)]
    thresholds = np.linspace(min(finite), max(finite), _THRESHOLDS)
    sign = 1.0 if higher else -1.0
    shares = {
        name: performance_profile([[sign * score for score in task] for task in tasks], sign * thresholds)
        for name, tasks in lines.items()
    }
    return {"x": _drawn(thresholds), "lines": [{"label": n, "y": _drawn(share)} for n, share in shares.items()]}


def _aggregate(runs: Runs, swept: Sequence[str]) -> list[dict[str, Any]]:
    """The table of `raymix.report.comparison.aggregate_table`, the best first."""
    records = comparison.aggregate_table(runs).to_dict("records")
    records.sort(key=lambda record: record["iqm"], reverse=True)
    numbers = ("iqm", "low", "high", "tasks", "runs")
    return [
        {"algorithm": record["algorithm"], "fields": [_plain(record[name]) for name in swept]}
        | {name: _plain(record[name]) for name in numbers}
        for record in records
    ]


def _online(runs: Runs) -> list[dict[str, Any]]:
    frame = comparison.online_table(runs)
    found = []
    for record in frame.to_dict("records"):
        own = {int(name[2:]): _plain(value) for name, value in record.items() if str(name).startswith("n=")}
        own = {n: value for n, value in own.items() if value is not None}
        facts = {name: record[name] for name in ("dataset", "algorithm", "configurations")}
        found.append(facts | {"n": list(own), "score": list(own.values())})
    return found


def _cost(rows: Sequence[Mapping[str, Any]], details: Mapping[str, Any], higher: bool) -> list[dict[str, Any]]:
    """The best configuration so far against agent-hours, in the order in which the finished ones ended."""
    found = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        over = [r for r in rows if r["dataset"] == dataset and r["status"] in ("done", "stopped early", "diverged")]
        over.sort(key=lambda row: (row["reported"], row["id"]))
        line: dict[str, list[Any]] = {name: [] for name in ("hours", "best", "low", "high", "label")}
        spent, best = 0.0, None
        for row in over:
            spent += row["hours"]
            if (
                row["status"] == "done"
                and row["mean"] is not None
                and (best is None or _rank(higher)(row) < _rank(higher)(best))
            ):
                best = row
            if best is not None:
                line["hours"].append(_drawn_one(spent))
                for name, source in (("best", "mean"), ("low", "low"), ("high", "high"), ("label", "label")):
                    value = best[source]
                    line[name].append(_drawn_one(value) if isinstance(value, float) else value)
        if len(line["hours"]) > 1:
            found.append({"dataset": dataset} | line)
    return found


def _any_finite(scores: Mapping[int, float]) -> bool:
    return any(map(math.isfinite, scores.values()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """None for what is no number."""
    return None if value is None or (isinstance(value, float) and not math.isfinite(value)) else value


def _drawn_one(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded  # two characters less, of hundreds of thousands


def _drawn(values: Sequence[float] | np.ndarray) -> list[float | None]:
    return [_drawn_one(value) for value in np.asarray(values, np.float64).tolist()]

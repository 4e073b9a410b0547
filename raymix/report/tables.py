"""Tables of scores, from the ledger alone."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from raymix.report import HELD_OUT, METRIC, SELECT, evaluations, metric_in_words
from raymix.report.evaluations import Configuration, agent_seconds, configurations
from raymix.report.front import on_fronts
from raymix.report.statistics import FEWEST_SEEDS, summarize
from raymix.types import UsageError

_BEFORE = ("dataset", "algorithm")
_AFTER = ("scores", "mean", "std", "iqm", "low", "high", "seeds", "diverged", "phase", "step", "finished", "stopped")
_COSTS = ("agent_seconds", "front")
"""Where what a configuration costs was an objective."""
_SEEDS_FIT = 10
"""Seeds that a text table lists one by one."""
_LAST = ("metric", "select", "config_id")


@dataclass(frozen=True)
class _Seed:
    """Where one seed of a configuration stands."""

    score: float | None
    """NaN for a diverged seed, None for one that was not evaluated yet."""
    phase: str
    step: int


Phases = Sequence[Sequence[str]]
"""An algorithm's phases in order, each as its name and the hyperparameter that holds its number of steps."""


def score_table(
    table: pa.Table,
    select: str = "last",
    metric: str = "return",
    phases: Mapping[str, Phases] | None = None,
    stopped: Collection[str] = (),
    costs: bool = False,
    seeds: Collection[int] = (),
    left_out: Mapping[str, Collection[str]] | None = None,
) -> pd.DataFrame:
    """One row per data set and configuration of a table from `raymix.ledger.read`.

    A seed's score is the mean over its evaluation episodes in the algorithm's last phase, at the step or steps that
    `select` picks (a key of `raymix.report.SELECT`). `metric` is a key of `raymix.report.METRIC`, or begins with
    `raymix.report.HELD_OUT`; then the score is that metric. `phases` are those of each algorithm by name; without them
    the last phase that the algorithm has in the ledger is taken for its last. `stopped` are the ids of configurations
    that were stopped early (`raymix.search.halving`). `seeds` are those that a finished configuration has, where they
    do not all begin together. `left_out` are the hyperparameters that have no value in a configuration, by its id
    (`raymix.report.evaluations.left_out_by`).

    Columns: dataset, algorithm, the swept fields (those that differ between the configurations of one algorithm);
    scores (one per seed in the order of seeds; NaN: diverged, None: not evaluated yet); mean, std, iqm, low, high (of
    the seeds that did not diverge; low and high are the 95 % interval, missing for fewer than three, and equal where
    all scores are equal, which does not make the mean certain); seeds (how many),
    diverged (how many of them); phase and step (where its slowest seed is), finished, stopped (early, so it never will
    be finished); with `costs` agent_seconds (device seconds per seed, of all phases) and front (whether no other
    configuration on the data set is better in mean or cost without being worse in the other; of those that are
    finished and had no diverged seed); metric, select, config_id.
    Sorted by data set, algorithm and swept fields. Raises `UsageError` for an unknown `select` or `metric`, and for
    normalized scores of a data set without references.
    """
    if select not in SELECT:
        raise UsageError(f"select is one of {', '.join(SELECT)}, not {select!r}")
    return table_of(configurations(table, metric, left_out), select, metric, phases, stopped, costs, seeds)


def table_of(
    found: Sequence[Configuration],
    select: str,
    metric: str,
    phases: Mapping[str, Phases] | None = None,
    stopped: Collection[str] = (),
    costs: bool = False,
    seeds: Collection[int] = (),
) -> pd.DataFrame:
    """`score_table` of configurations whose scores are in `metric`."""
    swept = evaluations.swept_fields(found)
    phases = phases_of(found, phases)
    records = []
    for one in found:
        record: dict[str, Any] = {"dataset": one.dataset, "algorithm": one.algorithm}
        record |= {name: shown(one.applied[name]) for name in swept if name in one.applied}
        record |= standing(one, phases[one.algorithm], select, metric)
        if record["diverged"] < record["seeds"]:
            record["finished"] &= one.seeds.keys() >= set(seeds)
        record["stopped"] = one.config_id in stopped and not record["finished"]
        record |= {"agent_seconds": agent_seconds(one)} if costs else {}
        records.append(record | {"metric": metric, "select": select, "config_id": one.config_id})
    records.sort(key=lambda record: [natural(record.get(name)) for name in (*_BEFORE, *swept, "config_id")])
    if costs:
        facts = [(r["dataset"], front_score(r), r["agent_seconds"]) for r in records]
        for record, on in zip(records, on_fronts(facts, metric.startswith(HELD_OUT))):
            record["front"] = on
    columns = [*_BEFORE, *swept, *_AFTER, *(_COSTS if costs else ()), *_LAST]
    # Object columns keep whole numbers whole beside a missing one (an algorithm without that field).
    return pd.DataFrame(
        {
            name: pd.Series([r.get(name) for r in records], dtype=object if name in (*swept, "scores") else None)
            for name in columns
        }
    )


def front_score(standing: Mapping[str, Any]) -> float:
    """The score by which a configuration is a candidate for the Pareto front; NaN for one that is none."""
    return standing["mean"] if standing["finished"] and not standing["diverged"] else math.nan


def swept_fields(frame: pd.DataFrame) -> list[str]:
    """The names of the swept fields among the columns of a score table."""
    return [str(name) for name in frame.columns if name not in (*_BEFORE, *_AFTER, *_COSTS, *_LAST)]


def text(value: Any) -> str:
    """A hyperparameter as a person writes it."""
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def natural(value: Any) -> tuple[Any, ...]:
    """A sort key over mixed values: first None, then numbers by size, then words with their numbers by size."""
    if value is None:
        return (0,)
    if isinstance(value, int | float):
        return (1, value)
    return (2, [(part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", str(value))])


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A score table as JSON-ready dictionaries: None for what is missing, "diverged" in place of such a score."""
    result = []
    for record in frame.to_dict("records"):
        plain = {str(n): None if isinstance(v, float) and math.isnan(v) else v for n, v in record.items()}
        plain["scores"] = ["diverged" if s is not None and math.isnan(s) else s for s in record["scores"]]
        result.append(plain)
    return result


def to_csv(frame: pd.DataFrame) -> str:
    """A score table as CSV; the scores of the seeds share a cell, separated by blanks."""
    rows_of_text = [
        record | {"scores": " ".join("-" if score is None else str(score) for score in record["scores"])}
        for record in records(frame)
    ]
    return str(pd.DataFrame(rows_of_text, columns=frame.columns, dtype=object).to_csv(index=False))


def render(frame: pd.DataFrame, planned: Collection[str] = ()) -> str:
    """A score table as aligned text, one block per data set, without a newline at the end.

    `planned` are the ids of all configurations of the run; a last line counts those that the table lacks.
    """
    if frame.empty:
        return "no results yet"
    blocks = [_block(dataset, block) for dataset, block in frame.groupby("dataset", sort=False)]
    if missing := len(set(planned) - set(frame["config_id"])):
        blocks.append(f"{missing} of {len(planned)} configurations {'has' if missing == 1 else 'have'} no results yet")
    return "\n\n".join(blocks)


def _block(dataset: Any, frame: pd.DataFrame) -> str:
    fields = [name for name in swept_fields(frame) if any(value is not None for value in frame[name])]
    several = frame["algorithm"].nunique() > 1 or not fields
    metric = frame["metric"].iloc[0]
    what = metric_in_words(metric)
    title = f"{what} on {dataset}, {SELECT[frame['select'].iloc[0]]}"
    title = title if several else f"{frame['algorithm'].iloc[0]}: {title}"
    widest = max(len(_score(score, metric)) for scores in frame["scores"] for score in scores)
    columns: dict[str, list[str]] = {"algorithm": [str(name) for name in frame["algorithm"]]} if several else {}
    columns |= {field: [text(value) for value in frame[field]] for field in fields}
    per_seed = f"{'return' if what.endswith('return') else 'score'} per seed"
    columns[per_seed] = [_scores(scores, widest, metric) for scores in frame["scores"]]
    columns["mean"] = [_score(mean, metric) if math.isfinite(mean) else "-" for mean in frame["mean"]]
    columns["95 % interval"] = [_interval(record) for _, record in frame.iterrows()]
    columns["step"] = [f"{step:,}" for step in frame["step"]]
    if "front" in frame:
        columns["agent-seconds"] = [f"{cost:,.1f}" for cost in frame["agent_seconds"]]
        columns["Pareto front"] = ["yes" if on else "" for on in frame["front"]]
    columns["note"] = [_note(record) for _, record in frame.iterrows()]
    if not any(columns["note"]):
        del columns["note"]
    words = {field for field in fields if any(isinstance(value, str) for value in frame[field])}
    left = {"algorithm", per_seed, "Pareto front", "note"} | words
    widths = {name: max(len(name), *map(len, cells)) for name, cells in columns.items()}
    lines = [{name: name for name in columns}]
    lines += [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    shown = [
        " | ".join(c.ljust(widths[n]) if n in left else c.rjust(widths[n]) for n, c in line.items()).rstrip()
        for line in lines
    ]
    return "\n".join([title, "", shown[0], "-+-".join("-" * width for width in widths.values()), *shown[1:]])


def _scores(scores: Sequence[float | None], widest: int, metric: str) -> str:
    """The scores of all seeds, or only their span where there are too many to read."""
    finite = [score for score in scores if score is not None and math.isfinite(score)]
    if len(scores) > _SEEDS_FIT and finite:
        return f"{len(scores)} seeds, {_score(min(finite), metric)} to {_score(max(finite), metric)}"
    return "  ".join(_score(score, metric).rjust(widest) for score in scores)


def _score(score: float | None, metric: str) -> str:
    if score is None or math.isnan(score):
        return "..." if score is None else "diverged"
    return f"{score:.1f}" if metric in METRIC else f"{score:.4g}"


def _interval(record: pd.Series) -> str:
    if record["low"] == record["high"]:
        # "7.0 to 7.0" would read as certainty; equal seeds only say nothing about the spread.
        return "seeds equal"
    if math.isfinite(record["low"]):
        return f"{_score(record['low'], record['metric'])} to {_score(record['high'], record['metric'])}"
    return f"needs {FEWEST_SEEDS} seeds"


def _note(record: pd.Series) -> str:
    notes = [f"{record['diverged']} of {record['seeds']} seeds diverged"] if record["diverged"] else []
    if not record["finished"]:
        notes.append("stopped early" if record["stopped"] else f"unfinished, in phase {record['phase']}")
    return "; ".join(notes)


def as_long(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether scores of two configurations (their `standing`) may be compared: both are finished, or at one step."""
    return (one["finished"] and other["finished"]) or one["step"] == other["step"]


def standing(one: Configuration, phases: Phases, select: str, metric: str) -> dict[str, Any]:
    """The columns of `score_table` of one configuration that do not come from its name."""
    last_phase, steps = phases[-1]
    seeds = [
        _Seed(evaluations.score(reports, last_phase, select, metric), reports[-1].phase, reports[-1].step)
        for _, reports in sorted(one.seeds.items())
    ]
    scores = [seed.score for seed in seeds]
    summary = summarize([score for score in scores if score is not None])
    low, high = summary.interval or (math.nan, math.nan)
    # The ledger's own besides: a run resumed after its algorithm's phases were renamed has rows of both.
    reached = (each.phase for reports in one.seeds.values() for each in reports)
    order = list(dict.fromkeys([*(name for name, _ in phases), *reached]))
    # A diverged seed may have stopped where it was: it holds nobody up.
    running = [seed for seed in seeds if seed.score is None or math.isfinite(seed.score)]
    slowest = min(running or seeds, key=lambda seed: (order.index(seed.phase), seed.step))
    reached_end = slowest.phase == last_phase and slowest.step >= int(one.config.get(steps, 0))
    return {
        "scores": scores,
        "mean": summary.mean,
        "std": summary.std,
        "iqm": summary.iqm,
        "low": low,
        "high": high,
        "seeds": len(seeds),
        "diverged": summary.diverged,
        "phase": slowest.phase,
        "step": slowest.step,
        "finished": reached_end or not running,
    }


def phases_of(found: Iterable[Configuration], known: Mapping[str, Phases] | None = None) -> dict[str, Phases]:
    """The phases of each algorithm: the known ones, or as far as the configuration shows them that got furthest."""
    furthest: dict[str, Phases] = {}
    for one in found:
        order = [(n, "steps") for n in dict.fromkeys(each.phase for seed in one.seeds.values() for each in seed)]
        if len(order) > len(furthest.get(one.algorithm, ())):
            furthest[one.algorithm] = order
    return {**furthest, **(known or {})}


def shown(value: Any) -> Any:
    """A hyperparameter as a cell: lists become 256,256."""
    return ",".join(map(str, value)) if isinstance(value, list) else value

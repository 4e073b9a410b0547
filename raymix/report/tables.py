"""Tables of scores, from the ledger alone."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from raymix.ledger import Row, rows
from raymix.report import HELD_OUT, METRIC, SELECT, check_metric, metric_in_words
from raymix.report.statistics import FEWEST_SEEDS, summarize
from raymix.types import UsageError

_BEFORE = ("dataset", "algorithm")
_AFTER = ("scores", "mean", "std", "iqm", "low", "high", "seeds", "diverged", "phase", "step", "finished", "stopped")
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
) -> pd.DataFrame:
    """One row per data set and configuration of a table from `raymix.ledger.read`.

    A seed's score is the mean over its evaluation episodes in the algorithm's last phase, at the step or steps that
    `select` picks (a key of `raymix.report.SELECT`). `metric` is a key of `raymix.report.METRIC`, or begins with
    `raymix.report.HELD_OUT`; then the score is that metric. `phases` are those of each algorithm by name; without them
    the last phase that the algorithm has in the ledger is taken for its last. `stopped` are the ids of configurations
    that were stopped early (`raymix.search.halving`).

    Columns: dataset, algorithm, the swept fields (those that differ between the configurations of one algorithm);
    scores (one per seed in the order of seeds; NaN: diverged, None: not evaluated yet); mean, std, iqm, low, high (of
    the seeds that did not diverge; low and high are the 95 % interval, missing for fewer than three, and equal where
    all scores are equal, which does not make the mean certain); seeds (how many),
    diverged (how many of them); phase and step (where its slowest seed is), finished, stopped (early, so it never will
    be finished); metric, select, config_id.
    Sorted by data set, algorithm and swept fields. Raises `UsageError` for an unknown `select` or `metric`, and for
    normalized scores of a data set without references.
    """
    if select not in SELECT:
        raise UsageError(f"select is one of {', '.join(SELECT)}, not {select!r}")
    check_metric(metric)
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows(table):
        groups[row.config_id].append(row)
    swept = _swept_fields(group[0] for group in groups.values())
    labels = _dataset_labels(group[0] for group in groups.values())
    phases = {**_phases_reached(groups.values()), **(phases or {})}
    records = []
    for config_id, group in groups.items():
        first = group[0]
        record: dict[str, Any] = {"dataset": labels[first.dataset, first.dataset_hash], "algorithm": first.algorithm}
        record |= {name: _shown(first.config[name]) for name in swept if name in first.config}
        record |= _statistics(group, phases[first.algorithm], select, metric)
        record["stopped"] = config_id in stopped and not record["finished"]
        records.append(record | {"metric": metric, "select": select, "config_id": config_id})
    records.sort(key=lambda record: [natural(record.get(name)) for name in (*_BEFORE, *swept, "config_id")])
    columns = [*_BEFORE, *swept, *_AFTER, *_LAST]
    # Object columns keep whole numbers whole beside a missing one (an algorithm without that field).
    return pd.DataFrame(
        {
            name: pd.Series([r.get(name) for r in records], dtype=object if name in (*swept, "scores") else None)
            for name in columns
        }
    )


def swept_fields(frame: pd.DataFrame) -> list[str]:
    """The names of the swept fields among the columns of a score table."""
    return [str(name) for name in frame.columns if name not in (*_BEFORE, *_AFTER, *_LAST)]


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
    columns["note"] = [_note(record) for _, record in frame.iterrows()]
    if not any(columns["note"]):
        del columns["note"]
    words = {field for field in fields if any(isinstance(value, str) for value in frame[field])}
    left = {"algorithm", per_seed, "note"} | words
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


def _statistics(group: Sequence[Row], phases: Phases, select: str, metric: str) -> dict[str, Any]:
    """The columns of one configuration that do not come from its name."""
    last_phase, steps = phases[-1]
    by_seed: dict[int, list[Row]] = defaultdict(list)
    for row in group:
        by_seed[row.seed].append(row)
    seeds = [_seed(by_seed[seed], last_phase, select, metric) for seed in sorted(by_seed)]
    scores = [seed.score for seed in seeds]
    summary = summarize([score for score in scores if score is not None])
    low, high = summary.interval or (math.nan, math.nan)
    # The ledger's own besides: a run resumed after its algorithm's phases were renamed has rows of both.
    order = list(dict.fromkeys([*(name for name, _ in phases), *(row.phase for row in group)]))
    # A diverged seed may have stopped where it was: it holds nobody up.
    running = [seed for seed in seeds if seed.score is None or math.isfinite(seed.score)]
    slowest = min(running or seeds, key=lambda seed: (order.index(seed.phase), seed.step))
    reached_end = slowest.phase == last_phase and slowest.step >= int(group[0].config.get(steps, 0))
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


def _seed(group: Sequence[Row], phase: str, select: str, metric: str) -> _Seed:
    found = [mean_score(row, metric) for row in group if row.phase == phase]
    evaluated = [score for score in found if score is not None]
    score: float | None
    if any(row.diverged for row in group):
        score = math.nan
    elif not evaluated:
        score = None
    elif select == "best":
        best = min if metric.startswith(HELD_OUT) else max
        score = best(filter(math.isfinite, evaluated), default=math.nan)
    else:
        last = evaluated[-3:] if select == "mean_last_3" else evaluated[-1:]
        score = math.fsum(last) / len(last) if all(map(math.isfinite, last)) else math.nan
    return _Seed(score, group[-1].phase, group[-1].step)


def mean_score(row: Row, metric: str) -> float | None:
    """A row's score by a metric (as in `score_table`), the mean over its episodes; None where it has none."""
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


def _swept_fields(firsts: Iterable[Row]) -> list[str]:
    """Fields that differ between the configurations of one algorithm, in order of name."""
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    counts: dict[str, int] = defaultdict(int)
    held: dict[tuple[str, str], int] = defaultdict(int)
    for row in firsts:
        counts[row.algorithm] += 1
        for name, value in row.config.items():
            seen[row.algorithm, name].add(json.dumps(value))
            held[row.algorithm, name] += 1
    return sorted({n for (a, n), values in seen.items() if len(values) > 1 or held[a, n] < counts[a]})


def _dataset_labels(firsts: Iterable[Row]) -> dict[tuple[str, str], str]:
    """Data sets by name, with the start of their hash where one name has several contents."""
    hashes: dict[str, set[str]] = defaultdict(set)
    for row in firsts:
        hashes[row.dataset].add(row.dataset_hash)
    return {(n, h): n if len(found) == 1 else f"{n}@{h[:8]}" for n, found in hashes.items() for h in found}


def _phases_reached(groups: Iterable[Sequence[Row]]) -> dict[str, Phases]:
    """The phases of each algorithm as far as the ledger shows them, from the configuration that got furthest."""
    furthest: dict[str, Phases] = {}
    for group in groups:
        order = [(name, "steps") for name in dict.fromkeys(row.phase for row in group)]
        if len(order) > len(furthest.get(group[0].algorithm, ())):
            furthest[group[0].algorithm] = order
    return furthest


def _shown(value: Any) -> Any:
    """A hyperparameter as a cell: lists become 256,256."""
    return ",".join(map(str, value)) if isinstance(value, list) else value

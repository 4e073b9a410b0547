"""Our scores next to every published number for the same task and method."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from raymix.report import SELECT
from raymix.report.evaluations import Configuration, swept_fields
from raymix.report.published import (
    METHODS,
    PAPERS,
    SCORES,
    STANDARD_DEVIATION,
    Counterpart,
    Published,
    counterpart,
    published,
)
from raymix.report.runs import Runs
from raymix.report.statistics import FEWEST_SEEDS, difference_from_summary
from raymix.report.tables import natural, phases_of, shown, standing, text

COMPARED, NOT_RUN, NOT_HERE = "compared", "not run", "not in raymix"
"""The values of the column `status`."""


def paper_table(runs: Runs, paper: str = "all") -> pd.DataFrame:
    """One row per published number and configuration of ours for its task and method; one where there is none.

    `runs` are read in the metric "return" (`read_runs(folders, select, metric="return")`); `paper` is a key of
    `raymix.report.published.PAPERS`, or "all".

    Columns: paper, place, dataset, version, method, preset, unit, published, spread, spread_is, published_seeds,
    published_steps (`raymix.report.published`); status ("compared", "not run", "not in raymix"); our_dataset,
    algorithm, settings (the swept ones, as `name=value`); ours (mean in `unit` over the seeds that did not diverge,
    at the checkpoint `runs.select`), low, high (95 % interval), seeds, diverged, steps (of its slowest seed, in
    its phase); difference (ours - published), difference_low, difference_high (Welch's 95 % interval, where the
    published spread is a standard deviation over a known number of seeds); caveat (all that stands between the two
    numbers, in words); config_id. What is unknown is missing. Raises `UsageError` for an unknown paper.
    """
    rows = published(paper)
    phases = phases_of(runs.configurations, runs.phases)
    swept = swept_fields(runs.configurations)
    ours: dict[tuple[str, str], list[tuple[Configuration, Counterpart]]] = defaultdict(list)
    for one in runs.configurations:
        if found := counterpart(_name(one)):
            ours[one.algorithm, found.dataset].append((one, found))
    for side in ours.values():
        side.sort(key=lambda pair: [natural(pair[0].dataset), *(natural(shown(pair[0].applied.get(n))) for n in swept)])
    records = []
    for row in rows:
        record = _published(row)
        if row.method not in METHODS or row.unit not in SCORES:
            records.append(record | {"status": NOT_HERE})
            continue
        algorithm, fields = METHODS[row.method]
        matching = [
            (one, found)
            for one, found in ours[algorithm, row.dataset]
            if all(name in one.config and one.config[name] == value for name, value in fields.items())
        ]
        if not matching:
            records.append(record | {"status": NOT_RUN})
        for one, found in matching:
            settings = ", ".join(f"{name}={text(shown(one.applied[name]))}" for name in swept if name in one.applied)
            known = {"our_dataset": one.dataset, "algorithm": algorithm, "settings": settings}
            compared = _compared(row, one, found, phases[algorithm], runs)
            records.append(record | {"status": COMPARED} | known | compared | {"config_id": one.config_id})
    return pd.DataFrame(records, columns=list(_COLUMNS)).astype(_COLUMNS)


_COLUMNS: dict[str, str] = {
    **dict.fromkeys(("paper", "place", "dataset", "version", "method", "preset", "unit"), "object"),
    **dict.fromkeys(("published", "spread"), "float64"),
    "spread_is": "object",
    **dict.fromkeys(("published_seeds", "published_steps"), "Int64"),
    "status": "object",
    **dict.fromkeys(("our_dataset", "algorithm", "settings"), "object"),
    **dict.fromkeys(("ours", "low", "high"), "float64"),
    **dict.fromkeys(("seeds", "diverged", "steps"), "Int64"),
    **dict.fromkeys(("difference", "difference_low", "difference_high"), "float64"),
    **dict.fromkeys(("caveat", "config_id"), "object"),
}


def unmatched(runs: Runs, frame: pd.DataFrame) -> list[str]:
    """Our configurations that stand beside no published number of a table from `paper_table`, in words."""
    there = set(frame["config_id"].dropna())
    alone = {f"{one.algorithm} on {_name(one)}" for one in runs.configurations if one.config_id not in there}
    if not alone:
        return []
    return [f"beside no published number (another task, method or variant of it): {'; '.join(sorted(alone))}"]


def render(frame: pd.DataFrame, select: str) -> str:
    """A table from `paper_table` as text, one block per published table; what was not run is listed shortly."""
    blocks = [
        f"published numbers beside ours, {SELECT[select]}; sd is the standard deviation over seeds, and what ± is the"
        " paper does not say; of our settings only the steps and what makes a variant are compared with the paper's"
    ]
    waiting = []
    for (paper, place), own in frame.groupby(["paper", "place"], sort=False):
        compared = own[own["status"] == COMPARED]
        if len(compared):
            lines = _aligned([_cells(record) for record in compared.to_dict("records")])
            blocks.append("\n".join([f"{PAPERS[paper]}, {place}", "", *lines, *_not_run(own)]))
        elif tasks := own.loc[own["status"] == NOT_RUN, "dataset"].nunique():
            waiting.append(f"{PAPERS[paper]}, {place} ({tasks} task{'s' if tasks > 1 else ''})")
    rest = [f"nothing run of: {'; '.join(waiting)}"] if waiting else []
    absent = frame[frame["status"] == NOT_HERE]
    for title, names in (
        ("not in raymix", absent.loc[absent["unit"].isin(SCORES), "method"]),
        ("no scores of runs", absent.loc[~absent["unit"].isin(SCORES), "dataset"]),
    ):
        rest += [f"{title}: {_listed(names)}"] if len(names) else []
    return "\n\n".join([*blocks, *(["\n".join(rest)] if rest else [])])


def _name(one: Configuration) -> str:
    """Its data set, without the hash that tells several contents apart."""
    return one.dataset.removesuffix(f"@{one.dataset_hash[:8]}")


def _published(row: Published) -> dict[str, Any]:
    record = dataclasses.asdict(row)
    record["published"] = record.pop("mean")
    record |= {"published_seeds": record.pop("seeds"), "published_steps": record.pop("steps")}
    del record["note"]  # it is part of the caveat
    return {name: None if value == "" else value for name, value in record.items()}


def _compared(
    row: Published, one: Configuration, found: Counterpart, phases: Sequence[Sequence[str]], runs: Runs
) -> dict[str, Any]:
    """Our columns of a row, and its caveat."""
    caveats = _version(row, found)
    scored = one
    if row.unit == "normalized score":
        if one.references is None:
            caveats.append("our data set has no reference returns to normalize by")
        scored = _normalized(one)
    state = standing(scored, phases, runs.select, "return")
    scores = [score for score in state["scores"] if score is not None]
    std = row.spread if row.spread_is == STANDARD_DEVIATION else None
    gap = difference_from_summary(scores if found.comparable else [], row.mean, std, row.seeds)
    low, high = gap.interval or (math.nan, math.nan)
    caveats += found.caveats
    caveats += _training(row, one, state, phases, runs)
    caveats += [f"published: {row.note}"] if row.note else []
    return {
        "ours": state["mean"],
        **{name: state[name] for name in ("low", "high", "seeds", "diverged")},
        "steps": state["step"],
        "difference": gap.mean,
        "difference_low": low,
        "difference_high": high,
        "caveat": "; ".join(caveats),
    }


def _normalized(one: Configuration) -> Configuration:
    """With normalized scores in place of returns; with no scores where its data set has no references."""

    def score(value: float | None) -> float | None:
        if value is None or one.references is None:
            return None
        low, high = one.references
        return 100.0 * (value - low) / (high - low)

    seeds = {seed: [each._replace(score=score(each.score)) for each in own] for seed, own in one.seeds.items()}
    return dataclasses.replace(one, seeds=seeds)


def _version(row: Published, found: Counterpart) -> list[str]:
    """How the versions of the data sets differ; that ours is no data set of D4RL is told elsewhere."""
    if found.version and row.version and found.version != row.version:
        return [f"published on {row.version} data, ours are {found.version}"]
    if row.version and not found.version:
        return [f"published on {row.version} data"]
    return []


def _training(
    row: Published, one: Configuration, state: dict[str, Any], phases: Sequence[Sequence[str]], runs: Runs
) -> list[str]:
    """What is to be said of our run: how far it is, how long it was to be, and what it lacks."""
    told = []
    if not state["finished"]:
        word = "stopped early" if one.config_id in runs.stopped else "unfinished"
        told.append(f"ours is {word}, at step {state['step']:,} of phase {state['phase']}")
    planned = one.config.get(phases[-1][1])
    if row.steps is not None and planned is not None and planned != row.steps:
        told.append(f"ours trains {planned:,} steps, published {row.steps:,}")
    if state["diverged"]:
        told.append(f"{state['diverged']} of our {state['seeds']} seeds diverged")
    if lacking := [seed for seed in runs.seeds.get(one.config_id, ()) if seed not in one.seeds]:
        told.append(f"our seeds {', '.join(map(str, lacking))} are missing")
    return told


def _cells(record: dict[str, Any]) -> dict[str, str]:
    theirs = f"{record['published']:g}"
    if not math.isnan(record["spread"]):
        sign = "sd" if record["spread_is"] == STANDARD_DEVIATION else "±"
        theirs += f" {sign} {record['spread']:g}"
    theirs += _seeds(record["published_seeds"])
    mean = "no score" if math.isnan(record["ours"]) else _number(record["ours"])
    seeds = _seeds(record["seeds"], record["diverged"])
    return {
        "task": record["dataset"] if pd.isna(record["version"]) else f"{record['dataset']}-{record['version']}",
        "method": record["method"] + (f" ({record['settings']})" if record["settings"] else ""),
        "published": theirs,
        "ours": f"{mean}{_interval(record)}{seeds}, {record['steps']:,} steps",
        "difference": _difference(record),
        "caveat": record["caveat"],
    }


def _seeds(count: Any, diverged: int = 0) -> str:
    if pd.isna(count):
        return ""
    of = f"{count - diverged} of " if diverged else ""
    return f", {of}{count} seed{'s' if count != 1 else ''}"


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 20 else f"{value:.1f}"


def _interval(record: dict[str, Any]) -> str:
    """Ours in brackets; equal seeds say nothing about the spread, and few seeds have none."""
    low, high = record["low"], record["high"]
    if math.isnan(record["ours"]):
        return ""
    if math.isnan(low):
        return f" (interval needs {FEWEST_SEEDS} seeds)"
    return " (seeds equal)" if low == high else f" ({_number(low)} to {_number(high)})"


def _difference(record: dict[str, Any]) -> str:
    if math.isnan(record["difference"]):
        return "-"
    if math.isnan(record["difference_low"]):
        return f"{record['difference']:+.2f}"
    return f"{record['difference']:+.2f} ({record['difference_low']:+.2f} to {record['difference_high']:+.2f})"


def _aligned(rows: Sequence[dict[str, str]]) -> list[str]:
    lines = [{name: name for name in rows[0]}, *rows]
    widths = {name: max(len(line[name]) for line in lines) for name in rows[0]}
    shown = [" | ".join(cell.ljust(widths[name]) for name, cell in line.items()).rstrip() for line in lines]
    return [
        shown[0],
        "-+-".join("-" * (width if name != "caveat" else 6) for name, width in widths.items()),
        *shown[1:],
    ]


def _not_run(own: pd.DataFrame) -> list[str]:
    """What of a published table has no counterpart in the runs, after a blank line."""
    started = set(own.loc[own["status"] == COMPARED, "dataset"])
    waiting = own[own["status"] == NOT_RUN]
    lines = [
        f"not run on {dataset}: {_listed(rows['method'])}"
        for dataset, rows in waiting[waiting["dataset"].isin(started)].groupby("dataset", sort=False)
    ]
    if len(rest := waiting.loc[~waiting["dataset"].isin(started), "dataset"]):
        lines.append(f"not run: {_listed(rest)}")
    return ["", *lines] if lines else []


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))

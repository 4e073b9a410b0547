"""Relative return against how many policies made the data (LBRAC-v's figure 4)."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd

from raymix.paper_figures.material import Lacking, Material
from raymix.report.evaluations import Configuration
from raymix.report.figures import score_figure
from raymix.report.statistics import summarize
from raymix.report.tables import table_of
from raymix.types import Dataset

_HETEROGENEOUS = re.compile(r"(.*)heterogeneous-(\d+)(.*)")
POLICIES = "k"


def relative_return_figure(material: Material, path: str) -> None:
    """Write a PNG with a panel per task: relative return against k, of data sets named `.../heterogeneous-k`.

    Relative return is the normalized return over the mean normalized return of the k behaviour policies, as the data
    have it: 1 is as good as they are on average. `material` has returns, not normalized scores.
    """
    score_figure(relative_table(material), path, POLICIES, "relative return (1: the data's policies)")


def relative_table(material: Material) -> pd.DataFrame:
    """The figure's rows: a score table whose data sets are tasks, with a column for k and with relative returns.

    Raises:
        Lacking: fewer than two k, no references, or policies that earn no more than the lower one.
    """
    found = [one for one in material.runs.configurations if _HETEROGENEOUS.fullmatch(one.dataset)]
    if len({_task(one.dataset)[1] for one in found}) < 2:
        raise Lacking(
            "it needs one task's data sets heterogeneous-1, -2, ...: `raymix data train-sources Hopper-v5 -k 5` makes"
            ' them, and a sweep takes them as datasets=("hopper/heterogeneous-1", "hopper/heterogeneous-2", ...)'
        )
    baselines = {}
    for one in sorted(found, key=lambda one: one.dataset):
        if one.dataset not in baselines:
            baselines[one.dataset] = _baseline(one, material.dataset(one))
    runs = material.runs
    return _relative(table_of(found, runs.select, runs.metric, material.phases, runs.stopped), baselines)


def _task(dataset: str) -> tuple[str, int]:
    """What is before and after the word in a data set's name, and k."""
    match = _HETEROGENEOUS.fullmatch(dataset)
    assert match is not None
    return (match[1] + match[3]).strip("/-") or "heterogeneous", int(match[2])


def _baseline(one: Configuration, dataset: Dataset) -> tuple[float, float]:
    """The return that counts as 0, and that of the behaviour policies, each of which counts the same, above it."""
    if one.references is None:
        raise Lacking(
            f"{one.dataset} has no reference scores, so returns are not relative to anything; collect it with"
            " --reference-scores"
        )
    columns = dataset.columns
    source = columns.source[np.append(0, columns.last_rows[:-1] + 1)]
    returns = columns.episode_returns()
    behaviour = float(np.mean([returns[source == number].mean() for number in np.unique(source)]))
    low = one.references[0]
    if behaviour <= low:
        raise Lacking(
            f"the policies of {one.dataset} earn {behaviour:.4g}, no more than the reference {low:.4g} that counts as"
            " 0, so returns relative to theirs mean nothing; choose better ones"
        )
    return low, behaviour - low


def _relative(frame: pd.DataFrame, baselines: dict[str, tuple[float, float]]) -> pd.DataFrame:
    records = []
    for record in frame.to_dict("records"):
        low, above = baselines[record["dataset"]]
        record["scores"] = [None if score is None else (score - low) / above for score in record["scores"]]
        summary = summarize([score for score in record["scores"] if score is not None])
        ends = summary.interval or (math.nan, math.nan)
        task, k = _task(record["dataset"])
        numbers = {"mean": summary.mean, "std": summary.std, "iqm": summary.iqm, "low": ends[0], "high": ends[1]}
        records.append({**record, **numbers, "dataset": task, POLICIES: k})
    relative = pd.DataFrame(records, columns=[*frame.columns, POLICIES])
    for name in (*frame.columns, POLICIES):  # whole numbers stay whole
        if frame.get(name, relative[name]).dtype == object:
            relative[name] = relative[name].astype(object)
    return relative.sort_values(["dataset", "algorithm", POLICIES], kind="stable", ignore_index=True)

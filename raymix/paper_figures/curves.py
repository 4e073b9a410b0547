"""Learning curves: score, and the critics' loss, over training (DMPO's figure 3, LAPO's figures 4 and 5)."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from raymix import ledger
from raymix.paper_figures.material import Lacking, Material
from raymix.report import metric_in_words
from raymix.report.evaluations import Configuration
from raymix.report.figures import STYLES
from raymix.report.statistics import FEWEST_SEEDS, interval
from raymix.reproduce.figures import new_figure, save, small_print

LOSS = "critic_loss"
_PER_ROW = 3
Curve = Mapping[int, Sequence[float]]
"""By gradient step: the values of the seeds that have one there and did not diverge."""


def learning_curves(material: Material, path: str) -> None:
    """Write a PNG with a column per data set: the score over the last phase's steps, and below it the critics' loss,
    where an algorithm has critics.

    Lines are means over seeds, bands 95 % intervals. Of more configurations than there are colours, the best are drawn.
    """
    ranked = material.ranked(material.runs.configurations)
    names = list(dict.fromkeys(material.words(one) for one in ranked))
    drawn = dict(zip(names, STYLES))
    scores = {one.config_id: _scores(one, material.phases[one.algorithm][-1][0]) for one in ranked}
    if max((len(curve) for curve in scores.values()), default=0) < 2:
        raise Lacking("learning curves need two evaluations of a configuration; train on, or with --evaluate-every")
    losses = _losses(material, [one for one in ranked if material.words(one) in drawn])
    datasets = sorted({one.dataset for one in ranked})
    columns, kinds = min(len(datasets), _PER_ROW), 2 if losses else 1
    rows = math.ceil(len(datasets) / columns) * kinds
    width = max(3.5, 2.4 * columns)
    per_row = max(1, min(columns + 1, int(width / (_LETTER * max(map(len, drawn)) + _HANDLE))))
    legend_rows = math.ceil(len(drawn) / per_row) * math.ceil(_LETTER * max(map(len, drawn)) / (width - _HANDLE))
    figure = new_figure(width, 1.75 * rows + 0.2 + 0.15 * legend_rows)
    axes = figure.subplots(rows, columns, squeeze=False)
    for number, dataset in enumerate(datasets):
        row, column = number // columns * kinds, number % columns
        here = [one for one in ranked if one.dataset == dataset and material.words(one) in drawn]
        _panel(axes[row, column], here, scores, drawn, material, dataset)
        axes[row, column].set_ylabel(textwrap.fill(metric_in_words(material.runs.metric), 26), fontsize=7)
        if losses:
            _panel(axes[row + 1, column], here, losses, drawn, material, "")
            axes[row + 1, column].set_ylabel("critic loss", fontsize=7)
            if _spans_decades(losses[one.config_id] for one in here if one.config_id in losses):
                axes[row + 1, column].set_yscale("log")
        axes[row + kinds - 1, column].set_xlabel("gradient steps", fontsize=7)
    for panel in axes.ravel():
        panel.set_visible(bool(panel.lines))
    handles = {line.get_label(): line for panel in axes.ravel() for line in panel.lines}
    shown = [handles[name] for name in names if name in handles]
    labels = [textwrap.fill(str(line.get_label()), int((width - _HANDLE) / _LETTER)) for line in shown]
    figure.legend(shown, labels, loc="outside lower center", ncols=min(len(shown), per_row), **_SMALL)
    few = any(len(seeds) < FEWEST_SEEDS for curve in scores.values() for seeds in curve.values())
    told = ["line: mean over seeds", f"an interval needs {FEWEST_SEEDS} seeds" if few else "band: 95 % interval"]
    told += [f"the best {len(drawn)} of {len(names)} configurations"] if len(names) > len(drawn) else []
    figure.suptitle("; ".join(told), fontsize=6, color="0.35")
    save(figure, path)


_SMALL: dict[str, Any] = {"frameon": False, "fontsize": 7}
_LETTER, _HANDLE = 0.055, 0.5
"""Inches of a letter of that size, and of a line in the legend with the room around it."""


def _panel(
    axes: Axes,
    here: Sequence[Configuration],
    curves: Mapping[str, Curve],
    drawn: Mapping[str, tuple[str, str]],
    material: Material,
    title: str,
) -> None:
    small_print(axes, title)
    for one in here:
        if not (curve := curves.get(one.config_id)):
            continue
        colour, marker = drawn[material.words(one)]
        steps = sorted(curve)
        means = [float(np.mean(curve[step])) for step in steps]
        line: dict[str, Any] = {"color": colour, "linewidth": 1.2, "label": material.words(one)}
        # A marker says the same as the colour; some of them are enough.
        axes.plot(steps, means, marker=marker, markersize=3, markevery=max(1, len(steps) // 5), **line)
        ends = [interval(curve[step]) or (math.nan, math.nan) for step in steps]
        low, high = np.array(ends).T
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.grid(axis="y", color="0.9", linewidth=0.6)


def _scores(one: Configuration, phase: str) -> Curve:
    curve: dict[int, list[float]] = defaultdict(list)
    for reports in one.seeds.values():
        for each in reports:
            if each.phase == phase and each.score is not None and not each.diverged and math.isfinite(each.score):
                curve[each.step].append(each.score)
    return curve


def _losses(material: Material, wanted: Sequence[Configuration]) -> dict[str, Curve]:
    """By configuration; without those that have no critics."""
    last = {one.config_id: material.phases[one.algorithm][-1][0] for one in wanted}
    on_damage = (lambda damage: None) if material.keep_going else None
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    seen = set()
    for folder in material.runs.folders:
        table = ledger.read(folder / "ledger", None, ["metrics", "diverged"], on_damage)
        for row in table.to_pylist():
            key = tuple(row[name] for name in ledger.KEY)
            if row["diverged"] or row["phase"] != last.get(row["config_id"]) or key in seen:
                continue
            seen.add(key)
            loss = ledger.decode(row["metrics"]).get(LOSS)
            if loss is not None and math.isfinite(loss):
                found[row["config_id"]][row["step"]].append(loss)
    return {name: dict(curve) for name, curve in found.items()}


def _spans_decades(curves: Any) -> bool:
    values = list(itertools.chain.from_iterable(itertools.chain.from_iterable(curve.values() for curve in curves)))
    return bool(values) and min(values) > 0 and max(values) > 50 * min(values)

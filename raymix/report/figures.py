"""Figures of scores, from a score table (`raymix.report.tables.score_table`)."""

from __future__ import annotations

import io
import itertools
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from raymix.files import AnyPath, write_atomically
from raymix.report import metric_in_words
from raymix.report.statistics import FEWEST_SEEDS
from raymix.report.tables import natural, swept_fields, text

PAPER_LETTERS = {
    "num_components": "M, mixture components",
    "num_codes": "K, codes",
    "num_latents": "|Z|, latent values",
    "num_critics": "number of critics",
    "k": "policies that made the data",
    "zeta1": "\N{GREEK SMALL LETTER ZETA}\N{SUBSCRIPT ONE}",
    "zeta2": "\N{GREEK SMALL LETTER ZETA}\N{SUBSCRIPT TWO}",
}
"""What the papers call a field. Here, not read from the algorithms: importing those would import torch."""

STYLES = tuple(
    zip(
        ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
        ("o", "s", "^", "D", "v", "P", "h"),
        strict=True,
    )
)
"""Okabe and Ito's colours, told apart by people with any colour vision; the marker says the same again."""
_PANEL = (3.5, 2.6)
"""Inches; the width of a paper's column."""
_PANELS_PER_ROW = 3
_LOGARITHMIC_SPAN = 50
_TICKS_FIT = 8
"""Places that may each have a tick of their own."""
_ALWAYS_TOLD_APART = 3
"""Values of a field that have a colour each, even where all configurations differ in it."""
_WORDS_FIT = 36
"""Letters of tick labels that fit under a panel side by side."""
_LETTERS_PER_PANEL = 75
"""Letters of the small print on one line under a panel."""


@dataclass
class _Series:
    """The rows of a score table that share a colour: they differ in data set and horizontal field only."""

    name: str
    colour: str
    marker: str
    rows: list[pd.Series] = field(default_factory=list)

    def on(self, dataset: Any, horizontal: str | None, has_field: bool) -> list[pd.Series]:
        """The rows on this data set that have the horizontal field, or those that lack it."""
        here = [row for row in self.rows if row["dataset"] == dataset]
        return [row for row in here if (horizontal is None or row[horizontal] is not None) == has_field]


def score_figure(
    frame: pd.DataFrame, path: str | AnyPath, horizontal: str | None = None, words: str | None = None
) -> None:
    """Write a PNG of score against the swept field, one panel per data set.

    `horizontal` names the field if it is not the one with most values, `words` the score if it is not the metric.

    Every seed is a dot (hollow in an unfinished configuration); the line is the mean over seeds, band and whiskers
    its 95 % interval. A diverged seed is a cross at the foot of the panel. A field of words gets one place per word,
    and no line; further swept fields get a colour per combination, except numbers with more values than there are
    colours or another one in every configuration, as a search draws them: the small print names those, and no line
    joins what differs in them. An algorithm without the field is a level line; where nothing is swept each algorithm
    has its place. The file appears whole or not at all.
    """
    datasets = list(dict.fromkeys(frame["dataset"]))
    columns = min(len(datasets), _PANELS_PER_ROW)
    lines = math.ceil(len(datasets) / columns)
    horizontal = horizontal or _horizontal_field(frame)
    folded = folded_fields(frame, horizontal)
    series = series_of(frame, horizontal, folded)
    style: Any = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * lines), dpi=200, layout="constrained")
        # Not through pyplot: nothing global is touched, no display is asked for.
        FigureCanvasAgg(figure)
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        for panel, dataset in zip(axes, datasets, strict=False):
            _panel(panel, frame, dataset, series, horizontal, words, joined=not folded)
        for panel in axes[len(datasets) :]:
            panel.set_axis_off()
        marks = textwrap.fill(_legend_of_marks(frame, folded), _LETTERS_PER_PANEL * columns)
        figure.supxlabel(marks, fontsize=6, color="0.35", x=0.99, ha="right")
        image = io.BytesIO()
        figure.savefig(image, format="png")
    write_atomically(path, image.getvalue())


def _horizontal_field(frame: pd.DataFrame) -> str | None:
    """The swept field with most values, numbers before words; None where nothing is swept."""
    values = {name: {value for value in frame[name] if value is not None} for name in swept_fields(frame)}
    return max(values, key=lambda name: (_is_numeric(values[name]), len(values[name])), default=None)


def folded_fields(frame: pd.DataFrame, horizontal: str | None) -> list[str]:
    """Swept numbers that have too many values for colours, or about as many as configurations have them."""
    folded = []
    for name in swept_fields(frame):
        having = frame[[value is not None for value in frame[name]]]
        configurations, values = having["config_id"].nunique() / having["dataset"].nunique(), set(having[name])
        most = min(len(STYLES), max(_ALWAYS_TOLD_APART, math.ceil(configurations) - 1))
        if name != horizontal and _is_numeric(values) and len(values) > most:
            folded.append(name)
    return folded


def series_of(frame: pd.DataFrame, horizontal: str | None, folded: Sequence[str]) -> list[_Series]:
    """What has a colour of its own, in the order of the algorithms and of the values that tell them apart."""
    others = [name for name in swept_fields(frame) if name != horizontal and name not in folded]
    several = frame["algorithm"].nunique() > 1
    styles = itertools.cycle(STYLES)
    series: dict[str, _Series] = {}
    algorithms = list(dict.fromkeys(frame["algorithm"]))
    rows = [row for _, row in frame.iterrows()]
    rows.sort(key=lambda row: (algorithms.index(row["algorithm"]), [natural(row[name]) for name in others]))
    for row in rows:
        words = [f"{name}={text(row[name])}" for name in others if row[name] is not None]
        name = ", ".join([row["algorithm"], *words] if several or not words else words)
        if name not in series:
            series[name] = _Series(name, *next(styles))
        series[name].rows.append(row)
    return list(series.values())


def _panel(
    axes: Axes,
    frame: pd.DataFrame,
    dataset: Any,
    series: Sequence[_Series],
    horizontal: str | None,
    words: str | None,
    joined: bool,
) -> None:
    values: list[Any] = [one.name for one in series]
    if horizontal is not None:
        values = sorted({v for v in frame[horizontal] if v is not None}, key=natural)
    numeric = horizontal is not None and _is_numeric(values)
    places = _numeric_axis(axes, values) if numeric else _word_axis(axes, values)
    for number, one in enumerate(series):
        # Words leave room between them, so series stand side by side there; numbers mean their exact place.
        shift = 0.0 if numeric or horizontal is None else 0.5 * ((number + 0.5) / len(series) - 0.5)
        if rows := one.on(dataset, horizontal, has_field=True):
            at = [places[one.name if horizontal is None else row[horizontal]] + shift for row in rows]
            _draw_scores(axes, one, rows, at, connected=numeric and joined)
        if rows := one.on(dataset, horizontal, has_field=False):
            _draw_level(axes, one, rows)
    algorithms = list(dict.fromkeys(frame["algorithm"]))
    axes.set_title(f"{algorithms[0]} on {dataset}" if len(algorithms) == 1 else dataset, fontsize=8)
    metric = words or metric_in_words(frame["metric"].iloc[0])
    axes.set_ylabel(f"{metric} (best: oracle)" if frame["select"].iloc[0] == "best" else metric)
    letters = PAPER_LETTERS.get(horizontal or "", "")
    axes.set_xlabel(f"{horizontal} ({letters})" if letters else horizontal or "algorithm")
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    if horizontal is not None and len(series) > 1:
        axes.legend(frameon=False, fontsize=7, loc="best")


def _word_axis(axes: Axes, values: Sequence[Any]) -> dict[Any, float]:
    """Where each value stands on the horizontal axis: 0, 1, 2, ..."""
    axes.set_xticks(range(len(values)), [text(value) for value in values])
    axes.set_xlim(-0.6, len(values) - 0.4)
    if sum(len(text(value)) for value in values) > _WORDS_FIT:
        axes.tick_params(axis="x", labelrotation=25)
    return {value: float(place) for place, value in enumerate(values)}


def _numeric_axis(axes: Axes, values: Sequence[float]) -> dict[Any, float]:
    """Where each value stands on the horizontal axis: at itself, on a logarithmic scale over a wide span."""
    if min(values) > 0 and max(values) >= _LOGARITHMIC_SPAN * min(values):
        axes.set_xscale("log")
    if len(values) <= _TICKS_FIT and sum(len(text(value)) for value in values) <= _WORDS_FIT:
        axes.xaxis.set_major_locator(FixedLocator(values))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: text(float(value)))
    return {value: float(value) for value in values}


def _draw_scores(
    axes: Axes, series: _Series, rows: Sequence[pd.Series], places: Sequence[float], connected: bool
) -> None:
    """Seeds, means and intervals of one series at its places."""
    means, low, high = (np.array([row[name] for row in rows], dtype=np.float64) for name in ("mean", "low", "high"))
    colour = series.colour
    if connected:
        axes.plot(places, means, "_-", color=colour, markersize=9, linewidth=1.4, label=series.name, zorder=3)
        axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
    else:
        axes.plot(places, means, "_", color=colour, markersize=14, label=series.name, zorder=3)
    axes.vlines(places, low, high, color=colour, linewidth=0.8, alpha=0.6, zorder=2)
    for place, row in zip(places, rows, strict=True):
        _dots(axes, series, row, place, hollow=not row["finished"])
        if row["diverged"]:
            foot = axes.get_xaxis_transform()
            axes.plot(place, 0.03, "x", color=colour, markersize=5, transform=foot, clip_on=False, zorder=5)


def _draw_level(axes: Axes, series: _Series, rows: Sequence[pd.Series]) -> None:
    """A series without the field on the horizontal axis: its mean at every place, its seeds at the right edge."""
    for number, row in enumerate(rows):
        label = None if number else series.name
        axes.axhline(row["mean"], color=series.colour, linestyle="--", linewidth=1.2, label=label, zorder=2)
        if math.isfinite(row["low"]):
            axes.axhspan(row["low"], row["high"], color=series.colour, alpha=0.1, linewidth=0)
        edge = axes.get_yaxis_transform()
        _dots(axes, series, row, 1.0, hollow=not row["finished"], transform=edge, clip_on=False)


def _dots(axes: Axes, series: _Series, row: pd.Series, place: float, hollow: bool, **where: Any) -> None:
    scores = [score for score in row["scores"] if score is not None and math.isfinite(score)]
    face, edge = ("white", series.colour) if hollow else (series.colour, "white")
    style: dict[str, Any] = {"s": 14, "marker": series.marker, "linewidths": 0.8 if hollow else 0.4, "zorder": 4}
    axes.scatter([place] * len(scores), scores, facecolors=face, edgecolors=edge, alpha=0.85, **style, **where)


def _legend_of_marks(frame: pd.DataFrame, folded: Sequence[str]) -> str:
    words = ["dot: one seed", "line: mean"]
    words.append(
        "band, bar: 95 % interval" if frame["low"].notna().any() else f"an interval needs {FEWEST_SEEDS} seeds"
    )
    words += ["hollow: stopped early"] if frame["stopped"].any() else []
    words += ["hollow: unfinished"] if not (frame["finished"] | frame["stopped"]).all() else []
    words += ["cross: diverged seed"] if frame["diverged"].any() else []
    words += [f"also varied: {', '.join(folded)}"] if folded else []
    return "; ".join(words)


def _is_numeric(values: Any) -> bool:
    return bool(values) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)

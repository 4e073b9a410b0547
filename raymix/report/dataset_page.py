"""Self-contained HTML pages about a data set: what `raymix data info` and `raymix data modes` found, with figures."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from raymix.data import describe
from raymix.types import Dataset

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, told apart by people with any colour vision."""
_MOST_COLOURED = len(_COLOURS)
_MOST_POINTS = 5_000
_BINS = 50
_STYLE = (
    "body{font-family:sans-serif;max-width:62em;margin:2em auto;padding:0 1em}pre{overflow-x:auto}img{max-width:100%}"
)
Panel = tuple[str, Callable[[Axes], None]]
"""A title, as HTML, and what draws under it."""


def info_page(dataset: Dataset, facts: dict[str, Any]) -> str:
    """What `raymix.data.describe.describe` found, and figures: returns, lengths, actions, rewards, observations."""
    columns = dataset.columns
    rows, last = columns.transition_rows(), columns.last_rows
    first = np.append(0, last[:-1] + 1)
    of_episode = columns.source[first]
    actions = columns.actions[rows]
    panels: list[Panel] = [
        ("Returns of episodes", lambda axes: _histograms(axes, columns.episode_returns(), of_episode, dataset)),
        ("Lengths of episodes, transitions", lambda axes: _histograms(axes, last - first, of_episode, dataset)),
        ("Rewards", lambda axes: _histograms(axes, columns.rewards[rows], columns.source[rows], dataset)),
        ("Actions: density per dimension, box from 0 to 1", lambda axes: _action_densities(axes, actions, dataset)),
        ("Observations: their two principal components", lambda axes: _components(axes, rows, dataset)),
    ]
    return page(f"Data set {dataset.spec.name}", describe.text(facts), panels)


def modes_page(result: dict[str, Any], text: str) -> str:
    """What `raymix.modes.find_modes` found, as `text` and in figures: the likelihood, the modes per state."""
    panels: list[Panel] = [
        ("Held-out negative log-likelihood against the number of components", lambda axes: _likelihood(axes, result)),
        ("Modes per state", lambda axes: _mode_counts(axes, result)),
    ]
    return page(f"Modes of {result['name']}", text, panels)


def page(title: str, text: str, panels: list[Panel]) -> str:
    """An HTML page that needs no other file: a title, a text kept as it is set, and a row of figures."""
    figures = "\n".join(
        f'<figure><figcaption>{name}</figcaption><img alt="{name}" src="{_image(draw)}"></figure>'
        for name, draw in panels
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n<pre>{html.escape(text)}</pre>\n"
        f"{figures}\n</body></html>\n"
    )


def _image(draw: Callable[[Axes], None]) -> str:
    """A PNG as a `data:` address."""
    style: Any = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(6.5, 2.8), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.subplots())
        png = io.BytesIO()
        figure.savefig(png, format="png")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


def _groups(source: np.ndarray, dataset: Dataset) -> list[tuple[str, np.ndarray, str]]:
    """Name, mask and colour of each source that is present; all as one where the colours do not suffice."""
    present = np.unique(source)
    if len(present) > _MOST_COLOURED:
        return [(f"all {len(present)} sources", np.ones(len(source), bool), _COLOURS[0])]
    return [(dataset.spec.sources[index], source == index, colour) for index, colour in zip(present, _COLOURS)]


def _histograms(axes: Axes, values: np.ndarray, source: np.ndarray, dataset: Dataset) -> None:
    edges = np.histogram_bin_edges(values.astype(np.float64), _BINS)
    for name, mask, colour in _groups(source, dataset):
        counts, _ = np.histogram(values[mask], edges)
        axes.stairs(counts, edges, fill=True, color=colour, alpha=0.45, label=name)
    axes.set_ylabel("number")
    axes.legend(frameon=False, fontsize=7)


def _action_densities(axes: Axes, actions: np.ndarray, dataset: Dataset) -> None:
    low, high = np.array(dataset.spec.action_low), np.array(dataset.spec.action_high)
    places = np.clip((actions - low) / (high - low), 0.0, 1.0)
    shares = np.stack([np.histogram(column, _BINS, (0.0, 1.0))[0] for column in places.T]) / len(actions)
    image = axes.imshow(shares, aspect="auto", extent=(0.0, 1.0, actions.shape[1] - 0.5, -0.5), cmap="cividis")
    axes.set_ylabel("action")
    axes.set_yticks(range(actions.shape[1]))
    axes.figure.colorbar(image, label=f"share in each {1 / _BINS:.0%} of the box")


def _components(axes: Axes, rows: np.ndarray, dataset: Dataset) -> None:
    """Observations, standardised, on the two directions in which they vary most; at most 5,000 of them."""
    drawn = np.random.default_rng(0).permutation(rows)[:_MOST_POINTS]
    std = np.array(dataset.spec.observation_std)
    standard = (dataset.columns.observations[drawn] - np.array(dataset.spec.observation_mean)) / np.where(
        std > 0, std, 1
    )
    left, lengths, _ = np.linalg.svd(standard - standard.mean(0), full_matrices=False)
    # An observation of one number has no second component.
    places = np.pad(left * lengths, ((0, 0), (0, max(0, 2 - len(lengths)))))[:, :2]
    total = max(float((lengths**2).sum()), np.finfo(float).tiny)
    for name, mask, colour in _groups(dataset.columns.source[drawn], dataset):
        axes.scatter(places[mask, 0], places[mask, 1], s=2, alpha=0.4, color=colour, label=name)
    shares = [*(lengths**2 / total), 0.0]
    axes.set_xlabel(f"first component, {shares[0]:.0%} of the variance")
    axes.set_ylabel(f"second, {shares[1]:.0%}")
    axes.legend(frameon=False, fontsize=7, markerscale=4)


def _likelihood(axes: Axes, result: dict[str, Any]) -> None:
    rows = result["likelihood"]
    places = range(len(rows))
    if rows[0]["low"] is not None:
        axes.vlines(places, [row["low"] for row in rows], [row["high"] for row in rows], color=_COLOURS[0], alpha=0.6)
    axes.plot(places, [row["nll"] for row in rows], "o-", color=_COLOURS[0], label="mean and 95 % interval")
    at = [row["components"] for row in rows].index(result["chosen"])
    axes.plot(at, rows[at]["nll"], "o", color=_COLOURS[1], markersize=9, fillstyle="none", label="modes counted here")
    axes.set_xticks(places, [str(row["components"]) for row in rows])
    axes.set_xlabel("components")
    axes.set_ylabel("nats per action")
    axes.legend(frameon=False, fontsize=7)


def _mode_counts(axes: Axes, result: dict[str, Any]) -> None:
    places = range(1, 1 + max(map(int, result["histogram"])))
    axes.bar(places, [100 * result["histogram"].get(str(place), 0.0) for place in places], color=_COLOURS[0])
    axes.set_xticks(places)
    axes.set_xlabel("modes")
    axes.set_ylabel("% of held-out states")

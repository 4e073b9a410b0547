"""How TD3+RKL weighs the states of each source of its data (its figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from raymix.algorithms.td3_rkl import TD3RKL, weight
from raymix.paper_figures.material import Material
from raymix.report.evaluations import Configuration
from raymix.report.figures import STYLES
from raymix.reproduce.base import Member
from raymix.reproduce.figures import new_figure, save, small_print

_STATES = 20_000
"""Of the data, evenly over all of it."""
_MOST_PANELS = 4


def weights_figure(material: Material, path: str) -> None:
    """Write a PNG with a panel per configuration, the best first: lambda(s) over the data's states, a line per source.

    The paper compares random and expert data, fitted together: a mixture such as "hopper/random + hopper/expert".
    """
    best = material.ranked(material.of("td3_rkl"))[:_MOST_PANELS]
    shown = list(material.members(best))
    figure = new_figure(max(3.5, 2.6 * len(shown)), 2.5)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (one, member) in zip(panels, shown, strict=True):
        dataset = material.dataset(one)
        rows = dataset.columns.transition_rows()
        rows = rows[:: max(1, len(rows) // _STATES)]
        weights = weights_at(member, dataset.columns.observations[rows])
        _histogram(axes, weights, dataset.columns.source[rows], dataset.spec.sources, one, material)
    panels[0].set_ylabel("share of the source's states", fontsize=8)
    figure.supxlabel("weight $\\lambda(s)$ of cloning", fontsize=8)
    save(figure, path)


def weights_at(member: Member, observations: np.ndarray) -> np.ndarray:
    """lambda(s) of a trained member at states (N, S): (N,)."""
    algorithm: Any = TD3RKL()
    config: Any = member.policy().config
    with torch.inference_mode():
        behavior = member.networks.behavior(torch.from_numpy(observations))
        uncertainty = algorithm.uncertainty(behavior, config)
        zetas = member.networks.calibration() if config.calibrate else (config.zeta1, config.zeta2)
        return weight(uncertainty, *zetas).numpy()


def _histogram(
    axes: Axes,
    weights: np.ndarray,
    source: np.ndarray,
    sources: Sequence[str],
    one: Configuration,
    material: Material,
) -> None:
    bins = np.linspace(0.0, 1.0, 41).tolist()
    largest = np.argsort(-np.bincount(source, minlength=len(sources)), kind="stable")[: len(STYLES)]
    for number, (colour, _) in zip(largest, STYLES, strict=False):
        own = weights[source == number]
        share = np.full(len(own), 1 / max(1, len(own)))
        style = ("-", "--", ":", "-.")[int(np.flatnonzero(largest == number)[0]) % 4]
        axes.hist(own, bins, weights=share, histtype="step", color=colour, linestyle=style, label=sources[number])
    small_print(axes, f"{material.words(one)}\n{one.dataset}")
    axes.legend(fontsize=6, frameon=False, loc="upper left")

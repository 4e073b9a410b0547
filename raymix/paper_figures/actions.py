"""What models and policies do at one state (LOM's figures 2 and 4, LAPO's figure 2)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes

from raymix.algorithms.awac import AWAC
from raymix.algorithms.dmpo import DMPO
from raymix.algorithms.lapo import LAPO
from raymix.algorithms.lom import LOM
from raymix.algorithms.mix_awac import MixAWAC
from raymix.algorithms.plas import PLAS
from raymix.nn.losses import component_std
from raymix.paper_figures.material import Material
from raymix.random import Key
from raymix.report.evaluations import Configuration
from raymix.reproduce.base import Member
from raymix.reproduce.figures import BLUE, ORANGE, new_figure, save, small_print
from raymix.types import Dataset

ACTIONS = 300
"""Drawn at the state; and at most as many are taken from the data."""
_MOST_PANELS = 8
_LETTERS_PER_PANEL = 30
_PER_ROW = 4


@dataclass(frozen=True)
class Acted:
    """Actions (N, A) at one state, in the environment's units."""

    model: np.ndarray | None
    """What its model of the data's actions, or a policy that is a distribution, draws; None without one."""
    chosen: np.ndarray | None
    """Of LOM: draws from the mode that it chose there."""
    policy: np.ndarray
    """What it plays."""


def actions_figure(material: Material, configurations: Sequence[Configuration], path: str) -> None:
    """Write a PNG with the data's actions near a start state, and a panel for each configuration (of one data set).

    The state is the start that is nearest to the mean of all; the data's are the first actions of the episodes that
    start nearest to it. Of actions with several dimensions the two are shown in which the data's vary most; actions of
    one dimension are histograms. Of more configurations than there is room for, the best are shown.
    """
    shown = configurations
    if len(shown) > _MOST_PANELS - 1:
        kept = {one.config_id for one in material.ranked(shown)[: _MOST_PANELS - 1]}
        shown = [one for one in shown if one.config_id in kept]
    dataset = material.dataset(shown[0])
    probe, taken = near_a_start(dataset)
    drawn = [(material.words(one), acted_at(probe, member)) for one, member in material.members(shown)]
    single = taken.shape[1] == 1
    pair = np.sort(np.argsort(-taken.var(0), kind="stable")[:2])
    panels = len(drawn) + 1
    columns = min(_PER_ROW, panels)
    rows = math.ceil(panels / columns)
    figure = new_figure(max(3.5, 1.8 * columns), 1.85 * rows + 0.6)
    axes = figure.subplots(rows, columns, sharex=True, sharey=not single, squeeze=False).ravel()
    low, high = (
        np.asarray(bound)[pair if not single else [0]] for bound in (dataset.spec.action_low, dataset.spec.action_high)
    )
    for panel in axes[panels:]:
        panel.set_axis_off()
    small_print(axes[0], f"data, {len(taken)} episodes")
    if single:
        bins = np.linspace(float(low[0]), float(high[0]), 61).tolist()
        axes[0].hist(taken[:, 0], bins, color=_GREY)
    else:
        _points(axes[0], taken[:, pair], _GREY, "data")
    for panel, (words, acted) in zip(axes[1:], drawn, strict=False):
        small_print(panel, textwrap.fill(words, _LETTERS_PER_PANEL))
        if single:
            _histograms(panel, taken, acted, bins)
        else:
            _scatter(panel, taken[:, pair], acted, pair)
            panel.set_xlim(float(low[0]) - 0.15, float(high[0]) + 0.15)
            panel.set_ylim(float(low[1]) - 0.15, float(high[1]) + 0.15)
    for number, panel in enumerate(axes[:panels]):
        if number + columns >= panels:  # the lowest of its column
            panel.tick_params(labelbottom=True)
            panel.set_xlabel("action" if single else f"action, dimension {pair[0]}", fontsize=7)
        if number % columns == 0:
            panel.set_ylabel("actions" if single else f"dimension {pair[1]}", fontsize=7)
    # Not of the axes: not every panel has every kind of mark.
    found = {name: handle for panel in axes for handle, name in zip(*panel.get_legend_handles_labels())}
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    figure.suptitle(dataset.spec.name, fontsize=8)
    save(figure, path)


_GREY = "0.6"


def near_a_start(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """A start state (S,), that nearest to the mean start, and the first actions (N, A) of the N episodes that start
    nearest to it, each dimension in standard deviations of the data."""
    columns, spec = dataset.columns, dataset.spec
    scale = np.maximum(np.asarray(spec.observation_std), 1e-3)
    rows = np.append(0, columns.last_rows[:-1] + 1)
    starts = columns.observations[rows]
    probe = starts[np.argmin((((starts - starts.mean(0)) / scale) ** 2).sum(1))]
    nearest = np.argsort((((starts - probe) / scale) ** 2).sum(1), kind="stable")[:ACTIONS]
    return probe, columns.actions[rows[nearest]]


def acted_at(probe: np.ndarray, member: Member) -> Acted:
    """What a trained agent does at a state (S,), as often as `ACTIONS` says."""
    policy = member.policy()
    algorithm, config, nets = policy.algorithm, policy.config, member.networks
    states = np.repeat(probe[None], ACTIONS, 0).astype(np.float32)
    observations, key = torch.from_numpy(states), Key.of(member.seed, 0)
    low, high = np.asarray(policy.spec.action_low), np.asarray(policy.spec.action_high)

    def in_units(actions: torch.Tensor) -> np.ndarray:
        return (low + high) / 2 + (high - low) / 2 * actions.clamp(-1.0, 1.0).numpy().astype(np.float64)

    model, chosen = None, None
    if isinstance(algorithm, LOM):
        mixture = nets.mdn(observations)
        std = component_std(mixture)

        def of(components: torch.Tensor) -> np.ndarray:
            index = components[:, None, None].expand(-1, 1, mixture.means.shape[-1])
            mean, own = mixture.means.gather(1, index)[:, 0], std.gather(1, index)[:, 0]
            return in_units(mean + own * key.normal(*mean.shape))

        model = of(key.categorical(mixture.logits))
        chosen = of(algorithm.select_mode(nets.hyper_critic(observations), mixture, config))
    elif isinstance(algorithm, LAPO | PLAS):
        model = member.policy(latent="prior").act(states, 0)
    elif isinstance(algorithm, AWAC | MixAWAC):
        model = in_units(algorithm.sampled(nets, observations, 1, config, key)[0])
    elif isinstance(algorithm, DMPO):
        model = in_units(nets.policy(observations[:1])[0])
    return Acted(model, chosen, policy.act(states, 0))


def _points(axes: Axes, actions: np.ndarray, colour: str, label: str) -> None:
    axes.scatter(actions[:, 0], actions[:, 1], s=4, color=colour, alpha=0.5, linewidths=0, label=label)


def _scatter(axes: Axes, taken: np.ndarray, acted: Acted, pair: np.ndarray) -> None:
    _points(axes, taken, "0.75", "data")
    if acted.model is not None:
        _points(axes, acted.model[:, pair], BLUE, "its model or distribution")
    if acted.chosen is not None:
        _points(axes, acted.chosen[:, pair], ORANGE, "the mode it chose")
    own = acted.policy[:, pair]
    if np.ptp(own, axis=0).max() > 1e-6:
        _points(axes, own, "black", "what it plays, drawn")
    else:
        axes.scatter(
            own[0, 0], own[0, 1], marker="*", s=70, color="black", edgecolors="white", label="what it plays", zorder=4
        )


def _histograms(axes: Axes, taken: np.ndarray, acted: Acted, bins: Sequence[float]) -> None:
    axes.hist(taken[:, 0], bins, color="0.8", label="data")
    if acted.model is not None:
        axes.hist(acted.model[:, 0], bins, histtype="step", color=BLUE, label="its model or distribution")
    if acted.chosen is not None:
        axes.hist(acted.chosen[:, 0], bins, histtype="step", color=ORANGE, label="the mode it chose")
    own = acted.policy[:, 0]
    if np.ptp(own) > 1e-6:
        axes.hist(own, bins, histtype="step", color="black", linestyle=":", label="what it plays, drawn")
    else:
        axes.axvline(own[0], color="black", linestyle=":", label="what it plays")

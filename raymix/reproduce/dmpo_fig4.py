"""DMPO, figure 4: whose Bellman errors spread least, and whether clipping the targets' actions explains it.

The paper's histograms show signed Bellman errors after 20,000 steps on halfcheetah-medium-replay and do not define
them; here delta = y - Q_1(s, a) with each method's own target y, on transitions of the two-goal task after training as
in `dmpo-table2`. The control: DMPO clips the actions of its targets to the box, the others do not; rows "clipped" do.

`--variant NAME` takes another data set with an environment, such as a Minari data set of HalfCheetah or a mixture of
several. The methods then have their authors' settings for MuJoCo (two layers of 256, batches of 256, discount 0.99,
alpha 10, LP-AWAC's 5), two seeds, and 10,000 steps, half of the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from raymix.algorithms import base as algorithms
from raymix.data import catalog, toy
from raymix.files import write_atomically
from raymix.learner.networks import LiftedConfig
from raymix.learner.replay import DeviceReplay, DrawnBatch
from raymix.plan import SweepSpec
from raymix.random import Key
from raymix.reproduce.base import Member, Method, Options, Outcome, run_methods
from raymix.reproduce.dmpo_table2 import OF_DMPO, SETTINGS
from raymix.reproduce.figures import ORANGE, SKY, new_figure, save, small_print
from raymix.types import Dataset

NAME = "dmpo-fig4"
TRANSITIONS = 4_000
TOY = toy.TWO_GOALS
VARIANTS = (TOY,)
"""The first one. Any other data set with an environment is a variant too."""
OF_TOY: dict[str, dict[str, Any]] = {
    "awac": {**SETTINGS, "alpha": 1.0},
    "mix_awac": {**SETTINGS, "alpha": 1.0, "num_components": 4},
    "lp_awac": {**SETTINGS, "alpha": 1.0, "vae_learning_rate": 1e-3},
    "dmpo": {**SETTINGS, "alpha": 1.0, **OF_DMPO},
}
STEPS = 10_000
"""On any other data set, where all other settings are the methods' defaults."""
LABELS = {"awac": "AWAC", "mix_awac": "mixAWAC", "lp_awac": "LP-AWAC", "dmpo": "DMPO"}
CLIPPED = ", clipped"


def methods(dataset: str) -> tuple[Method, ...]:
    """The figure's rows: every method as published, and those that do not clip their targets' actions so, too."""
    seeds, steps, episodes = (3, SETTINGS["steps"] // 2, 50) if dataset == TOY else (2, STEPS, 5)
    rows = []
    for algorithm, label in LABELS.items():
        settings = OF_TOY[algorithm] if dataset == TOY else {"steps": STEPS}
        controls: tuple[dict[str, Any], ...] = ({},) if algorithm == "dmpo" else ({}, {"clip_target_actions": True})
        for control in controls:
            spec = SweepSpec(
                algorithm=algorithm,
                datasets=(dataset,),
                settings={**settings, **control},
                seeds=seeds,
                evaluate_every=steps,
                episodes=episodes,
                label=label + (CLIPPED if control else ""),
            )
            rows.append(Method(spec))
    return tuple(rows)


def reproduce(options: Options) -> Outcome:
    """Train all methods; the spread of their Bellman errors, and the histograms."""
    dataset = catalog.canonical_name(options.variant or TOY)
    rows = methods(dataset)
    run = run_methods(NAME, rows, options, None if dataset == TOY else dataset)
    labels = [str(method.spec.label) for method in rows]
    errors = {label: [bellman_errors(member, run.dataset(label)) for member in run.members(label)] for label in labels}
    least = min(labels, key=lambda label: np.mean([own.std() for own in errors[label]]))
    title = (__doc__ or "").splitlines()[0] + ("" if dataset == TOY else f" ({dataset})")
    text = "\n".join([title, "", *_table(errors), "", f"The smallest spread is that of {least}."])
    write_atomically(run.figures / "bellman_errors.txt", text + "\n")
    path = str(run.figures / "dmpo-fig4.png")
    histograms(errors, path)
    return Outcome(text, (path, str(run.figures / "bellman_errors.txt")))


def _table(errors: Mapping[str, Sequence[np.ndarray]]) -> list[str]:
    """A line per method: the spread of every seed."""
    rows = [("method", "std of the errors, per seed", "mean std", "99 % are within")]
    for label, seeds in errors.items():
        spreads = [float(own.std()) for own in seeds]
        within = np.mean([np.quantile(np.abs(own), 0.99) for own in seeds])
        rows.append((label, "  ".join(f"{each:.3g}" for each in spreads), f"{np.mean(spreads):.3g}", f"{within:.3g}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [" | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return [lines[0], "-+-".join("-" * width for width in widths), *lines[1:]]


def bellman_errors(member: Member, dataset: Dataset) -> np.ndarray:
    """(TRANSITIONS,): y - Q_1(s, a) of a trained member, its target drawn as in training.

    The loss of the critics is a mean over the batch of (Q_k - y)^2, so its gradient in Q_1 is 2 (Q_1 - y) / B; this
    reads every method's own target out of the loss that trained it.
    """
    algorithm = algorithms.find(member.weights.algorithm)
    config = algorithm.configure(member.weights.config)
    scalars = {name: torch.tensor(value) for name, value in config.of_kind("scalar").items()}
    replay = DeviceReplay(dataset, with_next_action=algorithm.uses_next_actions)
    key = Key.of(member.seed, 0)
    drawn = DrawnBatch(replay, replay.rows[Key.of(member.seed, 1).integers(len(replay.rows), TRANSITIONS)])
    names = ("observations", "actions", "rewards", "next_observations", "next_actions", "terminals", "episodes")
    batch = SimpleNamespace(**{name: getattr(drawn, name) for name in names})
    shift = torch.zeros(TRANSITIONS, requires_grad=True)
    critic = member.networks.critic

    def shifted(observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        values = critic(observations, actions)
        return torch.cat((values[:1] + shift, values[1:])) if actions is batch.actions else values

    nets = _Replaced(member.networks, critic=shifted)
    loss, _ = algorithm.critic_loss(nets, batch, LiftedConfig(config.of_kind("structure"), scalars), key)  # type: ignore[attr-defined]
    (gradient,) = torch.autograd.grad(loss, shift)
    return (-0.5 * TRANSITIONS * gradient).numpy()


class _Replaced:
    """Networks of which some are others."""

    def __init__(self, networks: Any, **others: Any) -> None:
        self._networks, self._others = networks, others

    def __getattr__(self, name: str) -> Any:
        return self._others[name] if name in self._others else getattr(self._networks, name)


def histograms(errors: Mapping[str, Sequence[np.ndarray]], path: str) -> None:
    """One panel per method: the errors of all seeds, with and without the control."""
    figure = new_figure(max(3.5, 1.8 * sum(not label.endswith(CLIPPED) for label in errors)), 2.4)
    largest = max(float(np.abs(own).max()) for seeds in errors.values() for own in seeds)
    bins = np.linspace(-largest, largest, 82)
    plain = [label for label in errors if not label.endswith(CLIPPED)]
    panels = figure.subplots(1, len(plain), sharex=True, sharey=True, squeeze=False)[0]
    for axes, label in zip(panels, plain):
        axes.hist(np.concatenate(errors[label]), bins, histtype="stepfilled", color=SKY, label="as published")
        if (control := label + CLIPPED) in errors:
            clipped = np.concatenate(errors[control])
            axes.hist(clipped, bins, histtype="step", color=ORANGE, linewidth=0.9, label="actions of targets clipped")
        axes.set_yscale("log")
        axes.locator_params(axis="x", nbins=3)
        small_print(axes, f"{label}: std {np.mean([own.std() for own in errors[label]]):.2g}")
    figure.supxlabel("Bellman error $y - Q_1(s, a)$", fontsize=8)
    several = any(len(seeds) > 1 for seeds in errors.values())
    panels[0].set_ylabel("transitions of all seeds" if several else "transitions", fontsize=8)
    handles, names = panels[0].get_legend_handles_labels()
    if len(plain) < len(errors):  # otherwise there is nothing to tell apart
        figure.legend(handles, names, loc="outside upper center", ncols=2, fontsize=7, frameon=False)
    save(figure, path)

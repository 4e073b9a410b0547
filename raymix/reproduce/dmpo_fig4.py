"""DMPO, figure 4: whose Bellman errors spread least, and whether clipping the targets' actions explains it.

The paper's histograms show signed Bellman errors after 20,000 steps on halfcheetah-medium-replay and do not define
them; here delta = y - Q_1(s, a) with each method's own target y, on transitions of the two-goal task after training as
in `dmpo-table2`. The control: DMPO clips the actions of its targets to the box, the others do not; rows "clipped" do.
A HalfCheetah data set of several policies is not at hand in a fresh installation, so that half of the figure is not
rebuilt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from raymix.algorithms import base as algorithms
from raymix.files import write_atomically
from raymix.learner.networks import LiftedConfig
from raymix.learner.replay import DeviceReplay, DrawnBatch
from raymix.plan import SweepSpec
from raymix.random import Key
from raymix.reproduce.base import Member, Method, Options, Outcome, run_methods
from raymix.reproduce.dmpo_table2 import OF_DMPO, SETTINGS
from raymix.reproduce.figures import BLUE, ORANGE, new_figure, save, small_print
from raymix.types import Dataset

NAME = "dmpo-fig4"
TRANSITIONS = 4_000


def _method(label: str, algorithm: str, **settings: Any) -> Method:
    spec = SweepSpec(
        algorithm=algorithm,
        datasets=("two-goals",),
        settings={**SETTINGS, **settings},
        seeds=3,
        evaluate_every=3_000,
        episodes=50,
        label=label,
    )
    return Method(spec)


METHODS = (
    _method("AWAC", "awac", alpha=1.0),
    _method("AWAC, clipped", "awac", alpha=1.0, clip_target_actions=True),
    _method("mixAWAC", "mix_awac", num_components=4, alpha=1.0),
    _method("mixAWAC, clipped", "mix_awac", num_components=4, alpha=1.0, clip_target_actions=True),
    _method("LP-AWAC", "lp_awac", alpha=1.0, vae_learning_rate=1e-3),
    _method("LP-AWAC, clipped", "lp_awac", alpha=1.0, vae_learning_rate=1e-3, clip_target_actions=True),
    _method("DMPO", "dmpo", alpha=1.0, **OF_DMPO),
)


def reproduce(options: Options) -> Outcome:
    """Train all methods; the spread of their Bellman errors, and the histograms."""
    run = run_methods(NAME, METHODS, options)
    labels = [str(method.spec.label) for method in METHODS]
    errors = {label: [bellman_errors(member, run.dataset(label)) for member in run.members(label)] for label in labels}
    lines = ["method           | std of the errors, per seed | mean std | share beyond 0.5"]
    lines.append("-----------------+-----------------------------+----------+-----------------")
    for label in labels:
        spreads = [float(own.std()) for own in errors[label]]
        beyond = np.mean([float((np.abs(own) > 0.5).mean()) for own in errors[label]])
        shown = " ".join(f"{spread:.4f}" for spread in spreads)
        lines.append(f"{label:<16} | {shown:<27} | {np.mean(spreads):>8.4f} | {beyond:>15.2%}")
    least = min(labels, key=lambda label: np.mean([own.std() for own in errors[label]]))
    text = "\n".join([(__doc__ or "").splitlines()[0], "", *lines, "", f"The smallest spread is that of {least}."])
    write_atomically(run.figures / "bellman_errors.txt", text + "\n")
    path = str(run.figures / "dmpo-fig4.png")
    histograms(errors, path)
    return Outcome(text, (path, str(run.figures / "bellman_errors.txt")))


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
    figure = new_figure(7.2, 2.0)
    largest = max(float(np.abs(own).max()) for seeds in errors.values() for own in seeds)
    bins = np.linspace(-largest, largest, 81)
    plain = [label for label in errors if not label.endswith(", clipped")]
    for axes, label in zip(figure.subplots(1, len(plain), sharey=True), plain):
        axes.hist(np.concatenate(errors[label]), bins, color=BLUE, alpha=0.6, label="as published")
        if (control := f"{label}, clipped") in errors:
            axes.hist(np.concatenate(errors[control]), bins, histtype="step", color=ORANGE, label="targets clipped")
        axes.set_yscale("log")
        small_print(axes, f"{label}: std {np.mean([own.std() for own in errors[label]]):.3f}")
    figure.axes[0].set_ylabel("transitions", fontsize=8)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=6, frameon=False, loc="lower right", ncols=2)
    figure.supxlabel("Bellman error $y - Q_1(s, a)$", fontsize=8)
    save(figure, path)

"""LAPO, table 1: one decision with two modes, of which the rarer pays ten times as much.

A scalar action earns 1 in [-1.5, -0.5] and 10 in [0.5, 1.5], else 0. The paper gives no proportions, widths or number
of samples; `toy/navigation-v0` has 10,000 with 6 % in the right mode, the share that its own LAPO (VAE) score implies.
A score is the mean return of 1,000 actions (drawn from the distribution for AWAC).

AWAC's two rows depend on how strongly it weighs, which the paper does not print; here they have its default, the
normalised weight with alpha 10. Per seed, everything else equal:

    weight                        | Gaussian (paper 2.43)    | GMM (paper 4.39)
    ------------------------------+--------------------------+-------------------------
    normalised, alpha 1           | 0.82 0.79 0.85           | 1.69 1.83 1.78
    normalised, alpha 2.2         | 1.15 1.22 1.27           | 2.52 2.29 2.54
    normalised, alpha 4.5         | 1.84 2.27 2.15 2.62 2.34 | 2.14 4.18 2.24 4.34 4.38
    min(exp(A), 100)              | 9.75 9.83 9.84           | 8.76 8.73 8.62
    exp(10 (A - max A)) over mean | 9.89 9.58 9.88           | 9.93 9.93 9.85

So a weight as of alpha 4.5, which was chosen to show this, gives the paper's numbers but for two seeds of the GMM: a
quarter of the Gaussian's actions pay 10 and over a third fall between the modes.

The two rows of each latent method are one training read in two ways: `VAE` decodes latent vectors from the prior,
`policy` those of the latent policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from raymix.algorithms.awac import AWAC
from raymix.algorithms.mix_awac import MixAWAC
from raymix.envs.one_step_navigation import NOISE, navigation_reward
from raymix.plan import SweepSpec
from raymix.random import Key
from raymix.reproduce.base import Member, Method, Options, Outcome, Row, Run, beside_paper, run_methods
from raymix.reproduce.figures import BLUE, new_figure, save, small_print

NAME = "lapo-table1"
SETTINGS: dict[str, Any] = {
    "discount": 0.9,
    "tau": 0.02,
    "critic_learning_rate": 1e-3,
    "policy_learning_rate": 1e-3,
    "batch_size": 256,
    "hidden_dims": (64, 64),
    "steps": 8_000,
}
"""Of all methods."""
ACTIONS = 1_000


def _method(label: str, algorithm: str, published: float, **settings: Any) -> Method:
    spec = SweepSpec(
        algorithm=algorithm,
        datasets=("navigation",),
        settings={**SETTINGS, **settings},
        seeds=5,
        evaluate_every=2_000,
        episodes=100,
        label=label,
    )
    return Method(spec, published)


METHODS = (
    _method("AWAC (Gaussian)", "awac", 2.43),
    _method("AWAC (GMM)", "mix_awac", 4.39, num_components=4),
    _method(
        "PLAS (policy)", "plas", 1.0, vae_learning_rate=1e-3, vae_hidden_dims=(64, 64), vae_steps=5_000, steps=3_000
    ),
    _method("LAPO (policy)", "lapo", 10.0, vae_learning_rate=1e-3),
)
FROM_THE_PRIOR = {"PLAS (VAE)": ("PLAS (policy)", 1.03), "LAPO (VAE)": ("LAPO (policy)", 4.24)}
"""Rows that are another reading of a trained method: its decoder, fed with latent vectors from the prior."""


def reproduce(options: Options) -> Outcome:
    """Train all methods; the table, and the histograms of figure 2."""
    run = run_methods(NAME, METHODS, options)
    acted = {str(method.spec.label): actions_of(run.members(str(method.spec.label))) for method in METHODS}
    published = {str(method.spec.label): method.published for method in METHODS}
    for name, (label, number) in FROM_THE_PRIOR.items():
        acted[name], published[name] = actions_of(run.members(label), latent="prior"), number
    rows = [
        Row(label, [float(navigation_reward(own[:, None]).mean()) for own in actions], published[label])
        for label, actions in acted.items()
    ]
    text = beside_paper(run.figures, rows, "LAPO, table 1: mean return of 1,000 actions (largest possible: 10)")
    figure = str(run.figures / "lapo-fig2.png")
    histograms(run, acted, rows, figure)
    return Outcome(text, (figure, str(run.figures / "scores.csv")))


def actions_of(members: Sequence[Member], **changes: Any) -> np.ndarray:
    """(seeds, 1000): actions at the initial state; AWAC's are drawn from its distribution, not its mean as in play."""
    noise = NOISE * np.random.default_rng(0).standard_normal((ACTIONS, 2))
    drawn = []
    for member in members:
        policy = member.policy(**changes)
        if isinstance(policy.algorithm, AWAC | MixAWAC):
            observations = torch.from_numpy(noise.astype(np.float32))
            key = Key.of(member.seed, 0)
            unit = policy.algorithm.sampled(member.networks, observations, 1, policy.config, key)[0, :, 0]
            drawn.append(2.0 * unit.clamp(-1.0, 1.0).numpy())
        else:
            drawn.append(policy.act(noise, step=0)[:, 0])
    return np.stack(drawn)


def histograms(run: Run, acted: Mapping[str, np.ndarray], rows: Sequence[Row], path: str) -> None:
    """Figure 2: the actions of each method at the initial state, one panel each, all seeds, beside the data's."""
    columns = run.dataset("LAPO (policy)").columns
    taken = columns.actions[columns.transition_rows(), 0]
    figure = new_figure(7.2, 3.4)
    bins = np.linspace(-2.0, 2.0, 81)
    for axes, row in zip(figure.subplots(2, 3, sharex=True).ravel(), rows, strict=True):
        for low, colour in ((-1.5, "0.9"), (0.5, "#F7E3B5")):
            axes.axvspan(low, low + 1.0, color=colour, linewidth=0)
        axes.hist(taken, bins, density=True, color="0.65", label="data")
        own = acted[row.label].ravel()
        axes.hist(own, bins, density=True, histtype="step", color=BLUE, linewidth=1.2, label="policy")
        axes.set_yscale("symlog", linthresh=0.5)
        small_print(axes, f"{row.label}: {np.mean(row.scores):.2f}")
    figure.supxlabel("action (grey band pays 1, yellow band pays 10)", fontsize=8)
    figure.supylabel("density", fontsize=8)
    figure.axes[0].legend(fontsize=7, frameon=False)
    save(figure, path)

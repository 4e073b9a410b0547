"""What DMPO's critics say: Bellman errors, and the values of its sub-policies along an episode (figures 4 and 5)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import torch

from raymix.algorithms.dmpo import DMPO
from raymix.envs.build import build_environment
from raymix.paper_figures.material import Lacking, Material
from raymix.reproduce.base import Member
from raymix.reproduce.dmpo_fig4 import LABELS, bellman_errors, histograms
from raymix.reproduce.figures import BLUE, ORANGE, new_figure, save, small_print

_MOMENTS = 4
_EPISODE_SEED = 0
_LONGEST = 2_000
"""Steps that are drawn of an episode."""


def bellman_figure(material: Material, path: str) -> None:
    """Write a PNG of the Bellman errors of the best configuration of DMPO and of each of the methods that the paper
    compares it with, as far as they are on the same data set; after training, on the data."""
    (first, *_) = material.ranked(material.of("dmpo"))
    of_methods = ([one for one in material.of(name) if one.dataset == first.dataset] for name in LABELS)
    best = [material.ranked(here)[0] for here in of_methods if here]
    errors = {
        LABELS[one.algorithm]: [bellman_errors(member, material.dataset(one))] for one, member in material.members(best)
    }
    histograms(errors, path)


@dataclass(frozen=True)
class Told:
    """One episode of T steps."""

    values: np.ndarray
    """(T, Z): the value of what each sub-policy would do."""
    chosen: np.ndarray
    """(T,) the sub-policy that acted."""


def sub_policies_figure(material: Material, path: str) -> None:
    """Write a PNG of one episode of the best configuration: the values of all sub-policies at four moments of it, and
    which one acted at every step.

    Raises:
        Lacking: data without an environment, or one value of the latent.
    """
    best = material.ranked(material.of("dmpo"))[0]
    member = material.member(best)
    description = material.dataset(best).spec.environment
    if description is None:
        raise Lacking(
            f"DMPO's figure 5 needs an episode, and {best.dataset} has no environment; run dmpo on data that has"
        )
    told = play(member, description)
    steps, latents = told.values.shape
    moments = np.unique(np.linspace(0, steps - 1, min(_MOMENTS, steps)).round().astype(int))
    figure = new_figure(7.2, 3.0)
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=(1.2, 1.0)))
    for axes, moment in zip(top.subplots(1, len(moments), squeeze=False)[0], moments, strict=True):
        values = told.values[moment]
        colours = [ORANGE if z == told.chosen[moment] else BLUE for z in range(latents)]
        axes.bar(range(latents), values - values.min(), color=colours)
        axes.set_xticks(range(0, latents, math.ceil(latents / 8)))
        small_print(axes, f"step {moment + 1}, z* = {told.chosen[moment]}")
    top.supxlabel("sub-policy z (orange: the one that acts)", fontsize=7)
    top.supylabel("Q above the least", fontsize=7)
    axes = bottom.subplots()
    axes.step(range(1, steps + 1), told.chosen, where="mid", color=ORANGE, linewidth=1.0)
    axes.set_ylim(-0.5, latents - 0.5)
    axes.locator_params(axis="y", integer=True)
    axes.set_xlabel("step of the episode", fontsize=7)
    axes.set_ylabel("z*", fontsize=7)
    switches = int((np.diff(told.chosen) != 0).sum())
    used = len(np.unique(told.chosen))
    small_print(axes, f"{used} of {latents} sub-policies act; changes in {steps} steps: {switches}")
    figure.suptitle(
        f"{material.words(best)} on {best.dataset}, seed {member.seed}, {json.loads(description)['id']}", fontsize=8
    )
    save(figure, path)


def play(member: Member, description: str) -> Told:
    """One episode of a trained DMPO, at most `_LONGEST` steps of it."""
    algorithm, policy = DMPO(), member.policy()
    environment = build_environment(description)
    values: list[np.ndarray] = []
    chosen: list[int] = []
    over = False
    try:
        observation, _ = environment.reset(seed=_EPISODE_SEED)
        while not over and len(chosen) < _LONGEST:
            state = torch.from_numpy(np.asarray(observation, dtype=np.float32)[None])
            with torch.inference_mode():
                actions = member.networks.policy(state)
                own = algorithm.values_of_latents(member.networks.critic, actions, state, policy.config)[0]
            values.append(own.numpy())
            chosen.append(int(own.argmax()))
            (action,) = policy.act(state.numpy(), len(chosen) - 1)
            observation, _, terminated, truncated, _ = environment.step(action.astype(environment.action_space.dtype))
            over = bool(terminated or truncated)
    finally:
        environment.close()
    return Told(np.array(values), np.array(chosen))

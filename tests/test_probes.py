"""Whole algorithms on tasks whose answer is known: two action modes, and exact values through a delay."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from raymix.algorithms import base
from raymix.data import toy
from raymix.evaluation.policy import Policy
from raymix.evaluation.rollout import evaluate
from raymix.packing.local import LocalPack
from raymix.types import Dataset

SMALL = {"steps": 300, "batch_size": 64, "learning_rate": 3e-3, "hidden_dims": (32,)}
LOM = {
    "num_components": 3,
    "mdn_steps": 300,
    "mdn_batch_size": 64,
    "mdn_hidden_dims": (32,),
    "mdn_learning_rate": 3e-3,
    "critic_learning_rate": 3e-3,
    "hyper_critic_batch_size": 64,
    "steps": 400,
    "hidden_dims": (32,),
    "tau": 0.05,
}


def trained(algorithm: str, settings: dict, dataset: Dataset, seeds: int = 3) -> LocalPack:
    config = base.find(algorithm).configure(settings)
    pack = LocalPack(algorithm, config, list(range(seeds)), dataset, report_every=1_000, capture="eager")
    while not pack.finished:
        boundary = pack.advance()
        assert not any(boundary.diverged)
    return pack


def returns(pack: LocalPack, episodes: int = 200) -> list[float]:
    return [float(np.mean(evaluate(Policy(policy), episodes).returns)) for policy in pack.policies()]


@pytest.mark.parametrize("baseline", ["policy", "mode"])
def test_lom_finds_the_better_of_two_modes(baseline: str) -> None:
    """30 % of the data are in the mode that pays; averaging earns 0 and the heavier mode 0."""
    assert min(returns(trained("lom", {**LOM, "baseline": baseline}, toy.two_modes()))) > 0.95


def test_bc_falls_between_the_modes() -> None:
    assert max(returns(trained("bc", SMALL, toy.two_modes()))) == 0.0


def test_mdn_repeats_the_data() -> None:
    """200 episodes of a policy that earns 0.3: the standard error is 0.03."""
    for score in returns(trained("mdn", {**SMALL, "num_components": 3}, toy.two_modes())):
        assert 0.18 < score < 0.42


@pytest.mark.parametrize("discount", [0.5, 0.9])
def test_critics_learn_exact_values(discount: float) -> None:
    """A time limit taken for an end, or a bootstrap past an end, would halve or double them."""
    settings = {**LOM, "mdn_steps": 1, "steps": 1_500, "discount": discount, "tau": 0.2, "target_noise": 0.0}
    pack = trained("lom", settings, toy.chain(), seeds=2)
    states = np.eye(toy.CHAIN_LENGTH, dtype=np.float32)
    for seat in range(2):
        nets = networks_of(pack, seat)
        values = nets.critic(torch.from_numpy(states), torch.zeros(toy.CHAIN_LENGTH, 1))[0]
        np.testing.assert_allclose(values.numpy(), toy.chain_values(discount), atol=0.05)


def networks_of(pack: LocalPack, seat: int):
    """All networks of one member, to ask them."""
    from raymix.learner.networks import Networks, fresh_networks
    from raymix.learner.state import unflatten

    modules = fresh_networks(pack.algorithm, pack.dataset.spec, pack.config, seed=0)
    parameters = unflatten(pack._learner.state(seat).tensors)["parameters"]
    return Networks({name: module.requires_grad_(False) for name, module in modules.items()}, parameters)


def test_a_policy_acts_in_the_environments_own_box() -> None:
    """Networks know the unit box only; a policy that forgets to map back would move a robot too little."""
    pack = trained("bc", {**SMALL, "steps": 1}, toy.two_modes(), seeds=1)
    (plain,) = pack.policies()
    observations = np.random.default_rng(0).normal(size=(5, 2))
    unit = Policy(plain).act(observations, step=0)
    wide = Policy(dataclasses.replace(plain, spec={**plain.spec, "action_low": [2.0], "action_high": [12.0]}))
    np.testing.assert_allclose(wide.act(observations, step=0), 7.0 + 5.0 * unit, rtol=1e-6)


@pytest.mark.parametrize("episodes", [1, 8, 11])
def test_every_episode_is_played_once_from_its_own_seed(episodes: int) -> None:
    """Episodes are played several side by side; a score must not depend on how many, nor on the episodes after."""
    pack = trained("mdn", {**SMALL, "steps": 1}, toy.two_modes(), seeds=1)
    (plain,) = pack.policies()
    played = evaluate(Policy(plain), episodes)
    assert len(played.returns) == episodes and played.lengths == [1] * episodes
    assert evaluate(Policy(plain), episodes) == played

"""Advantage-weighted conditional GAN: WCGAN (Yang et al., 2022; compared with in Wang, Jin and Montana, 2024).

In every step, each update on a minibatch of its own:
- discriminator: D says whether an action is the data's, the data's counting by their weight,
                 minimise  -mean(w * log D(s, a)) - mean(w) * mean(log(1 - D(s, G(s, z)))),
                 w = min(exp(adv_scale * A), weight_max),   A = r + discount * V(s') - V(s),   z ~ N(0, I);
- generator:     minimise  mean(log(1 - D(s, G(s, z))))   or, `generator_objective="non_saturating"`, -mean(log D(.));
- value:         V(s) <- r + discount * V_target(s'), the value of the behaviour;
- every second step, the first one included, the target value follows with rate tau.

At its best the generator has the data's actions in proportion to their weights. It acts by G(s, 0), which is one
action that it may make at the state, not its mean nor its likeliest; with `acting_noise` 1 it acts by a sample.

Differences from the authors' code (the history of MianchuWang/LOM), each with its reason:
- The generator normalises its hidden layers by LayerNorm where theirs has BatchNorm. Running statistics would be
  state that a loss changes, shared by the members of a program and moved by the discriminator's calls too; LayerNorm
  has none, and acts as it trained. BatchNorm is not offered.
- The weights are constants for the discriminator's gradient. Theirs pass gradient into V, which V's own update then
  throws away.
- No noise of sd 1e-4 on the observations: a standardised observation does not feel it.
- `divide_by_std`, off by default, divides A by its deviation over the minibatch, for rewards of another size.
Differences of LOM's paper from that code, where the code is followed: the paper's weight is exp(A / beta) with beta 5,
the code's exp(2 A); the paper's second term of the discriminator does not have mean(w).
The authors' D is clipped to [1e-4, 1 - 1e-4]. A generator whose actions are all below it gets no gradient, in either
objective; `clipped` says how many are. With `generator_objective="saturating"`, theirs, the gradient fades long before.
Observations are standardised as in `lom`.

The preset `small` is too short for FetchReach: its generator still makes nearly one action at all states (return 2,
seeds 0 and 1; as much with `adv_scale` 1, and 2 to 3 with 0). Longer training helps: with `adv_scale` 1, seed 0, the
return by z = 0 was 16 after 10,000 steps and 23 after 30,000 (28 by drawn z). Other rates did not shorten that: 2 with
the generator's at 1e-3, 4 with 3e-4 and the discriminator's 3e-3, 0 with 6e-4 and 3e-3 in 5,000 steps, 3 with 1e-4 in
8,000; nor did the saturating objective (1 in 8,000; the discriminator is sure of 99 % of the generator's actions).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from raymix.algorithms.base import Algorithm, Phase, Update
from raymix.config import AlgorithmConfig, scalar, structure
from raymix.nn.layers import Standardise
from raymix.nn.values import Value
from raymix.random import Key
from raymix.types import Spec


@dataclass(frozen=True)
class Config(AlgorithmConfig):
    adv_scale: float = scalar(2.0, low=0, help="multiplies the advantage in the weight; 0 is the unweighted GAN")
    weight_max: float = scalar(50.0, low=0, help="cap of the weight")
    divide_by_std: bool = structure(False, help="divide the advantage by its standard deviation over the minibatch")
    generator_objective: str = structure(
        "saturating", choices=("saturating", "non_saturating"), help="log(1 - D), or -log D which does not fade"
    )
    noise_dim: int = structure(10, low=1, help="numbers in z, the generator's noise")
    acting_noise: float = scalar(0.0, low=0, help="sd of z when acting: 0 is one action per state, 1 a sample")
    reward_shift: float = scalar(0.0, help="added to every reward (antmaze: -1)")
    discount: float = scalar(0.99, low=0, high=1, help="discount per step")
    tau: float = scalar(0.005, low=0, high=1, help="share by which the target value moves to the value")
    generator_learning_rate: float = scalar(1e-4, low=0, help="Adam's rate for the generator")
    discriminator_learning_rate: float = scalar(1e-4, low=0, help="Adam's rate for the discriminator")
    value_learning_rate: float = scalar(1e-3, low=0, help="Adam's rate for the value")
    batch_size: int = structure(512, low=1, help="transitions per update")
    hidden_dims: tuple = structure((256, 256), help="hidden widths of generator, discriminator and value")


class Generator(nn.Module):
    """Action of a state and a noise vector: (B, S), (B, Z) -> (B, A) in the unit box."""

    def __init__(self, standardise: Standardise, noise_dim: int, hidden_dims: Sequence[int], action_dim: int) -> None:
        super().__init__()
        self.standardise = standardise
        layers: list[nn.Module] = []
        width = len(standardise.mean) + noise_dim
        for hidden in hidden_dims:
            layers += [nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.ReLU()]
            width = hidden
        self.trunk = nn.Sequential(*layers, nn.Linear(width, action_dim), nn.Tanh())

    def forward(self, observations: Tensor, noise: Tensor) -> Tensor:
        return self.trunk(torch.cat((self.standardise(observations), noise), -1))


D_MIN = 1e-4
"""The discriminator's probabilities stay this far from 0 and 1 (the authors')."""
LOG_ODDS_MAX = math.log((1.0 - D_MIN) / D_MIN)


class Discriminator(nn.Module):
    """Log-odds that an action is the data's: observations (B, S), actions (B, A) -> (B,); D is their sigmoid.

    Log-odds, because log D of a sigmoid rounds otherwise in one seat of a program than in another.
    """

    def __init__(self, standardise: Standardise, hidden_dims: Sequence[int], action_dim: int) -> None:
        super().__init__()
        self.standardise = standardise
        layers: list[nn.Module] = []
        width = len(standardise.mean) + action_dim
        for hidden in hidden_dims:
            layers += [nn.Linear(width, hidden), nn.LeakyReLU()]
            width = hidden
        self.trunk = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        log_odds = self.trunk(torch.cat((self.standardise(observations), actions), -1)).squeeze(-1)
        return log_odds.clamp(-LOG_ODDS_MAX, LOG_ODDS_MAX)


class WCGAN(Algorithm):
    """Imitates the whole distribution of the data's actions by a GAN, weighted by advantage."""

    Config = Config
    paper = "Yang et al., 2022, Rethinking goal-conditioned supervised learning and its connection to offline RL"
    acting = ("generator",)
    phases = (
        Phase(
            "main",
            (
                Update("discriminator_loss", "discriminator", "discriminator_learning_rate"),
                Update("generator_loss", "generator", "generator_learning_rate"),
                Update("value_loss", "value", "value_learning_rate"),
            ),
            targets=("value",),
            targets_every=2,
        ),
    )
    presets = {
        "paper": {"steps": 500_000},
        "antmaze": {"reward_shift": -1.0, "steps": 500_000},
        "small": {
            "adv_scale": 5.0,
            "generator_objective": "non_saturating",
            "discount": 0.9,
            "tau": 0.02,
            "generator_learning_rate": 2e-4,
            "discriminator_learning_rate": 1e-3,
            "batch_size": 256,
            "steps": 3_000,
        },
    }

    def networks(self, spec: Spec, config: Any) -> dict[str, nn.Module]:
        standardise = Standardise.noisy(spec)
        hidden = config.hidden_dims
        return {
            "discriminator": Discriminator(standardise, hidden, spec.action_dim),
            "generator": Generator(standardise, config.noise_dim, hidden, spec.action_dim),
            "value": Value(standardise, hidden),
        }

    def discriminator_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        observations = batch.observations
        weights = self.weights(nets, batch, config)
        real = nets.discriminator(observations, batch.actions)
        generated = nets.generator(observations, key.normal(len(observations), config.noise_dim))
        fake = nets.discriminator(observations, generated)
        # log D is logsigmoid of the log-odds, and log(1 - D) of their negative.
        loss = -(weights * logsigmoid(real)).mean() - weights.mean() * logsigmoid(-fake).mean()
        return loss, {
            "d_real": logsigmoid(real).exp().mean(),
            "d_fake": logsigmoid(fake).exp().mean(),
            "clipped": (fake <= -LOG_ODDS_MAX).to(fake.dtype).mean(),
            "weight_mean": weights.mean(),
            "weight_capped": (weights >= config.weight_max).to(weights.dtype).mean(),
        }

    def generator_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        observations = batch.observations
        actions = nets.generator(observations, key.normal(len(observations), config.noise_dim))
        fake = nets.discriminator(observations, actions)
        saturating = config.generator_objective == "saturating"
        loss = logsigmoid(-fake).mean() if saturating else -logsigmoid(fake).mean()
        return loss, {"action_std": actions.std(0, correction=0).mean()}

    def value_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        rewards = batch.rewards + config.reward_shift
        target = rewards + config.discount * (1.0 - batch.terminals) * nets.target.value(batch.next_observations)
        value = nets.value(batch.observations)
        return (target - value).square().mean(), {"value_mean": value.mean()}

    def weights(self, nets: Any, batch: Any, config: Any) -> Tensor:
        """(B,) without gradient: min(exp(adv_scale * A), weight_max)."""
        next_value = nets.value(batch.next_observations)
        rewards = batch.rewards + config.reward_shift
        advantage = rewards + config.discount * (1.0 - batch.terminals) * next_value - nets.value(batch.observations)
        if config.divide_by_std:
            advantage = advantage / (advantage.std(correction=0) + 1e-6)
        return torch.minimum(torch.exp(config.adv_scale * advantage), config.weight_max).detach()

    def sample_actions(self, nets: Any, observations: Tensor, config: Any, key: Key | None = None) -> Tensor:
        shape = (len(observations), config.noise_dim)
        noise = observations.new_zeros(shape) if key is None else config.acting_noise * key.normal(*shape)
        return nets.generator(observations, noise)

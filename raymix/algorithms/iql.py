"""Implicit Q-learning: IQL (Kostrikov, Nair and Levine, 2022).

No action outside the data is ever valued. In this order in every step:

- value:        u = min_k Q_k_target(s, a) - V(s),  minimise  |expectile - 1(u < 0)| * u^2;
- policy:       u as before with the new V,  w = min(exp(beta * u), weight_max),  minimise  -w * log pi(a|s);
- critics:      Q(s, a) <- r + discount * V(s');
- then the slow copies of the critics follow with rate tau.

The policy is a Gaussian with mean tanh(.) and a standard deviation of its own, not squashed; its learning rate falls to
0 over the phase as half a cosine wave. It acts by its mean.

Differences from the authors' code (ikostrikov/implicit_q_learning), each with its reason:
- PyTorch's initialisation of layers in place of orthogonal matrices, as in every algorithm here.
- `beta` is their temperature, by which they multiply.
The preset `dmpo_port` is the IQL that DMPO (Osa et al., 2023) compares with, from their code: raw rewards, standardised
observations, weights exp(beta * (u - max u) / (max u - min u)) not divided by their mean (plus 1e-8 in the width, which
theirs divides by zero), policy and slow critics in every second step, and a standard deviation of the state clamped to
[0.0067, 0.0216] by a function that is applied twice, which makes the likelihood a squared error with a large factor.
Its cosine is set to twice the number of steps there, so that the rate stops at half; here it falls to 0.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raymix.algorithms.base import Algorithm, Phase, Update
from raymix.config import AlgorithmConfig, scalar, structure
from raymix.nn.layers import RewardScale, Standardise
from raymix.nn.losses import WEIGHTINGS, advantage_weights, expectile_loss, gaussian_log_prob
from raymix.nn.policies import Gaussian, bounded_log_std
from raymix.nn.values import Critics, Value
from raymix.random import Key
from raymix.types import Spec

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
EDGE = 1e-5
"""The data's actions are kept so far inside the box."""


@dataclass(frozen=True)
class Config(AlgorithmConfig):
    num_critics: int = structure(2, low=1, help="K: critics")
    expectile: float = scalar(0.7, low=0, high=1, help="of Q over the data's actions that V follows (antmaze: 0.9)")
    beta: float = scalar(3.0, low=0, help="multiplies the advantage (antmaze: 10, adroit and kitchen: 0.5)")
    weight_max: float = scalar(100.0, low=0, help="cap of the weight")
    reward_shift: float = scalar(0.0, help="added to the scaled rewards (antmaze: -1)")
    discount: float = scalar(0.99, low=0, high=1, help="discount per step")
    tau: float = scalar(0.005, low=0, high=1, help="share by which target critics move to the critics")
    value_learning_rate: float = scalar(3e-4, low=0, help="Adam's rate for V")
    critic_learning_rate: float = scalar(3e-4, low=0, help="Adam's rate for the critics")
    policy_learning_rate: float = scalar(3e-4, low=0, help="Adam's rate for the policy, falling to 0")
    batch_size: int = structure(256, low=1, help="transitions per step, shared by its updates")
    policy_every: int = structure(1, low=1, help="policy and targets move in the last of so many steps")
    hidden_dims: tuple = structure((256, 256), help="hidden widths of all networks")
    dropout: float = structure(0.0, low=0, high=0.9, help="share of the policy's hidden units left out (adroit: 0.1)")
    policy_std: str = structure("free", choices=("free", "port"), help="a parameter, or the port's, of the state")
    standardise: bool = structure(False, help="standardise observations, which the authors do not")
    reward_scaling: str = structure("none", choices=RewardScale.CHOICES, help="'returns' for locomotion")
    weighting: str = structure("clamped", choices=WEIGHTINGS, help="form of the weight")
    divide_by_mean: bool = structure(True, help="divide weights by their mean, where they are not clamped")


class Policy(nn.Module):
    """Gaussian with dropout: observations (B, S), uniform noise (B, width) per hidden layer or none -> `Gaussian`."""

    def __init__(
        self, standardise: Standardise, hidden_dims: tuple[int, ...], action_dim: int, std: str, dropout: float
    ) -> None:
        super().__init__()
        self.standardise, self.dropout = standardise, dropout
        widths = (len(standardise.mean), *hidden_dims)
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in itertools.pairwise(widths))
        self.mean = nn.Linear(widths[-1], action_dim)
        if std == "free":
            self.log_std = nn.Parameter(torch.zeros(action_dim))
        else:
            self.state_log_std = nn.Linear(widths[-1], action_dim)

    def forward(self, observations: Tensor, *noise: Tensor) -> Gaussian:
        features = self.standardise(observations)
        for layer, uniform in itertools.zip_longest(self.hidden, noise):
            features = torch.relu(layer(features))
            if uniform is not None:
                features = features * (uniform >= self.dropout) / (1.0 - self.dropout)
        if hasattr(self, "log_std"):
            log_std = self.log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
        else:
            log_std = bounded_log_std(self.state_log_std(features), "port")
        return Gaussian(torch.tanh(self.mean(features)), log_std)


class IQL(Algorithm):
    """Values by expectile regression within the data, then imitation weighted by advantage."""

    Config = Config
    paper = "Kostrikov, Nair and Levine, 2022, Offline Reinforcement Learning with Implicit Q-Learning"
    acting = ("policy",)
    phases = (
        Phase(
            "main",
            (
                Update("value_loss", "value", "value_learning_rate"),
                Update(
                    "policy_loss",
                    "policy",
                    "policy_learning_rate",
                    pace="policy_every",
                    batch_of="value_loss",
                    schedule="cosine",
                ),
                Update("critic_loss", "critic", "critic_learning_rate", batch_of="value_loss"),
            ),
            targets=("critic",),
            targets_pace="policy_every",
        ),
    )
    presets = {
        "paper": {"reward_scaling": "returns", "steps": 1_000_000},
        "mujoco": {"reward_scaling": "returns", "steps": 1_000_000},
        "antmaze": {"expectile": 0.9, "beta": 10.0, "reward_shift": -1.0, "steps": 1_000_000},
        "adroit": {"beta": 0.5, "dropout": 0.1, "steps": 1_000_000},
        "kitchen": {"beta": 0.5, "dropout": 0.1, "steps": 1_000_000},
        "dmpo_port": {
            "beta": 10.0,
            "weighting": "normalized",
            "divide_by_mean": False,
            "policy_every": 2,
            "policy_std": "port",
            "standardise": True,
            "steps": 1_000_000,
        },
        "small": {
            "discount": 0.9,
            "tau": 0.02,
            "value_learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
            "policy_learning_rate": 1e-3,
            "batch_size": 256,
            "hidden_dims": (256, 256),
            "steps": 3_000,
            "standardise": True,
        },
    }

    def networks(self, spec: Spec, config: Any) -> dict[str, nn.Module]:
        standardise = Standardise.of(spec, 1e-3) if config.standardise else Standardise.nothing(spec)
        hidden = config.hidden_dims
        return {
            "value": Value(standardise, hidden),
            "critic": Critics(config.num_critics, standardise, spec.action_dim, hidden),
            "policy": Policy(standardise, hidden, spec.action_dim, config.policy_std, config.dropout),
            "reward_scale": RewardScale(spec, config.reward_scaling),
        }

    def value_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        difference = self.advantage(nets, batch)
        return expectile_loss(difference, config.expectile).mean(), {"advantage_mean": difference.mean()}

    def policy_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        weights = advantage_weights(
            self.advantage(nets, batch), config.weighting, config.beta, config.divide_by_mean, config.weight_max
        )
        observations = batch.observations
        noise = [key.uniform(len(observations), width) for width in config.hidden_dims] if config.dropout else []
        policy = nets.policy(observations, *noise)
        log_prob = gaussian_log_prob(policy, self.inner(batch.actions))
        return -(weights * log_prob).mean(), {
            "weight_mean": weights.mean(),
            "weight_max": weights.amax(),
            "log_prob": log_prob.mean(),
            "action_std": policy.log_std.exp().mean(),
        }

    def critic_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        rewards = nets.reward_scale(batch.rewards) + config.reward_shift
        target = rewards + config.discount * (1.0 - batch.terminals) * nets.value(batch.next_observations)
        q = nets.critic(batch.observations, self.inner(batch.actions))
        return (q - target).square().mean(-1).sum(), {"q_mean": q.mean(), "q_target_mean": target.mean()}

    def advantage(self, nets: Any, batch: Any) -> Tensor:
        """(B,): min_k Q_k_target(s, a) - V(s)."""
        q = nets.target.critic(batch.observations, self.inner(batch.actions)).amin(0)
        return q - nets.value(batch.observations)

    def inner(self, actions: Tensor) -> Tensor:
        """Actions kept `EDGE` inside the box."""
        return actions.clamp(EDGE - 1.0, 1.0 - EDGE)

    def sample_actions(self, nets: Any, observations: Tensor, config: Any, key: Key | None = None) -> Tensor:
        return nets.policy(observations).mean

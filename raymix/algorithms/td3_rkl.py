"""TD3+RKL: TD3+BC with an adaptively weighted reverse-KL term in the place of cloning (Cai et al., 2022).

1. Phase `behavior`. A Gaussian N(mean_b(s), sigma_b(s)) models the data's actions by maximum likelihood.
2. Phase `main` is that of `td3_bc`, but that the policy minimises

       -q_scale / mean|Q_1(s, mu(s))| * mean Q_1(s, mu(s)) + mean of  w(s) * [ |mu(s) - a|^2 - alpha * |mu(s) - n|^2 ]

   with n the mean of two random actions of the data, and the weight w(s) = 1 / (1 + exp(zeta1 * u(s) - zeta2)), the
   paper's lambda: large where the behaviour's uncertainty u(s) is small.

The authors released no code. All of the behaviour model but its likelihood is our choice: two layers of 256, 100,000
steps, log sigma_b in [-5, 1], u a mean over the action's dimensions; squared errors are such means as in TD3+BC.

Where the paper is not followed, and what is to be known of it:
- `uncertainty`: the paper's u is log sigma_b^2 with (zeta1, zeta2) = (10, 5). Actions in [-1, 1] have a variance below
  1, so w is above 0.99 everywhere (`"log_var"`), which cannot give the paper's histogram. `"std"`, u = sigma_b, is the
  default: w is 0.32 for uniform actions and 0.99 for sigma_b = 0.05. `"log_var_pretanh"` takes the variance of a
  Gaussian before tanh; it needs zeta2 = -5 (preset `pretanh`).
- `calibrate`: zeta1 and zeta2 are set where the phase `main` begins, so that w is 0.5 at the median of u over the data
  and falls from 0.99 to 0.01 over the width between its 5 % and 95 % quantiles; the two hyperparameters are not read.
- A warning is logged there if the std of w over the data is below 1e-3: one weight for all states is not this method.
- With `alpha` = 1, as published, the term is linear in mu(s): it has no minimum, and pushes mu(s) along the mean action
  of the state minus that of the data until tanh or the value stops it (watch `policy_saturated` and `pre_tanh`).
  `alpha` < 1 is convex with its minimum at (E[a|s] - alpha * E[a]) / (1 - alpha): it does not seek a mode.
- `bandwidth` > 0 is Eq. 17, before the paper drops the exponential: w * [-k(mu - a) + alpha * k(mu - n)] with
  k(d) = exp(-|d|^2 / (2 * bandwidth^2)). This one does.
- w(s) is computed for each minibatch, not kept per transition: losses know states, not their numbers.
- The two random actions are those of other transitions of the minibatch, which is drawn uniformly.
As in `td3_bc`: mean|Q| is at least 1e-6, and `reward_shift` is for antmaze, on which nothing is published.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from raymix.algorithms.base import Algorithm, Data, Phase, Update
from raymix.config import AlgorithmConfig, scalar, schedule, structure
from raymix.nn.layers import Standardise
from raymix.nn.losses import gaussian_log_prob, squashed_log_prob
from raymix.nn.policies import BoundedGaussianPolicy, DeterministicPolicy, Gaussian
from raymix.nn.values import Critics
from raymix.random import Key
from raymix.types import Spec

_logger = logging.getLogger(__name__)
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Config(AlgorithmConfig):
    q_scale: float = scalar(2.5, low=0, help="weight of the value term once divided by mean |Q| (the paper's alpha)")
    alpha: float = scalar(1.0, low=0, help="weight of the term that pushes away from the data's mean action")
    zeta1: float = scalar(10.0, help="slope of the weight in the behaviour's uncertainty")
    zeta2: float = scalar(5.0, help="offset of the weight: it is 0.5 where the uncertainty is zeta2 / zeta1")
    uncertainty: str = structure(
        "std",
        choices=("std", "log_var", "log_var_pretanh"),
        help="u(s); log_var is the paper's, and constant in effect",
    )
    calibrate: bool = structure(False, help="set zeta1 and zeta2 by quantiles of the uncertainty over the data")
    bandwidth: float = scalar(0.0, low=0, help="width of the Gaussian kernel of Eq. 17; 0: squared errors, Eq. 7")
    num_critics: int = structure(2, low=1, help="critics; targets take their minimum, the policy uses the first")
    target_noise: float = scalar(0.2, low=0, help="sd of noise added to the target policy's action")
    target_noise_clip: float = scalar(0.5, low=0, help="largest size of that noise")
    discount: float = scalar(0.99, low=0, high=1, help="discount per step")
    tau: float = scalar(0.005, low=0, high=1, help="share by which targets move to the critics and the policy")
    reward_shift: float = scalar(0.0, help="added to every reward")
    critic_learning_rate: float = scalar(3e-4, low=0, help="Adam's rate for the critics")
    policy_learning_rate: float = scalar(3e-4, low=0, help="Adam's rate for the policy")
    behavior_learning_rate: float = scalar(3e-4, low=0, help="Adam's rate for the behaviour model")
    behavior_steps: int = schedule(100_000, low=1, help="gradient steps of the behaviour phase")
    behavior_hidden_dims: tuple = structure((256, 256), help="hidden widths of the behaviour model")
    batch_size: int = structure(256, low=1, help="transitions per step")
    hidden_dims: tuple = structure((256, 256), help="hidden widths of critics and policy")


class Calibration(nn.Module):
    """zeta1 and zeta2 as set on the data: () -> two 0-d tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.zeta1, self.zeta2 = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.zeta1, self.zeta2


class TD3RKL(Algorithm):
    """Maximises the value and seeks the data's actions, most where they are narrow, away from their overall mean."""

    Config = Config
    paper = "Cai et al., 2022, TD3 with Reverse KL Regularizer for Offline Reinforcement Learning from Mixed Datasets"
    acting = ("policy",)
    phases = (
        Phase(
            "behavior",
            (Update("behavior_loss", "behavior", "behavior_learning_rate"),),
            steps="behavior_steps",
        ),
        Phase(
            "main",
            (
                Update("critic_loss", "critic", "critic_learning_rate"),
                Update("policy_loss", "policy", "policy_learning_rate", every=2, first=1, batch_of="critic_loss"),
            ),
            targets=("critic", "policy"),
            targets_every=2,
            targets_first=1,
        ),
    )
    presets = {
        "paper": {"steps": 1_000_000},
        "mujoco": {"steps": 1_000_000},
        "literal": {"uncertainty": "log_var"},
        "pretanh": {"uncertainty": "log_var_pretanh", "zeta2": -5.0},
        "antmaze": {"reward_shift": -1.0, "steps": 1_000_000},
        "small": {
            "q_scale": 0.5,
            "alpha": 0.5,
            "discount": 0.9,
            "tau": 0.02,
            "critic_learning_rate": 1e-3,
            "policy_learning_rate": 1e-3,
            "behavior_learning_rate": 1e-3,
            "behavior_steps": 2_000,
            "steps": 4_000,
        },
    }

    def networks(self, spec: Spec, config: Any) -> dict[str, nn.Module]:
        standardise = Standardise.of(spec, 1e-3)
        behavior = BoundedGaussianPolicy(
            standardise,
            config.behavior_hidden_dims,
            spec.action_dim,
            tanh_mean=config.uncertainty != "log_var_pretanh",
            log_std_range=(-5.0, 1.0),
            soft_range=False,
        )
        return {
            "behavior": behavior,
            **({"calibration": Calibration()} if config.calibrate else {}),
            "critic": Critics(config.num_critics, standardise, spec.action_dim, config.hidden_dims),
            "policy": DeterministicPolicy(standardise, config.hidden_dims, spec.action_dim),
        }

    def enter_phase(self, phase: Phase, tensors: Mapping[str, Tensor], data: Data, config: Any) -> dict[str, Tensor]:
        observations = data.observations[data.rows]
        prefix = "parameters/behavior/"
        parameters = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
        parameters = {name: value.to(observations) for name, value in parameters.items()}
        behavior = self.networks(data.spec, config)["behavior"].to(observations)
        with torch.no_grad():
            parts = (functional_call(behavior, parameters, (some,)) for some in observations.split(_ROWS_AT_ONCE))
            uncertainty = torch.cat([self.uncertainty(part, config) for part in parts])
        zeta1, zeta2 = calibrated(uncertainty) if config.calibrate else (config.zeta1, config.zeta2)
        spread = float(weight(uncertainty, zeta1, zeta2).std(correction=0))
        if spread < 1e-3:
            _logger.warning(
                "td3_rkl weighs all states of %s alike (the weights' std is %.1e); where the data's actions spread more"
                " in some states than in others, calibrate=True tells them apart",
                data.spec.name,
                spread,
            )
        if not config.calibrate:
            return {}
        return {"parameters/calibration/zeta1": zeta1, "parameters/calibration/zeta2": zeta2}

    def behavior_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        behavior = nets.behavior(batch.observations)
        log_prob = squashed_log_prob if config.uncertainty == "log_var_pretanh" else gaussian_log_prob
        return -log_prob(behavior, batch.actions).mean(), {"behavior_std": behavior.log_std.exp().mean()}

    def critic_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        clip = config.target_noise_clip
        noise = (config.target_noise * key.normal(*batch.actions.shape)).clamp(-clip, clip)
        next_actions = (nets.target.policy(batch.next_observations) + noise).clamp(-1.0, 1.0)
        next_q = nets.target.critic(batch.next_observations, next_actions).amin(0)
        rewards = batch.rewards + config.reward_shift
        target = rewards + config.discount * (1.0 - batch.terminals) * next_q
        q = nets.critic(batch.observations, batch.actions)
        return (q - target).square().mean(-1).sum(), {"q_mean": q.mean(), "q_target_mean": target.mean()}

    def policy_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        actions = nets.policy(batch.observations)
        q = nets.critic(batch.observations, actions)[0]
        q_factor = config.q_scale / q.abs().mean().detach().clamp(min=1e-6)
        uncertainty = self.uncertainty(nets.behavior(batch.observations), config)
        zetas = nets.calibration() if config.calibrate else (config.zeta1, config.zeta2)
        weights = weight(uncertainty, *zetas)
        attraction = distance(actions, batch.actions, config.bandwidth)
        repulsion = config.alpha * distance(actions, negatives(batch.actions, key), config.bandwidth)
        regulariser = (weights * (attraction - repulsion)).mean()
        size = actions.abs().clamp(max=1.0 - 1e-6)
        return regulariser - q_factor * q.mean(), {
            "attraction": attraction.mean(),
            "repulsion": repulsion.mean(),
            "regulariser": regulariser,
            "weight_mean": weights.mean(),
            "weight_std": weights.std(correction=0),
            "pre_tanh": (0.5 * torch.log((1.0 + size) / (1.0 - size))).mean(),
            "q_factor": q_factor,
            "policy_saturated": (actions.abs() > 0.99).to(actions.dtype).mean(),
        }

    def uncertainty(self, behavior: Gaussian, config: Any) -> Tensor:
        """(B,): the behaviour's std or log-variance, mean over the action's dimensions."""
        return behavior.log_std.exp().mean(-1) if config.uncertainty == "std" else 2.0 * behavior.log_std.mean(-1)

    def sample_actions(self, nets: Any, observations: Tensor, config: Any, key: Key | None = None) -> Tensor:
        return nets.policy(observations)


def weight(uncertainty: Tensor, zeta1: Tensor | float, zeta2: Tensor | float) -> Tensor:
    """The paper's lambda: (B,) -> (B,) in [0, 1], falling in the uncertainty."""
    # Not torch.sigmoid: on a CPU its last bit depends on where in the tensor a number lies, so on the member's seat.
    return 1.0 / (1.0 + torch.exp(zeta1 * uncertainty - zeta2))


def calibrated(uncertainty: Tensor) -> tuple[Tensor, Tensor]:
    """zeta1 and zeta2 that make the weight 0.5 at the median, and 0.99 to 0.01 over the 5 % to 95 % width, of (R,)."""
    ordered = uncertainty.sort().values  # torch.quantile takes at most 2^24 values.
    low, median, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.05, 0.5, 0.95))
    # Where all states are alike there is nothing to tell apart: the floor keeps the weight at 0.5.
    zeta1 = 2.0 * math.log(99.0) / (high - low).clamp(min=1e-3)
    return zeta1, zeta1 * median


def distance(actions: Tensor, others: Tensor, bandwidth: Tensor) -> Tensor:
    """(B,): mean squared difference over dimensions, or -exp(-it / (2 * bandwidth^2)) where bandwidth > 0."""
    squared = (actions - others).square().mean(-1)
    kernel = -torch.exp(-squared / (2.0 * bandwidth.square()).clamp(min=1e-12))
    return torch.where(bandwidth > 0, kernel, squared)


def negatives(actions: Tensor, key: Key) -> Tensor:
    """(B, A): for each row the mean of the actions of two random other rows."""
    size = actions.shape[0]
    # Another row, never its own: its action is then independent of this row's state, as if drawn from all data.
    rows = (torch.arange(size, device=actions.device) + 1 + key.integers(max(size - 1, 1), 2, size)) % size
    return actions[rows].mean(0)

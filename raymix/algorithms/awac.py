"""Advantage-weighted actor-critic: AWAC (Nair, Gupta, Dalal and Levine, 2020) in the form that DMPO compares with.

One Gaussian policy pi(a|s) = N(tanh(.), std(s)), not squashed. In this order in every step:

- critics:      Q(s, a) <- r + discount * min_k Q_k_target(s', a'),  a' ~ pi(.|s');
and in every `policy_every`-th step, on the same minibatch:
- policy:       A = min_k Q_k(s, a) - mean of min_k Q_k(s, a_i), a_1 ... a_n ~ pi_target(.|s),
                w = exp(alpha * (A - max A) / (max A - min A)) over the minibatch, divided by its mean,
                minimise  -w * log pi(a|s);
- then the slow copies of critics and policy follow with rate tau.

The policy acts by its mean.

Differences from the authors' code (TakaOsa/DMPO), each with its reason:
- The weight is the normalised one that their paper states; the code's own default has no width (`weighting="plain"`),
  and the AWAC of Nair et al. caps exp(alpha * A) (`weighting="clamped"`, alpha = 1 / lambda).
- 1e-8 in the width of the advantages: theirs divides by zero where all are equal.
- The batch has 256 transitions as DMPO's, the same budget of data (preset `paper`: their Table 11 says 1,024).
Kept from that code: sampled actions reach the critics unclipped, up to .55 * noise beyond the box, which DMPO's do not
(`clip_target_actions` is the control: part of what their Figures 3 and 4 show may come from this); and the log standard
deviation passes through tanh twice, which keeps it in (-4.404, -0.596) (`single_tanh`: in (-5, 0)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from raymix.algorithms.base import Algorithm, Phase, Update
from raymix.config import AlgorithmConfig, scalar, structure
from raymix.nn.layers import Standardise
from raymix.nn.losses import WEIGHTINGS, advantage_weights, gaussian_log_prob
from raymix.nn.policies import StateGaussianPolicy
from raymix.nn.values import Critics
from raymix.random import Key
from raymix.types import Spec


@dataclass(frozen=True)
class Config(AlgorithmConfig):
    num_critics: int = structure(2, low=1, help="K: critics")
    num_baseline_samples: int = structure(5, low=1, help="n: actions whose mean value is the advantage's baseline")
    alpha: float = scalar(10.0, low=0, help="multiplies the scaled advantage (antmaze and adroit-human: 5)")
    reward_scale: float = scalar(1.0, help="rewards are reward_scale * r + reward_shift")
    reward_shift: float = scalar(0.0, help="antmaze: -1")
    discount: float = scalar(0.99, low=0, high=1, help="discount per step")
    tau: float = scalar(0.005, low=0, high=1, help="share by which targets move")
    critic_learning_rate: float = scalar(3e-4, low=0, help="Adam's rate for the critics")
    policy_learning_rate: float = scalar(3e-4, low=0, help="Adam's rate for the policy")
    batch_size: int = structure(256, low=1, help="transitions per step, shared by its updates (preset paper: 1,024)")
    policy_every: int = structure(2, low=1, help="policy and targets move in the last of so many steps")
    hidden_dims: tuple = structure((256, 256), help="hidden widths of all networks")
    weighting: str = structure("normalized", choices=WEIGHTINGS, help="form of the weight; 'clamped' is capped at 100")
    divide_by_mean: bool = structure(True, help="divide weights by their mean over the minibatch")
    single_tanh: bool = structure(False, help="squash the log standard deviation once instead of twice")
    clip_target_actions: bool = structure(False, help="clip sampled actions to the box before critics see them")


class AWAC(Algorithm):
    """Imitates the data's actions, weighted by their advantage over the policy's own."""

    Config = Config
    paper = "Nair, Gupta, Dalal and Levine, 2020, AWAC; the form of Osa et al., 2023, Mixture of Deterministic Policies"
    acting = ("policy",)
    phases = (
        Phase(
            "main",
            (
                Update("critic_loss", "critic", "critic_learning_rate"),
                Update("policy_loss", "policy", "policy_learning_rate", pace="policy_every", batch_of="critic_loss"),
            ),
            targets=("critic", "policy"),
            targets_pace="policy_every",
        ),
    )
    presets = {
        "paper": {"batch_size": 1024, "steps": 1_000_000},
        "mujoco": {"steps": 1_000_000},
        "adroit": {"alpha": 5.0, "steps": 1_000_000},
        "adroit_human": {"alpha": 5.0, "steps": 20_000},
        "antmaze": {
            "alpha": 5.0,
            "reward_shift": -1.0,
            "critic_learning_rate": 2e-4,
            "policy_learning_rate": 2e-4,
            "hidden_dims": (256, 256, 256),
            "steps": 1_000_000,
        },
        "small": {
            "discount": 0.9,
            "tau": 0.02,
            "critic_learning_rate": 1e-3,
            "policy_learning_rate": 1e-3,
            "steps": 3_000,
        },
    }

    def networks(self, spec: Spec, config: Any) -> dict[str, nn.Module]:
        standardise = Standardise.of(spec, 1e-3)
        hidden = config.hidden_dims
        return {
            "critic": Critics(config.num_critics, standardise, spec.action_dim, hidden),
            "policy": StateGaussianPolicy(
                standardise, hidden, spec.action_dim, "once" if config.single_tanh else "twice"
            ),
        }

    def critic_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        next_actions = self.sampled(nets, batch.next_observations, 1, config, key)[0]
        next_q = nets.target.critic(batch.next_observations, next_actions).amin(0)
        rewards = config.reward_scale * batch.rewards + config.reward_shift
        target = rewards + config.discount * (1.0 - batch.terminals) * next_q
        q = nets.critic(batch.observations, batch.actions)
        return (q - target).square().mean(-1).sum(), {"q_mean": q.mean(), "q_target_mean": target.mean()}

    def policy_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        observations = batch.observations
        own_actions = self.sampled(nets.target, observations, config.num_baseline_samples, config, key)
        flat_observations = observations.expand(config.num_baseline_samples, *observations.shape).flatten(0, 1)
        own_values = nets.critic(flat_observations, own_actions.flatten(0, 1)).amin(0)
        baseline = own_values.reshape(own_actions.shape[:2]).mean(0)
        advantage = nets.critic(observations, batch.actions).amin(0) - baseline
        weights = advantage_weights(advantage, config.weighting, config.alpha, config.divide_by_mean)
        policy = nets.policy(observations)
        log_prob = gaussian_log_prob(policy, batch.actions)
        return -(weights * log_prob).mean(), {
            "advantage_mean": advantage.mean(),
            "weight_max": weights.amax(),
            "log_prob": log_prob.mean(),
            "action_std": policy.log_std.exp().mean(),
        }

    def sampled(self, nets: Any, observations: Tensor, count: int, config: Any, key: Key) -> Tensor:
        """(count, B, A): actions of the policy of `nets`, beyond the box too unless they are clipped."""
        policy = nets.policy(observations)
        actions = policy.mean + policy.log_std.exp() * key.normal(count, *policy.mean.shape)
        return actions.clamp(-1.0, 1.0) if config.clip_target_actions else actions

    def sample_actions(self, nets: Any, observations: Tensor, config: Any, key: Key | None = None) -> Tensor:
        return nets.policy(observations).mean

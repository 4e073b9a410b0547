"""BRAC-v: behaviour-regularised actor-critic with a value penalty (Wu, Tucker and Nachum, 2019).

1. Phase `behavior`. A Gaussian squashed by tanh, b(a|s), models the data's actions: it minimises
   -log b(a|s) + lambda * log b(a~|s), a~ ~ b(.|s), where lambda >= 0 is trained so that the entropy is at least
   `target_entropy` per action dimension.
2. Phase `warm_start`: as `main`, with the values left out of the policy's loss.
3. Phase `main`, in this order in every step:
   - critics:  Q(s, a) <- r + discount * (min_k Q_k_target(s', a') - alpha * D(s') - entropy_weight * log pi(a'|s')),
               a' ~ pi(.|s');
   - policy:   minimise  alpha * D(s) + entropy_weight * log pi(a|s) - min_k Q_k(s, a),  a ~ pi(.|s) reparametrised;
   - the target critics follow with rate tau.
   D(s) is the mean of log pi(a_i|s) - log b(a_i|s) over `num_samples` actions of pi, from 0 to `divergence_max`.
   `value_penalty=False` leaves D out of the critics' targets (BRAC-p).

Behaviour and policy have one architecture: tanh Gaussians with log std = -5 + 2.5 * (1 + tanh) in [-5, 0]. Actions of
the data and of the policies are kept 1e-3 inside the box, where tanh has a finite inverse; that clip stops the gradient
of a sample at the edge. It acts by tanh of the mean. D is a reverse KL and seeks a mode of b, but b has only one.

Two sources, both with alpha fixed: the defaults are those of the authors' script (google-research/brac); the preset
`paper` is that of LBRAC-v (Altriaex/multi_source_behavior_modeling), whose table compares with it: alpha 1, a slower
policy, three layers, ten samples, a longer first phase.
Differences from the authors' code, each with its reason:
- The warm start is a phase of its own: Adam's moments and counts begin again at its end.
- D is raised to 0 in each state, as in LBRAC-v's code: a divergence is not negative, its estimate may be.
- `divergence_max` is ours: far from the data log b falls without bound.
- lambda is the exponential of its parameter, and starts at 1; theirs is clipped at 0.
- Targets follow after the step's updates, theirs before; the same but for the first step.
- LBRAC-v's behaviour has two layers and its policy three, so its checkpoint cannot be loaded; one width serves both.
- They also train alpha (clipped to [0, 500]) and act by the best of many samples as options, which are not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raymix.algorithms.base import Algorithm, Phase, Update
from raymix.config import AlgorithmConfig, scalar, schedule, structure
from raymix.nn.layers import Standardise
from raymix.nn.losses import squashed_log_prob
from raymix.nn.policies import BoundedGaussianPolicy, Gaussian
from raymix.nn.values import Critics
from raymix.random import Key
from raymix.types import Spec

EDGE = 1e-3
"""Actions are kept this far inside the box (the authors')."""


@dataclass(frozen=True)
class Config(AlgorithmConfig):
    steps: int = schedule(480_000, low=1, help="gradient steps of the main phase, after the warm start")
    behavior_steps: int = schedule(300_000, low=1, help="gradient steps of the behaviour phase")
    warm_start_steps: int = schedule(20_000, low=1, help="gradient steps in which the policy only imitates")
    alpha: float = scalar(0.1, low=0, help="weight of the divergence")
    entropy_weight: float = scalar(0.0, low=0, help="weight of log pi in targets and in the policy's loss")
    value_penalty: bool = structure(True, help="take the divergence off the critics' targets; false is BRAC-p")
    num_samples: int = structure(4, low=1, help="actions per state in the divergence")
    divergence_max: float = scalar(1_000.0, low=0, help="cap of the divergence in each state")
    target_entropy: float = scalar(-1.0, help="least entropy of the behaviour model, per action dimension")
    num_critics: int = structure(2, low=1, help="critics; targets and the policy take their minimum")
    discount: float = scalar(0.99, low=0, high=1, help="discount per step")
    tau: float = scalar(0.005, low=0, high=1, help="share by which target critics move to the critics")
    behavior_learning_rate: float = scalar(5e-4, low=0, help="Adam's rate for the behaviour and for lambda")
    critic_learning_rate: float = scalar(1e-3, low=0, help="Adam's rate for the critics")
    policy_learning_rate: float = scalar(3e-4, low=0, help="Adam's rate for the policy")
    batch_size: int = structure(256, low=1, help="transitions per step of every phase")
    policy_hidden_dims: tuple = structure((200, 200), help="hidden widths of behaviour and policy")
    critic_hidden_dims: tuple = structure((300, 300), help="hidden widths of the critics")


class EntropyWeight(nn.Module):
    """lambda: () -> a positive 0-d tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.log_weight = nn.Parameter(torch.zeros(()))

    def forward(self) -> Tensor:
        return self.log_weight.exp()


CRITIC = Update("critic_loss", "critic", "critic_learning_rate")


class BRACV(Algorithm):
    """Maximises the value less the divergence from a model of the behaviour."""

    Config = Config
    paper = "Wu, Tucker and Nachum, 2019, Behavior Regularized Offline Reinforcement Learning"
    acting = ("policy",)
    phases = (
        Phase(
            "behavior",
            (
                Update("behavior_loss", "behavior", "behavior_learning_rate"),
                Update("behavior_entropy_loss", "behavior_entropy", "behavior_learning_rate", batch_of="behavior_loss"),
            ),
            steps="behavior_steps",
        ),
        Phase(
            "warm_start",
            (CRITIC, Update("warm_start_loss", "policy", "policy_learning_rate", batch_of="critic_loss")),
            steps="warm_start_steps",
            targets=("critic",),
        ),
        Phase(
            "main",
            (CRITIC, Update("policy_loss", "policy", "policy_learning_rate", batch_of="critic_loss")),
            targets=("critic",),
        ),
    )
    presets = {
        "paper": {
            "behavior_steps": 500_000,
            "steps": 480_000,
            "alpha": 1.0,
            "policy_learning_rate": 3e-5,
            "num_samples": 10,
            "policy_hidden_dims": (200, 200, 200),
            "critic_hidden_dims": (300, 300, 300),
        },
        "mujoco": {},
        "small": {
            "alpha": 1.0,
            "discount": 0.9,
            "tau": 0.02,
            "behavior_learning_rate": 1e-3,
            "policy_learning_rate": 1e-3,
            "behavior_steps": 3_000,
            "warm_start_steps": 1_000,
            "steps": 6_000,
        },
    }

    def networks(self, spec: Spec, config: Any) -> dict[str, nn.Module]:
        standardise = Standardise.nothing(spec)

        def policy() -> BoundedGaussianPolicy:
            return BoundedGaussianPolicy(
                standardise, config.policy_hidden_dims, spec.action_dim, tanh_mean=False, log_std_range=(-5.0, 0.0)
            )

        return {
            "behavior": policy(),
            "behavior_entropy": EntropyWeight(),
            "critic": Critics(config.num_critics, standardise, spec.action_dim, config.critic_hidden_dims),
            "policy": policy(),
        }

    def behavior_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        behavior = nets.behavior(batch.observations)
        entropy = -squashed_log_prob(behavior, sampled(behavior, key), EDGE).mean()
        log_likelihood = squashed_log_prob(behavior, batch.actions, EDGE).mean()
        return -log_likelihood - nets.behavior_entropy() * entropy, {
            "behavior_log_likelihood": log_likelihood,
            "behavior_entropy": entropy,
        }

    def behavior_entropy_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        behavior = nets.behavior(batch.observations)
        entropy = -squashed_log_prob(behavior, sampled(behavior, key), EDGE).mean()
        weight = nets.behavior_entropy()
        return weight * (entropy - config.target_entropy * batch.actions.shape[-1]), {"behavior_entropy_weight": weight}

    def critic_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        observations = batch.next_observations
        policy = nets.policy(observations)
        next_actions = sampled(policy, key)
        next_q = nets.target.critic(observations, next_actions).amin(0)
        next_q = next_q - config.entropy_weight * squashed_log_prob(policy, next_actions, EDGE)
        if config.value_penalty:
            next_q = next_q - config.alpha * self.divergence(policy, nets.behavior(observations), config, key)
        target = batch.rewards + config.discount * (1.0 - batch.terminals) * next_q
        q = nets.critic(batch.observations, batch.actions.clamp(-1.0 + EDGE, 1.0 - EDGE))
        return (q - target).square().mean(-1).sum(), {"q_mean": q.mean(), "q_target_mean": target.mean()}

    def warm_start_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        _, penalty, details = self.acted(nets, batch, config, key)
        return penalty, details

    def policy_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        actions, penalty, details = self.acted(nets, batch, config, key)
        q = nets.critic(batch.observations, actions).amin(0).mean()
        return penalty - q, {**details, "policy_q": q}

    def acted(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Actions (B, A) of the policy, the penalties in its loss, and metrics."""
        policy = nets.policy(batch.observations)
        actions = sampled(policy, key)
        divergence = self.divergence(policy, nets.behavior(batch.observations), config, key).mean()
        log_prob = squashed_log_prob(policy, actions, EDGE).mean()
        details = {
            "divergence": divergence,
            "entropy": -log_prob,
            "policy_std": policy.log_std.exp().mean(),
            "policy_saturated": (torch.tanh(policy.mean).abs() > 0.99).to(actions.dtype).mean(),
        }
        return actions, config.alpha * divergence + config.entropy_weight * log_prob, details

    def divergence(self, policy: Gaussian, behavior: Gaussian, config: Any, key: Key) -> Tensor:
        """(B,): estimate of KL(policy || behavior) by `num_samples` actions of the policy."""
        actions = sampled(policy, key, config.num_samples)
        ratios = squashed_log_prob(policy, actions, EDGE) - squashed_log_prob(behavior, actions, EDGE)
        return torch.minimum(torch.relu(ratios.mean(0)), config.divergence_max)

    def sample_actions(self, nets: Any, observations: Tensor, config: Any, key: Key | None = None) -> Tensor:
        return torch.tanh(nets.policy(observations).mean)


def sampled(policy: Gaussian, key: Key, *count: int) -> Tensor:
    """(*count, B, A): reparametrised actions, clipped inside the box."""
    noise = key.normal(*count, *policy.mean.shape)
    return torch.tanh(policy.mean + policy.log_std.exp() * noise).clamp(-1.0 + EDGE, 1.0 - EDGE)

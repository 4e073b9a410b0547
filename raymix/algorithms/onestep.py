"""OneStep RL: one step of policy improvement over the behaviour (Brandfonbrener et al., 2021).

1. Phase `behavior`. A Gaussian b(a|s) models the data's actions by maximum likelihood.
2. Phase `critic`. The behaviour's value by SARSA, Q(s, a) <- r + discount * Q_target(s', a') with a' the data's next
   action; in every second step, the first one included, the target follows with rate tau.
3. Phase `policy`, from the behaviour's weights, with Q and b fixed:
   - `improvement="exp_weights"`: minimise  -min(exp(temperature * A), weight_max) * log pi(a|s)  on the data's actions,
     A = Q(s, a) - mean of Q(s, a_i),  a_i ~ b(.|s), i = 1..num_samples;
   - `improvement="reverse_kl"`: minimise  KL(pi || b) - temperature * Q(s, a),  a ~ pi(.|s) reparametrised, the
     divergence estimated as the mean of log pi - log b over num_samples actions of pi.

Both aim at pi proportional to b(a|s) * exp(temperature * Q(s, a)); the first covers it, the second seeks a mode of it.
The policies are Gaussians with a tanh mean and log std = -5 + 2.5 * (1 + tanh) in [-5, 0]. It acts by the mean. On data
with two modes b is one wide Gaussian between them; a large `temperature` weighs all but the better mode away.

Differences from the authors' code (davidbrandfonbrener/onestep-rl), each with its reason:
- Their reverse KL is divided by their alpha, temperature = 1 / alpha: one hyperparameter with one meaning for both.
- The default `temperature` is 1; the code's 0.01 is cloning in effect. The paper chooses among 0.1, 0.3, 1, 3, 10, 30
  (exp_weights) for each data set by evaluating online, which is tuning.
- With several critics targets take their minimum and the policy the first; one is the default, as theirs. Their own
  version with two swaps online and target networks.
- Transitions cut by a time limit are not drawn, in any phase: they have no next action. Theirs are dropped as data.
- The divergence is that of the Gaussians before their samples are clipped to the box: the estimate has no bias.
Their `trunc` policy is a plain Gaussian in effect, being copied from the behaviour, and is one here. The third sibling,
the best of M samples of b, is not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raymix.algorithms.base import Algorithm, Data, Phase, Update
from raymix.config import AlgorithmConfig, scalar, schedule, structure
from raymix.nn.layers import Standardise
from raymix.nn.losses import gaussian_log_prob
from raymix.nn.policies import BoundedGaussianPolicy
from raymix.nn.values import Critics
from raymix.random import Key
from raymix.types import Spec

EDGE = 1e-4
"""The data's and the policies' actions are kept this far inside the box (the authors')."""


@dataclass(frozen=True)
class Config(AlgorithmConfig):
    steps: int = schedule(100_000, low=1, help="gradient steps of the policy phase")
    behavior_steps: int = schedule(500_000, low=1, help="gradient steps of the behaviour phase")
    critic_steps: int = schedule(2_000_000, low=1, help="gradient steps of the critic phase")
    improvement: str = structure(
        "exp_weights", choices=("exp_weights", "reverse_kl"), help="weighted imitation, or value with a penalty"
    )
    temperature: float = scalar(1.0, low=0, help="multiplies the value or advantage (1 / alpha of the reverse KL)")
    weight_max: float = scalar(100.0, low=0, help="cap of the weight")
    num_samples: int = structure(10, low=1, help="actions per state in the baseline or in the divergence")
    num_critics: int = structure(1, low=1, help="critics; targets take their minimum, the policy uses the first")
    discount: float = scalar(0.99, low=0, high=1, help="discount per step")
    tau: float = scalar(0.005, low=0, high=1, help="share by which target critics move to the critics")
    behavior_learning_rate: float = scalar(1e-4, low=0, help="Adam's rate for the behaviour")
    critic_learning_rate: float = scalar(1e-4, low=0, help="Adam's rate for the critics")
    policy_learning_rate: float = scalar(1e-4, low=0, help="Adam's rate for the policy")
    batch_size: int = structure(512, low=1, help="transitions per step of every phase")
    hidden_dims: tuple = structure((1024, 1024), help="hidden widths of behaviour, critics and policy")


class OneStep(Algorithm):
    """Evaluates the behaviour once, and improves on it once."""

    Config = Config
    paper = "Brandfonbrener, Whitney, Ranganath and Bruna, 2021, Offline RL Without Off-Policy Evaluation"
    uses_next_actions = True
    acting = ("policy",)
    phases = (
        Phase("behavior", (Update("behavior_loss", "behavior", "behavior_learning_rate"),), steps="behavior_steps"),
        Phase(
            "critic",
            (Update("critic_loss", "critic", "critic_learning_rate"),),
            steps="critic_steps",
            targets=("critic",),
            targets_every=2,
        ),
        Phase("policy", (Update("policy_loss", "policy", "policy_learning_rate"),)),
    )
    presets = {
        "paper": {"behavior_steps": 500_000, "critic_steps": 2_000_000, "steps": 100_000},
        "reverse_kl": {"improvement": "reverse_kl"},
        "small": {
            "temperature": 3.0,
            "discount": 0.9,
            "tau": 0.02,
            "behavior_learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
            "policy_learning_rate": 1e-3,
            "batch_size": 256,
            "hidden_dims": (256, 256),
            "behavior_steps": 1_000,
            "critic_steps": 6_000,
            "steps": 4_000,
        },
    }

    def networks(self, spec: Spec, config: Any) -> dict[str, nn.Module]:
        standardise = Standardise.nothing(spec)

        def policy() -> BoundedGaussianPolicy:
            return BoundedGaussianPolicy(
                standardise, config.hidden_dims, spec.action_dim, tanh_mean=True, log_std_range=(-5.0, 0.0)
            )

        return {
            "behavior": policy(),
            "critic": Critics(config.num_critics, standardise, spec.action_dim, config.hidden_dims),
            "policy": policy(),
        }

    def enter_phase(self, phase: Phase, tensors: Mapping[str, Tensor], data: Data, config: Any) -> dict[str, Tensor]:
        if phase.name != "policy":
            return {}
        source, copy = "parameters/behavior/", "parameters/policy/"
        return {copy + name[len(source) :]: value for name, value in tensors.items() if name.startswith(source)}

    def behavior_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        behavior = nets.behavior(batch.observations)
        return -gaussian_log_prob(behavior, inside(batch.actions)).mean(), {
            "behavior_std": behavior.log_std.exp().mean()
        }

    def critic_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        next_q = nets.target.critic(batch.next_observations, inside(batch.next_actions)).amin(0)
        target = batch.rewards + config.discount * (1.0 - batch.terminals) * next_q
        q = nets.critic(batch.observations, inside(batch.actions))
        return (q - target).square().mean(-1).sum(), {"q_mean": q.mean(), "q_target_mean": target.mean()}

    def policy_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        observations = batch.observations
        policy, behavior = nets.policy(observations), nets.behavior(observations)
        noise = key.normal(config.num_samples, *policy.mean.shape)
        if config.improvement == "reverse_kl":
            samples = policy.mean + policy.log_std.exp() * noise  # (samples, B, A)
            divergence = (gaussian_log_prob(policy, samples) - gaussian_log_prob(behavior, samples)).mean(0)
            q = nets.critic(observations, inside(samples[0]))[0]
            return (divergence - config.temperature * q).mean(), {
                "divergence": divergence.mean(),
                "policy_q": q.mean(),
                "policy_std": policy.log_std.exp().mean(),
            }
        samples = inside(behavior.mean + behavior.log_std.exp() * noise)
        states = observations.expand(config.num_samples, *observations.shape)
        value = nets.critic(states.flatten(0, 1), samples.flatten(0, 1))[0].reshape(samples.shape[:2]).mean(0)
        actions = inside(batch.actions)
        advantage = nets.critic(observations, actions)[0] - value
        weight = torch.exp(config.temperature * advantage).clamp(max=config.weight_max)
        return -(weight * gaussian_log_prob(policy, actions)).mean(), {
            "advantage_mean": advantage.mean(),
            "weight_mean": weight.mean(),
            "weight_capped": (weight >= config.weight_max).to(weight.dtype).mean(),
            "policy_std": policy.log_std.exp().mean(),
        }

    def sample_actions(self, nets: Any, observations: Tensor, config: Any, key: Key | None = None) -> Tensor:
        return inside(nets.policy(observations).mean)


def inside(actions: Tensor) -> Tensor:
    """Actions clipped to the box but for its edge."""
    return actions.clamp(-1.0 + EDGE, 1.0 - EDGE)

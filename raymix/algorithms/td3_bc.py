"""TD3+BC: twin-critic deterministic policy gradient with a cloning term (Fujimoto and Gu, 2021).

In this order in every step, all updates on one minibatch:
   - critics:  Q(s, a) <- r + discount * min_k Q_k_target(s', a'),  a' = clip(mu_target(s') + clipped noise);
   - policy, in every second step, the second one first:
               minimise  -q_scale / mean|Q_1(s, mu(s))| * mean Q_1(s, mu(s)) + mean |mu(s) - a|^2;
   - the target critics and the target policy follow with rate tau in the same steps as the policy.

The squared error is a mean over the batch and over the action's dimensions; the factor of Q is taken from the same
batch and is constant in the gradient. The policy mu(s) = tanh(.) acts deterministically. On data with several modes
the cloning term pulls to the mean of the modes; a critic that sees their difference can still take the policy to one.

Differences from the authors' code (sfujim/TD3_BC), each with its reason:
- mean|Q| is at least 1e-6: rewards of 0 everywhere would make the factor infinite.
- Noise and errors are in the unit box; theirs are in units of the largest action, which is the same for a box [-m, m].
- `reward_shift` is CORL's for antmaze (rewards - 1). It does not make large mazes work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from raymix.algorithms.base import Algorithm, Phase, Update
from raymix.config import AlgorithmConfig, scalar, structure
from raymix.nn.layers import Standardise
from raymix.nn.policies import DeterministicPolicy
from raymix.nn.values import Critics
from raymix.random import Key
from raymix.types import Spec


@dataclass(frozen=True)
class Config(AlgorithmConfig):
    q_scale: float = scalar(2.5, low=0, help="weight of the value term once divided by mean |Q| (the paper's alpha)")
    num_critics: int = structure(2, low=1, help="critics; targets take their minimum, the policy uses the first")
    target_noise: float = scalar(0.2, low=0, help="sd of noise added to the target policy's action")
    target_noise_clip: float = scalar(0.5, low=0, help="largest size of that noise")
    discount: float = scalar(0.99, low=0, high=1, help="discount per step")
    tau: float = scalar(0.005, low=0, high=1, help="share by which targets move to the critics and the policy")
    reward_shift: float = scalar(0.0, help="added to every reward")
    critic_learning_rate: float = scalar(3e-4, low=0, help="Adam's rate for the critics")
    policy_learning_rate: float = scalar(3e-4, low=0, help="Adam's rate for the policy")
    batch_size: int = structure(256, low=1, help="transitions per step")
    hidden_dims: tuple = structure((256, 256), help="hidden widths of critics and policy")


class TD3BC(Algorithm):
    """Maximises the value and imitates the data's action, in a fixed proportion."""

    Config = Config
    paper = "Fujimoto and Gu, 2021, A Minimalist Approach to Offline Reinforcement Learning"
    acting = ("policy",)
    phases = (
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
        "antmaze": {"reward_shift": -1.0, "steps": 1_000_000},
        "small": {
            "q_scale": 0.5,
            "discount": 0.9,
            "tau": 0.02,
            "critic_learning_rate": 1e-3,
            "policy_learning_rate": 1e-3,
            "steps": 4_000,
        },
    }

    def networks(self, spec: Spec, config: Any) -> dict[str, nn.Module]:
        standardise = Standardise.of(spec, 1e-3)
        return {
            "critic": Critics(config.num_critics, standardise, spec.action_dim, config.hidden_dims),
            "policy": DeterministicPolicy(standardise, config.hidden_dims, spec.action_dim),
        }

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
        cloning = (actions - batch.actions).square().mean()
        return cloning - q_factor * q.mean(), {
            "cloning": cloning,
            "q_factor": q_factor,
            "policy_saturated": (actions.abs() > 0.99).to(actions.dtype).mean(),
        }

    def sample_actions(self, nets: Any, observations: Tensor, config: Any, key: Key | None = None) -> Tensor:
        return nets.policy(observations)

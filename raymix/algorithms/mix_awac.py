"""AWAC with a mixture of Gaussians: mixAWAC (Osa, Hayashi, Deo, Morihira and Yoshiike, 2023).

pi(a|s) = sum_u gate_u(s) N_u(a|s), with DMPO's network conditioned on u for the components. In every step:

- critics:      Q(s, a) <- r + discount * min_k Q_k_target(s', a'),  a' ~ pi_target(.|s');
and in every `policy_every`-th step, on the same minibatch:
- policy:       A = min_k Q_k_target(s, a) - mean of min_k Q_k_target(s, a_i), a_1 ... a_n ~ pi_target(.|s),
                w = exp(alpha * (A - max A) / (max A - min A)) over the minibatch, divided by its mean,
                minimise  -w * log pi(a|s);
- then the slow copies of critics, gate and components follow with rate tau.

The policy acts by the mean of the component with the heaviest gate.

Differences from the authors' code (TakaOsa/DMPO), each with its reason:
- Components are drawn by the gate, as the paper says. Theirs takes the heaviest, its noise reaching a discarded
  gradient only; `legacy_gate` is theirs.
- The likelihood is a sum of exponentials in the log domain. Theirs adds 1e-12 to the density and takes the logarithm:
  far actions sit on that floor and have no gradient; `legacy_likelihood` is theirs.
- Weights are divided by their mean, which keeps the size of the step constant and is what the same code does in AWAC
  and DMPO. `divide_by_mean=False` is theirs.
- 1e-8 in the width of the advantages: theirs divides by zero where all are equal.
- u is embedded in `min_embedding_dim` units at least, as in `dmpo`. 1 is theirs.
Kept from that code: unlike `awac`, target actions come from the slow policy and advantages from the slow critics, by
one sample; sampled actions reach the critics unclipped (`clip_target_actions`), and the log standard deviation passes
through tanh twice (`single_tanh`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raymix.algorithms.base import Algorithm, Phase, Update
from raymix.config import AlgorithmConfig, scalar, structure
from raymix.nn.layers import Standardise, mlp
from raymix.nn.losses import WEIGHTINGS, advantage_weights, mixture_log_prob, normal_log_prob
from raymix.nn.policies import LatentGaussianPolicy, Mixture
from raymix.nn.values import Critics
from raymix.random import Key
from raymix.types import Spec


@dataclass(frozen=True)
class Config(AlgorithmConfig):
    num_components: int = structure(8, low=1, help="M: components of the mixture")
    num_critics: int = structure(2, low=1, help="K: critics")
    num_baseline_samples: int = structure(1, low=1, help="n: actions whose mean value is the advantage's baseline")
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
    min_embedding_dim: int = structure(16, low=1, help="least width of u's embedding, else the observation's size")
    weighting: str = structure("normalized", choices=WEIGHTINGS, help="form of the weight; 'clamped' is capped at 100")
    divide_by_mean: bool = structure(True, help="divide weights by their mean over the minibatch")
    single_tanh: bool = structure(False, help="squash the log standard deviation once instead of twice")
    clip_target_actions: bool = structure(False, help="clip sampled actions to the box before critics see them")
    legacy_gate: bool = structure(False, help="the code's choice of components: the heaviest, not drawn")
    legacy_likelihood: bool = structure(False, help="the code's likelihood: log(density + 1e-12)")


class Gate(nn.Module):
    """Weights of the components: observations (B, S) -> (B, M) logits."""

    def __init__(self, standardise: Standardise, hidden_dims: tuple[int, ...], num_components: int) -> None:
        super().__init__()
        self.standardise = standardise
        self.trunk = mlp(len(standardise.mean), hidden_dims, num_components)

    def forward(self, observations: Tensor) -> Tensor:
        return self.trunk(self.standardise(observations))


class MixAWAC(Algorithm):
    """Imitates the data's actions by a mixture, weighted by their advantage over the policy's own."""

    Config = Config
    paper = "Osa, Hayashi, Deo, Morihira and Yoshiike, 2023, Mixture of Deterministic Policies; its mixAWAC"
    acting = ("gate", "components")
    phases = (
        Phase(
            "main",
            (
                Update("critic_loss", "critic", "critic_learning_rate"),
                Update(
                    "policy_loss",
                    ("gate", "components"),
                    "policy_learning_rate",
                    pace="policy_every",
                    batch_of="critic_loss",
                ),
            ),
            targets=("critic", "gate", "components"),
            targets_pace="policy_every",
        ),
    )
    presets = {
        "paper": {"batch_size": 1024, "min_embedding_dim": 1, "steps": 1_000_000},
        "mujoco": {"min_embedding_dim": 1, "steps": 1_000_000},
        "adroit": {"min_embedding_dim": 1, "alpha": 5.0, "steps": 1_000_000},
        "adroit_human": {"min_embedding_dim": 1, "alpha": 5.0, "steps": 20_000},
        "antmaze": {
            "min_embedding_dim": 1,
            "alpha": 5.0,
            "reward_shift": -1.0,
            "critic_learning_rate": 2e-4,
            "policy_learning_rate": 2e-4,
            "hidden_dims": (256, 256, 256),
            "steps": 1_000_000,
        },
        "small": {
            "num_components": 4,
            "discount": 0.9,
            "tau": 0.02,
            "critic_learning_rate": 1e-3,
            "policy_learning_rate": 1e-3,
            "steps": 3_000,
        },
    }

    def networks(self, spec: Spec, config: Any) -> dict[str, nn.Module]:
        standardise = Standardise.of(spec, 1e-3)
        hidden, modes = config.hidden_dims, config.num_components
        embedding = max(spec.observation_dim, config.min_embedding_dim)
        form = "once" if config.single_tanh else "twice"
        return {
            "critic": Critics(config.num_critics, standardise, spec.action_dim, hidden),
            "gate": Gate(standardise, hidden, modes),
            "components": LatentGaussianPolicy(standardise, hidden, spec.action_dim, modes, embedding, form),
        }

    def critic_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        next_actions = self.sampled(nets.target, batch.next_observations, 1, config, key)[0]
        next_q = nets.target.critic(batch.next_observations, next_actions).amin(0)
        rewards = config.reward_scale * batch.rewards + config.reward_shift
        target = rewards + config.discount * (1.0 - batch.terminals) * next_q
        q = nets.critic(batch.observations, batch.actions)
        return (q - target).square().mean(-1).sum(), {"q_mean": q.mean(), "q_target_mean": target.mean()}

    def policy_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        observations = batch.observations
        own_actions = self.sampled(nets.target, observations, config.num_baseline_samples, config, key)
        flat_observations = observations.expand(config.num_baseline_samples, *observations.shape).flatten(0, 1)
        own_values = nets.target.critic(flat_observations, own_actions.flatten(0, 1)).amin(0)
        baseline = own_values.reshape(own_actions.shape[:2]).mean(0)
        advantage = nets.target.critic(observations, batch.actions).amin(0) - baseline
        weights = advantage_weights(advantage, config.weighting, config.alpha, config.divide_by_mean)
        components = nets.components(observations)
        policy = Mixture(components.mean, components.log_std, nets.gate(observations))
        log_prob = (
            floored_log_prob(policy, batch.actions)
            if config.legacy_likelihood
            else mixture_log_prob(policy, batch.actions)
        )
        return -(weights * log_prob).mean(), {
            "advantage_mean": advantage.mean(),
            "weight_max": weights.amax(),
            "log_prob": log_prob.mean(),
            "action_std": policy.log_stds.exp().mean(),
            "component_weight_max": torch.softmax(policy.logits, -1).amax(-1).mean(),
        }

    def sampled(self, nets: Any, observations: Tensor, count: int, config: Any, key: Key) -> Tensor:
        """(count, B, A): actions of the policy of `nets`, beyond the box too unless they are clipped."""
        logits = nets.gate(observations).expand(count, -1, -1)
        component = logits.argmax(-1) if config.legacy_gate else key.categorical(logits)
        policy = nets.components(observations)  # (B, M, A)
        chosen = component[..., None, None].expand(-1, -1, 1, policy.mean.shape[-1])
        mean, log_std = (
            values.expand(count, -1, -1, -1).gather(2, chosen)[:, :, 0] for values in (policy.mean, policy.log_std)
        )
        actions = mean + log_std.exp() * key.normal(*mean.shape)
        return actions.clamp(-1.0, 1.0) if config.clip_target_actions else actions

    def sample_actions(self, nets: Any, observations: Tensor, config: Any, key: Key | None = None) -> Tensor:
        means = nets.components(observations).mean
        component = nets.gate(observations).argmax(-1)
        return means.gather(1, component[:, None, None].expand(-1, 1, means.shape[-1]))[:, 0]


def floored_log_prob(policy: Mixture, actions: Tensor) -> Tensor:
    """(B,): log(density + 1e-12) of actions (B, A): the floor, -27.6, has no gradient."""
    components = normal_log_prob(actions[..., None, :], policy.means, policy.log_stds)
    return torch.log((torch.softmax(policy.logits, -1) * components.exp()).sum(-1) + 1e-12)

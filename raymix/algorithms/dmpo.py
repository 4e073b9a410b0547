"""Deterministic mixture policy optimisation: DMPO and infoDMPO (Osa, Hayashi, Deo, Morihira and Yoshiike, 2023).

The policy is a mixture of |Z| deterministic sub-policies mu(s, z) with a discrete latent z; which one acts is decided
by the critics, z*(s; mu) = argmax_z min_k Q_k(s, mu(s, z)). In this order in every step:

- critics:      Q(s, a) <- r + discount * min_k Q_k_target(s', a'),  a' = mu_target(s', z*(s'; mu_target)) + clipped
                noise, clipped to the box; z* by the critics themselves, the value by their slow copies;
and in every `policy_every`-th step, on the same minibatch:
- weights:      A = min_k Q_k(s, a) - max_z min_k Q_k(s, mu_target(s, z)),
                w = exp(alpha * (A - max A) / (max A - min A)) over the minibatch, divided by its mean;
- information:  (infoDMPO) z uniform, a = mu(s, z), minimise the cross-entropy of z under g(z | s, a), which trains g
                and mu with an Adam of their own, whose small rate plays the part of the paper's lambda;
- policy:       z ~ q(z | s, a) relaxed, minimise  w * (|mu(s, z) - a|^2 + kl_weight * KL(q(.|s, a) || prior(.|s))),
                prior = softmax_z of min_k Q_k(s, mu(s, z)), constant;
- then the slow copies of critics and policy follow with rate tau.

The policy acts by mu(s, z*(s; mu)), deterministically.

`value_network` is the authors' variant for antmaze: V(s) <- Q_target(s, mu_target(s, z*)), clamped to [value_min,
value_max]; Q <- r + discount * V(s'), without noise; A = Q(s, a) - V(s); and everywhere min_share * min + (1 -
min_share) * max of the critics in place of their minimum. (Eq. 51 takes V's target at the data's action, which would
make V the behaviour's value and which the code does not do.)

Differences from the authors' code (TakaOsa/DMPO), each with its reason:
- Labels of the information step cover all |Z| latents, and its cross-entropy reads logits. Theirs never draws the last
  latent, and takes a softmax twice. `legacy_info_loss` is theirs.
- 1e-8 in the width of the advantages: theirs divides by zero where all are equal, as on data without rewards.
- z is embedded in as many units as the observation has numbers, but in `min_embedding_dim` at least: with theirs a
  state of one or two numbers leaves one or two rectified units, which may be dead from the start. 1 is theirs.
- `num_latents` = |Z| may be 1: then the method is weighted regression on a deterministic policy.
Differences of the paper's text from that code, where the code is followed: the critics' target chooses z by the critics
and not by their slow copies (`target_argmax` is Eq. 17), its noise comes after that choice, and weights are divided by
their mean. The prior's temperature is 1 while values may be in the hundreds: then it is one-hot, and q with it;
`prior_temperature` is ours, `prior_entropy` is reported.
The preset `small` is for data of about 1e4 transitions with returns of about 1. On `toy/two-goals-v0`, 5 seeds:
returns of 1.00 each with its `alpha` of 1 and with 3; 0.00 to 1.00 (mean 0.56) with 10. With values of about 1 the
prior is near uniform; its `kl_weight` of 0.05 gives 1.00 each, and 1 gives 1.00 in four seeds and 0.82 in one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raymix.algorithms.base import Algorithm, Phase, Update
from raymix.config import AlgorithmConfig, scalar, structure
from raymix.nn.layers import Standardise, mlp
from raymix.nn.losses import WEIGHTINGS, advantage_weights
from raymix.nn.policies import LatentPolicy
from raymix.nn.values import Critics, Value
from raymix.random import Key
from raymix.types import Spec


@dataclass(frozen=True)
class Config(AlgorithmConfig):
    num_latents: int = structure(8, low=1, help="|Z|: sub-policies (the paper tries 4, 8, 16 and 32)")
    num_critics: int = structure(2, low=1, help="K: critics")
    alpha: float = scalar(10.0, low=0, help="multiplies the scaled advantage (antmaze and adroit-human: 5)")
    kl_weight: float = scalar(1.0, low=0, help="of the divergence of q(z|s,a) from the critics' prior")
    prior_temperature: float = scalar(1.0, low=1e-6, help="the prior is the softmax of values divided by this")
    relaxation_temperature: float = scalar(0.67, low=1e-6, help="of the relaxed draw of z")
    min_share: float = scalar(1.0, low=0, high=1, help="c in c * min + (1 - c) * max over critics (antmaze: 0.7)")
    target_noise: float = scalar(0.2, low=0, help="sd of noise added to the next action, clipped at 0.5")
    information_learning_rate: float = scalar(5e-7, low=0, help="Adam's rate of the information step (adroit: 3e-6)")
    value_min: float = scalar(0.0, help="lower bound of V's target: smallest reward / (1 - discount) but in antmaze")
    value_max: float = scalar(100.0, help="upper bound of V's target")
    reward_scale: float = scalar(1.0, help="rewards are reward_scale * r + reward_shift (antmaze with V: 100)")
    reward_shift: float = scalar(0.0, help="antmaze without V: -1")
    discount: float = scalar(0.99, low=0, high=1, help="discount per step")
    tau: float = scalar(0.005, low=0, high=1, help="share by which targets move")
    critic_learning_rate: float = scalar(3e-4, low=0, help="Adam's rate for the critics, and for V")
    policy_learning_rate: float = scalar(3e-4, low=0, help="Adam's rate for sub-policies and posterior")
    batch_size: int = structure(256, low=1, help="transitions per step, shared by its updates")
    policy_every: int = structure(2, low=1, help="policy and targets move in the last of so many steps")
    hidden_dims: tuple = structure((256, 256), help="hidden widths of all networks")
    min_embedding_dim: int = structure(16, low=1, help="least width of z's embedding, else the observation's size")
    weighting: str = structure("normalized", choices=WEIGHTINGS, help="form of the weight; 'clamped' is AWAC's, capped")
    divide_by_mean: bool = structure(True, help="divide weights by their mean over the minibatch")
    information: bool = structure(False, help="infoDMPO: maximise the information of (s, a) about z as well")
    legacy_info_loss: bool = structure(False, help="the code's information loss: last latent never, softmax twice")
    target_argmax: bool = structure(False, help="the critics' target chooses z by the slow copies (Eq. 17)")
    value_network: bool = structure(False, help="the antmaze variant with V(s)")


class Posterior(nn.Module):
    """q(z | s, a): observations (B, S), actions (B, A) -> (B, Z) logits."""

    def __init__(
        self, standardise: Standardise, hidden_dims: tuple[int, ...], action_dim: int, num_latents: int
    ) -> None:
        super().__init__()
        self.standardise = standardise
        self.trunk = mlp(len(standardise.mean) + action_dim, hidden_dims, num_latents)

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        return self.trunk(torch.cat((self.standardise(observations), actions), -1))


class DMPO(Algorithm):
    """Regresses deterministic sub-policies on the data by advantage; the critics decide which one acts."""

    Config = Config
    paper = "Osa, Hayashi, Deo, Morihira and Yoshiike, 2023, Offline RL with Mixture of Deterministic Policies"
    acting = ("policy", "critic")
    phases = (
        Phase(
            "main",
            (
                Update("value_loss", "value", "critic_learning_rate", batch_of="critic_loss", when="value_network"),
                Update("critic_loss", "critic", "critic_learning_rate"),
                Update(
                    "information_loss",
                    ("policy", "information"),
                    "information_learning_rate",
                    pace="policy_every",
                    batch_of="critic_loss",
                    when="information",
                ),
                Update(
                    "policy_loss",
                    ("policy", "posterior"),
                    "policy_learning_rate",
                    pace="policy_every",
                    batch_of="critic_loss",
                ),
            ),
            targets=("critic", "policy"),
            targets_pace="policy_every",
        ),
    )
    presets = {
        "paper": {"min_embedding_dim": 1, "steps": 1_000_000},
        "infodmpo": {"min_embedding_dim": 1, "information": True, "steps": 1_000_000},
        "mujoco": {"min_embedding_dim": 1, "steps": 1_000_000},
        "adroit": {"min_embedding_dim": 1, "alpha": 5.0, "information_learning_rate": 3e-6, "steps": 1_000_000},
        "adroit_human": {"min_embedding_dim": 1, "alpha": 5.0, "information_learning_rate": 3e-6, "steps": 20_000},
        "antmaze": {"min_embedding_dim": 1, "alpha": 5.0, "reward_shift": -1.0, "steps": 1_000_000},
        "antmaze_value": {
            "min_embedding_dim": 1,
            "alpha": 5.0,
            "value_network": True,
            "min_share": 0.7,
            "reward_scale": 100.0,
            "critic_learning_rate": 2e-4,
            "policy_learning_rate": 2e-4,
            "hidden_dims": (256, 256, 256),
            "steps": 1_000_000,
        },
        "small": {
            "num_latents": 4,
            "alpha": 1.0,
            "kl_weight": 0.05,
            "discount": 0.97,
            "tau": 0.02,
            "critic_learning_rate": 1e-3,
            "policy_learning_rate": 1e-3,
            "batch_size": 128,
            "hidden_dims": (64, 64),
            "steps": 6_000,
        },
    }

    def networks(self, spec: Spec, config: Any) -> dict[str, nn.Module]:
        standardise = Standardise.of(spec, 1e-3)
        hidden, latents = config.hidden_dims, config.num_latents
        embedding = max(spec.observation_dim, config.min_embedding_dim)
        networks: dict[str, nn.Module] = {
            "critic": Critics(config.num_critics, standardise, spec.action_dim, hidden),
            "policy": LatentPolicy(standardise, hidden, spec.action_dim, latents, embedding),
            "posterior": Posterior(standardise, hidden, spec.action_dim, latents),
        }
        if config.information:
            networks["information"] = Posterior(standardise, hidden, spec.action_dim, latents)
        if config.value_network:
            networks["value"] = Value(standardise, hidden)
        return networks

    def value_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        observations = batch.observations
        actions, _ = self.greedy(nets.critic, nets.target.policy, observations, config)
        target = self.pessimistic(nets.target.critic(observations, actions), config)
        target = torch.minimum(torch.maximum(target, config.value_min), config.value_max)
        return (nets.value(observations) - target).square().mean(), {"v_target_mean": target.mean()}

    def critic_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        if config.value_network:
            next_value = nets.value(batch.next_observations)
        else:
            chooser = nets.target.critic if config.target_argmax else nets.critic
            next_actions, _ = self.greedy(chooser, nets.target.policy, batch.next_observations, config)
            noise = (config.target_noise * key.normal(*next_actions.shape)).clamp(-0.5, 0.5)
            next_actions = (next_actions + noise).clamp(-1.0, 1.0)
            next_value = self.pessimistic(nets.target.critic(batch.next_observations, next_actions), config)
        rewards = config.reward_scale * batch.rewards + config.reward_shift
        target = (rewards + config.discount * (1.0 - batch.terminals) * next_value).detach()
        q = nets.critic(batch.observations, batch.actions)
        return (q - target).square().mean(-1).sum(), {"q_mean": q.mean(), "q_target_mean": target.mean()}

    def information_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        observations = batch.observations
        labels = key.integers(config.num_latents - config.legacy_info_loss, len(observations))
        latents = torch.eye(config.num_latents, dtype=observations.dtype, device=observations.device)[labels]
        logits = nets.information(observations, nets.policy(observations, latents))
        if config.legacy_info_loss:
            logits = torch.softmax(logits, -1)
        return -(latents * torch.log_softmax(logits, -1)).sum(-1).mean(), {}

    def policy_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        observations, actions = batch.observations, batch.actions
        if config.value_network:
            baseline = nets.value(observations)
        else:
            _, baseline = self.greedy(nets.critic, nets.target.policy, observations, config)
        advantage = self.pessimistic(nets.critic(observations, actions), config) - baseline
        weights = advantage_weights(advantage, config.weighting, config.alpha, config.divide_by_mean)

        posterior = torch.softmax(nets.posterior(observations, actions), -1)
        log_posterior = torch.log(posterior + 1e-12)
        noisy = log_posterior + key.gumbel(*posterior.shape)
        latents = torch.softmax(noisy / config.relaxation_temperature, -1)
        error = (nets.policy(observations, latents) - actions).square().sum(-1)

        values = self.values_of_latents(nets.critic, nets.policy(observations).detach(), observations, config)
        prior = torch.softmax(values / config.prior_temperature, -1)
        divergence = (posterior * (log_posterior - torch.log(prior + 1e-12))).sum(-1)
        loss = (weights * (error + config.kl_weight * divergence)).mean()
        return loss, {
            "advantage_mean": advantage.mean(),
            "weight_max": weights.amax(),
            "squared_error": error.mean(),
            "divergence": divergence.mean(),
            "prior_entropy": -(prior * torch.log(prior + 1e-12)).sum(-1).mean(),
            "posterior_entropy": -(posterior * log_posterior).sum(-1).mean(),
        }

    def pessimistic(self, values: Tensor, config: Any) -> Tensor:
        """Critics' values (K, ...) -> (...): min_share * min + (1 - min_share) * max."""
        return config.min_share * values.amin(0) + (1.0 - config.min_share) * values.amax(0)

    def values_of_latents(self, critic: Any, actions: Tensor, observations: Tensor, config: Any) -> Tensor:
        """(B, Z): the value of each sub-policy's actions (B, Z, A)."""
        shape = actions.shape[:2]
        flat_observations = observations[:, None].expand(*shape, observations.shape[-1]).flatten(0, 1)
        return self.pessimistic(critic(flat_observations, actions.flatten(0, 1)), config).reshape(shape)

    def greedy(self, critic: Any, policy: Any, observations: Tensor, config: Any) -> tuple[Tensor, Tensor]:
        """(B, A) and (B,): the best sub-policy's action by the critics, and its value; the first of equals."""
        actions = policy(observations)
        values = self.values_of_latents(critic, actions, observations, config)
        chosen = values.argmax(-1)
        index = chosen[:, None, None].expand(-1, 1, actions.shape[-1])
        return actions.gather(1, index)[:, 0], values.gather(1, chosen[:, None])[:, 0]

    def sample_actions(self, nets: Any, observations: Tensor, config: Any, key: Key | None = None) -> Tensor:
        return self.greedy(nets.critic, nets.policy, observations, config)[0]

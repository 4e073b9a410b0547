"""Latent-variable advantage-weighted policy optimisation: LAPO (Chen, Ghadirzadeh, Yu, Wang, Gao, Li, Liang, Finn and
Zhang, 2022).

A conditional variational auto-encoder q(z|s, a), g(s, z) models the data's good actions, and a policy z = pi(s) in the
box [-z_max, z_max]^L chooses among them. All actions below are standardised. In every step, on one minibatch, with
mix(q) = min_weight * min(q) + (1 - min_weight) * max(q) over the two critics:

1. critics:  Q(s, a) <- r + discount * V(s'),
             V(s) <- clip(mix(Q_target(s, g_target(s, pi_target(s) + clipped noise)))  to the range of returns);
2. decoder:  A = r + discount * mix(Q_target(s', g_target(s', pi_target(s')))) - V(s),
             w = positive_weight where A > 0, else 1 - positive_weight,
             minimise  w * (|g(s, z) - a|^2 + kl_weight * KL(q(z|s, a) || N(0, I))),  z ~ q(z|s, a);
3. policy:   maximise  Q_1(s, g_target(s, pi(s)));
4. the slow copies of critics, decoder and policy follow with rate tau.

The policy acts by g_target(s, pi(s)), which is deterministic.

Ablations of the paper: `latent="prior"` has no latent policy: z is drawn from N(0, I), clipped to the latent box, in
the targets, in the advantage and when acting (without a key z is 0; the policy is still trained and asked by nobody);
`latent="unbounded"` drops the tanh and the box. A trained policy whose configuration is changed to `latent="prior"`
acts by the generative model alone ("LAPO (VAE)" of the paper's Table 1).

Differences from the authors' code (pcchenxi/LAPO-offlienRL), each with its reason:
- Rewards are divided by their largest absolute value; theirs by the largest, which flips every sign where that is
  negative and divides by 0 where it is 0. Data whose rewards are all 0 are refused.
- The range of returns [min r, max r] / (1 - discount) includes 0: an episode may end at any time, and with rewards of
  1 and 10 theirs would hold every value at 100 or more. On the paper's data it makes no known difference.
- Actions are clipped to the box before they are done; the decoder is not bounded. In the targets they are not.
- The encoder's log variance is kept within [-20, 10], so that a far action cannot overflow.
Differences of the paper's text from that code, where the code is followed: the weight is exp(A / lambda) in the paper,
which gives no lambda (`weight_mode="exp"`, `beta` = 1 / lambda); its advantage is Q(s, a) - V(s); V is the expectation
of Q instead of a network; Q bootstraps from Q instead of V; the decoder is stochastic and trained first.
The preset `small` is for data of about 1e4 to 1e5 transitions and minutes of training on a CPU. Its steps are
many because it learns late: on demonstrations to four goals it earns 5 to 10 after 3,000 and 94 to 96 after 4,000.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raymix.algorithms.base import Algorithm, Phase, Update
from raymix.config import AlgorithmConfig, scalar, structure
from raymix.nn.latent import Decoder, Encoder, LatentPolicy
from raymix.nn.layers import RewardScale, Standardise
from raymix.nn.losses import latent_divergence
from raymix.nn.values import Critics, Value, between_critics
from raymix.random import Key
from raymix.types import Spec

EPSILON = 1e-6
"""Added to the standard deviations of observations and actions (the authors')."""


@dataclass(frozen=True)
class Config(AlgorithmConfig):
    z_max: float = scalar(2.0, low=0, help="half the width of the box of latent vectors")
    kl_weight: float = scalar(1.0, low=0, help="beta: weight of the KL divergence in the auto-encoder (maze2d 0.3)")
    positive_weight: float = scalar(
        0.9, low=0, high=1, help="weight of actions with a positive advantage; the others have 1 - it"
    )
    beta: float = scalar(1.0, low=0, help="multiplies the advantage where weight_mode is exp (1 / lambda in the paper)")
    weight_max: float = scalar(100.0, low=0, help="cap of the weight where weight_mode is exp")
    min_weight: float = scalar(1.0, low=0, high=1, help="c: share of the lesser critic in targets (antmaze 0.7)")
    latent_noise: float = scalar(0.1, low=0, help="sd of noise on the latent vector in V's target, clipped at 0.2")
    reward_scale: float = scalar(1.0, low=0, help="multiplies rewards after reward_scaling (antmaze 100)")
    discount: float = scalar(0.99, low=0, high=1, help="discount per step")
    tau: float = scalar(0.005, low=0, high=1, help="share by which slow copies move to their networks")
    critic_learning_rate: float = scalar(2e-4, low=0, help="Adam's rate for critics and value")
    vae_learning_rate: float = scalar(2e-4, low=0, help="Adam's rate for encoder and decoder")
    policy_learning_rate: float = scalar(2e-4, low=0, help="Adam's rate for the latent policy")
    batch_size: int = structure(512, low=1, help="transitions per step, shared by all updates")
    hidden_dims: tuple = structure((256, 256, 256), help="hidden widths of all networks")
    latent: str = structure(
        "bounded", choices=("bounded", "unbounded", "prior"), help="latent policy in the box, without it, or none"
    )
    weight_mode: str = structure("two_valued", choices=("two_valued", "exp"), help="weights by sign, or exponential")
    reward_scaling: str = structure(
        "max", choices=("max", "none"), help="divide rewards by the largest absolute one, or take them as they are"
    )
    value_bounds: str = structure(
        "discounted",
        choices=("discounted", "once", "none"),
        help="returns that V may take: rewards / (1 - discount), one reward per episode (antmaze), any",
    )


class RewardRange(nn.Module):
    """The data's least and largest reward as two 0-d tensors, 0 included: an episode may end at any time."""

    low: Tensor
    high: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(min(spec.reward_min, 0.0)))
        self.register_buffer("high", torch.tensor(max(spec.reward_max, 0.0)))

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.low, self.high


class LAPO(Algorithm):
    """Models the good actions of the data by an auto-encoder, then chooses among them by a bounded latent policy."""

    Config = Config
    paper = "Chen et al., 2022, Latent-Variable Advantage-Weighted Policy Optimization for Offline RL"
    acting = ("policy", "decoder")
    acting_targets = ("decoder",)
    phases = (
        Phase(
            "main",
            (
                Update("critic_loss", ("critic", "value"), "critic_learning_rate"),
                Update("vae_loss", ("encoder", "decoder"), "vae_learning_rate", batch_of="critic_loss"),
                Update("policy_loss", "policy", "policy_learning_rate", batch_of="critic_loss"),
            ),
            targets=("critic", "policy", "decoder"),
        ),
    )
    presets = {
        "paper": {"steps": 1_000_000},
        "antmaze": {"min_weight": 0.7, "reward_scaling": "none", "reward_scale": 100.0, "value_bounds": "once"},
        "maze2d": {"kl_weight": 0.3},
        "small": {
            "discount": 0.9,
            "tau": 0.02,
            "critic_learning_rate": 1e-3,
            "vae_learning_rate": 1e-3,
            "policy_learning_rate": 1e-3,
            "batch_size": 256,
            "hidden_dims": (256, 256),
            "steps": 6_000,
        },
    }

    def networks(self, spec: Spec, config: Any) -> dict[str, nn.Module]:
        standardise, actions = Standardise.of(spec, EPSILON), Standardise.actions(spec, EPSILON)
        size, hidden, latent_dim = spec.action_dim, config.hidden_dims, 2 * spec.action_dim
        return {
            "encoder": Encoder(standardise, size, hidden, latent_dim),
            "decoder": Decoder(standardise, size, hidden, latent_dim, squash=False),
            "policy": LatentPolicy(standardise, hidden, latent_dim, config.latent != "unbounded"),
            "critic": Critics(2, standardise, size, hidden),
            "value": Value(standardise, hidden),
            "standardise_actions": actions,
            "original_actions": actions.inverse(),
            "reward_scale": RewardScale(spec, config.reward_scaling),
            "reward_range": RewardRange(spec),
        }

    def critic_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        observations, actions = batch.observations, nets.standardise_actions(batch.actions)
        next_value = nets.value(batch.next_observations).detach()
        q_target = self.scaled(nets, batch.rewards, config) + config.discount * (1.0 - batch.terminals) * next_value
        reached = self.target_value(nets, observations, config, key, config.latent_noise)
        v_target = self.bounded(nets, reached, config)
        q, v = nets.critic(observations, actions), nets.value(observations)
        loss = (q - q_target).square().mean(-1).sum() + (v - v_target).square().mean()
        return loss, {
            "q_mean": q.mean(),
            "q_target_mean": q_target.mean(),
            "v_target_mean": v_target.mean(),
            "v_target_clipped": (v_target != reached).to(q.dtype).mean(),
        }

    def vae_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        observations, actions = batch.observations, nets.standardise_actions(batch.actions)
        latent = nets.encoder(observations, actions)
        decoded = nets.decoder(observations, latent.sample(key.normal(*latent.mean.shape)))
        error, divergence = (decoded - actions).square().sum(-1), latent_divergence(latent)

        next_q = self.target_value(nets, batch.next_observations, config, key)
        reached = self.scaled(nets, batch.rewards, config) + config.discount * (1.0 - batch.terminals) * next_q
        advantage = reached - nets.value(observations)
        weight = self.weight(advantage, config)
        loss = (weight * (error + config.kl_weight * divergence)).mean()
        return loss, {
            "advantage_mean": advantage.mean(),
            "advantage_positive": (advantage > 0).to(weight.dtype).mean(),
            "weight_mean": weight.mean(),
            "reconstruction_error": error.mean(),
            "divergence": divergence.mean(),
        }

    def policy_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        latent = self.policy_latent(nets, batch.observations, config)
        q = nets.critic(batch.observations, nets.target.decoder(batch.observations, latent))[0]
        return -q.mean(), {"latent_size": latent.abs().mean()}

    def target_value(
        self, nets: Any, observations: Tensor, config: Any, key: Key, noise: Tensor | float | None = None
    ) -> Tensor:
        """(B,): value, by the slow copies, of what the latent policy (or the prior) does; `noise` is a latent sd."""
        if config.latent == "prior":
            latent = self.prior_latent(nets, observations, config, key)
        else:
            latent = self.policy_latent(nets.target, observations, config)
            if noise is not None:
                latent = latent + (noise * key.normal(*latent.shape)).clamp(-0.2, 0.2)
        actions = nets.target.decoder(observations, latent)
        return between_critics(nets.target.critic(observations, actions), config.min_weight)

    def policy_latent(self, nets: Any, observations: Tensor, config: Any) -> Tensor:
        """(B, L): the latent policy's choice; `nets` are the networks or their slow copies."""
        latent = nets.policy(observations)
        return latent if config.latent == "unbounded" else config.z_max * latent

    def prior_latent(self, nets: Any, observations: Tensor, config: Any, key: Key | None) -> Tensor:
        """(B, L): drawn from N(0, I) and clipped to the latent box; 0 without a key."""
        latent = torch.zeros_like(nets.policy(observations))
        if key is None:
            return latent
        return key.normal(*latent.shape).clamp(-config.z_max, config.z_max)

    def weight(self, advantage: Tensor, config: Any) -> Tensor:
        """(B,): the auto-encoder's weight of actions with this advantage."""
        if config.weight_mode == "exp":
            return torch.minimum(torch.exp(config.beta * advantage), config.weight_max)
        return torch.where(advantage > 0, config.positive_weight, 1.0 - config.positive_weight)

    def scaled(self, nets: Any, rewards: Tensor, config: Any) -> Tensor:
        """Rewards as the critics see them."""
        return nets.reward_scale(rewards) * config.reward_scale

    def bounded(self, nets: Any, values: Tensor, config: Any) -> Tensor:
        """(B,): values within the range of returns."""
        if config.value_bounds == "none":
            return values
        horizon = 1.0 if config.value_bounds == "once" else 1.0 / (1.0 - config.discount).clamp(min=1e-6)
        low, high = (self.scaled(nets, reward, config) * horizon for reward in nets.reward_range())
        return values.clamp(low, high)

    def sample_actions(self, nets: Any, observations: Tensor, config: Any, key: Key | None = None) -> Tensor:
        if config.latent == "prior":
            latent = self.prior_latent(nets, observations, config, key)
        else:
            latent = self.policy_latent(nets, observations, config)
        return nets.original_actions(nets.decoder(observations, latent)).clamp(-1.0, 1.0)

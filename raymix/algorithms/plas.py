"""Policy in the latent action space: PLAS (Zhou, Bajracharya and Held, 2020).

1. Phase `vae`. A conditional variational auto-encoder q(z|s, a), g(s, z) models the data's actions:
       minimise  mean (g(s, z) - a)^2 + kl_weight * mean KL(q(z|s, a) || N(0, 1)),  z ~ q(z|s, a),
   with means over the batch, the action's dimensions and the latent vector's dimensions.
2. Phase `main`, on one minibatch per step; the auto-encoder is frozen, and
   mix(q) = min_weight * min(q) + (1 - min_weight) * max(q) over the two critics:
   - critics:  Q(s, a) <- r + discount * mix(Q_target(s', act_target(s')));
   - policy:   maximise  Q_1(s, act(s)),  act(s) = g(s, pi(s)),  pi(s) in the box [-z_max, z_max]^L;
   - the slow copies of critics and policy follow with rate tau.

The policy acts by act(s), which is deterministic. With `perturbation=True` (PLAS+P), act(s) is g(s, pi(s)) + phi *
tanh(.), clipped to the box, by a second network of the state and the decoded action.

`latent="prior"` acts by the auto-encoder alone, in the targets too: z is drawn from N(0, I) and clipped to the latent
box; without a key it is 0 ("PLAS (VAE)" in Table 1 of LAPO's paper; the latent policy is then trained and asked by
nobody).

Differences from the authors' code (Wenxuan-Zhou/PLAS): none known, but the perturbation, which is written from a
description that leaves open how much it shares with the policy: here nothing but the optimiser.
Difference of the paper's text from that code: the paper takes the least of the critics (`min_weight=1`), while the
code, which produced the published results, runs with 0.75. For replay data (below 1e6 transitions) the authors use
`vae_hidden_dims=(128, 128)`; for hopper-medium-replay and halfcheetah-medium-expert `z_max=0.5`.
The preset `small` is for data of about 1e4 to 1e5 transitions and minutes of training on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raymix.algorithms.base import Algorithm, Phase, Update
from raymix.config import AlgorithmConfig, scalar, schedule, structure
from raymix.nn.latent import Decoder, Encoder, LatentPolicy
from raymix.nn.layers import Standardise, mlp
from raymix.nn.losses import latent_divergence
from raymix.nn.values import Critics, between_critics
from raymix.random import Key
from raymix.types import Spec

LOG_VARIANCE = (-8.0, 30.0)
"""Twice the bounds of the log standard deviation (the authors')."""


@dataclass(frozen=True)
class Config(AlgorithmConfig):
    z_max: float = scalar(2.0, low=0, help="half the width of the box of latent vectors")
    kl_weight: float = scalar(0.5, low=0, help="weight of the KL divergence in the auto-encoder")
    min_weight: float = scalar(0.75, low=0, high=1, help="lambda: share of the lesser critic in targets (paper: 1)")
    phi: float = scalar(0.05, low=0, high=1, help="largest perturbation of an action, where perturbation is on")
    discount: float = scalar(0.99, low=0, high=1, help="discount per step")
    tau: float = scalar(0.005, low=0, high=1, help="share by which slow copies move to their networks")
    critic_learning_rate: float = scalar(1e-3, low=0, help="Adam's rate for the critics")
    vae_learning_rate: float = scalar(1e-4, low=0, help="Adam's rate for encoder and decoder")
    policy_learning_rate: float = scalar(1e-4, low=0, help="Adam's rate for the latent policy")
    vae_steps: int = schedule(500_000, low=1, help="gradient steps of the auto-encoder's phase")
    batch_size: int = structure(100, low=1, help="transitions per step, shared by all updates")
    vae_hidden_dims: tuple = structure((750, 750), help="hidden widths of encoder and decoder")
    hidden_dims: tuple = structure((400, 300), help="hidden widths of critics and latent policy")
    latent: str = structure("bounded", choices=("bounded", "prior"), help="latent policy in the box, or none")
    perturbation: bool = structure(False, help="let a network move the decoded action by up to phi (PLAS+P)")


class Policy(nn.Module):
    """A latent policy, (B, S) -> (B, L) in [-1, 1], with a correction of actions: (B, S), (B, A) -> (B, A)."""

    def __init__(
        self, standardise: Standardise, hidden_dims: Sequence[int], latent_dim: int, action_dim: int, corrects: bool
    ) -> None:
        super().__init__()
        self.standardise = standardise
        self.latent = LatentPolicy(standardise, hidden_dims, latent_dim)
        self.correction = mlp(len(standardise.mean) + action_dim, hidden_dims, action_dim) if corrects else None

    def forward(self, observations: Tensor, actions: Tensor | None = None) -> Tensor:
        if actions is None or self.correction is None:
            return self.latent(observations)
        return torch.tanh(self.correction(torch.cat((self.standardise(observations), actions), -1)))


class PLAS(Algorithm):
    """Models the data's actions by an auto-encoder, then chooses among them by a bounded latent policy."""

    Config = Config
    paper = "Zhou, Bajracharya and Held, 2020, PLAS: Latent Action Space for Offline Reinforcement Learning"
    acting = ("policy", "decoder")
    phases = (
        Phase(
            "vae",
            (Update("vae_loss", ("encoder", "decoder"), "vae_learning_rate"),),
            steps="vae_steps",
        ),
        Phase(
            "main",
            (
                Update("critic_loss", "critic", "critic_learning_rate"),
                Update("policy_loss", "policy", "policy_learning_rate", batch_of="critic_loss"),
            ),
            targets=("critic", "policy"),
        ),
    )
    presets = {
        "paper": {"vae_steps": 500_000, "steps": 500_000},
        "small": {
            "discount": 0.9,
            "tau": 0.02,
            "vae_learning_rate": 1e-3,
            "policy_learning_rate": 1e-3,
            "batch_size": 256,
            "vae_hidden_dims": (256, 256),
            "hidden_dims": (256, 256),
            "vae_steps": 2_000,
            "steps": 2_000,
        },
    }

    def networks(self, spec: Spec, config: Any) -> dict[str, nn.Module]:
        standardise = Standardise.nothing(spec)
        size, latent_dim = spec.action_dim, 2 * spec.action_dim
        return {
            "encoder": Encoder(standardise, size, config.vae_hidden_dims, latent_dim, LOG_VARIANCE),
            "decoder": Decoder(standardise, size, config.vae_hidden_dims, latent_dim, squash=True),
            "policy": Policy(standardise, config.hidden_dims, latent_dim, size, config.perturbation),
            "critic": Critics(2, standardise, size, config.hidden_dims),
        }

    def vae_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        latent = nets.encoder(batch.observations, batch.actions)
        decoded = nets.decoder(batch.observations, latent.sample(key.normal(*latent.mean.shape)))
        error, divergence = (decoded - batch.actions).square().mean(), latent_divergence(latent).mean()
        loss = error + config.kl_weight * divergence / latent.mean.shape[-1]
        return loss, {"reconstruction_error": error, "divergence": divergence}

    def critic_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        next_actions = self.act(nets.target, nets, batch.next_observations, config, key)
        next_q = between_critics(nets.target.critic(batch.next_observations, next_actions), config.min_weight)
        target = batch.rewards + config.discount * (1.0 - batch.terminals) * next_q
        q = nets.critic(batch.observations, batch.actions)
        return (q - target).square().mean(-1).sum(), {"q_mean": q.mean(), "q_target_mean": target.mean()}

    def policy_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        latent = config.z_max * nets.policy(batch.observations)
        actions = self.decode(nets, nets, batch.observations, latent, config)
        return -nets.critic(batch.observations, actions)[0].mean(), {"latent_size": latent.abs().mean()}

    def act(self, policy_nets: Any, nets: Any, observations: Tensor, config: Any, key: Key | None) -> Tensor:
        """(B, A): what the policy in `policy_nets` (the networks or their slow copies) or the prior does."""
        latent = config.z_max * policy_nets.policy(observations)
        if config.latent == "prior":
            noise = torch.zeros_like(latent) if key is None else key.normal(*latent.shape)
            latent = noise.clamp(-config.z_max, config.z_max)
        return self.decode(policy_nets, nets, observations, latent, config)

    def decode(self, policy_nets: Any, nets: Any, observations: Tensor, latent: Tensor, config: Any) -> Tensor:
        """(B, A): decoded latent vectors, perturbed where the policy does so."""
        actions = nets.decoder(observations, latent)
        if not config.perturbation or config.latent == "prior":
            return actions
        return (actions + config.phi * policy_nets.policy(observations, actions)).clamp(-1.0, 1.0)

    def sample_actions(self, nets: Any, observations: Tensor, config: Any, key: Key | None = None) -> Tensor:
        return self.act(nets, nets, observations, config, key)

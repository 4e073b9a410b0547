"""Latent-policy AWAC: the structure of LAPO with min-max-scaled exponential weights: LP-AWAC (Osa, Hayashi, Deo,
Morihira and Yoshiike, 2023).

A conditional variational auto-encoder q(z|s, a), g(s, z) models the data's actions, weighted by advantage, and a
policy z = pi(s) in the box [-z_max, z_max]^L chooses among them. In every step, on one minibatch:

1. critics:  Q(s, a) <- r + discount * V(s'),  V(s) <- min Q_target(s, g_target(s, pi_target(s) + clipped noise));
2. decoder:  A = r + discount * min Q_target(s', g_target(s', pi_target(s'))) - V(s),
             w = exp(alpha * (A - max A) / (max A - min A)), divided by its mean over the batch,
             minimise  w * (|g(s, z) - a|^2 + kl_weight * KL(q(z|s, a) || N(0, I))),  z ~ q(z|s, a);
3. policy:   maximise  Q_1(s, g_target(s, pi(s)));
4. the slow copies of critics, decoder and policy follow with rate tau.

The policy acts by g_target(s, pi(s)), which is deterministic. What differs from `lapo`: the weights; actions are not
standardised and rewards not scaled; V is not clipped; two hidden layers instead of three.

Differences from the authors' code (TakaOsa/DMPO), each with its reason:
- Actions are clipped to the box before they are done. The critic's targets see the decoder's unbounded output, as
  theirs do; `clip_target_actions=True` clips it there too, which tells the error of far actions from that of several
  modes.
- 1e-8 is added to the width max A - min A: theirs divides by 0 where all advantages of a batch are equal.
- The encoder's log variance is kept within [-20, 10], so that a far action cannot overflow.
The paper gives no `alpha` for this method; 5 is what its code uses, whatever the command line says. Its text has no
division by the mean.
The preset `small` is for data of about 1e4 to 1e5 transitions and minutes of training on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from raymix.algorithms.base import Algorithm, Phase, Update
from raymix.config import AlgorithmConfig, scalar, structure
from raymix.nn.latent import Decoder, Encoder, LatentPolicy
from raymix.nn.layers import Standardise
from raymix.nn.losses import latent_divergence, normalized_weights
from raymix.nn.values import Critics, Value
from raymix.random import Key
from raymix.types import Spec

EPSILON = 1e-3
"""Added to the standard deviations of observations (the authors')."""


@dataclass(frozen=True)
class Config(AlgorithmConfig):
    z_max: float = scalar(2.0, low=0, help="half the width of the box of latent vectors")
    kl_weight: float = scalar(1.0, low=0, help="weight of the KL divergence in the auto-encoder")
    alpha: float = scalar(5.0, low=0, help="multiplies the advantage, scaled to [-1, 0], in the weight")
    latent_noise: float = scalar(0.1, low=0, help="sd of noise on the latent vector in V's target, clipped at 0.2")
    reward_shift: float = scalar(0.0, help="added to rewards (antmaze -1)")
    discount: float = scalar(0.99, low=0, high=1, help="discount per step")
    tau: float = scalar(0.005, low=0, high=1, help="share by which slow copies move to their networks")
    critic_learning_rate: float = scalar(3e-4, low=0, help="Adam's rate for critics and value")
    vae_learning_rate: float = scalar(3e-4, low=0, help="Adam's rate for encoder and decoder")
    policy_learning_rate: float = scalar(3e-4, low=0, help="Adam's rate for the latent policy")
    batch_size: int = structure(256, low=1, help="transitions per step, shared by all updates")
    hidden_dims: tuple = structure((256, 256), help="hidden widths of all networks")
    clip_target_actions: bool = structure(False, help="clip decoded actions to the box in the critic's targets")


class LPAWAC(Algorithm):
    """Models the good actions of the data by an auto-encoder, then chooses among them by a bounded latent policy."""

    Config = Config
    paper = "Osa et al., 2023, Offline Reinforcement Learning with Mixture of Deterministic Policies"
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
        "antmaze": {"reward_shift": -1.0},
        "small": {
            "discount": 0.9,
            "tau": 0.02,
            "critic_learning_rate": 1e-3,
            "vae_learning_rate": 1e-3,
            "policy_learning_rate": 1e-3,
            "steps": 3_000,
        },
    }

    def networks(self, spec: Spec, config: Any) -> dict[str, nn.Module]:
        standardise = Standardise.of(spec, EPSILON)
        size, hidden, latent_dim = spec.action_dim, config.hidden_dims, 2 * spec.action_dim
        return {
            "encoder": Encoder(standardise, size, hidden, latent_dim),
            "decoder": Decoder(standardise, size, hidden, latent_dim, squash=False),
            "policy": LatentPolicy(standardise, hidden, latent_dim),
            "critic": Critics(2, standardise, size, hidden),
            "value": Value(standardise, hidden),
        }

    def critic_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        observations, actions = batch.observations, batch.actions
        next_value = nets.value(batch.next_observations).detach()
        q_target = batch.rewards + config.reward_shift + config.discount * (1.0 - batch.terminals) * next_value
        v_target = self.target_value(nets, observations, config, key, config.latent_noise)
        q, v = nets.critic(observations, actions), nets.value(observations)
        loss = (q - q_target).square().mean(-1).sum() + (v - v_target).square().mean()
        return loss, {"q_mean": q.mean(), "q_target_mean": q_target.mean(), "v_target_mean": v_target.mean()}

    def vae_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        observations, actions = batch.observations, batch.actions
        latent = nets.encoder(observations, actions)
        decoded = nets.decoder(observations, latent.sample(key.normal(*latent.mean.shape)))
        error, divergence = (decoded - actions).square().sum(-1), latent_divergence(latent)

        next_q = self.target_value(nets, batch.next_observations, config, key)
        reached = batch.rewards + config.reward_shift + config.discount * (1.0 - batch.terminals) * next_q
        advantage = reached - nets.value(observations)
        weight = normalized_weights(advantage, config.alpha)
        loss = (weight * (error + config.kl_weight * divergence)).mean()
        return loss, {
            "advantage_mean": advantage.mean(),
            "weight_max": weight.amax(),
            "reconstruction_error": error.mean(),
            "divergence": divergence.mean(),
        }

    def policy_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        latent = config.z_max * nets.policy(batch.observations)
        q = nets.critic(batch.observations, nets.target.decoder(batch.observations, latent))[0]
        return -q.mean(), {"latent_size": latent.abs().mean()}

    def target_value(
        self, nets: Any, observations: Tensor, config: Any, key: Key, noise: Tensor | float | None = None
    ) -> Tensor:
        """(B,): value, by the slow copies, of what the latent policy does; `noise` is a latent sd."""
        latent = config.z_max * nets.target.policy(observations)
        if noise is not None:
            latent = latent + (noise * key.normal(*latent.shape)).clamp(-0.2, 0.2)
        actions = nets.target.decoder(observations, latent)
        if config.clip_target_actions:
            actions = actions.clamp(-1.0, 1.0)
        return nets.target.critic(observations, actions).amin(0)

    def sample_actions(self, nets: Any, observations: Tensor, config: Any, key: Key | None = None) -> Tensor:
        return nets.decoder(observations, config.z_max * nets.policy(observations)).clamp(-1.0, 1.0)

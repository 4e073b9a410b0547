"""Advantage-weighted cloning by a conditional variational auto-encoder: WCVAE (compared with in Wang, Jin and
Montana, 2024, equation 40).

In every step:

1. auto-encoder:  A = r + discount * V(s') - V(s),  w = min(exp(adv_scale * A), weight_max), divided by its mean,
                  minimise  w * (mean (g(s, z) - a)^2 + kl_weight * mean KL(q(z|s, a) || N(0, 1))),  z ~ q(z|s, a),
                  with means over the action's and the latent vector's dimensions;
2. value:         V(s) <- r + discount * V_target(s'),  the value of the behaviour policy;
3. in every second step, the second one first, the slow copy of V follows with rate tau.

It acts by g(s, z) with z drawn from N(0, I), and with z = 0 where it gets no key.

The authors published no such agent for continuous control: a CVAE without weights and a weighted one for a toy are in
their history. Joined here are the first one's losses and sizes with the second one's weight on both terms, and the
value and the weights of their WCGAN. Differences from these parts, each with its reason:
- The decoder ends in tanh, theirs is linear: every action is inside the box.
- Weights are divided by their mean (`divide_by_mean=False` does not): they would otherwise change the scale of the
  loss from batch to batch, between almost 0 and weight_max.
- The encoder's log standard deviation is kept within [-4, 15], as in BCQ.
Observations are standardised as in `lom`. `adv_scale=0` is the plain CVAE clone.
The preset `small` is for data of about 1e4 to 1e5 transitions and minutes of training on a CPU. It has 8 latent
dimensions: on FetchReach, two seeds each, 8 return 94, and 64 return 12 to 18 (4 to 36 by z = 0). The divergence is
divided by their number, so the more there are, the less each is held near the prior that acting draws from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raymix.algorithms.base import Algorithm, Phase, Update
from raymix.config import AlgorithmConfig, scalar, structure
from raymix.nn.latent import Decoder, Encoder
from raymix.nn.layers import Standardise
from raymix.nn.losses import latent_divergence
from raymix.nn.values import Value
from raymix.random import Key
from raymix.types import Spec

LOG_VARIANCE = (-8.0, 30.0)
"""Twice the bounds of the log standard deviation."""


@dataclass(frozen=True)
class Config(AlgorithmConfig):
    adv_scale: float = scalar(2.0, low=0, help="k: multiplies the advantage in the weight; 0 clones all data alike")
    weight_max: float = scalar(50.0, low=0, help="M: cap of the weight")
    kl_weight: float = scalar(1.0, low=0, help="kappa: weight of the KL divergence")
    reward_shift: float = scalar(0.0, help="added to rewards (antmaze -1)")
    discount: float = scalar(0.99, low=0, high=1, help="discount per step")
    tau: float = scalar(0.005, low=0, high=1, help="share by which the slow value moves to the value")
    value_learning_rate: float = scalar(1e-3, low=0, help="Adam's rate for the value")
    vae_learning_rate: float = scalar(1e-3, low=0, help="Adam's rate for encoder and decoder")
    batch_size: int = structure(512, low=1, help="transitions per update")
    latent_dim: int = structure(64, low=1, help="size of the latent vector")
    hidden_dims: tuple = structure((256,), help="hidden widths of encoder and decoder")
    value_hidden_dims: tuple = structure((256, 256), help="hidden widths of the value")
    divide_by_mean: bool = structure(True, help="divide weights by their mean over the batch")


class WCVAE(Algorithm):
    """Imitates the whole distribution of the data's better actions."""

    Config = Config
    paper = "Wang, Jin and Montana, 2024, Learning on One Mode (a baseline there)"
    acting = ("decoder",)
    phases = (
        Phase(
            "main",
            (
                Update("vae_loss", ("encoder", "decoder"), "vae_learning_rate"),
                Update("value_loss", "value", "value_learning_rate"),
            ),
            targets=("value",),
            targets_every=2,
            targets_first=1,
        ),
    )
    presets = {
        "paper": {"steps": 500_000},
        "antmaze": {"reward_shift": -1.0},
        "small": {"discount": 0.9, "tau": 0.05, "batch_size": 256, "latent_dim": 8, "steps": 3_000},
    }

    def networks(self, spec: Spec, config: Any) -> dict[str, nn.Module]:
        standardise = Standardise.noisy(spec)
        size, hidden = spec.action_dim, config.hidden_dims
        return {
            "encoder": Encoder(standardise, size, hidden, config.latent_dim, LOG_VARIANCE),
            "decoder": Decoder(standardise, size, hidden, config.latent_dim, squash=True),
            "value": Value(standardise, config.value_hidden_dims),
        }

    def vae_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        observations, actions = batch.observations, batch.actions
        latent = nets.encoder(observations, actions)
        decoded = nets.decoder(observations, latent.sample(key.normal(*latent.mean.shape)))
        error = (decoded - actions).square().mean(-1)
        divergence = latent_divergence(latent) / config.latent_dim

        reached = self.reached(batch, nets.value(batch.next_observations), config)
        advantage = reached - nets.value(observations)
        weight = torch.minimum(torch.exp(config.adv_scale * advantage), config.weight_max)
        scaled = weight / (weight.mean() + 1e-8) if config.divide_by_mean else weight
        loss = (scaled * (error + config.kl_weight * divergence)).mean()
        return loss, {
            "advantage_mean": advantage.mean(),
            "weight_mean": weight.mean(),
            "weight_capped": (weight >= config.weight_max).to(weight.dtype).mean(),
            "reconstruction_error": error.mean(),
            "divergence": divergence.mean(),
            "active_dimensions": (latent.mean.var(0) > 0.01).to(weight.dtype).sum(),
        }

    def value_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        target = self.reached(batch, nets.target.value(batch.next_observations), config)
        value = nets.value(batch.observations)
        return (value - target).square().mean(), {"v_mean": value.mean()}

    def reached(self, batch: Any, next_value: Tensor, config: Any) -> Tensor:
        """(B,): reward and the discounted value of where it led."""
        return batch.rewards + config.reward_shift + config.discount * (1.0 - batch.terminals) * next_value

    def sample_actions(self, nets: Any, observations: Tensor, config: Any, key: Key | None = None) -> Tensor:
        shape = (*observations.shape[:-1], config.latent_dim)
        latent = observations.new_zeros(shape) if key is None else key.normal(*shape)
        return nets.decoder(observations, latent)

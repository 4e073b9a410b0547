"""Conditional variational auto-encoders of actions, and policies over their latent vectors (PLAS, LAPO, LP-AWAC,
WCVAE)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from raymix.nn.layers import Standardise, mlp


class Latent(NamedTuple):
    """Diagonal Gaussian over latent vectors."""

    mean: Tensor
    """(B, L)."""
    log_variance: Tensor
    """(B, L)."""

    def sample(self, noise: Tensor) -> Tensor:
        """(B, L): mean + std * noise."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise


class Encoder(nn.Module):
    """q(z | s, a): observations (B, S), actions (B, A) -> `Latent`, its log variance within `bounds`."""

    def __init__(
        self,
        standardise: Standardise,
        action_dim: int,
        hidden_dims: Sequence[int],
        latent_dim: int,
        bounds: tuple[float, float] = (-20.0, 10.0),
    ) -> None:
        super().__init__()
        self.standardise, self.bounds = standardise, bounds
        self.trunk = mlp(len(standardise.mean) + action_dim, hidden_dims, 2 * latent_dim)

    def forward(self, observations: Tensor, actions: Tensor) -> Latent:
        mean, log_variance = self.trunk(torch.cat((self.standardise(observations), actions), -1)).chunk(2, -1)
        return Latent(mean, log_variance.clamp(*self.bounds))


class Decoder(nn.Module):
    """p(a | s, z) by its mean: observations (B, S), latent vectors (B, L) -> (B, A); tanh where `squash`."""

    def __init__(
        self,
        standardise: Standardise,
        action_dim: int,
        hidden_dims: Sequence[int],
        latent_dim: int,
        squash: bool,
    ) -> None:
        super().__init__()
        self.standardise, self.squash = standardise, squash
        self.trunk = mlp(len(standardise.mean) + latent_dim, hidden_dims, action_dim)

    def forward(self, observations: Tensor, latent: Tensor) -> Tensor:
        actions = self.trunk(torch.cat((self.standardise(observations), latent), -1))
        return torch.tanh(actions) if self.squash else actions


class LatentPolicy(nn.Module):
    """Observations (B, S) -> (B, L): tanh where `bounded`, to be scaled to the latent box by whoever calls."""

    def __init__(
        self, standardise: Standardise, hidden_dims: Sequence[int], latent_dim: int, bounded: bool = True
    ) -> None:
        super().__init__()
        self.standardise, self.bounded = standardise, bounded
        self.trunk = mlp(len(standardise.mean), hidden_dims, latent_dim)

    def forward(self, observations: Tensor) -> Tensor:
        latent = self.trunk(self.standardise(observations))
        return torch.tanh(latent) if self.bounded else latent

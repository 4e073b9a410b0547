"""Policies: networks from observations to actions, or to the parameters of a distribution over actions.

Actions are in the unit box [-1, 1]^A throughout; `learner.replay` and `evaluation.policy` map to and from the
environment's box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from raymix.nn.layers import Standardise, mlp


class Gaussian(NamedTuple):
    """Diagonal Gaussian over actions, not squashed."""

    mean: Tensor
    """(B, A)."""
    log_std: Tensor
    """Broadcasts to (B, A)."""


class Mixture(NamedTuple):
    """Mixture of M diagonal Gaussians over actions, not squashed."""

    means: Tensor
    """(B, M, A)."""
    log_stds: Tensor
    """(B, M, A), as the network gives them: whoever uses them clamps them."""
    logits: Tensor
    """(B, M): the mixing weights are their softmax."""


class DeterministicPolicy(nn.Module):
    """tanh of an `mlp`: (B, S) -> (B, A)."""

    def __init__(self, standardise: Standardise, hidden_dims: Sequence[int], action_dim: int) -> None:
        super().__init__()
        self.standardise = standardise
        self.trunk = mlp(len(standardise.mean), hidden_dims, action_dim)

    def forward(self, observations: Tensor) -> Tensor:
        return torch.tanh(self.trunk(self.standardise(observations)))


class GaussianPolicy(nn.Module):
    """tanh mean and a standard deviation that does not depend on the state: (B, S) -> `Gaussian`."""

    def __init__(self, standardise: Standardise, hidden_dims: Sequence[int], action_dim: int) -> None:
        super().__init__()
        self.mean = DeterministicPolicy(standardise, hidden_dims, action_dim)
        self.log_std = nn.Parameter(torch.zeros(action_dim))

    def forward(self, observations: Tensor) -> Gaussian:
        return Gaussian(self.mean(observations), self.log_std)


class MixturePolicy(nn.Module):
    """Mixture density network (Bishop, 1994): (B, S) -> `Mixture`; means are tanh, kept 1e-4 inside the box."""

    def __init__(
        self, standardise: Standardise, hidden_dims: Sequence[int], action_dim: int, num_components: int
    ) -> None:
        super().__init__()
        self.standardise = standardise
        self.num_components, self.action_dim = num_components, action_dim
        self.trunk = mlp(len(standardise.mean), hidden_dims, num_components * (2 * action_dim + 1))

    def forward(self, observations: Tensor) -> Mixture:
        output = self.trunk(self.standardise(observations))
        size = self.num_components * self.action_dim
        means, log_stds, logits = output.split((size, size, self.num_components), -1)
        shape = (*output.shape[:-1], self.num_components, self.action_dim)
        means = torch.tanh(means).clamp(-0.9999, 0.9999)
        return Mixture(means.reshape(shape), log_stds.reshape(shape), logits)


class BoundedGaussianPolicy(nn.Module):
    """Gaussian whose mean and standard deviation both depend on the state: (B, S) -> `Gaussian`.

    The mean is tanh, or free where `tanh_mean` is False (for a Gaussian that is squashed afterwards). The log standard
    deviation is kept within `log_std_range`, softly by tanh or (`soft_range=False`) by clamping.
    """

    def __init__(
        self,
        standardise: Standardise,
        hidden_dims: Sequence[int],
        action_dim: int,
        tanh_mean: bool,
        log_std_range: tuple[float, float],
        soft_range: bool = True,
    ) -> None:
        super().__init__()
        self.standardise, self.tanh_mean = standardise, tanh_mean
        self.log_std_range, self.soft_range = log_std_range, soft_range
        self.trunk = mlp(len(standardise.mean), hidden_dims, 2 * action_dim)

    def forward(self, observations: Tensor) -> Gaussian:
        mean, log_std = self.trunk(self.standardise(observations)).chunk(2, -1)
        low, high = self.log_std_range
        soft = low + 0.5 * (high - low) * (torch.tanh(log_std) + 1.0)
        log_std = soft if self.soft_range else log_std.clamp(low, high)
        return Gaussian(torch.tanh(mean) if self.tanh_mean else mean, log_std)

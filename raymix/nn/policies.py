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


LOG_STD_FORMS = ("twice", "once", "port")


def soft_clamp(values: Tensor) -> Tensor:
    """Smoothly into (-5, 0)."""
    return -5.0 + 2.5 * (torch.tanh(values) + 1.0)


def bounded_log_std(output: Tensor, form: str) -> Tensor:
    """A log standard deviation from a network's output, as in the DMPO authors' code.

    'once' lies in (-5, 0); 'twice', which has a tanh before that one, in (-4.404, -0.596); 'port', of their IQL, is
    clamped again and lies in (-4.9993, -3.8355).
    """
    if form == "once":
        return soft_clamp(output)
    clamped = soft_clamp(torch.tanh(output))
    return soft_clamp(clamped) if form == "port" else clamped


class StateGaussianPolicy(nn.Module):
    """tanh mean and a bounded standard deviation, both of the state: (B, S) -> `Gaussian`."""

    def __init__(
        self, standardise: Standardise, hidden_dims: Sequence[int], action_dim: int, log_std_form: str = "twice"
    ) -> None:
        super().__init__()
        self.standardise, self.log_std_form = standardise, log_std_form
        self.trunk = mlp(len(standardise.mean), hidden_dims, 2 * action_dim)

    def forward(self, observations: Tensor) -> Gaussian:
        mean, log_std = self.trunk(self.standardise(observations)).chunk(2, -1)
        return Gaussian(torch.tanh(mean), bounded_log_std(log_std, self.log_std_form))


class LatentTrunk(nn.Module):
    """An `mlp` of the state and of an embedded discrete latent z (Osa et al., 2023).

    Observations (B, S) and weights of the latents (B, Z), one-hot or relaxed, -> (B, output_dim). Without weights
    every latent is taken in turn: -> (B, Z, output_dim).
    """

    def __init__(
        self,
        standardise: Standardise,
        hidden_dims: Sequence[int],
        num_latents: int,
        embedding_dim: int,
        output_dim: int,
    ) -> None:
        super().__init__()
        self.standardise, self.num_latents = standardise, num_latents
        self.embedding = nn.Linear(num_latents, embedding_dim)
        self.trunk = mlp(len(standardise.mean) + embedding_dim, hidden_dims, output_dim)

    def forward(self, observations: Tensor, latents: Tensor | None = None) -> Tensor:
        states = self.standardise(observations)
        if latents is None:
            shape = (*states.shape[:-1], self.num_latents, -1)
            states = states[..., None, :].expand(shape)
            latents = torch.eye(self.num_latents, dtype=states.dtype, device=states.device).expand(shape)
        return self.trunk(torch.cat((states, torch.relu(self.embedding(latents))), -1))


class LatentPolicy(nn.Module):
    """A deterministic sub-policy per latent: `LatentTrunk` with tanh, (B, S)[, (B, Z)] -> (B, A) or (B, Z, A)."""

    def __init__(
        self,
        standardise: Standardise,
        hidden_dims: Sequence[int],
        action_dim: int,
        num_latents: int,
        embedding_dim: int,
    ) -> None:
        super().__init__()
        self.latent = LatentTrunk(standardise, hidden_dims, num_latents, embedding_dim, action_dim)

    def forward(self, observations: Tensor, latents: Tensor | None = None) -> Tensor:
        return torch.tanh(self.latent(observations, latents))


class LatentGaussianPolicy(nn.Module):
    """A Gaussian per latent: `LatentTrunk` to tanh means and bounded deviations, (B, A) or (B, Z, A) each."""

    def __init__(
        self,
        standardise: Standardise,
        hidden_dims: Sequence[int],
        action_dim: int,
        num_latents: int,
        embedding_dim: int,
        log_std_form: str = "twice",
    ) -> None:
        super().__init__()
        self.log_std_form = log_std_form
        self.latent = LatentTrunk(standardise, hidden_dims, num_latents, embedding_dim, 2 * action_dim)

    def forward(self, observations: Tensor, latents: Tensor | None = None) -> Gaussian:
        mean, log_std = self.latent(observations, latents).chunk(2, -1)
        return Gaussian(torch.tanh(mean), bounded_log_std(log_std, self.log_std_form))


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

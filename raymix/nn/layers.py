"""Building blocks: multi-layer perceptrons, ensembles of them, and standardisation that lives inside a network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raymix.types import Spec, UsageError


def mlp(input_dim: int, hidden_dims: Sequence[int], output_dim: int) -> nn.Sequential:
    """(..., input_dim) -> (..., output_dim): ReLU after each hidden layer, linear output, PyTorch's initialisation."""
    widths = (input_dim, *hidden_dims)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], output_dim))


class EnsembleLinear(nn.Module):
    """K independent linear layers: (K or 1, B, input_dim) -> (K, B, output_dim)."""

    def __init__(self, count: int, input_dim: int, output_dim: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(input_dim)  # what nn.Linear does, per layer
        self.weight = nn.Parameter(torch.empty(count, output_dim, input_dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(count, output_dim).uniform_(-bound, bound))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight.mT + self.bias[:, None]


class EnsembleMLP(nn.Module):
    """K independent `mlp`s on the same input: (B, input_dim) -> (K, B, output_dim)."""

    def __init__(self, count: int, input_dim: int, hidden_dims: Sequence[int], output_dim: int) -> None:
        super().__init__()
        widths = (input_dim, *hidden_dims, output_dim)
        self.layers = nn.ModuleList(EnsembleLinear(count, a, b) for a, b in itertools.pairwise(widths))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs[None]
        for layer in self.layers[:-1]:
            hidden = torch.relu(layer(hidden))
        return self.layers[-1](hidden)


class Standardise(nn.Module):
    """(x - mean) / scale with constants of the data set; inside the network, so that nobody can forget it."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Sequence[float], scale: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("scale", torch.tensor(scale))

    @classmethod
    def of(cls, spec: Spec, epsilon: float) -> Standardise:
        """By the observations' mean and std + epsilon (TD3+BC and the DMPO family: 1e-3; LAPO: 1e-6)."""
        return cls(spec.observation_mean, [std + epsilon for std in spec.observation_std])

    @classmethod
    def nothing(cls, spec: Spec) -> Standardise:
        """Leaves observations as they are, for methods that do not standardise."""
        return cls([0.0] * spec.observation_dim, [1.0] * spec.observation_dim)

    @classmethod
    def noisy(cls, spec: Spec) -> Standardise:
        """By the observations' mean and sqrt(variance + 0.05^2), so that a constant dimension stays finite.

        LOM's code fits its scaler to observations with normal noise of sd 0.05; this is that scaler's expectation.
        """
        return cls(spec.observation_mean, [(std**2 + 0.05**2) ** 0.5 for std in spec.observation_std])

    @classmethod
    def actions(cls, spec: Spec, epsilon: float) -> Standardise:
        """By the actions' mean and std + epsilon, for actions in the unit box."""
        mean, scale = [], []
        for low, high, centre, std in zip(spec.action_low, spec.action_high, spec.action_mean, spec.action_std):
            mean.append((centre - low) * 2.0 / (high - low) - 1.0)
            scale.append(std * 2.0 / (high - low) + epsilon)
        return cls(mean, scale)

    def inverse(self) -> Standardise:
        """Undoes this one: (x - (-mean / scale)) / (1 / scale) = x * scale + mean."""
        return Standardise((-self.mean / self.scale).tolist(), (1.0 / self.scale).tolist())

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs - self.mean) / self.scale


class RewardScale(nn.Module):
    """rewards * scale, with a constant of the data set: (B,) -> (B,). Has no parameters.

    'none' is 1; 'max' is 1 / max |reward| (LAPO divides by the maximum, which flips every sign where it is negative
    and fails where it is 0); 'returns' is 1000 / (largest - smallest return of an episode) (IQL, locomotion).
    """

    scale: Tensor
    CHOICES = ("none", "max", "returns")

    def __init__(self, spec: Spec, how: str) -> None:
        super().__init__()
        spans = {"none": 1.0, "max": _largest_reward(spec), "returns": (spec.returns_max - spec.returns_min) / 1000.0}
        if not spans[how] > 0:
            what = "its rewards are all 0" if how == "max" else "all its episodes have one return"
            raise UsageError(f"reward_scaling={how!r} cannot be used on data set {spec.name}: {what}; take 'none'")
        self.register_buffer("scale", torch.tensor(1.0 / spans[how]))

    def forward(self, rewards: Tensor) -> Tensor:
        return rewards * self.scale


def _largest_reward(spec: Spec) -> float:
    return max(abs(spec.reward_min), abs(spec.reward_max))

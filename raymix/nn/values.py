"""Value functions: state-action critics and state values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raymix.nn.layers import EnsembleMLP, Standardise, mlp


class Critics(nn.Module):
    """K state-action values: observations (B, S), actions (B, A) in the unit box -> (K, B)."""

    def __init__(self, count: int, standardise: Standardise, action_dim: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self.standardise = standardise
        self.ensemble = EnsembleMLP(count, len(standardise.mean) + action_dim, hidden_dims, 1)

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        return self.ensemble(torch.cat((self.standardise(observations), actions), -1)).squeeze(-1)


class Value(nn.Module):
    """A state value: observations (B, S) -> (B,)."""

    def __init__(self, standardise: Standardise, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self.standardise = standardise
        self.trunk = mlp(len(standardise.mean), hidden_dims, 1)

    def forward(self, observations: Tensor) -> Tensor:
        return self.trunk(self.standardise(observations)).squeeze(-1)


def between_critics(values: Tensor, min_weight: Tensor | float) -> Tensor:
    """(K, B) -> (B,): min_weight * (the least of K values) + (1 - min_weight) * (the largest)."""
    return min_weight * values.amin(0) + (1.0 - min_weight) * values.amax(0)

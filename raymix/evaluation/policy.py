"""A trained policy outside the learner: one agent's weights, its configuration and the data set's facts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from raymix.algorithms import base
from raymix.evaluation.weights import PolicyWeights
from raymix.learner.networks import Networks, fresh_networks
from raymix.learner.state import unflatten
from raymix.random import ACTING, Key, streams
from raymix.types import Spec


class Policy:
    """Acts in the environment's own units: observations (B, S) -> actions (B, A) within the action box."""

    def __init__(self, plain: PolicyWeights) -> None:
        self.algorithm = base.find(plain.algorithm)
        self.config = self.algorithm.configure(plain.config)
        self.spec = Spec.from_dict(plain.spec)
        self.seed = plain.seed
        self._modules = fresh_networks(self.algorithm, self.spec, self.config, seed=0)
        self._weights = {name: torch.from_numpy(value) for name, value in plain.weights.items()}
        self._networks = Networks(self._modules, unflatten(self._weights))
        low, high = np.asarray(self.spec.action_low), np.asarray(self.spec.action_high)
        self._centre, self._half = (low + high) / 2, (high - low) / 2

    @torch.inference_mode()
    def act(self, observations: np.ndarray, step: int) -> np.ndarray:
        """Actions for a batch at time `step`; a stochastic policy draws from (seed, step)."""
        key = Key.of(self.seed, step)
        inputs = torch.from_numpy(np.asarray(observations, dtype=np.float32))
        actions = self.algorithm.sample_actions(self._networks, inputs, self.config, key)
        return self._in_units(actions)

    def _in_units(self, actions: torch.Tensor) -> np.ndarray:
        return self._centre + self._half * np.clip(actions.numpy().astype(np.float64), -1.0, 1.0)


class Policies:
    """P policies of one configuration and one data set that act in one call; they differ in seed and weights.

    A policy's actions do not depend on the others at the same P, and are those of `Policy` up to rounding.
    """

    def __init__(self, policies: Sequence[Policy]) -> None:
        first = policies[0]
        for other in policies[1:]:
            if (type(other.algorithm), other.config, other.spec) != (type(first.algorithm), first.config, first.spec):
                raise ValueError("policies that act together share their algorithm, configuration and data set")
        self._first = first
        self._seeds = torch.tensor([policy.seed for policy in policies])
        weights = {name: torch.stack([policy._weights[name] for policy in policies]) for name in first._weights}
        self._weights = unflatten(weights)

    @torch.no_grad()
    def act(self, observations: np.ndarray, step: int) -> np.ndarray:
        """(P, B, S) -> (P, B, A): each policy acts on its own batch at time `step`, as `Policy.act`."""
        first = self._first

        def actions(weights: Any, inputs: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
            return first.algorithm.sample_actions(Networks(first._modules, weights), inputs, first.config, Key(starts))

        starts = streams(self._seeds, torch.tensor(step), updates=1, domain=ACTING)[:, 0]
        inputs = torch.from_numpy(np.asarray(observations, dtype=np.float32))
        return first._in_units(torch.vmap(actions)(self._weights, inputs, starts))

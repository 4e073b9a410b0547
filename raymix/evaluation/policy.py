"""A trained policy outside the learner: one agent's weights, its configuration and the data set's facts."""

from __future__ import annotations

import numpy as np
import torch

from raymix.algorithms import base
from raymix.evaluation.weights import PolicyWeights
from raymix.learner.networks import Networks, fresh_networks
from raymix.learner.state import unflatten
from raymix.random import Key
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

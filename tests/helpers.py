"""Small data sets, configurations and learners for tests of the learner core."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from raymix.algorithms.base import Algorithm
from raymix.config import AlgorithmConfig, kind_of
from raymix.data.columns import Episode, from_episodes, make_dataset
from raymix.learner.learner import Learner
from raymix.learner.replay import DeviceReplay
from raymix.types import Dataset

LENGTHS = (7, 1, 12, 3, 9, 2, 15, 5)
OBSERVATION_DIM, ACTION_DIM = 3, 2


def tiny_dataset(
    lengths: Sequence[int] = LENGTHS,
    terminal: Sequence[bool] | None = None,
    low: Any = -1.0,
    high: Any = 1.0,
    seed: int = 0,
) -> Dataset:
    """Episodes of noise; by default every second one ends in a terminal and the others at a time limit."""
    generator = np.random.default_rng(seed)
    terminal = [index % 2 == 0 for index in range(len(lengths))] if terminal is None else terminal
    low, high = np.broadcast_to(low, ACTION_DIM), np.broadcast_to(high, ACTION_DIM)
    episodes = []
    for length, ended in zip(lengths, terminal, strict=True):
        last = np.arange(length) == length - 1
        episodes.append(
            Episode(
                observations=generator.standard_normal((length + 1, OBSERVATION_DIM)) * (1.0, 3.0, 0.2) + (0, 1, -2),
                actions=generator.uniform(low, high, (length, ACTION_DIM)),
                rewards=generator.standard_normal(length),
                terminations=last & ended,
                truncations=last & (not ended),
            )
        )
    return make_dataset(from_episodes(episodes), "tests/tiny-v0", action_low=low, action_high=high)


def small_config(algorithm: Algorithm, preset: str | None = None, **values: Any) -> AlgorithmConfig:
    """The algorithm's defaults (or a preset) with narrow networks, small batches and few steps, whatever its fields
    are called."""
    small: dict[str, Any] = {}
    for field in dataclasses.fields(algorithm.Config):
        if isinstance(field.default, tuple):
            small[field.name] = (8, 8)
        elif field.name.endswith("batch_size"):
            small[field.name] = 16
        elif kind_of(field) == "schedule":
            small[field.name] = 6
    return algorithm.configure({**small, **values}, preset)


def replay_for(
    algorithm: Algorithm, dtype: torch.dtype = torch.float32, dataset: Dataset | None = None
) -> DeviceReplay:
    """The tiny data set (or another), with the rows that this algorithm may draw."""
    return DeviceReplay(dataset or tiny_dataset(), dtype=dtype, with_next_action=algorithm.uses_next_actions)


def learner_for(
    algorithm: Algorithm,
    phase: str,
    members: Sequence[tuple[AlgorithmConfig, int]],
    dtype: torch.dtype = torch.float32,
    capture: str = "eager",
) -> Learner:
    """A learner with a fresh member (its configuration and its seed) in each seat."""
    learner = Learner(algorithm, members[0][0], phase, replay_for(algorithm, dtype), len(members), capture)
    for seat, (config, seed) in enumerate(members):
        learner.load(seat, learner.fresh(config, seed), config)
    return learner


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest absolute difference of two states; infinite where their names or shapes differ."""
    if {name: value.shape for name, value in one.items()} != {name: value.shape for name, value in other.items()}:
        return float("inf")
    return max(float((value - other[name]).detach().abs().max()) for name, value in one.items())


def identical(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two states are equal bit by bit (NaN equals nothing)."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())

"""Episodes of a policy in its environment."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass

import gymnasium
import numpy as np

import raymix.envs  # noqa: F401  (registers raymix's environments)
from raymix.evaluation.policy import Policy

LANES = 8
"""Environments stepped side by side. The policy always sees a full batch, so a score depends on nothing else."""

FIRST_SEED = 1_000_000
"""Reset seed of episode 0; episode i resets with the i-th seed after it, the same for every policy."""


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns and lengths of the episodes, in order."""

    returns: list[float]
    lengths: list[int]


@functools.lru_cache(maxsize=4)
def environments(spec: str, count: int) -> list[gymnasium.Env]:
    """`count` environments from a Gymnasium `EnvSpec` in JSON, kept for the next evaluation."""
    return [gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(spec)) for _ in range(count)]


def evaluate(policy: Policy, episodes: int) -> Evaluation:
    """Play `episodes` episodes. Raises `RuntimeError` where the environment returns a non-finite reward."""
    if policy.spec.environment is None:
        raise ValueError(f"data set {policy.spec.name} has no environment to evaluate in")
    lanes = environments(policy.spec.environment, min(LANES, episodes))
    returns, lengths = np.zeros(episodes), np.zeros(episodes, dtype=np.int64)
    for first in range(0, episodes, len(lanes)):
        playing = list(range(min(len(lanes), episodes - first)))
        observations = np.zeros((len(lanes), policy.spec.observation_dim), dtype=np.float32)
        for lane in playing:
            observations[lane], _ = lanes[lane].reset(seed=FIRST_SEED + first + lane)
        while playing:
            # Rounds draw from different times, so a stochastic policy never repeats its noise.
            actions = policy.act(observations, step=(first << 20) + int(lengths[first + playing[0]]))
            for lane in list(playing):
                observations[lane], reward, terminated, truncated, _ = lanes[lane].step(
                    actions[lane].astype(lanes[lane].action_space.dtype)
                )
                reward = float(reward)
                if not math.isfinite(reward):
                    name = json.loads(policy.spec.environment)["id"]
                    raise RuntimeError(f"environment {name} returned the reward {reward} in episode {first + lane}")
                returns[first + lane] += reward
                lengths[first + lane] += 1
                if terminated or truncated:
                    playing.remove(lane)
    return Evaluation(returns.tolist(), lengths.tolist())

"""Episodes of a policy in its environment."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gymnasium
import numpy as np

from raymix.envs.build import MAX_STEPS, build_environment, environments
from raymix.evaluation.policy import Policy
from raymix.types import Spec, UsageError

LANES = 8
"""Environments stepped side by side. The policy always sees a full batch, so a score depends on nothing else."""

FIRST_SEED = 1_000_000
"""Reset seed of episode 0; episode i resets with the i-th seed after it, the same for every policy."""


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns and lengths of the episodes, in order."""

    returns: list[float]
    lengths: list[int]


def check_environment(spec: Spec) -> None:
    """Build the data set's environment once and compare its spaces with the data.

    Raises:
        UsageError: no environment, one that cannot be built here, or one with other observations or actions.
    """
    environment = build_environment(_description(spec))
    problem = misfit(environment, spec.observation_dim, spec.action_dim, spec.action_low, spec.action_high)
    environment.close()
    if problem is not None:
        has, needs = problem
        raise UsageError(
            f"the environment of data set {spec.name} has the {has}, but the data have {needs}; choose a data set that"
            " was recorded in its environment"
        )


def misfit(
    environment: gymnasium.Env,
    observation_dim: int,
    action_dim: int,
    action_low: Sequence[float],
    action_high: Sequence[float],
) -> tuple[str, str] | None:
    """What the environment has and what a policy of these sizes and bounds has instead, in words; None if it fits."""
    observed, acted = environment.observation_space, environment.action_space
    for what, space, size in (("observations", observed, observation_dim), ("actions", acted, action_dim)):
        if not isinstance(space, gymnasium.spaces.Box) or space.shape != (size,):
            told = " ".join(str(space).split())  # Long bounds are printed over several lines.
            return f"{what} {told}", f"{size} numbers"
    assert isinstance(acted, gymnasium.spaces.Box)
    for end, own, other in (("low", acted.low, action_low), ("high", acted.high, action_high)):
        # Where the environment has no bound, any will do.
        bounded = np.isfinite(own)
        if not np.allclose(own[bounded], np.asarray(other)[bounded], rtol=1e-6, atol=1e-6):
            return f"action bounds {end} {own.tolist()}", str(list(other))
    return None


def _description(spec: Spec) -> str:
    if spec.environment is None:
        raise UsageError(f"data set {spec.name} has no environment to evaluate in; choose one that has")
    return spec.environment


def evaluate(policy: Policy, episodes: int, on_step: Callable[[], None] = lambda: None) -> Evaluation:
    """Play `episodes` episodes; the first k of them are those of an evaluation of k.

    `on_step` is called after every step of all environments.

    Raises:
        UsageError: there is no environment, or it cannot be built.
        RuntimeError: the environment returns a non-finite observation or reward, or an episode does not end within
            `MAX_STEPS`.
    """
    spec, description = policy.spec, _description(policy.spec)
    name = json.loads(description)["id"]
    lanes = environments(description, min(LANES, episodes))
    returns, lengths = [0.0] * episodes, [0] * episodes
    for first in range(0, episodes, LANES):
        playing = list(range(min(LANES, episodes - first)))
        # All rows, played or not: the numbers that a stochastic policy draws for a row depend on how many there are.
        observations = np.zeros((LANES, spec.observation_dim), dtype=np.float32)
        for lane in playing:
            observations[lane], _ = lanes[lane].reset(seed=FIRST_SEED + first + lane)
        step = 0
        while playing:
            if step == MAX_STEPS:
                raise RuntimeError(
                    f"environment {name} did not end episode {first + playing[0]} within"
                    f" {MAX_STEPS:,} steps; give it a time limit (max_episode_steps)"
                )
            # Rounds draw from different times, so a stochastic policy never repeats its noise.
            actions = policy.act(observations, (first << 20) + step)
            step += 1
            for lane in list(playing):
                environment = lanes[lane]
                observations[lane], reward, terminated, truncated, _ = environment.step(
                    actions[lane].astype(environment.action_space.dtype)
                )
                reward = float(reward)
                if not math.isfinite(reward):
                    raise RuntimeError(f"environment {name} returned the reward {reward} in episode {first + lane}")
                if not np.isfinite(observations[lane]).all():
                    raise RuntimeError(
                        f"environment {name} returned a non-finite observation in episode {first + lane}"
                    )
                returns[first + lane] += reward
                lengths[first + lane] += 1
                if terminated or truncated:
                    playing.remove(lane)
            on_step()
    return Evaluation(returns, lengths)

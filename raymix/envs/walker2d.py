"""Walker2d-v5 with the rewards of other tasks: run forward, run backward, jump (the walker2d-mix sets of LAPO).

LAPO pools data of the three tasks and relabels it with the reward of one. Its text gives no formulas and neither do the
authors' files; these are those of the multi-task experiments that it takes the data from, as they are usually quoted:

    forward    v_x - 0.001 |a|^2
    backward   -v_x - 0.001 |a|^2
    jump       -|v_x| - 0.001 |a|^2 + 10 (z - z_start)

with the torso's height z and velocity v_x after the step, read from the observation, so that data without simulator
states can be relabelled and earn in evaluation just what their rewards say.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv

TASKS = ("forward", "backward", "jump")
START_HEIGHT = 1.25
_HEIGHT, _VELOCITY = 0, 8
"""Where the observation has them."""


def reward(task: str, actions: np.ndarray, next_observations: np.ndarray) -> np.ndarray:
    """Rewards (...) of a task for actions (..., 6) that led to observations (..., 17)."""
    velocity = next_observations[..., _VELOCITY]
    cost = 1e-3 * np.square(actions).sum(-1)
    if task == "jump":
        return 10.0 * (next_observations[..., _HEIGHT] - START_HEIGHT) - np.abs(velocity) - cost
    return (velocity if task == "forward" else -velocity) - cost


class Walker2dTask(Walker2dEnv):
    """Walker2d-v5 that pays by `reward`; it ends as Walker2d does, where the body falls."""

    def __init__(self, task: str, **kwargs: Any) -> None:
        if task not in TASKS:
            raise ValueError(f"task {task!r} is none of {', '.join(TASKS)}")
        super().__init__(**kwargs)
        self.task = task

    def step(self, action: np.ndarray) -> Any:
        observation, _, terminated, truncated, info = super().step(action)
        return observation, float(reward(self.task, np.asarray(action), observation)), terminated, truncated, info

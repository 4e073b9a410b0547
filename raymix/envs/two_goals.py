"""A point that has two ways around an obstacle to two goals: DMPO's toy task (Osa et al., 2023, Table 2)."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

START = np.array([0.0, -0.8])
START_STD = 0.02
GOALS = np.array([[-0.7, 0.7], [0.7, 0.7]])
"""(2, 2): left and right."""
GOAL_RADIUS = 0.12
OBSTACLES = np.array([[0.0, 0.2], [-0.75, 0.0], [0.75, 0.0]])
"""(3, 2) centres."""
OBSTACLE_RADII = np.array([0.14, 0.2, 0.2])
STEP = 0.08
"""Displacement of a full action."""
HORIZON = 60


def move(positions: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step of points in the world [-1, 1]^2.

    Args:
        positions: (..., 2).
        actions: (..., 2); clipped to [-1, 1].

    Returns:
        New positions (..., 2), rewards (...) (+1 in a goal, -1 in an obstacle, else 0), and (...) the index of the goal
        that was reached, -1 for none. A reward other than 0 ends the episode.
    """
    moved = np.clip(positions + STEP * np.clip(actions, -1.0, 1.0), -1.0, 1.0)
    to_goals = np.linalg.norm(moved[..., None, :] - GOALS, axis=-1)
    crashed = (np.linalg.norm(moved[..., None, :] - OBSTACLES, axis=-1) < OBSTACLE_RADII).any(-1)
    goal = np.where((to_goals < GOAL_RADIUS).any(-1) & ~crashed, to_goals.argmin(-1), -1)
    return moved, np.where(crashed, -1.0, np.where(goal >= 0, 1.0, 0.0)), goal


class TwoGoals(gymnasium.Env[np.ndarray, np.ndarray]):
    """A point in the plane with two goals and three round obstacles.

    Observation: (2,) float32, the position in [-1, 1]^2. Starts at (0, -0.8) with normal noise of sd 0.02.
    Action: (2,) in [-1, 1]; the position moves by 0.08 times it and stays in the world.
    Reward: +1 and end where a step ends in a goal, -1 and end in an obstacle, otherwise 0.
    `info["goal"]`: 0 (left) or 1 (right) once reached, else -1.
    The registered environment is truncated after 60 steps. The paper does not print the geometry; this one is
    raymix's: the obstacle between the ways begins one step (0.06) behind their fork. Where it began at 0.1, cloning by
    one Gaussian still succeeded in most episodes; here it does so only while it is trained little.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.render_mode = render_mode
        self._position = START
        self._path = [START]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The start, (2,) float32."""
        super().reset(seed=seed)
        self._position = START + START_STD * self.np_random.standard_normal(2)
        self._path = [self._position]
        return self._position.astype(np.float32), {"goal": -1}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One displacement; `ValueError` for an action with NaN or infinity."""
        action = np.asarray(action, dtype=np.float64)
        if not np.isfinite(action).all():
            raise ValueError(f"The action {action.tolist()} is not finite; give two numbers in [-1, 1].")
        self._position, reward, goal = move(self._position, action)
        self._path.append(self._position)
        return self._position.astype(np.float32), float(reward), bool(reward != 0), False, {"goal": int(goal)}

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The plane, and the way of this episode so far."""
        from raymix.envs.drawing import plane

        return plane(self._path, GOALS, GOAL_RADIUS, OBSTACLES, OBSTACLE_RADII)

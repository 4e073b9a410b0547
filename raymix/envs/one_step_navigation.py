"""The one decision of a navigation task that passes an obstacle on the left or on the right (LAPO, Table 1)."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

MODE_DISTANCE = 1.0
MODE_RADIUS = 0.5
LEFT_REWARD, RIGHT_REWARD = 1.0, 10.0
NOISE = 0.01


def navigation_reward(actions: np.ndarray) -> np.ndarray:
    """1 in [-1.5, -0.5] (around the obstacle on the left), 10 in [0.5, 1.5] (on the right), else 0.

    The uniform policy earns 2.75.

    Args:
        actions: (..., 1) in [-2, 2].

    Returns:
        (...) float32.
    """
    action = np.asarray(actions)[..., 0]
    inside = np.abs(np.abs(action) - MODE_DISTANCE) <= MODE_RADIUS
    return np.where(inside, np.where(action > 0, RIGHT_REWARD, LEFT_REWARD), 0.0).astype(np.float32)


class OneStepNavigation(gymnasium.Env[np.ndarray, np.ndarray]):
    """Observation (2,) float32 of normal noise of sd 0.01, action (1,) in [-2, 2]; an episode is one terminal step.

    There is one state; the noise is there for methods that standardise observations.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 2}

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
        self.render_mode = render_mode
        self._action: float | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A new noise observation, (2,) float32."""
        super().reset(seed=seed)
        self._action = None
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """The reward of the clipped action; always terminates."""
        clipped = np.clip(action, -2.0, 2.0)
        self._action, reward = float(clipped[0]), navigation_reward(clipped)
        return self._observe(), float(reward), True, False, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        """What pays, and what was done."""
        from raymix.envs.drawing import actions_on_a_line

        left, right = (
            (side - MODE_RADIUS, side + MODE_RADIUS, reward)
            for side, reward in ((-MODE_DISTANCE, LEFT_REWARD), (MODE_DISTANCE, RIGHT_REWARD))
        )
        return actions_on_a_line(-2.0, 2.0, (left, right), self._action)

    def _observe(self) -> np.ndarray:
        return (NOISE * self.np_random.standard_normal(2)).astype(np.float32)

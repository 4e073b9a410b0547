"""A one-step bandit with two rewarded-or-not action modes: returns can be measured without a simulator."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

LEFT_MODE = -0.6
RIGHT_MODE = 0.6
MODE_RADIUS = 0.2


def two_modes_reward(actions: np.ndarray) -> np.ndarray:
    """1 where an action is closer than 0.2 to the right mode (+0.6), else 0.

    The uniform policy earns 0.2, the left mode 0, and so does the mean of the two modes: a policy that averages
    modes is seen at once.

    Args:
        actions: (..., 1) in [-1, 1].

    Returns:
        (...) float32.
    """
    return (np.abs(np.asarray(actions)[..., 0] - RIGHT_MODE) < MODE_RADIUS).astype(np.float32)


class TwoModes(gymnasium.Env[np.ndarray, np.ndarray]):
    """Observation (2,) float32 of standard normal noise, action (1,) in [-1, 1]; every episode is one terminal step."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 2}

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
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
        clipped = np.clip(action, -1.0, 1.0)
        self._action, reward = float(clipped[0]), two_modes_reward(clipped)
        return self._observe(), float(reward), True, False, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        """What pays, and what was done."""
        from raymix.envs.drawing import actions_on_a_line

        paying = ((RIGHT_MODE - MODE_RADIUS, RIGHT_MODE + MODE_RADIUS, 1.0),)
        return actions_on_a_line(-1.0, 1.0, paying, self._action)

    def _observe(self) -> np.ndarray:
        return self.np_random.standard_normal(2).astype(np.float32)

"""FetchReach with four goals at once: the multi-modal task of LOM (section 6.2) on the real MuJoCo robot."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import gymnasium
import numpy as np

from raymix.types import UsageError

GOAL_OFFSETS = np.array([[0.1, 0.1, 0.0], [-0.1, 0.1, 0.0], [-0.1, -0.1, 0.0], [0.1, -0.1, 0.0]])
"""(4, 3) metres from the gripper's start position, by quadrant; index 0 is the best goal."""
GOAL_RADIUS = 0.05
GOAL_REWARDS = (2.0, 1.0, 1.0, 1.0)
MAX_WARM_UP_STEPS = 5
EXPERT_GAIN = 10.0
EXPERT_NOISE = 0.2
"""Standard deviation of the expert's action noise."""


def expert_action(position: np.ndarray, goal: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The proportional expert: clip(10 (goal - position), -1, 1) plus noise, clipped to the box again.

    All four dimensions get their noise, the gripper (the last one, which FetchReach ignores) around 0.

    Args:
        position: (3,) the gripper, metres.
        goal: (3,) metres.
        noise: (4,) what is added; the data set draws it from N(0, 0.2).

    Returns:
        (4,) float32 in [-1, 1].
    """
    action = np.zeros(4)
    action[:3] = np.clip(EXPERT_GAIN * (np.asarray(goal) - position), -1.0, 1.0)
    return np.clip(action + noise, -1.0, 1.0).astype(np.float32)


class FetchReachMultiGoal(gymnasium.Env[np.ndarray, np.ndarray]):
    """FetchReach-v4 without a goal in its observation.

    Observation: (10,) float32, the robot's own 10 numbers (gripper position, metres, comes first).
    Action: (4,) in [-1, 1]; actions outside are clipped, as FetchReach does.
    Reward: 2 per step that ends nearer than 0.05 m to the first-quadrant goal, 1 in any other goal, else 0.
    `info["goal"]`: index of the goal the gripper is in, or -1.
    Never terminates; the registered environment is truncated after 50 steps.

    FetchReach has one start only, so `reset` plays 0 to 5 uniformly random actions first (number and actions from
    the environment's seeded generator). An episode depends on its reset seed alone, not on what was played before.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 25}

    def __init__(self, render_mode: str | None = None) -> None:
        """Build the simulation; `UsageError` if the installed mujoco is one that gymnasium-robotics cannot use."""
        self._robot = _make_robot(render_mode)
        self.render_mode = render_mode
        self.goals: np.ndarray = self._robot.initial_gripper_xpos + GOAL_OFFSETS
        """(4, 3) metres."""
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (10,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; see the class for what is played before it."""
        super().reset(seed=seed)
        # Seeded only to keep the operating system's entropy out: the robot draws nothing but its own, unused goal.
        robot_observation, _ = self._robot.reset(seed=0)
        warm_up_steps = int(self.np_random.integers(0, MAX_WARM_UP_STEPS + 1))
        for action in self.np_random.uniform(-1.0, 1.0, (warm_up_steps, 4)).astype(np.float32):
            robot_observation, *_ = self._robot.step(action)
        return self._observation(robot_observation), {"goal": self._goal_index(robot_observation)}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One control step of 0.04 s; `ValueError` for an action with NaN or infinity."""
        action = np.asarray(action, dtype=np.float32)
        if not np.isfinite(action).all():
            # MuJoCo would reset the simulation in mid-episode and only log it.
            raise ValueError(f"The action {action.tolist()} is not finite; give four numbers in [-1, 1].")
        robot_observation, *_ = self._robot.step(action)
        goal = self._goal_index(robot_observation)
        reward = GOAL_REWARDS[goal] if goal >= 0 else 0.0
        return self._observation(robot_observation), reward, False, False, {"goal": goal}

    def render(self) -> Any:
        """An (480, 480, 3) uint8 frame for `rgb_array`; a window for `human`."""
        return self._robot.render()

    def close(self) -> None:
        """Free the renderer."""
        self._robot.close()

    def _goal_index(self, robot_observation: dict[str, np.ndarray]) -> int:
        distances = np.linalg.norm(self.goals - robot_observation["achieved_goal"], axis=1)
        nearest = int(distances.argmin())
        return nearest if distances[nearest] < GOAL_RADIUS else -1

    @staticmethod
    def _observation(robot_observation: dict[str, np.ndarray]) -> np.ndarray:
        return robot_observation["observation"].astype(np.float32)


def _make_robot(render_mode: str | None) -> Any:
    """FetchReach-v4's own class, so without the TimeLimit of its registration."""
    import mujoco

    # gymnasium-robotics prints a notice about the unrelated Adroit environments to stderr when imported.
    with contextlib.redirect_stderr(io.StringIO()):
        from gymnasium_robotics.envs.fetch.reach import MujocoFetchReachEnv

    try:
        return MujocoFetchReachEnv(reward_type="sparse", render_mode=render_mode)
    except AssertionError as error:
        # A bare assertion on joint types, which compares enum members in an order that mujoco 3.12 changed.
        raise UsageError(
            f"gymnasium-robotics cannot build FetchReach with mujoco {mujoco.__version__}, it needs one older than"
            ' 3.12: run `pip install "mujoco<3.12"`.'
        ) from error

"""Fetch with four goals at once: the multi-modal tasks of LOM (section 6.2) on the real MuJoCo robot.

Three environments (reach; push an object; pick it up and hold it in the air), and for each the scripted expert that
makes its data set. An expert is a function of the observation and the goal alone, without memory, so that imitation
can learn it.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any, ClassVar

import gymnasium
import numpy as np

from raymix.types import UsageError

GOAL_OFFSETS = np.array([[0.1, 0.1, 0.0], [-0.1, 0.1, 0.0], [-0.1, -0.1, 0.0], [0.1, -0.1, 0.0]])
"""(4, 3) metres from the gripper's start position, by quadrant; index 0 is the best goal."""
GOAL_RADIUS = 0.05
GOAL_REWARDS = (2.0, 1.0, 1.0, 1.0)
MAX_WARM_UP_STEPS = 5
OBJECT_RANGE = 0.03
"""The object starts within this of the point under the gripper, metres, in x and in y."""
LIFT = 0.12
"""Height of FetchPickAndPlace's goals above the object at rest on the table, metres."""
EXPERT_NOISE = 0.2
"""Standard deviation of the experts' action noise in the data sets."""

GAIN = 10.0
"""Action per metre of distance to the goal: full speed from 0.1 m on."""
TRAVEL_GAIN = 20.0
"""Action per metre where the gripper moves by itself: full speed from 0.05 m on."""
SAFE_HEIGHT = 0.5
"""Gripper height, metres, at which the fingers, 0.02 longer, pass over the object, whose top is at 0.45."""
PUSH_HEIGHT = 0.424
"""Gripper height at which it pushes: the finger tips just above the table."""
LOW_ENOUGH = 0.44
"""Below this gripper height it may push: higher up the fingers would tip the object over."""
FREE_OF_OBJECT = 0.48
"""Above this gripper height it may move sideways without touching the object."""
PUSH_DISTANCE = 0.07
"""From the object's centre to the place behind it where a push begins, metres; nearer, it would land on the object."""
BEHIND_RANGE = 0.025
"""The gripper goes down when it is this near to the place behind the object, metres."""
PUSH_WIDTH = 0.03
"""It begins anew when it is further than this from the line through object and goal, metres."""
PUSH_REACH = 0.12
"""It also begins anew when it is further than this behind the object, metres."""
PUSHED = 0.025
"""The object is left alone when it is this near to its goal, metres."""
GRASP_RANGE = 0.02
"""The object is between the fingers when its centre is this near to theirs, metres, sideways and in height."""
HOVER = 0.05
"""Height above the object at which the gripper centres itself before it goes down, metres."""
HELD_OPENING = 0.053
"""Opening of the fingers, metres, below which they hold the 0.05 m wide object."""


def reach_expert(observation: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """The proportional expert: clip(10 (goal - gripper), -1, 1), the gripper's opening (FetchReach has none) 0."""
    action = np.zeros(4)
    action[:3] = np.clip(GAIN * (np.asarray(goal) - observation[:3]), -1.0, 1.0)
    return action


def push_expert(observation: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Go behind the object as seen from the goal, go down, push along the line to the goal, then rise and wait.

    A push that has left the line is begun anew: the gripper rises and goes behind the object again.
    """
    gripper, target = observation[:3].astype(np.float64), observation[3:6].astype(np.float64)
    to_goal = (goal - target)[:2]
    distance = float(np.linalg.norm(to_goal))
    action = np.zeros(4)
    if distance < PUSHED:
        action[2] = GAIN * (SAFE_HEIGHT - gripper[2])
        return np.clip(action, -1.0, 1.0)
    forward = to_goal / distance
    from_object = (gripper - target)[:2]
    along = float(from_object @ forward)
    sideways = from_object - along * forward
    to_behind = -PUSH_DISTANCE * forward - from_object
    if gripper[2] < LOW_ENOUGH and -PUSH_REACH < along < 0.0 and np.linalg.norm(sideways) < PUSH_WIDTH:
        # Pushing a corner is unstable: steer back to the line twice as hard as forward at its edge.
        direction = forward - 2.0 * sideways / PUSH_WIDTH
        action[:2] = min(1.0, GAIN * distance) * direction / np.abs(direction).max()
        action[2] = GAIN * (PUSH_HEIGHT - gripper[2])
    elif np.linalg.norm(to_behind) < BEHIND_RANGE:
        action[:2] = TRAVEL_GAIN * to_behind
        action[2] = TRAVEL_GAIN * (PUSH_HEIGHT - gripper[2])
    elif gripper[2] < FREE_OF_OBJECT:
        action[2] = 1.0
    else:
        action[:2] = TRAVEL_GAIN * to_behind
        action[2] = TRAVEL_GAIN * (SAFE_HEIGHT - gripper[2])
    return np.clip(action, -1.0, 1.0)


def pick_and_place_expert(observation: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Open above the object, go down over it, close, carry it to the goal and hold it there.

    An object that slipped out is fetched again.
    """
    gripper, target = observation[:3].astype(np.float64), observation[3:6].astype(np.float64)
    to_object = target - gripper
    opening = float(observation[9]) + float(observation[10])
    over_object = bool(np.linalg.norm(to_object[:2]) < GRASP_RANGE)
    action = np.zeros(4)
    if over_object and abs(to_object[2]) < GRASP_RANGE:
        action[:3] = GAIN * (goal - target) if opening < HELD_OPENING else TRAVEL_GAIN * to_object
        action[3] = -1.0
    else:
        to_object[2] += 0.0 if over_object else HOVER
        action[:3] = TRAVEL_GAIN * to_object
        action[3] = 1.0
    return np.clip(action, -1.0, 1.0)


def with_noise(action: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """What a noisy expert plays: the sum, clipped to the box, (4,) float32."""
    return np.clip(action + noise, -1.0, 1.0).astype(np.float32)


class FetchMultiGoal(gymnasium.Env[np.ndarray, np.ndarray]):
    """What the three tasks share: a Fetch robot without a goal in its observation.

    Observation: float32, what the robot itself observes (gripper position, metres, comes first).
    Action: (4,) in [-1, 1]; actions outside are clipped, as Fetch does.
    Reward: 2 per step that ends nearer than 0.05 m to the first-quadrant goal, 1 in any other goal, else 0.
    `info["goal"]`: index of the goal reached, or -1.
    Never terminates; the registered environments are truncated after 50 steps.
    An episode depends on its reset seed alone, not on what was played before.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 25}

    def __init__(self, render_mode: str | None = None) -> None:
        """Build the simulation; `UsageError` if the installed mujoco is one that gymnasium-robotics cannot use."""
        self._robot = self._make_robot(render_mode)
        self.render_mode = render_mode
        self.goals: np.ndarray = self._robot.initial_gripper_xpos + GOAL_OFFSETS
        """(4, 3) metres."""
        shape = self._robot.observation_space["observation"].shape
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; see the class for what is drawn."""
        super().reset(seed=seed)
        # Seeded only to keep the operating system's entropy out: what the robot draws of its own is not used.
        robot_observation, _ = self._robot.reset(seed=0)
        robot_observation = self._randomize_start(robot_observation)
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

    @staticmethod
    def expert(observation: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """The scripted behaviour of the task: observation (S,), goal (3,) -> noiseless action (4,) in [-1, 1]."""
        raise NotImplementedError  # abstract

    def render(self) -> Any:
        """An (480, 480, 3) uint8 frame for `rgb_array`; a window for `human`."""
        return self._robot.render()

    def close(self) -> None:
        """Free the renderer."""
        self._robot.close()

    def _robot_class(self) -> type:
        """Gymnasium-robotics' own class, so without the TimeLimit of its registration."""
        raise NotImplementedError  # abstract

    def _randomize_start(self, robot_observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What `reset` draws; the robot's observation afterwards."""
        raise NotImplementedError  # abstract

    def _make_robot(self, render_mode: str | None) -> Any:
        import mujoco

        # gymnasium-robotics prints a notice about the unrelated Adroit environments to stderr when imported.
        with contextlib.redirect_stderr(io.StringIO()):
            robot_class = self._robot_class()
        try:
            return robot_class(reward_type="sparse", render_mode=render_mode)
        except AssertionError as error:
            # A bare assertion on joint types, which compares enum members in an order that mujoco 3.12 changed.
            raise UsageError(
                f"gymnasium-robotics cannot build Fetch environments with mujoco {mujoco.__version__}, it needs one"
                ' older than 3.12: run `pip install "mujoco<3.12"`.'
            ) from error

    def _goal_index(self, robot_observation: dict[str, np.ndarray]) -> int:
        distances = np.linalg.norm(self.goals - robot_observation["achieved_goal"], axis=1)
        nearest = int(distances.argmin())
        return nearest if distances[nearest] < GOAL_RADIUS else -1

    @staticmethod
    def _observation(robot_observation: dict[str, np.ndarray]) -> np.ndarray:
        return robot_observation["observation"].astype(np.float32)


class FetchReachMultiGoal(FetchMultiGoal):
    """Bring the gripper to one of four points around its start (FetchReach-v4).

    Observation: (10,). FetchReach has one start only, so `reset` plays 0 to 5 uniformly random actions first (number
    and actions from the environment's seeded generator).
    """

    expert = staticmethod(reach_expert)

    def _robot_class(self) -> type:
        from gymnasium_robotics.envs.fetch.reach import MujocoFetchReachEnv

        return MujocoFetchReachEnv

    def _randomize_start(self, robot_observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        warm_up_steps = int(self.np_random.integers(0, MAX_WARM_UP_STEPS + 1))
        for action in self.np_random.uniform(-1.0, 1.0, (warm_up_steps, 4)).astype(np.float32):
            robot_observation, *_ = self._robot.step(action)
        return robot_observation


class _ObjectMultiGoal(FetchMultiGoal):
    """Tasks judged by where an object is; it starts under the gripper, between the four goals.

    Observation: (25,): the gripper's position (3), the object's (3) and the difference (3), the fingers (2), the
    object's rotation (3), velocities (11).
    """

    goal_height: ClassVar[float]
    """Of the goals, metres above the object at rest."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.goals[:, 2] = self._robot.height_offset + self.goal_height

    def _randomize_start(self, robot_observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        import mujoco

        robot = self._robot
        robot.data.joint("object0:joint").qpos[:2] = robot.initial_gripper_xpos[:2] + self.np_random.uniform(
            -OBJECT_RANGE, OBJECT_RANGE, 2
        )
        mujoco.mj_forward(robot.model, robot.data)
        return robot._get_obs()


class FetchPushMultiGoal(_ObjectMultiGoal):
    """Push an object to one of four points of the table around its start (FetchPush-v4, its fingers closed).

    Observation: (25,). `reset` draws where the object lies: uniform, up to 0.03 m in x and in y from the point between
    the goals. The gripper starts 0.11 m above it, as in FetchPickAndPlace: FetchPush's own start is at the table, in
    the object's place.
    """

    expert = staticmethod(push_expert)
    goal_height = 0.0

    def _robot_class(self) -> type:
        from gymnasium_robotics.envs.fetch.push import MujocoFetchPushEnv

        class RaisedFetchPush(MujocoFetchPushEnv):
            def _env_setup(self, initial_qpos: Any) -> None:
                self.gripper_extra_height = 0.2
                super()._env_setup(initial_qpos)

        return RaisedFetchPush


class FetchPickAndPlaceMultiGoal(_ObjectMultiGoal):
    """Bring an object to one of four points in the air, 0.12 m above its height on the table (FetchPickAndPlace-v4).

    Observation: (25,). `reset` draws where the object lies: uniform, up to 0.03 m in x and in y from the point between
    the goals, 0.11 m under the gripper, whose fingers are closed.
    """

    expert = staticmethod(pick_and_place_expert)
    goal_height = LIFT

    def _robot_class(self) -> type:
        from gymnasium_robotics.envs.fetch.pick_and_place import MujocoFetchPickAndPlaceEnv

        return MujocoFetchPickAndPlaceEnv

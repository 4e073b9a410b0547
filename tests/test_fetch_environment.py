"""The four-goal Fetch environments, the bandit beside it, and their registration."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import raymix.envs  # noqa: F401  (registers the environments)
from raymix.envs import fetch
from raymix.envs.two_modes import two_modes_reward

REACH = "raymix/FetchReachMultiGoal-v0"
PUSH = "raymix/FetchPushMultiGoal-v0"
PICK_AND_PLACE = "raymix/FetchPickAndPlaceMultiGoal-v0"
NAMES = (REACH, PUSH, PICK_AND_PLACE)
OBJECT_NAMES = (PUSH, PICK_AND_PLACE)


def roll(environment: gymnasium.Env, seed: int, steps: int = 50) -> tuple[np.ndarray, np.ndarray, list[bool]]:
    generator = np.random.default_rng(seed)
    observation, _ = environment.reset(seed=seed)
    observations, rewards, truncations = [observation], [], []
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = environment.step(generator.uniform(-1, 1, 4).astype("f"))
        assert not terminated
        observations.append(observation)
        rewards.append(reward)
        truncations.append(truncated)
    return np.array(observations), np.array(rewards), truncations


def judged(name: str, observation: np.ndarray) -> np.ndarray:
    """The position that is rewarded: the gripper's or the object's."""
    return observation[:3] if name == REACH else observation[3:6]


def place_object(environment: gymnasium.Env, position: np.ndarray) -> None:
    environment.unwrapped._robot.data.joint("object0:joint").qpos[:3] = position


@pytest.mark.parametrize("name", NAMES)
def test_episode_depends_on_its_reset_seed_alone(name: str):
    used, fresh = gymnasium.make(name), gymnasium.make(name)
    first = roll(used, seed=3)
    roll(used, seed=4)
    roll(used, seed=5, steps=17)
    again, elsewhere = roll(used, seed=3), roll(fresh, seed=3)
    for other in (again, elsewhere):
        assert np.array_equal(first[0], other[0])
        assert np.array_equal(first[1], other[1])
    assert not np.array_equal(first[0], roll(fresh, seed=4)[0])


@pytest.mark.parametrize("name", OBJECT_NAMES)
def test_what_happened_to_the_object_does_not_outlast_the_episode(name: str):
    """Catches an episode that starts from where the last one left the object, the fingers or their motors."""
    used, fresh = gymnasium.make(name), gymnasium.make(name)
    used.reset(seed=8)
    for _ in range(50):
        used.step(np.array([0.3, 0.2, -1.0, 1.0]))
    place_object(used, used.unwrapped.goals[2])
    after, before = roll(used, seed=3, steps=10), roll(fresh, seed=3, steps=10)
    assert np.array_equal(after[0], before[0])


@pytest.mark.parametrize(("name", "width"), [(REACH, 10), (PUSH, 25), (PICK_AND_PLACE, 25)])
def test_spaces_dtype_and_time_limit(name: str, width: int):
    environment = gymnasium.make("raymix.envs:" + name)
    assert environment.spec.id == name
    assert environment.spec.max_episode_steps == 50
    assert environment.observation_space.shape == (width,)
    assert environment.action_space == gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    observations, _, truncations = roll(environment, seed=0)
    assert observations.dtype == np.float32
    assert truncations == [False] * 49 + [True]
    # One time limit, ours: Fetch's own registration is not used.
    assert str(environment).count("TimeLimit") == 1


def test_warm_up_plays_zero_to_five_actions():
    environment = gymnasium.make(REACH).unwrapped
    starts = {}
    for seed in range(40):
        expected = int(np.random.default_rng(seed).integers(0, fetch.MAX_WARM_UP_STEPS + 1))
        observation, info = environment.reset(seed=seed)
        assert set(info) == {"goal"}
        starts.setdefault(expected, []).append(observation)
    assert sorted(starts) == [0, 1, 2, 3, 4, 5]
    assert np.ptp(starts[0], axis=0).max() == 0
    assert all(np.ptp(starts[count], axis=0).max() > 0.01 for count in (1, 2, 3, 4, 5))


@pytest.mark.parametrize("name", OBJECT_NAMES)
def test_the_object_starts_between_the_goals_under_the_gripper(name: str):
    """Catches a start inside a goal, touching fingers, or one that is not drawn."""
    environment = gymnasium.make(name).unwrapped
    starts = np.array([environment.reset(seed=seed)[0] for seed in range(40)])
    centre = environment.goals.mean(axis=0)[:2]
    offsets = starts[:, 3:5] - centre
    assert (np.abs(offsets) <= fetch.OBJECT_RANGE + 1e-6).all()
    assert (offsets.min(axis=0) < -0.02).all() and (offsets.max(axis=0) > 0.02).all()
    assert np.allclose(starts[:, 5], 0.4249, atol=1e-3)
    assert np.ptp(starts[:, :3], axis=0).max() == 0
    assert np.allclose(starts[0, :3], [*centre, 0.5347], atol=1e-3)
    generator = np.random.default_rng(7)
    expected = generator.uniform(-fetch.OBJECT_RANGE, fetch.OBJECT_RANGE, 2)
    assert np.allclose(offsets[7], expected, atol=1e-6)


@pytest.mark.parametrize(("goal", "reward"), [(0, 2.0), (1, 1.0), (2, 1.0), (3, 1.0)])
@pytest.mark.parametrize(("name", "steps_inside"), [(REACH, 40), (PUSH, 38), (PICK_AND_PLACE, 36)])
def test_expert_reaches_each_goal_and_is_rewarded_there(name: str, steps_inside: int, goal: int, reward: float):
    environment = gymnasium.make(name)
    goals = environment.unwrapped.goals
    for seed in (1, 2):
        observation, _ = environment.reset(seed=seed)
        rewards = []
        for _ in range(50):
            action = environment.unwrapped.expert(observation, goals[goal])
            assert action.shape == (4,) and np.abs(action).max() <= 1.0
            observation, step_reward, _, _, info = environment.step(action)
            rewards.append(step_reward)
            inside = np.linalg.norm(goals - judged(name, observation), axis=1) < fetch.GOAL_RADIUS
            assert step_reward == ((2.0 if inside[0] else 1.0) if inside.any() else 0.0)
        assert rewards[-steps_inside:] == [reward] * steps_inside
        assert info["goal"] == goal
        assert set(rewards) <= {0.0, reward}


@pytest.mark.parametrize("name", OBJECT_NAMES)
def test_the_object_is_rewarded_and_not_the_gripper(name: str):
    environment = gymnasium.make(name)
    goals = environment.unwrapped.goals
    for goal, expected in enumerate((2.0, 1.0, 1.0, 1.0)):
        environment.reset(seed=0)
        place_object(environment, goals[goal])
        _, reward, _, _, info = environment.step(np.zeros(4))
        assert (reward, info["goal"]) == (expected, goal)
    observation, _ = environment.reset(seed=0)
    place_object(environment, [*goals.mean(axis=0)[:2] - 0.04, 0.4249])
    for _ in range(10):
        observation, reward, _, _, info = environment.step(fetch.reach_expert(observation, goals[0]))
        assert (reward, info["goal"]) == (0.0, -1)
    assert np.linalg.norm(goals[0] - observation[:3]) < fetch.GOAL_RADIUS


@pytest.mark.parametrize("name", OBJECT_NAMES)
def test_expert_begins_anew_when_it_lost_the_object(name: str):
    """Catches a behaviour that counts steps or remembers a phase: the data would not follow from observations."""
    environment = gymnasium.make(name)
    goals = environment.unwrapped.goals
    observation, _ = environment.reset(seed=1)
    for step in range(50):
        if step == 8:
            place_object(environment, [*goals.mean(axis=0)[:2], 0.4249])
        observation, _, _, _, info = environment.step(environment.unwrapped.expert(observation, goals[0]))
    assert info["goal"] == 0


@pytest.mark.parametrize(("name", "height"), [(REACH, 0.5347), (PUSH, 0.4249), (PICK_AND_PLACE, 0.5449)])
def test_goals_surround_the_start(name: str, height: float):
    goals = gymnasium.make(name).unwrapped.goals
    offsets = goals - goals.mean(axis=0)
    assert np.allclose(offsets, [[0.1, 0.1, 0.0], [-0.1, 0.1, 0.0], [-0.1, -0.1, 0.0], [0.1, -0.1, 0.0]])
    assert np.allclose(goals.mean(axis=0), [1.3418, 0.7491, height], atol=1e-3)


def test_expert_action_clips_before_and_after_noise():
    action = fetch.reach_expert(np.zeros(10, dtype=np.float32), np.array([1.0, -1.0, 0.01]))
    action = fetch.with_noise(action, np.array([0.5, 0.5, 0.5, -0.5]))
    assert action.dtype == np.float32
    assert np.allclose(action, [1.0, -0.5, 0.6, -0.5])


def test_action_that_is_not_finite_is_refused():
    environment = gymnasium.make(REACH)
    environment.reset(seed=0)
    with pytest.raises(ValueError, match="not finite"):
        environment.unwrapped.step(np.array([0.0, np.nan, 0.0, 0.0]))


def test_making_them_prints_nothing():
    script = f"import gymnasium, raymix.envs; [gymnasium.make(name).reset(seed=0) for name in {NAMES!r}]"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_registration_adds_exactly_our_environments():
    ours = {name for name in gymnasium.registry if name.startswith("raymix/")}
    toys = {f"raymix/{name}-v0" for name in ("TwoModes", "TwoGoals", "OneStepNavigation")}
    tasks = {f"raymix/Walker2d{task}-v0" for task in ("Forward", "Backward", "Jump")}
    assert ours == {*NAMES, *toys, *tasks}


@pytest.mark.filterwarnings("ignore:.*Box observation space")
def test_two_modes_rewards_the_right_mode_only():
    environment = gymnasium.make("raymix/TwoModes-v0")
    check_env(environment.unwrapped, skip_render_check=True)
    for action, expected in ((-0.6, 0.0), (0.6, 1.0), (-0.24, 0.0), (0.75, 1.0), (0.95, 0.0)):
        environment.reset(seed=0)
        _, reward, terminated, truncated, _ = environment.step(np.array([action], dtype=np.float32))
        assert (reward, terminated, truncated) == (expected, True, False)
    assert two_modes_reward(np.linspace(-1, 1, 10_001)[:, None]).mean() == pytest.approx(0.2, abs=1e-3)

"""The four-goal FetchReach environment, the bandit beside it, and their registration."""

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

NAME = "raymix/FetchReachMultiGoal-v0"


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


def test_episode_depends_on_its_reset_seed_alone():
    used, fresh = gymnasium.make(NAME), gymnasium.make(NAME)
    first = roll(used, seed=3)
    roll(used, seed=4)
    roll(used, seed=5, steps=17)
    again, elsewhere = roll(used, seed=3), roll(fresh, seed=3)
    for other in (again, elsewhere):
        assert np.array_equal(first[0], other[0])
        assert np.array_equal(first[1], other[1])
    assert not np.array_equal(first[0], roll(fresh, seed=4)[0])


def test_spaces_dtype_and_time_limit():
    environment = gymnasium.make("raymix.envs:" + NAME)
    assert environment.spec.id == NAME
    assert environment.spec.max_episode_steps == 50
    assert environment.observation_space.shape == (10,)
    assert environment.action_space == gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    observations, _, truncations = roll(environment, seed=0)
    assert observations.dtype == np.float32
    assert truncations == [False] * 49 + [True]
    # One time limit, ours: FetchReach's own registration is not used.
    assert str(environment).count("TimeLimit") == 1


def test_warm_up_plays_zero_to_five_actions():
    environment = gymnasium.make(NAME).unwrapped
    starts = {}
    for seed in range(40):
        expected = int(np.random.default_rng(seed).integers(0, fetch.MAX_WARM_UP_STEPS + 1))
        observation, info = environment.reset(seed=seed)
        assert set(info) == {"goal"}
        starts.setdefault(expected, []).append(observation)
    assert sorted(starts) == [0, 1, 2, 3, 4, 5]
    assert np.ptp(starts[0], axis=0).max() == 0
    assert all(np.ptp(starts[count], axis=0).max() > 0.01 for count in (1, 2, 3, 4, 5))


@pytest.mark.parametrize(("goal", "reward"), [(0, 2.0), (1, 1.0), (2, 1.0), (3, 1.0)])
def test_expert_reaches_each_goal_and_is_rewarded_there(goal: int, reward: float):
    environment = gymnasium.make(NAME)
    goals = environment.unwrapped.goals
    observation, _ = environment.reset(seed=1)
    rewards, places = [], []
    for _ in range(50):
        action = fetch.expert_action(observation[:3], goals[goal], np.zeros(4))
        observation, step_reward, _, _, info = environment.step(action)
        rewards.append(step_reward)
        places.append(info["goal"])
        inside = np.linalg.norm(goals - observation[:3], axis=1) < fetch.GOAL_RADIUS
        assert step_reward == ((2.0 if inside[0] else 1.0) if inside.any() else 0.0)
    assert rewards[-40:] == [reward] * 40
    assert places[-1] == goal
    assert set(rewards) <= {0.0, reward}


def test_goals_surround_the_start():
    environment = gymnasium.make(NAME)
    offsets = environment.unwrapped.goals - environment.unwrapped.goals.mean(axis=0)
    assert np.allclose(np.abs(offsets), [0.1, 0.1, 0.0])
    assert np.allclose(offsets[0], [0.1, 0.1, 0.0])
    assert np.allclose(environment.unwrapped.goals.mean(axis=0), [1.3418, 0.7491, 0.5347], atol=1e-3)


def test_expert_action_clips_before_and_after_noise():
    action = fetch.expert_action(np.zeros(3), np.array([1.0, -1.0, 0.01]), np.array([0.5, 0.5, 0.5, -0.5]))
    assert action.dtype == np.float32
    assert np.allclose(action, [1.0, -0.5, 0.6, -0.5])


def test_action_that_is_not_finite_is_refused():
    environment = gymnasium.make(NAME)
    environment.reset(seed=0)
    with pytest.raises(ValueError, match="not finite"):
        environment.unwrapped.step(np.array([0.0, np.nan, 0.0, 0.0]))


def test_making_it_prints_nothing():
    script = f"import gymnasium, raymix.envs; gymnasium.make({NAME!r}).reset(seed=0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_registration_adds_exactly_our_environments():
    ours = {name for name in gymnasium.registry if name.startswith("raymix/")}
    assert ours == {NAME, "raymix/TwoModes-v0", "raymix/TwoGoals-v0"}


@pytest.mark.filterwarnings("ignore:.*Box observation space")
def test_two_modes_rewards_the_right_mode_only():
    environment = gymnasium.make("raymix/TwoModes-v0")
    check_env(environment.unwrapped, skip_render_check=True)
    for action, expected in ((-0.6, 0.0), (0.6, 1.0), (-0.24, 0.0), (0.75, 1.0), (0.95, 0.0)):
        environment.reset(seed=0)
        _, reward, terminated, truncated, _ = environment.step(np.array([action], dtype=np.float32))
        assert (reward, terminated, truncated) == (expected, True, False)
    assert two_modes_reward(np.linspace(-1, 1, 10_001)[:, None]).mean() == pytest.approx(0.2, abs=1e-3)

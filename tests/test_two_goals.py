"""The two-goal task: its rules by hand, its demonstrations, and what averaging the two ways does."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from test_probes import returns, trained

import raymix.envs  # noqa: F401  (registers the environment)
from raymix.data import catalog, toy
from raymix.envs.two_goals import GOAL_RADIUS, GOALS, HORIZON, OBSTACLE_RADII, OBSTACLES, START, move


def test_the_rules():
    """Catches an obstacle or a goal that does not count, a wrong sign, and a step of the wrong size."""
    environment = gymnasium.make("raymix/TwoGoals-v0")
    check_env(environment.unwrapped, skip_render_check=True)
    assert environment.spec.max_episode_steps == HORIZON
    for position, action, expected in (
        ((0.0, 0.0), (0.5, -2.0), ((0.04, -0.08), 0.0, -1)),
        ((0.0, -0.1), (0.0, 1.0), ((0.0, -0.02), 0.0, -1)),
        ((0.0, 0.0), (0.0, 1.0), ((0.0, 0.08), -1.0, -1)),
        ((-0.62, 0.6), (0.0, 1.0), ((-0.62, 0.68), 1.0, 0)),
        ((0.62, 0.6), (0.0, 1.0), ((0.62, 0.68), 1.0, 1)),
        ((0.58, 0.7), (0.0, 0.0), ((0.58, 0.7), 0.0, -1)),
        ((0.5, 0.0), (1.0, 0.0), ((0.58, 0.0), -1.0, -1)),
        ((-1.0, 0.99), (-1.0, 1.0), ((-1.0, 1.0), 0.0, -1)),
    ):
        moved, reward, goal = move(np.array(position), np.array(action))
        np.testing.assert_allclose(moved, expected[0])
        assert (float(reward), int(goal)) == expected[1:]
    gaps = np.linalg.norm(GOALS[:, None] - OBSTACLES, axis=-1) - GOAL_RADIUS - OBSTACLE_RADII
    assert gaps.min() > 0.1 and np.linalg.norm(START - OBSTACLES, axis=-1).min() > 0.5


def test_an_episode_ends_with_its_reward_or_after_sixty_steps():
    """Catches an end that is not one, a time limit that is, and starts that do not depend on the seed alone."""
    environment = gymnasium.make("raymix/TwoGoals-v0")
    start, info = environment.reset(seed=3)
    assert np.abs(start - START).max() < 0.1 and info["goal"] == -1
    assert np.array_equal(environment.reset(seed=3)[0], start) and not np.array_equal(environment.reset()[0], start)
    for step in range(60):
        _, reward, terminated, truncated, _ = environment.step(np.zeros(2, dtype=np.float32))
        assert (reward, terminated, truncated) == (0.0, False, step == 59)
    environment.reset(seed=0)
    ends = []
    while not ends or not ends[-1][1]:
        ends.append(environment.step(np.array([0.0, 1.0], dtype=np.float32))[1:4])
    assert ends[-1] == (-1.0, True, False) and 10 <= len(ends) <= 12
    assert set(ends[:-1]) == {(0.0, False, False)}
    with pytest.raises(ValueError, match="not finite"):
        environment.step(np.array([np.nan, 0.0], dtype=np.float32))


def test_all_demonstrations_succeed_half_of_them_left():
    """Catches a demonstrator that crashes or is cut, a favoured goal, and sources that are mixed up."""
    dataset = catalog.load("two-goals")
    columns, spec = dataset.columns, dataset.spec
    assert (spec.name, spec.num_episodes, spec.sources) == (toy.TWO_GOALS, 400, ("left", "right"))
    assert columns.episode_returns().tolist() == [1.0] * 400
    assert spec.num_transitions == pytest.approx(10_700, abs=100)
    lengths = np.bincount(columns.episode) - 1
    assert lengths.min() >= 23 and lengths.max() <= 32 and lengths.mean() == pytest.approx(26.8, abs=0.3)
    ends, side = columns.observations[columns.last_rows], columns.source[columns.last_rows]
    assert side.mean() == 0.5 and np.array_equal(ends[:, 0] > 0, side == 1)
    assert bool((np.linalg.norm(ends - GOALS[side], axis=1) < GOAL_RADIUS).all())
    assert columns.terminals[columns.last_rows - 1].all() and not columns.timeouts.any()
    assert np.abs(columns.actions).max() <= 1.0
    assert [spec.normalized_score(score) for score in (-1.0, 0.0, 1.0)] == [-100.0, 0.0, 100.0]


def test_the_ways_part_at_the_origin():
    """Catches a task without its point: above the origin actions go both ways, below it they do not."""
    columns = toy.two_goals().columns
    rows = columns.transition_rows()
    positions, actions, side = columns.observations[rows], columns.actions[rows], columns.source[rows]
    below, fork = np.abs(positions[:, 1] + 0.4) < 0.1, np.linalg.norm(positions, axis=1) < 0.05
    for where, apart in ((below, 0.0), (fork, 1.3)):
        means = [actions[where & (side == each)].mean(0) for each in (0, 1)]
        assert abs(means[1][0] - means[0][0]) == pytest.approx(apart, abs=0.1)
        assert means[1][1] == pytest.approx(means[0][1], abs=0.05)


def test_averaging_the_ways_crashes():
    """Asserts a failure by design: cloning by one Gaussian runs into the obstacle between the ways."""
    settings = {"steps": 5_000, "batch_size": 128, "learning_rate": 1e-3, "hidden_dims": (64, 64)}
    scores = returns(trained("bc", settings, toy.two_goals()), episodes=100)
    assert float(np.mean(scores)) < 0.5, scores

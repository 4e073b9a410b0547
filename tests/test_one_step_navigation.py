"""The environment of `toy/navigation-v0`: one decision, two rewarded intervals."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import raymix.envs  # noqa: F401  (registers the environment)
from raymix.data import toy
from raymix.evaluation.rollout import check_environment


@pytest.mark.parametrize(
    ("action", "reward"), [(-2, 0), (-1.5, 1), (-0.5, 1), (-0.4, 0), (0, 0), (0.5, 10), (1.5, 10), (1.6, 0), (9, 0)]
)
def test_navigation_pays_by_interval(action: float, reward: float):
    """Catches an interval without its ends, and an action outside the box that is paid."""
    environment = gymnasium.make("raymix/OneStepNavigation-v0", disable_env_checker=True)
    observation, _ = environment.reset(seed=3)
    assert observation.shape == (2,) and np.abs(observation).max() < 0.06
    assert environment.step(np.array([action], np.float32))[1:4] == (reward, True, False)


def test_navigation_is_an_environment_of_gymnasium():
    """Catches what Gymnasium's own checker finds: spaces, dtypes, seeds."""
    check_env(gymnasium.make("raymix/OneStepNavigation-v0").unwrapped, skip_render_check=True)
    check_environment(toy.navigation().spec)

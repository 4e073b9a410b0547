"""Probe data sets with known answers, for tests and for checking a new algorithm in seconds.

`toy/constant-v0` asks whether a value learns a number, `toy/readable-v0` whether it reads the observation,
`toy/chain-v0` whether it is exact through a delay and through a time limit; `toy/best-action-v0` asks whether a policy
improves on the data's mean action, `toy/two-modes-v0` whether it can hold two modes and choose the better one. Each
step builds on the one before: the first that fails points at the part that is wrong.
"""

from __future__ import annotations

import numpy as np

from raymix.data.columns import make_dataset
from raymix.types import Columns, Dataset

CONSTANT = "toy/constant-v0"
READABLE = "toy/readable-v0"
BEST_ACTION = "toy/best-action-v0"
TWO_MODES = "toy/two-modes-v0"
CHAIN = "toy/chain-v0"
CHAIN_LENGTH = 5
_ONE_STEP_EPISODES = 1000
_TWO_MODES_EPISODES = 2000
_CHAIN_PAIRS = 200
_CHAIN_CUT = 3


def constant(seed: int = 0) -> Dataset:
    """1,000 one-step episodes that all earn 1, whatever is seen and done: every value is 1. No environment.

    Observations (2,) are standard normal noise, actions (1,) uniform in [-1, 1].
    """
    generator = np.random.default_rng(seed)
    observations = generator.standard_normal((_ONE_STEP_EPISODES, 2))
    actions = generator.uniform(-1.0, 1.0, (_ONE_STEP_EPISODES, 1))
    return _one_step(CONSTANT, observations, actions, np.ones(_ONE_STEP_EPISODES))


def readable(seed: int = 0) -> Dataset:
    """1,000 one-step episodes that earn what the first number of the observation says: 1 or -1. No environment.

    The second number of the observation is standard normal noise, actions (1,) are uniform in [-1, 1].
    """
    generator = np.random.default_rng(seed)
    rewards = np.where(generator.permutation(_ONE_STEP_EPISODES) % 2 == 0, 1.0, -1.0)
    observations = np.stack([rewards, generator.standard_normal(_ONE_STEP_EPISODES)], 1)
    return _one_step(READABLE, observations, generator.uniform(-1.0, 1.0, (_ONE_STEP_EPISODES, 1)), rewards)


def best_action(seed: int = 0) -> Dataset:
    """1,000 one-step episodes that earn 1 - (a - s / 2)^2: the best action is half of what is seen. No environment.

    The observation s (1,) is uniform in [-1, 1], and so is the action a (1,), independently: its mean is 0.
    """
    generator = np.random.default_rng(seed)
    observations = generator.uniform(-1.0, 1.0, (_ONE_STEP_EPISODES, 1))
    actions = generator.uniform(-1.0, 1.0, (_ONE_STEP_EPISODES, 1))
    return _one_step(BEST_ACTION, observations, actions, 1.0 - (actions - 0.5 * observations)[:, 0] ** 2)


def _one_step(name: str, observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> Dataset:
    """Episodes of one terminal transition each; what is seen after it, which nothing may read, is 100 everywhere."""
    number = len(rewards)
    transition = np.arange(2 * number) % 2 == 0

    def padded(values: np.ndarray, padding: float) -> np.ndarray:
        rows = np.full((2 * number, *values.shape[1:]), padding, dtype=np.float32)
        rows[transition] = values
        return rows

    columns = Columns(
        observations=padded(observations, 100.0),
        actions=padded(actions, 0.0),
        rewards=padded(rewards, 0.0),
        terminals=transition,
        timeouts=np.zeros(2 * number, dtype=bool),
        episode=np.repeat(np.arange(number, dtype=np.int32), 2),
        source=np.zeros(2 * number, dtype=np.int16),
    )
    return make_dataset(columns, name, action_low=[-1.0], action_high=[1.0], sources=("uniform",))


def two_modes(seed: int = 0) -> Dataset:
    """2,000 one-step episodes of `raymix/TwoModes-v0` by a behaviour policy with two narrow modes.

    Observations (2,) are standard normal noise. The action is N(-0.6, 0.05) in 70 % of the episodes (source `left`)
    and N(+0.6, 0.05) in 30 % (source `right`); rewards are 0 there and 1 here. Cloning the behaviour earns about
    0.3, the mean action (-0.24) 0, the better mode 1. Scores: 0 is the uniform policy (0.2 exactly), 100 is 1.
    """
    import gymnasium

    import raymix.envs  # noqa: F401  (registers the environment)
    from raymix.envs.two_modes import LEFT_MODE, RIGHT_MODE, two_modes_reward

    generator = np.random.default_rng(seed)
    number = _TWO_MODES_EPISODES
    right = generator.permutation(number) < round(0.3 * number)
    transition = np.arange(2 * number) % 2 == 0
    actions = np.zeros((2 * number, 1), dtype=np.float32)
    centers = np.where(right, RIGHT_MODE, LEFT_MODE)
    actions[transition, 0] = centers + 0.05 * generator.standard_normal(number)
    columns = Columns(
        observations=generator.standard_normal((2 * number, 2)).astype(np.float32),
        actions=actions,
        rewards=np.where(transition, two_modes_reward(actions), 0).astype(np.float32),
        terminals=transition,
        timeouts=np.zeros(2 * number, dtype=bool),
        episode=np.repeat(np.arange(number, dtype=np.int32), 2),
        source=np.repeat(right.astype(np.int16), 2),
    )
    return make_dataset(
        columns,
        TWO_MODES,
        action_low=[-1.0],
        action_high=[1.0],
        environment=gymnasium.spec("raymix/TwoModes-v0").to_json(),
        reference_min=0.2,
        reference_max=1.0,
        sources=("left", "right"),
    )


def chain(seed: int = 0) -> Dataset:
    """400 episodes through five states with one reward of 1 for leaving the last; actions change nothing.

    State i is the one-hot vector of i (5,), and after the end all zeros. Every second episode is cut by a limit
    after three transitions: a critic that takes the cut for an end, or that bootstraps past a real end, is wrong.
    Actions (1,) are uniform in [-1, 1], so any method must find the same values, `chain_values`. No environment.
    """
    generator = np.random.default_rng(seed)
    lengths = np.tile([CHAIN_LENGTH, _CHAIN_CUT], _CHAIN_PAIRS)
    step = np.concatenate([np.arange(length + 1) for length in lengths])
    last = np.repeat(lengths, lengths + 1) - 1
    complete = np.repeat(lengths, lengths + 1) == CHAIN_LENGTH
    actions = generator.uniform(-1.0, 1.0, (len(step), 1)).astype(np.float32)
    actions[step > last] = 0.0
    columns = Columns(
        observations=np.eye(CHAIN_LENGTH + 1, CHAIN_LENGTH, dtype=np.float32)[step],
        actions=actions,
        rewards=((step == last) & complete).astype(np.float32),
        terminals=(step == last) & complete,
        timeouts=(step == last) & ~complete,
        episode=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths + 1),
        source=np.zeros(len(step), dtype=np.int16),
    )
    return make_dataset(columns, CHAIN, action_low=[-1.0], action_high=[1.0], sources=("uniform",))


def chain_values(discount: float) -> np.ndarray:
    """(5,) float64: the exact Q(state i, any action) of `toy/chain-v0`, which is discount ** (4 - i)."""
    return discount ** np.arange(CHAIN_LENGTH - 1, -1, -1, dtype=np.float64)

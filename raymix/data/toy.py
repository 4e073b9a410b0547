"""Probe data sets with known answers, for tests and for checking a new algorithm in seconds.

`toy/two-modes-v0` asks whether a policy can hold two modes and choose the better one; `toy/chain-v0` asks whether
a critic learns exact values through a delay and through a time limit; `toy/navigation-v0` asks whether a policy
chooses a mode that is rare in the data but earns ten times as much (LAPO, Table 1).
"""

from __future__ import annotations

import numpy as np

from raymix.data.columns import make_dataset
from raymix.types import Columns, Dataset

TWO_MODES = "toy/two-modes-v0"
CHAIN = "toy/chain-v0"
NAVIGATION = "toy/navigation-v0"
CHAIN_LENGTH = 5
_TWO_MODES_EPISODES = 2000
_CHAIN_PAIRS = 200
_CHAIN_CUT = 3
_NAVIGATION_EPISODES = 10_000
_NAVIGATION_RIGHT = 0.06
_NAVIGATION_SD = 0.2


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


def navigation(seed: int = 0) -> Dataset:
    """10,000 one-step episodes of `raymix/OneStepNavigation-v0` (LAPO, Table 1): 94 % go left, 6 % right.

    Observations (2,) are normal noise of sd 0.01. The action in [-2, 2] is N(-1, 0.2) (source `left`, reward 1) or
    N(+1, 0.2) (source `right`, reward 10), cut off where the rewards end, at 0.5 from the mode. Cloning the
    behaviour earns 1.54, the mean action (-0.88) 1, the better mode 10. Scores: 0 is no reward, 100 is 10. The paper
    gives the rewards only; the shares and the widths are raymix's.
    """
    import gymnasium

    import raymix.envs  # noqa: F401  (registers the environment)
    from raymix.envs.one_step_navigation import MODE_DISTANCE, MODE_RADIUS, NOISE, navigation_reward

    generator = np.random.default_rng(seed)
    number = _NAVIGATION_EPISODES
    right = generator.permutation(number) < round(_NAVIGATION_RIGHT * number)
    spread = _NAVIGATION_SD * generator.standard_normal(2 * number)
    spread = spread[np.abs(spread) < MODE_RADIUS][:number]
    transition = np.arange(2 * number) % 2 == 0
    actions = np.zeros((2 * number, 1), dtype=np.float32)
    actions[transition, 0] = np.where(right, MODE_DISTANCE, -MODE_DISTANCE) + spread
    columns = Columns(
        observations=(NOISE * generator.standard_normal((2 * number, 2))).astype(np.float32),
        actions=actions,
        rewards=np.where(transition, navigation_reward(actions), 0).astype(np.float32),
        terminals=transition,
        timeouts=np.zeros(2 * number, dtype=bool),
        episode=np.repeat(np.arange(number, dtype=np.int32), 2),
        source=np.repeat(right.astype(np.int16), 2),
    )
    return make_dataset(
        columns,
        NAVIGATION,
        action_low=[-2.0],
        action_high=[2.0],
        environment=gymnasium.spec("raymix/OneStepNavigation-v0").to_json(),
        reference_min=0.0,
        reference_max=10.0,
        sources=("left", "right"),
    )

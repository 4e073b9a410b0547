"""Probe data sets with known answers, for tests and for checking a new algorithm in seconds.

`toy/constant-v0` asks whether a value learns a number, `toy/readable-v0` whether it reads the observation,
`toy/chain-v0` whether it is exact through a delay and through a time limit; `toy/best-action-v0` asks whether a policy
improves on the data's mean action, `toy/two-modes-v0` whether it can hold two modes and choose the better one. Each
step builds on the one before: the first that fails points at the part that is wrong. `toy/two-goals-v0` asks all of it
of a policy that has to stay on one of two equally good ways for many steps, and `toy/wide-and-narrow-v0` whether a
model of the behaviour knows where its actions spread (the toy of TD3+RKL, Cai et al., 2022, figure 3);
`toy/navigation-v0` asks whether a policy chooses a mode that is rare but earns ten times as much (LAPO, table 1).
"""

from __future__ import annotations

import numpy as np

from raymix.data.columns import Episode, from_episodes, make_dataset
from raymix.types import Columns, Dataset

CONSTANT = "toy/constant-v0"
READABLE = "toy/readable-v0"
BEST_ACTION = "toy/best-action-v0"
TWO_MODES = "toy/two-modes-v0"
CHAIN = "toy/chain-v0"
TWO_GOALS = "toy/two-goals-v0"
WIDE_AND_NARROW = "toy/wide-and-narrow-v0"
NAVIGATION = "toy/navigation-v0"
CHAIN_LENGTH = 5
_ONE_STEP_EPISODES = 1000
_TWO_MODES_EPISODES = 2000
_WIDE_AND_NARROW_EPISODES = 2000
_CHAIN_PAIRS = 200
_CHAIN_CUT = 3
_NAVIGATION_EPISODES = 10_000
_NAVIGATION_RIGHT = 0.06
_NAVIGATION_SD = 0.2
_TWO_GOALS_EPISODES = 400
_TWO_GOALS_WAYPOINTS = ((0.0, 0.0), (0.42, 0.28), (0.7, 0.7))
_TWO_GOALS_SPEED, _TWO_GOALS_NOISE, _TWO_GOALS_NEAR = 0.8, 0.07, 0.05


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


def two_goals(seed: int = 0) -> Dataset:
    """400 demonstrations in `raymix/TwoGoals-v0`, every second one to the left goal; all succeed.

    Observations (2,), the position. The demonstrator goes straight to (0, 0), then around the obstacle on one side
    (sources `left` and `right`) to the goal there: 0.8 of a full action towards the next waypoint, plus N(0, 0.07)
    per dimension, the next waypoint from 0.05 on. All share the first leg, so states there carry both ways.
    Scores: 0 is a return of 0, 100 is 1.
    """
    import gymnasium

    import raymix.envs  # noqa: F401  (registers the environment)
    from raymix.envs.two_goals import HORIZON, START, START_STD, move

    generator = np.random.default_rng(seed)
    episodes = []
    for index in range(_TWO_GOALS_EPISODES):
        side = index % 2
        waypoints = np.array(_TWO_GOALS_WAYPOINTS) * ((2 * side - 1), 1)
        position, target = START + START_STD * generator.standard_normal(2), 0
        observations, reward = [position], 0.0
        actions: list[np.ndarray] = []
        while reward == 0.0 and len(actions) < HORIZON:
            if target < len(waypoints) - 1 and np.linalg.norm(waypoints[target] - position) < _TWO_GOALS_NEAR:
                target += 1
            way = waypoints[target] - position
            action = _TWO_GOALS_SPEED * way / np.linalg.norm(way) + _TWO_GOALS_NOISE * generator.standard_normal(2)
            actions.append(np.clip(action, -1.0, 1.0))
            position, moved_reward, _ = move(position, actions[-1])
            reward = float(moved_reward)
            observations.append(position)
        last = np.arange(len(actions)) == len(actions) - 1
        episodes.append(
            Episode(
                observations=np.stack(observations),
                actions=np.stack(actions),
                rewards=np.where(last, reward, 0.0),
                terminations=last & (reward != 0.0),
                truncations=last & (reward == 0.0),
                source=side,
            )
        )
    return make_dataset(
        from_episodes(episodes),
        TWO_GOALS,
        action_low=[-1.0, -1.0],
        action_high=[1.0, 1.0],
        environment=gymnasium.spec("raymix/TwoGoals-v0").to_json(),
        reference_min=0.0,
        reference_max=1.0,
        sources=("left", "right"),
    )


def wide_and_narrow(seed: int = 0) -> Dataset:
    """2,000 one-step episodes whose actions spread widely on the left and narrowly on the right. No environment.

    Observations (1,) are uniform in [-1, 1]; the action (1,) is N(0.4 * sin(3 s), `wide_and_narrow_std`(s)), clipped to
    [-1, 1]. Sources: `wide` where s < 0, `narrow` elsewhere. The reward is the action, so that a value term pushes it
    up everywhere and a method's weight decides how far. The paper's figure has no numbers: these are ours.
    """
    generator = np.random.default_rng(seed)
    number = _WIDE_AND_NARROW_EPISODES
    transition = np.arange(2 * number) % 2 == 0
    observations = np.zeros((2 * number, 1), dtype=np.float32)
    states = generator.uniform(-1.0, 1.0, number)
    observations[transition, 0] = states
    actions = np.zeros((2 * number, 1), dtype=np.float32)
    noise = wide_and_narrow_std(states) * generator.standard_normal(number)
    actions[transition, 0] = np.clip(0.4 * np.sin(3.0 * states) + noise, -1.0, 1.0)
    columns = Columns(
        observations=observations,
        actions=actions,
        rewards=np.where(transition, actions[:, 0], 0).astype(np.float32),
        terminals=transition,
        timeouts=np.zeros(2 * number, dtype=bool),
        episode=np.repeat(np.arange(number, dtype=np.int32), 2),
        source=np.repeat((states >= 0).astype(np.int16), 2),
    )
    return make_dataset(columns, WIDE_AND_NARROW, action_low=[-1.0], action_high=[1.0], sources=("wide", "narrow"))


def wide_and_narrow_std(states: np.ndarray) -> np.ndarray:
    """The std of `toy/wide-and-narrow-v0`'s actions before they are clipped: 0.45 at -1, 0.05 at 1, linear between."""
    return 0.25 - 0.2 * states


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

"""Rewards as the papers change them before training: named, so that a data set's name says what was done."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from raymix.types import Columns, Spec, UsageError


def minus_one(columns: Columns, spec: Spec) -> np.ndarray:
    """r - 1 (mazes: IQL, DMPO and its relatives): every step costs until the goal."""
    return columns.rewards - 1.0


def times_100(columns: Columns, spec: Spec) -> np.ndarray:
    """100 r (mazes: LAPO, DMPO on antmaze)."""
    return columns.rewards * 100.0


def by_maximum(columns: Columns, spec: Spec) -> np.ndarray:
    """r / max |r| (LAPO on all but mazes; there by max r, which flips signs where all rewards are negative)."""
    largest = max(abs(spec.reward_min), abs(spec.reward_max))
    if largest == 0:
        raise UsageError(f"all rewards of {spec.name} are 0, so reward=by-maximum divides by 0; leave it out")
    return columns.rewards / largest


def by_returns(columns: Columns, spec: Spec) -> np.ndarray:
    """1000 r / (largest - least return of an episode) (IQL on locomotion)."""
    span = spec.returns_max - spec.returns_min
    if span == 0:
        raise UsageError(
            f"all episodes of {spec.name} have one return, so reward=by-returns divides by 0; leave it out"
        )
    return columns.rewards * (1000.0 / span)


def _walker2d(task: str) -> Callable[[Columns, Spec], np.ndarray]:
    def relabelled(columns: Columns, spec: Spec) -> np.ndarray:
        from raymix.envs.walker2d import reward  # builds on mujoco

        if (spec.observation_dim, spec.action_dim) != (17, 6):
            raise UsageError(
                f"reward=walker2d-{task} needs Walker2d's 17 observations and 6 actions, but {spec.name} has"
                f" {spec.observation_dim} and {spec.action_dim}"
            )
        after = np.minimum(np.arange(len(columns.rewards)) + 1, len(columns.rewards) - 1)
        return reward(task, columns.actions.astype(np.float64), columns.observations[after].astype(np.float64))

    relabelled.__doc__ = f"Walker2d's task {task} (LAPO's walker2d-mix; `raymix.envs.walker2d`), evaluated there."
    return relabelled


REWARDS: dict[str, Callable[[Columns, Spec], np.ndarray]] = {
    "minus-one": minus_one,
    "times-100": times_100,
    "by-maximum": by_maximum,
    "by-returns": by_returns,
    **{f"walker2d-{task}": _walker2d(task) for task in ("forward", "backward", "jump")},
}
"""Names -> rewards (R,) of all rows from the columns; what they give for padding rows is not used."""

ENVIRONMENTS = {f"walker2d-{task}": f"raymix/Walker2d{task.title()}-v0" for task in ("forward", "backward", "jump")}
"""The environment that pays a relabelled reward; the other names change what is learnt from, not the task."""


def changed(columns: Columns, spec: Spec, name: str | None, scale: float | None, shift: float | None) -> np.ndarray:
    """(R,) float32: the rewards by a key of `REWARDS`, then times `scale`, then plus `shift`; padding stays 0.

    Raises:
        UsageError: an unknown name, or rewards that it cannot be applied to.
    """
    if name is not None and name not in REWARDS:
        raise UsageError(f"reward={name} is no name for rewards; there are: {', '.join(REWARDS)}")
    rewards = columns.rewards if name is None else REWARDS[name](columns, spec)
    rewards = rewards * (1.0 if scale is None else scale) + (0.0 if shift is None else shift)
    rewards = rewards.astype(np.float32)
    rewards[columns.last_rows] = 0.0
    return rewards

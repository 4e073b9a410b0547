"""Observations that are dictionaries, as vectors: the same rule for data and for rollouts.

Goal environments (mazes, Fetch, Kitchen) observe `observation`, `achieved_goal` and `desired_goal`. A rule names the
keys that count; their values are joined in alphabetical order, dictionaries inside them likewise.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from raymix.types import UsageError

RULES = {
    "all": None,
    "no-goal": ("achieved_goal", "observation"),
    "no-achieved": ("desired_goal", "observation"),
    "observation": ("observation",),
}
"""Names of rules -> the keys that count; None: all of them.

`no-goal` is the state that D4RL's mazes have (position and body, without the goal); `observation` is a robot's own
state, which shows no goal at all.
"""
DEFAULT = "all"


def flattened_space(space: gymnasium.Space, rule: str) -> gymnasium.spaces.Box:
    """The Box of one axis that a space of observations becomes.

    Raises:
        UsageError: an unknown rule, keys that are not there, or parts that are no Box of at most one axis.
    """
    lows, highs = [], []
    for name, part in _parts(space, rule):
        if not isinstance(part, gymnasium.spaces.Box) or len(part.shape) > 1 or part.dtype.kind not in "fiu":
            told = " ".join(str(part).split())  # Long bounds are printed over several lines.
            raise UsageError(
                f"observations{name} are {told}; raymix reads Box spaces of numbers of one axis, and dictionaries of"
                " such"
            )
        lows.append(np.atleast_1d(part.low).astype(np.float64))
        highs.append(np.atleast_1d(part.high).astype(np.float64))
    return gymnasium.spaces.Box(np.concatenate(lows), np.concatenate(highs), dtype=np.float64)


def flatten(observations: Any, rule: str, axes: int = 0) -> np.ndarray:
    """Observations as one array, the numbers of all leaves along its last axis.

    `axes` says how many axes every leaf has before its own: 0 for one time, 1 for an episode's (T + 1, ...).
    """
    leaves = [np.asarray(leaf) for _, leaf in _parts(observations, rule)]
    return np.concatenate([leaf.reshape(*leaf.shape[:axes], -1) for leaf in leaves], axis=-1)


class Flattened(gymnasium.ObservationWrapper):
    """An environment whose dictionaries are vectors by a rule."""

    def __init__(self, environment: gymnasium.Env, rule: str) -> None:
        super().__init__(environment)
        self.rule = rule
        self.observation_space = flattened_space(environment.observation_space, rule)

    def observation(self, observation: Any) -> np.ndarray:
        return flatten(observation, self.rule)


def _parts(tree: Any, rule: str) -> list[tuple[str, Any]]:
    """(path, leaf) of a space or of observations, in the order in which they are joined."""
    if rule not in RULES:
        raise UsageError(f"observations={rule} is no rule; there are: {', '.join(RULES)}")
    if not _is_dict(tree):
        return [("", tree)]
    keys = RULES[rule] or tuple(sorted(tree))
    if missing := [key for key in keys if key not in list(tree)]:
        raise UsageError(
            f"observations={rule} needs the key {missing[0]!r}, but these observations have {', '.join(sorted(tree))};"
            " take observations=all"
        )
    return [part for key in sorted(keys) for part in _leaves(f"[{key!r}]", tree[key])]


def _leaves(path: str, tree: Any) -> list[tuple[str, Any]]:
    if not _is_dict(tree):
        return [(path, tree)]
    return [part for key in sorted(tree.keys()) for part in _leaves(f"{path}[{key!r}]", tree[key])]


def _is_dict(tree: Any) -> bool:
    return isinstance(tree, dict | gymnasium.spaces.Dict)

"""The plain facts that every part of raymix shares: what a data set is, and what its shapes are.

NumPy only: these types travel between processes, into checkpoints and into the ledger.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Metrics = dict[str, float]

BLOCK_ROWS = 1 << 16
"""Rows that are read or worked on at a time where a whole column would take too much memory."""


class UsageError(ValueError):
    """The user asked for something that cannot be done; the message is one sentence with the remedy.

    Command lines print the message without a traceback and exit with status 2.
    """


class Interrupted(Exception):
    """A signal stopped the work; the message says what is saved and how to go on."""


class SweepFailed(Exception):
    """Trials failed; the message says which and why."""


@dataclass(frozen=True)
class Spec:
    """What an algorithm may know about a data set: shapes, bounds, statistics, and where to evaluate.

    Immutable, hashable and JSON-ready (`to_dict`, `from_dict`): it travels in checkpoints, so that a policy
    can never be rebuilt without its normalisation.
    """

    name: str
    """Canonical name, such as `raymix/fetchreach-multigoal-v0`."""
    hash: str
    """`Columns.digest()`: the same name with other contents is another data set."""
    observation_dim: int
    action_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    observation_mean: tuple[float, ...]
    observation_std: tuple[float, ...]
    """Population standard deviation (ddof 0) of the observations that start a transition."""
    action_mean: tuple[float, ...]
    action_std: tuple[float, ...]
    reward_min: float
    reward_max: float
    num_transitions: int
    num_episodes: int
    returns_mean: float
    """Mean undiscounted return of the data set's episodes."""
    returns_min: float
    returns_max: float
    environment: str | None = None
    """Gymnasium `EnvSpec` as JSON, or None for a log without an environment."""
    reference_min: float | None = None
    reference_max: float | None = None
    sources: tuple[str, ...] = ()
    """Names of the behaviour policies, indexed by the column `source`."""

    def normalized_score(self, episode_return: float) -> float | None:
        """100 * (return - reference_min) / (reference_max - reference_min); None without references."""
        if self.reference_min is None or self.reference_max is None:
            return None
        return 100.0 * (episode_return - self.reference_min) / (self.reference_max - self.reference_min)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Spec:
        """The inverse of `to_dict`."""
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**fields)


@dataclass(frozen=True)
class Columns:
    """Episodes as flat arrays, with one extra row per episode for its last observation.

    An episode of T transitions takes T + 1 rows::

        row           0   1   2  | 3   4   5   6        two episodes, T = 2 and T = 3
        observations  s0  s1  s2 | s0  s1  s2  s3
        actions       a0  a1  -  | a0  a1  a2  -        (- is padding: zeros, False)
        episode       0   0   0  | 1   1   1   1

    So the next observation of a transition is row + 1, always inside the episode; the next action too, except
    for the last transition of an episode, which has none.
    """

    observations: np.ndarray
    """(R, S) float32."""
    actions: np.ndarray
    """(R, A) float32."""
    rewards: np.ndarray
    """(R,) float32."""
    terminals: np.ndarray
    """(R,) bool: the environment ended here (the bootstrap is cut)."""
    timeouts: np.ndarray
    """(R,) bool: the episode was cut here by a limit (the bootstrap is not cut)."""
    episode: np.ndarray
    """(R,) int32: 0, 1, 2, ... in order."""
    source: np.ndarray
    """(R,) int16: which behaviour policy acted; index into `Spec.sources`."""

    @property
    def last_rows(self) -> np.ndarray:
        """(E,) int64: the row of each episode's last observation, which starts no transition."""
        found = []
        for start in range(0, len(self.episode) - 1, BLOCK_ROWS):
            after = self.episode[start + 1 : start + 1 + BLOCK_ROWS]
            found.append(start + np.flatnonzero(self.episode[start : start + len(after)] != after))
        return np.concatenate([*found, [len(self.episode) - 1]]).astype(np.int64)

    def transition_rows(self, with_next_action: bool = False) -> np.ndarray:
        """(N,) int64: rows that start a transition.

        `with_next_action` leaves out the last transition of an episode that a limit cut: its bootstrap would
        need an action that was never taken (SARSA-style algorithms must not sample it).
        """
        starts = np.ones(len(self.episode), dtype=bool)
        last = self.last_rows
        starts[last] = False
        if with_next_action:
            starts[last - 1] = self.terminals[last - 1]
        return np.flatnonzero(starts)

    def transition_blocks(self) -> Iterator[np.ndarray]:
        """`transition_rows`, `BLOCK_ROWS` at a time."""
        transitions = np.cumsum(np.diff(self.last_rows, prepend=-1) - 1)
        for start in range(0, int(transitions[-1]), BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, int(transitions[-1]))
            # Each episode before has one more row than it has transitions.
            yield np.arange(start, stop) + groups_of(transitions, start, stop)

    def episode_returns(self) -> np.ndarray:
        """(E,) float64: undiscounted return of each episode."""
        returns = np.zeros(int(self.episode[-1]) + 1)
        for start in range(0, len(self.episode), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            np.add.at(returns, self.episode[block], self.rewards[block].astype(np.float64))
        return returns

    def reward_range(self) -> tuple[float, float]:
        """The least and the largest reward of a transition."""
        ranges = [(part.min(), part.max()) for rows in self.transition_blocks() for part in (self.rewards[rows],)]
        return float(min(low for low, _ in ranges)), float(max(high for _, high in ranges))

    def digest(self) -> str:
        """SHA-256 over all columns, as hex."""
        digest = hashlib.sha256()
        for field in dataclasses.fields(self):
            array = np.ascontiguousarray(getattr(self, field.name))
            digest.update(f"{field.name}{array.dtype}{array.shape}".encode())
            digest.update(array.data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Dataset:
    """A data set in memory: its facts and its rows."""

    spec: Spec
    columns: Columns
    file: str | None = None
    """The file that the columns are mapped from, where they are (one of the library's, or of `raymix.data.scratch`):
    another process can map it too."""


def groups_of(ends: np.ndarray, start: int, stop: int) -> np.ndarray:
    """(stop - start,): in which of the groups that end before `ends` (E,) each number from `start` to `stop` lies."""
    first, last = np.searchsorted(ends, [start, stop - 1], side="right")
    return np.repeat(np.arange(first, last + 1), np.diff(np.minimum(ends[first : last + 1], stop), prepend=start))


def return_percentiles(returns: np.ndarray) -> np.ndarray:
    """(E,) float64 from 1 to 100: which hundredth of the returns (E,) each is in; equal ones share their middle."""
    edges = np.quantile(returns, np.arange(1, 100) / 100)
    return 1.0 + (np.searchsorted(edges, returns, side="left") + np.searchsorted(edges, returns, side="right")) / 2

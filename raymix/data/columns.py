"""From episodes to checked columns, and from columns to a data set with its statistics."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raymix.types import BLOCK_ROWS, Columns, Dataset, Spec, UsageError

BOX_TOLERANCE = 1e-6
"""Actions this far outside their box, relative to max(1, its width), are rounding and are clipped."""
DTYPES = {
    "observations": np.float32,
    "actions": np.float32,
    "rewards": np.float32,
    "terminals": np.bool_,
    "timeouts": np.bool_,
    "episode": np.int32,
    "source": np.int16,
}
"""Of each column."""


@dataclass(frozen=True)
class Episode:
    """One episode of T transitions."""

    observations: np.ndarray
    """(T + 1, S): the last observation included."""
    actions: np.ndarray
    """(T, A)."""
    rewards: np.ndarray
    """(T,)."""
    terminations: np.ndarray
    """(T,) bool; True at the last transition only, if anywhere."""
    truncations: np.ndarray
    """(T,) bool; True at the last transition only, if anywhere."""
    source: int = 0
    """Which behaviour policy acted."""


def from_episodes(episodes: Iterable[Episode]) -> Columns:
    """Lay episodes out as flat columns.

    Numbers become float32. An episode that neither terminates nor is truncated was cut by the end of the log: its
    last transition becomes a timeout. One that does both has terminated, which decides whether the bootstrap is cut.

    Args:
        episodes: any iterable; read once.

    Returns:
        Columns of sum(T + 1) rows, not yet searched for NaN: `make_dataset` does that.

    Raises:
        UsageError: no episodes; an episode without transitions; what are no numbers; shapes that do not fit each
            other; an episode that goes on after it ended.
    """
    parts, sources = [], []
    most = np.iinfo(DTYPES["source"]).max
    for index, episode in enumerate(episodes):
        parts.append(_pad(index, episode))
        if not isinstance(episode.source, int | np.integer) or not 0 <= episode.source <= most:
            raise UsageError(
                f"Episode {index} has the source {episode.source!r}; it must be a whole number from 0 to {most}."
            )
        sources.append(episode.source)
    if not parts:
        raise UsageError("The data holds no episodes; give at least one.")
    for axis, column in ((0, "observations"), (1, "actions")):
        widths = [part[axis].shape[1] for part in parts]
        odd = next((index for index, width in enumerate(widths) if width != widths[0]), None)
        if odd is not None:
            raise UsageError(
                f"Episode {odd} has {column} of {widths[odd]} numbers but episode 0 of {widths[0]};"
                " all episodes of a data set must have the same shapes."
            )
    observations, actions, rewards, terminals, timeouts = zip(*parts, strict=True)
    lengths = [len(array) for array in rewards]
    return Columns(
        observations=np.concatenate(observations),
        actions=np.concatenate(actions),
        rewards=np.concatenate(rewards),
        terminals=np.concatenate(terminals),
        timeouts=np.concatenate(timeouts),
        episode=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
        source=np.repeat(np.array(sources, dtype=np.int16), lengths),
    )


def _pad(index: int, episode: Episode) -> tuple[np.ndarray, ...]:
    """Observations, actions, rewards, terminals, timeouts of T + 1 rows."""
    observations, actions, rewards, terminations, truncations = (
        _numbers(index, column, getattr(episode, column))
        for column in ("observations", "actions", "rewards", "terminations", "truncations")
    )
    if observations.ndim != 2 or actions.ndim != 2:
        raise UsageError(
            f"Episode {index} has observations of shape {observations.shape} and actions of shape {actions.shape};"
            " both must have two axes, (T + 1, S) and (T, A)."
        )
    steps = len(actions)
    if steps == 0:
        raise UsageError(f"Episode {index} has length zero; leave out episodes without a transition.")
    per_transition = {"rewards": rewards, "terminations": terminations, "truncations": truncations}
    expected = {"observations": (steps + 1, observations.shape[1])} | dict.fromkeys(per_transition, (steps,))
    for column, array in ({"observations": observations} | per_transition).items():
        if array.shape != expected[column]:
            raise UsageError(
                f"Episode {index} has {steps} actions, so its {column} must have shape {expected[column]},"
                f" but they have {array.shape}."
            )
    terminals = terminations.astype(bool)
    ended = np.flatnonzero((terminals | truncations.astype(bool))[:-1])
    if ended.size:
        raise UsageError(
            f"Episode {index} ends at row {ended[0]} but goes on for {steps} transitions; split it into episodes there."
        )
    timeouts = np.zeros(steps, dtype=bool)
    timeouts[-1] = not terminals[-1]
    with np.errstate(over="ignore"):  # What overflows float32 becomes infinite, and is then refused by name.
        rewards = rewards.astype(np.float32)
        observations, actions = observations.astype(np.float32), actions.astype(np.float32)
    last = ((0, 1),)
    return (
        observations,
        np.pad(actions, ((0, 1), (0, 0))),
        np.pad(rewards, last),
        np.pad(terminals, last),
        np.pad(timeouts, last),
    )


def _numbers(index: int, column: str, values: object) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError as error:  # Rows of different lengths.
        raise UsageError(
            f"Episode {index} has {column} that are no array ({error}); give rows of one shape."
        ) from error
    if array.dtype.kind not in "biuf":
        raise UsageError(f"Episode {index} has {column} of type {array.dtype}; give numbers.")
    return array


@dataclass(frozen=True)
class Rows:
    """A log as it was written: one row per transition, in the order of time.

    The wide columns may be anything that gives NumPy arrays by `column[start:stop]`, such as an `h5py.Dataset`: they
    are read a block at a time and never as a whole.
    """

    observations: Any
    """(N, S) numbers: what was seen before acting."""
    actions: Any
    """(N, A) numbers."""
    rewards: np.ndarray
    """(N,)."""
    terminals: np.ndarray
    """(N,) bool: the environment ended after this row's action."""
    timeouts: np.ndarray
    """(N,) bool: the episode was cut at this row. A row that has both flags is a terminal."""
    source: np.ndarray | None = None
    """(N,) whole numbers: which behaviour policy acted; None for one."""
    next_observations: Any | None = None
    """(N, S) numbers: what was seen after acting; None where only the next row tells."""


def from_rows(rows: Rows, progress: Callable[[int, int], None] | None = None) -> Columns:
    """Lay a log out as flat columns, in float32.

    With `next_observations` every row is a transition, and an episode also ends where the next row does not begin
    with what was seen last. Without them, the row at which an episode is cut, and the last row of the log, have no
    next observation: they are no transitions, and their observation is the last one of their episode. A terminal row
    is a transition even so, as nothing may read what follows it; its own observation stands there again.

    Args:
        rows: of equal lengths; numbers are not yet searched for NaN.
        progress: called with (rows done, rows in all).

    Returns:
        Columns of at most twice as many rows; an episode without a transition is left out.

    Raises:
        UsageError: not one transition.
    """
    number = len(rows.rewards)
    ends = rows.terminals | rows.timeouts
    ends[-1:] = True
    if rows.next_observations is None:
        # How many rows of the columns a row of the log becomes.
        copies = np.where(rows.terminals, np.int8(2), np.int8(1))
        copies[np.append(True, ends[:-1])[:number] & ends & ~rows.terminals] = 0
    else:
        breaks = _breaks(rows) & ~ends
        if breaks.any() and rows.timeouts.any():
            warnings.warn(
                f"{np.count_nonzero(breaks)} rows that no timeout marks have next_observations that differ from the"
                f" next row's observations, row {breaks.argmax()} first; an episode is cut at each.",
                stacklevel=2,
            )
        ends |= breaks
        copies = np.where(ends, np.int8(2), np.int8(1))
    ends &= copies > 0
    starts = np.append(0, np.cumsum(copies, dtype=np.int64))
    if starts[-1] == 0:
        raise UsageError("The log holds no transition; give episodes of at least two rows, or next_observations.")
    last = starts[1:][ends] - 1
    observations = np.empty((starts[-1], rows.observations.shape[1]), dtype=np.float32)
    actions = np.empty((starts[-1], rows.actions.shape[1]), dtype=np.float32)
    for start in range(0, number, BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        target = slice(starts[start], starts[min(block.stop, number)])
        with np.errstate(over="ignore"):  # What overflows float32 becomes infinite, and is then refused by name.
            observations[target] = np.repeat(rows.observations[block], copies[block], axis=0)
            actions[target] = np.repeat(rows.actions[block], copies[block], axis=0)
            if rows.next_observations is not None:
                ending = ends[block]
                observations[starts[1:][block][ending] - 1] = rows.next_observations[block][ending]
        if progress is not None:
            progress(min(block.stop, number), number)
    with np.errstate(over="ignore"):
        rewards = np.repeat(rows.rewards.astype(np.float32), copies)
    terminals = np.repeat(rows.terminals, copies)
    for column in (actions, rewards, terminals):
        column[last] = 0
    timeouts = np.zeros(len(terminals), dtype=bool)
    timeouts[last - 1] = ~terminals[last - 1]
    source = np.zeros(number, dtype=np.int16) if rows.source is None else rows.source.astype(np.int16)
    return Columns(
        observations=observations,
        actions=actions,
        rewards=rewards,
        terminals=terminals,
        timeouts=timeouts,
        episode=np.repeat(np.append(0, np.cumsum(ends[:-1])).astype(np.int32), copies),
        source=np.repeat(source, copies),
    )


def _breaks(rows: Rows) -> np.ndarray:
    """(N,) bool: where the next row begins with another observation than the one that was seen last."""
    number = len(rows.rewards)
    breaks = np.zeros(number, dtype=bool)
    assert rows.next_observations is not None
    for start in range(0, number - 1, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, number - 1)
        with np.errstate(over="ignore"):
            after = rows.next_observations[start:stop].astype(np.float32)
            here = rows.observations[start + 1 : stop + 1].astype(np.float32)
        breaks[start:stop] = (after != here).any(axis=1)
    return breaks


def make_dataset(
    columns: Columns,
    name: str,
    *,
    action_low: Sequence[float] | np.ndarray,
    action_high: Sequence[float] | np.ndarray,
    environment: str | None = None,
    reference_min: float | None = None,
    reference_max: float | None = None,
    sources: Sequence[str] = (),
) -> Dataset:
    """Check columns and compute the facts an algorithm may know about them.

    Actions outside their box by at most 1e-6 of max(1, its width) are rounding and are clipped; any further is
    refused. A constant column is allowed: its standard deviation in the Spec is 0. Columns are gone through a block at
    a time, so that those mapped from a file may be larger than memory.

    Args:
        columns: rows in the layout of `raymix.types.Columns`.
        name: canonical name.
        action_low: (A,) finite.
        action_high: (A,) finite, above `action_low`.
        environment: Gymnasium `EnvSpec` as JSON.
        reference_min: mean return that scores 0.
        reference_max: mean return that scores 100; both references or none.
        sources: names of the behaviour policies; `(name,)` where left empty.

    Returns:
        The data set.

    Raises:
        UsageError: wrong layout, NaN or infinity, actions outside their box, unusable bounds or references.
    """
    sources = tuple(sources) or (name,)
    _check_layout(columns, name, len(sources))
    for column in ("observations", "actions", "rewards"):
        _refuse_non_finite(columns, column, name)
    low, high = _check_bounds(columns, name, action_low, action_high)
    columns = _clip_actions(columns, name, low, high)
    _check_references(name, reference_min, reference_max)

    observation_mean, observation_std = _mean_and_std(columns, columns.observations)
    action_mean, action_std = _mean_and_std(columns, columns.actions)
    reward_min, reward_max = columns.reward_range()
    returns = columns.episode_returns()
    spec = Spec(
        name=name,
        hash=columns.digest(),
        observation_dim=columns.observations.shape[1],
        action_dim=columns.actions.shape[1],
        action_low=tuple(low.tolist()),
        action_high=tuple(high.tolist()),
        observation_mean=observation_mean,
        observation_std=observation_std,
        action_mean=action_mean,
        action_std=action_std,
        reward_min=reward_min,
        reward_max=reward_max,
        num_transitions=len(columns.episode) - len(returns),
        num_episodes=len(returns),
        returns_mean=float(returns.mean()),
        returns_min=float(returns.min()),
        returns_max=float(returns.max()),
        environment=environment,
        reference_min=reference_min,
        reference_max=reference_max,
        sources=sources,
    )
    return Dataset(spec, columns)


def _check_layout(columns: Columns, name: str, num_sources: int) -> None:
    rows = len(columns.episode)
    if rows == 0:
        raise UsageError(f"Data set {name} holds no episodes; give at least one.")
    for column, dtype in DTYPES.items():
        array = getattr(columns, column)
        axes = 2 if column in ("observations", "actions") else 1
        if array.dtype != dtype or array.ndim != axes or len(array) != rows or 0 in array.shape:
            shape = f"({rows}, width of at least 1)" if axes == 2 else f"({rows},)"
            raise UsageError(
                f"Column {column} of data set {name} is {array.dtype} of shape {array.shape};"
                f" it must be {np.dtype(dtype)} of shape {shape}."
            )
    last = columns.last_rows
    if not np.array_equal(columns.episode[last], np.arange(len(last))):
        raise UsageError(f"Column episode of data set {name} is not 0, 0, ..., 1, 1, ... in order; number it so.")
    lengths = np.diff(last, prepend=-1) - 1
    if lengths.min() == 0:
        raise UsageError(
            f"Episode {lengths.argmin()} of data set {name} has length zero; leave out episodes without a transition."
        )
    flags = np.count_nonzero(columns.terminals) + np.count_nonzero(columns.timeouts)
    if flags != len(last) or not (columns.terminals[last - 1] ^ columns.timeouts[last - 1]).all():
        raise UsageError(
            f"Data set {name} must mark the last transition of each episode, and no other row, as terminal or timeout."
        )
    if columns.source.min() < 0 or columns.source.max() >= num_sources:
        raise UsageError(
            f"Column source of data set {name} reaches {columns.source.min()} to {columns.source.max()},"
            f" but there are {num_sources} source names; give one name per number from 0."
        )


def _refuse_non_finite(columns: Columns, column: str, name: str) -> None:
    array = getattr(columns, column)
    for start in range(0, len(array), BLOCK_ROWS):
        finite = np.isfinite(array[start : start + BLOCK_ROWS])
        if not finite.all():
            row = start + int(np.argwhere(~finite)[0][0])
            raise UsageError(
                f"Column {column} of data set {name} is not finite at {_place(columns, row)} ({array[row].tolist()});"
                " mend or leave out that episode."
            )


def _check_bounds(
    columns: Columns, name: str, low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    # Through float32, in which the actions are stored: a bound such as 0.1 must contain itself.
    low_array, high_array = np.asarray(low, dtype=np.float32), np.asarray(high, dtype=np.float32)
    shape = (columns.actions.shape[1],)
    if low_array.shape != shape or high_array.shape != shape:
        raise UsageError(
            f"The action bounds of data set {name} have shapes {low_array.shape} and {high_array.shape};"
            f" its actions need {shape}."
        )
    if not (np.isfinite(low_array).all() and np.isfinite(high_array).all() and (low_array < high_array).all()):
        raise UsageError(
            f"The action bounds of data set {name} are {low_array.tolist()} to {high_array.tolist()};"
            " they must be finite, each low below its high."
        )
    return low_array, high_array


def _clip_actions(columns: Columns, name: str, low: np.ndarray, high: np.ndarray) -> Columns:
    if columns.actions.min() >= low.max() and columns.actions.max() <= high.min():
        return columns  # The usual case, told without an array of the actions' size.
    clipped = None
    # The padding rows' zeros are no actions and need not lie in the box.
    for rows in columns.transition_blocks():
        actions = columns.actions[rows]
        outside = np.maximum(low - actions, actions - high)
        worst = np.flatnonzero((outside > BOX_TOLERANCE * np.maximum(1.0, high - low)).any(axis=1))
        if worst.size:
            row = int(rows[worst[0]])
            raise UsageError(
                f"The action {columns.actions[row].tolist()} of data set {name} at {_place(columns, row)} is outside"
                f" its box {low.tolist()} to {high.tolist()}; clip the actions or widen the bounds."
            )
        if (outside > 0).any():
            clipped = columns.actions.copy() if clipped is None else clipped
            clipped[rows] = np.where(outside > 0, np.clip(actions, low, high), actions)
    return columns if clipped is None else dataclasses.replace(columns, actions=clipped)


def _check_references(name: str, low: float | None, high: float | None) -> None:
    if low is None and high is None:
        return
    if low is None or high is None or not np.isfinite([low, high]).all() or not low < high:
        raise UsageError(
            f"The reference scores of data set {name} are {low} and {high};"
            " give two finite numbers, the first below the second, or neither."
        )


def _place(columns: Columns, row: int) -> str:
    episode = int(columns.episode[row])
    return f"episode {episode}, row {row - int(np.searchsorted(columns.episode, episode))}"


def _mean_and_std(columns: Columns, array: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation over the transitions, in float64."""

    def blocks() -> Iterator[np.ndarray]:
        return (array[rows].astype(np.float64) for rows in columns.transition_blocks())

    number = len(columns.episode) - 1 - int(columns.episode[-1])
    mean = sum((block.sum(axis=0) for block in blocks()), np.zeros(array.shape[1])) / number
    squares = sum((np.square(block - mean).sum(axis=0) for block in blocks()), np.zeros(array.shape[1]))
    return tuple(mean.tolist()), tuple(np.sqrt(squares / number).tolist())

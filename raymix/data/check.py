"""Everything that is wrong with a log or a data set, with the place where it starts.

`find` looks at the columns of a log before anything is made of them: an import refuses the first problem, and
`raymix data check` shows them all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from raymix.data.columns import BOX_TOLERANCE, make_dataset
from raymix.types import BLOCK_ROWS, Dataset, UsageError

WIDE = ("observations", "actions", "next_observations")
FLAGS = ("terminals", "timeouts")
LABELS = ("episode", "source")
KNOWN = (*WIDE, "rewards", *FLAGS, *LABELS)
_BY_ANOTHER_NAME = "a log's own names are given with --column"
_REMEDIES = {
    "observations": _BY_ANOTHER_NAME,
    "actions": _BY_ANOTHER_NAME,
    "terminals": _BY_ANOTHER_NAME,
    "rewards": f"{_BY_ANOTHER_NAME}, or give --rewards zero, or --rewards terminal (1 at terminals)",
}
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where."""

    where: str
    """File or data set."""
    what: str
    """With the remedy."""
    column: str | None = None
    row: int | None = None
    """The first row that has it, from 0."""

    def __str__(self) -> str:
        place = f", column {self.column}" if self.column else ""
        place += f", row {self.row}" if self.row is not None else ""
        return f"{self.where}{place}: {self.what}"


class Report(Protocol):
    """Takes down a problem."""

    def __call__(self, what: str, column: str | None = None, row: int | None = None) -> None: ...


class Refused(UsageError):
    """A file with a problem; the message is the problem's."""

    def __init__(self, problem: Problem, more: int = 0) -> None:
        self.problem = problem
        super().__init__(f"{problem} ({more} more; `raymix data check` shows all)" if more else str(problem))


@dataclass
class Findings:
    """What `find` found."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    """What may be meant so."""
    action_range: tuple[np.ndarray, np.ndarray] | None = None
    """(A,) and (A,): smallest and largest actions; None where the actions cannot be read as numbers."""

    def refuse(self) -> None:
        """Raise `Refused` with the first problem, if there is one."""
        if self.problems:
            raise Refused(self.problems[0], len(self.problems) - 1)


def find(
    table: Mapping[str, Any],
    where: str,
    *,
    required: Collection[str],
    others: Sequence[str] = (),
    action_low: Sequence[float] | np.ndarray | None = None,
    action_high: Sequence[float] | np.ndarray | None = None,
    time_limit: int | None = None,
    terminals_at_limit: bool = False,
    whole_episodes: bool = True,
) -> Findings:
    """Look through a log of one row per transition.

    Args:
        table: columns by the names of `KNOWN`: arrays, or what gives them by slices; wide ones with two axes.
        where: the file, for the sentences.
        required: names that must be there.
        others: names of columns without a meaning.
        action_low: (A,) or one number for all; None where no bounds are known.
        action_high: likewise.
        time_limit: after how many transitions the task is cut, if that is known.
        terminals_at_limit: episodes of exactly `time_limit` rows may end in terminals.
        whole_episodes: each episode must have a transition, and last no longer than the time limit.
    """
    found = Findings()

    def problem(what: str, column: str | None = None, row: int | None = None) -> None:
        found.problems.append(Problem(where, what, column, None if row is None else int(row)))

    for name in required:
        if name not in table:
            problem(f"it is missing among {', '.join([*table, *others]) or 'none'}; {_REMEDIES[name]}", name)
    for name in others:
        problem("no column of this name has a meaning; rename it, or leave all such out with --ignore-extra", name)
    usable = {name: column for name, column in table.items() if _has_right_form(name, column, problem)}
    number = len(usable["observations"]) if "observations" in usable else None
    for name, column in usable.items():
        if number is not None and len(column) != number:
            what = f"the column has {len(column)} rows but observations {number}; give one row per transition in each"
            problem(what, name, min(len(column), number))
    if number == 0:
        problem("there are no rows; give at least one episode", "observations")

    constant = {}
    for name in (*WIDE, "rewards"):
        if name not in usable or len(usable[name]) == 0:
            continue
        low, high, bad = _range(usable[name])
        if bad is not None:
            problem(f"{shown(usable[name][bad])} is not finite in float32; mend or leave out that episode", name, bad)
            continue
        constant[name] = np.flatnonzero(low == high)
        if name == "actions":
            found.action_range = low, high
    for name in FLAGS:
        if name in usable:
            odd = np.flatnonzero(~np.isin(usable[name], (0, 1)))
            if odd.size:
                problem(f"{usable[name][odd[0]]} is neither true nor false (1 or 0)", name, odd[0])
    if found.action_range is not None and action_low is not None and action_high is not None:
        _find_outside(usable["actions"], np.asarray(action_low), np.asarray(action_high), found.action_range, problem)
    if {"observations", "next_observations"} <= usable.keys():
        widths = [usable[name].shape[1] for name in ("observations", "next_observations")]
        if widths[0] != widths[1]:
            problem(f"they have {widths[1]} numbers but observations {widths[0]}; give the same", "next_observations")
    if found.problems:
        return found  # Episodes can be told only in a log that is whole.
    _find_in_episodes(usable, problem, found, where, time_limit, terminals_at_limit, whole_episodes)
    for name, dimensions in constant.items():
        if dimensions.size:
            which = f" in dimensions {dimensions.tolist()}" if name in WIDE else ""
            found.notes.append(Problem(where, f"it is constant{which}", name))
    return found


def _has_right_form(name: str, column: Any, problem: Report) -> bool:
    axes, kinds, told = (2, "biuf", "numbers (N, width)") if name in WIDE else (1, "biuf", "numbers (N,)")
    if name in LABELS:
        kinds, told = "iuUO", "whole numbers or texts (N,)"
    fits = column.dtype.kind in kinds and column.ndim == axes and 0 not in column.shape[1:]
    if not fits or (column.dtype.kind == "O" and not all(isinstance(value, str) for value in column)):
        problem(f"the column is {column.dtype} of shape {column.shape}; it must hold {told}", name)
        return False
    return True


def _range(column: Any) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Smallest and largest of each dimension, and the first row that float32 cannot hold (NaN included)."""
    lows, highs = [], []
    for start in range(0, len(column), BLOCK_ROWS):
        block = column[start : start + BLOCK_ROWS]
        by_dimension = np.ascontiguousarray(block.T)  # NumPy is 30 times slower along the first of two axes.
        low, high = (np.asarray(end, dtype=np.float64) for end in (by_dimension.min(-1), by_dimension.max(-1)))
        # NaN fails both comparisons, so one pass for each tells all.
        if not (np.all(low >= -_LARGEST) and np.all(high <= _LARGEST)):
            fits = np.abs(block.astype(np.float64)) <= _LARGEST
            return low, high, start + int(np.flatnonzero(~fits.reshape(len(block), -1).all(axis=1))[0])
        lows.append(low)
        highs.append(high)
    return np.min(lows, axis=0), np.max(highs, axis=0), None


def _find_outside(
    actions: Any, low: np.ndarray, high: np.ndarray, action_range: tuple[np.ndarray, np.ndarray], problem: Report
) -> None:
    width = actions.shape[1]
    if {low.size, high.size} - {1, width}:
        problem(f"there are {width} numbers, but bounds for {low.size} and {high.size}; give one bound each", "actions")
        return
    if not (np.all(low < high) and np.isfinite([low.min(), high.max()]).all()):
        what = f"{shown(low)} to {shown(high)} is no box; give finite bounds, each lower one below its upper one"
        problem(what, "actions")
        return
    slack = BOX_TOLERANCE * np.maximum(1.0, high - low)
    if np.all(action_range[0] >= low - slack) and np.all(action_range[1] <= high + slack):
        return
    for start in range(0, len(actions), BLOCK_ROWS):
        block = actions[start : start + BLOCK_ROWS]
        outside = ((block < low - slack) | (block > high + slack)).any(axis=1)
        if outside.any():
            row = int(outside.argmax())
            told = f"{shown(block[row])} is outside the box {shown(low)} to {shown(high)}; clip it or widen the box"
            problem(told, "actions", start + row)
            return


def shown(values: Any) -> str:
    """A number, or the first six of several."""
    flat = np.ravel(values)
    text = ", ".join(f"{value:.6g}" for value in flat[:6]) + (", ..." if flat.size > 6 else "")
    return text if flat.size == 1 else f"[{text}]"


def episode_ends(table: Mapping[str, Any]) -> np.ndarray:
    """(N,) bool: the rows at which episodes end, by the flags, by `episode`, and at the end of the log."""
    ends = np.zeros(len(table["rewards"]), dtype=bool)
    for name in FLAGS:
        if name in table:
            ends |= np.asarray(table[name]).astype(bool)
    if "episode" in table:
        ends[:-1] |= table["episode"][1:] != table["episode"][:-1]
    ends[-1:] = True
    return ends


def _find_in_episodes(
    table: Mapping[str, Any],
    problem: Report,
    found: Findings,
    where: str,
    time_limit: int | None,
    terminals_at_limit: bool,
    whole_episodes: bool,
) -> None:
    last = np.flatnonzero(episode_ends(table))
    first = np.append(0, last[:-1] + 1)
    lengths = last - first + 1
    terminal = table["terminals"][last].astype(bool) if "terminals" in table else np.zeros(len(last), dtype=bool)
    if "episode" in table:
        labels = table["episode"]
        starts = np.append(0, np.flatnonzero(labels[1:] != labels[:-1]) + 1)
        repeated = np.setdiff1d(np.arange(len(starts)), np.unique(labels[starts], return_index=True)[1])
        if repeated.size:
            row = starts[repeated[0]]
            problem(f"episode {labels[row]} goes on after another; sort the rows by episode", "episode", row)
        early = np.setdiff1d(last, np.append(starts[1:] - 1, len(labels) - 1))
        if early.size:
            what = f"the episode ends here but its number {labels[early[0]]} goes on; give the rest another"
            problem(what, "episode", early[0])
    if "source" in table:
        changes = np.setdiff1d(np.flatnonzero(table["source"][1:] != table["source"][:-1]), last)
        if changes.size:
            problem("it changes inside an episode; give one source per episode", "source", changes[0] + 1)
    if whole_episodes:
        empty = np.flatnonzero((lengths == 1) & ~terminal)
        if empty.size and "next_observations" not in table:
            what = "the episode is empty: its only row has no next observation; leave it out"
            problem(what, "observations", first[empty[0]])
        # One row more than transitions, where the last observation has a row of its own.
        long = np.flatnonzero(lengths > (np.inf if time_limit is None else time_limit + 1))
        if long.size:
            what = (
                f"the episode lasts {lengths[long[0]]} rows, but the time limit is {time_limit}; mark where it was cut"
                " in timeouts or episode, or give another --time-limit"
            )
            problem(what, "timeouts", first[long[0]])
    longest = time_limit or int(lengths.max())
    at_limit = last[terminal & (lengths == longest)]
    cut = ~terminal & ((lengths == longest) | (lengths == longest + 1))
    if longest > 1 and len(at_limit) > np.count_nonzero(cut) and not terminals_at_limit:
        if time_limit is not None:
            what = (
                f"{len(at_limit)} episodes end in a terminal at the time limit of {time_limit}; say with"
                " --terminals-at-limit whether these are terminals or timeouts"
            )
            problem(what, "terminals", at_limit[0])
        elif len(at_limit) > 1:
            what = (
                f"the {len(at_limit)} longest episodes end in a terminal after {longest} rows each; if that is a time"
                f" limit, import with --time-limit {longest} --terminals-at-limit timeouts"
            )
            found.notes.append(Problem(where, what, "terminals", int(at_limit[0])))


def find_in_dataset(dataset: Dataset, where: str | None = None) -> Findings:
    """Look through a data set as raymix keeps it: its hash, its layout and its numbers.

    `where` is the file it was read from; its name stands there if None.
    """
    columns, spec = dataset.columns, dataset.spec
    where = where or spec.name
    found = Findings()

    def problem(what: str, column: str | None = None, row: int | None = None) -> None:
        found.problems.append(Problem(where, what, column, row))

    if columns.digest() != spec.hash:
        problem(f"the columns are not those that were written (their hash is not {spec.hash[:12]}); import them again")
    for name in ("observations", "actions", "rewards"):
        *_, bad = _range(getattr(columns, name))
        if bad is not None:
            problem("it is not finite; import the data set again", name, bad)
    if not found.problems:
        try:
            make_dataset(
                columns,
                spec.name,
                action_low=spec.action_low,
                action_high=spec.action_high,
                environment=spec.environment,
                reference_min=spec.reference_min,
                reference_max=spec.reference_max,
                sources=spec.sources,
            )
        except UsageError as refusal:
            problem(str(refusal))
    for name, deviations in (("observations", spec.observation_std), ("actions", spec.action_std)):
        constant = np.flatnonzero(np.asarray(deviations) == 0)
        if constant.size:
            found.notes.append(Problem(where, f"it is constant in dimensions {constant.tolist()}", name))
    return found

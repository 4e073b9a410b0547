"""D4RL's HDF5 files, read with h5py alone.

A file holds flat columns over all episodes: `observations`, `actions`, `rewards`, `terminals`, and in newer ones
`timeouts` and `next_observations`; what is under `infos/` and `metadata/` is left alone. The transitions are those of
D4RL's `qlearning_dataset`:

- Row i + 1 holds the next observation of row i.
- A row with a timeout is no transition, even where it is a terminal too; neither is the file's last row, whose episode
  may be cut there.
- Without `timeouts`, an episode ends after as many rows as the task's time limit.

Two differences, both on purpose. Where the file has `next_observations` they are used and no row is dropped. And
without `timeouts`, D4RL's loop counts the steps of an episode that follows a terminal from 1 instead of 0, so it cuts
one row early and pairs the row after with the first observation of the next episode; raymix counts from 0.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from raymix.data.check import WIDE, Problem, Refused
from raymix.data.columns import Rows
from raymix.types import UsageError

SUFFIXES = (".hdf5", ".h5")
REQUIRED = ("observations", "actions", "rewards", "terminals")
COLUMNS = (*REQUIRED, "timeouts", "next_observations")
_LEFT_ALONE = ("infos/", "metadata/")


@contextlib.contextmanager
def open_table(path: Path) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """The file's columns by name, and the names of columns that D4RL's layout does not have.

    Wide columns are still in the file, and read by slices while this is open; the others are arrays.

    Raises:
        UsageError: no HDF5, damaged or cut off, or Minari's layout.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(h5py.File(path, "r"))
            names: list[str] = []
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            table = {name: _column(name, file[name]) for name in COLUMNS if name in names}
            extra = [name for name in names if name not in COLUMNS and not name.startswith(_LEFT_ALONE)]
        except Exception as error:  # Damaged files make h5py raise of all kinds.
            raise _damaged(path, error) from error
        if any(name.startswith("episode_") for name in extra):
            told = "it is a file of a Minari data set; copy the data set's folder to Minari's and give its id"
            raise Refused(Problem(str(path), told))
        try:
            yield table, extra
        except OSError as error:
            raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> Refused:
    told = f"it is no whole HDF5 file ({' '.join(str(error).split())}); download or copy it again"
    return Refused(Problem(str(path), told))


def _column(name: str, column: h5py.Dataset) -> Any:
    if column.ndim == 2 and name in WIDE:
        column[:1]  # What cannot be read as any type of NumPy is refused at once.
        return column
    values = np.asarray(column[()])
    # Some files have (N, 1) rewards and flags, some (N,) observations of one number.
    if name in WIDE:
        return values[:, None] if values.ndim == 1 else values
    return values[:, 0] if values.shape[1:] == (1,) else values


def rows(table: Mapping[str, Any], time_limit: int | None) -> Rows:
    """The transitions of `qlearning_dataset`.

    Args:
        table: checked columns.
        time_limit: rows of an episode that is cut; needed where the file does not tell.

    Raises:
        UsageError: nothing tells where episodes are cut.
    """
    terminals = table["terminals"].astype(bool)
    following = table.get("next_observations")
    if "timeouts" in table:
        timeouts = table["timeouts"].astype(bool)
    elif following is not None:
        timeouts = np.zeros(len(terminals), dtype=bool)
    elif time_limit is not None:
        timeouts = time_limit_cuts(terminals, time_limit)
    else:
        raise UsageError(
            "the file has neither timeouts nor next_observations, so nothing tells where episodes were cut; give the"
            " task's --time-limit"
        )
    if following is None:
        timeouts = timeouts.copy()
        timeouts[-1:] = True
        terminals = terminals & ~timeouts
    return Rows(table["observations"], table["actions"], table["rewards"], terminals, timeouts, None, following)


def time_limit_cuts(ends: np.ndarray, time_limit: int) -> np.ndarray:
    """(N,) bool: every `time_limit`-th row after the start of the log or after an end (N,)."""
    number = len(ends)
    starts = np.append(0, np.flatnonzero(ends) + 1)
    step = np.arange(number) - np.repeat(starts, np.diff(np.append(starts, number)))
    return step % time_limit == time_limit - 1

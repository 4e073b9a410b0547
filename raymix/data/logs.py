"""Logs of one's own: Parquet (`.parquet`), Arrow IPC (`.arrow`, `.feather`) and `.npz` files with named columns.

A log has one row per transition, in the order of time:

    observations       (N, S) numbers, seen before acting
    actions            (N, A) numbers
    rewards            (N,) numbers; a log without them needs a rule, `zero` or `terminal` (1 at terminals, else 0)
    terminals          (N,) true where the task ended for good; none where the column is missing
    timeouts           (N,) true where an episode was cut by a limit; optional
    episode            (N,) number or text; an episode ends where it changes; optional
    source             (N,) number or text, who acted; the same for a whole episode; optional
    next_observations  (N, S) numbers, seen after acting; optional

At least one of `terminals`, `timeouts` and `episode` must be there. A wide column is a column of lists of one length,
or an array of two axes, or several columns named `observations.NAME` (`actions.NAME`, ...), joined in the file's order.
Columns of other names are given as `observations=joints,gripper`. Where `next_observations` are missing, the last row
of an episode that no terminal ends gives its last observation and is no transition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymix.data.check import KNOWN, WIDE, Problem, Refused
from raymix.data.columns import Rows
from raymix.types import UsageError

SUFFIXES = (".parquet", ".arrow", ".feather", ".npz")
REQUIRED = ("observations", "actions", "rewards")


def read_table(path: Path, names: Mapping[str, Sequence[str]]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The columns of a log by the names above, and the names of the file's other columns.

    Args:
        path: the file.
        names: for a column, the names of those in the file that make it up.

    Raises:
        UsageError: the file is damaged, lacks a column of `names`, or has empty cells or lists of several lengths.
    """
    try:
        there, read = _opened(path)
        used: set[str] = set()
        table = {}
        for column in KNOWN:
            parts = list(names.get(column, ())) or _own_names(column, there)
            missing = [part for part in parts if part not in there]
            if missing:
                raise Refused(Problem(str(path), f"it is missing, of {', '.join(there)} that are there", missing[0]))
            used.update(parts)
            if parts:
                table[column] = _joined(path, column, {part: read(part) for part in parts})
    except UsageError:
        raise
    except Exception as error:  # Damaged files make NumPy, zipfile and Arrow raise of all kinds.
        told = f"it cannot be read as {path.suffix[1:]} ({' '.join(str(error).split())}); write or copy it again"
        raise Refused(Problem(str(path), told)) from error
    return table, [name for name in there if name not in used]


def _opened(path: Path) -> tuple[list[str], Callable[[str], np.ndarray]]:
    """The names of the columns, and how to read one."""
    if path.suffix == ".npz":
        archive = np.load(path, allow_pickle=False)
        return list(archive.files), archive.__getitem__
    if path.suffix == ".parquet":
        parquet = pq.ParquetFile(path)
        return parquet.schema_arrow.names, lambda name: _array(path, name, parquet.read([name]).column(name))
    with pa.memory_map(str(path)) as file:
        try:
            table = pa.ipc.open_file(file).read_all()
        except pa.ArrowInvalid:  # The form without an index at its end.
            file.seek(0)
            table = pa.ipc.open_stream(file).read_all()
    return table.column_names, lambda name: _array(path, name, table.column(name))


def _own_names(column: str, there: Sequence[str]) -> list[str]:
    if column in there:
        return [column]
    return [name for name in there if name.startswith(f"{column}.")] if column in WIDE else []


def _array(path: Path, name: str, column: pa.ChunkedArray) -> np.ndarray:
    """(N,) or (N, width); numbers that are missing become NaN, which `check.find` refuses with their row."""
    column.validate(full=True)  # Arrow reads beyond the memory of arrays that a damaged file describes.
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    lists = (
        pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type)
    )
    if array.null_count and (lists or not pa.types.is_floating(array.type)):
        row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise Refused(Problem(str(path), "the cell is empty; fill it or leave out that episode", name, row))
    if not lists:
        return array.to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
    odd = np.flatnonzero(lengths != lengths[:1])
    if odd.size:
        row = int(odd[0])
        told = f"the list has {lengths[row]} numbers but that of row 0 {lengths[0]}; give lists of one length"
        raise Refused(Problem(str(path), told, name, row))
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), -1 if len(array) else 0)


def _joined(path: Path, column: str, parts: Mapping[str, np.ndarray]) -> np.ndarray:
    arrays = [values[:, None] if values.ndim == 1 else values for values in parts.values()]
    if column not in WIDE:
        if len(arrays) > 1:
            raise Refused(Problem(str(path), f"it is made up of {', '.join(parts)}; give one column", column))
        return arrays[0][:, 0] if arrays[0].shape[1:] == (1,) else arrays[0]
    if len(arrays) == 1:
        return arrays[0]
    for name, values in zip(parts, arrays):
        if values.ndim != 2 or len(values) != len(arrays[0]):
            told = f"it has the shape {values.shape} but {next(iter(parts))} {arrays[0].shape}; give one row for each"
            raise Refused(Problem(str(path), told, name, min(len(values), len(arrays[0]))))
    return np.concatenate(arrays, axis=1)


def with_rewards(table: Mapping[str, Any], rule: str) -> dict[str, Any]:
    """The table with rewards by a rule in place of its own: `zero`, or `terminal` (1 at terminals, else 0)."""
    terminals = table.get("terminals")
    if rule == "terminal" and terminals is not None and terminals.dtype.kind in "biuf":  # Others are refused later.
        return {**table, "rewards": terminals.astype(np.float32)}
    number = max((column.shape[0] for column in table.values() if column.ndim), default=0)
    return {**table, "rewards": np.zeros(number, dtype=np.float32)}


def rows(table: Mapping[str, Any]) -> tuple[Rows, tuple[str, ...]]:
    """A checked table as rows, and the names of its sources (none where it has no such column).

    Raises:
        UsageError: nothing tells where episodes end.
    """
    if not {"terminals", "timeouts", "episode"} & table.keys():
        raise UsageError("nothing tells where episodes end; give a column terminals, timeouts or episode")
    number = len(table["rewards"])
    terminals = table.get("terminals", np.zeros(number)).astype(bool)
    timeouts = table.get("timeouts", np.zeros(number)).astype(bool)
    if "episode" in table:
        timeouts = timeouts | np.append(table["episode"][1:] != table["episode"][:-1], True)
    names, source = (), None
    if "source" in table:
        values, source = np.unique(table["source"].astype(str), return_inverse=True)
        names = tuple(values.tolist())
        if len(names) > np.iinfo(np.int16).max:
            raise UsageError(f"the column source has {len(names):,} different values; give at most 32,767 sources")
    return (
        Rows(
            table["observations"],
            table["actions"],
            table["rewards"],
            terminals,
            timeouts,
            source,
            table.get("next_observations"),
        ),
        names,
    )

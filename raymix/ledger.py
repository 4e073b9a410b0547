"""The ledger: append-only results, each (config_id, seed, phase, step) exactly once, whatever was killed.

A ledger is a folder of immutable Parquet segments, on a local disk or on any `pyarrow` filesystem::

    <config_id>-<attempt>-<sequence>-<digest>.parquet      0123456789ab-0002-000007-89abcdef01234567.parquet

(Where some of a configuration's seeds train on their own, `<config_id>.<part>` stands for it.) A trial has one
`LedgerWriter`. A restarted trial writes under the next attempt, so nothing is ever overwritten; where
two attempts hold the same key, `read` returns the later one. Now and then a writer puts its small segments into one and
then removes them: opening a file costs more than its few rows do. A row that is in two segments meanwhile, or because
the writer died in between, is read once. (A copy that is made in the midst of that may lack rows: copy it again.) The
digest is of the file's bytes, so that damage is found wherever it sits (Parquet's own page checksums do not cover page
headers and the footer).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet

from raymix.files import AnyPath, path_of, sync_folder, write_atomically
from raymix.remote import RemotePath
from raymix.types import Metrics, UsageError

SCHEMA = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("config_id", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("phase", pa.string(), nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("attempt", pa.int64(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("dataset_hash", pa.string(), nullable=False),
        pa.field("algorithm", pa.string(), nullable=False),
        pa.field("config", pa.string(), nullable=False),
        pa.field("returns", pa.list_(pa.float64()), nullable=False),
        pa.field("lengths", pa.list_(pa.int64()), nullable=False),
        pa.field("metrics", pa.string(), nullable=False),
        pa.field("diverged", pa.bool_(), nullable=False),
        pa.field("agent_seconds", pa.float64(), nullable=False),
        pa.field("wall_time", pa.float64(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("reference_min", pa.float64()),
        pa.field("reference_max", pa.float64()),
        pa.field("parent", pa.string()),
        pa.field("parent_step", pa.int64()),
    ]
)
"""The columns of a ledger; the fields of `Row`, with `config` and `metrics` as JSON text."""

_LATER = ("parent", "parent_step")
"""Columns that older ledgers lack; they read as None."""
_OLDER = pa.schema([field for field in SCHEMA if field.name not in _LATER])

KEY = ("config_id", "seed", "phase", "step")

_TICK = 2_000_000_000
"""Nanoseconds; no file system's clock is coarser."""
_JOINED = 500
"""Segments that are joined at a time when they are read."""
_MERGED = 25
"""Segments that a writer makes one of."""
_SEGMENT = re.compile(r"([0-9a-f]{12})(?:\.(\d+))?-(\d+)-(\d+)-([0-9a-f]{16})\.parquet")
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one seed of one configuration had reached at one step."""

    run: str
    """Name of the run's folder."""
    seed: int
    phase: str
    step: int
    """Gradient steps done in this phase."""
    dataset: str
    dataset_hash: str
    algorithm: str
    config: Mapping[str, Any]
    """All hyperparameters, without the seed; in a population those of the chunk of training that ends here."""
    returns: tuple[float, ...] = ()
    """Undiscounted return of each evaluation episode; empty where nothing was evaluated."""
    lengths: tuple[int, ...] = ()
    """Environment steps of each evaluation episode."""
    metrics: Metrics = dataclasses.field(default_factory=dict)
    """Training metrics; may hold NaN and infinities."""
    diverged: bool = False
    """This seed met a non-finite loss at or before this step."""
    agent_seconds: float
    """Device seconds spent on this seed so far."""
    wall_time: float
    """Unix seconds at which the row was made."""
    version: str
    """Version of raymix."""
    reference_min: float | None = None
    reference_max: float | None = None
    """Returns that `normalized_score` maps to 0 and 100, where the data set has them."""
    parent: str | None = None
    """In a population: the configuration whose state this one has taken last (`raymix.search.population`)."""
    parent_step: int | None = None
    """The step at which it did."""
    config_id: str = ""
    """Filled in by the writer."""
    attempt: int = 0
    """Filled in by the writer: 1, 2, ..."""


class _Segment(NamedTuple):
    """A segment's name, in the order in which segments supersede each other."""

    config_id: str
    part: int
    attempt: int
    sequence: int
    digest: str
    path: str

    @classmethod
    def of(cls, match: re.Match[str], path: str) -> _Segment:
        """By what `_SEGMENT` has found in its name."""
        return cls(match[1], int(match[2] or 0), int(match[3]), int(match[4]), match[5], path)


def config_id(algorithm: str, dataset_name: str, dataset_hash: str, config: Mapping[str, Any]) -> str:
    """12 hex digits that name a configuration on a data set; `seed` and `seeds` in `config` do not count."""
    values = {name: value for name, value in config.items() if name not in ("seed", "seeds")}
    text = encode({"algorithm": algorithm, "config": values, "dataset": dataset_name, "dataset_hash": dataset_hash})
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def encode(values: Mapping[str, Any]) -> str:
    """Canonical JSON: sorted names, no blanks, non-finite floats as "NaN", "Infinity", "-Infinity"."""
    return json.dumps(_plain(values), sort_keys=True, separators=(",", ":"), allow_nan=False)


def decode(text: str) -> dict[str, Any]:
    """The inverse of `encode` (tuples come back as lists)."""
    return {name: _decoded(value) for name, value in json.loads(text).items()}


class LedgerWriter:
    """Appends the rows of one trial to the ledger in `folder` (a local path or a `pyarrow` filesystem URI).

    `attempt` comes from `next_attempt`. Raises `UsageError` for a folder that cannot be written, and for an attempt
    that has rows already. Writers of different parts of one configuration have no seed in common, and count their
    attempts apart.
    """

    def __init__(self, folder: str | AnyPath, config_id: str, attempt: int, part: int = 0) -> None:
        if not re.fullmatch(r"[0-9a-f]{12}", config_id):
            raise UsageError(f"config_id {config_id!r} is not 12 hex digits; make it with raymix.ledger.config_id")
        if attempt < 1:
            raise UsageError(f"attempt is {attempt} but counts from 1; take it from raymix.ledger.next_attempt")
        self.config_id, self.attempt, self._sequence = config_id, attempt, 0
        self._name = f"{config_id}.{part}" if part else config_id
        self._small: dict[str, pa.Table] = {}
        self._folder = path_of(folder)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make the ledger folder {folder}: {error}; choose another storage") from error
        if not isinstance(self._folder, RemotePath):
            if not os.access(self._folder, os.W_OK):
                raise UsageError(f"cannot write to the ledger folder {folder}; choose another storage")
            sync_folder(self._folder.parent)
        if (following := next_attempt(folder, config_id, part)) > attempt:
            raise UsageError(
                f"attempt {attempt} of {config_id} is not after those in {folder}; "
                f"the next one is {following} (raymix.ledger.next_attempt)"
            )

    def append(self, rows: Iterable[Row]) -> str | None:
        """Write `rows` as one segment, all or nothing, and return its name (None without rows).

        Once this returns, the rows survive a power loss.
        """
        records = [self._record(row) for row in rows]
        if not records:
            return None
        table = pa.Table.from_pylist(records, schema=SCHEMA)
        name = self._write(table, self._sequence)
        self._sequence += 1
        self._small[name] = table
        if len(self._small) == _MERGED:
            # In the place of the first of them: whichever are still there, the rows come in the order of writing.
            whole = pa.concat_tables(self._small.values()).combine_chunks()
            name = self._write(whole, self._sequence - _MERGED)
            for merged in self._small:
                with contextlib.suppress(OSError):  # all rows are safe, in both or in the new one
                    (self._folder / merged).unlink()
            self._small.clear()
        return name

    def _write(self, table: pa.Table, sequence: int) -> str:
        sink = pa.BufferOutputStream()
        pa.parquet.write_table(table, sink, write_page_checksum=True)
        data = sink.getvalue().to_pybytes()
        name = f"{self._name}-{self.attempt:04d}-{sequence:06d}-{_digest(data)}.parquet"
        # Readers take only names of segments, so a writer that dies before the rename leaves nothing to read.
        write_atomically(self._folder / name, data)
        return name

    def _record(self, row: Row) -> dict[str, Any]:
        if row.config_id not in ("", self.config_id):
            raise UsageError(f"a row of {row.config_id} went to the writer of {self.config_id}; use one writer each")
        record = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
        record |= {"config_id": self.config_id, "attempt": self.attempt}
        return record | {"config": encode(row.config), "metrics": encode(row.metrics)}


def next_attempt(folder: str | AnyPath, config_id: str, part: int = 0) -> int:
    """1 + the highest attempt of this part of the configuration in the ledger; 1 where it has none."""
    segments = _segments(*_filesystem(folder))
    return 1 + max((s.attempt for s in segments if (s.config_id, s.part) == (config_id, part)), default=0)


def read(
    folder: str | AnyPath,
    config_id: str | None = None,
    columns: Sequence[str] = SCHEMA.names,
    on_damage: Callable[[UsageError], None] | None = None,
) -> pa.Table:
    """The ledger (or one configuration's part) in the columns of `SCHEMA`, each (config_id, seed, phase, step) once.

    Of several rows with one key, the highest attempt wins, then the last written. Sorted by config_id, seed, phase (in
    the order in which the configuration went through them) and step: a killed and resumed run reads like one that
    was not. `columns` names those that are wanted beside the key. Raises `UsageError` where there is no such folder,
    and for a segment that is damaged or has other columns, by name; with `on_damage` that gets the error instead, and
    the segment is left out (of columns that this version does not know, only those are).
    """
    filesystem, path = _filesystem(folder)
    if filesystem.get_file_info(path).type != pa.fs.FileType.Directory:
        raise UsageError(f"there is no ledger at {folder}; give the folder `ledger` of a run")
    schema = pa.schema([field for field in SCHEMA if field.name in (*KEY, *columns)])
    found, small = [schema.empty_table()], list[pa.Table]()
    known: set[_Segment] = set()
    lengths: dict[_Segment, int] = {}
    some_are_gone = True
    while some_are_gone:
        some_are_gone = False
        now = {segment for segment in _segments(filesystem, path) if config_id in (None, segment.config_id)}
        for segment in sorted(now - known):
            try:
                small.append(_read_segment(filesystem, segment, schema, on_damage))
                lengths[segment] = len(small[-1])
            except FileNotFoundError:  # its writer has made one of several, which is found at the next look
                some_are_gone = True
            except UsageError as damage:
                if on_damage is None:
                    raise
                on_damage(damage)
            # A table of a few rows takes many times their size.
            if len(small) == _JOINED:
                found.append(pa.concat_tables(small).combine_chunks())
                small.clear()
        known |= now
    whole = pa.concat_tables([*found, *small])
    if list(lengths) != (order := sorted(lengths)):  # of several looks; else a copy for nothing
        ranks = {segment: rank for rank, segment in enumerate(order)}
        rank = np.repeat([ranks[segment] for segment in lengths], list(lengths.values()))
        whole = whole.take(pa.array(np.argsort(rank, kind="stable")))
    return _newest(whole)


class Follower:
    """Reads a ledger that grows: each segment once, whatever is asked for how often.

    `columns` and `on_damage` as for `read`. A damaged segment is read again when it has changed, since a folder that is
    being copied has halves of files for a while.
    """

    def __init__(self, folder: str | AnyPath, columns: Sequence[str], on_damage: Callable[[UsageError], None]) -> None:
        self._filesystem, self._path = _filesystem(folder)
        self._schema = pa.schema([field for field in SCHEMA if field.name in (*KEY, "attempt", *columns)])
        self._on_damage = on_damage
        self._read: dict[str, set[str]] = {}
        """Paths of segments, by configuration."""
        self._stale: set[str] = set()
        """Configurations whose tables are made anew."""
        self._damaged: dict[str, tuple[int, int]] = {}
        self._tables: dict[str, pa.Table] = {}
        self._waiting: list[tuple[_Segment, tuple[int, int]]] = []
        """Found and not read yet, the next one last; with size and time of change."""
        self._changed: int | None = None
        """When the folder was changed last, as of the last look into it."""

    def poll(self, most: int) -> tuple[set[str], int]:
        """Read at most that many new segments; the configurations that have new rows, and how many are left to read.

        A folder that is not there yet has no segments.
        """
        if not self._waiting:
            self._look()
        turn = [self._waiting.pop() for _ in range(min(most, len(self._waiting)))]
        tables: dict[str, list[pa.Table]] = {}
        gone = set()
        for segment, state in turn:
            try:
                table = _read_segment(self._filesystem, segment, self._schema, self._on_damage)
            except FileNotFoundError:  # its writer has made one of several, which is found at the next look
                gone.add(segment.config_id)
                continue
            except UsageError as damage:
                self._damaged[segment.path] = state
                self._on_damage(damage)
                continue
            self._read.setdefault(segment.config_id, set()).add(segment.path)
            tables.setdefault(segment.config_id, []).append(table)
        for config_id in gone:  # all of it is read anew, as its rows must come in the order of writing
            self._read.pop(config_id, None)
            tables.pop(config_id, None)
            self._stale.add(config_id)
        if gone:
            self._waiting = [one for one in self._waiting if one[0].config_id not in gone]
            self._changed = None
        for config_id, more in tables.items():
            known = config_id in self._tables and config_id not in self._stale
            self._stale.discard(config_id)
            whole = pa.concat_tables([self._tables[config_id], *more] if known else more).combine_chunks()
            # A late write of an old attempt does not win, whenever it is found; the sort is stable.
            attempts = np.argsort(whole["attempt"].to_numpy(), kind="stable")
            self._tables[config_id] = _newest(whole.take(pa.array(attempts)))
        return set(tables), len(self._waiting)

    def _look(self) -> None:
        """Put the segments that are not read yet on the list of those that wait."""
        changed = self._filesystem.get_file_info(self._path).mtime_ns
        # What is older than two seconds cannot have changed within the tick of a file system's clock.
        is_old = changed is not None and time.time_ns() - changed > _TICK
        if is_old and changed == self._changed and not self._damaged:
            return
        found = self._filesystem.get_file_info(pa.fs.FileSelector(self._path, allow_not_found=True))
        for info in found:
            state = (info.size, info.mtime_ns)
            match = _SEGMENT.fullmatch(info.base_name)
            if match is None or self._damaged.get(info.path) == state:
                continue
            if info.path not in self._read.get(match[1], ()):
                self._waiting.append((_Segment.of(match, info.path), state))
        self._waiting.sort(reverse=True)
        self._changed = changed if is_old else None

    def table(self, config_id: str) -> pa.Table:
        """The rows of a configuration so far, as `read` returns them."""
        return self._tables[config_id]


def merge(tables: Mapping[Any, pa.Table]) -> pa.Table:
    """The tables of several ledgers, by the ledgers' names, as one; what two of them hold alike is there once.

    Raises `UsageError` where two hold other results under one key.
    """
    table = pa.concat_tables(tables.values())
    origin = np.repeat(np.arange(len(tables)), [len(one) for one in tables.values()])
    order, first = _order(table)
    results = [name for name in ("returns", "diverged", "metrics") if name in table.column_names]
    again = np.flatnonzero(~first)
    before, after = (table.select([*KEY, *results]).take(order[at]).to_pylist() for at in (again - 1, again))
    for at, one, other in zip(again, before, after, strict=True):
        # As text: NaN equals itself there.
        if str(one) != str(other):
            names = list(tables)
            raise UsageError(
                f"{names[origin[order[at - 1]]]} and {names[origin[order[at]]]} have other results for configuration"
                f" {one['config_id']}, seed {one['seed']}, phase {one['phase']}, step {one['step']:,}; report one of"
                " them, or set them side by side with `raymix compare`"
            )
    return table.take(pa.array(order[first])).combine_chunks()


def rows(table: pa.Table) -> list[Row]:
    """The rows of a table from `read`, with `config` and `metrics` decoded."""
    return [
        Row(
            **record
            | {"config": decode(record["config"]), "metrics": decode(record["metrics"])}
            | {"returns": tuple(record["returns"]), "lengths": tuple(record["lengths"])}
        )
        for record in table.to_pylist()
    ]


def _order(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The rows sorted by key, equal keys in the order of the table, and which of them are the first of their key."""
    ids, phases = (table[name].combine_chunks().dictionary_encode() for name in ("config_id", "phase"))
    names = ids.dictionary.to_numpy(zero_copy_only=False).astype(str)
    config = np.argsort(np.argsort(names))[ids.indices.to_numpy()] if len(names) else np.zeros(0, np.int64)
    # A phase's place is that of its first row in its configuration.
    pair = config * len(phases.dictionary) + phases.indices.to_numpy()
    _, place, which = np.unique(pair, return_index=True, return_inverse=True)
    keys = np.stack([config, table["seed"].to_numpy(), place[which], table["step"].to_numpy()])
    order = np.lexsort(keys[::-1])
    keys = keys[:, order]
    first = np.ones(len(order), bool)
    first[1:] = (keys[:, 1:] != keys[:, :-1]).any(0)
    return order, first


def _newest(table: pa.Table) -> pa.Table:
    """The last of the rows with each key, sorted by key."""
    order, first = _order(table)
    last = np.append(first[1:], np.ones(min(1, len(first)), bool))
    return table.take(pa.array(order[last])).combine_chunks()


def _filesystem(folder: str | AnyPath) -> tuple[pa.fs.FileSystem, str]:
    path = path_of(folder)
    if isinstance(path, RemotePath):
        return path.filesystem, path.inside
    return pa.fs.LocalFileSystem(), str(path)


def _segments(filesystem: pa.fs.FileSystem, path: str) -> list[_Segment]:
    found = filesystem.get_file_info(pa.fs.FileSelector(path, allow_not_found=True))
    matches = [(match, info.path) for info in found if (match := _SEGMENT.fullmatch(info.base_name))]
    return [_Segment.of(match, file) for match, file in matches]


def _read_segment(
    filesystem: pa.fs.FileSystem,
    segment: _Segment,
    schema: pa.Schema,
    on_damage: Callable[[UsageError], None] | None,
) -> pa.Table:
    with filesystem.open_input_file(segment.path) as stream:
        data = stream.read()
    if _digest(data) != segment.digest:
        raise UsageError(
            f"the ledger segment {segment.path} is damaged (its bytes do not match the digest in its name); "
            "restore it from a copy, or remove it to go on without its rows"
        )
    # Not `read_table`: that makes a data set of the file first, which takes three times as long.
    file = pa.parquet.ParquetFile(pa.BufferReader(data))
    if (found := file.schema_arrow).equals(_OLDER):
        table = file.read(columns=[name for name in schema.names if name not in _LATER], use_threads=False)
        for field in schema:
            if field.name in _LATER:
                table = table.append_column(field, pa.nulls(len(table), field.type))
        return table.select(schema.names)
    if not found.equals(SCHEMA):
        unlike = sorted(set(SCHEMA.names) ^ set(found.names)) or "types"
        other = UsageError(
            f"{segment.path} has other columns ({unlike}); read it with the raymix version that wrote it"
        )
        newer = all(field.name in found.names and found.field(field.name).equals(field) for field in SCHEMA)
        if on_damage is None or not newer:
            raise other
        on_damage(other)
    return file.read(columns=schema.names, use_threads=False).select(schema.names)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """`value` out of what strict JSON knows."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _decoded(value: Any) -> Any:
    """The inverse of `_plain`, as far as JSON kept the type."""
    if isinstance(value, dict):
        return {name: _decoded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value

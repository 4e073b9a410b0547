"""Data sets from files: D4RL's HDF5, and logs in Parquet, Arrow IPC or `.npz`.

`read` is what `raymix data import` calls, and what a path in the place of a data set's name stands for; `check` is
what `raymix data check` calls for a file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raymix.data import check, d4rl, d4rl_names, library, logs
from raymix.data.check import Problem, Refused
from raymix.data.columns import from_rows, make_dataset
from raymix.data.table import is_dataset
from raymix.types import Columns, Dataset, UsageError

SUFFIXES = (*d4rl.SUFFIXES, *logs.SUFFIXES)
Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""


@dataclass(frozen=True)
class Options:
    """What a file does not say itself."""

    environment: str | None = None
    """Gymnasium id to evaluate in; `none` for a log without one; None for what the file's name tells (D4RL's)."""
    observations: str | None = None
    """The rule by which the environment's dictionaries are the data's vectors (`raymix.envs.flatten`)."""
    action_low: Sequence[float] = ()
    """One number for all dimensions or one each; empty for the environment's, or else the data's own range."""
    action_high: Sequence[float] = ()
    time_limit: int | None = None
    """Transitions after which the task is cut; None for the environment's."""
    terminals_at_limit: str | None = None
    """What terminals at the time limit are: `terminals` or `timeouts`; None refuses them."""
    rewards: str | None = None
    """`zero` or `terminal` in place of the log's own; None for its own."""
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """For a log's column, the names of those in the file that make it up."""
    ignore_extra: bool = False
    """Leave out columns of unknown names instead of refusing them."""


@dataclass(frozen=True)
class _Setting:
    """Where a file's data belong."""

    task: d4rl_names.Task | None
    environment: str | None
    """`EnvSpec` as JSON."""
    low: np.ndarray | None
    high: np.ndarray | None
    time_limit: int | None
    observation_dim: int | None = None
    """Of the environment that `--env` names, where it observes vectors."""

    @property
    def caveat(self) -> str:
        """How scores in the task's environment differ from D4RL's; only where there is a task."""
        assert self.task is not None and self.environment is not None
        return self.task.caveat.format(environment=json.loads(self.environment)["id"])


def is_file(name: str) -> bool:
    """Whether a data set's name is the path of a file that `read` reads, by its form; it need not be there."""
    return name.endswith(SUFFIXES)


def read(
    paths: Sequence[str | Path],
    name: str | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """One data set from the files, in their order; an episode ends where a file does.

    The file's name tells a D4RL data set's environment, whose caveat is given as a warning; so is what looks wrong
    but may be meant so.

    Args:
        paths: files of one kind of task.
        name: of the data set; the first file's name without its ending if None.
        options: what the files do not say.
        progress: called as rows are laid out, file by file.

    Raises:
        UsageError: a file that is missing, damaged or not of a known kind, and the first of `check`'s problems, with
            file, column and row.
    """
    options = options or Options()
    files = [Path(path) for path in paths]
    if not files:
        raise UsageError(f"Give a file to read, of {', '.join(SUFFIXES)}.")
    if len(files) == 1 and _is_own(files[0]):
        if options != Options():
            raise Refused(Problem(str(files[0]), "it is a data set of raymix, which says all itself; give no options"))
        own = library.load_file(files[0])
        return dataclasses.replace(own, spec=dataclasses.replace(own.spec, name=name or own.spec.name))
    setting = _setting(files[0], options)
    parts, ranges = [], []
    for path in files:
        with _opened(path, options) as (table, extra):
            found = _find(path, table, extra, setting, options)
            found.refuse()
            for note in found.notes:
                warnings.warn(str(note), stacklevel=2)
            ranges.append(found.action_range)
            with _place(path):
                rows, sources = _rows(path, table, setting, options)
                parts.append((from_rows(rows, progress), sources))
    columns, sources = _concatenated(files, parts)
    if setting.task is not None:
        warnings.warn(f"{files[0]}: {setting.caveat}.", stacklevel=2)
    low, high = setting.low, setting.high
    if low is None or high is None:
        low, high = _own_box(files[0], ranges)
        warnings.warn(
            f"{files[0]}: nothing tells the bounds of actions, so the data's own range is taken,"
            f" {check.shown(low)} to {check.shown(high)}; give --action-low and --action-high.",
            stacklevel=2,
        )
    width = columns.actions.shape[1]
    return make_dataset(
        columns,
        name or default_name(files[0]),
        action_low=np.broadcast_to(low, width),
        action_high=np.broadcast_to(high, width),
        environment=setting.environment,
        reference_min=setting.task.reference_min if setting.task else None,
        reference_max=setting.task.reference_max if setting.task else None,
        sources=sources,
    )


def _own_box(path: Path, ranges: Sequence[tuple[np.ndarray, np.ndarray] | None]) -> tuple[np.ndarray, np.ndarray]:
    """The range of all actions, where nothing else tells their bounds."""
    lows, highs = zip(*(each for each in ranges if each is not None))
    low, high = np.min(lows, axis=0), np.max(highs, axis=0)
    constant = np.flatnonzero(low == high)
    if constant.size:
        what = (
            f"nothing tells the bounds of actions, and the data's own range is none in dimensions {constant.tolist()},"
            " which never change; give --action-low and --action-high, or an --env that has bounds"
        )
        raise Refused(Problem(str(path), what, "actions"))
    return low, high


def check_file(path: str | Path, options: Options | None = None) -> check.Findings:
    """Every problem of a file, and what may be one."""
    options, path = options or Options(), Path(path)
    try:
        if _is_own(path):
            return check.find_in_dataset(library.load_file(path), str(path))
        setting = _setting(path, options)
        with _opened(path, options) as (table, extra):
            found = _find(path, table, extra, setting, options)
            if not found.problems:
                with _place(path):
                    _rows(path, table, setting, options)
                if setting.low is None:
                    _own_box(path, [found.action_range])
            return found
    except Refused as refusal:
        return check.Findings([refusal.problem])


def _is_own(path: Path) -> bool:
    """Whether the file is one of the library's."""
    if path.suffix != ".arrow":
        return False
    try:
        with pa.memory_map(str(path)) as file:
            return is_dataset(pa.ipc.open_file(file).schema)
    except (OSError, pa.ArrowException):
        return False  # Reading it will tell what is wrong.


@contextlib.contextmanager
def _opened(path: Path, options: Options) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """The table, and the names of columns with no meaning."""
    if not path.is_file():
        told = "it is a folder; give the files in it, in their order" if path.is_dir() else "there is no such file"
        raise Refused(Problem(str(path), told))
    if path.suffix in d4rl.SUFFIXES:
        if options.columns:
            raise Refused(Problem(str(path), "--column is for logs; D4RL's columns have fixed names"))
        with d4rl.open_table(path) as (table, extra):
            yield _with_options(table, options), extra
    elif path.suffix in logs.SUFFIXES:
        table, extra = logs.read_table(path, options.columns)
        yield _with_options(table, options), extra
    else:
        raise Refused(Problem(str(path), f"{path.suffix or 'it'} is not read; give one of {', '.join(SUFFIXES)}"))


def _with_options(table: dict[str, Any], options: Options) -> dict[str, Any]:
    return logs.with_rewards(table, options.rewards) if options.rewards else table


def _find(path: Path, table: dict[str, Any], extra: list[str], setting: _Setting, options: Options) -> check.Findings:
    is_d4rl = path.suffix in d4rl.SUFFIXES
    found = check.find(
        table,
        str(path),
        required=d4rl.REQUIRED if is_d4rl else logs.REQUIRED,
        others=() if options.ignore_extra else extra,
        action_low=setting.low,
        action_high=setting.high,
        time_limit=setting.time_limit,
        terminals_at_limit=options.terminals_at_limit is not None,
        whole_episodes=not is_d4rl,
    )
    if options.rewards:  # Constant because it was asked for.
        found.notes = [note for note in found.notes if note.column != "rewards"]
    task = setting.task
    for column, width in (("observations", task and task.observation_dim), ("actions", task and task.action_dim)):
        if width and column in table and table[column].ndim == 2 and table[column].shape[1] != width:
            what = (
                f"the file's name is one of D4RL's, whose data have {width} numbers here and not"
                f" {table[column].shape[1]}; give --env ID, or --env none"
            )
            found.problems.append(Problem(str(path), what, column))
    observed = table.get("observations")
    if setting.observation_dim and observed is not None and observed.shape[1:] != (setting.observation_dim,):
        what = (
            f"there are {observed.shape[-1]} numbers, but {options.environment} observes {setting.observation_dim};"
            " give the --env of these data (for dictionaries also --observations), or --env none"
        )
        found.problems.append(Problem(str(path), what, "observations"))
    return found


def _rows(path: Path, table: dict[str, Any], setting: _Setting, options: Options) -> tuple[Any, tuple[str, ...]]:
    """Rows and names of sources."""
    is_d4rl = path.suffix in d4rl.SUFFIXES
    told = not is_d4rl or {"timeouts", "next_observations"} & table.keys()  # Else the limit itself cuts.
    if options.terminals_at_limit == "timeouts" and setting.time_limit is not None and "terminals" in table and told:
        terminals = table["terminals"].astype(bool)
        cut = terminals & d4rl.time_limit_cuts(check.episode_ends(table), setting.time_limit)
        timeouts = table.get("timeouts", np.zeros(len(cut))).astype(bool) | cut
        table = {**table, "terminals": terminals & ~cut, "timeouts": timeouts}
    return (d4rl.rows(table, setting.time_limit), ()) if is_d4rl else logs.rows(table)


@contextlib.contextmanager
def _place(path: Path) -> Iterator[None]:
    try:
        yield
    except UsageError as refusal:
        raise Refused(Problem(str(path), str(refusal))) from refusal


def _setting(path: Path, options: Options) -> _Setting:
    if options.time_limit is not None and options.time_limit < 1:
        raise UsageError(f"--time-limit takes a positive whole number, not {options.time_limit}")
    low = np.asarray(options.action_low, dtype=np.float64) if len(options.action_low) else None
    high = np.asarray(options.action_high, dtype=np.float64) if len(options.action_high) else None
    task = d4rl_names.find(path.stem)
    wanted = options.environment
    if wanted is not None and (task is None or not task.same_task(wanted)):
        task = None
    environment, limit, observation_dim = None, options.time_limit, None
    if task is not None:
        environment = task.specification(wanted)
        limit = limit or task.max_episode_steps
        low, high = (np.array([-1.0]) if low is None else low), (np.array([1.0]) if high is None else high)
    elif wanted not in (None, "none"):
        from raymix.envs.build import build_environment  # Gymnasium takes a while to import.

        rule = {"observations": options.observations} if options.observations else {}
        built = build_environment(json.dumps({"id": wanted, **rule}))
        assert built.spec is not None
        limit = limit or built.spec.max_episode_steps
        limits = {"max_episode_steps": built.spec.max_episode_steps}
        environment = json.dumps({"id": wanted, "kwargs": {}, **limits, **rule})
        ends = (getattr(built.action_space, end, np.array([np.inf])) for end in ("low", "high"))
        own_low, own_high = (end if np.isfinite(end).all() else None for end in ends)
        if isinstance(shape := built.observation_space.shape, tuple) and len(shape) == 1:
            observation_dim = shape[0]
        built.close()
        low, high = own_low if low is None else low, own_high if high is None else high
    if options.terminals_at_limit is not None and limit is None:
        raise UsageError("--terminals-at-limit needs to know the limit; give --time-limit")
    if (low is None) != (high is None):
        raise UsageError("only one end of the actions' box is known; give both --action-low and --action-high")
    return _Setting(task, environment, low, high, limit, observation_dim)


def default_name(path: str | Path) -> str:
    """The name of the data set of a file: the file's without its ending."""
    return re.sub(r"[^\w.-]+", "-", Path(path).stem).strip("-.") or "data"


def parse_columns(values: Sequence[str]) -> dict[str, list[str]]:
    """`["observations=joints,gripper"]` as `{"observations": ["joints", "gripper"]}`; `UsageError` for other forms."""
    columns = {}
    for value in values:
        name, _, parts = value.partition("=")
        if name not in check.KNOWN or not all(parts.split(",")):
            raise UsageError(
                f"--column {value} is not NAME=COLUMN,... with a NAME of {', '.join(check.KNOWN)}; give such as"
                " observations=joints,gripper"
            )
        columns[name] = parts.split(",")
    return columns


def _concatenated(
    files: Sequence[Path], parts: Sequence[tuple[Columns, tuple[str, ...]]]
) -> tuple[Columns, tuple[str, ...]]:
    first = parts[0][0]
    if len(parts) == 1:
        return parts[0]
    names = sorted({name for _, sources in parts for name in sources})
    joined: dict[str, list[np.ndarray]] = {each.name: [] for each in dataclasses.fields(Columns)}
    episodes = 0
    for path, (columns, sources) in zip(files, parts):
        for column in ("observations", "actions"):
            mine, other = getattr(columns, column).shape[1], getattr(first, column).shape[1]
            if mine != other:
                raise Refused(
                    Problem(str(path), f"it has {mine} numbers but {files[0]} {other}; import it apart", column)
                )
        if bool(sources) != bool(names):
            raise Refused(Problem(str(path), "it is in some of the files only; give it in all or in none", "source"))
        numbers = np.array([names.index(name) for name in sources] or [0], dtype=np.int16)
        changed = {"episode": columns.episode + np.int32(episodes), "source": numbers[columns.source]}
        for column, arrays in joined.items():
            arrays.append(changed.get(column, getattr(columns, column)))
        episodes += int(columns.episode[-1]) + 1
    return Columns(**{column: np.concatenate(arrays) for column, arrays in joined.items()}), tuple(names)

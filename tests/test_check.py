"""Bad files: one sentence with file, column and row; `raymix data check` shows all; nothing half-written stays."""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymix.cli import main
from raymix.data import check, files, library
from raymix.data.files import Options
from raymix.types import UsageError

Table = dict[str, Any]
pytestmark = pytest.mark.filterwarnings("ignore:.*(constant|longest episodes)")
BOX = Options(action_low=[-1.0], action_high=[1.0])


@pytest.fixture(autouse=True)
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMIX_DATASETS_PATH", str(tmp_path / "library"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def good() -> Table:
    """Three episodes of four rows: a terminal, a timeout, and one that the log cuts."""
    generator = np.random.default_rng(0)
    return {
        "observations": generator.standard_normal((12, 3)),
        "actions": generator.uniform(-1, 1, (12, 2)),
        "rewards": generator.standard_normal(12),
        "terminals": np.arange(12) == 3,
        "timeouts": np.arange(12) == 7,
        "episode": np.repeat([5, 6, 7], 4),
        "source": np.repeat(["b", "a", "b"], 4),
    }


def write(path: Path, table: Table) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **table)
        return path
    if path.suffix == ".hdf5":
        with h5py.File(path, "w") as file:
            for name, values in table.items():
                if name not in check.LABELS:
                    file.create_dataset(name, data=values)
        return path
    arrow = pa.table({name: list(values) for name, values in table.items()})
    if path.suffix == ".parquet":
        pq.write_table(arrow, path)
        return path
    with pa.OSFile(str(path), "wb") as raw, pa.ipc.new_file(raw, arrow.schema) as writer:
        writer.write_table(arrow)
    return path


def spoilt(column: str, row: int, value: float) -> Callable[[Table], None]:
    def spoil(table: Table) -> None:
        table[column] = table[column].astype(np.float64)
        table[column][row] = value

    return spoil


def changed(**columns: Any) -> Callable[[Table], None]:
    return lambda table: table.update(columns)


def shorter(column: str, rows: int) -> Callable[[Table], None]:
    return lambda table: table.update({column: table[column][:rows]})


BAD: dict[str, tuple[Callable[[Table], None], str]] = {
    "no actions": (lambda table: table.pop("actions"), "column actions: it is missing among observations, rewards"),
    "extra column": (changed(timeout=np.zeros(12)), "column timeout: no column of this name has a meaning"),
    "short rewards": (shorter("rewards", 9), "column rewards, row 9: the column has 9 rows but observations 12"),
    "short flags": (shorter("timeouts", 11), "column timeouts, row 11: the column has 11 rows"),
    "no rows": (lambda table: table.update({k: v[:0] for k, v in table.items()}), "there are no rows"),
    "texts": (changed(actions=np.full((12, 2), b"x")), "column actions: the column is |S1 of shape (12, 2)"),
    "three axes": (changed(observations=np.zeros((12, 3, 2))), "column observations: the column is float64 of shape"),
    "no width": (
        changed(observations=np.zeros((12, 0))),
        "column observations: the column is float64 of shape (12, 0)",
    ),
    "wide rewards": (changed(rewards=np.zeros((12, 2))), "column rewards: the column is float64 of shape (12, 2)"),
    "one number": (changed(terminals=np.float64(1)), "column terminals: the column is float64 of shape ()"),
    "NaN observation": (spoilt("observations", 6, np.nan), "column observations, row 6: [nan, nan, nan] is not finite"),
    "infinite action": (spoilt("actions", 2, np.inf), "column actions, row 2: [inf, inf] is not finite"),
    "huge reward": (spoilt("rewards", 11, 1e300), "column rewards, row 11: 1e+300 is not finite in float32"),
    "outside": (spoilt("actions", 5, 1.5), "column actions, row 5: [1.5, 1.5] is outside the box -1 to 1"),
    "no flag": (spoilt("terminals", 8, 2.0), "column terminals, row 8: 2.0 is neither true nor false"),
    "NaN flag": (spoilt("timeouts", 4, np.nan), "column timeouts, row 4: nan is neither true nor false"),
    "next of another width": (changed(next_observations=np.zeros((12, 4))), "column next_observations: they have 4"),
}
BAD_LOGS: dict[str, tuple[Callable[[Table], None], str]] = {
    "empty episode": (changed(episode=np.repeat([5, 6, 8, 7], [4, 4, 1, 3])), "row 8: the episode is empty"),
    "episode comes again": (changed(episode=np.repeat([5, 6, 5], 4)), "column episode, row 8: episode 5 goes on after"),
    "goes on after its end": (changed(terminals=np.arange(12) == 2), "row 2: the episode ends here but its number 5"),
    "source changes": (changed(source=np.repeat(["a", "b"], 6)), "column source, row 6: it changes inside an episode"),
    "source is real": (changed(source=np.zeros(12)), "column source: the column is float64"),
}


def assert_refused(path: Path, message: str, options: Options = BOX) -> None:
    with pytest.raises(UsageError) as refusal:
        files.read([path], options=options)
    assert message in str(refusal.value)
    assert str(refusal.value).startswith(str(path)) and "\n" not in str(refusal.value)
    assert str(files.check_file(path, options).problems[0]) in str(refusal.value)


@pytest.mark.parametrize("ending", [".hdf5", ".npz"])
def test_good_files_have_no_problems(tmp_path: Path, ending: str):
    found = files.check_file(write(tmp_path / f"some{ending}", good()), BOX)
    assert not found.problems and not found.notes


@pytest.mark.parametrize("ending", [".hdf5", ".npz"])
@pytest.mark.parametrize("case", BAD)
def test_bad_columns_are_refused_with_file_column_and_row(tmp_path: Path, case: str, ending: str):
    spoil, message = BAD[case]
    table = good()
    spoil(table)
    assert_refused(write(tmp_path / f"some{ending}", table), message)


@pytest.mark.parametrize("case", BAD_LOGS)
def test_bad_logs_are_refused(tmp_path: Path, case: str):
    spoil, message = BAD_LOGS[case]
    table = good()
    spoil(table)
    assert_refused(write(tmp_path / "some.npz", table), message)


def test_nothing_tells_the_episodes(tmp_path: Path):
    table = {name: values for name, values in good().items() if name in ("observations", "actions", "rewards")}
    assert_refused(write(tmp_path / "some.npz", table), "nothing tells where episodes end")
    assert_refused(write(tmp_path / "some.hdf5", table), "column terminals: it is missing")


def test_every_problem_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    table = good()
    for column, row, value in (("observations", 6, np.nan), ("actions", 5, 1.5), ("terminals", 8, 2)):
        spoilt(column, row, value)(table)
    table |= {"rewards": table["rewards"][:7], "extra": np.zeros(12)}
    path = write(tmp_path / "some.npz", table)
    bounds = ["--action-low", "-1", "--action-high", "1"]
    with pytest.raises(SystemExit, match="1"):
        main(["data", "check", str(path), *bounds])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and all(line.startswith(f"{path}, column ") for line in lines)
    with pytest.raises(SystemExit, match="1"):
        main(["data", "check", str(path), *bounds, "--json"])
    problems = json.loads(capsys.readouterr().out)["problems"]
    clean = write(tmp_path / "clean.npz", good())
    with pytest.raises(SystemExit, match="1"):  # Of several, all are looked at.
        main(["data", "check", str(clean), str(path), str(clean), *bounds])
    assert capsys.readouterr().out.splitlines() == [f"{clean}: no problems", *lines, f"{clean}: no problems"]
    places = {(problem["column"], problem["row"]) for problem in problems}
    assert places == {("observations", 6), ("actions", 5), ("terminals", 8), ("rewards", 7), ("extra", None)}
    with pytest.raises(SystemExit, match="2"):
        main(["data", "import", str(path), *bounds])
    assert "(4 more; `raymix data check` shows all)" in capsys.readouterr().err
    assert library.names() == []


def test_one_bad_file_among_good_ones_is_named_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Catches an exit code that is the last file's, or that of most."""
    paths = [write(tmp_path / f"log-{number}.npz", good()) for number in range(4)]
    bad = good()
    bad["rewards"][5] = np.nan
    write(paths[1], bad)
    library.save(files.read([paths[0]], "own/some", BOX))
    names = [*map(str, paths), "own/some"]
    with pytest.raises(SystemExit, match=r"^1$"):
        main(["data", "check", *names])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "not finite" in line] == [line for line in lines if line.startswith(names[1])]
    assert [f"{name}: no problems" in lines for name in names] == [True, False, True, True, True]
    with pytest.raises(SystemExit, match=r"^1$"):
        main(["data", "check", "--json", *names])
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert (problem["where"], problem["column"], problem["row"]) == (names[1], "rewards", 5)
    main(["data", "check", *names[:1], *names[2:]])  # exits with 0
    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"^1$"):
        main(["data", "check", "own/none", *names[:1]])
    missing, clean = capsys.readouterr().out.splitlines()
    assert missing.startswith("own/none: The data set 'own/none' is not in the library") and "no problems" in clean


def test_terminals_at_the_time_limit(tmp_path: Path):
    """Catches a time limit that is learnt as an end, and ends at other times that are taken for one."""
    table = good() | {"terminals": np.isin(np.arange(12), (3, 7, 11)), "timeouts": np.zeros(12)}
    path = write(tmp_path / "some.npz", table)
    limited = Options(action_low=[-1], action_high=[1], time_limit=4)
    assert_refused(path, "column terminals, row 3: 3 episodes end in a terminal at the time limit of 4", limited)
    (note,) = files.check_file(path, BOX).notes
    assert "the 3 longest episodes end in a terminal after 4 rows each" in str(note)
    for kind, terminals, timeouts in (("terminals", 3, 0), ("timeouts", 0, 3)):
        told = Options(action_low=[-1], action_high=[1], time_limit=4, terminals_at_limit=kind)
        columns = files.read([path], options=told).columns
        assert (columns.terminals.sum(), columns.timeouts.sum()) == (terminals, timeouts)
    longer = Options(action_low=[-1], action_high=[1], time_limit=5)
    assert not files.check_file(path, longer).problems
    table["terminals"] = np.isin(np.arange(12), (2, 11))
    table["episode"] = np.repeat([5, 6, 7], [3, 5, 4])
    table["source"] = table["episode"]
    assert not files.check_file(write(tmp_path / "some.npz", table), Options(time_limit=5)).problems


def test_an_episode_longer_than_the_time_limit_is_two(tmp_path: Path):
    """Catches a log that marks no cuts: the next observation would be that of another episode."""
    table = good()
    del table["episode"], table["timeouts"], table["source"]
    limited = Options(action_low=[-1], action_high=[1], time_limit=4)
    assert_refused(
        write(tmp_path / "some.npz", table), "row 4: the episode lasts 8 rows, but the time limit is 4", limited
    )


def test_a_name_of_d4rl_with_other_data_is_refused(tmp_path: Path):
    path = write(tmp_path / "hopper-medium-v2.hdf5", good())
    assert_refused(path, "column observations: the file's name is one of D4RL's, whose data have 11 numbers", Options())


def test_other_observations_than_the_environments_are_refused(tmp_path: Path):
    """Pendulum observes three numbers and acts by one."""
    table = good()
    narrow = write(tmp_path / "narrow.npz", {**table, "observations": table["observations"][:, :2]})
    assert_refused(narrow, "there are 2 numbers, but Pendulum-v1 observes 3; give", Options(environment="Pendulum-v1"))
    fitting = write(tmp_path / "fitting.npz", {**table, "actions": table["actions"][:, :1]})
    assert files.check_file(fitting, Options(environment="Pendulum-v1")).problems == []


@pytest.mark.parametrize("ending", [".hdf5", ".npz", ".parquet", ".arrow"])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_files_that_are_cut_off_are_refused(tmp_path: Path, ending: str, part: float):
    path = write(tmp_path / f"some{ending}", good())
    contents = path.read_bytes()
    path.write_bytes(contents[: int(part * len(contents))])
    assert_refused(path, "it is no whole HDF5 file" if ending == ".hdf5" else f"it cannot be read as {ending[1:]}")


@pytest.mark.parametrize("ending", [".hdf5", ".npz", ".parquet", ".arrow"])
def test_damaged_bytes_never_crash(tmp_path: Path, ending: str):
    """Catches an error of a library that gets through."""
    path = write(tmp_path / f"some{ending}", good())
    contents = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(contents)
        for place in generator.integers(len(damaged), size=3):
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged)
        found = files.check_file(path, BOX)
        refused += bool(found.problems)
        assert not any("\n" in str(problem) for problem in found.problems)
    assert refused > 15


def test_texts_beyond_the_end_of_an_arrow_file_are_refused(tmp_path: Path):
    """Catches a read outside of the file's memory, which would end the process: Arrow checks nothing by itself."""
    path = write(tmp_path / "some.arrow", good())
    contents = path.read_bytes()
    offsets = np.arange(13, dtype=np.int32)  # Of the column `source`, a letter in each row.
    assert contents.count(offsets.tobytes()) == 1
    beyond = np.where(offsets == 7, 1_358_954_503, offsets)
    path.write_bytes(contents.replace(offsets.tobytes(), beyond.astype(np.int32).tobytes()))
    assert_refused(path, "it cannot be read as arrow")


def test_a_damaged_chunk_is_refused(tmp_path: Path):
    """The file opens; only reading the data shows it."""
    path = tmp_path / "some.hdf5"
    table = good()
    with h5py.File(path, "w") as file:
        for name in ("observations", "actions", "rewards", "terminals", "timeouts"):
            file.create_dataset(name, data=table[name], chunks=True, compression="gzip", fletcher32=True)
        place = file["actions"].id.get_chunk_info(0)
    with open(path, "r+b") as raw:
        raw.seek(place.byte_offset + place.size // 2)
        raw.write(b"damaged!")
    assert_refused(path, "it is no whole HDF5 file")


def test_other_files_are_refused(tmp_path: Path):
    assert_refused(tmp_path / "gone.hdf5", "there is no such file")
    (tmp_path / "log.csv").write_text("a,b\n")
    assert_refused(tmp_path / "log.csv", ".csv is not read; give one of")
    with h5py.File(tmp_path / "main_data.hdf5", "w") as file:
        file.create_dataset("episode_0/actions", data=np.zeros((2, 1)))
    assert_refused(tmp_path / "main_data.hdf5", "it is a file of a Minari data set")


def test_nothing_is_unpickled(tmp_path: Path):
    class Trap:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "sprung"),)

    table = good() | {"observations": np.array([Trap()] * 12, dtype=object)}
    assert_refused(write(tmp_path / "some.npz", table), "cannot be read as npz")
    assert not (tmp_path / "sprung").exists()


def test_cells_of_a_table_are_refused_with_their_row(tmp_path: Path):
    whole = {name: list(values) for name, values in good().items()}
    path = tmp_path / "some.parquet"
    for column, value, message in (
        ("observations", [1.0, 2.0], "column observations, row 4: the list has 2 numbers but that of row 0 3"),
        ("observations", None, "column observations, row 4: the cell is empty"),
        ("observations", [1.0, None, 2.0], "column observations, row 4: [1, nan, 2] is not finite"),
        ("rewards", None, "column rewards, row 4: nan is not finite"),
        ("terminals", None, "column terminals, row 4: the cell is empty"),
        ("episode", None, "column episode, row 4: the cell is empty"),
    ):
        table = whole | {column: [*whole[column][:4], value, *whole[column][5:]]}
        pq.write_table(pa.table(table), path)
        assert_refused(path, message)


def test_the_range_of_an_action_that_never_changes_is_no_box(tmp_path: Path):
    """Such as a gripper that is never used."""
    table = good()
    table["actions"][:, 1] = 0.5
    path = write(tmp_path / "some.npz", table)
    assert_refused(path, "in dimensions [1], which never change; give --action-low and --action-high", Options())
    assert files.check_file(path, BOX).problems == []


def test_one_end_of_the_box_is_not_enough(tmp_path: Path):
    with pytest.raises(UsageError, match="give both --action-low and --action-high"):
        files.read([write(tmp_path / "some.npz", good())], options=Options(action_low=[-1.0]))


@pytest.mark.parametrize(("low", "high"), [(1.0, -1.0), (0.5, 0.5), (-1.0, float("inf")), (float("nan"), 1.0)])
def test_what_is_no_box_is_told(tmp_path: Path, low: float, high: float):
    with pytest.raises(UsageError, match="is no box; give finite bounds, each lower one below its upper one"):
        files.read([write(tmp_path / "some.npz", good())], options=Options(action_low=[low], action_high=[high]))


@pytest.mark.parametrize("option", [{"time_limit": 0}, {"terminals_at_limit": "timeouts"}])
def test_options_that_could_do_nothing_are_refused(tmp_path: Path, option: dict):
    with pytest.raises(UsageError, match="--time-limit"):
        files.read([write(tmp_path / "some.npz", good())], options=Options(**option))


def test_a_changed_file_of_the_library_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = library.save(files.read([write(tmp_path / "some.npz", good())], options=BOX))
    value = library.load("some").columns.rewards[1].tobytes()
    contents = path.read_bytes()
    assert contents.count(value) == 1
    path.write_bytes(contents.replace(value, np.float32(0.25).tobytes()))
    with pytest.raises(SystemExit, match="1"):
        main(["data", "check", "some"])
    assert "the columns are not those that were written" in capsys.readouterr().out
    path.write_bytes(contents.replace(value, np.float32(np.nan).tobytes()))
    assert [(each.column, each.row) for each in files.check_file(path).problems] == [(None, None), ("rewards", 1)]


@pytest.mark.parametrize("length", [-3, 1 << 40])
def test_a_library_file_that_claims_other_lengths_is_refused(tmp_path: Path, length: int):
    """Catches a view beyond the file's memory, which would end the process."""
    dataset = files.read([write(tmp_path / "some.npz", good())], options=BOX)
    path = library.save(dataset)
    contents = path.read_bytes()
    numbers = struct.pack("<qq", dataset.columns.observations.size, 0)  # Of the column, and how many are missing.
    assert numbers in contents
    path.write_bytes(contents.replace(numbers, struct.pack("<qq", length, 0)))
    with pytest.raises(UsageError, match="is no whole data set of raymix"):
        library.load("some")


@pytest.mark.parametrize("action", ["import", "export"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, action: str):
    """The process may write files of 20 kB only: the data need more. A full disk refuses the same writes."""
    ends = np.arange(4000) % 10 == 9
    table = {
        "observations": np.random.default_rng(0).standard_normal((4000, 3)),
        "actions": np.zeros((4000, 2)),
        "rewards": np.zeros(4000),
        "terminals": ends,
    }
    path = write(tmp_path / "some.npz", table)
    if action == "export":
        library.save(files.read([path], options=BOX))
        code = "from raymix.cli import main\nmain(['data', 'export', 'some', '--minari', 'test/some-v0'])"
    else:
        code = (
            "from raymix.cli import main\n"
            f"main(['data', 'import', {str(path)!r}, '--action-low', '-1', '--action-high', '1'])"
        )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "cannot be written to" in done.stderr and "Traceback" not in done.stderr
    left = [
        found for found in (tmp_path / "library", tmp_path / "minari") for found in found.rglob("*") if found.is_file()
    ]
    assert [found.name for found in left] == ([] if action == "import" else ["some.arrow"])

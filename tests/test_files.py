"""D4RL's HDF5, logs in Parquet, Arrow and .npz: what they become, and the way to Minari and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from raymix.cli import main
from raymix.data import d4rl_names, files, library
from raymix.data import minari as local_minari
from raymix.data.export import to_minari
from raymix.data.files import Options
from raymix.types import Columns, Dataset, UsageError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*nothing tells the bounds"),
    pytest.mark.filterwarnings("ignore:.*constant"),
    pytest.mark.filterwarnings("ignore:.*longest episodes"),
]
Table = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMIX_DATASETS_PATH", str(tmp_path / "library"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def log(ends: list[str], seed: int = 0) -> Table:
    """A row per entry: `t` is a terminal, `c` a timeout, `b` both, `.` neither; all numbers differ."""
    number = len(ends)
    generator = np.random.default_rng([seed, number])
    return {
        "observations": generator.standard_normal((number, 3)),
        "actions": generator.uniform(-1, 1, (number, 2)).astype(np.float32),
        "rewards": generator.standard_normal(number),
        "terminals": np.array([end in "tb" for end in ends]),
        "timeouts": np.array([end in "cb" for end in ends]),
    }


def with_next_observations(table: Table) -> Table:
    following = np.roll(table["observations"], -1, axis=0)
    ends = table["terminals"] | table["timeouts"]
    ends[-1] = True
    following[ends] = np.random.default_rng(9).standard_normal((ends.sum(), 3))
    return {**table, "next_observations": following}


def write_hdf5(path: Path, table: Table, **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in table.items():
            file.create_dataset(name, data=values, **options)
    return path


def write_parquet(path: Path, table: Table) -> Path:
    pq.write_table(arrow(table), path, row_group_size=3)
    return path


def write_arrow(path: Path, table: Table) -> Path:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, arrow(table).schema) as writer:
        writer.write_table(arrow(table), max_chunksize=4)
    return path


def write_npz(path: Path, table: Table) -> Path:
    np.savez(path, **table)  # type: ignore[arg-type]
    return path


def arrow(table: Table) -> pa.Table:
    return pa.table({name: list(values) if values.ndim == 2 else values for name, values in table.items()})


WRITERS: dict[str, Callable[[Path, Table], Path]] = {
    ".parquet": write_parquet,
    ".arrow": write_arrow,
    ".npz": write_npz,
}
Transitions = tuple[np.ndarray, ...]


def transitions(columns: Columns) -> Transitions:
    """s, a, r, s', d of all transitions, in order."""
    rows = columns.transition_rows()
    return (
        columns.observations[rows],
        columns.actions[rows],
        columns.rewards[rows],
        columns.observations[rows + 1],
        columns.terminals[rows],
    )


def qlearning_dataset(table: Table, time_limit: int | None = None) -> Transitions:
    """D4RL's rule, row by row as its loop has it, but for the count that it starts at 1 after a terminal."""
    kept: list[tuple] = []
    step = 0
    for row in range(len(table["rewards"]) - 1):
        done = bool(table["terminals"][row])
        final = bool(table["timeouts"][row]) if "timeouts" in table else step == time_limit - 1
        if not final:
            kept.append(
                (
                    table["observations"][row].astype(np.float32),
                    table["actions"][row].astype(np.float32),
                    np.float32(table["rewards"][row]),
                    table["observations"][row + 1].astype(np.float32),
                    done,
                )
            )
        step = 0 if done or final else step + 1
    return tuple(np.array(column) for column in zip(*kept))


def assert_same(mine: Transitions, other: Transitions) -> None:
    """Equal in all, but for what follows a terminal: nothing may read it."""
    observations, actions, rewards, following, terminals = mine
    assert np.array_equal(observations, other[0])
    assert np.array_equal(actions, other[1])
    assert np.array_equal(rewards, other[2])
    assert np.array_equal(terminals, other[4])
    assert np.array_equal(following[~terminals], other[3][~terminals])


def identical(one: Dataset, other: Dataset) -> bool:
    return one.columns.digest() == other.columns.digest()


ENDS = st.lists(st.sampled_from([".", ".", ".", "t", "c", "b"]), min_size=2, max_size=25)
ROOMY = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


# ---------------------------------------------------------------- D4RL


def test_a_hand_made_file_gives_the_transitions_of_qlearning_dataset(tmp_path: Path):
    """Seven rows: a terminal, a timeout, and an episode that the file cuts. Catches each end treated as another."""
    table = {
        "observations": np.arange(7.0)[:, None] * [1.0, 10.0],
        "actions": np.linspace(-0.6, 0.6, 7)[:, None],
        "rewards": np.arange(7.0)[:, None],
        "terminals": np.array([0, 0, 1, 0, 0, 0, 0])[:, None],
        "timeouts": np.array([0, 0, 0, 0, 1, 0, 0])[:, None],
        "infos/qpos": np.zeros((7, 5)),
        "metadata/algorithm": np.bytes_("SAC"),
    }
    columns = files.read([write_hdf5(tmp_path / "some.hdf5", table)]).columns
    assert columns.observations[:, 0].tolist() == [0, 1, 2, 2, 3, 4, 5, 6]
    assert columns.rewards.tolist() == [0, 1, 2, 0, 3, 0, 5, 0]
    assert np.flatnonzero(columns.terminals).tolist() == [2]
    assert np.flatnonzero(columns.timeouts).tolist() == [4, 6]
    assert columns.episode.tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    assert columns.actions[[3, 5, 7]].tolist() == [[0], [0], [0]]


@ROOMY
@given(ends=ENDS)
def test_d4rl_equals_qlearning_dataset(tmp_path: Path, ends: list[str]):
    table = log(ends)
    path = write_hdf5(tmp_path / "some.hdf5", table)
    expected = qlearning_dataset(table)
    if not expected:
        with pytest.raises(UsageError, match=r"some\.hdf5: The log holds no transition"):
            files.read([path])
        return
    assert_same(transitions(files.read([path]).columns), expected)


@ROOMY
@given(ends=ENDS, time_limit=st.integers(2, 6))
def test_d4rl_without_timeouts_is_cut_at_the_time_limit(tmp_path: Path, ends: list[str], time_limit: int):
    table = log(ends)
    del table["timeouts"]
    path = write_hdf5(tmp_path / "some.hdf5", table)
    options = Options(time_limit=time_limit, terminals_at_limit="terminals")
    expected = qlearning_dataset(table, time_limit)
    if expected:
        assert_same(transitions(files.read([path], options=options).columns), expected)
    with pytest.raises(UsageError, match="nothing tells where episodes were cut; give the task's --time-limit"):
        files.read([path])


@ROOMY
@given(ends=ENDS, marked=st.booleans())
def test_d4rl_with_next_observations_drops_nothing(tmp_path: Path, ends: list[str], marked: bool):
    """Without timeouts too: an episode ends where the next row begins with another observation."""
    table = with_next_observations(log(ends))
    path = write_hdf5(tmp_path / "some.hdf5", table if marked else {k: v for k, v in table.items() if k != "timeouts"})
    columns = files.read([path]).columns
    observations, actions, rewards, following, terminals = transitions(columns)
    assert np.array_equal(observations, table["observations"].astype(np.float32))
    assert np.array_equal(following, table["next_observations"].astype(np.float32))
    assert np.array_equal(actions, table["actions"])
    assert np.array_equal(rewards, table["rewards"].astype(np.float32))
    assert np.array_equal(terminals, table["terminals"])
    ended = table["terminals"] | table["timeouts"]
    ended[-1] = True
    assert int(columns.episode[-1]) + 1 == ended.sum()


def test_next_observations_that_jump_are_cut_there_with_a_warning(tmp_path: Path):
    table = with_next_observations(log([".", ".", ".", "c", ".", "."]))
    table["next_observations"][1] += 1.0
    with pytest.warns(UserWarning, match="1 rows that no timeout marks .* row 1 first"):
        columns = files.read([write_hdf5(tmp_path / "some.hdf5", table)]).columns
    assert np.array_equal(transitions(columns)[3], table["next_observations"].astype(np.float32))


@pytest.mark.parametrize("options", [{}, {"chunks": True, "compression": "gzip"}])
def test_blocks_join_seamlessly(tmp_path: Path, options: dict, monkeypatch: pytest.MonkeyPatch):
    """Catches a row lost or doubled where a block of reading ends."""
    from raymix.data import check, columns

    monkeypatch.setattr(columns, "BLOCK_ROWS", 7)
    monkeypatch.setattr(check, "BLOCK_ROWS", 5)
    ends = list(np.random.default_rng(3).choice([".", ".", ".", "t", "c"], 200))
    table = with_next_observations(log(ends))
    path = tmp_path / "some.hdf5"
    assert_same(
        transitions(
            files.read([write_hdf5(path, {k: v for k, v in table.items() if k != "next_observations"})]).columns
        ),
        qlearning_dataset(table),
    )
    following = transitions(files.read([write_hdf5(path, table)]).columns)[3]
    assert np.array_equal(following, table["next_observations"].astype(np.float32))


@pytest.mark.parametrize(
    ("name", "environment", "references", "limit"),
    [
        ("hopper-medium-v2", "Hopper-v5", (-20.272305, 3234.3), 1000),
        ("walker_mixed", "Walker2d-v5", (1.629008, 4592.3), 1000),
        ("halfcheetah_medium_expert-v2", "HalfCheetah-v5", (-280.178953, 12135.0), 1000),
        ("antmaze-umaze-v0", "AntMaze_UMaze-v4", (0.0, 1.0), 700),
        ("Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse", "AntMaze_Large-v4", (0.0, 1.0), 1000),
        ("maze2d-medium-sparse-v1", "PointMaze_Medium-v3", (13.13, 277.39), 600),
        ("maze2d-large-dense-v1", "PointMaze_LargeDense-v3", (30.569041, 303.4857382709002), 800),
        ("pen-human-v1", "AdroitHandPen-v1", (96.262799, 3076.8331017826877), 100),
        ("door-v0_demos_clipped", "AdroitHandDoor-v1", (-56.512833, 2880.5693087298737), 200),
    ],
)
def test_names_of_d4rl(name: str, environment: str, references: tuple[float, float], limit: int):
    task = d4rl_names.find(name)
    assert task is not None
    assert (task.reference_min, task.reference_max) == references
    assert {"id": environment, "kwargs": {}, "max_episode_steps": limit}.items() <= json.loads(
        task.specification()
    ).items()


@pytest.mark.parametrize("name", ["hopper", "my-hopper-medium-v2", "antelope-medium-v2", "kitchen-mixed-v0", ""])
def test_other_names_have_no_environment(name: str):
    assert d4rl_names.find(name) is None


def test_every_environment_of_the_table_has_the_shapes_of_the_data():
    """Catches a wrong id, a wrong number, and parts of a Dict that do not make up the data's observation."""
    from raymix.envs.build import build_environment

    for task in d4rl_names.TASKS:
        environment = build_environment(task.specification())
        assert environment.observation_space.shape == (task.observation_dim,), task.environment
        assert environment.action_space.shape == (task.action_dim,)
        assert np.array_equal(environment.action_space.low, -np.ones(task.action_dim))  # type: ignore[attr-defined]
        assert np.array_equal(environment.action_space.high, np.ones(task.action_dim))  # type: ignore[attr-defined]
        assert "{" not in task.caveat.format(environment=task.environment)
        environment.close()


def hopper_log(seed: int = 0) -> Table:
    table = log(list("....t...c.."), seed)
    return {
        **table,
        "observations": np.random.default_rng(seed).standard_normal((11, 11)),
        "actions": np.zeros((11, 3)),
    }


def test_a_name_of_d4rl_brings_environment_bounds_and_references(tmp_path: Path):
    path = write_hdf5(tmp_path / "hopper_medium-v2.hdf5", hopper_log())
    with pytest.warns(UserWarning, match="recorded in Hopper-v2, so scores in Hopper-v5"):
        spec = files.read([path]).spec
    assert json.loads(spec.environment or "")["id"] == "Hopper-v5"
    assert (spec.name, spec.action_low, spec.reference_max) == ("hopper_medium-v2", (-1.0,) * 3, 3234.3)
    with pytest.warns(UserWarning, match="scores in Hopper-v4"):
        older = files.read([path], options=Options(environment="Hopper-v4")).spec
    assert json.loads(older.environment or "")["id"] == "Hopper-v4"
    assert older.reference_max == 3234.3
    bare = files.read([path], options=Options(environment="none", action_low=[-1], action_high=[1])).spec
    assert (bare.environment, bare.reference_max) == (None, None)


def test_the_environment_gives_the_bounds_of_a_log(tmp_path: Path):
    table = {**log(list(".....t")), "observations": np.ones((6, 3)), "actions": np.linspace(-1.9, 1.9, 6)[:, None]}
    path = write_npz(tmp_path / "swing.npz", table)
    spec = files.read([path], options=Options(environment="Pendulum-v1")).spec
    assert (spec.action_low, spec.action_high) == ((-2.0,), (2.0,))
    assert json.loads(spec.environment or "") == {"id": "Pendulum-v1", "kwargs": {}, "max_episode_steps": 200}


# ---------------------------------------------------------------- logs


@pytest.mark.parametrize("ending", WRITERS)
@ROOMY
@given(lengths=st.lists(st.integers(2, 5), min_size=1, max_size=6), data=st.data())
def test_episodes_of_a_log_stay_apart(tmp_path: Path, ending: str, lengths: list[int], data: st.DataObject):
    """By number alone: the last row of each is its last observation, unless a terminal ends it."""
    terminal = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    number = sum(lengths)
    table = log(["."] * number)
    del table["timeouts"]
    last = np.cumsum(lengths) - 1
    table["terminals"][last] = terminal
    table["episode"] = np.repeat(np.arange(len(lengths)) * 3, lengths)
    table["source"] = np.repeat(["b", "a", "b", "c", "a", "c"][: len(lengths)], lengths)
    dataset = files.read([WRITERS[ending](tmp_path / f"some{ending}", table)])
    observations, actions, rewards, following, ended = transitions(dataset.columns)
    kept = np.ones(number, dtype=bool)
    kept[last] = terminal
    assert np.array_equal(observations, table["observations"][kept].astype(np.float32))
    assert np.array_equal(actions, table["actions"][kept])
    assert np.array_equal(rewards, table["rewards"][kept].astype(np.float32))
    assert np.array_equal(ended, table["terminals"][kept])
    after = np.roll(table["observations"], -1, axis=0).astype(np.float32)
    assert np.array_equal(following[~ended], after[kept][~ended])
    rows = dataset.columns.transition_rows()
    assert np.array_equal(np.array(dataset.spec.sources)[dataset.columns.source[rows]], table["source"][kept])
    with_next = dataset.columns.transition_rows(with_next_action=True)
    inside = with_next[~dataset.columns.terminals[with_next]]
    assert np.array_equal(dataset.columns.episode[inside], dataset.columns.episode[inside + 1])
    assert np.isin(inside + 1, rows).all()


@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
def test_columns_may_be_apart_and_have_other_names(tmp_path: Path, ending: str):
    table = log(list("...t..c.."))
    apart = {f"observations.{name}": table["observations"][:, index] for index, name in enumerate("zyx")}
    theirs = {
        **apart,
        "left.arm": table["actions"][:, 0],
        "right.arm": table["actions"][:, 1],
        "next.reward": table["rewards"],
        "terminals": table["terminals"],
        "timeouts": table["timeouts"],
        "timestamp": np.arange(9.0),
    }
    columns = {"actions": ["left.arm", "right.arm"], "rewards": ["next.reward"]}
    read = files.read(
        [WRITERS[ending](tmp_path / f"a{ending}", theirs)], options=Options(columns=columns, ignore_extra=True)
    )
    assert identical(read, files.read([WRITERS[ending](tmp_path / f"b{ending}", table)]))


def test_a_log_without_rewards_needs_a_rule(tmp_path: Path):
    table = log(list("..t...t"))
    del table["rewards"]
    path = write_parquet(tmp_path / "some.parquet", table)
    with pytest.raises(
        UsageError, match=r"column rewards: it is missing among .*--rewards zero, or --rewards terminal"
    ):
        files.read([path])
    assert not files.read([path], options=Options(rewards="zero")).columns.rewards.any()
    columns = files.read([path], options=Options(rewards="terminal")).columns
    assert np.array_equal(columns.rewards, columns.terminals)


def test_several_files_are_one_data_set(tmp_path: Path):
    """Catches an episode that goes on from one file to the next, and sources numbered anew in each."""
    one = {**log(list("...t...")), "source": np.repeat(["b", "a"], [4, 3])}
    two = {**log(list("..c..t"), 1), "source": np.repeat(["c", "b"], 3)}
    paths = [write_npz(tmp_path / "one.npz", one), write_npz(tmp_path / "two.npz", two)]
    dataset = files.read(paths, "both", Options(action_low=[-1], action_high=[1]))
    assert (dataset.spec.name, dataset.spec.sources, dataset.spec.num_episodes) == ("both", ("a", "b", "c"), 4)
    singly = [files.read([path]) for path in paths]
    for mine, first, second in zip(transitions(dataset.columns), *(transitions(each.columns) for each in singly)):
        assert np.array_equal(mine, np.concatenate([first, second]))
    names = [np.array(each.spec.sources)[each.columns.source] for each in singly]
    assert np.array_equal(np.array(dataset.spec.sources)[dataset.columns.source], np.concatenate(names))


# ---------------------------------------------------------------- library and Minari


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ends=ENDS, following=st.booleans())
def test_round_trip_to_the_library_and_minari(
    tmp_path_factory: pytest.TempPathFactory, ends: list[str], following: bool
):
    """D4RL -> raymix -> Minari -> raymix keeps every value and flag, whatever the layout."""
    folder = tmp_path_factory.mktemp("round")
    table = with_next_observations(log(ends)) if following else log([*ends[:-1], ".", "."])
    path = write_hdf5(folder / "some.hdf5", table)
    if not following and not qlearning_dataset(table):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYMIX_DATASETS_PATH", str(folder / "library"))
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
        dataset = files.read([path], "some", Options(action_low=[-1], action_high=[1]))
        library.save(dataset)
        kept = library.load("some")
        to_minari(kept, "test/some-v0")
        back = local_minari.load("test/some-v0")
    assert identical(kept, dataset) and identical(back, dataset)
    assert back.spec.to_dict() == {**dataset.spec.to_dict(), "name": "test/some-v0"}


def test_sources_environment_and_references_go_to_minari_and_back(tmp_path: Path):
    one = {**hopper_log(), "source": np.repeat(["expert", "novice", "expert"], [5, 4, 2])}
    with pytest.warns(UserWarning, match="Hopper-v2"):
        dataset = files.read([write_npz(tmp_path / "hopper-medium-v2.npz", one)])
    to_minari(dataset, "test/some-v0")
    back = local_minari.load("test/some-v0")
    assert identical(back, dataset)
    assert back.spec.sources == ("expert", "novice")
    assert (back.spec.reference_min, back.spec.reference_max) == (-20.272305, 3234.3)
    mine, theirs = (json.loads(each.spec.environment or "") for each in (dataset, back))
    assert {key: theirs[key] for key in mine} == mine
    with pytest.raises(UsageError, match="exists already"):
        to_minari(dataset, "test/some-v0")
    with pytest.raises(UsageError, match="is no Minari id"):
        to_minari(dataset, "some")


@pytest.mark.filterwarnings("ignore:.*(another goal|constant)")
def test_the_rule_for_dictionaries_goes_to_minari_and_back(tmp_path: Path):
    """Minari's EnvSpec cannot hold it, and without it a maze would be played with other observations."""
    random = np.random.default_rng(0)
    log = {"observations": random.standard_normal((9, 4)), "actions": random.uniform(-1, 1, (9, 2))}
    flags = {"rewards": np.zeros(9), "terminals": np.arange(9) == 4, "timeouts": np.arange(9) == 8}
    dataset = files.read([write_hdf5(tmp_path / "maze2d-umaze-v1.hdf5", {**log, **flags})])
    to_minari(dataset, "test/some-v0")
    back = local_minari.load("test/some-v0")
    mine, theirs = (json.loads(each.spec.environment or "") for each in (dataset, back))
    assert mine["observations"] == "observation" and {key: theirs[key] for key in mine} == mine
    assert identical(back, dataset)


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write_hdf5(tmp_path / "hopper-medium-v2.hdf5", hopper_log())
    main(["data", "import", str(path), "--name", "hopper/medium", "--json"])
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert facts["num_transitions"] == 9 and Path(facts["path"]).is_file()
    assert err.startswith("note: ") and "recorded in Hopper-v2" in err
    with pytest.raises(SystemExit, match="2"):
        main(["data", "import", str(path), "--name", "hopper/medium"])
    assert "there is a data set 'hopper/medium' already" in capsys.readouterr().err
    main(["data", "import", str(path), "--name", "hopper/medium", "--overwrite", "--env", "Hopper-v4"])
    assert json.loads(library.load("hopper/medium").spec.environment or "")["id"] == "Hopper-v4"
    main(["data", "check", "hopper/medium"])
    assert "hopper/medium: no problems" in capsys.readouterr().out
    main(["data", "check", str(path), "--json"])
    assert json.loads(capsys.readouterr().out)["problems"] == []
    with pytest.raises(SystemExit, match="2"):
        main(["data", "import", str(path), "--name", "x", "--column", "obs=a"])
    assert "--column obs=a is not NAME=COLUMN" in capsys.readouterr().err

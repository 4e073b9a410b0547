"""Columns, their statistics and checks, Minari in both formats, the Arrow table, and the catalog."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import filelock
import gymnasium
import h5py
import hypothesis.strategies as st
import minari
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from minari.data_collector import EpisodeBuffer

from raymix.data import catalog, fetch, library, toy
from raymix.data import minari as local_minari
from raymix.data.columns import Episode, from_episodes, make_dataset
from raymix.data.table import from_table, to_table
from raymix.envs import flatten
from raymix.envs.build import build_environment
from raymix.envs.fetch import GOAL_REWARDS
from raymix.evaluation.rollout import check_environment
from raymix.types import Columns, Dataset, UsageError

SMALL = 2
REACH = fetch.REACH
BOX = {"action_low": [-1.0, -1.0], "action_high": [1.0, 1.0]}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("RAYMIX_DATASETS_PATH", str(tmp_path / "library"))
    return tmp_path / "minari"


@pytest.fixture(scope="module")
def fetch_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Minari root with a small real data set, made once by two processes; tests must not change it."""
    path = tmp_path_factory.mktemp("minari")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(path))
        fetch.make(REACH, SMALL, workers=2)
    return path


@pytest.fixture
def made(fetch_root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(fetch_root))
    return fetch.dataset_id(REACH, SMALL)


def episode(length: int, seed: int = 0, terminated: bool = False, source: int = 0) -> Episode:
    generator = np.random.default_rng([seed, length])
    end = np.arange(length) == length - 1
    return Episode(
        generator.standard_normal((length + 1, 3)),
        generator.uniform(-1, 1, (length, 2)),
        generator.standard_normal(length),
        end & terminated,
        end & (not terminated),
        source,
    )


EPISODES = st.lists(st.tuples(st.integers(1, 7), st.booleans(), st.integers(0, 1)), min_size=1, max_size=14).map(
    lambda shapes: [episode(length, index, end, source) for index, (length, end, source) in enumerate(shapes)]
)


def same(one: Columns, two: Columns) -> bool:
    return all(
        np.array_equal(getattr(one, field.name), getattr(two, field.name))
        and getattr(one, field.name).dtype == getattr(two, field.name).dtype
        for field in dataclasses.fields(Columns)
    )


def dataset_of(episodes: list[Episode], **changes: object) -> Dataset:
    return make_dataset(from_episodes(episodes), "test/some-v0", **(BOX | {"sources": ("a", "b")} | changes))


def store_in_minari(episodes: list[Episode], data_format: str, name: str = "test/some-v0", **spaces: object) -> None:
    boxes = {
        "observation_space": gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64),
        "action_space": gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32),
    }
    buffers = [
        EpisodeBuffer(
            observations=each.observations,
            actions=each.actions.astype(np.float32),
            rewards=each.rewards,
            terminations=each.terminations,
            truncations=each.truncations,
        )
        for each in episodes
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        written = minari.create_dataset_from_buffers(name, buffers, data_format=data_format, **(boxes | spaces))
    written.storage.update_metadata({"sources": ["a", "b"]})
    written.storage.update_episode_metadata([{"source": each.source} for each in episodes])


# ---------------------------------------------------------------- columns


@settings(deadline=None)
@given(EPISODES)
def test_rows_stay_inside_their_episode(episodes: list[Episode]):
    columns = from_episodes(episodes)
    lengths = [len(each.actions) for each in episodes]
    rows = columns.transition_rows()
    assert len(rows) == sum(lengths)
    assert np.array_equal(columns.episode[rows], columns.episode[rows + 1])
    assert np.array_equal(columns.last_rows, np.cumsum([length + 1 for length in lengths]) - 1)
    assert np.array_equal(
        columns.observations[rows + 1], np.concatenate([e.observations[1:] for e in episodes], dtype="f")
    )
    assert np.array_equal(columns.rewards[rows], np.concatenate([e.rewards for e in episodes], dtype="f"))
    assert not columns.actions[columns.last_rows].any()
    assert not (columns.terminals | columns.timeouts)[columns.last_rows].any()
    with_next = columns.transition_rows(with_next_action=True)
    assert len(with_next) == len(rows) - sum(1 for e in episodes if not e.terminations[-1])
    assert np.allclose(columns.episode_returns(), [e.rewards.sum() for e in episodes], atol=1e-4)


@settings(deadline=None)
@given(EPISODES)
def test_statistics_are_those_of_the_transitions(episodes: list[Episode]):
    spec = dataset_of(episodes).spec
    observations = np.concatenate([each.observations[:-1] for each in episodes]).astype(np.float32).astype(np.float64)
    actions = np.concatenate([each.actions for each in episodes]).astype(np.float32).astype(np.float64)
    assert np.allclose(spec.observation_mean, observations.mean(axis=0))
    assert np.allclose(spec.observation_std, observations.std(axis=0))
    assert np.allclose(spec.action_mean, actions.mean(axis=0))
    assert np.allclose(spec.action_std, actions.std(axis=0))
    assert (spec.num_transitions, spec.num_episodes) == (len(actions), len(episodes))


@settings(deadline=None)
@given(EPISODES)
def test_table_round_trip_copies_nothing(episodes: list[Episode]):
    dataset = dataset_of(episodes)
    table = to_table(dataset)
    again = from_table(table)
    assert again.spec == dataset.spec
    assert same(again.columns, dataset.columns)
    assert np.shares_memory(again.columns.observations, dataset.columns.observations)
    assert not again.columns.observations.flags.writeable
    assert {table.column(name).num_chunks for name in table.column_names} == {1}


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(episodes=EPISODES)
def test_minari_round_trip(tmp_path_factory: pytest.TempPathFactory, data_format: str, episodes: list[Episode]):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("minari")))
        store_in_minari(episodes, data_format)
        expected = dataset_of(episodes)
        first, cached = local_minari.load("test/some-v0"), local_minari.load("test/some-v0")
    assert first.spec == cached.spec == expected.spec
    assert same(first.columns, expected.columns)
    assert same(cached.columns, expected.columns)


def test_an_episode_cut_by_the_end_of_the_log_is_a_timeout():
    cut = dataclasses.replace(episode(3), truncations=np.zeros(3, bool))
    both = dataclasses.replace(episode(3, terminated=True), truncations=np.arange(3) == 2)
    columns = from_episodes([cut, both])
    assert columns.timeouts.tolist() == [False, False, True, False] + [False] * 4
    assert columns.terminals.tolist() == [False] * 4 + [False, False, True, False]


def changed(column: str, value: object) -> list[Episode]:
    return [episode(2), dataclasses.replace(episode(4), **{column: value})]


def spoiled(column: str, row: int, value: float) -> list[Episode]:
    array = getattr(episode(4), column).copy()
    array[row] = value
    return changed(column, array)


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        ([], "no episodes"),
        (spoiled("observations", 4, np.nan), "observations of data set test/some-v0 is not finite at episode 1, row 4"),
        (spoiled("actions", 1, np.inf), "actions of data set test/some-v0 is not finite at episode 1, row 1"),
        (spoiled("rewards", 3, 1e300), "rewards of data set test/some-v0 is not finite at episode 1, row 3"),
        (spoiled("actions", 2, 1.001), "at episode 1, row 2 is outside its box"),
        (spoiled("terminations", 1, 1), "Episode 1 ends at row 1 but goes on"),
        (changed("actions", np.zeros((0, 2))), "Episode 1 has length zero"),
        (changed("observations", np.zeros((4, 3))), r"observations must have shape \(5, 3\), but they have \(4, 3\)"),
        (changed("rewards", np.zeros((4, 1))), r"rewards must have shape \(4,\), but they have \(4, 1\)"),
        (changed("observations", np.zeros((5, 7))), "Episode 1 has observations of 7 numbers but episode 0 of 3"),
        (changed("actions", np.zeros(4)), "both must have two axes"),
        (changed("source", 2), "there are 2 source names"),
        (changed("source", 99_999), "Episode 1 has the source 99999; it must be a whole number from 0 to 32767"),
        (changed("source", "left"), "Episode 1 has the source 'left'"),
        (changed("rewards", np.array(list("abcd"))), "Episode 1 has rewards of type <U1; give numbers"),
        (changed("truncations", np.array(["True"] * 4)), "Episode 1 has truncations of type <U4"),
        (changed("actions", [[0.0, 0.0], [0.0]]), "Episode 1 has actions that are no array"),
        (changed("actions", np.float32(1.0)), "both must have two axes"),
    ],
)
def test_bad_episodes_are_refused_in_one_sentence(episodes: list[Episode], message: str):
    with pytest.raises(UsageError, match=message) as refusal:
        dataset_of(episodes)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_low": [-1.0]}, "bounds .* have shapes"),
        ({"action_low": [-np.inf, -1.0]}, "must be finite"),
        ({"action_low": [1.0, 1.0]}, "each low below its high"),
        ({"reference_min": 1.0}, "reference scores"),
        ({"reference_min": 2.0, "reference_max": 1.0}, "reference scores"),
    ],
)
def test_bad_facts_are_refused(changes: dict[str, object], message: str):
    with pytest.raises(UsageError, match=message):
        dataset_of([episode(3)], **changes)


def test_rounding_outside_the_box_is_clipped():
    actions = episode(4).actions.copy()
    actions[1, 0], actions[2, 1] = 1 + 5e-7, -1 - 5e-7
    dataset = dataset_of(changed("actions", actions))
    assert np.abs(dataset.columns.actions).max() == 1.0


def test_columns_out_of_order_are_refused():
    columns = from_episodes([episode(2), episode(3)])
    for change, message in (
        ({"episode": columns.episode[::-1].copy()}, "in order"),
        ({"rewards": columns.rewards.astype(np.float64)}, "must be float32"),
        ({"timeouts": np.zeros(7, bool)}, "last transition of each episode"),
        ({"source": columns.source[1:]}, "Column source"),
    ):
        with pytest.raises(UsageError, match=message):
            make_dataset(dataclasses.replace(columns, **change), "test/some-v0", **BOX)


# ---------------------------------------------------------------- toys


def test_two_modes_has_two_modes():
    dataset = toy.two_modes()
    columns = dataset.columns
    assert dataset.spec.returns_mean == pytest.approx(0.3)
    assert [dataset.spec.normalized_score(score) for score in (0.2, 1.0)] == [0.0, 100.0]
    rows = columns.transition_rows()
    right = columns.source[rows] == 1
    assert right.mean() == pytest.approx(0.3)
    assert columns.actions[rows][right].mean() == pytest.approx(0.6, abs=0.01)
    assert columns.actions[rows][~right].mean() == pytest.approx(-0.6, abs=0.01)
    assert np.array_equal(columns.rewards[rows], right)
    assert columns.terminals[rows].all()


def test_one_step_toys_earn_what_they_say():
    """Catches rewards of another row, and something to see after the end that a value could use."""
    for build, reward in (
        (toy.constant, lambda observations, actions: np.ones(len(actions))),
        (toy.readable, lambda observations, actions: observations[:, 0]),
        (toy.best_action, lambda observations, actions: 1 - (actions[:, 0] - observations[:, 0] / 2) ** 2),
    ):
        columns = build().columns
        rows = columns.transition_rows()
        assert len(rows) == 1000 and columns.terminals[rows].all()
        expected = reward(columns.observations[rows], columns.actions[rows])
        np.testing.assert_allclose(columns.rewards[rows], expected, atol=1e-6)
        assert (columns.observations[rows + 1] == 100).all()
        assert abs(columns.actions[rows].mean()) < 0.06
    assert sorted(set(toy.readable().columns.rewards[::2])) == [-1.0, 1.0]


def test_navigation_is_mostly_the_poorer_mode():
    """Catches the modes swapped, actions beyond the rewarded intervals, and another share than 6 %."""
    dataset = toy.navigation()
    columns, spec = dataset.columns, dataset.spec
    rows = columns.transition_rows()
    right = columns.source[rows] == 1
    assert (len(rows), right.sum()) == (10_000, 600)
    assert [spec.normalized_score(score) for score in (0.0, 10.0)] == [0.0, 100.0]
    assert spec.returns_mean == pytest.approx(0.94 + 0.6)
    actions = columns.actions[rows, 0]
    for side, centre in ((right, 1.0), (~right, -1.0)):
        assert actions[side].mean() == pytest.approx(centre, abs=0.03)
        assert actions[side].std() == pytest.approx(0.19, abs=0.02)  # 0.2, cut off at 2.5 standard deviations
        assert np.abs(actions[side] - centre).max() <= 0.5
    assert np.array_equal(columns.rewards[rows], np.where(right, 10.0, 1.0))
    assert columns.terminals[rows].all()
    assert np.abs(columns.observations[rows]).max() < 0.06
    assert toy.navigation().spec.hash == spec.hash != toy.navigation(seed=1).spec.hash


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_chain_values_are_the_fixed_point_of_its_data(discount: float):
    columns = toy.chain().columns
    rows = columns.transition_rows()
    values = toy.chain_values(discount)
    here, following = columns.observations[rows] @ values, columns.observations[rows + 1] @ values
    assert np.allclose(here, columns.rewards[rows] + discount * np.where(columns.terminals[rows], 0, following))


def test_wide_and_narrow_spreads_as_stated():
    """Catches a spread that grows to the other side, variance for std, and next states that are not the padding."""
    columns = toy.wide_and_narrow().columns
    rows = columns.transition_rows()
    states, actions = columns.observations[rows, 0], columns.actions[rows, 0]
    deviation = actions - 0.4 * np.sin(3 * states)
    for low in np.arange(-1.0, 1.0, 0.25):
        inside = (states >= low) & (states < low + 0.25)
        # 250 samples: the standard error is 4.5 %; clipping takes up to 4 % off on the left.
        assert deviation[inside].std() == pytest.approx(toy.wide_and_narrow_std(low + 0.125), rel=0.15)
    assert np.array_equal(columns.source[rows], states >= 0)
    assert np.array_equal(columns.rewards[rows], actions) and columns.terminals[rows].all()
    assert not columns.observations[columns.last_rows].any()


# ---------------------------------------------------------------- Minari


def test_minari_lists_and_loads_what_we_made(made: str):
    listed = minari.list_local_datasets()
    assert list(listed) == [made]
    dataset = minari.load_dataset(made)
    assert (dataset.total_episodes, dataset.total_steps) == (4 * SMALL, 200 * SMALL)
    environment = dataset.recover_environment()
    assert environment.spec.id == REACH.environment
    references = listed[made]["ref_min_score"], listed[made]["ref_max_score"]
    assert minari.get_normalized_score(dataset, np.array(references)).tolist() == [0.0, 1.0]
    # An episode replays from its recorded seed and actions, bit for bit.
    seeds = [facts["seed"] for facts in dataset.storage.get_episode_metadata(range(3))]
    for seed, recorded in zip(seeds, dataset.iterate_episodes([0, 1, 2]), strict=True):
        observation, _ = environment.reset(seed=seed)
        for step, action in enumerate(recorded.actions):
            assert np.array_equal(observation, recorded.observations[step])
            observation, reward, _, truncated, _ = environment.step(action)
            assert reward == recorded.rewards[step]
            assert truncated == recorded.truncations[step]
        assert np.array_equal(observation, recorded.observations[-1])


def test_fetchreach_facts(made: str):
    dataset = catalog.load(f"fetchreach-multigoal-{SMALL}")
    spec, columns = dataset.spec, dataset.columns
    assert spec.name == made
    assert spec.sources == fetch.SOURCES
    assert columns.source[columns.last_rows].tolist() == [0, 1, 2, 3] * SMALL
    returns = columns.episode_returns()
    assert (returns[::4] > 85).all()
    assert ((returns[1::4] > 40) & (returns[1::4] <= 50)).all()
    assert spec.reference_max > 90
    assert 0 <= spec.reference_min < 10
    assert spec.environment is not None
    assert gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(spec.environment)).spec.max_episode_steps == 50
    assert not columns.terminals.any()


def test_fetchreach_does_not_depend_on_the_number_of_processes(made: str):
    ticks = []
    episodes, *_ = fetch.generate(REACH, SMALL, workers=1, progress=lambda done, total: ticks.append((done, total)))
    assert same(from_episodes(episodes), local_minari.load(made).columns)
    assert ticks[-1] == (4 * SMALL + 2 * fetch.REFERENCE_EPISODES,) * 2


@pytest.mark.parametrize("task", [fetch.PUSH, fetch.PICK_AND_PLACE], ids=lambda task: task.title)
def test_data_of_the_object_tasks(task: fetch.Task, monkeypatch: pytest.MonkeyPatch):
    """Catches data that depend on the number of processes, and an expert that misses its goals."""
    monkeypatch.setattr(fetch, "REFERENCE_EPISODES", 1)
    episodes, seeds, *references = fetch.generate(task, 1, workers=1)
    again, *facts = fetch.generate(task, 1, workers=2)
    columns = from_episodes(episodes)
    assert same(columns, from_episodes(again))
    assert facts == [seeds, *references]
    assert columns.observations.shape == (4 * 51, 25)
    assert [each.source for each in episodes] == [0, 1, 2, 3]
    assert np.abs(columns.actions).max() == 1.0
    # Of four, one may miss: the noise does that to about one in two hundred.
    reached = [each.rewards[-1] == reward for each, reward in zip(episodes, GOAL_REWARDS, strict=True)]
    assert sum(reached) >= 3
    assert 70 < references[1] < 100 and references[0] < 10


def test_a_damaged_cache_is_read_again(made: str, caplog: pytest.LogCaptureFixture):
    expected = local_minari.load(made).spec
    (cache,) = (local_minari.root() / ".raymix" / "cache").rglob("*.arrow")
    whole = cache.read_bytes()
    start = whole.index(local_minari.load(made).columns.observations[:1].tobytes())
    for damage in (whole[:1000], whole[:start] + bytes(4) + whole[start + 4 :]):
        cache.write_bytes(damage)
        assert local_minari.load(made).spec == expected
        assert "damaged" in caplog.text
        caplog.clear()


def test_a_killed_build_leaves_nothing_and_the_next_one_succeeds(root: Path):
    script = f"""
import sys
from raymix.data import fetch
if __name__ == "__main__":
    fetch.make(fetch.REACH, {SMALL}, workers=1, progress=lambda done, total: print(done, flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert minari.list_local_datasets() == {}
    assert not fetch.is_made(REACH, SMALL)
    # What another tool may leave behind counts as little.
    (root / fetch.dataset_id(REACH, SMALL) / "data").mkdir(parents=True)
    abandoned = root / ".raymix" / f"build-{fetch.dataset_id(REACH, SMALL).replace('/', '--')}-x"
    abandoned.mkdir()
    fetch.make(REACH, SMALL, workers=1)
    assert list(minari.list_local_datasets()) == [fetch.dataset_id(REACH, SMALL)]
    assert not abandoned.exists()
    assert fetch.is_made(REACH, SMALL)


def test_two_builds_at_once_make_one_data_set(root: Path):
    script = f"from raymix.data import fetch; print(fetch.make(fetch.REACH, {SMALL}, workers=1))"
    pair = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in pair] == [fetch.dataset_id(REACH, SMALL)] * 2
    assert [process.returncode for process in pair] == [0, 0]
    assert list(minari.list_local_datasets()) == [fetch.dataset_id(REACH, SMALL)]


def test_a_script_without_a_guard_is_told(root: Path, tmp_path: Path):
    script = tmp_path / "unguarded.py"
    script.write_text(f"from raymix.data import fetch; fetch.make(fetch.REACH, {SMALL}, workers=2)")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 1
    assert '`if __name__ == "__main__":`' in done.stderr.splitlines()[-1]


def test_unbounded_actions_take_the_range_of_the_data_and_say_so(root: Path):
    space = gymnasium.spaces.Box(np.array([-1, -np.inf], np.float32), np.array([1, np.inf], np.float32))
    store_in_minari([episode(5)], "hdf5", action_space=space)
    with pytest.warns(UserWarning, match=r"no bounds in dimensions \[1\]"):
        spec = local_minari.load("test/some-v0").spec
    actions = episode(5).actions.astype(np.float32)
    assert spec.action_low == (-1.0, float(actions[:, 1].min()))
    assert spec.action_high == (1.0, float(actions[:, 1].max()))


def test_other_spaces_are_refused(root: Path):
    text = gymnasium.spaces.Text(5)
    nested = dataclasses.replace(episode(5), observations={"position": ["a"] * 6})
    store_in_minari([nested], "hdf5", observation_space=gymnasium.spaces.Dict({"position": text}))
    with pytest.raises(UsageError, match=r"observations\['position'\] are Text.* dictionaries of such"):
        local_minari.load("test/some-v0")
    store_in_minari([episode(5)], "hdf5", name="test/flat-v0")
    with pytest.raises(UsageError, match="observations=all chooses among the keys of dictionaries"):
        local_minari.load("test/flat-v0", "all")


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_dictionaries_become_vectors_in_data_and_in_rollouts_alike(root: Path, data_format: str):
    """A maze as Minari stores it: what is recorded, the rules, and that evaluation sees what was trained on."""
    environment = build_environment('{"id": "PointMaze_UMaze-v3", "max_episode_steps": 6}')  # registers it too
    environment.action_space.seed(0)
    episodes, seen = [], []
    for seed in range(2):
        seen.append([environment.reset(seed=seed)[0]])
        actions = []
        for _ in range(6):
            actions.append(environment.action_space.sample())
            seen[-1].append(environment.step(actions[-1])[0])
        stacked = {key: np.stack([one[key] for one in seen[-1]]) for key in seen[-1][0]}
        whole = episode(6)
        episodes.append(dataclasses.replace(whole, observations=stacked, actions=np.array(actions)))
    spaces = {"observation_space": environment.observation_space, "action_space": environment.action_space}
    store_in_minari(episodes, data_format, env=environment.spec, **spaces)
    keys = {
        None: ("achieved_goal", "desired_goal", "observation"),
        "all": ("achieved_goal", "desired_goal", "observation"),
        "no-goal": ("achieved_goal", "observation"),
        "no-achieved": ("desired_goal", "observation"),
        "observation": ("observation",),
    }
    for rule, chosen in keys.items():
        name = "test/some-v0" if rule is None else f"test/some-v0[observations={rule}]"
        for _ in range(2):  # once from the files, once from the cache
            dataset = catalog.load(name)
            expected = [np.concatenate([one[key] for key in chosen]) for each in seen for one in each]
            assert np.array_equal(dataset.columns.observations, np.array(expected, dtype=np.float32))
        check_environment(dataset.spec)
        built = build_environment(dataset.spec.environment)
        assert np.array_equal(built.reset(seed=1)[0], expected[7])
    with pytest.raises(UsageError, match="observations=goal is no rule; there are: all, no-goal"):
        catalog.load("test/some-v0[observations=goal]")
    with pytest.raises(UsageError, match="their observation sizes differ"):
        catalog.load("test/some-v0 + test/some-v0[observations=no-goal]")


def test_dictionaries_inside_dictionaries_are_joined_by_name():
    space = gymnasium.spaces.Dict(
        {
            "observation": gymnasium.spaces.Box(0, 1, (2,)),
            "achieved_goal": gymnasium.spaces.Dict(
                {"kettle": gymnasium.spaces.Box(0, 1, (3,)), "burner": gymnasium.spaces.Box(0, 1, ())}
            ),
            "desired_goal": gymnasium.spaces.Box(0, 1, (1,)),
        }
    )
    assert flatten.flattened_space(space, "no-goal").shape == (6,)
    one = {
        "observation": np.array([5.0, 6.0]),
        "desired_goal": np.array([9.0]),
        "achieved_goal": {"kettle": np.array([2.0, 3.0, 4.0]), "burner": np.float64(1.0)},
    }
    assert flatten.flatten(one, "no-goal").tolist() == [1, 2, 3, 4, 5, 6]
    assert flatten.flatten(one, "all").tolist() == [1, 2, 3, 4, 9, 5, 6]
    many = {
        "observation": np.ones((7, 2)),
        "desired_goal": np.ones((7, 1)),
        "achieved_goal": {"kettle": np.ones((7, 3)), "burner": np.ones(7)},
    }
    assert flatten.flatten(many, "all", axes=1).shape == (7, 7)
    with pytest.raises(UsageError, match="needs the key 'achieved_goal', but these observations have observation"):
        flatten.flattened_space(gymnasium.spaces.Dict({"observation": space["observation"]}), "no-goal")


def test_damaged_files_are_refused(root: Path):
    store_in_minari([episode(5)], "hdf5")
    file = root / "test" / "some-v0" / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UsageError, match="damaged"):
        local_minari.load("test/some-v0")


def rewrite(data: Path, **changes: object) -> None:
    """Change metadata behind Minari's back."""
    file = data / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_episode(data: Path, column: str, value: object) -> None:
    with h5py.File(data / "main_data.hdf5", "a") as file:
        if column == "source":
            file["episode_0"].attrs["source"] = value
        else:
            del file["episode_0"][column]
            file["episode_0"][column] = value


def lose_a_file(data: Path) -> None:
    (data / "more.hdf5").symlink_to(data / "gone.hdf5")


def no_json(data: Path) -> None:
    (data / "metadata.json").write_bytes(b'{"dataset_id": "test/some')


def no_object(data: Path) -> None:
    (data / "metadata.json").write_text("[1]")


RUNS_CODE = json.dumps({"id": "any-v0", "entry_point": "os:system", "kwargs": {"command": "touch ran"}})


@pytest.mark.parametrize(
    ("damage", "listed", "message"),
    [
        (no_json, False, r"its metadata.json cannot be read: Unterminated string"),
        (no_object, False, "its metadata.json holds no object"),
        (lambda data: rewrite(data, total_episodes=None), False, "total_episodes in its metadata.json is None"),
        (lambda data: rewrite(data, total_episodes="5"), False, "total_episodes in its metadata.json is '5'"),
        (lambda data: rewrite(data, total_steps=None), False, "total_steps in its metadata.json is None"),
        (lambda data: rewrite(data, dataset_id="test/other-v0"), False, "is that of test/other-v0"),
        (lambda data: rewrite(data, sources=3), False, "sources in its metadata.json is 3, not a list of texts"),
        (lambda data: rewrite(data, sources="ab"), False, "sources in its metadata.json is 'ab', not a list of texts"),
        (lambda data: rewrite(data, ref_min_score="low"), False, "ref_min_score .* is 'low', not a finite number"),
        (lambda data: rewrite(data, ref_max_score=10**400), False, "ref_max_score"),
        (lambda data: rewrite(data, ref_max_score=float("nan")), False, "ref_max_score"),
        (lambda data: rewrite(data, observation_space=7), False, "observation_space in its metadata.json is 7"),
        # Minari would build this environment to learn its spaces.
        (lambda data: rewrite(data, action_space=None, env_spec=RUNS_CODE), False, "action_space .* is None"),
        (lambda data: rewrite(data, observation_space='{"type": "Odd"}'), True, "Minari cannot open it: TypeError"),
        (lambda data: rewrite(data, minari_version="9.9"), True, "does not support"),
        (lambda data: rewrite(data, minari_version=9), True, r"Minari cannot open it: AssertionError\)"),
        (lambda data: rewrite(data, env_spec="{"), True, "Minari cannot open it: JSONDecodeError"),
        (lambda data: rewrite(data, total_episodes=2), True, "its files cannot be read: KeyError"),
        (lambda data: change_episode(data, "rewards", ["a"] * 5), True, "Episode 0 has rewards of type"),
        (lambda data: change_episode(data, "rewards", [0.0]), True, r"rewards must have shape \(5,\)"),
        (lambda data: change_episode(data, "source", 99_999), True, "Episode 0 has the source"),
        (lambda data: change_episode(data, "source", "left"), True, "Episode 0 has the source 'left'"),
        (lose_a_file, True, "its files cannot be looked at"),
    ],
)
def test_a_damaged_folder_is_named_with_what_is_wrong(
    root: Path, damage: Callable[[Path], None], listed: bool, message: str
):
    """And it hides neither the other data sets, nor a mistyped name's near ones."""
    store_in_minari([episode(5)], "hdf5")
    store_in_minari([episode(3)], "hdf5", name="test/whole-v0")
    folder = root / "test" / "some-v0"
    damage(folder / "data")
    with pytest.raises(UsageError, match=message) as refusal:
        catalog.load("test/some-v0")
    told = str(refusal.value)
    assert told.startswith(f"The data set test/some-v0 in {folder} is damaged (")
    assert told.endswith("; download or copy it again.") and "\n" not in told
    names = [entry["name"] for entry in catalog.known()]
    assert "test/whole-v0" in names and ("test/some-v0" in names) == listed
    with pytest.raises(UsageError, match=r"near names: .*test/whole-v0"):
        catalog.load("test/while-v0")


def test_a_damaged_set_of_raymix_is_made_again(root: Path):
    """At once where its metadata tell; else after its folder is deleted, which the message asks for."""
    store_in_minari([episode(3)], "hdf5", name="raymix/fetchreach-multigoal-2-v0")
    data = root / "raymix" / "fetchreach-multigoal-2-v0" / "data"
    rewrite(data, total_episodes=4 * SMALL, sources=list(fetch.SOURCES))
    with pytest.raises(UsageError, match=r"delete the folder, and raymix makes it again\.$"):
        catalog.load("fetchreach-multigoal-2")
    rewrite(data, total_episodes=None)
    assert not fetch.is_made(REACH, SMALL)


def test_the_lock_of_a_build_is_free_afterwards(root: Path, monkeypatch: pytest.MonkeyPatch):
    """In this process too: a second `make` would wait for ever."""
    locks = []

    class Recorded(filelock.FileLock):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            locks.append(self)

    monkeypatch.setattr(filelock, "FileLock", Recorded)
    monkeypatch.setattr(fetch, "_build", lambda *_: None)
    fetch.make(REACH, SMALL)
    assert [lock.is_locked for lock in locks] == [False]


def test_a_damaged_cache_of_numbers_is_read_again(root: Path):
    store_in_minari([episode(5)], "hdf5")
    expected = local_minari.load("test/some-v0").spec
    (cache,) = (root / ".raymix" / "cache").rglob("*.arrow")
    whole = cache.read_bytes()
    start = whole.index(local_minari.load("test/some-v0").columns.observations[:1].tobytes())
    cache.write_bytes(whole[:start] + np.float32("nan").tobytes() + whole[start + 4 :])
    assert local_minari.load("test/some-v0").spec == expected


# ---------------------------------------------------------------- catalog


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("fetchreach-multigoal", "raymix/fetchreach-multigoal-v0"),
        ("fetchreach-multigoal-500", "raymix/fetchreach-multigoal-v0"),
        ("fetchreach-multigoal-8", "raymix/fetchreach-multigoal-8-v0"),
        ("raymix/fetchreach-multigoal-8-v0", "raymix/fetchreach-multigoal-8-v0"),
        ("fetchpush-multigoal", "raymix/fetchpush-multigoal-v0"),
        ("fetchpickandplace-multigoal-8", "raymix/fetchpickandplace-multigoal-8-v0"),
        ("two-modes", "toy/two-modes-v0"),
        ("wide-and-narrow", "toy/wide-and-narrow-v0"),
        ("navigation", "toy/navigation-v0"),
        ("mujoco/hopper/medium-v0", "mujoco/hopper/medium-v0"),
        ("chain+two-modes", "toy/chain-v0 + toy/two-modes-v0"),
    ],
)
def test_canonical_names(name: str, full: str):
    assert catalog.canonical_name(name) == full


def test_unknown_names_show_near_ones_and_the_remedy(root: Path, monkeypatch: pytest.MonkeyPatch):
    store_in_minari([episode(5)], "hdf5")
    monkeypatch.setenv("RAYMIX_DATASETS_PATH", str(root / "library"))
    library.save(dataclasses.replace(toy.chain(), spec=dataclasses.replace(toy.chain().spec, name="own/hopper")))
    for name, parts in (
        ("fetchreach-multigaol", ["near names: fetchreach-multigoal"]),
        ("fetchpush-multigaol", ["near names: fetchpush-multigoal"]),
        ("fetchpickplace-multigoal", ["near names: fetchpickandplace-multigoal"]),
        ("test/same-v0", ["near names: test/some-v0", "`minari download test/same-v0`", str(root)]),
        ("mujoco/hoper/medium-v0", ["mujoco/hopper/medium-v0"]),
        ("hopper-medium-v2", ["of D4RL is not on this machine", "name its file, such as hopper_medium-v2.hdf5"]),
        ("own/hoper", ["near names: own/hopper"]),
        ("../../etc/passwd-v0", ["There is no data set"]),
        ("chain + ", ["'chain + ' is no recipe", "needs the name of a data set"]),
        ("fetchreach-multigoal-0", ["must be at least 1"]),
    ):
        with pytest.raises(UsageError) as refusal:
            catalog.load(name)
        assert all(part in str(refusal.value) for part in parts), str(refusal.value)


def test_known_lists_what_can_be_loaded(root: Path):
    store_in_minari([episode(5), episode(2)], "arrow")
    # One malformed id makes Minari's own listing raise.
    (root / "lonely" / "data").mkdir(parents=True)
    entries = {entry["name"]: entry for entry in catalog.known()}
    assert set(entries) == {
        "raymix/fetchreach-multigoal-v0",
        "raymix/fetchreach-multigoal-8-v0",
        "raymix/fetchpush-multigoal-v0",
        "raymix/fetchpush-multigoal-8-v0",
        "raymix/fetchpickandplace-multigoal-v0",
        "raymix/fetchpickandplace-multigoal-8-v0",
        "test/some-v0",
        "toy/constant-v0",
        "toy/readable-v0",
        "toy/chain-v0",
        "toy/best-action-v0",
        "toy/two-modes-v0",
        "toy/two-goals-v0",
        "toy/wide-and-narrow-v0",
        "toy/navigation-v0",
    }
    full = entries["raymix/fetchreach-multigoal-v0"]
    assert (full["short_name"], full["local"], full["transitions"]) == ("fetchreach-multigoal", False, 100_000)
    push = entries["raymix/fetchpush-multigoal-8-v0"]
    assert (push["short_name"], push["transitions"]) == ("fetchpush-multigoal-8", 1_600)
    assert push["description"].startswith("FetchPush with four goals around")
    assert push["description"].endswith("in any other. 8 episodes to each goal, made on first use.")
    some = entries["test/some-v0"]
    assert (some["short_name"], some["local"], some["transitions"], some["episodes"]) == (None, True, 7, 2)


def test_mixture_keeps_episodes_and_source_names(root: Path):
    store_in_minari([episode(5, source=1), episode(2)], "hdf5")
    store_in_minari([episode(3, terminated=True)], "arrow", name="test/other-v0")
    mixture = catalog.load("test/some-v0 + test/other-v0")
    assert mixture.spec.name == "test/some-v0 + test/other-v0"
    assert mixture.spec.sources == ("a", "b", "a", "b")
    assert mixture.columns.source[mixture.columns.last_rows].tolist() == [1, 0, 2]
    expected = from_episodes([episode(5, source=1), episode(2), episode(3, terminated=True, source=2)])
    assert same(mixture.columns, expected)


def test_mixture_of_unlike_data_is_refused():
    with pytest.raises(UsageError, match="cannot be mixed, their observation sizes differ"):
        catalog.load("two-modes + chain")

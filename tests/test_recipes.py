"""Mixtures: what their text means, which rows they give, and that they give the same ones everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import raymix.envs  # noqa: F401  (registers the environments)
from raymix.cli import main
from raymix.data import catalog, library
from raymix.data.columns import Episode, from_episodes, make_dataset
from raymix.data.recipe import Options, Recipe, Term, parse
from raymix.data.rewards import REWARDS
from raymix.envs.walker2d import reward
from raymix.plan import SweepSpec, expand
from raymix.types import Dataset, UsageError


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("RAYMIX_DATASETS_PATH", str(tmp_path / "library"))
    return tmp_path / "library"


def keep(name: str, lengths: list[int], start: int = 0, sources: list[int] | None = None, **facts: object) -> Dataset:
    """A data set in the library whose rewards are the numbers of its transitions, from `start` on."""
    episodes, reward_of = [], start
    for index, length in enumerate(lengths):
        rewards = np.arange(reward_of, reward_of + length, dtype=np.float32)
        reward_of += length
        end = np.arange(length) == length - 1
        states = np.repeat(np.arange(length + 1)[:, None], 2, 1) + 100.0 * index
        source = sources[index] if sources else 0
        episodes.append(Episode(states, np.zeros((length, 1)), rewards, end & False, end, source))
    names = [f"{name}-{number}" for number in range(1 + max(sources or [0]))]
    dataset = make_dataset(from_episodes(episodes), name, action_low=[-1], action_high=[1], sources=names, **facts)
    library.save(dataset)
    return dataset


def rewards(recipe: object) -> list[float]:
    """The rewards of all transitions, in order."""
    columns = catalog.load(recipe).columns
    return columns.rewards[columns.transition_rows()].tolist()


# ---------------------------------------------------------------- the text

NAMES = st.from_regex(r"[a-z][a-z0-9]{0,5}(/[a-z0-9-]{1,6}){0,2}", fullmatch=True) | st.just("/tmp/odd (1)+2.arrow")
NUMBERS = st.floats(0, exclude_min=True, allow_infinity=False)
QUANTILES = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).filter(lambda pair: pair[0] < pair[1]).map(tuple)
OPTIONS = st.builds(
    Options,
    observations=st.none() | st.just("no-goal"),
    source=st.lists(st.from_regex(r"[a-z]{1,4}", fullmatch=True) | st.text(max_size=6), max_size=2).map(tuple),
    returns=st.none() | QUANTILES,
    episodes=st.none() | st.integers(1, 99),
    transitions=st.none() | st.integers(1, 10**7),
    per_source=st.none() | st.integers(1, 10**7),
    reward=st.none() | st.sampled_from(sorted(REWARDS)),
    reward_scale=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    reward_shift=st.none() | NUMBERS,
    seed=st.none() | st.integers(0, 10**9),
)


def recipes(parts: st.SearchStrategy) -> st.SearchStrategy:
    def build(terms: list[tuple], weighted: bool) -> Recipe:
        return Recipe(tuple(Term(data, weight if weighted else None, options) for data, weight, options in terms))

    return st.builds(build, st.lists(st.tuples(parts, NUMBERS, OPTIONS), min_size=1, max_size=3), st.booleans())


@settings(deadline=None)
@given(st.recursive(recipes(NAMES), lambda inner: recipes(NAMES | inner), max_leaves=5))
def test_a_recipe_reads_back_as_written(recipe: Recipe) -> None:
    assert parse(str(recipe)) == recipe


def test_blanks_do_not_count_and_plain_sums_stay_as_they_are() -> None:
    assert str(parse(" 0.30*a +0.7 * b [ transitions = 10 ,seed=1 ]")) == "0.3*a + 0.7*b[transitions=10, seed=1]"
    assert str(parse("1e+6*a + 2.5e-3*b")) == "1000000*a + 0.0025*b" and str(parse("1e+30*a")) == "1e30*a"
    assert catalog.canonical_name("two-modes+two-modes") == "toy/two-modes-v0 + toy/two-modes-v0"


def test_a_dictionary_says_the_same() -> None:
    recipe = {
        "mix": ["a", {"data": {"mix": ["b", "c"]}, "source": ["x", "y"], "returns": [0.5, 1.0]}],
        "transitions": 7,
    }
    assert str(parse(recipe)) == "(a + (b + c)[source=x|y, returns=0.5..1])[transitions=7]"
    assert parse(str(parse(recipe))) == parse(recipe)
    assert parse({"mix": [{"data": "a", "source": ["x,y", "[z|]", ' "w"']}]}) == parse(
        'a[source="x,y" | "[z|]"|" ""w"""]'
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "at its end it needs the name of a data set"),
        ("a +", "at its end it needs the name of a data set"),
        ("(a + b", "needs a '\\)'"),
        ("a b)", "before '\\)' it needs a '\\+'"),
        ("a[transitions]", "needs options such as"),
        ("a[transitions=0]", "transitions=0 .* takes a whole number of at least 1"),
        ("a[transitions=1, transitions=2]", "transitions is set twice"),
        ("a[rows=5]", "'rows' .* is no option of a data set; there are: observations, source, returns"),
        ("a[returns=0.9]", "returns=0.9 .* takes two quantiles such as 0.9..1"),
        ("a[returns=0.9..0.1]", "takes two quantiles"),
        ("a[source=b||c]", "source=b||c .* takes names separated by |, such as expert|medium, those with any of"),
        ('a[source="b]', "before .* needs options such as"),
        ("a[seed=-1]", "seed=-1 .* takes a whole number from 0 on"),
        ("0*a + 1*b", "the weight 0 .* must be a number above 0"),
        ("0.3*a + b", "b in 0.3\\*a \\+ b has no weight but other parts have"),
    ],
)
def test_what_is_no_recipe_is_told(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        parse(text)


@pytest.mark.parametrize(
    "recipe", [{"mix": []}, {"mixed": ["a"]}, {"mix": [3]}, {"mix": [{"data": "a", "weight": "x"}]}]
)
def test_what_is_no_dictionary_of_a_recipe_is_told(recipe: dict) -> None:
    with pytest.raises(UsageError, match=r"is no recipe|mixes nothing|is no part of a mixture|takes a number above 0"):
        parse(recipe)


# ---------------------------------------------------------------- the rows


def test_options_keep_whole_episodes_in_their_order() -> None:
    keep("own/mixed", [3, 2, 4, 1], sources=[0, 1, 0, 1])  # returns 3, 7, 26, 9
    assert rewards("own/mixed[source=own/mixed-1]") == [3, 4, 9]
    assert rewards("own/mixed[returns=0.5..1]") == [5, 6, 7, 8, 9]
    assert catalog.load("own/mixed[source=own/mixed-1]").spec.sources == ("own/mixed-1",)
    assert len(rewards("own/mixed[episodes=2]")) in {3, 4, 5, 6, 7}
    capped = catalog.load("own/mixed[transitions=6]").spec
    assert capped.num_transitions <= 6 and capped.name == "own/mixed[transitions=6]"
    per_source = catalog.load("own/mixed[per_source=4]")
    counts = np.bincount(per_source.columns.source[per_source.columns.transition_rows()])
    assert counts[0] in (3, 4) and counts[1] == 3
    with pytest.raises(UsageError, match=r"per_source=2 .* leaves nothing of own/mixed-0, .* have 3 to 4 transitions"):
        catalog.load("own/mixed[per_source=2]")


def test_a_source_that_a_mixture_has_twice_is_kept_twice() -> None:
    keep("own/mixed", [3, 2], sources=[0, 1])
    assert rewards("(own/mixed + own/mixed)[source=own/mixed-1]") == [3, 4, 3, 4]


def test_the_path_of_a_file_needs_no_quotes(root: Path) -> None:
    keep("own/one", [3])
    odd = root / "odd (1)+2.arrow"
    (root / "own/one.arrow").rename(odd)
    assert rewards(str(odd)) == [0, 1, 2] and catalog.canonical_name(str(odd)) == f'"{odd}"'
    table = root / "log.csv"
    table.touch()
    with pytest.raises(UsageError, match=r"log\.csv is no file of a form that raymix reads; give one of \.hdf5"):
        catalog.canonical_name(str(table))


def test_shares_are_those_asked_for_and_the_mixture_is_as_large_as_it_can_be() -> None:
    keep("own/few", [10] * 30)
    keep("own/many", [7] * 200, start=10_000)
    mixture = catalog.load("0.3*own/few + 0.7*own/many")
    columns = mixture.columns
    counts = np.bincount(columns.source[columns.transition_rows()])
    assert counts[0] == 300 and abs(counts[1] - 700) <= 7
    assert mixture.spec.sources == ("own/few-0", "own/many-0")
    assert mixture.spec.name == "0.3*own/few + 0.7*own/many"
    # Relative: 3 and 7 say the same.
    assert catalog.load("3*own/few + 7*own/many").spec.hash == mixture.spec.hash
    # Another seed draws other episodes, and as many.
    other = catalog.load("(0.3*own/few + 0.7*own/many)[seed=5]")
    assert other.spec.hash != mixture.spec.hash and other.spec.num_transitions == mixture.spec.num_transitions


def test_a_recipe_gives_the_same_rows_everywhere() -> None:
    """The numbers are those of the PCG64 stream, written down: a change of NumPy or of the drawing is found."""
    keep("own/some", [1] * 12)
    assert rewards("own/some[transitions=5]") == rewards({"mix": [{"data": "own/some", "transitions": 5}]})
    assert rewards("own/some[transitions=5, seed=3]") == [0, 1, 4, 7, 9]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 6), min_size=2, max_size=9), st.integers(0, 4), st.integers(1, 12))
def test_no_row_crosses_an_episode_and_none_is_made_up(lengths: list[int], seed: int, limit: int) -> None:
    keep("own/one", lengths, sources=[index % 2 for index in range(len(lengths))])
    keep("own/two", lengths[::-1], start=1_000)
    options = f"[transitions={max(limit, max(lengths))}, seed={seed}]"
    columns = catalog.load(f"0.5*own/one{options} + 0.5*own/two").columns
    rows = columns.transition_rows()
    assert np.array_equal(columns.episode[rows], columns.episode[rows + 1])
    # In every episode, states and rewards go on by one: rows of one episode of the original, whole.
    assert (columns.observations[rows + 1] - columns.observations[rows] == 1).all()
    assert len(np.unique(columns.rewards[rows])) == len(rows)
    ends = columns.timeouts[columns.last_rows - 1]
    assert ends.all() and columns.timeouts.sum() == len(columns.last_rows)


def test_what_leaves_nothing_or_does_not_fit_is_refused() -> None:
    keep("own/long", [5, 5])
    with pytest.raises(UsageError, match=r"nothing of own/long is left .* 2 episodes have 5 to 5 transitions"):
        catalog.load("own/long[transitions=4]")
    with pytest.raises(UsageError, match="has no source 'x'; it has: own/long-0"):
        catalog.load("own/long[source=x]")
    with pytest.raises(UsageError, match="reward=nice is no name for rewards; there are: minus-one"):
        catalog.load("own/long[reward=nice]")
    with pytest.raises(UsageError, match="observations=all chooses among the keys of dictionaries"):
        catalog.load("own/long[observations=all]")
    with pytest.raises(UsageError, match="needs Walker2d's 17 observations"):
        catalog.load("own/long[reward=walker2d-jump]")


def test_a_sweep_takes_mixtures_as_text_and_as_dictionaries() -> None:
    keep("own/one", [3])
    mixture = {"mix": ["own/one", {"data": "own/one", "episodes": 1}]}
    for datasets in (mixture, (mixture,), "own/one + own/one[episodes=1]"):
        (trial,) = expand(SweepSpec("bc", datasets, seeds=1))  # type: ignore[arg-type]
        assert trial.dataset == "own/one + own/one[episodes=1]"
    assert "own/one" in [entry["name"] for entry in catalog.known()]


def test_a_mixture_can_be_kept_and_is_then_read_from_its_file(root: Path, capsys: pytest.CaptureFixture) -> None:
    keep("own/one", [3, 2])
    keep("own/two", [4], start=10)
    recipe = "own/one[transitions=3] + own/two"
    main(["data", "make", recipe, "--keep", "own/mixed"])
    assert f"Made of {recipe}." in capsys.readouterr().out
    kept, built = catalog.load("own/mixed"), catalog.load(recipe)
    assert kept.spec.hash == built.spec.hash and kept.spec.sources == built.spec.sources
    assert (kept.file, built.file) == (str(root / "own/mixed.arrow"), None)
    with pytest.raises(SystemExit, match="2"):
        main(["data", "make", "own/one", "--keep", "own/mixed"])
    assert "give another --keep, or --overwrite it" in capsys.readouterr().err


def test_sources_of_odd_names_can_be_chosen(tmp_path: Path) -> None:
    """Labels of a log are anybody's: commas, bars, brackets and quotes among them."""
    labels = ["a,b", "c|d", "[e]", 'f"g', "h"]
    table = {"observations": np.arange(10.0)[:, None], "actions": np.zeros((10, 1)), "rewards": np.arange(10.0)}
    np.savez(tmp_path / "log.npz", **table, episode=np.arange(10) // 2, source=np.repeat(labels, 2))
    main(["data", "import", str(tmp_path / "log.npz"), "--name", "own/odd", "--action-low", "-1", "--action-high", "1"])
    assert rewards('own/odd[source="a,b"|"[e]"]') == [0, 4]
    assert rewards({"mix": [{"data": "own/odd", "source": labels[1:4]}]}) == [2, 4, 6]
    assert catalog.load('own/odd[source="f""g"]').spec.sources == ('f"g',)


# ---------------------------------------------------------------- names that stand for mixtures


def test_heterogeneous_takes_equal_shares_of_the_first_sources() -> None:
    for number in (1, 2, 3):
        keep(f"task/source-{number}", [4] * (30 // number), start=1_000 * number)
    for k in (1, 2, 3):
        dataset = catalog.load(f"task/heterogeneous-{k}")
        counts = np.bincount(dataset.columns.source[dataset.columns.transition_rows()])
        assert counts.tolist() == [120 // k // 4 * 4] * k
        assert dataset.spec.name == f"task/heterogeneous-{k}"
    with pytest.raises(UsageError, match="'task/source-4' is not in the library"):
        catalog.load("task/heterogeneous-4")


def test_pools_pay_what_their_environment_pays() -> None:
    """LAPO's walker2d-mix: data of three tasks, rewards of one, and the evaluation is of that one."""
    for task in ("forward", "backward", "jump"):
        environment = gymnasium.make(f"raymix/Walker2d{task.title()}-v0")
        observation, _ = environment.reset(seed=1)
        environment.action_space.seed(1)
        episodes = []
        for _ in range(3):
            observation, _ = environment.reset()
            observations, actions, earned, over = [observation], [], [], False
            while not over:
                actions.append(environment.action_space.sample())
                observation, paid, terminated, truncated, _ = environment.step(actions[-1])
                assert paid == reward(task, actions[-1], observation)
                observations.append(observation)
                earned.append(paid)
                over = terminated or truncated
            end = np.arange(len(earned)) == len(earned) - 1
            episode = Episode(
                np.array(observations), np.array(actions), np.array(earned), end & terminated, end & truncated
            )
            episodes.append(episode)
        spec = json.dumps({"id": environment.spec.id, "kwargs": {}, "max_episode_steps": 1000})
        library.save(
            make_dataset(
                from_episodes(episodes),
                f"walker2d/{task}",
                action_low=[-1] * 6,
                action_high=[1] * 6,
                environment=spec,
            )
        )
    own = catalog.load("walker2d/jump")
    relabelled = catalog.load("walker2d/jump[reward=walker2d-jump]")
    assert np.allclose(own.columns.rewards, relabelled.columns.rewards, atol=1e-5)
    pool = catalog.load("walker2d-mix-jump")
    assert pool.spec.name == "walker2d-mix-jump" and len(pool.spec.sources) == 3
    assert json.loads(pool.spec.environment or "")["id"] == "raymix/Walker2dJump-v0"
    rows = pool.columns.transition_rows()
    expected = reward("jump", pool.columns.actions[rows], pool.columns.observations[rows + 1])
    assert np.allclose(pool.columns.rewards[rows], expected, atol=1e-4)


def test_named_rewards_are_those_of_the_papers() -> None:
    keep("own/maze", [2, 3])  # rewards 0 1 | 2 3 4, returns 1 and 9
    assert rewards("own/maze[reward=minus-one]") == [-1, 0, 1, 2, 3]
    assert rewards("own/maze[reward=times-100, reward_shift=-0.5]") == [-0.5, 99.5, 199.5, 299.5, 399.5]
    assert rewards("own/maze[reward=by-maximum]") == [0, 0.25, 0.5, 0.75, 1]
    assert rewards("own/maze[reward=by-returns, reward_scale=0.008]") == pytest.approx([0, 1, 2, 3, 4])
    columns = catalog.load("own/maze[reward=minus-one]").columns
    assert (columns.rewards[columns.last_rows] == 0).all()

"""What `raymix data info` says of a data set, beside what a plain loop over its episodes finds."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from raymix.cli import main
from raymix.data import describe, toy
from raymix.data.columns import Episode, from_episodes, make_dataset
from raymix.report.dataset_page import info_page
from raymix.types import Dataset


def episode(length: int, index: int, terminated: bool, source: int) -> Episode:
    """Of numbers from so few values that some transitions repeat."""
    random = np.random.default_rng([length, index])
    end = np.arange(length) == length - 1
    return Episode(
        random.integers(0, 2, (length + 1, 2)).astype(float),
        random.choice([-1.0, -0.5, 3.0], (length, 2)),
        random.integers(0, 3, length).astype(float),
        end & terminated,
        end & (not terminated),
        source,
    )


def dataset_of(episodes: list[Episode], sources: tuple[str, ...] = ("a", "b", "nobody")) -> Dataset:
    columns = from_episodes(episodes)
    return make_dataset(columns, "test/some-v0", action_low=[-1.0, -1.0], action_high=[3.0, 3.5], sources=sources)


EPISODES = st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.integers(0, 1)), min_size=1, max_size=12).map(
    lambda shapes: [episode(length, index, end, source) for index, (length, end, source) in enumerate(shapes)]
)


@settings(deadline=None)
@given(EPISODES)
def test_facts_are_those_that_a_loop_over_episodes_finds(episodes: list[Episode]):
    facts = describe.describe(dataset_of(episodes))
    lengths = [len(each.actions) for each in episodes]
    assert facts["episode_lengths"] == {"min": min(lengths), "median": np.median(lengths), "max": max(lengths)}
    assert facts["terminals"] == sum(each.terminations[-1] for each in episodes)
    assert facts["terminals"] + facts["timeouts"] == len(episodes)
    for source, found in enumerate(facts["by_source"]):
        own = [each for each in episodes if each.source == source]
        assert (found["episodes"], found["transitions"]) == (len(own), sum(len(each.actions) for each in own))
        returns = [each.rewards.sum() for each in own]
        if not own:
            assert found["returns"] is None
            continue
        assert found["returns"]["mean"] == pytest.approx(np.mean(returns))
        assert found["returns"]["sd"] == pytest.approx(np.std(returns, ddof=1) if len(own) > 1 else 0.0)
        assert found["returns"]["quantiles"]["0.25"] == pytest.approx(np.quantile(returns, 0.25))
    rewards = np.concatenate([each.rewards for each in episodes])
    assert facts["rewards"]["zeros"] == pytest.approx((rewards == 0).mean())
    assert facts["rewards"]["distinct"] == len(set(rewards.tolist()))


@settings(deadline=None)
@given(EPISODES)
def test_a_duplicate_repeats_an_earlier_transition_in_every_number(episodes: list[Episode]):
    transitions = [
        (*each.observations[step : step + 2].ravel(), *each.actions[step], each.rewards[step], each.terminations[step])
        for each in episodes
        for step in range(len(each.actions))
    ]
    assert describe.describe(dataset_of(episodes))["duplicates"] == len(transitions) - len(set(transitions))


@pytest.mark.parametrize("column", ["observations", "actions", "rewards"])
def test_one_other_number_is_no_duplicate(column: str):
    """Catches a hash that overlooks a column, a place or a sign: each transition is once as it is, once changed."""
    one = Episode(np.full((2, 2), 0.5), np.full((1, 2), 0.5), np.full(1, 0.5), np.ones(1, bool), np.zeros(1, bool))
    width = getattr(one, column).size
    changed = []
    for place in range(width):
        values = getattr(one, column).copy()
        values.flat[place] *= -1
        changed.append(dataclasses.replace(one, **{column: values}))
    assert describe.describe(dataset_of([one, *changed, one]))["duplicates"] == 1


def test_saturation_is_counted_per_dimension_at_the_box_of_each():
    actions = np.array([[-1.0, -1.0], [-0.9999, 3.4999], [3.0, 3.4], [0.0, 0.0]])
    still = np.zeros(4, bool)
    facts = describe.describe(dataset_of([Episode(np.zeros((5, 1)), actions, np.zeros(4), still, still)]))
    edges = [(each["at_low"], each["at_high"]) for each in facts["action_columns"]]
    assert edges == [(0.5, 0.25), (0.25, 0.25)] and facts["saturated"] == pytest.approx(1.25 / 2)


def test_constant_columns_and_sparse_rewards_are_named():
    observations = np.column_stack([np.arange(31.0), np.full(31, 0.1)])
    actions = np.column_stack([np.full(30, 0.3), np.linspace(-1, 1, 30)])
    rewards, still = np.where(np.arange(30) == 29, 1.0, -1.0), np.zeros(30, bool)
    facts = describe.describe(dataset_of([Episode(observations, actions, rewards, still, still)]))
    assert (facts["constant_observations"], facts["constant_actions"]) == ([1], [0])
    assert facts["rewards"]["sparse"] and facts["rewards"]["most_common"] == -1
    plain = describe.describe(dataset_of([Episode(observations, actions, np.arange(30.0), still, still)]))
    assert not plain["rewards"]["sparse"]
    assert "never change: 1 (1)" in describe.text(facts) and ", sparse" in describe.text(facts)


@pytest.mark.parametrize("make", [toy.constant, toy.chain, toy.two_goals, toy.navigation])
def test_text_fits_the_screen_and_the_page_needs_no_other_file(make):
    dataset = make()
    facts = describe.describe(dataset)
    assert json.loads(json.dumps(facts)) == facts and facts["num_transitions"] == dataset.spec.num_transitions
    assert max(map(len, describe.text(facts).splitlines())) <= 100
    page = info_page(dataset, facts)
    addresses = re.findall(r'(?:src|href)="(.{10})', page)
    assert len(addresses) == 5 and set(addresses) == {"data:image"}


def test_info_writes_its_page_or_refuses_before_it_loads(tmp_path: Path, capsys: pytest.CaptureFixture):
    main(["data", "info", "two-goals", "--html", str(tmp_path / "page.html"), "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert [each["episodes"] for each in facts["by_source"]] == [200, 200]
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    with pytest.raises(SystemExit, match="2"):
        main(["data", "info", "no-such-data", "--html", str(tmp_path / "none" / "page.html")])
    assert "page.html cannot be written" in capsys.readouterr().err

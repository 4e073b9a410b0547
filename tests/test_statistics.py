"""Statistics over seeds and tasks: point estimates beside formulas written out here, intervals beside the truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from raymix.report.statistics import (
    aggregate,
    difference,
    expected_online_performance,
    interquartile_mean,
    interval,
    performance_profile,
    probability_of_improvement,
    summarize,
)
from raymix.types import UsageError

TOLERANCE = {"rel": 1e-9, "abs": 1e-9}


def random_tasks(random: np.random.Generator, seeds: int = 0) -> list[list[float]]:
    sizes = [seeds or int(random.integers(1, 9)) for _ in range(int(random.integers(1, 6)))]
    # Rounded, so that ties occur.
    return [list(random.normal(50, 20, size).round(int(random.integers(0, 3)))) for size in sizes]


def iqm_by_hand(values: list[float]) -> float:
    cut = len(values) // 4
    kept = sorted(values)[cut : len(values) - cut]
    return math.fsum(kept) / len(kept)


def test_interquartile_means_are_those_of_the_definition() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        tasks = random_tasks(random)
        pooled = list(itertools.chain(*tasks))
        assert interquartile_mean(pooled) == pytest.approx(iqm_by_hand(pooled), **TOLERANCE)
        assert aggregate(tasks)[0] == pytest.approx(iqm_by_hand(pooled), **TOLERANCE)


def test_means_and_deviations_are_those_of_the_definition() -> None:
    random = np.random.default_rng(1)
    for _ in range(50):
        scores = list(random.normal(1e3, 1.0, size=int(random.integers(2, 30))))
        mean = math.fsum(scores) / len(scores)
        deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / (len(scores) - 1))
        summary = summarize(scores)
        assert (summary.mean, summary.std) == (pytest.approx(mean, **TOLERANCE), pytest.approx(deviation, **TOLERANCE))


def test_probabilities_of_improvement_are_those_of_the_definition() -> None:
    random = np.random.default_rng(2)
    for _ in range(50):
        tasks = [(one, random_tasks(random)[0]) for one in random_tasks(random)]
        expected = []
        for one, other in tasks:
            wins = [1.0 if x > y else 0.5 if x == y else 0.0 for x in one for y in other]
            expected.append(sum(wins) / len(wins))
        assert probability_of_improvement(tasks) == pytest.approx(sum(expected) / len(expected), **TOLERANCE)
    assert probability_of_improvement([([math.nan, 3.0], [2.0, math.nan])]) == (0 + 0.5 + 1 + 1) / 4


def test_performance_profiles_are_those_of_the_definition() -> None:
    random = np.random.default_rng(3)
    thresholds = np.linspace(0, 100, 21)
    for _ in range(20):
        tasks = random_tasks(random)
        expected = [
            sum(sum(score > threshold for score in task) / len(task) for task in tasks) / len(tasks)
            for threshold in thresholds
        ]
        assert performance_profile(tasks, thresholds) == pytest.approx(expected, **TOLERANCE)
    assert list(performance_profile([[math.nan, 5.0]], np.array([-1e9, 4.0, 5.0]))) == [0.5, 0.5, 0.0]


def test_expected_online_performance_is_the_mean_over_all_draws() -> None:
    """Every subset of configurations, every seed that chooses, ties told apart in both ways."""
    random = np.random.default_rng(4)
    for _ in range(10):
        scores = random.normal(50, 10, size=(6, 3)).round(0)
        scores[0, 1], scores[4] = math.nan, scores[3]
        for budget in (1, 2, 4, 6):
            draws = []
            for subset, seed in itertools.product(itertools.combinations(range(6), budget), range(3)):
                chosen_by = [-math.inf if math.isnan(scores[c, seed]) else scores[c, seed] for c in subset]
                best = [c for c, score in zip(subset, chosen_by, strict=True) if score == max(chosen_by)]
                draws.append(np.mean([np.nanmean(np.delete(scores[c], seed)) for c in best]))
            assert expected_online_performance(scores, [budget]) == pytest.approx([np.mean(draws)], **TOLERANCE)


def test_luck_does_not_pay() -> None:
    """Configurations that differ by noise alone: the best of many scores no more than one."""
    scores = np.random.default_rng(5).normal(0, 1, size=(2_000, 2))
    one, many = expected_online_performance(scores, [1, 16])
    assert abs(many - one) < 0.3 < 3 < scores.max()
    better = scores + np.linspace(0, 10, 2_000)[:, None]
    assert expected_online_performance(better, [1_000])[0] > 9
    assert 8.5 < expected_online_performance(better, [16])[0] < 9.9


def test_impossible_budgets_are_refused() -> None:
    with pytest.raises(UsageError, match="needs 2 seeds"):
        expected_online_performance(np.zeros((4, 1)), [1])
    with pytest.raises(UsageError, match="from 1 to the 4 configurations"):
        expected_online_performance(np.zeros((4, 2)), [1, 8])


def test_differences_are_paired_by_seed() -> None:
    paired = difference({0: 11.0, 1: 22.0, 2: 33.0, 3: math.nan, 9: 5.0}, {0: 10.0, 1: 20.0, 2: 30.0, 3: 1.0, 7: 0.0})
    assert (paired.mean, paired.pairs) == (pytest.approx(2.0), 3)
    # By hand: standard error 1 / sqrt(3), t(0.975, 2) = 4.302653.
    assert paired.interval == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)
    assert difference({0: 1.0, 1: 2.0}, {0: 0.0, 1: 0.0}).interval is None
    assert math.isnan(difference({0: math.nan}, {0: 1.0}).mean)


def test_differences_without_a_common_seed_are_welchs() -> None:
    one, other = [4.0, 6.0, 8.0], [1.0, 2.0, 3.0, 4.0]
    unpaired = difference(dict(enumerate(one)), dict(enumerate(other, start=10)))
    a, b = 4.0 / 3, (5 / 3) / 4
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 3)
    from scipy.special import stdtrit

    half = stdtrit(freedom, 0.975) * math.sqrt(a + b)
    assert (unpaired.mean, unpaired.pairs) == (pytest.approx(3.5), 0)
    assert unpaired.interval == pytest.approx((3.5 - half, 3.5 + half), **TOLERANCE)
    assert difference({0: 1.0}, {1: 2.0, 2: 2.0, 3: 2.0}).interval is None


def test_aggregates_say_when_they_cannot_tell() -> None:
    runs = [[10.0 * task + seed for seed in range(5)] for task in range(6)]
    mean, ends = aggregate(runs)
    assert ends is not None and ends[0] < mean < ends[1]
    assert aggregate(runs) == (mean, ends)
    assert aggregate(runs[:4])[1] is None and aggregate([task[:3] for task in runs])[1] is None
    one_diverged, many = [[math.nan, *runs[0][1:]], *runs[1:]], [[math.nan] * 5, [math.nan] * 5, *runs[2:]]
    assert aggregate(one_diverged) == (pytest.approx(mean), None)
    assert aggregate(many) == (-math.inf, None)


def share_covered(truth: float, experiments: int, experiment: Callable[[], tuple[float, float] | None]) -> float:
    ends = [experiment() or (math.nan, math.nan) for _ in range(experiments)]
    return float(np.mean([low <= truth <= high for low, high in ends]))


@pytest.mark.parametrize("seeds", [3, 5, 10, 20])
def test_intervals_of_a_mean_cover_it(seeds: int) -> None:
    random = np.random.default_rng(0)
    covered = share_covered(50.0, 1_000, lambda: interval(list(random.normal(50, 10, seeds))))
    assert 0.93 <= covered <= 0.97, covered


@pytest.mark.parametrize("seeds", [3, 5, 10, 20])
def test_intervals_of_a_paired_difference_cover_it(seeds: int) -> None:
    random = np.random.default_rng(1)

    def experiment() -> tuple[float, float] | None:
        shared = random.normal(0, 5, seeds)
        sides = [mean + shared + random.normal(0, 10, seeds) for mean in (53.0, 50.0)]
        return difference(*(dict(enumerate(side)) for side in sides)).interval

    covered = share_covered(3.0, 1_000 if seeds < 10 else 300, experiment)
    assert 0.93 <= covered <= 0.97, covered


def aggregate_covered(tasks: int, seeds: int, experiments: int) -> float:
    """Tasks of unlike difficulty and spread; the truth is what experiments of this size average to."""
    random = np.random.default_rng(2)
    means, deviations = np.linspace(30, 90, tasks)[:, None], np.linspace(12, 4, tasks)[:, None]
    many = random.normal(means, deviations, (20_000, tasks, seeds)).reshape(20_000, -1)
    cut = tasks * seeds // 4
    truth = float(np.sort(many, axis=1)[:, cut : tasks * seeds - cut].mean())
    draw = lambda: [list(task) for task in random.normal(means, deviations, (tasks, seeds))]  # noqa: E731
    return share_covered(truth, experiments, lambda: aggregate(draw())[1])


def test_intervals_of_an_aggregate_cover_it() -> None:
    assert 0.9 <= aggregate_covered(tasks=5, seeds=5, experiments=200) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "seeds"), [(5, 5), (5, 10), (5, 20), (10, 3), (10, 5), (10, 10), (20, 3)])
def test_intervals_of_an_aggregate_cover_it_at_every_size(tasks: int, seeds: int) -> None:
    covered = aggregate_covered(tasks, seeds, experiments=1_000)
    assert 0.93 <= covered <= 0.97, covered

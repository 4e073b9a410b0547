"""Statistics over seeds: what a table or a figure may say about a handful of scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special, stats

from raymix.types import UsageError

FEWEST_SEEDS = 3
"""Below this many scores there is no interval."""
FEWEST_TASKS, FEWEST_FREEDOM = 5, 20
"""An aggregate over tasks has an interval from that many tasks and degrees of freedom (runs less tasks) on."""
_FEWEST_FOR_BOOTSTRAP = 10
_TRIMMED = 0.25
_RESAMPLES = 9_999


@dataclass(frozen=True)
class Summary:
    """Statistics over the seeds of one configuration. Diverged seeds are counted, and are in no other number."""

    mean: float
    std: float
    """Sample standard deviation (ddof 1); NaN for fewer than two scores."""
    iqm: float
    """Interquartile mean; the mean for fewer than four scores."""
    interval: tuple[float, float] | None
    """Confidence interval of the mean, or None for fewer than three scores."""
    seeds: int
    """Scores given, the diverged ones included."""
    diverged: int


def summarize(scores: Sequence[float], confidence: float = 0.95) -> Summary:
    """Statistics over the scores of seeds; a score that is not finite counts as a diverged seed."""
    finite = [score for score in scores if math.isfinite(score)]
    return Summary(
        mean=float(np.mean(finite)) if finite else math.nan,
        std=float(np.std(finite, ddof=1)) if len(finite) > 1 else math.nan,
        iqm=interquartile_mean(finite),
        interval=interval(finite, confidence),
        seeds=len(scores),
        diverged=len(scores) - len(finite),
    )


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Confidence interval of the mean: Student-t for fewer than 10 values, else a seeded bootstrap.

    The bootstrap's is the expanded percentile interval (Hesterberg, The American Statistician 69, 2015, section 4.3):
    plain and BCa intervals are too short for 10 values. None for fewer than three values: an interval from two is too
    wide to mean anything. Raises `UsageError` for values that are not finite (`summarize` counts them) and for a
    confidence that is no probability.
    """
    if not 0 < confidence < 1:
        raise UsageError(f"confidence is {confidence!r} but must lie between 0 and 1, such as 0.95")
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise UsageError(f"an interval needs finite values, not {list(values)}; summarize counts diverged seeds")
    if len(array) < FEWEST_SEEDS:
        return None
    mean = float(array.mean())
    if np.ptp(array) == 0:
        return mean, mean
    if len(array) < _FEWEST_FOR_BOOTSTRAP:
        half = float(stats.t.ppf(0.5 + confidence / 2, len(array) - 1) * stats.sem(array))
        return mean - half, mean + half
    return _bootstrap([array], np.mean, confidence)


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean of what is left when a quarter (rounded down) is cut from each end; NaN without values."""
    return float(stats.trim_mean(values, _TRIMMED)) if len(values) else math.nan


def aggregate(tasks: Sequence[Sequence[float]], confidence: float = 0.95) -> tuple[float, tuple[float, float] | None]:
    """Interquartile mean over the runs of several tasks, whose scores are comparable (normalized), and its interval.

    One sequence of scores per task, one score per seed. The bootstrap draws seeds within each task (Agarwal et al.,
    NeurIPS 2021), and is expanded for few seeds as in `interval`. A diverged seed (NaN) counts as worse than any
    score, so the mean is -inf when more than a quarter of the runs diverged. No interval where a seed diverged, nor for
    fewer than three seeds, `FEWEST_TASKS` tasks or `FEWEST_FREEDOM`: it would promise more than it keeps.
    """
    runs = [np.asarray(task, dtype=np.float64) for task in tasks]
    pooled = np.nan_to_num(np.concatenate(runs), nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    mean = interquartile_mean(list(pooled))
    few = len(runs) < FEWEST_TASKS or min(map(len, runs)) < FEWEST_SEEDS
    if few or len(pooled) - len(runs) < FEWEST_FREEDOM or not np.isfinite(pooled).all():
        return mean, None
    return mean, _bootstrap(runs, lambda drawn, axis: stats.trim_mean(drawn, _TRIMMED, axis=axis), confidence)


@dataclass(frozen=True)
class Difference:
    """How much higher one configuration scores than another."""

    mean: float
    """Mean of the differences of seeds that both have; of the means where they share none. NaN without scores."""
    interval: tuple[float, float] | None
    """95 % interval; None for fewer than three pairs (or, unpaired, than three seeds on either side)."""
    pairs: int
    """Seeds that both have and that diverged in neither; 0 where the two were compared unpaired."""


def difference(scores: Mapping[int, float], baseline: Mapping[int, float], confidence: float = 0.95) -> Difference:
    """`scores - baseline`, both as a score per seed, paired by seed; diverged seeds (not finite) have no pair.

    Where the two share no seed at all their means are compared (Welch's interval).
    """
    if shared := scores.keys() & baseline.keys():
        pairs = [scores[seed] - baseline[seed] for seed in sorted(shared)]
        pairs = [pair for pair in pairs if math.isfinite(pair)]
        return Difference(float(np.mean(pairs)) if pairs else math.nan, interval(pairs, confidence), len(pairs))
    one, other = ([score for score in side.values() if math.isfinite(score)] for side in (scores, baseline))
    mean = float(np.mean(one) - np.mean(other)) if one and other else math.nan
    if min(len(one), len(other)) < FEWEST_SEEDS:
        return Difference(mean, None, 0)
    if np.ptp(one) == np.ptp(other) == 0:
        return Difference(mean, (mean, mean), 0)
    welch = stats.ttest_ind(one, other, equal_var=False).confidence_interval(confidence)
    return Difference(mean, (float(welch.low), float(welch.high)), 0)


def difference_from_summary(
    scores: Sequence[float], mean: float, std: float | None, seeds: int | None, confidence: float = 0.95
) -> Difference:
    """`scores` (one per seed) less a published mean, with Welch's interval from its sample standard deviation `std`.

    Scores that are not finite are left out. No interval without `std` and `seeds`, and for fewer than three seeds on
    either side.
    """
    finite = [score for score in scores if math.isfinite(score)]
    if not finite:
        return Difference(math.nan, None, 0)
    gap = float(np.mean(finite)) - mean
    if std is None or seeds is None or min(len(finite), seeds) < FEWEST_SEEDS:
        return Difference(gap, None, 0)
    own, other = float(np.var(finite, ddof=1)) / len(finite), std**2 / seeds
    if own + other == 0:
        return Difference(gap, (gap, gap), 0)
    freedom = (own + other) ** 2 / (own**2 / (len(finite) - 1) + other**2 / (seeds - 1))
    half = float(stats.t.ppf(0.5 + confidence / 2, freedom)) * math.sqrt(own + other)
    return Difference(gap, (gap - half, gap + half), 0)


def probability_of_improvement(tasks: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """How probable it is that a run of the first method scores higher than one of the second, mean over tasks.

    Ties count half (Agarwal et al., NeurIPS 2021, appendix A.4); a diverged seed (NaN) loses against any score. There
    is no interval: a bootstrap has width zero where the few seeds do not overlap.
    """
    ranked = [[np.nan_to_num(np.asarray(side, dtype=np.float64), nan=-math.inf) for side in task] for task in tasks]
    wins = [np.mean((x[:, None] > y) + 0.5 * (x[:, None] == y)) for x, y in ranked]
    return float(np.mean(wins))


def performance_profile(tasks: Sequence[Sequence[float]], thresholds: np.ndarray) -> np.ndarray:
    """Share of runs that score above each threshold (T,), mean over tasks; a diverged seed (NaN) is above none."""
    shares = [np.mean(np.asarray(task, dtype=np.float64)[:, None] > thresholds, axis=0) for task in tasks]
    return np.mean(shares, axis=0)


def expected_online_performance(scores: np.ndarray, budgets: Sequence[int]) -> list[float]:
    """Expected score of what is deployed after `n` of the configurations were tried in one evaluation each.

    `scores` (C, S) of C configurations and S seeds, more is better, NaN: diverged. The best of n configurations, drawn
    without replacement, is chosen by one seed's scores, and scores the mean of the *other* seeds: a choice by luck does
    not pay. Averaged over all draws (exactly: the configuration of rank i is the best of n in comb(i - 1, n - 1) of
    comb(C, n) draws) and over which seed chooses. After Kurenkov and Kolesnikov (ICML 2022), whose value of a
    configuration is the score it was chosen by. NaN where a choice could fall on a configuration without other scores.
    Raises `UsageError` for fewer than two seeds, and for a budget that is not from 1 to C.
    """
    count, seeds = scores.shape
    if seeds < 2:
        raise UsageError(f"expected online performance needs 2 seeds, one to choose by, not {seeds}; add seeds")
    if not all(1 <= budget <= count for budget in budgets):
        raise UsageError(f"budgets go from 1 to the {count} configurations, not {list(budgets)}")
    finite = np.isfinite(scores)
    filled = np.where(finite, scores, 0.0)
    expected = []
    for seed in range(seeds):
        chosen_by = np.where(finite[:, seed], scores[:, seed], -math.inf)
        others = finite.sum(1) - finite[:, seed]
        with np.errstate(invalid="ignore", divide="ignore"):
            deployed = (filled.sum(1) - filled[:, seed]) / others
        # Equal scores are told apart by chance: each of them scores their mean.
        _, inverse = np.unique(chosen_by, return_inverse=True)
        deployed = (np.bincount(inverse, deployed) / np.bincount(inverse))[inverse]
        ranked = deployed[np.argsort(chosen_by)]
        weights = [_best_of(count, budget) for budget in budgets]
        expected.append([float(np.sum(ranked[weight > 0] * weight[weight > 0])) for weight in weights])
    return [float(value) for value in np.mean(expected, axis=0)]


def _best_of(count: int, n: int) -> np.ndarray:
    """(count,) probabilities that the configuration of each rank, from the worst up, is the best of n drawn ones."""
    rank = np.arange(n - 1, count)
    # Logarithms: comb(2000, 1000) is no float.
    logarithm = special.gammaln(rank + 1) - special.gammaln(rank - n + 2) - special.gammaln(n)
    logarithm -= special.gammaln(count + 1) - special.gammaln(count - n + 1) - special.gammaln(n + 1)
    return np.concatenate([np.zeros(n - 1), np.exp(logarithm)])


def _bootstrap(strata: Sequence[np.ndarray], statistic: Callable[..., Any], confidence: float) -> tuple[float, float]:
    """Expanded percentile interval of `statistic(values, axis=1)`; values are drawn within each stratum."""
    random = np.random.default_rng(0)
    drawn = [one[random.integers(0, len(one), (_RESAMPLES, len(one)))] for one in strata]
    values = statistic(np.concatenate(drawn, axis=1), axis=1)
    # Draws spread too little by sqrt((n - 1) / n), and a normal distribution's tails are too light for few values.
    fewest, freedom = min(map(len, strata)), sum(len(one) - 1 for one in strata)
    tail = stats.norm.cdf(math.sqrt(fewest / (fewest - 1)) * stats.t.ppf((1 - confidence) / 2, freedom))
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)

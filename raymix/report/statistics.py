"""Statistics over seeds: what a table or a figure may say about a handful of scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from raymix.types import UsageError

FEWEST_SEEDS = 3
"""Below this many scores there is no interval."""
_FEWEST_FOR_BOOTSTRAP = 10
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
    """Confidence interval of the mean: Student-t for fewer than 10 values, else a seeded BCa bootstrap.

    None for fewer than three values: an interval from two is too wide to mean anything. Raises `UsageError` for
    values that are not finite (`summarize` counts them) and for a confidence that is no probability.
    """
    if not 0 < confidence < 1:
        raise UsageError(f"confidence is {confidence!r} but must lie between 0 and 1, such as 0.95")
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise UsageError(f"an interval needs finite values, not {list(values)}; summarize counts diverged seeds")
    if len(array) < FEWEST_SEEDS:
        return None
    mean = float(array.mean())
    # Equal values have zero width; the bootstrap's acceleration would be 0 / 0.
    if np.ptp(array) == 0:
        return mean, mean
    if len(array) < _FEWEST_FOR_BOOTSTRAP:
        half = float(stats.t.ppf(0.5 + confidence / 2, len(array) - 1) * stats.sem(array))
        return mean - half, mean + half
    random = np.random.default_rng(0)
    result = stats.bootstrap((array,), np.mean, n_resamples=_RESAMPLES, confidence_level=confidence, rng=random)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean of what is left when a quarter (rounded down) is cut from each end; NaN without values."""
    return float(stats.trim_mean(values, 0.25)) if len(values) else math.nan

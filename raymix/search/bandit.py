"""Population-based bandits (PB2): which values to go on with, by how much the score grew with those that were tried.

The growth of a member's score from one generation to the next is a Gaussian process over the generation, the score that
it began with and its values. Its kernel is a squared exponential over score and values times exp(-|difference of
generations| / memory), so what was learnt long ago counts less: an improvement of today's networks says little of
those of then. The next values are those with the highest mean + sqrt(b) * standard deviation, where b = 0.2 + max(0,
log(0.4 n)) for n observations. Members that choose at the same generation do so one after another: the mean is that of
the observations, while the deviation also knows where others are about to train, whose result is not needed for that.
So no two choose alike.

Values are numbers of the unit cube: a range from 0 to 1, in the logarithm if it is logarithmic; each value of a choice
is a number of its own, 0 or 1 / sqrt(2), so that two choices are as far apart as the ends of a range and in no order.

Sources: Parker-Holder, Nguyen and Roberts, "Provably Efficient Online Hyperparameter Optimization with Population-Based
Bandits" (2020, arXiv 2002.02518). The kernel is of Bogunovic, Scarlett and Cevher, "Time-Varying Gaussian Process
Bandit Optimization" (2016), whose (1 - e) ** (|difference| / 2) it is with memory = -2 / log(1 - e); the deviation is
of Desautels, Krause and Burdick (2014, GP-BUCB). That the score is a coordinate, b, and that targets are kept within 2
standard deviations are as in Ray Tune's PB2; other than there, the root of b weighs the deviation, not the variance.
Choices as numbers are raymix's. Imports neither ray nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from raymix.search.optuna import Dimension, Space

MOST = 400
"""Observations that are used, the last ones: a decision takes seconds, however long a population trains."""
CANDIDATES = 1_000
"""Points of which the best is taken, first anywhere, then near the best of those."""
NEAR = 0.05
"""Standard deviation of that nearness, in shares of a range."""


@dataclass(frozen=True)
class Kernel:
    """Of targets with mean 0 and variance 1."""

    variance: float
    length: float
    """Distance in the unit cube over which values tell of each other."""
    memory: float
    """Generations after which an observation tells 1/e as much."""
    noise: float
    """Variance of an observation around what it is of."""

    def between(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Covariances without noise, (n, m), of inputs (n, 1 + d) and (m, 1 + d) whose first column is the time."""
        return self.variance * np.exp(
            -_squared_distances(a, b) / (2 * self.length**2) - cdist(a[:, :1], b[:, :1], "cityblock") / self.memory
        )


BOUNDS = ((0.05, 20.0), (0.1, 10.0), (1.0, 1_000.0), (1e-3, 1.0))
"""Of the kernel's numbers, in their order: from nearly independent values to a line, from one generation to always."""
STARTS = tuple(Kernel(1.0, length, memory, 0.1) for length in (0.3, 1.0) for memory in (3.0, 30.0))
"""Where the fit begins; the likeliest end counts."""


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return cdist(a[:, 1:], b[:, 1:], "sqeuclidean")


def posterior(
    kernel: Kernel, inputs: np.ndarray, targets: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (without noise), (m,) each, at `points`, (m, 1 + d), of a process that was observed
    at `inputs`, (n, 1 + d), to have `targets`, (n,)."""
    factor = np.linalg.cholesky(kernel.between(inputs, inputs) + kernel.noise * np.eye(len(inputs)))
    across = kernel.between(inputs, points)
    mean = across.T @ cho_solve((factor, True), targets)
    explained = np.sum(solve_triangular(factor, across, lower=True) ** 2, axis=0)
    return mean, np.sqrt(np.maximum(kernel.variance - explained, 0.0))


def log_likelihood(kernel: Kernel, inputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    """The logarithm of the targets' density, and its gradient by the logarithms of the kernel's numbers, (4,)."""
    signal = kernel.between(inputs, inputs)
    factor = np.linalg.cholesky(signal + kernel.noise * np.eye(len(inputs)))
    weights = cho_solve((factor, True), targets)
    value = -0.5 * targets @ weights - np.sum(np.log(np.diag(factor))) - 0.5 * len(targets) * math.log(2 * math.pi)
    # Half the trace of (weights weights' - inverse) times the derivative of the covariance.
    outer = np.outer(weights, weights) - cho_solve((factor, True), np.eye(len(inputs)))
    times = cdist(inputs[:, :1], inputs[:, :1], "cityblock")
    derivatives = (
        signal,
        signal * _squared_distances(inputs, inputs) / kernel.length**2,
        signal * times / kernel.memory,
        kernel.noise * np.eye(len(inputs)),
    )
    return float(value), np.array([0.5 * np.sum(outer * each) for each in derivatives])


def fitted(inputs: np.ndarray, targets: np.ndarray) -> Kernel:
    """The kernel within `BOUNDS` by which the observations are likeliest."""

    def unlikeliness(logarithms: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = log_likelihood(Kernel(*np.exp(logarithms)), inputs, targets)
        return -value, -gradient

    ends = [
        minimize(
            unlikeliness,
            np.log([start.variance, start.length, start.memory, start.noise]),
            jac=True,
            method="L-BFGS-B",
            bounds=np.log(BOUNDS),
            options={"maxiter": 100},
        )
        for start in STARTS
    ]
    return Kernel(*map(float, np.exp(min(ends, key=lambda end: end.fun).x)))


@dataclass(frozen=True)
class Observation:
    """How a member fared from one generation to the next."""

    time: int
    """The number of the generation at which it began."""
    score: float
    """Of its networks there: of those that it took over, if it did. Finite; more is better."""
    values: Mapping[str, Any]
    """What it trained with."""
    growth: float
    """By how much its score was higher at the next generation; -inf: it had none there."""


class Bandit:
    """What a population has learnt, and where its members are about to train."""

    def __init__(self, space: Space, observations: Sequence[Observation], time: int) -> None:
        """Asked at the generation with number `time` about the next ones. Growths of -inf count as the least that is
        known; at least one has to be finite."""
        self._space, self._time = space, time
        known = list(observations)[-MOST:]
        scores = [each.score for each in known]
        self._lowest, self._span = min(scores), (max(scores) - min(scores)) or 1.0
        growths = np.array([each.growth for each in known])
        growths = np.where(np.isfinite(growths), growths, np.min(growths[np.isfinite(growths)]))
        self._targets = np.clip((growths - growths.mean()) / (growths.std() or 1.0), -2.0, 2.0)
        self._inputs = np.array([self._input(each.time, each.score, each.values) for each in known])
        self._kernel = fitted(self._inputs, self._targets)
        self._about_to: list[list[float]] = []

    def add(self, score: float, values: Mapping[str, Any]) -> None:
        """A member goes on from this score (-inf: from none) with these values."""
        self._about_to.append(self._input(self._time, score, values))

    def choose(self, score: float, random: np.random.Generator) -> dict[str, Any]:
        """The values with which a member that has this score should go on."""
        anywhere = random.random((CANDIDATES, len(self._space)))
        best = self._best(score, anywhere)
        near = np.clip(anywhere[best] + NEAR * random.normal(size=anywhere.shape), 0.0, 1.0)
        near[0] = anywhere[best]
        return self._at(near[self._best(score, near)])

    def _best(self, score: float, shares: np.ndarray) -> int:
        # What counts is what the values are after rounding.
        points = np.array([self._input(self._time, score, self._at(each)) for each in shares])
        mean, _ = posterior(self._kernel, self._inputs, self._targets, points)
        inputs = np.array([*self._inputs, *self._about_to])
        _, deviation = posterior(self._kernel, inputs, np.zeros(len(inputs)), points)
        weight = 0.2 + max(0.0, math.log(0.4 * len(self._inputs)))
        return int(np.argmax(mean + math.sqrt(weight) * deviation))

    def _at(self, shares: np.ndarray) -> dict[str, Any]:
        return {name: dimension.at(share) for (name, dimension), share in zip(self._space.items(), shares.tolist())}

    def _input(self, time: int, score: float, values: Mapping[str, Any]) -> list[float]:
        height = min(max((score - self._lowest) / self._span, 0.0), 1.0)
        return [time, height, *(c for name, each in self._space.items() for c in coordinates(each, values[name]))]


def coordinates(dimension: Dimension, value: Any) -> list[float]:
    """Of a value in the unit cube; see the module."""
    if dimension.kind == "choice":
        place = dimension.values.index(value)
        return [math.sqrt(0.5) * (place == each) for each in range(len(dimension.values))]
    low, high = dimension.low, dimension.high
    if dimension.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return [(value - low) / (high - low) if high > low else 0.0]

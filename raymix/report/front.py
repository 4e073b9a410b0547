"""Pareto fronts: the configurations that no other one beats in both score and cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def pareto_front(points: Sequence[Sequence[float]]) -> list[bool]:
    """For each point of numbers of which less is better, whether no other one is as good in all and better in one.

    Equal points are on the front together; a point with a number that is not finite is not on it, and beats nobody.
    """
    array = np.asarray(points, np.float64)
    finite = [all(map(math.isfinite, point)) for point in points]
    alive = array[finite]
    return [
        on and not bool(np.any(np.all(alive <= point, axis=1) & np.any(alive < point, axis=1)))
        for on, point in zip(finite, array)
    ]


def on_fronts(configurations: Sequence[tuple[str, float, float]], minimize: bool) -> list[bool]:
    """Which configurations, each its data set, score and cost, are on the front of their data set.

    `minimize` says whether less score is better; one with a score of NaN is a candidate for none.
    """
    sign = 1.0 if minimize else -1.0
    marks = [False] * len(configurations)
    for dataset in dict.fromkeys(name for name, _, _ in configurations):
        members = [index for index, (name, _, _) in enumerate(configurations) if name == dataset]
        points = [(sign * score, cost) for name, score, cost in configurations if name == dataset]
        for index, on in zip(members, pareto_front(points)):
            marks[index] = on
    return marks

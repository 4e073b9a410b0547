"""PB2's Gaussian process against scikit-learn's, and populations whose best values are known."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern

from raymix import Population
from raymix.search.bandit import BOUNDS, Bandit, Kernel, Observation, coordinates, fitted, log_likelihood, posterior
from raymix.search.halving import rank
from raymix.search.optuna import Dimension, Space
from raymix.search.population import FEWEST, Decision, Generations
from raymix.types import UsageError

SPACE: Space = {
    "beta": Dimension("float", 0.01, 100.0, log=True),
    "rate": Dimension("float", 1e-5, 1e-1, log=True),
}
KERNEL = Kernel(1.3, 0.4, 5.0, 0.05)


def observed(number: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    inputs = np.column_stack([random.integers(0, 6, number).astype(float), random.random((number, 3))])
    return inputs, random.normal(size=number)


def test_the_posterior_is_that_of_scikit_learn() -> None:
    inputs, targets = observed(30)
    never = 1e12  # a coordinate that a factor does not look at
    kernel = (
        ConstantKernel(KERNEL.variance)
        * RBF([never, *[KERNEL.length] * 3])
        * Matern([KERNEL.memory, *[never] * 3], nu=0.5)
    )
    theirs = GaussianProcessRegressor(kernel, alpha=KERNEL.noise, optimizer=None).fit(inputs, targets)
    points = observed(50)[0][30:] + 0.1
    for found, expected in zip(posterior(KERNEL, inputs, targets, points), theirs.predict(points, return_std=True)):
        np.testing.assert_allclose(found, expected, rtol=1e-8)
    assert log_likelihood(KERNEL, inputs, targets)[0] == pytest.approx(theirs.log_marginal_likelihood_value_)


def test_the_likelihoods_gradient_is_its_slope_and_the_fit_climbs_it() -> None:
    inputs, targets = observed(20)
    numbers = np.log(dataclasses.astuple(KERNEL))
    _, gradient = log_likelihood(KERNEL, inputs, targets)
    for index, each in enumerate(gradient):
        step = np.zeros(4)
        step[index] = 1e-5
        up, down = (log_likelihood(Kernel(*np.exp(numbers + sign * step)), inputs, targets)[0] for sign in (1, -1))
        assert each == pytest.approx((up - down) / 2e-5, rel=1e-4)
    found = fitted(inputs, targets)
    assert log_likelihood(found, inputs, targets)[0] > log_likelihood(KERNEL, inputs, targets)[0]
    for number, (low, high) in zip(dataclasses.astuple(found), BOUNDS):
        assert low * (1 - 1e-9) <= number <= high * (1 + 1e-9)


def test_values_are_coordinates() -> None:
    assert coordinates(SPACE["beta"], 1.0) == pytest.approx([0.5])
    assert coordinates(Dimension("int", 1, 9, step=1), 3) == [0.25]
    places = [np.array(coordinates(Dimension("choice", values=["a", "b", "c"]), each)) for each in "abc"]
    assert [np.linalg.norm(places[0] - each) for each in places] == pytest.approx([0.0, 1.0, 1.0])


def test_no_two_members_choose_alike_and_lost_ones_count_as_worst() -> None:
    """Catches choices that do not know of each other, and members that diverged where the others would go."""
    space: Space = {"beta": SPACE["beta"], "depth": Dimension("choice", values=[1, 2, 4])}
    shares = np.linspace(0.05, 0.95, 8)
    known = [
        Observation(0, 0.0, {"beta": space["beta"].at(share), "depth": 2}, -math.inf if share > 0.5 else float(share))
        for share in shares
    ]
    chosen = []
    bandit = Bandit(space, known, 1)
    for seed in range(3):
        chosen.append(bandit.choose(0.0, np.random.default_rng(seed)))
        bandit.add(0.0, chosen[-1])
    assert all(space[name].holds(value) for each in chosen for name, value in each.items())
    assert len({tuple(each.values()) for each in chosen}) == 3
    alone = Bandit(space, known, 1)
    assert alone.choose(0.0, np.random.default_rng(0)) == chosen[0]
    assert not any(each["depth"] == 2 and each["beta"] > 10 for each in chosen)


# Populations


def growth(values: dict[str, Any]) -> float:
    """At most 1 per generation, at beta=3 and rate=1e-3, 2.5 decades and 2 from an end of the ranges."""
    x, y = math.log10(values["beta"] / 3.0) / 0.5, math.log10(values["rate"] / 1e-3) / 0.5
    return math.exp(-0.5 * (x * x + y * y))


def trained(explore: str, seed: int, generations: int = 6, kept: int | None = None) -> tuple[float, list[Decision]]:
    """The best score of a simulated population and its decisions; `kept`: read again when so many were known."""
    steps, random = list(range(1, generations + 1)), np.random.default_rng(seed)
    values = {f"m{i}": {name: each.at(random.random()) for name, each in SPACE.items()} for i in range(8)}

    def new(decided: list[Decision]) -> Generations:
        return Generations("d", members, Population(every=1, explore=explore), steps, SPACE, [seed], decided)

    members = dict(values)
    population, scores = new([]), dict.fromkeys(values, 0.0)
    history: list[tuple[str, int, float]] = []
    for step in steps:
        for name in scores:
            scores[name] += growth(values[name])
            # One loses its seed, and has a parent's afterwards if it copies.
            lost = (name, step) == ("m3", 2)
            history.append((name, step, math.nan if lost else scores[name]))
        if step == kept:
            population = new([Decision.of(dataclasses.asdict(each)) for each in population.decisions])
            for name, at, score in reversed(history):
                population.reach(name, at, rank([score], "mean"))
        else:
            for name, at, score in history[-len(scores) :]:
                population.reach(name, at, rank([score], "mean"))
        (decision,) = population.decide()
        before = dict(scores)
        for name, copy in decision.copies.items():
            scores[name], values[name] = before[copy.parent], copy.values
    return max(scores.values()), population.decisions


def test_a_bandit_finds_better_values_than_moves_do() -> None:
    found = {explore: [trained(explore, seed)[0] for seed in range(4)] for explore in ("perturb", "pb2")}
    assert np.mean(found["pb2"]) > np.mean(found["perturb"])


def test_a_population_that_is_read_again_asks_the_bandit_alike() -> None:
    """Catches a decision that depends on what only a running process knows, and on the order of the ledger."""
    whole = trained("pb2", 5, 4)[1]
    assert trained("pb2", 5, 4, kept=4)[1] == whole
    moves = trained("perturb", 5, 4)[1]
    assert whole[0] == moves[0] and whole[1] != moves[1]  # nothing is known at the first generation


def test_a_bandit_is_not_asked_before_enough_is_known() -> None:
    members = {f"m{i}": {"beta": 1.0 + i, "rate": 1e-3} for i in range(2)}
    assert FEWEST == 4
    for known in (2, 3):  # generations: 2 and 4 observations at the last of them
        decided = []
        for explore in ("perturb", "pb2"):
            each = Generations("d", members, Population(every=1, explore=explore), range(1, known + 1), SPACE, [0])
            for step in range(1, known + 1):
                for index, name in enumerate(members):
                    each.reach(name, step, rank([float(step * index)], "mean"))
            decided.append(each.decide())
        assert (decided[0] == decided[1]) == (known == 2)


def test_ways_to_explore() -> None:
    with pytest.raises(UsageError, match="explore of Population is one of perturb, pb2, not 'gp'"):
        Population(every=10, explore="gp").check_values()
    before_there_were_any = {"every": 10, "quantile": 0.25, "resample": 0.25, "statistic": "mean"}
    assert Population(**before_there_were_any) == Population(every=10)

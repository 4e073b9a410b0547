"""The one-step task with two rings, and the density models that are compared on it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from raymix.nn.policies import Mixture
from raymix.reproduce import lom_fig5
from raymix.reproduce.lom_fig5 import Points


def points(number: int, seed: int = 0) -> Points:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return lom_fig5.rings(number)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def mixture(means: torch.Tensor, weights: torch.Tensor, log_std: float = -10.0) -> Mixture:
    """The same components at every state: means (M,) and weights (N, M)."""
    means = means.expand_as(weights)[..., None]
    return Mixture(means, torch.full_like(means, log_std), weights.log())


def test_a_quarter_of_the_points_is_on_the_inner_ring():
    """Catches other proportions, a ring of another width, and angles that miss a part of the circle."""
    data = points(4_000)
    radius = torch.hypot(data.states, data.actions)
    inner = (radius >= 0.3) & (radius <= 0.5)
    outer = (radius >= 1.0) & (radius <= 1.2)
    assert int(inner.sum()) == 1_000 and int(outer.sum()) == 3_000
    for ring, middle in ((inner, 0.4), (outer, 1.1)):
        assert float(radius[ring].mean()) == pytest.approx(middle, abs=0.01)
        assert float(radius[ring].std()) == pytest.approx(0.2 / 12**0.5, rel=0.05)
    for right in (True, False):
        for up in (True, False):
            share = ((data.states > 0) == right) & ((data.actions > 0) == up)
            assert float(share.float().mean()) == pytest.approx(0.25, abs=0.03)
    assert data.states.shape == data.actions.shape == (4_000, 1) and data.rewards.shape == (4_000,)


def test_the_first_and_the_third_quadrant_pay():
    """Catches the wrong pair of quadrants, and rewards of the data that another rule gave."""
    states, actions = column(1.0, -1.0, 1.0, -1.0), column(0.2, -0.2, -0.2, 0.2)
    assert lom_fig5.reward_of(states, actions)[:, 0].tolist() == [1.0, 1.0, 0.0, 0.0]
    data = points(200)
    angle = torch.atan2(data.actions, data.states)[:, 0] % (2 * torch.pi)
    pays = (angle < torch.pi / 2) | ((angle >= torch.pi) & (angle < 1.5 * torch.pi))
    assert torch.equal(data.rewards, pays.float())


def test_what_counts_as_on_a_ring():
    """Catches a tolerance that swallows the gap between the rings: the middle of it must not count."""
    assert lom_fig5.on_rings(*points(1_000)[:2]).all()
    radii = column(0.1, 0.25, 0.55, 0.75, 0.95, 1.25, 1.4)
    assert lom_fig5.on_rings(radii, torch.zeros_like(radii))[:, 0].tolist() == [0, 1, 1, 0, 1, 1, 0]


def test_the_best_components_keep_their_proportions():
    """Catches the heaviest kept instead of the best, weights that do not sum to 1, and one choice for all states."""
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]])
    values = torch.tensor([[5.0, 1.0, 9.0, 0.0], [0.0, 9.0, 1.0, 5.0]])
    best = lom_fig5.best_components(mixture(torch.zeros(4), weights), values, kept=2)
    expected = torch.tensor([[0.25, 0.0, 0.75, 0.0], [0.0, 1 / 3, 0.0, 2 / 3]])
    torch.testing.assert_close(torch.softmax(best.logits, -1), expected)
    everything = lom_fig5.best_components(mixture(torch.zeros(4), weights), values, kept=4)
    torch.testing.assert_close(torch.softmax(everything.logits, -1), weights)
    # A component without a threshold on its weight is kept for its value alone, however light.
    light = torch.tensor([[1.0, 1e-20]])
    alone = lom_fig5.best_components(mixture(torch.zeros(2), light), torch.tensor([[0.0, 1.0]]), kept=1)
    assert torch.softmax(alone.logits, -1).tolist() == [[0.0, 1.0]]


def test_hyper_q_is_the_mean_reward_of_a_component():
    """Catches the reward of the component's mean, and a state paired with another's components."""
    components = mixture(torch.tensor([0.5, -0.5, 0.0]), torch.ones(2, 3))
    values = lom_fig5.hyper_q(column(0.7, -0.7), components, draws=4_000)
    assert values[:, :2].tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert values[:, 2].tolist() == pytest.approx([0.5, 0.5], abs=0.04)
    # A normal distribution around one standard deviation is above 0 in 84 % of its draws; its mean always.
    wide = mixture(torch.tensor([0.5]), torch.ones(1, 1), log_std=float(torch.tensor(0.5).log()))
    assert float(lom_fig5.hyper_q(column(1.0), wide, draws=10_000)) == pytest.approx(0.841, abs=0.02)


def test_a_sample_of_the_mixture_is_in_the_figures_units():
    """Catches actions left in the mixture's unit box, and draws of a component that was not kept."""
    weights = torch.tensor([[0.25, 0.75, 0.0]]).expand(4_000, 3)
    actions = lom_fig5.sample_mixture(mixture(torch.tensor([0.5, -0.25, 0.9]), weights))
    assert set(actions.mul(10).round().unique().tolist()) == {8.0, -4.0}
    assert float((actions > 0).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_the_weighted_gaussian_weights_its_squared_term_alone():
    """Catches a weight on log std as well, with which the deviation would be 0.65 instead of 1.33.

    Actions are 1 and -1 at one state, weights e^2 and 1: the mean is (e^2 - 1) / (e^2 + 1), the variance the mean of
    the weighted squares.
    """
    number = 64
    actions = torch.tensor([1.0, -1.0]).repeat(number // 2)[:, None]
    data = Points(torch.full((number, 1), 0.5), actions, (actions[:, 0] > 0).float())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sample = lom_fig5.fit_gaussian(data, torch.exp(2.0 * data.rewards), 600)
        with torch.no_grad():
            drawn = sample(torch.full((20_000, 1), 0.5))
    weights = torch.tensor([2.0, 0.0]).exp()
    mean = float((weights[0] - weights[1]) / weights.sum())
    deviation = float((weights * torch.tensor([1 - mean, -1 - mean]).square()).mean().sqrt())
    assert deviation == pytest.approx(1.33, abs=0.01)
    assert float(drawn.mean()) == pytest.approx(mean, abs=0.04)
    assert float(drawn.std()) == pytest.approx(deviation, abs=0.05)


def test_ranking_chooses_modes_where_averaging_cannot():
    """Catches a ranked mixture that keeps unrewarded modes; a Gaussian, weighted or not, must stay below 70 %."""
    data = points(1_000)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = lom_fig5.fit_mdn(data, 300)
        gaussian = lom_fig5.fit_gaussian(data, torch.exp(2.0 * data.rewards), 600)
        with torch.no_grad():
            fitted = network(data.states)
            best = lom_fig5.best_components(fitted, lom_fig5.hyper_q(data.states, fitted), lom_fig5.KEPT)
            drawn = {
                "MDN": lom_fig5.sample_mixture(fitted),
                "ranked": lom_fig5.sample_mixture(best),
                "Gaussian": gaussian(data.states),
            }
    shares = {name: float(lom_fig5.reward_of(data.states, actions).mean()) for name, actions in drawn.items()}
    assert shares["ranked"] > 0.9 and shares["Gaussian"] < 0.72 and 0.4 < shares["MDN"] < 0.6, shares
    assert float(lom_fig5.on_rings(data.states, drawn["ranked"]).float().mean()) > 0.9


FEW = {"Gaussian": 4, "CVAE": 3, "CGAN": 3, "MDN": 2}


def test_the_whole_is_written_and_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Catches a model that is left out of the table, the file or the figure, and epochs that are not stated."""
    monkeypatch.setattr(lom_fig5, "_CELLS", 24)  # A coarse figure: a fine one takes as long as all else here.
    lines: list[str] = []
    folder = tmp_path / "new"
    text = lom_fig5.rebuild(folder, lines.append, seeds=2, epochs=FEW)
    names = ["data", "Gaussian", "CVAE", "CGAN", "MDN"]
    names += ["weighted Gaussian", "weighted CVAE", "weighted CGAN", "ranked MDN"]
    table = [line.split(" | ") for line in text.splitlines() if " | " in line]
    assert [row[0].strip() for row in table] == ["model", *names]
    assert all(len(row[1].split()) == 2 for row in table[1:]), "a share per seed"
    assert [cell.strip() for cell in table[-1][-2:]] == ["2", "10,000"]
    with (folder / "lom-fig5.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["seed"]) for row in rows] == [(name, seed) for seed in "01" for name in names]
    assert all(0 <= float(row["rewarded_share"]) <= 1 and 0 <= float(row["on_rings_share"]) <= 1 for row in rows)
    assert (folder / "lom-fig5.png").read_bytes().startswith(b"\x89PNG")
    assert sum(line.startswith("seed 1") for line in lines) == 8


def test_a_seed_gives_the_same_models_again_and_leaves_the_callers_numbers_alone():
    """Catches training that draws from the caller's generator, or moves it."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (lom_fig5.train(seed, FEW) for seed in (3, 3, 4))
    assert torch.equal(torch.rand(3), expected)
    for one, same, different in zip(first, again, other, strict=True):
        assert one.name == same.name and torch.equal(one.points.actions, same.points.actions)
        assert not torch.equal(one.points.actions, different.points.actions)

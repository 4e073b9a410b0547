"""`raymix data modes` on data whose number of modes is known, by small networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from known_modes import (
    ROWS,
    Make,
    both_edges,
    corners,
    dataset_of,
    four,
    known,
    oblique_noise,
    one,
    saturated,
    squashed,
    steep,
    two,
    uneven_noise,
    uniform,
)

from raymix.cli import main
from raymix.data import toy
from raymix.modes import find_modes, text
from raymix.modes.counting import in_box, profiles_of, shares_of
from raymix.modes.find import interval
from raymix.modes.mixtures import EDGE, censored_log_prob, log_normal_cdf
from raymix.nn.policies import Mixture
from raymix.report.dataset_page import modes_page
from raymix.types import UsageError

SMALL: dict[str, Any] = {"components": (1, 2, 5), "seeds": 2, "steps": 1_000, "hidden_dims": (32, 32)}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (one, "One Gaussian is enough"),
        (uneven_noise, "One Gaussian is enough"),
        (oblique_noise, "One mode "),
        (saturated, "One "),
        (steep, "One "),
        (squashed, "One "),
        (uniform, "One mode is enough"),
    ],
)
def test_one_mode_is_said_to_be_one(make: Make, sentence: str):
    """Catches components taken for modes where they tile noise that is uneven, oblique or flat, and actions at the
    box's edges taken for modes of their own, as by a policy that swings from one to the other within few states."""
    result = find_modes(known(make), **SMALL)
    assert sentence in result["verdict"] and result["multimodal"]["share"] < 0.05
    assert result["effective"] < 1.1


@pytest.mark.parametrize(("make", "number"), [(two, 2), (four, 4), (corners, 4), (both_edges, 2)])
def test_modes_everywhere_are_counted(make: Make, number: int):
    result = find_modes(known(make), **SMALL)
    assert result["verdict"].startswith(f"{number} modes at ") and result["multimodal"]["share"] > 0.95
    assert result["effective"] == pytest.approx(number, abs=0.3)
    rows = {row["components"]: row for row in result["likelihood"]}
    assert result["chosen"] >= number > 1 and rows[result["chosen"]]["gain_low"] > 0.1


def test_modes_at_few_states_are_found_there():
    random = np.random.default_rng(0)
    here = random.random((ROWS, 1)) < 0.12
    states = random.uniform(-1, 1, (ROWS, 2)) + np.where(here, [3, 0], 0)
    actions = one(random, states) + np.where(here, random.choice([-0.5, 0.5], (ROWS, 1)), 0)
    result = find_modes(dataset_of(actions, states), **SMALL)
    assert result["multimodal"]["share"] == pytest.approx(0.12, abs=0.03) and result["typical"] == 2
    assert result["verdict"].startswith("2 modes at 1")
    assert [row["source"] for row in result["by_source"]] == ["early", "late"]
    assert sum(row["states"] for row in result["by_source"]) == result["states"]


def test_modes_of_the_first_step_alone_are_found_there():
    """One state in twenty, which hardly moves the likelihood of all: where it is decided which way an episode goes."""
    random = np.random.default_rng(0)
    episodes, length = 500, 20
    time = np.tile(np.arange(length), episodes)[:, None] / length
    corner = random.choice([-0.6, 0.6], (episodes * length, 2))
    actions = np.where(time == 0, corner, 0.5 * time) + 0.1 * random.standard_normal((episodes * length, 2))
    states = np.hstack([time, random.standard_normal((episodes * length, 1))])
    result = find_modes(dataset_of(actions, states, length), **SMALL)
    assert result["start"]["typical"] == 4 and result["start"]["share"] > 0.9 and result["start"]["gain"] > 0.5
    assert result["verdict"].startswith("4 modes ")
    assert result["by_step"][0]["typical"] == 4 and result["by_step"][-1]["share"] < 0.2


def test_sources_with_states_of_their_own_are_told_apart():
    """Catches a mode of the data set counted as one of the state: only the second source has two."""
    random = np.random.default_rng(0)
    late = (np.arange(ROWS) >= ROWS / 2)[:, None]
    states = np.where(late, 1.0, -1.0) + 0.1 * random.standard_normal((ROWS, 2))
    apart = np.where(late, random.choice([-0.5, 0.5], (ROWS, 1)), 0.9)
    result = find_modes(dataset_of(apart + 0.1 * random.standard_normal((ROWS, 2)), states), **SMALL)
    early, late_ = result["by_source"]
    assert early["share"] < 0.05 and late_["share"] > 0.95 and late_["typical"] == 2


def test_two_modes_of_the_toy_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture):
    page = tmp_path / "modes.html"
    main(["data", "modes", "two-modes", "--seeds", "1", "--steps", "300", "--html", str(page), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["verdict"].startswith("2 modes at 100% of the states") and result["histogram"] == {"2": 1.0}
    assert page.read_text() == modes_page(result, text(result)) and page.read_text().count("data:image/png") == 2
    assert all(len(line) <= 100 for line in text(result).splitlines()[1:]) and "<- modes counted" in text(result)


# ---------------------------------------------------------------- modes of a mixture


def shares(weights: list[float], means: list[list[float]], stds: list[float]) -> list[float]:
    """Of one mixture, in the order of its components."""
    log_stds = torch.tensor([[[std] * len(means[0]) for std in stds]]).log()
    profiles = profiles_of(torch.tensor([weights]), *in_box(Mixture(torch.tensor([means]), log_stds, torch.empty(0))))
    return [round(share, 2) for share in shares_of(torch.tensor([weights]), profiles)[0].tolist()]


def test_components_are_one_mode_without_a_gap_between_them():
    assert shares([0.4, 0.6], [[0.0], [0.2]], [0.1, 0.1]) == [0, 1]
    assert shares([0.4, 0.6], [[0.0], [0.5]], [0.1, 0.1]) == [0.4, 0.6]
    assert shares([0.4, 0.6], [[0.0, 0.5], [0.0, 0.5]], [0.1, 0.2]) == [0, 1]  # One inside the other.


def test_a_flat_density_is_one_mode_and_so_are_its_piled_up_edges():
    tiles = [[place] for place in (-1.0, -0.7, -0.35, 0.0, 0.35, 0.7, 1.0)]
    assert sorted(shares([0.16, 0.12, 0.14, 0.16, 0.14, 0.12, 0.16], tiles, [0.05, *[0.2] * 5, 0.05]))[:-1] == [0] * 6


def test_what_lies_beyond_an_edge_of_the_box_is_one_mode():
    """How far beyond is not known, so there is no gap there; between two edges, and before one, there is."""
    assert shares([0.4, 0.6], [[1.2], [9.0]], [0.05, 0.05]) == [0, 1]
    assert shares([0.4, 0.6], [[-9.0], [9.0]], [0.2, 0.2]) == [0.4, 0.6]
    assert shares([0.4, 0.6], [[0.2], [9.0]], [0.1, 0.2]) == [0.4, 0.6]
    assert shares([0.4, 0.6], [[2.0, 0.5], [9.0, -0.5]], [0.1, 0.1]) == [0.4, 0.6]


def test_a_cut_mixture_has_all_its_mass_in_the_box():
    """Within the edges as a density, at each edge as a probability."""
    mixture = Mixture(torch.tensor([[[0.3], [-1.4]]]), torch.tensor([[[0.2], [0.6]]]).log(), torch.tensor([[0.5, 0.0]]))
    inside = torch.linspace(-EDGE, EDGE, 20_001)[1:-1, None]
    places = torch.cat([torch.tensor([[-EDGE], [EDGE]]), inside])
    found = censored_log_prob(Mixture(*(part.expand(len(places), *part.shape[1:]) for part in mixture)), places).exp()
    assert float(found[:2].sum() + found[2:].sum() * 2 * EDGE / 20_000) == pytest.approx(1.0, abs=1e-4)
    assert float(found[0]) > 0.2 > float(found[1])
    values = torch.tensor([-50.0, -5.0, -0.1, 0.0, 0.1, 5.0, 50.0], dtype=torch.float64)
    assert torch.allclose(log_normal_cdf(values), torch.special.log_ndtr(values), rtol=1e-9)


def test_neither_slight_nor_wide_background_joins_or_adds_modes():
    """Catches a chain of negligible components that makes one mode of two."""
    bridge = [[-0.5], [-0.2], [0.1], [0.4], [0.5]]
    assert shares([0.497, 0.002, 0.002, 0.002, 0.497], bridge, [0.05, 0.3, 0.3, 0.3, 0.05]) == [0.5, 0, 0, 0, 0.5]
    assert shares([0.47, 0.47, 0.06], [[-0.5, 0], [0.5, 0], [0, 0]], [0.05, 0.05, 0.5])[:2] == pytest.approx(
        [0.5, 0.5], abs=0.04
    )
    assert shares([0.9, 0.1], [[0.0], [0.22]], [0.1, 0.1]) == [1, 0]  # A shoulder without a peak.


def test_intervals_are_over_episodes():
    """Catches transitions taken for independent: all of one episode are alike here."""
    random = np.random.default_rng(0)
    episodes = np.repeat(np.arange(25), 400)
    values = random.standard_normal(25)[episodes]
    low, high = interval(values, episodes)
    assert high - low == pytest.approx(4 * values.std() / 5, rel=0.25)
    assert interval(values[:800], episodes[:800]) == (None, None)


# ---------------------------------------------------------------- refusals


def test_what_has_no_answer_is_refused_in_a_sentence(capsys: pytest.CaptureFixture):
    random = np.random.default_rng(0)
    states, actions = random.uniform(-1, 1, (180, 1)), random.uniform(-1, 1, (180, 2))
    with pytest.raises(UsageError, match="too few episodes to hold some out: 9"):
        find_modes(dataset_of(actions, states), **SMALL)
    with pytest.raises(UsageError, match="1, and modes need at least 10"):
        find_modes(dataset_of(actions, states, length=180), **SMALL)
    with pytest.raises(UsageError, match=r"are the same \(\[0.5, 0.5\]\)"):
        find_modes(dataset_of(np.full((200, 2), 0.5), random.uniform(-1, 1, (200, 1))), **SMALL)
    with pytest.raises(UsageError, match="start with 1"):
        find_modes(toy.two_modes(), components=(2, 5))
    with pytest.raises(SystemExit, match="2"):
        main(["data", "modes", "two-modes", "--steps", "3"])
    assert "steps 3" in capsys.readouterr().err

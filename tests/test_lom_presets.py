"""LOM's presets against the published table, cell by cell."""

from __future__ import annotations

import dataclasses

import pytest

from raymix.algorithms.lom import LOM
from raymix.types import UsageError

# K, M, beta, ac_rand, smooth_noise, C as the authors' code has them, in the layout of the source.
TABLE = """
    | dataset       | halfcheetah        | hopper           | walker2d          |
    | medium-replay | 1,5,5,.4,.2,100    | 1,5,5,0,.2,50    | 1,10,5,0,.2,50    |
    | full-replay   | 1,10,5,.4,.2,100   | 2,10,5,0,.2,50   | 1,10,5,0,.2,50    |
    | medium        | 1,2,5,.4,.2,100    | 3,5,5,0,.2,50    | 1,2,5,0,.2,50     |
    | medium-expert | 2,1,.1,0,0,50      | 6,2,.1,0,0,50    | 3,5,.1,.2,0,50    |
    | expert        | 1,2,.1,0,0,50      | 1,2,.1,0,.2,50   | 1,5,.1,.2,0,50    |
"""
FIELDS = ("num_critics", "num_components", "beta", "action_noise", "target_noise", "weight_max")


def published() -> dict[str, dict[str, float]]:
    head, *lines = [
        [cell.strip() for cell in line.strip().strip("|").split("|")] for line in TABLE.strip().splitlines()
    ]
    return {
        f"{robot}-{data}": dict(zip(FIELDS, map(float, cell.split(",")), strict=True))
        for data, *cells in lines
        for robot, cell in zip(head[1:], cells, strict=True)
    }


@pytest.mark.parametrize("name", published())
def test_a_preset_has_the_published_values_and_otherwise_those_of_paper(name):
    """Catches a cell copied wrongly, two columns exchanged, and a value that only the table's presets change."""
    config = LOM().configure({}, name)
    values = published()[name]
    assert {field: getattr(config, field) for field in FIELDS} == values
    paper = LOM().configure({}, "paper")
    assert dataclasses.replace(config, **{field: getattr(paper, field) for field in FIELDS}) == paper
    assert (config.min_component_weight, config.mdn_steps, config.steps) == (0.0, 200_000, 1_000_000)


def test_every_published_data_set_has_a_preset_and_no_other_has():
    """Catches a data set left out, and one that the authors never published."""
    assert len(published()) == 15
    assert set(LOM.presets) == {*published(), "paper", "small"}
    with pytest.raises(UsageError, match="walker2d-expert"):
        LOM().configure({}, "halfcheetah-random")


def test_paper_stands_in_for_any_other_data_set():
    """Catches a stand-in that drifts from what the module's docstring promises."""
    paper = LOM().configure({}, "paper")
    assert [getattr(paper, field) for field in FIELDS] == [1, 5, 5.0, 0.0, 0.2, 50.0]

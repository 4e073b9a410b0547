"""Data that break assumptions: finite training, or one sentence that says what to change."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from helpers import small_config, tiny_dataset

from raymix.algorithms import base
from raymix.data.columns import make_dataset
from raymix.packing.local import LocalPack
from raymix.types import Dataset, UsageError

ALGORITHMS = ("td3_bc", "td3_rkl", "onestep", "brac_v")
OPTIONS = (
    *((name, {}) for name in ALGORITHMS),
    ("td3_rkl", {"calibrate": True}),
    ("td3_rkl", {"uncertainty": "log_var_pretanh", "zeta2": -5.0}),
    ("td3_rkl", {"bandwidth": 0.1}),
    ("onestep", {"improvement": "reverse_kl"}),
)


def changed(dataset: Dataset, **columns) -> Dataset:
    spec = dataset.spec
    return make_dataset(
        dataclasses.replace(dataset.columns, **columns),
        spec.name,
        action_low=spec.action_low,
        action_high=spec.action_high,
    )


def cases() -> dict[str, Dataset]:
    plain = tiny_dataset()
    transitions = np.zeros((len(plain.columns.actions), 1), dtype=bool)
    transitions[plain.columns.transition_rows()] = True
    edge = np.where(plain.columns.actions < 0, -1.0, 1.0) * transitions
    return {
        "no rewards": changed(plain, rewards=np.zeros_like(plain.columns.rewards)),
        "rewards of 1e4": changed(plain, rewards=1e4 * plain.columns.rewards),
        "one trajectory": tiny_dataset(lengths=(9,), terminal=[True]),
        "one transition": tiny_dataset(lengths=(1,), terminal=[True]),
        "actions on the edge": changed(plain, actions=edge.astype(np.float32)),
        "one constant observation": changed(
            plain, observations=np.where(np.arange(3) == 1, 5.0, plain.columns.observations).astype(np.float32)
        ),
    }


@pytest.mark.parametrize("case", list(cases()))
@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_training_stays_finite(name: str, options: dict, case: str):
    """Catches a division by no spread, the logarithm of an edge's density, and a batch of one repeated row."""
    algorithm = base.find(name)
    pack = LocalPack(name, small_config(algorithm, **options), [0], cases()[case], report_every=1_000, capture="eager")
    while not pack.finished:
        boundary = pack.advance()
        assert not any(boundary.diverged)
        assert all(map(math.isfinite, boundary.metrics[0].values()))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_batch_of_one_is_enough(name: str):
    """Catches another row that is looked for in a batch that has none."""
    pack = LocalPack(
        name, small_config(base.find(name), batch_size=1), [0], tiny_dataset(), report_every=1_000, capture="eager"
    )
    while not pack.finished:
        assert not any(pack.advance().diverged)


def test_sarsa_without_any_next_action_is_refused():
    """Catches a critic that trains on nothing."""
    cut = tiny_dataset(lengths=(1, 1), terminal=[False, False])
    with pytest.raises(UsageError, match="has a next action"):
        LocalPack("onestep", small_config(base.find("onestep")), [0], cut, report_every=1_000, capture="eager")

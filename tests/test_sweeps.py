"""The sweeps that come with raymix: every one names what exists, whole and as a smoke run."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from raymix.algorithms.base import find
from raymix.plan import SweepSpec, expand

SWEEPS = sorted((Path(__file__).parents[1] / "sweeps").glob("*.py"))


def specifications(path: Path) -> list[SweepSpec]:
    found = runpy.run_path(str(path))
    return found.get("SPECS") or [found["SPEC"]]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_can_be_planned_and_its_smoke_is_small(path: Path) -> None:
    """Catches a renamed hyperparameter, preset or data set, and a smoke run that trains for long."""
    specs = specifications(path)
    assert (runpy.run_path(str(path))["__doc__"] or "").split("\n")[0].rstrip(")").count("?") == 1
    trials = expand(*specs)
    smoke = expand(*(spec.replace(**spec.smoke) for spec in specs))
    assert len(trials) >= len(smoke)
    for trial in smoke:
        steps = [trial.config[phase.steps] for phase in find(trial.algorithm).phases]
        assert max(steps) <= 200 and trial.evaluate_every <= 100

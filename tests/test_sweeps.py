"""The sweeps that come with raymix: every one names what exists, whole and as a smoke run."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from raymix.algorithms.base import find
from raymix.commands.sweep import adjusted, parser, selected
from raymix.plan import SweepSpec, expand
from raymix.report.published import METHODS, counterpart, published
from raymix.types import UsageError

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


PAPERS = {
    "lom": (15, 4, {"lom": 15}, 1_000_000),
    "lapo": (18, 3, {"lapo": 18}, 1_000_000),
    "lbrac_v": (60, 5, {"lbrac_v": 12}, 500_000),
    "td3_rkl": (42, 5, {"td3_rkl": 21, "td3_bc": 21}, 1_000_000),
    "dmpo": (64, 5, {"dmpo": 29}, 1_000_000),
}
"""Trials, seeds, data sets of each algorithm, and gradient steps of the last phase."""


@pytest.mark.parametrize("paper", PAPERS)
def test_a_papers_sweep_has_its_rows_and_its_presets(paper: str) -> None:
    """Catches a row that is missing or stands beside no published number, and a setting that is not the preset's."""
    specs = specifications(SWEEPS[0].parent / f"paper_{paper}.py")
    trials, (number, seeds, datasets, steps) = expand(*specs), PAPERS[paper]
    assert len(trials) == number and specs[0].seed_list == list(range(seeds))
    found = {name: {trial.dataset for trial in trials if trial.algorithm == name} for name in datasets}
    assert {name: len(each) for name, each in found.items()} == datasets
    rows = {(METHODS[row.method][0], row.dataset) for row in published(paper) if row.method in METHODS}
    for trial in trials:
        task = counterpart(trial.dataset)
        assert task is not None and (trial.algorithm, task.dataset) in rows
        last = trial.config[find(trial.algorithm).phases[-1].steps]
        assert last == (20_000 if "-human-" in trial.dataset else steps) and last % trial.evaluate_every == 0
    for spec in specs:
        preset = json.loads(json.dumps({**find(spec.algorithm).presets[spec.preset or ""], **spec.settings}))
        for trial in expand(spec):
            assert {name: trial.config[name] for name in preset} == preset


def test_dataset_selects_rows_that_have_settings_of_their_own() -> None:
    specs = specifications(SWEEPS[0].parent / "paper_lom.py")
    options = parser(specs, "paper_lom", None).parse_args(["--dataset", "hopper-medium-v2"])
    (row,) = [adjusted(spec, options) for spec in selected(specs, options)]
    assert (row.datasets, row.preset) == (("hopper-medium-v2",), "hopper-medium")
    options = parser(specs, "paper_lom", None).parse_args(["--dataset", "hopper-simple-v2"])
    with pytest.raises(UsageError, match=r"selects rows.*'hopper-simple-v2'.*hopper-medium-v2"):
        selected(specs, options)


def test_dataset_replaces_where_all_have_the_same() -> None:
    specs = specifications(SWEEPS[0].parent / "compare_multimodal.py")
    options = parser(specs, "compare_multimodal", None).parse_args(["--dataset", "two-goals"])
    assert {adjusted(spec, options).datasets for spec in selected(specs, options)} == {("two-goals",)}


def test_a_sweep_that_says_no_smoke_is_not_run_whole() -> None:
    spec = SweepSpec(algorithm="bc", datasets=("two-modes",))
    options = parser([spec], "mine", None).parse_args(["--smoke"])
    with pytest.raises(UsageError, match=r"no smoke=.*--steps 200 --seeds 1"):
        adjusted(spec, options)

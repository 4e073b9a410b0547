"""A sweep's specification: checked before anything is written, spelt out the same way every time, kept whole."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from raymix import ledger
from raymix.job import job_of
from raymix.plan import SweepSpec, describe, expand, read_description, seat, setting, write_description
from raymix.report import METRIC, SELECT
from raymix.sweep import trial_labels
from raymix.types import UsageError

SPEC = SweepSpec(algorithm="lom", datasets=("two-modes",), preset="small")
TWO_MODES = "toy/two-modes-v0"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("beta=5", 5),
        ("beta=.5", 0.5),
        ("beta=5.", 5.0),
        ("beta=+5", 5.0),
        ("beta=-5", -5),
        ("beta=1e-3", 1e-3),
        ("beta = 5 ", 5),
        (" beta=5", 5),
        ("steps=1_000", 1000.0),
        ("clamp=true", True),
        ("clamp=True", True),
        ("clamp=FALSE", False),
        ("form=per_mode", "per_mode"),
        ('form="per_mode"', "per_mode"),
        ("dims=256", 256),
        ("dims=256,256", (256, 256)),
        ("dims=256, 256", (256, 256)),
        ("dims=256,", (256,)),
        ("dims=(256,256)", (256, 256)),
        ("dims=(256,)", (256,)),
        ("dims=[256,256]", (256, 256)),
        ("dims=[ 256 , 256 ]", (256, 256)),
        ("dims=[256]", (256,)),
        ("rates=.5,5.", (0.5, 5.0)),
    ],
)
def test_a_setting_is_read_as_people_write_it(text: str, expected: Any) -> None:
    """Catches a natural spelling that ends up as a word and is refused later."""
    name, value = setting(text)
    assert name == text.partition("=")[0].strip()
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize("text", ["beta", "beta=", "=5", " = ", "", "beta= "])
def test_a_setting_without_a_name_or_a_value_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--set takes NAME=VALUE such as beta=5"):
        setting(text)


@pytest.mark.parametrize("text", ["hidden_dims=32", "hidden_dims=[32]", "hidden_dims=(32,)", "hidden_dims=+32"])
def test_spellings_of_one_value_are_one_configuration(text: str) -> None:
    (trial,) = expand(SPEC.replace(settings=dict([setting(text)])))
    assert trial.config["hidden_dims"] == [32]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"datasets": ()}, ("at least one data set", "raymix data list")),
        ({"datasets": None}, ("datasets takes names", "None")),
        ({"datasets": ("two-modes", 3)}, ("datasets takes names", "3")),
        ({"seeds": 3.0}, ("seeds takes", "(0, 1, 2)", "3.0")),
        ({"seeds": True}, ("seeds takes", "True")),
        ({"seeds": 0}, ("seeds takes", "not 0")),
        ({"seeds": -1}, ("seeds takes", "-1")),
        ({"seeds": None}, ("seeds takes", "None")),
        ({"seeds": "3"}, ("seeds takes", "'3'")),
        ({"seeds": ()}, ("seeds takes", "()")),
        ({"seeds": (0, 0)}, ("seeds takes", "(0, 0)")),
        ({"seeds": (0, -1)}, ("seeds takes", "(0, -1)")),
        ({"seeds": (0, 1.5)}, ("seeds takes", "(0, 1.5)")),
        ({"seeds": ([0], 1)}, ("seeds takes", "([0], 1)")),
        ({"evaluate_every": "100"}, ("evaluate_every takes a whole number of at least 1", "'100'")),
        ({"evaluate_every": 0}, ("evaluate_every takes", "not 0")),
        ({"episodes": 0}, ("episodes takes", "not 0")),
        ({"episodes": True}, ("episodes takes", "True")),
        ({"samples": 2.5}, ("samples takes", "2.5")),
        ({"samples": None}, ("samples takes", "None")),
        ({"search_seed": -1}, ("search_seed takes", "-1")),
        ({"search_seed": 2**32}, ("search_seed takes", str(2**32))),
        ({"cpus_per_pack": 0}, ("cpus_per_pack takes a number above 0", "not 0")),
        ({"cpus_per_pack": -1}, ("cpus_per_pack takes", "-1")),
        ({"cpus_per_pack": None}, ("cpus_per_pack takes", "None")),
        ({"cpus_per_pack": float("nan")}, ("cpus_per_pack takes", "nan")),
        ({"gpus_per_pack": -0.5}, ("gpus_per_pack takes", "-0.5")),
        ({"gpus_per_pack": 1.5}, ("gpus_per_pack takes", "1.5")),
        ({"gpus_per_pack": "1"}, ("gpus_per_pack takes", "'1'")),
        ({"metric": "loss"}, ("metric is one of", *METRIC, "'loss'")),
        ({"select": "first"}, ("select is one of", *SELECT, "'first'")),
        ({"select": ["last"]}, ("select is one of", "['last']")),
        ({"preset": "smal"}, ("unknown preset 'smal'", "small")),
        ({"preset": ["small"]}, ("preset takes a word", "['small']")),
        ({"label": 3}, ("label takes a word", "not 3")),
        ({"algorithm": "lomm"}, ("unknown algorithm 'lomm'", "lom")),
        ({"steps": "100"}, ("steps", "a whole number", "'100'")),
        ({"settings": {"betta": 1.0}}, ("unknown hyperparameter 'betta'", "did you mean beta?")),
        ({"settings": [("beta", 1.0)]}, ("settings takes a dictionary",)),
        ({"settings": {3: 1.0}}, ("settings takes a dictionary", "{3: 1.0}")),
        ({"search": {"betta": tune.uniform(0, 1)}}, ("unknown hyperparameter 'betta'", "did you mean beta?")),
        ({"search": {"beta": [1, 2]}}, ("search['beta']", "say tune.grid_search([1, 2])")),
        ({"search": {"num_components": range(1, 3)}}, ("say tune.grid_search([1, 2])",)),
        ({"search": {"beta": 1.0}}, ("search['beta']", "not 1.0", "settings")),
        ({"search": {"beta": {"grid": [1]}}}, ("search['beta']", "tune.grid_search")),
        ({"search": {"beta": tune.grid_search([])}}, ("the grid of 'beta'", "at least one value")),
        ({"search": {"beta": tune.grid_search(3)}}, ("the grid of 'beta'", "not 3")),
        ({"search": {"beta": tune.grid_search([1, "x"])}}, ("beta", "a number", "'x'")),
        ({"search": tune.grid_search([1])}, ("search['grid_search']",)),
        ({"search": {"num_components": tune.uniform(1, 9)}}, ("num_components", "one program per trial", "choice")),
        ({"search": {"num_components": tune.quniform(1, 9, 1)}}, ("num_components", "one program per trial")),
        ({"search": {"beta": tune.uniform(0, 1)}, "settings": {"beta": 1}}, ("both fixed and searched", "leave it")),
    ],
)
def test_wrong_specifications_are_refused_in_one_sentence(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    """Catches a TypeError from deep inside Tune or NumPy, and a wrong value that runs as something else."""
    with pytest.raises(UsageError) as refusal:
        expand(SPEC.replace(**changes))
    for word in words:
        assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(UsageError, match="a sweep has no field 'seed'; it has: algorithm, datasets"):
        SPEC.replace(seed=3)


def test_right_specifications_in_other_spellings() -> None:
    """Catches a check that is stricter than what works."""
    assert SweepSpec(algorithm="lom", datasets="two-modes").datasets == ("two-modes",)  # type: ignore[arg-type]
    assert SPEC.replace(datasets="two-modes") == SPEC
    assert SPEC.replace(seeds=(4, 1)).seed_list == [4, 1] and SPEC.replace(seeds=2).seed_list == [0, 1]
    for changes in (
        {"datasets": ["two-modes"]},
        {"seeds": [0, 3]},
        {"cpus_per_pack": 0.5},
        {"gpus_per_pack": 0.5},
        {"seats": 16},
    ):
        assert len(expand(SPEC.replace(**changes))) == 1


def test_a_grid_is_walked_in_order() -> None:
    """Catches trials in another order than the table's reader expects, and data sets apart from each other."""
    search = {"num_components": tune.grid_search([5, 1]), "beta": tune.grid_search([1, 2.0])}
    trials = expand(SPEC.replace(search=search, datasets=("two-modes", "fetchreach-multigoal-8")))
    swept = [(trial.swept["num_components"], trial.swept["beta"]) for trial in trials[::2]]
    assert sorted(swept, key=lambda values: values[1]) == [(5, 1.0), (1, 1.0), (5, 2.0), (1, 2.0)]
    assert [trial.swept for trial in trials[::2]] == [trial.swept for trial in trials[1::2]]
    assert {trial.dataset for trial in trials[::2]} == {TWO_MODES}
    assert {trial.dataset for trial in trials[1::2]} == {"raymix/fetchreach-multigoal-8-v0"}
    assert trials == expand(SPEC.replace(search=search, datasets=("two-modes", "fetchreach-multigoal-8")))
    assert trials[0].label == "num_components=5, beta=1.0" and expand(SPEC)[0].label == "all settings fixed"


BC = SweepSpec(algorithm="bc", datasets=("two-modes",), evaluate_every=500, label="cloning")


def test_several_specifications_run_as_one_sweep() -> None:
    """Catches a trial that is trained by another specification's algorithm or pace, or listed under its name."""
    trials = expand(SPEC, BC, BC.replace(label="again"))
    assert [(trial.algorithm, trial.evaluate_every) for trial in trials] == [("lom", 1000), ("bc", 500)]
    assert [trial.label for trial in trials] == ["all settings fixed", "cloning"]
    plan = seat(describe([SPEC, BC], "both", {TWO_MODES: "abc"}, "0.1.0"), "cpu")
    assert list(plan["phases"]) == ["lom", "bc"]
    jobs = [job_of(plan, trial, Path("run"), "cpu", "auto") for trial in plan["trials"]]
    assert [(job.algorithm, job.report_every) for job in jobs] == [("lom", 1000), ("bc", 500)]
    assert len({job.config_id for job in jobs}) == 2
    assert list(trial_labels(plan).values()) == ["lom: all settings fixed", "bc: cloning"]
    for changes, word in (
        ({"seeds": 2}, "seeds"),
        ({"episodes": 3}, "episodes"),
        ({"metric": "normalized_score"}, "metric"),
    ):
        with pytest.raises(UsageError, match=f"must have the same {word}"):
            expand(SPEC, BC.replace(**changes))


def test_duplicates_collapse() -> None:
    """Catches one configuration trained twice: their rows would share an id."""
    search = {"beta": tune.grid_search([1, 1.0, 2])}
    spec = SPEC.replace(search=search, samples=3, datasets=("two-modes", TWO_MODES))
    assert [trial.swept["beta"] for trial in expand(spec)] == [1.0, 2.0]


def test_a_random_search_is_reproducible() -> None:
    """Catches a draw from a generator that `search_seed` does not seed."""
    search = {"beta": tune.loguniform(0.1, 10), "num_components": tune.choice([1, 2, 3, 4])}
    spec = SPEC.replace(search=search, samples=4, search_seed=7)
    first = [trial.config for trial in expand(spec)]
    assert len(first) == 4 and first == [trial.config for trial in expand(spec)]
    assert first != [trial.config for trial in expand(spec.replace(search_seed=8))]


@pytest.fixture
def description() -> dict[str, Any]:
    return describe([SPEC.replace(search={"beta": tune.grid_search([1, 2])})], "toy", {TWO_MODES: "abc"}, "0.1.0")


def test_a_description_comes_back_as_it_was(tmp_path: Path, description: dict[str, Any]) -> None:
    write_description(tmp_path, description)
    assert read_description(tmp_path) == description
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]
    assert description["phases"] == {"lom": [["mdn", "mdn_steps"], ["main", "steps"]]}
    for trial in description["trials"]:
        assert trial["config_id"] == ledger.config_id("lom", TWO_MODES, "abc", trial["config"])
    write_description(tmp_path, description | {"sweep": "other"})
    assert read_description(tmp_path)["sweep"] == "other"


def test_a_run_from_before_there_were_packs_is_refused(tmp_path: Path, description: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"trained every trial on its own.*raymix report"):
        job_of(description, description["trials"][0], tmp_path, "cpu", "auto")


def test_a_damaged_description_is_refused(tmp_path: Path, description: dict[str, Any]) -> None:
    """Catches a sweep resumed with other trials than it was started with."""
    with pytest.raises(UsageError, match=r"no sweep to resume: it has no sweep\.json"):
        read_description(tmp_path)
    write_description(tmp_path, description)
    path = tmp_path / "sweep.json"
    whole = path.read_bytes()
    places = range(0, len(whole), max(1, len(whole) // 50))
    flipped = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in places]
    emptied = [b"", b"{}", b"[]", b"null", b'"digest"', b"[{}]", b"\xff\xfe"]
    for damaged in (*(whole[:place] for place in places), *flipped, *emptied):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match=r"damaged.*raymix report"):
            read_description(tmp_path)


def test_a_description_outlasts_a_power_cut(
    tmp_path: Path, description: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a name that was never synced, and a failed write that takes the old file with it."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def seen_fsync(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def seen_replace(source: str, target: str) -> None:
        calls.append("replace")
        replace(source, target)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", seen_replace)
    write_description(tmp_path, description)
    assert calls == ["file", "replace", "folder"]
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_description(tmp_path, description | {"sweep": "other"})
    assert read_description(tmp_path) == description
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]


def test_every_field_of_a_specification_is_known_to_the_test(description: dict[str, Any]) -> None:
    """Catches a field that a resumed run would forget: what differs between trials is theirs, the rest the file's."""
    spelt_out = {"datasets", "search", "settings", "preset", "steps", "samples", "search_seed", "smoke"}
    known = description.keys() | description["trials"][0].keys()
    assert {field.name for field in dataclasses.fields(SweepSpec)} - spelt_out <= known
    assert json.loads(json.dumps(description)) == description


def test_a_value_may_depend_on_others() -> None:
    """Where the condition does not hold the value is one, so that sampling again gives no configuration twice."""
    spec = SweepSpec(
        algorithm="lom",
        datasets=("two-modes",),
        search={
            "num_components": tune.grid_search([1, 5]),
            "tau": tune.sample_from(lambda config: 0.01 if config["search"]["num_components"] == 5 else 0.005),
        },
        samples=2,
    )
    assert [trial.swept for trial in expand(spec)] == [
        {"num_components": 1, "tau": 0.005},
        {"num_components": 5, "tau": 0.01},
    ]

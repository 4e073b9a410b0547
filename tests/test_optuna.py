"""Searches by Optuna: what is suggested, what a study knows, and what a killed process leaves of it."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import shutil
import statistics
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher
from test_sweep import SWEEP, Driver, results

from raymix import Halving, Optuna, SweepSpec, ledger
from raymix.cli import main as raymix_command
from raymix.commands.sweep import check_number, dry_run
from raymix.data.catalog import load
from raymix.job import job_of
from raymix.packing.sharing import SearchPlaces
from raymix.plan import describe, expand, read_description, seat, studies, write_description
from raymix.report import write_report
from raymix.report.comparison import wide_table
from raymix.report.front import pareto_front
from raymix.report.journal import write_journal
from raymix.report.page_facts import page_facts
from raymix.report.runs import read_runs
from raymix.search.decided import NAME
from raymix.search.optuna import COMPLETE, DIVERGED, LOST, PRUNED, RUNNING, Dimension, Told, study_of, suggest
from raymix.search.scheduler import HalvingScheduler, RankAt, ladders_in
from raymix.search.searcher import Studies, StudySearcher
from raymix.search.truth import told_by
from raymix.search.warm import warm_started
from raymix.types import UsageError

TWO_MODES = "toy/two-modes-v0"
NAN = math.nan

# What is suggested


SPACE = {
    "beta": Dimension.of("beta", tune.loguniform(0.05, 20.0)),
    "tau": Dimension.of("tau", tune.uniform(0.0, 1.0)),
    "components": Dimension.of("components", tune.choice([1, 5, 10, 15, 20])),
    "critics": Dimension.of("critics", tune.randint(1, 9)),
}


def response(params: dict[str, Any]) -> float:
    """A surface with its best value, 0, at one point of the space."""
    return -(
        math.log(params["beta"] / 2.0) ** 2
        + 4.0 * (params["tau"] - 0.3) ** 2
        + abs(params["components"] - 10) / 10
        + abs(params["critics"] - 5) / 4
    )


def searched(sampler: str, seed: int, trials: int, minimize: bool = False) -> list[Told]:
    told: list[Told] = []
    for number in range(trials):
        params = suggest(SPACE, sampler, minimize, told, [seed, 0], number)
        told.append(Told(params, COMPLETE, -response(params) if minimize else response(params)))
    return told


def test_tpe_beats_random_search_at_equal_trials() -> None:
    """20 repeats of 40 trials: random search ends at -0.8 +- 0.3, TPE at -0.25 +- 0.3; also where less is better."""
    best = {
        sampler: [max(one.value or 0.0 for one in searched(sampler, seed, 40)) for seed in range(20)]
        for sampler in ("tpe", "random")
    }
    assert sum(best["tpe"]) / 20 > sum(best["random"]) / 20 + 0.25
    assert sum(one > other for one, other in zip(best["tpe"], best["random"])) >= 15
    least = [min(one.value or 0.0 for one in searched("tpe", seed, 40, minimize=True)) for seed in range(5)]
    assert [-value for value in least] == best["tpe"][:5]


def test_a_gaussian_process_finds_the_best() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        assert max(one.value or 0.0 for one in searched("gp", 0, 40)) > -0.05


def test_a_search_leaves_a_region_where_agents_diverge() -> None:
    """Catches failed trials that samplers forget: to Optuna's own FAIL they come back in 30 of 40 trials, which is all
    that are not drawn before there are ten values to go by."""

    def failures(state: str) -> int:
        space, told = {"rate": Dimension.of("rate", tune.uniform(0, 1))}, list[Told]()
        for number in range(40):
            params = suggest(space, "tpe", False, told, [1], number)
            diverges = params["rate"] > 0.4
            told.append(Told(params, state) if diverges else Told(params, COMPLETE, -((params["rate"] - 0.35) ** 2)))
        return sum(each.state == state for each in told)

    assert failures(DIVERGED) <= 20 < failures(LOST)


def test_samplers_cover_the_space_and_stay_inside() -> None:
    for sampler in ("qmc", "random", "tpe"):
        for seed in range(3):
            drawn = [dict(one.params) for one in searched(sampler, seed, 32)]
            assert all(SPACE[name].holds(value) for params in drawn for name, value in params.items())
            assert len({params["components"] for params in drawn}) == 5 or sampler == "tpe"
            assert all(type(params["critics"]) is int for params in drawn)
    # Of the first 32 points of a Sobol sequence, 8 lie in each quarter of each axis.
    shares = sorted(one.params["tau"] for one in searched("qmc", 0, 32))
    assert [sum(low <= share < low + 0.25 for share in shares) for low in (0.0, 0.25, 0.5, 0.75)] == [8, 8, 8, 8]


def test_a_suggestion_is_a_function_of_what_is_known() -> None:
    """And of the study's seed; a point that is given in part is kept, and the rest suggested."""
    told = searched("tpe", 0, 20)
    first = suggest(SPACE, "tpe", False, told, [0, 0], 20)
    assert first == suggest(SPACE, "tpe", False, told, [0, 0], 20)
    assert first != suggest(SPACE, "tpe", False, told, [0, 1], 20)
    assert first != suggest(SPACE, "tpe", False, told[:-1], [0, 0], 20)
    for sampler in ("tpe", "qmc", "random"):
        given = suggest(SPACE, sampler, False, told, [0, 0], 20, point={"beta": 2.0, "critics": 3})
        assert (given["beta"], given["critics"]) == (2.0, 3) and SPACE["tau"].holds(given["tau"])


def test_trials_at_work_push_suggestions_apart() -> None:
    """Catches asks for several trials at once that all get the same point."""
    told = searched("tpe", 0, 30)
    asked = []
    for number in range(30, 38):
        params = suggest(SPACE, "tpe", False, [*told, *asked], [0, 0], number)
        asked.append(Told(params, RUNNING))
    assert len({json.dumps(dict(one.params)) for one in asked}) == 8
    assert [trial.state for trial in study_of(SPACE, False, asked).trials] == [TrialState.RUNNING] * 8


@pytest.mark.parametrize(
    ("domain", "ends", "inside", "outside"),
    [
        (tune.uniform(0.5, 2), [0.5, 2.0], 1, 2.1),
        (tune.loguniform(0.01, 100), [0.01, 100.0], 3.0, 0.001),
        (tune.quniform(0.0, 1.0, 0.1), [0.0, 1.0], 0.3, 0.35),
        (tune.randint(1, 9), [1, 8], 5, 9),
        (tune.qrandint(2, 8, 2), [2, 8], 4, 5),
        (tune.lograndint(1, 9), [1, 8], 2, 9),
        (tune.choice([[256, 256], [64]]), [[256, 256], [64]], [64], 64),
    ],
)
def test_tunes_search_spaces_as_dimensions(domain: Any, ends: list[Any], inside: Any, outside: Any) -> None:
    dimension = Dimension.of("it", domain)
    assert dimension.ends() == ends and dimension.holds(inside) and not dimension.holds(outside)
    values = [dimension.at(share / 99) for share in range(100)]
    assert all(dimension.holds(value) for value in values) and math.isfinite(dimension.size) is (
        len({json.dumps(value) for value in values}) < 20
    )
    optunas = dimension.distribution()
    assert all(optunas._contains(optunas.to_internal_repr(dimension.encoded(value))) for value in values)
    assert [dimension.decoded(dimension.encoded(value)) for value in values] == values


# Two objectives


BOTH = ("score", "agent_seconds")


def cost_of(params: dict[str, Any]) -> float:
    """Against the response: what is cheap is few components and critics."""
    return params["components"] + params["critics"]


def searched_for_both(sampler: str, seed: int, trials: int) -> list[Told]:
    told: list[Told] = []
    for number in range(trials):
        params = suggest(SPACE, sampler, False, told, [seed, 0], number, costs=True)
        told.append(Told(params, COMPLETE, response(params), cost=cost_of(params)))
    return told


def brute_force_front(points: list[tuple[float, float]]) -> list[bool]:
    """Less is better in both."""
    return [
        not any(x <= own_x and y <= own_y and (x, y) != (own_x, own_y) for x, y in points) for own_x, own_y in points
    ]


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_suggestions_for_two_objectives_are_a_function_of_what_is_known(sampler: str) -> None:
    """And of both of it: other costs, other suggestions. Diverged trials and such at work go with it."""
    told = searched_for_both("random", 0, 14)
    told += [Told(told[0].params, DIVERGED), Told(told[1].params, RUNNING), Told(told[2].params, LOST)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        first = suggest(SPACE, sampler, False, told, [0, 0], 17, costs=True)
        assert first == suggest(SPACE, sampler, False, told, [0, 0], 17, costs=True)
        dear = [dataclasses.replace(each, cost=each.cost and 100.0 / each.cost) for each in told]
        assert first != suggest(SPACE, sampler, False, dear, [0, 0], 17, costs=True)
    study = study_of(SPACE, False, told, costs=True)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    known = [each for each in told if each.value is not None and each.cost is not None]
    diverged = study.trials[14]
    assert diverged.values == [min(each.value or 0.0 for each in known), max(each.cost or 0.0 for each in known)]
    assert len(study.trials) == 16


def test_tpe_finds_more_of_the_front_than_random_search() -> None:
    """20 trials by each sampler and seed: of the front of all, most points are TPE's."""
    from_tpe = 0
    for seed in range(6):
        sides = {sampler: searched_for_both(sampler, seed, 40) for sampler in ("tpe", "random")}
        points = [(-(each.value or 0.0), each.cost or 0.0) for side in sides.values() for each in side]
        front = brute_force_front(points)
        from_tpe += sum(front[:40]) > sum(front[40:])
    assert from_tpe >= 5


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, 2.0, 3.5, NAN, math.inf])] * 2), max_size=12))
def test_the_front_is_that_of_brute_force(points: list[tuple[float, float]]) -> None:
    finite = [point for point in points if all(map(math.isfinite, point))]
    marks = iter(brute_force_front(finite))
    assert pareto_front(points) == [all(map(math.isfinite, point)) and next(marks) for point in points]


# A run's studies, with a ledger that the test writes


SPEC = SweepSpec(
    algorithm="lom",
    datasets=("two-modes",),
    settings={"hidden_dims": (16,), "mdn_hidden_dims": (16,), "mdn_steps": 60},
    search={"beta": tune.loguniform(0.05, 20.0), "policy_learning_rate": tune.loguniform(1e-5, 1e-2)},
    steps=900,
    evaluate_every=100,
    seeds=2,
    metric="held_out/action_error",
    held_out=0.1,
    searcher=Optuna(trials=16),
)


def error_of(trial: dict[str, Any]) -> float:
    params = trial["params"]
    return math.log(params["beta"] / 2.0) ** 2 + math.log(params.get("policy_learning_rate", 1e-3) / 1e-3) ** 2


class Run:
    """A run's folder, and a stand-in for the trials that write into its ledger."""

    def __init__(self, folder: Path, spec: SweepSpec = SPEC, digest: str = "abc") -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        plan = seat(warm_started(describe([spec], "search", {TWO_MODES: digest}, "0.1.0")), "cpu")
        write_description(folder, plan)

    @property
    def plan(self) -> dict[str, Any]:
        return read_description(self.folder)

    def open(self) -> Studies:
        """As a process that starts, or starts again, finds them."""
        return studies_in(self.folder)

    def report(
        self, trial: dict[str, Any], step: int = 900, scores: list[float] | None = None, cost: float = 1.0
    ) -> None:
        """All seeds of a trial reach a step; a score of NaN is a diverged seed's."""
        error = error_of(trial)
        scores = [error, error] if scores is None else scores
        folder = str(self.folder / "ledger")
        writer = ledger.LedgerWriter(folder, trial["config_id"], ledger.next_attempt(folder, trial["config_id"]))
        writer.append(
            ledger.Row(
                run=self.folder.name,
                seed=seed,
                phase="main",
                step=step,
                dataset=TWO_MODES,
                dataset_hash=self.plan["dataset_hashes"][TWO_MODES],
                algorithm="lom",
                config=trial["config"],
                metrics={"held_out/action_error": score},
                diverged=math.isnan(score),
                agent_seconds=cost,
                wall_time=0.0,
                version="0.1.0",
            )
            for seed, score in enumerate(scores)
        )


def studies_in(folder: Path) -> Studies:
    plan = read_description(folder)
    return Studies(plan, folder, lambda trial: {**trial, "widths": [2, 2], "shared": []}, ladders_in(plan, folder))


def finished(run: Run, opened: Studies, trial: dict[str, Any], **how: Any) -> None:
    run.report(trial, **how)
    opened.over(trial["config_id"])


def test_a_restart_decides_as_the_process_that_was_not_stopped(tmp_path: Path) -> None:
    """Three trials at once that end in any order; after each decision a process that starts anew makes the same next
    one, so a study has no state but its trials and their results."""
    run, chance = Run(tmp_path / "run"), random.Random(0)
    live, at_work = run.open(), list[dict[str, Any]]()
    for number in range(16):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(run.folder, copy)
        other = studies_in(copy).next()
        trial = live.next()
        assert trial is not None and trial == other and trial["number"] == number
        at_work.append(trial)
        while len(at_work) > 2:
            finished(run, live, at_work.pop(chance.randrange(len(at_work))))
    assert live.next() is None and studies_in(run.folder).next() is None
    assert [each.state for each in live.told(0)].count(RUNNING) == 2
    assert run.plan["trials"] == read_description(tmp_path / "copy-15")["trials"]


def test_the_search_gets_better_through_what_the_ledger_says(tmp_path: Path) -> None:
    """Catches a value of the wrong sign, seed or step on the way from the ledger to the study."""
    run = Run(tmp_path, SPEC.replace(searcher=Optuna(trials=40)))
    live = run.open()
    errors = []
    while (trial := live.next()) is not None:
        finished(run, live, trial)
        errors.append(error_of(trial))
    assert len(errors) == 40 and statistics.median(errors[20:]) < 0.5 * statistics.median(errors[:20])


@pytest.mark.parametrize(
    ("scores", "state", "value"),
    [
        ([1.0, 3.0], COMPLETE, 2.0),
        ([1.0, NAN], DIVERGED, None),
        ([NAN, NAN], DIVERGED, None),
    ],
)
def test_what_a_trial_tells_its_study(tmp_path: Path, scores: list[float], state: str, value: float | None) -> None:
    run = Run(tmp_path)
    live = run.open()
    trial = live.next()
    assert trial is not None
    run.report(trial, 300, [5.0, 6.0])
    assert run.open().told(0) == [Told(trial["params"], RUNNING, None, {300: 5.5})]
    finished(run, live, trial, scores=scores)
    assert f"15 of 16 trials of {run.folder} are not decided yet" in write_report(str(run.folder)).text
    assert f"15 of 16 trials of {run.folder} are not decided yet" in read_runs([str(run.folder)]).notices
    reports = {300: 5.5} | ({900: value} if value is not None else {})
    assert live.told(0) == run.open().told(0) == [Told(trial["params"], state, value, reports)]
    write_journal(str(tmp_path), str(tmp_path / "study.journal"))
    (study,) = journal(tmp_path / "study.journal")
    assert study.trials[0].state == (TrialState.COMPLETE if state == COMPLETE else TrialState.FAIL)


def test_a_trial_whose_process_failed_is_tried_again_after_a_restart(tmp_path: Path) -> None:
    run = Run(tmp_path)
    live = run.open()
    trial = live.next()
    assert trial is not None
    live.over(trial["config_id"])
    assert [each.state for each in live.told(0)] == [LOST]
    assert [each.state for each in run.open().told(0)] == [RUNNING]


def test_statistics_and_rules_are_those_of_the_sweep(tmp_path: Path) -> None:
    """The value is that of the rule which picks a checkpoint, and of the statistic that trials are compared by."""
    run = Run(tmp_path, SPEC.replace(select="mean_last_3", scheduler=Halving(first=300, statistic="min")))
    live = run.open()
    trial = live.next()
    assert trial is not None
    for step, scores in ((300, [9.0, 9.0]), (500, [1.0, 3.0]), (700, [2.0, 4.0]), (900, [3.0, 8.0])):
        run.report(trial, step, scores)
    live.over(trial["config_id"])
    # The worst seed: the second, whose last three errors are 3, 4, 8.
    assert live.told(0) == [Told(trial["params"], COMPLETE, 5.0, {300: 9.0, 500: 3.0, 700: 4.0, 900: 8.0})]


def test_points_come_first_and_cells_take_turns(tmp_path: Path) -> None:
    spec = SPEC.replace(
        search={**SPEC.search, "num_components": tune.grid_search([1, 2])},
        searcher=Optuna(trials=3, points=({"beta": 2.0, "policy_learning_rate": 1e-3}, {"beta": 7})),
    )
    run = Run(tmp_path, spec)
    live, trials = run.open(), list[dict[str, Any]]()
    while (trial := live.next()) is not None:
        trials.append(trial)
    assert [(trial["study"], trial["number"]) for trial in trials] == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
    assert [trial["config"]["num_components"] for trial in trials] == [1, 2] * 3
    assert [trial["config"]["beta"] for trial in trials[:4]] == [2.0, 2.0, 7.0, 7.0]
    assert trials[0]["config"]["policy_learning_rate"] == trials[1]["config"]["policy_learning_rate"] == 1e-3
    assert trials[2]["params"]["policy_learning_rate"] != trials[3]["params"]["policy_learning_rate"]
    assert trials[0]["label"] == "num_components=1, beta=2.0, policy_learning_rate=0.001"


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_no_configuration_is_trained_twice(tmp_path: Path, sampler: str) -> None:
    """A small space is searched to its end, which is fewer trials than were asked for."""
    search = {"beta": tune.choice([1, 1.0, 2.0]), "num_critics": tune.randint(1, 4)}
    run = Run(tmp_path, SPEC.replace(search=search, searcher=Optuna(trials=24, sampler=sampler)))
    live = run.open()
    while (trial := live.next()) is not None:
        finished(run, live, trial, scores=[trial["params"]["beta"]] * 2)
    assert len({trial["config_id"] for trial in run.plan["trials"]}) == len(run.plan["trials"]) == 6


def test_a_torn_line_is_dropped_and_decided_again(tmp_path: Path) -> None:
    run = Run(tmp_path)
    live = run.open()
    for _ in range(3):
        live.next()
    path = tmp_path / NAME
    whole = path.read_bytes()
    before = len(b"".join(whole.splitlines(keepends=True)[:2]))
    for cut in (before + 1, before + 20, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert len(run.plan["trials"]) == 2
        again = run.open()
        assert again.torn and path.stat().st_size == before
        again.next()
        assert path.read_bytes() == whole
    assert not run.open().torn


def test_a_damaged_line_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    live = run.open()
    for _ in range(3):
        live.next()
    path = tmp_path / NAME
    whole = path.read_bytes()
    first, second, third = whole.splitlines(keepends=True)
    flipped = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in range(0, len(whole), 97)]
    for damaged in (*flipped, first + third, second + third, first + first + second, b"\n" + whole, b"\xff\n"):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match=r"line \d of .*trials.jsonl was changed or damaged.*raymix report"):
            read_description(tmp_path)


def test_results_of_an_earlier_run_warm_a_search(tmp_path: Path) -> None:
    """And stay with it when the earlier run is gone."""
    earlier = Run(tmp_path / "earlier")
    live = earlier.open()
    for scores in ([1.0, 2.0], [NAN, 2.0], None):
        trial = live.next()
        assert trial is not None
        if scores:
            finished(earlier, live, trial, scores=scores)
    warm_spec = SPEC.replace(searcher=Optuna(trials=2, warm_start=(str(earlier.folder),)))
    run = Run(tmp_path / "run", warm_spec)
    shutil.rmtree(earlier.folder)
    told = run.open().told(0)
    assert [(each.state, each.value) for each in told] == [(COMPLETE, 1.5), (DIVERGED, None)] or [
        (each.state, each.value) for each in told
    ] == [(DIVERGED, None), (COMPLETE, 1.5)]
    cold = Run(tmp_path / "cold", SPEC.replace(searcher=Optuna(trials=2)))
    assert cold.open().told(0) == []
    write_journal(str(run.folder), str(tmp_path / "journal"))
    (study,) = journal(tmp_path / "journal")
    assert [trial.user_attrs["run"] for trial in study.trials] == ["earlier"] * 2


@pytest.mark.parametrize("change", [{"steps": 800}, {"settings": {"mdn_steps": 70}}, {}])
def test_results_of_something_else_warm_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    earlier = Run(tmp_path / "earlier")
    live = earlier.open()
    trial = live.next()
    assert trial is not None
    finished(earlier, live, trial)
    content = "abc" if change else "another"
    spec = SPEC.replace(**change, searcher=Optuna(warm_start=(str(earlier.folder),)))
    with pytest.raises(UsageError, match=r"none of the 1 configurations of .*earlier belongs to this search"):
        warm_started(describe([spec], "search", {TWO_MODES: content}, "0.1.0"))


def journal(path: Path) -> list[optuna.Study]:
    """The studies in a file, as Optuna's own tools read it."""
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    return [optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)]


def test_the_journal_is_what_the_ledger_says(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = Run(tmp_path / "run", SPEC.replace(scheduler=Halving(first=300), searcher=Optuna(trials=4, cohort=3)))
    live, target = run.open(), tmp_path / "study.journal"
    trials = [trial for trial in (live.next() for _ in range(4)) if trial is not None]
    for trial, error in zip(trials, (3.0, 1.0, 2.0)):
        run.report(trial, 300, [error, error])
    run.report(trials[1], scores=[0.5, 0.5])
    raymix_command(["report", str(run.folder), "--optuna", str(target)])
    assert "toy/two-modes-v0: lom" in capsys.readouterr().out
    raymix_command(["report", str(run.folder)])
    assert "not decided" not in capsys.readouterr().out
    (study,) = journal(target)
    assert study.direction.name == "MINIMIZE" and study.best_value == 0.5
    assert [trial.state.name for trial in study.trials] == ["PRUNED", "COMPLETE", "PRUNED", "RUNNING"]
    assert [trial.intermediate_values for trial in study.trials] == [{300: 3.0}, {300: 1.0, 900: 0.5}, {300: 2.0}, {}]
    assert [trial.user_attrs["config_id"] for trial in study.trials] == [trial["config_id"] for trial in trials]
    assert [trial.params for trial in study.trials] == [trial["params"] for trial in trials]
    assert told_by(run.plan, run.folder, ()) != [live.told(0)], "the live studies have not heard of the ends yet"
    write_description(run.folder, {**describe([SPEC.replace(searcher=None)], "x", {TWO_MODES: "abc"}, "0")})
    with pytest.raises(UsageError, match="has no studies"):
        write_journal(str(run.folder), str(target))


def test_score_and_cost_reach_study_reports_and_journal(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The costs of a trial are those of its seeds, on average; the front is marked wherever results are shown."""
    run = Run(tmp_path / "run", SPEC.replace(searcher=Optuna(trials=6, objectives=BOTH)))
    live, facts = run.open(), [(3.0, 1.0), (1.0, 4.0), (2.0, 2.0), (2.5, 2.0), (NAN, 0.5), (0.5, 9.0)]
    front = [True, True, True, False, False, False]
    for error, cost in facts[:-1]:
        trial = live.next()
        assert trial is not None
        run.report(trial, 300, [error + 1] * 2, cost=cost / 2)
        finished(run, live, trial, scores=[error, error], cost=cost)
    unfinished = live.next()
    assert unfinished is not None and live.next() is None
    run.report(unfinished, 300, [0.5, 0.5], cost=9.0)
    told = run.open().told(0)
    assert [(each.value, each.cost) for each in told] == [*facts[:4], (None, None), (None, None)]
    ids = [trial["config_id"] for trial in run.plan["trials"]]
    report = write_report(str(run.folder))
    marks = dict(zip(report.frame["config_id"], report.frame["front"]))
    assert [marks[each] for each in ids] == front and "Pareto front" in report.text
    assert report.text.count("| yes") == 3 and "front" in Path(report.csv).read_text().splitlines()[0].split(",")
    runs = read_runs([str(run.folder)])
    wide = wide_table(runs).set_index("config_id")
    assert [bool(wide["front"][each]) for each in ids] == front
    assert [wide["agent_seconds"][each] for each in ids] == [cost for _, cost in facts]
    rows = {row["id"]: row["front"] for row in page_facts(runs, forests=False)["rows"]}
    assert [rows[each] for each in ids] == front
    target = tmp_path / "both.journal"
    raymix_command(["report", str(run.folder), "--optuna", str(target)])
    (study,) = journal(target)
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MINIMIZE"]
    assert [trial.values for trial in study.trials[:4]] == [list(each) for each in facts[:4]]
    assert {trial.user_attrs["config_id"] for trial in study.best_trials} == set(ids[:3])
    again = SPEC.replace(searcher=Optuna(trials=2, objectives=BOTH, warm_start=(str(run.folder),)))
    warmed = Run(tmp_path / "again", again).open().told(0)
    assert {(each.value, each.cost) for each in warmed} == {*facts[:4], (None, None)}


# The searcher and the scheduler as Tune drives them


class Loop:
    """Tune's controller as far as a searcher and a scheduler see it: one suggestion pends, `seats` trials are at work.

    Which of those reports next is a matter of chance.
    """

    def __init__(self, run: Run, seats: int, chance: random.Random, at_once: int = 99) -> None:
        self.run, self.seats, self.chance, plan = run, seats, chance, run.plan
        ladders = ladders_in(plan, run.folder)
        live = Studies(plan, run.folder, lambda trial: {**trial, "widths": [2, 2], "shared": []}, ladders)
        finished = {trial["config_id"] for trial in plan["trials"] if not self.goes_on(live, trial)}
        unfinished = [trial for trial in plan["trials"] if trial["config_id"] not in finished]

        def config_of(trial: dict[str, Any]) -> dict[str, Any]:
            return {"job": dataclasses.asdict(job_of(plan, trial, run.folder, "cpu", "eager")), "trial": trial}

        self.searcher = StudySearcher(live, unfinished, config_of, at_once)
        self.scheduler = HalvingScheduler(ladders, RankAt(plan), at_once) if ladders else None
        self.trials: dict[str, Trial] = {}
        self.most = 0
        """The most trials that were at work at once."""

    @staticmethod
    def goes_on(live: Studies, trial: dict[str, Any]) -> bool:
        return live.told(trial["study"])[trial["number"]].state == RUNNING

    def get_trials(self) -> list[Trial]:
        return list(self.trials.values())

    def having(self, status: str) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.status == status]

    def stop_trial(self, trial: Trial) -> None:
        if self.scheduler and trial.status == Trial.PAUSED:
            self.scheduler.on_trial_remove(self, trial)
        elif self.scheduler:
            self.scheduler.on_trial_complete(self, trial, {})
        trial.status = Trial.TERMINATED
        self.searcher.on_trial_complete(trial.trial_id, {})

    def go(self, reports: int = 10**6) -> None:
        """To the end, or until there were so many reports."""
        over = False
        while not over or any(trial.status != Trial.TERMINATED for trial in self.get_trials()):
            asked = None
            if not over and not self.having(Trial.PENDING):
                asked = self.searcher.suggest(f"t{len(self.trials)}")
                over = asked == Searcher.FINISHED
            if asked and not over:
                trial = Trial("fake", stub=True, trial_id=f"t{len(self.trials)}", config=asked)
                self.trials[trial.trial_id] = trial
                if self.scheduler:
                    self.scheduler.on_trial_add(self, trial)
            chosen = self.scheduler.choose_trial_to_run(self) if self.scheduler else None
            for trial in dict.fromkeys([*([chosen] if chosen else []), *self.having(Trial.PENDING)]):
                if len(self.having(Trial.RUNNING)) < self.seats:
                    trial.status = Trial.RUNNING
            running = self.having(Trial.RUNNING)
            self.most = max(self.most, len(running))
            assert running or asked or not self.having(Trial.PAUSED), "those who wait wait for ever"
            if running:
                self.advance(self.chance.choice(running))
                reports -= 1
            if reports == 0:
                return

    def advance(self, trial: Trial) -> None:
        """A trial reports a step; one that begins at a rung, as after a restart, reports that again."""
        steps = reached(self.run).get(trial.config["trial"]["number"], 0)
        again = steps == 300 and "again" not in trial.config
        trial.config["again"] = True
        if not again:
            steps += 300
            self.run.report(trial.config["trial"], steps)
        if steps == 900:
            return self.stop_trial(trial)
        if self.scheduler and steps == 300:
            action = self.scheduler.on_trial_result(self, trial, {"rung": 300})
            if action == HalvingScheduler.STOP:
                self.stop_trial(trial)
            elif action == HalvingScheduler.PAUSE:
                trial.status = Trial.PAUSED


def reached(run: Run) -> dict[int, int]:
    """The last step of each trial of a run's only study, by its number."""
    numbers = {trial["config_id"]: trial["number"] for trial in run.plan["trials"]}
    found: dict[int, int] = {}
    for row in ledger.rows(ledger.read(str(run.folder / "ledger"))) if (run.folder / "ledger").is_dir() else []:
        found[numbers[row.config_id]] = max(row.step, found.get(numbers[row.config_id], 0))
    return found


@pytest.mark.parametrize("at_once", [1, 2, 99])
def test_cohorts_lose_the_same_trials_whatever_the_order(tmp_path: Path, at_once: int) -> None:
    """Ten trials in cohorts of 4, 4 and 2, of which the best 2, 2 and 1 go on; also across a restart. No deadlock."""
    searcher = Optuna(trials=10, sampler="random", cohort=4)
    spec = SPEC.replace(scheduler=Halving(first=300, reduction=3), searcher=searcher)
    for seed in range(3):
        run, chance = Run(tmp_path / f"{seed}", spec), random.Random(seed)
        if seed == 2:
            Loop(run, 5, chance, at_once).go(reports=9)
        loop = Loop(run, 5, chance, at_once)
        loop.go()
        assert loop.most <= min(at_once, 5)
        errors = [error_of(trial) for trial in run.plan["trials"]]
        best = [sorted(cohort, key=errors.__getitem__) for cohort in (range(4), range(4, 8), range(8, 10))]
        kept = {*best[0][:2], *best[1][:2], *best[2][:1]}
        assert reached(run) == {number: 900 if number in kept else 300 for number in range(10)}
        states = [told.state for told in run.open().told(0)]
        assert states == [COMPLETE if number in kept else PRUNED for number in range(10)]


@pytest.mark.parametrize("at_once", [1, 3])
def test_as_many_trials_are_at_work_as_are_allowed(tmp_path: Path, at_once: int) -> None:
    run = Run(tmp_path, SPEC.replace(searcher=Optuna(trials=7)))
    loop = Loop(run, 5, random.Random(0), at_once)
    loop.go()
    assert loop.most == at_once and reached(run) == dict.fromkeys(range(7), 900)


def test_one_at_a_time_a_restart_changes_nothing(tmp_path: Path) -> None:
    """With early stopping, by TPE, and with so many trials that it no longer draws at random; killed at any report."""
    spec = SPEC.replace(scheduler=Halving(first=300), searcher=Optuna(trials=20, cohort=3, at_once=1))
    whole = Run(tmp_path / "whole", spec)
    Loop(whole, 5, random.Random(0), 1).go()
    for reports in (5, 21, 22, 23, 24):
        run = Run(tmp_path / f"{reports}", spec)
        Loop(run, 5, random.Random(0), 1).go(reports)
        assert len(run.plan["trials"]) < 20
        Loop(run, 5, random.Random(0), 1).go()
        assert (run.folder / NAME).read_bytes() == (whole.folder / NAME).read_bytes()
        assert reached(run) == reached(whole)


def test_trials_of_a_search_share_phases_and_have_fixed_widths(tmp_path: Path) -> None:
    """Catches a width that depends on how many trials there are, and a shared phase as wide as all seats."""
    grid = {"mdn_learning_rate": tune.grid_search([1e-3, 1e-2])}
    datasets = {TWO_MODES: load("two-modes")}
    for search, mixture in ((grid, [4, 4]), ({"mdn_learning_rate": tune.loguniform(1e-3, 1e-2)}, [8, 8])):
        spec = SPEC.replace(search={"beta": tune.loguniform(0.05, 20.0), **search}, seats=9)
        plan = Run(tmp_path / str(mixture[0]), spec).plan
        folder = tmp_path / str(mixture[0])
        live = Studies(plan, folder, SearchPlaces(plan, datasets).place, {})
        trials = [trial for trial in (live.next() for _ in range(4)) if trial is not None]
        assert [trial["widths"] for trial in trials] == [[mixture[0], 8]] * 4
        words = [trial["shared"] for trial in trials]
        assert all(len(word) == 1 for word in words)
        assert len({word[0] for word in words}) == (2 if mixture[0] == 4 else 4)


# What cannot be done


def spec_of(**changes: Any) -> SweepSpec:
    return SPEC.replace(**changes)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Optuna(trials=0).check(), ("trials of Optuna", "at least 1", "not 0")),
        (lambda: Optuna(at_once=True).check(), ("at_once of Optuna", "or None", "not True")),
        (lambda: Optuna(cohort=0.5).check(), ("cohort of Optuna", "0.5")),
        (lambda: Optuna(sampler="cmaes").check(), ("tpe, gp, qmc, random", "'cmaes'")),
        (lambda: Optuna(points=(1,)).check(), ("points of Optuna", "{'beta': 2.0}", "(1,)")),
        (
            lambda: Optuna(trials=1, points=({"beta": 1}, {"beta": 2})).check(),
            ("at most", "(1)", "raise trials"),
        ),
        (lambda: Optuna(warm_start=(1,)).check(), ("warm_start of Optuna", "(1,)")),
        (lambda: Optuna(objectives="speed").check(), ("('score', 'agent_seconds')", "not ('speed',)")),
        (lambda: Optuna(objectives=3).check(), ("objectives of Optuna", "not 3")),
        (
            lambda: expand(spec_of(searcher=Optuna(objectives=BOTH), scheduler=Halving(first=300))),
            ("Halving", "score alone", "leave out scheduler", "objectives=('score', 'agent_seconds')"),
        ),
        (lambda: expand(spec_of(searcher=Optuna(trials=0))), ("trials of Optuna", "not 0")),
        (lambda: expand(spec_of(searcher="tpe")), ("searcher takes Optuna(trials=...)", "'tpe'")),
        (lambda: expand(spec_of(samples=3)), ("set its trials", "samples=3")),
        (lambda: expand(spec_of(search={})), ("nothing for Optuna to search", "tune.loguniform(0.1, 10)")),
        (lambda: expand(spec_of(search={"beta": tune.grid_search([1, 2])})), ("nothing for Optuna to search",)),
        (lambda: expand(spec_of(search={"beta": tune.randn(1, 2)})), ("'beta'", "drawn by Normal", "loguniform")),
        (lambda: expand(spec_of(search={"beta": tune.sample_from(lambda spec: 1)})), ("'beta'", "tune.grid_search")),
        (lambda: expand(spec_of(search={"beta": tune.qloguniform(0.1, 10, 0.1)})), ("'beta'", "without rounding")),
        (lambda: expand(spec_of(search={"beta": tune.uniform(-1, 1)})), ("beta", "at least 0", "-1")),
        (lambda: expand(spec_of(search={"beta": tune.choice([1, -2])})), ("beta", "at least 0", "-2")),
        (lambda: expand(spec_of(search={"num_components": tune.uniform(1, 9)})), ("one program per trial",)),
        (
            lambda: expand(spec_of(search={"tau": tune.choice([0.1]), "mdn_steps": tune.uniform(1, 9)}, settings={})),
            ("mdn_steps", "tune.randint"),
        ),
        (lambda: expand(spec_of(search={"gamma": tune.uniform(0, 1)})), ("unknown hyperparameter 'gamma'",)),
        (
            lambda: expand(spec_of(searcher=Optuna(points=({"gamma": 1},)))),
            ("'gamma'", "not searched", "beta, policy_learning_rate"),
        ),
        (lambda: expand(spec_of(searcher=Optuna(points=({"beta": 50},)))), ("50", "0.05 to 20 (logarithmic)")),
        (lambda: expand(SPEC, spec_of(searcher=None)), ("the same searcher",)),
        (lambda: expand(SPEC, spec_of(label="again")), ("two studies of lom", "leave one")),
        (
            lambda: expand(spec_of(search={"steps": tune.randint(300, 999)}, steps=None, scheduler=Halving(first=100))),
            ("the same steps",),
        ),
        (
            lambda: warm_started(
                describe([spec_of(searcher=Optuna(warm_start=("/no/run",)))], "s", {TWO_MODES: ""}, "")
            ),
            ("no folder /no/run",),
        ),
        (lambda: check_number([spec_of(searcher=Optuna(trials=1_001))], False), ("1,001 trials", "--yes")),
        (
            lambda: check_number(
                [spec_of(searcher=None, search={"beta": tune.grid_search([1] * 501)}, samples=2)], False
            ),
            ("1,002 trials of 2 seeds", "more than 1,000", "--yes"),
        ),
        (lambda: expand(spec_of(searcher=Optuna(cohort=3))), ("there is no Halving", "cohort=3")),
        (lambda: check_number([spec_of(searcher="optuna")], False), ("searcher takes Optuna(trials=...)", "'optuna'")),
        (lambda: check_number([spec_of(search={"beta": {"a": 1}})], False), ("search['beta'] takes", "grid_search")),
        (
            lambda: dry_run([spec_of(searcher=Optuna(warm_start=("/no/run",)))], Path("runs"), as_json=False),
            ("no folder /no/run",),
        ),
    ],
)
def test_a_search_that_cannot_be_made_is_one_sentence(make: Callable[[], Any], words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_search_can_be_planned(tmp_path: Path) -> None:
    """The dry run names each study; examples stand for its trials; a confirmed or small number is no question."""
    spec = spec_of(search={**SPEC.search, "num_components": tune.grid_search([1, 2])}, datasets=("two-modes",))
    check_number([spec.replace(searcher=Optuna(trials=500))], False)
    check_number([spec.replace(searcher=Optuna(trials=5_000))], True)
    text = dry_run([spec], tmp_path, as_json=False)
    assert text.count("a study of 16 trials by tpe over beta 0.05 to 20 (logarithmic)") == 2
    assert "32 trials x 2 seeds" in text and "num_components=2" in text
    assert "random before there are 10" not in text
    by_gp = spec.replace(searcher=Optuna(sampler="gp"), scheduler=Halving(first=300))
    assert dry_run([by_gp], tmp_path, as_json=False).count("random before there are 10") == 1
    facts = json.loads(dry_run([spec], tmp_path, as_json=True))
    assert [study["grid"] for study in facts["studies"]] == [{"num_components": 1}, {"num_components": 2}]
    assert [cell.seed for cell in studies(spec)] == [[0, 0], [0, 1]]
    swept = [trial.swept for trial in expand(spec)]
    assert len(swept) == 6 and {each["beta"] for each in swept} == {0.05, 20.0}


# Real sweeps: four trials of two seeds, one at a time, by TPE from the first one on, since earlier results warm it.


def warm_sweep(folder: Path, more: str = "at_once=1") -> str:
    """A search of the sweep of `test_sweep`, warmed by results that are written here."""
    searched = SWEEP.replace("import SweepSpec", "import Halving, Optuna, SweepSpec").replace("steps=300", "steps=180")
    searched = searched.replace(
        '{"num_components": tune.grid_search([1, 2, 3])}',
        '{"beta": tune.loguniform(0.05, 20.0), "policy_learning_rate": tune.loguniform(1e-5, 1e-2)},'
        f' metric="held_out/action_error", searcher=Optuna(trials=4, warm_start=("{folder}",), {more})',
    )
    found: dict[str, Any] = {"__name__": "sweep"}
    exec(searched, found)
    spec = found["SPEC"].replace(searcher=Optuna(trials=12), held_out=0.1)
    earlier = Run(folder, spec, load("two-modes").spec.hash)
    live = earlier.open()
    while (trial := live.next()) is not None:
        finished(earlier, live, trial, step=180)
    return searched


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """An undisturbed search: its folder and its sweep."""
    folder = tmp_path_factory.mktemp("whole")
    sweep = warm_sweep(folder / "earlier")
    status, output, errors = Driver(folder, sweep=sweep).finish()
    assert status == 0, errors
    assert "4 trials of lom" in output
    (run,) = (folder / "runs").iterdir()
    yield run, sweep


def test_a_search_trains_what_it_decides(whole: tuple[Path, str], tmp_path: Path) -> None:
    run, sweep = whole
    plan = read_description(run)
    assert len(plan["trials"]) == 4 and len(plan["studies"][0]["warm"]) == 12
    assert {key[0] for key in results(run)} == {trial["config_id"] for trial in plan["trials"]}
    assert len(results(run)) == 4 * 2 * (2 + 6)
    (told,) = told_by(plan, run, ())
    assert [each.state for each in told] == [COMPLETE] * 4
    # Started again it has nothing to do.
    attempts = list((run / "trials").iterdir())
    status, _, errors = Driver(tmp_path, "--resume", str(run), sweep=sweep).finish()
    assert status == 0, errors
    assert list((run / "trials").iterdir()) == attempts


def test_a_killed_driver_changes_no_decision(whole: tuple[Path, str], tmp_path: Path) -> None:
    driver = Driver(tmp_path, sweep=whole[1])
    driver.wait_for_segments(20)  # of 32: the third trial is in the middle
    driver.process.kill()
    driver.finish()
    (run,) = (tmp_path / "runs").iterdir()
    assert len(read_description(run)["trials"]) == 3, "the driver was killed too late to test anything"
    status, _, errors = Driver(tmp_path, "--resume", str(run), sweep=whole[1]).finish()
    assert status == 0, errors
    assert (run / NAME).read_bytes() == (whole[0] / NAME).read_bytes()
    assert results(run) == results(whole[0])


def test_a_search_with_early_stopping_and_all_the_room_there_is(tmp_path: Path) -> None:
    """Catches trials that wait for each other for ever, and a stopped trial that is tried again."""
    sweep = warm_sweep(tmp_path / "earlier", "cohort=4").replace("seeds=2", "seeds=2, scheduler=Halving(first=60)")
    status, output, errors = Driver(tmp_path, sweep=sweep).finish()
    assert status == 0, errors
    (run,) = (tmp_path / "runs").iterdir()
    assert output.count("stopped early") == 2
    states = [trial.state.name for trial in exported(run, tmp_path / "journal") if "run" not in trial.user_attrs]
    assert sorted(states) == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]


def test_a_search_for_score_and_cost_and_its_resume(tmp_path: Path) -> None:
    """A real sweep, stopped by its time and gone on with: all trials cost something, and some are on the front."""
    sweep = warm_sweep(tmp_path / "earlier", f"at_once=1, objectives={BOTH}")
    driver = Driver(tmp_path, sweep=sweep)
    driver.wait_for_segments(12, seconds=400)
    driver.process.kill()
    driver.finish()
    (run,) = (tmp_path / "runs").iterdir()
    before = read_description(run)["trials"]
    assert 0 < len(before) < 4, "the driver was killed too late to test anything"
    status, output, errors = Driver(tmp_path, "--resume", str(run), sweep=sweep).finish()
    assert status == 0, errors
    plan = read_description(run)
    assert plan["trials"][: len(before)] == before and len(plan["trials"]) == 4
    (told,) = told_by(plan, run, ())
    points = [(each.value or 0.0, each.cost or 0.0) for each in told]
    assert [each.state for each in told] == [COMPLETE] * 4 and all(cost > 0 for _, cost in points)
    frame = write_report(str(run)).frame.set_index("config_id")
    marks = [bool(frame["front"][trial["config_id"]]) for trial in plan["trials"]]
    assert marks == brute_force_front(points) and any(marks)
    assert "Pareto front" in output


def exported(run: Path, target: Path) -> list[optuna.trial.FrozenTrial]:
    write_journal(str(run), str(target))
    (study,) = journal(target)
    return study.trials

"""Seeds that are added on promotion: the ladder's rule over all orders of arrival, and in real sweeps."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from test_halving import FULL, SPEC
from test_sweep import Driver, results

from raymix import Halving, Optuna
from raymix.ledger import SCHEMA, Row
from raymix.plan import expand, read_description
from raymix.report.runs import missing, read_runs
from raymix.report.tables import score_table
from raymix.search.halving import ladders_of, parts_of, rank_at
from raymix.search.scheduler import HalvingScheduler
from raymix.types import UsageError

RUNGS, STEPS, SEEDS = [1, 3, 9], 10, [4, 2, 7, 0]


def plan_of(number: int, due: tuple[int, ...]) -> dict[str, Any]:
    trials = [{"config_id": f"{i:012x}", "algorithm": "toy", "config": {"steps": STEPS}} for i in range(number)]
    return {
        "scheduler": Halving(first=1, seeds=due).to_dict(),
        "phases": {"toy": [["main", "steps"]]},
        "seeds": SEEDS,
        "metric": "return",
        "dataset_hashes": {"data": ""},
        "trials": [{**trial, "dataset": "data"} for trial in trials],
    }


class Tune:
    """Tune's controller and its trials, one for each part of a configuration's seeds; reports are rows.

    `score(config_id, seed, step)` makes the rows, `next_of` picks whose report comes next, `seats` run at once. Seeds
    in `diverging` are diverged from the step that is given there.
    """

    def __init__(
        self,
        plan: dict[str, Any],
        score: Callable[[str, int, int], float],
        next_of: Callable[[list[str]], str],
        seats: int,
        diverging: dict[tuple[str, int], int],
    ) -> None:
        self.plan, self.score, self.next_of, self.seats, self.diverging = plan, score, next_of, seats, diverging
        self.rows: list[Row] = []
        planned = {trial["config_id"]: trial for trial in plan["trials"]}

        def rank(job: dict[str, Any], rung: int) -> Any:
            rows = [row for row in self.rows if row.config_id == job["config_id"]]
            return rank_at(plan, planned[job["config_id"]], rung, rows)

        self.scheduler = HalvingScheduler(ladders_of(plan, []), rank)
        self.trials = {}
        for trial in plan["trials"]:
            for number, part in enumerate(parts_of(plan, trial)):
                job = {"config_id": trial["config_id"], "cohort": "data", **part._asdict()}
                job["share"] = len(part.seeds) / len(SEEDS)
                name = f"{trial['config_id']}-{number}"
                self.trials[name] = Trial("fake", stub=True, trial_id=name, config={"job": job})
        self.done = dict.fromkeys(self.trials, 0)
        self.asked: set[str] = set()

    def get_trials(self) -> list[Trial]:
        return list(self.trials.values())

    def stop_trial(self, trial: Trial) -> None:
        if trial.status == Trial.RUNNING:
            self.scheduler.on_trial_complete(self, trial, {"done": True})
        else:
            self.scheduler.on_trial_remove(self, trial)
        trial.status = Trial.TERMINATED

    def run(self) -> None:
        for trial in self.get_trials():
            self.scheduler.on_trial_add(self, trial)
        while any(trial.status != Trial.TERMINATED for trial in self.get_trials()):
            chosen = self.scheduler.choose_trial_to_run(self)
            pending = [trial for trial in self.get_trials() if trial.status == Trial.PENDING]
            for trial in dict.fromkeys([*([chosen] if chosen else []), *pending]):
                if len(self.names(Trial.RUNNING)) < self.seats:
                    trial.status = Trial.RUNNING
            if running := self.names(Trial.RUNNING):
                self.report(self.trials[self.next_of(running)])
            elif self.scheduler.choose_trial_to_run(self) is None:
                assert not self.names(Trial.PAUSED), "those who wait wait for ever"

    def names(self, status: str) -> list[str]:
        return [name for name, trial in self.trials.items() if trial.status == status]

    def report(self, trial: Trial) -> None:
        job = trial.config["job"]
        if job["gate"] and trial.trial_id not in self.asked:
            action = self.scheduler.on_trial_result(self, trial, {"rung": job["gate"]})
            if action == TrialScheduler.CONTINUE:
                self.asked.add(trial.trial_id)
        else:
            self.done[trial.trial_id] += 1
            step = self.done[trial.trial_id]
            rows = [self.row(job["config_id"], seed, step) for seed in job["seeds"]]
            self.rows += rows
            if step == STEPS or all(row.diverged for row in rows):
                return self.stop_trial(trial)
            action = self.scheduler.on_trial_result(self, trial, {"rung": step} if step in job["rungs"] else {})
        if action == TrialScheduler.STOP:
            self.stop_trial(trial)
        elif action == TrialScheduler.PAUSE:
            trial.status = Trial.PAUSED
        return None

    def row(self, config_id: str, seed: int, step: int) -> Row:
        return Row(
            run="run",
            config_id=config_id,
            seed=seed,
            phase="main",
            step=step,
            dataset="data",
            dataset_hash="",
            algorithm="toy",
            config={},
            returns=(self.score(config_id, seed, step),),
            diverged=step >= self.diverging.get((config_id, seed), STEPS + 1),
            agent_seconds=0.0,
            wall_time=0.0,
            version="",
        )


def expected(plan: dict[str, Any], due: tuple[int, ...], tune: Tune) -> dict[tuple[str, int], int]:
    """The rule in a few plain lines: the last step of each seed that begins, if everybody came at once."""
    left = {trial["config_id"]: list(SEEDS[: due[0]]) for trial in plan["trials"]}
    last: dict[tuple[str, int], int] = {}
    places = len(left)
    for rung, number, following in zip([*RUNGS, STEPS], [*due, len(SEEDS)], [*due[1:], len(SEEDS), len(SEEDS)]):
        ranks = {}
        for name in left:
            seeds = SEEDS[:number]
            dead = {seed: tune.diverging.get((name, seed), STEPS + 1) <= rung for seed in seeds}
            if not all(dead.values()):
                scores = [-math.inf if dead[seed] else tune.score(name, seed, rung) for seed in seeds]
                live = [score for score in scores if score > -math.inf]
                ranks[name] = (math.fsum(scores) / len(seeds), len(live), math.fsum(live) / len(live))
            last |= dict.fromkeys([(name, seed) for seed in seeds], rung)
        if rung == STEPS:
            break
        places = math.ceil(places / 3)
        best = sorted(ranks, key=ranks.__getitem__, reverse=True)[:places]
        left = dict.fromkeys(best, SEEDS[:following])
    # Those that train together end together: where all of them have diverged.
    for part, (name, _) in itertools.product(parts_of(plan, plan["trials"][0]), list(last)):
        if (name, part.seeds[0]) in last:
            ended = max(tune.diverging.get((name, seed), STEPS + 1) for seed in part.seeds)
            last |= {(name, seed): min(ended, last[name, seed]) for seed in part.seeds}
    return last


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_same_seeds_train_as_far_whatever_the_order(data: st.DataObject) -> None:
    """Any numbers of seeds per rung, of trials and of seats, any order, seeds that diverge; no deadlock, and the ledger
    alone has the same decisions."""
    due = tuple(sorted(data.draw(st.lists(st.integers(1, len(SEEDS)), min_size=3, max_size=3))))
    number = data.draw(st.integers(1, 9))
    plan = plan_of(number, due)
    names = [trial["config_id"] for trial in plan["trials"]]
    cells = st.tuples(st.sampled_from(names), st.sampled_from(SEEDS))
    diverging = data.draw(st.dictionaries(cells, st.integers(1, STEPS), max_size=6))
    luck = random.Random(data.draw(st.integers(0, 2**32)))
    scores = {
        cell: luck.random() for cell in itertools.product(names, SEEDS, range(1, STEPS + 1))
    }  # no two trials are equal: ties are another test's
    chance = data.draw(st.randoms(use_true_random=False))
    tune = Tune(plan, lambda *at: scores[at], chance.choice, data.draw(st.integers(1, 6)), diverging)
    tune.run()
    last: dict[tuple[str, int], int] = {}
    for row in tune.rows:
        last[row.config_id, row.seed] = max(row.step, last.get((row.config_id, row.seed), 0))
    assert last == expected(plan, due, tune)
    chance.shuffle(tune.rows)
    (ladder,) = ladders_of(plan, tune.rows).values()
    (live,) = tune.scheduler._ladders.values()
    assert ladder.stopped() == live.stopped()


def test_a_configuration_that_lacks_seeds_is_not_finished() -> None:
    """Its first seed is at the end, and the others have not begun."""
    plan = plan_of(1, (1, 1, 1))
    first = SEEDS[0]
    rows = [Tune(plan, lambda *at: 1.0, min, 1, {}).row("0" * 12, first, step) for step in (1, 3, 9, STEPS)]
    table = pa.Table.from_pylist(
        [{**vars(row), "config": '{"steps": 10}', "metrics": "{}"} for row in rows], schema=SCHEMA
    )
    for seeds, finished in (((), True), (SEEDS, False), ([first], True)):
        frame = score_table(table, phases=plan["phases"], seeds=seeds)
        assert list(frame["finished"]) == [finished]


def test_parts_follow_from_the_rungs() -> None:
    (trial,) = plan_of(1, (1, 1, 3))["trials"]
    found = [tuple(part) for part in parts_of(plan_of(1, (1, 1, 3)), trial)]
    assert found == [([4], 0, [1, 3, 9]), ([2, 7], 3, [9]), ([0], 9, [])]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Halving(first=100, seeds=()).check_values(), ("seeds of Halving", "for each rung", "not ()")),
        (lambda: Halving(first=100, seeds=(2, 1)).check_values(), ("none smaller", "not (2, 1)")),
        (lambda: Halving(first=100, seeds=(0, 1)).check_values(), ("at least 1", "not (0, 1)")),
        (lambda: Halving(first=100, seeds=2).check_values(), ("seeds of Halving", "not 2")),  # type: ignore[arg-type]
        (
            lambda: expand(SPEC.replace(scheduler=Halving(first=100, seeds=(1, 2)))),
            ("each of the 4 rungs", "100, 300, 900, 2700", "not (1, 2)"),
        ),
        (
            lambda: expand(SPEC.replace(scheduler=Halving(first=500, seeds=(1, 4)))),
            ("at most the sweep's number of seeds, 3", "not (1, 4)"),
        ),
        (
            lambda: expand(SPEC.replace(scheduler=Halving(first=500, seeds=(2, 3), statistic="lower_bound"))),
            ("'lower_bound'", "at least 3 seeds at every rung", "not 2 at the first"),
        ),
        (
            lambda: expand(SPEC.replace(scheduler=Halving(first=500, seeds=(1, 2)), searcher=Optuna(trials=9))),
            ("Optuna", "seeds=(1, 2)", "leave out"),
        ),
    ],
)
def test_numbers_of_seeds_that_make_no_sense_are_one_sentence(make: Callable[[], Any], words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert all(word in str(caught.value) for word in words), caught.value


# Real sweeps: six trials that begin with one seed, and get a second one with which they pass the second rung.

GROWING = FULL.replace("import SweepSpec", "import Halving, SweepSpec").replace(
    "seats=4", "seats=4, scheduler=Halving(first=90, reduction=2, seeds=(1, 1))"
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """An undisturbed run: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    status, output, errors = Driver(folder, sweep=GROWING).finish(300)
    assert status == 0, errors
    (run,) = (folder / "runs").iterdir()
    yield run, output


def test_only_who_is_promoted_gets_more_seeds(whole: tuple[Path, str], tmp_path: Path) -> None:
    """Catches seeds that begin too early, that train less than the others, and scores that the company changes."""
    run, output = whole
    found: dict[str, dict[int, int]] = {}
    for config_id, seed, phase, step in results(run):
        if phase == "main":
            found.setdefault(config_id, {}).setdefault(seed, 0)
            found[config_id][seed] = max(step, found[config_id][seed])
    ends = [{0: 90}] * 3 + [{0: 180}] + [{0: 300, 1: 300}] * 2
    assert sorted(found.values(), key=lambda each: each[0]) == ends
    assert "1 to 2 seeds each" in output and output.count("stopped early") == 4 and "unfinished" not in output
    assert not missing(read_runs([str(run)]))
    status, _, errors = Driver(tmp_path, sweep=FULL).finish(300)
    assert status == 0, errors
    (full,) = (tmp_path / "runs").iterdir()
    assert results(run).items() <= results(full).items()


def test_a_run_that_added_seeds_is_finished(whole: tuple[Path, str], tmp_path: Path) -> None:
    """Catches a resume that begins seeds which were never due."""
    run, _ = whole
    before, attempts = results(run), list((run / "trials").iterdir())
    status, output, errors = Driver(tmp_path, "--resume", str(run), sweep=GROWING).finish()
    assert status == 0, errors
    assert results(run) == before and list((run / "trials").iterdir()) == attempts
    assert output.count("stopped early") == 4
    assert read_description(run)["scheduler"]["seeds"] == [1, 1]


@pytest.mark.parametrize("segments", [24, 50])
def test_a_killed_driver_changes_no_seed(segments: int, whole: tuple[Path, str], tmp_path: Path) -> None:
    """Of 68 segments or so: while the first seeds wait at the first rung, and while others have begun."""
    driver = Driver(tmp_path, sweep=GROWING)
    driver.wait_for_segments(segments, 300)
    driver.process.kill()
    driver.finish()
    (run,) = (tmp_path / "runs").iterdir()
    assert len(results(run)) < len(results(whole[0])), "the driver was killed too late to test anything"
    status, output, errors = Driver(tmp_path, "--resume", str(run), sweep=GROWING).finish(300)
    assert status == 0, errors
    assert results(run) == results(whole[0])
    assert output.count("stopped early") == 4

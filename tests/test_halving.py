"""Early stopping: the ladder's rule over all orders of arrival, beside Tune's own, and in real sweeps."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from test_sweep import SWEEP, Driver, results

from raymix import Halving, SweepSpec
from raymix.plan import expand, read_description
from raymix.search.halving import GO, STOP, WAIT, Ladder, rank
from raymix.search.scheduler import HalvingScheduler
from raymix.types import UsageError

NAN = math.nan


class Loop:
    """Drives a scheduler as Tune's controller does: who pends is started unasked, `seats` run at once.

    `score(trial, step)` makes the reports; `next_of(running)` picks whose report comes next; those in `failing` fail
    for good before the step that is given there.
    """

    def __init__(
        self,
        scheduler: TrialScheduler,
        names: Sequence[str],
        rungs: Sequence[int],
        steps: int,
        score: Callable[[str, int], float],
        next_of: Callable[[list[str]], str],
        seats: int,
        failing: dict[str, int] | None = None,
    ) -> None:
        self.scheduler, self.rungs, self.steps = scheduler, rungs, steps
        self.score, self.next_of, self.seats, self.failing = score, next_of, seats, failing or {}
        self.trials = {
            name: Trial("fake", stub=True, trial_id=name, config={"job": {"config_id": name, "cohort": "data"}})
            for name in names
        }
        self.done = dict.fromkeys(names, 0)
        """Steps that each trial has trained."""

    def get_trials(self) -> list[Trial]:
        return list(self.trials.values())

    def stop_trial(self, trial: Trial) -> None:
        if trial.status == Trial.RUNNING:
            self.scheduler.on_trial_complete(self, trial, {"done": True})
        else:
            self.scheduler.on_trial_remove(self, trial)
        trial.status = Trial.TERMINATED

    def run(self) -> dict[str, int]:
        """Steps at which each trial ended."""
        for trial in self.get_trials():
            self.scheduler.on_trial_add(self, trial)
        while any(trial.status not in (Trial.TERMINATED, Trial.ERROR) for trial in self.get_trials()):
            chosen = self.scheduler.choose_trial_to_run(self)
            waiting = [trial for trial in self.get_trials() if trial.status == Trial.PENDING]
            for trial in dict.fromkeys([*([chosen] if chosen else []), *waiting]):
                if len(self.names(Trial.RUNNING)) < self.seats:
                    trial.status = Trial.RUNNING
            running = self.names(Trial.RUNNING)
            assert running or any(trial.status == Trial.TERMINATED for trial in self.get_trials()), "nobody can go on"
            if running:
                self.report(self.trials[self.next_of(running)])
            elif not self.names(Trial.PENDING) and self.scheduler.choose_trial_to_run(self) is None:
                assert not self.names(Trial.PAUSED), "those who wait wait for ever"
        return self.done

    def names(self, status: str) -> list[str]:
        return [name for name, trial in self.trials.items() if trial.status == status]

    def report(self, trial: Trial) -> None:
        name, step = trial.trial_id, self.done[trial.trial_id] + 1
        if self.failing.get(name) == step:
            trial.status = Trial.ERROR
            return self.scheduler.on_trial_error(self, trial)
        self.done[name] = step
        if step == self.steps:
            return self.stop_trial(trial)
        result = {"training_iteration": step, "score": self.score(name, step), **self.rung(step)}
        action = self.scheduler.on_trial_result(self, trial, result)
        if action == TrialScheduler.STOP:
            self.stop_trial(trial)
        elif action == TrialScheduler.PAUSE:
            trial.status = Trial.PAUSED

    def rung(self, step: int) -> dict[str, int]:
        return {"rung": step} if step in self.rungs else {}


def halved(
    names: Sequence[str],
    score: Callable[[str, int], float],
    next_of: Callable[[list[str]], str],
    seats: int,
    reduction: int = 3,
    failing: dict[str, int] | None = None,
) -> dict[str, int]:
    """Where each trial ends under raymix's halving, with rungs at 1, 3, 9 of 10 steps."""
    rungs = [1, 3, 9]
    ladders = {"data": Ladder(names, rungs, reduction)}
    scheduler = HalvingScheduler(ladders, lambda job, rung: rank([score(job["config_id"], rung)], "mean"))
    return Loop(scheduler, names, rungs, 10, score, next_of, seats, failing).run()


def in_order(order: Sequence[str]) -> Callable[[list[str]], str]:
    """Lock-step: everybody reports a chunk, in this order, before anybody reports the next one."""
    place, turns = {name: index for index, name in enumerate(order)}, dict.fromkeys(order, 0)

    def next_of(running: list[str]) -> str:
        chosen = min(running, key=lambda name: (turns[name], place[name]))
        turns[chosen] += 1
        return chosen

    return next_of


def expected(names: Sequence[str], score: Callable[[str, int], float], failing: dict[str, int]) -> dict[str, int]:
    """The rule in a few plain lines: everybody at once, the best third of those who came stays."""
    ends, left, places = {}, list(names), len(names)
    for rung in (1, 3, 9):
        ends |= {name: failing[name] - 1 for name in left if failing.get(name, 99) <= rung}
        left = [name for name in left if name not in ends]
        places = math.ceil(places / 3)
        best = sorted(left, key=lambda name: score(name, rung) if math.isfinite(score(name, rung)) else -math.inf)
        best = best[::-1][:places]
        ends |= {name: rung for name in left if name not in best}
        left = best
    return ends | {name: failing.get(name, 11) - 1 for name in left}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_survivors_are_the_same_whatever_the_order(data: st.DataObject) -> None:
    """Any number of trials and of seats, any order, noise at each rung, NaN scores, trials that fail; no deadlock."""
    number = data.draw(st.integers(1, 14))
    names = [f"trial-{index}" for index in range(number)]
    # No two finite scores are equal: ties are another test's.
    shuffled = {rung: data.draw(st.permutations(range(number))) for rung in (1, 3, 9)}
    nan = data.draw(st.sets(st.tuples(st.sampled_from(names), st.sampled_from([1, 3, 9])), max_size=1))
    failing = data.draw(st.dictionaries(st.sampled_from(names), st.integers(1, 10), max_size=4))
    chance = data.draw(st.randoms(use_true_random=False))

    def score(name: str, step: int) -> float:
        rung = next((rung for rung in (1, 3, 9) if rung == step), 1)
        return NAN if (name, step) in nan else float(shuffled[rung][names.index(name)])

    seats = data.draw(st.integers(1, number))
    ends = halved(names, score, chance.choice, seats, failing=failing)
    assert ends == expected(names, score, failing)


FORTY_EIGHT = [f"{index:02d}" for index in range(48)]  # the higher the number, the better


def orders() -> Iterator[list[str]]:
    yield FORTY_EIGHT
    yield FORTY_EIGHT[::-1]
    for seed in range(20):
        yield random.Random(seed).sample(FORTY_EIGHT, 48)


def test_no_order_costs_a_good_trial_unlike_with_tunes_own_asha() -> None:
    """48 scores: the best third gets past the first rung in every order; with Tune's, as few as one of them does."""
    best = set(FORTY_EIGHT[-16:])
    kept_by_tune = []
    for order in orders():
        ends = halved(FORTY_EIGHT, lambda name, step: float(name), in_order(order), seats=48)
        ours = {name for name, step in ends.items() if step > 1}
        tune = AsyncHyperBandScheduler(metric="score", mode="max", max_t=10, grace_period=1, reduction_factor=3)
        ends = Loop(tune, FORTY_EIGHT, [], 10, lambda name, step: float(name), in_order(order), seats=48).run()
        theirs = {name for name, step in ends.items() if step > 1}
        assert ours == best and len(ours & best) >= len(theirs & best)
        kept_by_tune.append(len(theirs))
    assert kept_by_tune[:2] == [48, 1], "Tune's ASHA depends on the order no more: is the comparison still right?"


def test_clear_cases_are_decided_early_and_others_wait() -> None:
    ladder = Ladder(["a", "b", "c", "d"], [10], reduction=2)
    for trial, score, standings in (
        ("a", 3.0, {"a": WAIT}),
        ("b", 1.0, {"a": WAIT, "b": WAIT}),
        ("c", 2.0, {"a": GO, "b": STOP, "c": WAIT}),
    ):
        ladder.reach(trial, 10, rank([score], "mean"))
        assert {name: ladder.standing(name) for name in standings} == standings
    ladder.end("d")
    assert ladder.standing("c") == GO and ladder.stopped() == ["b"]


def test_a_failed_trial_that_is_tried_again_counts_again() -> None:
    ladder = Ladder(["a", "b"], [10], reduction=2)
    ladder.reach("a", 10, rank([1.0], "mean"))
    ladder.end("b")
    assert ladder.standing("a") == GO
    ladder.go_on("b")
    assert ladder.standing("a") == WAIT


def test_whoever_was_let_past_a_rung_stays_past_it() -> None:
    """`a` went on since `b` had failed; the sweep is resumed, and `b` proves better."""
    ladder = Ladder(["a", "b"], [10], reduction=2)
    ladder.reach("a", 10, rank([1.0], "mean"))
    ladder.reach("a", 15, rank([1.0], "mean"))
    ladder.reach("b", 10, rank([2.0], "mean"))
    assert ladder.standing("a") == GO and ladder.standing("b") == STOP


def test_equals_go_on_in_the_order_of_the_plan() -> None:
    for arrivals in (["a", "b", "c"], ["c", "b", "a"]):
        ladder = Ladder(["a", "b", "c"], [10], reduction=3)
        for trial in arrivals:
            ladder.reach(trial, 10, rank([1.0, 1.0], "mean"))
        assert ladder.stopped() == ["b", "c"]


@pytest.mark.parametrize(
    ("statistic", "worse", "better"),
    [
        ("mean", [1.0, 2.0], [1.0, 2.1]),
        ("mean", [NAN, 90.0], [1.0, 2.0]),  # a diverged seed is worse than any score
        ("mean", [NAN, NAN, 9.0], [NAN, 1.0, 1.0]),  # fewer live seeds
        ("mean", [NAN, 1.0], [2.0, NAN]),
        ("mean", [NAN, NAN], [NAN, -9.0]),
        ("min", [1.0, 9.0], [2.0, 2.0]),
        ("iqm", [0.0, 1.0, 1.0, 99.0], [2.0, 2.0, 2.0, 2.0]),
        ("iqm", [0.0, 0.0, 0.0, 0.0], [NAN, 2.0, 2.0, 2.0]),  # that quarter is cut
        ("lower_bound", [0.0, 5.0, 10.0], [4.0, 4.5, 5.0]),
        ("lower_bound", [NAN, 5.0, 5.0], [0.0, 0.0, 0.0]),
    ],
)
def test_statistics_rank_trials_by_their_seeds(statistic: str, worse: list[float], better: list[float]) -> None:
    assert rank(worse, statistic) < rank(better, statistic)


SPEC = SweepSpec(algorithm="lom", datasets=("two-modes",), preset="small", steps=3_000, evaluate_every=100, seeds=3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Halving(first=0).check_values(), ("first of Halving", "at least 1", "not 0")),
        (lambda: Halving(first=1.5).check_values(), ("first of Halving", "1.5")),
        (lambda: Halving(first=100, reduction=1).check_values(), ("reduction of Halving", "at least 2", "not 1")),
        (lambda: Halving(first=100, statistic="median").check_values(), ("mean, iqm, min, lower_bound", "'median'")),
        (lambda: expand(SPEC.replace(scheduler=Halving(first=0))), ("first of Halving", "not 0")),
        (lambda: expand(SPEC.replace(scheduler="asha")), ("scheduler takes Halving(first=...)", "'asha'")),
        (lambda: expand(SPEC.replace(scheduler=Halving(first=150))), ("multiple of evaluate_every (100)", "150")),
        (lambda: expand(SPEC.replace(scheduler=Halving(first=3_000))), ("fewer than the trial's 3000", "not 3000")),
        (
            lambda: expand(SPEC.replace(scheduler=Halving(first=100, statistic="iqm"))),
            ("'iqm'", "at least 4 seeds", "not 3", "seeds=4"),
        ),
        (
            lambda: expand(*(SPEC.replace(scheduler=Halving(first=100), steps=steps) for steps in (300, 3_000))),
            ("[100]", "[100, 300, 900, 2700]", "the same steps"),
        ),
    ],
)
def test_a_ladder_that_cannot_be_climbed_is_one_sentence(make: Callable[[], Any], words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert all(word in str(caught.value) for word in words), caught.value


# Real sweeps: six trials of two seeds, two to a pack, four at once.

FULL = SWEEP.replace(
    'search={"num_components": tune.grid_search([1, 2, 3])}',
    'search={"beta": tune.grid_search([0.1, 0.5, 1.0, 2.0, 4.0, 8.0])}, seats=4, metric="held_out/action_error"',
)
HALVED = FULL.replace("import SweepSpec", "import Halving, SweepSpec").replace(
    "seats=4", "seats=4, scheduler=Halving(first=90, reduction=2)"
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """An undisturbed halved run: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    status, output, errors = Driver(folder, sweep=HALVED).finish()
    assert status == 0, errors
    (run,) = (folder / "runs").iterdir()
    yield run, output


def last_steps(run: Path) -> dict[str, int]:
    """The last step of the main phase that each configuration reached."""
    found: dict[str, int] = {}
    for config_id, _, phase, step in results(run):
        if phase == "main":
            found[config_id] = max(step, found.get(config_id, 0))
    return found


def test_the_worst_are_stopped_and_the_others_train_as_without_it(whole: tuple[Path, str], tmp_path: Path) -> None:
    """Catches waiting that changes results, a trial that runs on behind its rung, and decisions by other scores."""
    run, output = whole
    assert FULL != SWEEP and HALVED != FULL
    assert sorted(last_steps(run).values()) == [90, 90, 90, 180, 300, 300]
    assert output.count("stopped early") == 4 and "unfinished" not in output
    assert output.count(": stopped after main") == 4, "who watches a log file is not told"
    status, _, errors = Driver(tmp_path, sweep=FULL).finish()
    assert status == 0, errors
    (full,) = (tmp_path / "runs").iterdir()
    everything, halved = results(full), results(run)
    assert halved.items() <= everything.items()
    left = list(last_steps(run))
    for rung, kept in ((90, 3), (180, 2)):
        error = {
            config_id: sum(
                dict(losses)["held_out/action_error"]
                for (name, _, phase, step), (_, _, losses, _) in everything.items()
                if (name, phase, step) == (config_id, "main", rung)
            )
            for config_id in left
        }
        left = sorted(left, key=error.__getitem__)[:kept]
        assert {name for name, step in last_steps(run).items() if step > rung} == set(left)


def test_a_halved_run_is_finished(whole: tuple[Path, str], tmp_path: Path) -> None:
    """Catches a resume that starts stopped trials again."""
    run, _ = whole
    before, attempts = results(run), list((run / "trials").iterdir())
    status, output, errors = Driver(tmp_path, "--resume", str(run), sweep=HALVED).finish()
    assert status == 0, errors
    assert results(run) == before and list((run / "trials").iterdir()) == attempts
    assert output.count("stopped early") == 4
    assert read_description(run)["scheduler"] == {"first": 90, "reduction": 2, "statistic": "mean"}


def test_a_killed_driver_changes_no_decision(whole: tuple[Path, str], tmp_path: Path) -> None:
    driver = Driver(tmp_path, sweep=HALVED)
    driver.wait_for_segments(24)  # of 47: some wait at the first rung, some are beyond it
    driver.process.kill()
    driver.finish()
    (run,) = (tmp_path / "runs").iterdir()
    assert len(results(run)) < len(results(whole[0])), "the driver was killed too late to test anything"
    status, output, errors = Driver(tmp_path, "--resume", str(run), sweep=HALVED).finish()
    assert status == 0, errors
    assert results(run) == results(whole[0])
    assert output.count("stopped early") == 4

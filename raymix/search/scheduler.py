"""Successive halving (`raymix.search.halving`) as a scheduler of Ray Tune."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from raymix import ledger
from raymix.job import Job, ledger_folder
from raymix.search.halving import GO, STOP, WAIT, Ladder, ladders_of, rank_of

if TYPE_CHECKING:
    from raymix.files import AnyPath
    from raymix.search.halving import Rank


class HalvingScheduler(TrialScheduler):
    """Lets Tune's trials climb the ladders of their data sets; only names of Tune's public interface are used.

    A trial reports `rung`, a step at which it has to be told whether to go on. One that has to wait is paused: it gives
    back its seats and its share of the device, and other trials run. Tune starts pending trials without asking, so one
    that begins at a rung (after a resume or a failure) reports it again before it trains.
    """

    def __init__(self, ladders: Mapping[str, Ladder], rank_at: RankAt, at_once: float = math.inf) -> None:
        """`ladders` by the trials' `Job.cohort`; `rank_at` gives a trial's rank at a rung that it has reported; no
        trial that waited goes on while `at_once` others train."""
        super().__init__()
        self._ladders, self._rank_at, self._at_once = ladders, rank_at, at_once

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        # Also called when a trial that failed is tried again.
        self._ladder(trial).go_on(_name(trial))

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if "rung" not in result:
            return self.CONTINUE
        ladder = self._ladder(trial)
        ladder.reach(_name(trial), result["rung"], self._rank_at(trial.config["job"], result["rung"]))
        return {GO: self.CONTINUE, WAIT: self.PAUSE, STOP: self.STOP}[ladder.standing(_name(trial))]

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self._ladder(trial).end(_name(trial))

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        # If it is tried again, it is added again before anything is decided.
        self._ladder(trial).end(_name(trial))

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        self._ladder(trial).end(_name(trial))

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Pending trials first: what is decided at a rung waits for them. Stops those that wait in vain."""
        paused = [trial for trial in tune_controller.get_trials() if trial.status == Trial.PAUSED]
        for trial in paused:
            if self._standing(trial) == STOP:
                tune_controller.stop_trial(trial)
        trials = tune_controller.get_trials()
        pending = (trial for trial in trials if trial.status == Trial.PENDING)
        go_on = (trial for trial in paused if self._standing(trial) == GO)
        if sum(trial.status == Trial.RUNNING for trial in trials) >= self._at_once:
            return next(pending, None)
        return next(pending, None) or next(go_on, None)

    def debug_string(self) -> str:
        stopped = sum(len(ladder.stopped()) for ladder in self._ladders.values())
        return f"Successive halving: {stopped} trials stopped early"

    def _ladder(self, trial: Trial) -> Ladder:
        return self._ladders[trial.config["job"]["cohort"]]

    def _standing(self, trial: Trial) -> str:
        return self._ladder(trial).standing(_name(trial))


class RankAt:
    """Ranks by the ledger, in which a report is before Tune hears of it."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan

    def __call__(self, job: dict[str, Any], rung: int) -> Rank:
        """Rank of the trial with this `Job` at a step of its last phase."""
        found = ledger.rows(ledger.read(str(ledger_folder(Job(**job))), job["config_id"]))
        phase = job["phases"][-1][0]
        return rank_of(self._plan, [row for row in found if (row.phase, row.step) == (phase, rung)])


def ladders_in(plan: dict[str, Any], run_dir: AnyPath) -> dict[str, Ladder]:
    """The run's ladders where its ledger has them; empty if trials are not stopped early."""
    folder = run_dir / "ledger"
    return ladders_of(plan, ledger.rows(ledger.read(folder)) if folder.is_dir() else [])


def _name(trial: Trial) -> str:
    return trial.config["job"]["config_id"]

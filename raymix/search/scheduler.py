"""Successive halving (`raymix.search.halving`) as a scheduler of Ray Tune."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from raymix import ledger
from raymix.job import Job, ledger_folder
from raymix.search.halving import GO, LOST, STOP, WAIT, Ladder, ladders_of, rank_at

if TYPE_CHECKING:
    from raymix.files import AnyPath
    from raymix.search.halving import Rank


class HalvingScheduler(TrialScheduler):
    """Lets Tune's trials climb the ladders of their data sets; only names of Tune's public interface are used.

    A trial reports `rung`, a step at which it has to be told whether to go on. One that has to wait is paused: it gives
    back its seats and its share of the device, and other trials run. Tune starts pending trials without asking, so one
    that begins at a rung (after a resume or a failure) reports it again before it trains.

    Where seeds are added on promotion, several of Tune's trials are one of the ladder's, each with some of its seeds;
    one whose seeds are not due yet waits for the rung before it trains at all (`raymix.search.halving.Part`).
    """

    def __init__(
        self,
        ladders: Mapping[str, Ladder],
        rank_at: Callable[[dict[str, Any], int], Rank | None],
        at_once: float = math.inf,
    ) -> None:
        """`ladders` by the trials' `Job.cohort`; `rank_at` gives a trial's rank at a rung that it has reported, if all
        seeds that are due there have come; no trial that waited goes on while `at_once` others train."""
        super().__init__()
        self._ladders, self._rank_at, self._at_once = ladders, rank_at, at_once
        self._at: dict[str, int] = {}
        """The rung that each of Tune's trials has reported last."""
        self._failed: dict[str, set[str]] = defaultdict(set)
        """Tune's trials that failed, by the name of the ladder's trial."""

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        # Also called when a trial that failed is tried again.
        failed = self._failed[_name(trial)]
        if trial.trial_id in failed or not _is_part(trial):
            failed.discard(trial.trial_id)
            if not failed:
                self._ladder(trial).go_on(_name(trial))

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if "rung" not in result:
            return self.CONTINUE
        self._at[trial.trial_id] = result["rung"]
        self._reach(trial, result["rung"])
        return {GO: self.CONTINUE, WAIT: self.PAUSE, STOP: self.STOP}[self._standing(trial)]

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        if not _is_part(trial):
            return self._ladder(trial).end(_name(trial))
        for rung in self._ladder(trial).rungs:  # its seeds may have diverged, for which the others wait no longer
            self._reach(trial, rung)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        # If it is tried again, it is added again before anything is decided.
        self._failed[_name(trial)].add(trial.trial_id)
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
        standing = self._ladder(trial).standing_at(_name(trial), self._at[trial.trial_id])
        if standing == GO and _is_part(trial):  # if one of its parts goes on, so do the others
            self._ladder(trial).let_past(_name(trial), self._at[trial.trial_id] + 1)
        return standing

    def _reach(self, trial: Trial, rung: int) -> None:
        found = self._rank_at(trial.config["job"], rung)
        if found == LOST:
            self._ladder(trial).end(_name(trial))
        elif found is not None:
            self._ladder(trial).reach(_name(trial), rung, found)


class RankAt:
    """Ranks by the ledger, in which a report is before Tune hears of it."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan

    def __call__(self, job: dict[str, Any], rung: int) -> Rank | None:
        """Rank of the trial of this `Job` at a rung, as `raymix.search.halving.rank_at` has it."""
        found = ledger.rows(ledger.read(str(ledger_folder(Job(**job))), job["config_id"]))
        return rank_at(self._plan, job, rung, found)


def ladders_in(plan: dict[str, Any], run_dir: AnyPath) -> dict[str, Ladder]:
    """The run's ladders where its ledger has them; empty if trials are not stopped early."""
    folder = run_dir / "ledger"
    return ladders_of(plan, ledger.rows(ledger.read(folder)) if folder.is_dir() else [])


def _name(trial: Trial) -> str:
    return trial.config["job"]["config_id"]


def _is_part(trial: Trial) -> bool:
    """Whether it has only some of its configuration's seeds."""
    return trial.config["job"].get("share", 1.0) < 1.0

"""Populations (`raymix.search.population`) as a scheduler of Ray Tune."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from raymix import ledger
from raymix.files import AnyPath, matching, remove_tree
from raymix.search.decided import DecidedWriter, read_decided
from raymix.search.halving import rank_of
from raymix.search.population import NAME, Decision, Generations, populations_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from raymix.search.halving import Rank


class PopulationScheduler(TrialScheduler):
    """Lets Tune's trials meet at the generations of their populations; only Tune's public interface is used.

    A trial that comes to a generation reports `rung` and is paused until the generation is decided, as with
    `raymix.search.scheduler.HalvingScheduler`. It takes over another's state itself, by what is written down, so Tune
    knows nothing of that: one that failed or was resumed does the same.
    """

    def __init__(
        self,
        populations: Mapping[str, Generations],
        rank_at: Callable[[dict[str, Any], int], Rank],
        over: Callable[[dict[str, Any]], bool],
        write: Callable[[Decision], None],
    ) -> None:
        """`populations` by name; `rank_at` gives a trial's rank at a generation that it has reported, `over` says
        whether nothing comes after its last report; `write` writes a decision down before anybody hears of it."""
        super().__init__()
        self._populations, self._rank_at, self._over, self._write = populations, rank_at, over, write

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        # Also called when a trial that failed is tried again.
        self._population(trial).go_on(_name(trial))

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if "rung" not in result:
            return self.CONTINUE
        population = self._population(trial)
        population.reach(_name(trial), result["rung"], self._rank_at(trial.config["job"], result["rung"]))
        self._decide(population)
        return self.CONTINUE if population.may_go_on(_name(trial)) else self.PAUSE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        # Tune also says this of a trial that it stops since the time is up, which a resume goes on with.
        if self._over(trial.config["job"]):
            self._population(trial).end(_name(trial))

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        # If it is tried again, it is added again before anything is decided.
        self._population(trial).end(_name(trial))

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """One that waits, or has not begun, is stopped since the sweep is: a resume goes on with it."""

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Pending trials first: those that wait do so for them."""
        for population in self._populations.values():
            self._decide(population)
        trials = tune_controller.get_trials()
        go_on = (
            trial
            for trial in trials
            if trial.status == Trial.PAUSED and self._population(trial).may_go_on(_name(trial))
        )
        return next((trial for trial in trials if trial.status == Trial.PENDING), None) or next(go_on, None)

    def debug_string(self) -> str:
        copied = sum(len(made.copies) for each in self._populations.values() for made in each.decisions)
        return f"Populations: {copied} states copied"

    def _decide(self, population: Generations) -> None:
        for decision in population.decide():
            self._write(decision)

    def _population(self, trial: Trial) -> Generations:
        return self._populations[trial.config["job"]["population"]]


class Exchange:
    """The populations of a run while it goes on: what was decided, and the states that are still needed."""

    def __init__(self, plan: dict[str, Any], run_dir: AnyPath) -> None:
        """Raises `UsageError` where the run's `generations.jsonl` is damaged; drops a torn last line."""
        self._plan, self._run_dir = plan, run_dir
        self._writer = DecidedWriter(run_dir, NAME)
        folder = run_dir / "ledger"
        rows = ledger.rows(ledger.read(folder)) if folder.is_dir() else []
        self.populations = populations_of(plan, rows, read_decided(run_dir, NAME)[0])

    def rank_at(self, job: dict[str, Any], step: int) -> Rank:
        """The rank of the member of this `Job` at a generation that it has come to. (A seed that diverged before may
        have been healed by a copy.)"""
        rows = ledger.rows(ledger.read(self._run_dir / "ledger", job["config_id"]))
        phase = job["phases"][-1][0]
        return rank_of(self._plan, [row for row in rows if (row.phase, row.step) == (phase, step)])

    def write(self, decision: Decision) -> None:
        """Write a decision down, and drop what nobody takes any more."""
        self._writer.append(dataclasses.asdict(decision))
        # The writes of a generation that is decided are over, and nobody but those who copy reads them.
        parents = {copy.parent for copy in decision.copies.values()}
        self._drop(decision.step, [member for member in decision.ranked if member not in parents])
        population = self.populations[decision.population]
        over = set(population.no_longer_needed())
        for earlier in population.decisions:
            if earlier.step in over:
                self._drop(earlier.step, earlier.ranked)

    def _drop(self, step: int, members: Sequence[str]) -> None:
        for folder in matching(self._run_dir / "generations", f"{step}/*"):
            if folder.name in members:
                with contextlib.suppress(FileNotFoundError):
                    remove_tree(folder)


def _name(trial: Trial) -> str:
    return trial.config["job"]["config_id"]

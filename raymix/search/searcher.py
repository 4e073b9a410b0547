"""Studies (`raymix.search.optuna`) as a searcher of Ray Tune.

What is decided is in the run's `trials.jsonl`, what came of it in its ledger, and nothing in Tune's own files.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from raymix.files import AnyPath
from raymix.plan import described, trial_of
from raymix.search.cells import Cell
from raymix.search.decided import DecidedWriter
from raymix.search.halving import STOP, WAIT, cohort_of
from raymix.search.optuna import LOST, RUNNING, Told, suggest
from raymix.search.truth import costs, found_in, minimizes, told_by, told_of, warm

if TYPE_CHECKING:
    from raymix.search.halving import Ladder


class Studies:
    """The studies of a run while it goes on: decides its next trial, from what `trials.jsonl` and the ledger say."""

    def __init__(
        self,
        plan: dict[str, Any],
        run_dir: AnyPath,
        place: Callable[[dict[str, Any]], dict[str, Any]],
        ladders: Mapping[str, Ladder],
    ) -> None:
        """The plan is one of `raymix.plan.read_description`, and its trials grow here; `place` adds a trial's seats."""
        self._plan, self._run_dir, self._place, self._ladders = plan, run_dir, place, ladders
        self._writer = DecidedWriter(run_dir)
        self._cells = [Cell.of(study) for study in plan["studies"]]
        self._known = {trial["config_id"]: trial for trial in plan["trials"]}
        self._told = told_by(plan, run_dir, {name for ladder in ladders.values() for name in ladder.stopped()})
        self.torn = self._writer.torn
        """Whether the last decision was lost as the process before this one died."""

    def told(self, study: int) -> list[Told]:
        """What a study knows: earlier runs' results, then its own trials in their order."""
        return [*warm(self._cells[study]), *self._told[study]]

    def next(self) -> dict[str, Any] | None:
        """Decide the next trial, of the study that has the fewest, and write it down; None once there are all."""
        open_studies = [index for index, cell in enumerate(self._cells) if len(self._told[index]) < cell.trials]
        if not open_studies:
            return None
        index = min(open_studies, key=lambda study: len(self._told[study]))
        cell, number = self._cells[index], len(self._told[index])
        for trial in [each for each in self._known.values() if self.standing(each) == STOP]:
            self.over(trial["config_id"])
        point = cell.points[number] if number < len(cell.points) else None
        sampler, told = self._plan["searcher"]["sampler"], self.told(index)
        for attempt in itertools.count():
            given = None if attempt else point
            minimize, cost = minimizes(self._plan), costs(self._plan)
            params = suggest(cell.space, sampler, minimize, told, cell.seed, number, attempt, given, cost)
            trial = described(trial_of(cell, params), self._plan["dataset_hashes"][cell.dataset])
            # Training it again would give the same result.
            if trial["config_id"] not in self._known:
                break
        params = cell.params_of(trial["config"])
        trial = self._place({**trial, "study": index, "number": number, "params": params})
        self._writer.append(trial)
        self._plan["trials"].append(trial)
        self._known[trial["config_id"]] = trial
        self._told[index].append(Told(params, RUNNING))
        if ladder := self._ladders.get(cohort_of(self._plan, trial)):
            ladder.enter(trial["config_id"])
        return trial

    def over(self, config_id: str) -> None:
        """A trial comes no further in this attempt at the run."""
        trial = self._known[config_id]
        told = self._told[trial["study"]]
        if told[trial["number"]].state != RUNNING:
            return
        found = found_in(self._plan, self._run_dir, config_id).get(config_id)
        now = told_of(self._plan, self._cells[trial["study"]], trial, found, self.standing(trial) == STOP)
        told[trial["number"]] = now if now.state != RUNNING else Told(now.params, LOST)

    def standing(self, trial: dict[str, Any]) -> str | None:
        """What becomes of a trial at a rung (`raymix.search.halving`); None without early stopping."""
        ladder = self._ladders.get(cohort_of(self._plan, trial))
        return ladder.standing(trial["config_id"]) if ladder else None


class StudySearcher(Searcher):
    """Gives Tune the trials of a run's studies: those that are unfinished first, then one decision after another."""

    def __init__(
        self,
        studies: Studies,
        unfinished: Iterable[dict[str, Any]],
        config_of: Callable[[dict[str, Any]], dict[str, Any]],
        at_once: int,
    ) -> None:
        """`config_of` makes a trial's Tune config; at most `at_once` trials train at once, without those that wait."""
        super().__init__()
        self._studies, self._unfinished, self._config_of = studies, list(unfinished), config_of
        self._at_once = at_once
        self._open: dict[str, dict[str, Any]] = {}

    def suggest(self, trial_id: str) -> Any:
        at_work = sum(self._studies.standing(trial) != WAIT for trial in self._open.values())
        if at_work >= self._at_once:
            return None
        trial = self._unfinished.pop(0) if self._unfinished else self._studies.next()
        if trial is None:
            return Searcher.FINISHED
        self._open[trial_id] = trial
        return self._config_of(trial)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._studies.over(self._open.pop(trial_id)["config_id"])

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles it into the experiment, from which raymix restores nothing.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what is decided is in the run's own files."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""

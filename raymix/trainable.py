"""The Tune trainable: one trial is one configuration, its seeds are the members that train in a pack.

Importing this module imports no torch, and neither does a trial's process: packs train.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from raymix import checkpoint
from raymix.evaluation.pool import RolloutPool
from raymix.job import (
    Job,
    capture_notices,
    checkpoint_of,
    find_newest,
    in_population,
    is_over,
    leave_for_others,
    live_seats,
    not_begun,
    open_ledger,
    progress_of,
    record,
    rung_at,
    summary,
)
from raymix.packing.seat import Seat, place_of

if TYPE_CHECKING:
    from raymix.checkpoint import Checkpoint
    from raymix.data.store import ReplayStore
    from raymix.packing.boundary import Boundary


class Member(tune.Trainable):
    """A configuration's seeds as an ordinary Tune trial.

    Its Tune config is plain data: `job` (a `Job`), `broker` and `rollouts` (names of the packs' broker and of the
    rollout pool), `rollout_actors`, `environment_patience_s` and `cpus_per_pack`. `step` returns chunk i with chunk i's
    own scores, while the pack trains chunk i + 1; so a checkpoint holds the state of the chunk that was reported last,
    not the newest one. Results are in the ledger before Tune sees them.
    """

    def setup(self, config: dict[str, Any], store: ReplayStore) -> None:  # type: ignore[override]
        """`store` comes by `tune.with_parameters`, which also adds it where `reset_config` calls this."""
        self.job = Job(**config["job"])
        if not hasattr(self, "_title"):
            self._title = f"{self.job.run}: began with {self.job.algorithm} on {self.job.dataset}, {self.job.label}"
        self._config, self._store = config, store
        self._spec = store.spec(self.job.dataset)
        self._pool = RolloutPool.connect(config["rollouts"], config["rollout_actors"])
        self._ledger = open_ledger(self.job)
        self._seat: Seat | None = None
        start, self._notices = find_newest(self.job)
        self._begin(start)

    def __repr__(self) -> str:
        """Its name on Ray's dashboard, which Ray asks for once: other trials may follow in this process."""
        return self._title

    def _begin(self, start: Checkpoint | None) -> None:
        """Go on from a checkpoint, from the next step on.

        Seats are taken there and not here: Tune sets up processes that it never uses (it prefers one that another
        trial has left), and such a one must not take the seats of the trial that trains.
        """
        self._give_up_seat()
        self._start, self._reported = start, start
        self._untold: Boundary | None = None
        self._first = True
        self._rung = rung_at(self.job, start)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Tune reuses the process for another trial."""
        self._give_up_seat()
        self.setup(new_config)  # type: ignore[call-arg]
        return True

    def step(self) -> dict[str, Any]:
        if self._seat is None:
            if is_over(self.job, self._start):  # all rows are in the ledger, there is nothing to add
                return {"done": True, "progress": 1.0}
            if self._rung is not None:  # whether to go on is not known, or was not when it was told last
                told, self._rung = {"rung": self._rung, "progress": progress_of(self.job, self._start)}, None
                return told
            self._seat = self._sit_down()
        with self._timed("training"):
            boundary, self._untold = self._untold or self._seat.take(), None
        with self._timed("evaluation"):
            evaluations = self._evaluate(boundary)
        self._reported = checkpoint_of(self.job, boundary)
        rung = None if boundary.over else rung_at(self.job, self._reported)
        if rung is not None and self.job.population:
            # Before its rows are in the ledger, by which a resumed run knows that others may copy it.
            leave_for_others(self.job, self._reported)
        rows = record(self.job, self._ledger, self._spec, boundary, evaluations)
        if self._first:
            self._notices += capture_notices(self.job, boundary, self._start)
            self._first = False
        notices = [*self._notices, *self._seat.notices]
        self._notices, self._seat.notices = [], []
        told = {
            **summary(rows, self._spec),
            "progress": boundary.progress,
            "restored": progress_of(self.job, self._start),
            "done": boundary.over,
            **self._seconds(),
        }
        if rung is not None:
            # It may have to wait for a decision: its seats are for others then. What the pack trained on is dropped.
            told["rung"] = rung
            self._begin(self._reported)
            self._rung = None
        return {**told, "notices": notices} if notices else told

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        if self._reported is None and self._seat is None and self.job.gate:
            checkpoint.write(checkpoint_dir, not_begun(self.job))
        elif self._reported is None:  # before the first report there is nothing to save but what comes next
            self._seat = self._seat or self._sit_down()
            self._untold = self._untold or self._seat.take()
            checkpoint.write(checkpoint_dir, checkpoint_of(self.job, self._untold))
        else:
            checkpoint.write(checkpoint_dir, self._reported)

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        folder = Path(checkpoint_dir)  # where Tune has put it on this machine
        if checkpoint.belongs_to(folder) in (None, self.job.config_id):
            # A trial goes on: Tune names the checkpoint of its last snapshot, a newer whole one may be on disk.
            start, notices = find_newest(self.job, folder)
            self._notices += [notice for notice in notices if notice not in self._notices]
        else:
            start = checkpoint.read(folder)  # a scheduler copies another trial's state, never its hyperparameters
        self._begin(start)

    def cleanup(self) -> None:
        self._give_up_seat()

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._spent[what] += time.perf_counter() - started

    def _seconds(self) -> dict[str, float]:
        """Wall-clock since it took its seats: waiting for training and for evaluation, and all else.

        A pack trains on during all else, so it costs time only where a report waits for its trial.
        """
        outside = time.perf_counter() - self._started - sum(self._spent.values())
        return {f"seconds/{what}": spent for what, spent in {**self._spent, "outside": outside}.items()}

    def _sit_down(self) -> Seat:
        self._started, self._spent = time.perf_counter(), {"training": 0.0, "evaluation": 0.0}
        place = place_of(self._config["cpus_per_pack"])
        if self.job.population and self._start is not None:
            self.job, self._start = in_population(self.job, self._start)
        return Seat(self._config["broker"], self._store, self.job, place, self._start)

    def _give_up_seat(self) -> None:
        if self._seat is not None:
            self._seat.leave()
            self._seat = None

    def _evaluate(self, boundary: Boundary) -> dict[int, Any]:
        """Evaluations by seat, while the pack trains on."""
        if not boundary.policies or self._spec.environment is None:
            return {}
        live = live_seats(boundary)
        policies = [boundary.policies[seat] for seat in live]
        offset = int(self.job.config_id, 16)
        played, notices = self._pool.play(policies, self.job.episodes, offset, self._config["environment_patience_s"])
        self._notices += notices
        return dict(zip(live, played))

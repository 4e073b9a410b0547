"""The Tune trainable: one trial is one configuration, its seeds are the members that train together.

Importing this module imports no torch: a trial that trains in its own process imports it in `setup`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from raymix import checkpoint
from raymix.job import (
    Job,
    live_seats,
    make_rows,
    open_ledger,
    open_pack,
    restore,
    restore_newest,
    summary,
    write_checkpoint,
    write_snapshots,
)
from raymix.types import Dataset

if TYPE_CHECKING:
    from raymix.packing.local import Boundary


class Member(tune.Trainable):
    """A configuration's seeds as an ordinary Tune trial.

    Its Tune config is plain data: `job` (a `Job`), `store` and `rollouts` (names of the replay store and of the
    rollout pool) and `rollout_actors`. `step` returns chunk i with chunk i's own scores, while chunk i + 1 is
    trained; so a checkpoint holds the state of the chunk that was reported last, not the newest one. Results are in
    the ledger before Tune sees them.
    """

    def setup(self, config: dict[str, Any]) -> None:
        from raymix.evaluation.pool import RolloutPool

        self.job = Job(**config["job"])
        dataset = self._dataset(config["store"])
        self._spec = dataset.spec
        self._pack = open_pack(self.job, dataset)
        self._pool = RolloutPool.connect(config["rollouts"], config["rollout_actors"])
        self._ledger = open_ledger(self.job)
        self._reported: Boundary | None = None
        self._ahead: tuple[Boundary, list[Any]] | None = None
        self._notices = restore_newest(self.job, self._pack)
        self._found_done = self._pack.progress

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Tune reuses the process for another trial: everything is made anew but the imports."""
        import torch

        torch._dynamo.reset()  # drops the programs of the last trial
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if self._ahead is None and (self._pack.finished or all(self._pack.diverged)):
            # Restored at its end: all rows are in the ledger, there is nothing to add.
            return {"done": True, "progress": 1.0}
        boundary, pending = self._ahead or self._train()
        done = boundary.finished or all(boundary.diverged)
        self._ahead = None if done else self._train()
        evaluations = dict(zip(live_seats(boundary), ray.get(pending))) if pending else {}
        rows = make_rows(self.job, self._spec, boundary, evaluations)
        write_snapshots(self.job, boundary)
        self._ledger.append(rows)
        self._reported = boundary
        if self._pack.eager_reason and self.job.capture == "auto":
            self._notices.append(f"Training runs uncompiled, about half as fast: {self._pack.eager_reason}.")
        notices, self._notices = self._notices, []
        told = {**summary(rows, self._spec), "progress": boundary.progress, "restored": self._found_done, "done": done}
        return {**told, "notices": notices} if notices else told

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        write_checkpoint(checkpoint_dir, self.job, self._pack, self._reported or self._pack.boundary())

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        folder = Path(checkpoint_dir)
        if checkpoint.belongs_to(folder) in (None, self.job.config_id):
            # A trial goes on: Tune names the checkpoint of its last snapshot, a newer whole one may be on disk.
            self._notices += restore_newest(self.job, self._pack, folder)
        else:
            restore(self._pack, checkpoint.read(folder))  # a scheduler copies another trial's state
        self._ahead, self._reported, self._found_done = None, None, self._pack.progress

    def _dataset(self, store: str) -> Dataset:
        from raymix.data.store import ReplayStore

        return ReplayStore.connect(store).get(self.job.dataset)

    def _train(self) -> tuple[Boundary, list[Any]]:
        """Train one chunk and start the evaluation of its policies."""
        boundary = self._pack.advance()
        policies = [boundary.policies[seat] for seat in live_seats(boundary)] if boundary.policies else []
        return boundary, self._pool.submit(policies, self.job.episodes, offset=int(self.job.config_id, 16))

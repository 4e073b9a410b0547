"""A trial's seats in a pack: how its process talks to the broker and to the pack. Imports no torch."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError

from raymix.job import Job, checkpoint_of
from raymix.packing.pack import PackFailed, Place

if TYPE_CHECKING:
    from raymix.checkpoint import Checkpoint
    from raymix.data.store import ReplayStore
    from raymix.packing.boundary import Boundary

PATIENCE_S = 5.0
"""How long a call to a pack waits for a report before it is made again."""
MOST_LOSSES = 3
"""So often in a row may a pack die under a trial before the trial gives up."""


class Seat:
    """A trial's seats in a pack, one per seed: `take` its reports in order, then `leave`."""

    def __init__(self, broker: str, store: ReplayStore, job: Job, place: Place, start: Checkpoint | None) -> None:
        """Takes seats at the beginning, or at a checkpoint."""
        self._broker, self._store, self._job, self._place, self._start = ray.get_actor(broker), store, job, place, start
        self._losses = 0
        self.notices: list[str] = []
        """Sentences for the user about what happened."""
        self._sit_down()

    def take(self) -> Boundary:
        """The next report. When the pack dies, training goes on in another one from the last report.

        Raises:
            RuntimeError: training failed, or packs die again and again.
        """
        while True:
            try:
                boundary = ray.get(self._pack.take.remote(self._ticket, PATIENCE_S))
            except RayActorError as problem:
                self._move(problem)
                continue
            except PackFailed:
                ray.get(self._broker.lost.remote(self._ticket))  # it would fail whoever comes next
                raise
            if boundary is not None:
                self._losses = 0
                self._start = checkpoint_of(self._job, boundary)
                return boundary

    def leave(self) -> None:
        """Free the seats."""
        with contextlib.suppress(RayActorError):  # the broker ends with the sweep
            ray.get(self._broker.leave.remote(self._ticket))

    def _sit_down(self) -> None:
        job = self._job
        width = max(job.widths)
        self._ticket: str
        self._pack: Any
        what = f"{job.algorithm} on {job.dataset}"
        self._ticket, self._pack = ray.get(
            self._broker.seat.remote(job.name, self._place, job.pack, width, len(job.seeds), what)
        )
        self._pack.join.remote(self._ticket, dataclasses.asdict(job), self._store, self._start)

    def _move(self, problem: RayActorError) -> None:
        self._losses += 1
        ray.get(self._broker.lost.remote(self._ticket))
        if self._losses > MOST_LOSSES:
            raise RuntimeError(
                f"its pack died {self._losses} times in a row without a report, often for want of memory: start the"
                " sweep with fewer `seats`, or where there is more"
            ) from problem
        where = f"{self._start.state['phase']} {self._start.state['step']:,}" if self._start else "the beginning"
        self.notices.append(f"A pack died; its trials go on in another one, this one from {where}.")
        self._sit_down()


def place_of(cpus: float) -> Place:
    """Where this trial's pack belongs: its node, and the GPU that Ray gave it a share of."""
    context = ray.get_runtime_context()
    gpus = ",".join(context.get_accelerator_ids().get("GPU", []))
    return Place(node=context.get_node_id(), gpus=gpus, threads=max(1, int(cpus)))

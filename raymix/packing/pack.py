"""A pack: one process that owns a device, or some cores, and trains the trials that sit in it.

Importing this module imports no torch: the process learns first which device it may see.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raymix.job import Job

if TYPE_CHECKING:
    from raymix.checkpoint import Checkpoint
    from raymix.data.store import ReplayStore
    from raymix.packing.boundary import Boundary
    from raymix.packing.seating import Seating

PARK_AFTER_S = 30.0
"""A report that nobody has taken for so long stops keeping the others from going on."""


class PackFailed(RuntimeError):
    """Training failed in the pack, for all who sit in it."""


@dataclass(frozen=True)
class Place:
    """Where a pack runs: what it may see and use."""

    node: str
    """Ray's id of the node."""
    gpus: str
    """`CUDA_VISIBLE_DEVICES`; empty: it trains on cores."""
    threads: int


class Pack:
    """Body of the Ray actor. Its methods are called from several threads at once; one thread of its own trains."""

    def __init__(self, place: Place, title: str = "pack") -> None:
        """`title` is its name on Ray's dashboard."""
        self._title = title
        os.environ["CUDA_VISIBLE_DEVICES"] = place.gpus
        self._threads = place.threads
        self._seating: Seating | None = None
        self._agent_steps = 0
        self._changed = threading.Condition()
        # What the training thread does before it goes on; it alone touches the seating, but for `take`.
        self._orders: list[Any] = []
        self._failures: dict[str, str] = {}
        self._unclaimed_since: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="training", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return self._title

    def agent_steps(self) -> int:
        """Gradient steps so far, times the members that made them."""
        return self._agent_steps

    def join(self, ticket: str, job: dict[str, Any], store: ReplayStore, start: Checkpoint | None) -> None:
        """Let a trial in under a name of its own; the first of another structure opens a new program."""
        self._order(lambda: self._join(ticket, Job(**job), store, start))

    def leave(self, ticket: str) -> None:
        """Let a trial go."""
        self._order(lambda: self._leave(ticket))

    def take(self, ticket: str, patience_s: float) -> Boundary | None:
        """The trial's next report; None if there is none within `patience_s`.

        Raises:
            PackFailed: training failed for all who sit here; the message holds the traceback.
            RuntimeError: the trial could not be let in.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready(ticket), patience_s)
            if "" in self._failures:
                raise PackFailed(self._failures[""])
            if ticket in self._failures:
                raise RuntimeError(self._failures[ticket])
            boundary = self._seating.take(ticket) if self._seating is not None else None
            self._changed.notify_all()  # a place that was kept waiting may go on
            return boundary

    def _ready(self, ticket: str) -> bool:
        seating = self._seating
        return bool(self._failures.keys() & {ticket, ""}) or (seating is not None and seating.has_report(ticket))

    def _order(self, order: Any) -> None:
        with self._changed:
            self._orders.append(order)
            self._changed.notify_all()

    def _join(self, ticket: str, job: Job, store: ReplayStore, start: Checkpoint | None) -> None:
        from raymix.algorithms import base

        try:
            config = base.find(job.algorithm).configure(job.config)
            if self._seating is None or self._key != job.pack:
                self._open(job, config, store)
            assert self._seating is not None
            self._seating.join(ticket, config, job.seeds, job.report_every, start, job.shared)
        except Exception:  # the trial's own fault, of which the others know nothing
            self._failures[ticket] = traceback.format_exc()

    def _leave(self, ticket: str) -> None:
        if self._seating is not None:
            self._seating.leave(ticket)

    def _open(self, job: Job, config: Any, store: ReplayStore) -> None:
        """Make room for another structure; the broker does this only when everybody has left."""
        import torch

        from raymix.packing.seating import Seating

        torch.set_num_threads(self._threads)
        torch._dynamo.reset()  # drops the programs of the last structure
        self._seating = None
        dataset = store.get(job.dataset)
        self._seating = Seating(job.algorithm, config, dataset, job.widths, job.device, job.capture, job.held_out)
        self._key = job.pack

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.notify_all()
                    while not self._orders and not self._can_advance():
                        self._changed.wait(self._park_the_vanished())
                    orders, self._orders = self._orders, []
                for order in orders:
                    order()
                self._park_the_vanished()
                if self._seating is not None:
                    self._agent_steps += self._seating.advance()
        except BaseException:
            with self._changed:
                self._failures[""] = traceback.format_exc()
                self._changed.notify_all()

    def _can_advance(self) -> bool:
        return self._seating is not None and self._seating.can_advance()

    def _park_the_vanished(self) -> float | None:
        """Take those out of their seats who keep the others waiting; returns for how long there is nothing to do."""
        if self._seating is None:
            return None
        now, unclaimed = time.monotonic(), self._seating.unclaimed()
        self._unclaimed_since = {ticket: self._unclaimed_since.get(ticket, now) for ticket in unclaimed}
        late = [ticket for ticket, since in self._unclaimed_since.items() if now - since >= PARK_AFTER_S]
        for ticket in late:
            self._seating.park(ticket)
            del self._unclaimed_since[ticket]
        waits = [since + PARK_AFTER_S - now for since in self._unclaimed_since.values()]
        return 0.0 if late else min(waits, default=None)

"""Who sits in which pack: one actor per sweep, made by the driver and found by name.

The broker makes the packs and keeps them, so they outlive any trial and end with the driver. A trial asks Ray for its
share of a pack's device (`raymix.plan`), so Tune starts as many trials as there is room for, and the broker only has
to find the room: on the trial's node and device, in a pack of its structure, else in an empty one, else in a new one.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymix.packing.pack import Pack, Place

CALLS_AT_ONCE = 128
"""To one pack; each of its trials waits in one."""


@dataclass(eq=False)
class _Entry:
    actor: Any
    place: Place
    title: str
    """What the pack is called by."""
    key: str
    seats: int
    tickets: dict[str, int] = field(default_factory=dict)
    """Seats by ticket."""

    def has_room(self, seats: int) -> bool:
        return sum(self.tickets.values()) + seats <= self.seats


class Broker:
    """Body of the Ray actor."""

    def __init__(self, run: str = "") -> None:
        """`run` is what its packs are named after."""
        self._run = run
        self._packs: list[_Entry] = []
        self._numbers = itertools.count()
        self._trials: dict[str, str] = {}
        """The ticket that each trial holds."""

    def seat(
        self, trial: str, place: Place, key: str, width: int, seats: int, what: str = "anything"
    ) -> tuple[str, Any]:
        """A ticket and the pack that it is for. A trial that holds one already gives it back: its process died.

        `what` says in words what the pack trains. It and the width are in the pack's name on Ray's dashboard, which
        Ray never changes: a pack that it would not fit any more is made anew.
        """
        if trial in self._trials:
            self.leave(self._trials[trial])
        here = [entry for entry in self._packs if entry.place == place]
        same = [entry for entry in here if entry.tickets and entry.key == key and entry.has_room(seats)]
        title = f"{self._run}: pack of {width} seats, {what}"
        empty = [entry for entry in here if not entry.tickets]
        empty.sort(key=lambda entry: (entry.title != title, entry.key != key))
        entry = next(iter([*same, *empty]), None)
        if entry is not None and entry.title != title and not entry.tickets:
            self._end(entry)
            entry = None
        entry = entry or self._start(place, title)
        if not entry.tickets:
            entry.key, entry.seats = key, width
        ticket = f"{trial}-{next(self._numbers)}"
        entry.tickets[ticket] = seats
        self._trials[trial] = ticket
        return ticket, entry.actor

    def leave(self, ticket: str) -> None:
        """Free the seats of a ticket; nothing happens where it is not valid any more."""
        for entry in self._packs:
            if entry.tickets.pop(ticket, None) is not None:
                entry.actor.leave.remote(ticket)
        self._trials = {trial: held for trial, held in self._trials.items() if held != ticket}

    def lost(self, ticket: str) -> None:
        """The pack of this ticket has died or failed: nobody is sent there again."""
        for entry in [entry for entry in self._packs if ticket in entry.tickets]:
            self._end(entry)

    def occupancy(self) -> list[dict[str, Any]]:
        """Each pack and what it holds: its key, seats, and seats taken."""
        return [
            {
                "pack": entry.actor,
                "key": entry.key,
                "seats": entry.seats,
                "taken": sum(entry.tickets.values()),
                "node": entry.place.node,
            }
            for entry in self._packs
        ]

    def _end(self, entry: _Entry) -> None:
        self._packs.remove(entry)
        ray.kill(entry.actor)  # one that failed holds its device still

    def _start(self, place: Place, title: str) -> _Entry:
        # num_cpus=0: the trials that sit in it hold the device and the cores.
        actor = (
            ray.remote(Pack)
            .options(
                num_cpus=0,
                max_concurrency=CALLS_AT_ONCE,
                scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=False),
            )
            .remote(place, title)
        )
        self._packs.append(_Entry(actor, place, title, key="", seats=0))
        return self._packs[-1]


def start_broker(name: str, run: str = "") -> Any:
    """Make the broker of a run; it ends with the driver, and its packs with it.

    If it dies, its packs die with it, it is made anew, and the trials ask it for seats as after any pack's death. It is
    on the driver's node, so that it is not lost with another.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    kind: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Broker)
    broker = kind.options(name=name, scheduling_strategy=here).remote(run)
    ray.get(broker.occupancy.remote())
    return broker

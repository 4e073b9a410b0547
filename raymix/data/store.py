"""One copy of each data set per node, in Ray's object store, read by every process without copying.

The driver makes the store and keeps it: the actor is not detached, so it and its data end with the driver's
`ReplayStore` object. Trials connect by name; they may come and go, because the actor, not they, owns the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from raymix.data import library
from raymix.data.table import from_table, to_table
from raymix.types import Dataset, Spec, UsageError

MAX_FILL = 0.8
"""Ray starts to spill objects to disk when the store is this full; past it, it does not fail but is 10-60x slower."""


class _StoreActor:
    """Owns the tables: what a process puts into the object store lives as long as that process."""

    def __init__(self) -> None:
        self._places: dict[str, ray.ObjectRef | str] = {}
        """Where the tables are: in the object store, or the file that holds one."""
        self._specs: dict[str, Spec] = {}
        self._bytes: dict[str, int] = {}

    def put(self, spec: Spec, table: pa.Table | str) -> None:
        # Two processes may add the same data set at once; the second copy is dropped here.
        if spec.name not in self._specs:
            self._places[spec.name] = table if isinstance(table, str) else ray.put(table)
            self._specs[spec.name] = spec
            self._bytes[spec.name] = 0 if isinstance(table, str) else table.nbytes

    def spec(self, name: str) -> Spec | None:
        return self._specs.get(name)

    def place(self, name: str) -> ray.ObjectRef | str | None:
        return self._places.get(name)

    def names(self) -> list[str]:
        return sorted(self._specs)

    def held(self) -> tuple[str, int]:
        """The node it runs on and the bytes it holds there."""
        return ray.get_runtime_context().get_node_id(), sum(self._bytes.values())


class ReplayStore:
    """Data sets shared by all processes of a Ray cluster; see `create` and `connect`.

    Pickling one gives a store that connects by name where it is unpickled.
    """

    def __init__(self, name: str, actor: Any) -> None:
        """Use `create` or `connect`."""
        self.name = name
        self._actor = actor

    @classmethod
    def create(cls, name: str) -> ReplayStore:
        """Start an empty store; keep the returned object for as long as the store is needed.

        Raises:
            UsageError: Ray is not running here, or a store of that name exists.
        """
        _require_ray()
        try:
            actor: Any = ray.remote(_StoreActor).options(name=name, num_cpus=0).remote()
        except ValueError as error:
            raise UsageError(
                f"A replay store named {name!r} exists already; connect to it or choose another name."
            ) from error
        ray.get(actor.names.remote())
        return cls(name, actor)

    @classmethod
    def connect(cls, name: str) -> ReplayStore:
        """Find a store by name, from any process of the job that created it.

        Raises:
            UsageError: Ray is not running here, or there is no such store.
        """
        _require_ray()
        try:
            return cls(name, ray.get_actor(name))
        except ValueError as error:
            raise UsageError(
                f"There is no replay store named {name!r} in this Ray job; the driver must create it and keep it."
            ) from error

    def __reduce__(self) -> tuple[Callable[[str], ReplayStore], tuple[str]]:
        return ReplayStore.connect, (self.name,)

    def add(self, dataset: Dataset) -> Spec:
        """Put a data set into the store; adding the same one again changes nothing.

        While it is handed over there are two copies, so the store needs room for both. One that does not fit is shared
        by its file, where it has one and Ray runs on this machine only: every process maps it, and the system keeps in
        memory what is used.

        Raises:
            UsageError: not enough room in the object store, or other contents under the same name.
        """
        spec = dataset.spec
        present = ray.get(self._actor.spec.remote(spec.name))
        if present is not None:
            if present.hash != spec.hash:
                raise UsageError(
                    f"The replay store {self.name!r} holds other data under the name {spec.name}"
                    f" ({present.hash[:12]}, not {spec.hash[:12]}); give the new data another name."
                )
            return present
        table = to_table(dataset)
        problem = self._no_room(spec.name, 2 * table.nbytes)
        if problem is None:
            ray.get(self._actor.put.remote(spec, table))
        elif dataset.file is not None and sum(node["Alive"] for node in ray.nodes()) == 1:
            ray.get(self._actor.put.remote(spec, dataset.file))
        else:
            raise UsageError(problem)
        return spec

    def get(self, dataset_name: str) -> Dataset:
        """A data set whose columns are read-only views on shared memory, the same memory at every call.

        Raises:
            UsageError: the store does not hold it.
        """
        place = ray.get(self._actor.place.remote(dataset_name))
        if place is None:
            raise UsageError(
                f"The replay store {self.name!r} holds no data set {dataset_name!r}, only {self.names()}; add it first."
            )
        if isinstance(place, str):
            return replace(library.load_file(Path(place)), spec=self.spec(dataset_name))
        return from_table(ray.get(place))

    def spec(self, dataset_name: str) -> Spec:
        """The facts of a data set that the store holds; `UsageError` where it does not."""
        found = ray.get(self._actor.spec.remote(dataset_name))
        if found is None:
            raise UsageError(f"The replay store {self.name!r} holds no data set {dataset_name!r}, only {self.names()}.")
        return found

    def names(self) -> list[str]:
        """Names of the data sets held, sorted."""
        return ray.get(self._actor.names.remote())

    def _no_room(self, dataset_name: str, needed: int) -> str | None:
        """What to do where the object store has not so many bytes left; None where it has."""
        node, held = ray.get(self._actor.held.remote())
        totals = {entry["NodeID"]: entry["Resources"]["object_store_memory"] for entry in ray.nodes() if entry["Alive"]}
        total, used = totals[node], float(held)
        if len(totals) == 1:
            # What others hold counts too; Ray tells that for the cluster as a whole only, and 0.1 s late. It leaves
            # the entry out when nothing is left.
            used = max(used, total - ray.available_resources().get("object_store_memory", 0.0))
        free = int(MAX_FILL * total - used)
        if needed <= free:
            return None
        return (
            f"Data set {dataset_name} needs {needed / 2**20:.0f} MiB of the Ray object store while it is added, but"
            f" {max(free, 0) / 2**20:.0f} of {total / 2**20:.0f} MiB are free for it; start Ray with"
            f" object_store_memory={int((used + needed) / MAX_FILL) + 1} or more, or, on one machine, import it with"
            " `raymix data import` to have it read from its file."
        )


def _require_ray() -> None:
    if not ray.is_initialized():
        raise UsageError("Ray is not running in this process; call ray.init() before using a replay store.")

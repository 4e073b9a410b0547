"""One copy of each data set per node, in Ray's object store, read by every process without copying.

The driver makes the store and owns the data: they live for as long as it refers to them, whoever else dies. What other
processes are given is the store itself, which tells them what each data set is and where.

A mixture is made once, by the driver, which holds no copy beside the store's then: a large one is written a block at a
time to a file that the driver maps (`raymix.data.scratch`), and a sweep reads from the store from then on. Ray takes
the rows to another node when a process there first asks for them, and keeps one copy on each. So the rows and their
hash are the same everywhere by construction, only the driver's node needs the parts' files, and a node that trains on
something else gets nothing. With a mixture of 416 MB from two data sets of 593 MB, the driver, its Ray and two
processes that read it held 425 MB more than before (sum of PSS); 939 MB when the driver kept the rows that it had
built.

Building it on the node by a task, from its parts put once, gave the same hash and held 1,212 MB, as the parts stay in
the store beside the mixture and the building process beside both; each node would be sent 593 MB instead of 416. The
driver must go through all rows for their hash and statistics anyhow. It would pay only where one cluster trains on many
mixtures of the same parts at once, each on another node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from raymix.data import library, scratch
from raymix.data.table import from_table, to_table
from raymix.types import Dataset, Spec, UsageError

MAX_FILL = 0.8
"""Ray starts to spill objects to disk when the store is this full; past it, it does not fail but is 10-60x slower."""

Location = ray.ObjectRef | str
"""Where a table is: in the object store, or the file that holds it."""


class ReplayStore:
    """Data sets shared by all processes of a Ray cluster; see `create`. Pickling it copies no data."""

    def __init__(self, held: Mapping[str, tuple[Spec, Location]], files: Sequence[Dataset] = ()) -> None:
        """Use `create`. `files` are the data sets shared by their files, some of which last as long as these do."""
        self._held, self._files = held, files

    def __reduce__(self) -> Any:
        return ReplayStore, (self._held,)

    @classmethod
    def create(cls, datasets: Iterable[Dataset]) -> ReplayStore:
        """Put data sets into the object store; keep the returned store for as long as anybody needs them, and `get`
        from it what this process goes on reading, instead of a copy of its own.

        A data set that does not fit is shared by its file, where it has one and Ray runs on this machine only: every
        process maps it, and the system keeps in memory what is used.

        Raises:
            UsageError: not enough room in the object store, or Ray is not running here.
        """
        if not ray.is_initialized():
            raise UsageError("Ray is not running in this process; call ray.init() before making a replay store.")
        held: dict[str, tuple[Spec, Location]] = {}
        files, put = [], 0
        for dataset in datasets:
            table = to_table(dataset)
            problem = _no_room(dataset.spec.name, table.nbytes, put)
            if problem is None:
                held[dataset.spec.name] = dataset.spec, ray.put(table)
                put += table.nbytes
            elif dataset.file is not None and sum(node["Alive"] for node in ray.nodes()) == 1:
                held[dataset.spec.name] = dataset.spec, dataset.file
                files.append(dataset)
            else:
                raise UsageError(problem)
        return cls(held, files)

    def get(self, dataset_name: str) -> Dataset:
        """A data set whose columns are read-only views on shared memory, the same memory at every call.

        Raises:
            UsageError: the store does not hold it.
        """
        spec, location = self._find(dataset_name)
        if isinstance(location, str) and location.endswith(scratch.SUFFIX):
            return Dataset(spec, scratch.open_file(location, spec), location)
        if isinstance(location, str):
            mapped = library.load_file(Path(location))
            if mapped.spec.hash != spec.hash:
                raise UsageError(
                    f"The file {location} of data set {dataset_name} was replaced while it is in use; put back the one"
                    f" of hash {spec.hash[:12]}."
                )
            return replace(mapped, spec=spec)
        return from_table(ray.get(location))

    def spec(self, dataset_name: str) -> Spec:
        """The facts of a data set that the store holds; `UsageError` where it does not."""
        return self._find(dataset_name)[0]

    def names(self) -> list[str]:
        """Names of the data sets held, sorted."""
        return sorted(self._held)

    def _find(self, dataset_name: str) -> tuple[Spec, Location]:
        if dataset_name not in self._held:
            raise UsageError(f"The replay store holds no data set {dataset_name!r}, only {self.names()}.")
        return self._held[dataset_name]


def _no_room(dataset_name: str, needed: int, put: int) -> str | None:
    """What to do where this node's object store, into which `put` bytes went before, has not so many more; None where
    it has."""
    node = ray.get_runtime_context().get_node_id()
    totals = {entry["NodeID"]: entry["Resources"]["object_store_memory"] for entry in ray.nodes() if entry["Alive"]}
    total, used = totals[node], float(put)
    if len(totals) == 1:
        # What others hold counts too; Ray tells that for the cluster as a whole only, and 0.1 s late. It leaves
        # the entry out when nothing is left.
        used = max(used, total - ray.available_resources().get("object_store_memory", 0.0))
    free = int(MAX_FILL * total - used)
    if needed <= free:
        return None
    return (
        f"Data set {dataset_name} needs {needed / 2**20:.0f} MiB of the Ray object store, but"
        f" {max(free, 0) / 2**20:.0f} of {total / 2**20:.0f} MiB are free for it; start Ray with"
        f" object_store_memory={int((used + needed) / MAX_FILL) + 1} or more, or, on one machine, keep it in raymix's"
        " library to have it read from its file: `raymix data import` does, and `raymix data make RECIPE --keep NAME`."
    )

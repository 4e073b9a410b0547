"""`raymix bench store`: what a process costs that reads a data set from the replay store, and how fast it reads."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from raymix.bench import machine
from raymix.data.columns import make_dataset
from raymix.types import Columns, Dataset

if TYPE_CHECKING:
    from raymix.data.store import ReplayStore

NAME = "bench/store-v0"
_WIDTH = 56
"""Numbers in an observation; a row with its action, reward, flags and indices takes 248 bytes."""
_ROW_BYTES = 4 * _WIDTH + 4 * 3 + 4 + 1 + 1 + 4 + 2
_BATCH, _BATCHES = 256, 400


class _Reader:
    """A process of its own that reads the store."""

    def __init__(self) -> None:
        self._held: Dataset | None = None

    def read(self, store: ReplayStore, name: str) -> float:
        """Hold a data set of a store and touch all of it; the seconds that getting it took."""
        started = time.perf_counter()
        self._held = store.get(name)
        seconds = time.perf_counter() - started
        for values in vars(self._held.columns).values():
            values.max()
        return seconds

    def gather(self, repeats: int) -> tuple[list[float], list[float]]:
        """Seconds for random batches from the shared columns, and from private copies; by turns."""
        assert self._held is not None
        shared = self._held.columns.observations
        private = shared.copy()
        generator = np.random.default_rng(0)
        rows = [generator.integers(len(shared), size=_BATCH) for _ in range(_BATCHES)]
        took: tuple[list[float], list[float]] = ([], [])
        for _ in range(repeats):
            for array, seconds in zip((shared, private), took, strict=True):
                started = time.perf_counter()
                for drawn in rows:
                    array[drawn]
                seconds.append(time.perf_counter() - started)
        return took


def measure(
    megabytes: int = 400, processes: int = 4, repeats: int = 5, progress: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Put a data set of so many MB (10^6 bytes) into the store of a Ray started here; let processes read it in turn.

    Returns:
        `machine`, `megabytes`, and `rows`, each with `what`, `value`, `unit`, `ratio` and `ratio_to`:
        growth of the total PSS of all of Ray's processes per process that has read every page (each had read another,
        small data set before), times of put and get against copying the data once, and random batches against those
        of a private array.
    """
    import ray

    from raymix.cluster import connected
    from raymix.data import toy
    from raymix.data.store import ReplayStore

    dataset = _dataset(megabytes)
    copying = _copy_seconds(dataset)
    with connected(dashboard=False):
        small = toy.two_modes()
        first = ReplayStore.create([small])
        kind: Any = ray.remote(_Reader).options(num_cpus=0)
        readers = [kind.remote() for _ in range(processes)]
        ray.get([reader.read.remote(first, small.spec.name) for reader in readers])
        started = time.perf_counter()
        store = ReplayStore.create([dataset])
        putting = time.perf_counter() - started
        progress(f"{megabytes} MB put in {putting:.2f} s")
        totals = [machine.total_pss(os.getpid())]
        getting = []
        for reader in readers:
            getting.append(ray.get(reader.read.remote(store, NAME)))
            totals.append(machine.total_pss(os.getpid()))
            progress(f"{len(getting)} processes read it: {totals[-1] / 1e6:,.0f} MB PSS in all")
        shared, private = (statistics.median(part) for part in ray.get(readers[0].gather.remote(repeats)))
    growth = (totals[-1] - totals[0]) / processes / 1e6
    batches = _BATCHES / shared
    rows = [
        _row("growth of total PSS per process", growth, "MB", growth / megabytes, "the data set"),
        _row("put", putting, "s", putting / copying, "copying it once"),
        _row("get", statistics.median(getting), "s", statistics.median(getting) / copying, "copying it once"),
        _row(f"random batches of {_BATCH}", batches, "per s", private / shared, "a private array"),
    ]
    return {"machine": machine.facts(torch.device("cpu")), "megabytes": megabytes, "processes": processes, "rows": rows}


def _row(what: str, value: float, unit: str, ratio: float, ratio_to: str) -> dict[str, Any]:
    return {"what": what, "value": value, "unit": unit, "ratio": ratio, "ratio_to": ratio_to}


def _dataset(megabytes: int) -> Dataset:
    """Noise of so many MB, in one episode."""
    rows = megabytes * 10**6 // _ROW_BYTES
    generator = np.random.default_rng(0)
    place = np.arange(rows)
    columns = Columns(
        observations=generator.standard_normal((rows, _WIDTH), dtype=np.float32),
        actions=np.where(place == rows - 1, 0.0, np.ones((3, rows))).T.astype(np.float32),
        rewards=np.zeros(rows, dtype=np.float32),
        terminals=np.zeros(rows, dtype=bool),
        timeouts=place == rows - 2,
        episode=np.zeros(rows, dtype=np.int32),
        source=np.zeros(rows, dtype=np.int16),
    )
    return make_dataset(columns, NAME, action_low=[-1.0] * 3, action_high=[1.0] * 3)


def _copy_seconds(dataset: Dataset) -> float:
    """What copying its arrays in memory takes."""
    started = time.perf_counter()
    for values in vars(dataset.columns).values():
        values.copy()
    return time.perf_counter() - started


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    facts = result["machine"]
    lines = [
        f"a data set of {result['megabytes']} MB read by {result['processes']} processes on {facts['device']}"
        f" ({facts['cores']} cores)",
        "",
        "                                |      value | ratio",
        "--------------------------------+------------+-------------------------",
    ]
    lines += [
        f"{row['what']:31} | {row['value']:,.2f} {row['unit']:5} | {row['ratio']:.3f} of {row['ratio_to']}"
        for row in result["rows"]
    ]
    return "\n".join(lines)

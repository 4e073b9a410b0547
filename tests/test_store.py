"""The replay store in Ray's object store: shared, read-only, and owned by nobody who leaves."""

from __future__ import annotations

import dataclasses
import os
import pickle
from pathlib import Path

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Loopback only; Ray reads it when imported.

import numpy as np
import pytest
import ray
from helpers import small_config, tiny_dataset

from raymix.algorithms.base import find
from raymix.data import catalog, library, toy
from raymix.data.columns import make_dataset
from raymix.data.guard import guard
from raymix.data.store import ReplayStore
from raymix.packing.local import LocalPack
from raymix.types import Columns, Dataset, UsageError

STORE_BYTES = 200 * 2**20
COLUMNS = ("observations", "actions", "rewards", "terminals", "timeouts", "episode", "source")


@pytest.fixture(scope="module")
def ray_here():
    ray.init(
        address="local",  # never the cluster of somebody's `ray start`
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=STORE_BYTES,
        _node_ip_address="127.0.0.1",
        logging_level="error",
    )
    yield
    ray.shutdown()


def big(name: str, megabytes: int) -> Dataset:
    rows = megabytes * 2**20 // (64 * 4)
    first, last = np.arange(rows) == 0, np.arange(rows) == rows - 2
    columns = Columns(
        observations=np.ones((rows, 60), dtype=np.float32),
        actions=np.zeros((rows, 1), dtype=np.float32),
        rewards=first.astype(np.float32),
        terminals=last,
        timeouts=np.zeros(rows, dtype=bool),
        episode=np.zeros(rows, dtype=np.int32),
        source=np.zeros(rows, dtype=np.int16),
    )
    return make_dataset(columns, name, action_low=[-1.0], action_high=[1.0])


def test_columns_come_back_equal_read_only_and_shared(ray_here: None):
    dataset = toy.chain()
    store = ReplayStore.create([dataset])
    assert store.spec(dataset.spec.name) == dataset.spec
    first, second = store.get(dataset.spec.name), store.get(dataset.spec.name)
    assert first.spec == dataset.spec
    for column in COLUMNS:
        given, one, two = (getattr(each.columns, column) for each in (dataset, first, second))
        assert np.array_equal(given, one)
        assert given.dtype == one.dtype
        assert not one.flags.writeable
        assert one.ctypes.data == two.ctypes.data
        with pytest.raises(ValueError, match="read-only"):
            one[...] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            one.setflags(write=True)
    assert first.columns.digest() == dataset.spec.hash


def test_reading_costs_a_process_no_memory_of_its_own(ray_here: None):
    dataset = big("toy/big-v0", 40)
    store = ReplayStore.create([toy.chain(), dataset])

    @ray.remote(num_cpus=0)
    def growth(given: ReplayStore) -> tuple[int, float]:
        def anonymous() -> int:
            status = Path("/proc/self/status").read_text()
            return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) * 1024

        given.get("toy/chain-v0")  # What reading a first Arrow table imports (30 MB) is not the data's cost.
        before = anonymous()
        views = [given.get("toy/big-v0") for _ in range(5)]
        total = float(sum(view.columns.observations.sum() for view in views))
        return anonymous() - before, total

    grown, total = ray.get(growth.remote(store))
    assert total == pytest.approx(5 * dataset.columns.observations.size)
    assert grown < 4 * 2**20


def test_data_outlive_the_processes_that_read_them(ray_here: None):
    store = ReplayStore.create([toy.two_modes()])
    columns = store.get("toy/two-modes-v0").columns

    @ray.remote(num_cpus=0)
    class Trial:
        def give(self) -> ReplayStore:
            return self.store

        def take(self, store: ReplayStore) -> str:
            self.store = store
            return store.get("toy/two-modes-v0").columns.digest()

    first, second = Trial.remote(), Trial.remote()
    assert ray.get(first.take.remote(store)) == toy.two_modes().spec.hash
    handed_on = ray.get(first.give.remote())
    ray.kill(first)
    assert ray.get(second.take.remote(handed_on)) == toy.two_modes().spec.hash
    again = store.get("toy/two-modes-v0").columns
    assert again.observations.ctypes.data == columns.observations.ctypes.data


def test_a_data_set_that_does_not_fit_is_refused_before_the_put(ray_here: None):
    with pytest.raises(UsageError, match=r"object_store_memory=\d+"):
        ReplayStore.create([toy.chain(), big("toy/too-big-v0", 170)])
    assert ReplayStore.create([toy.chain(), big("toy/fits-v0", 120)]).names() == ["toy/chain-v0", "toy/fits-v0"]


def test_what_does_not_fit_is_read_from_its_file(
    ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYMIX_DATASETS_PATH", str(tmp_path))
    library.save(big("own/too-big", 170))
    mapped = dataclasses.replace(library.load("own/too-big"))
    named = dataclasses.replace(mapped, spec=dataclasses.replace(mapped.spec, name="own/other-name"))
    free = ray.available_resources()["object_store_memory"]
    store = ReplayStore.create([named])
    assert ray.available_resources()["object_store_memory"] > free - 2**20

    @ray.remote(num_cpus=0)
    def read(store: ReplayStore, name: str) -> tuple[str, bool, float, str]:
        dataset = store.get(name)
        columns = dataset.columns
        return dataset.spec.name, columns.observations.flags.writeable, float(columns.rewards[0]), columns.digest()

    assert ray.get(read.remote(store, "own/other-name")) == ("own/other-name", False, 1.0, mapped.spec.hash)
    library.save(big("own/too-big", 1))
    with pytest.raises(UsageError, match=f"was replaced while it is in use; put back .* {mapped.spec.hash[:12]}"):
        store.get("own/other-name")


def test_a_mixture_that_does_not_fit_is_read_from_the_file_it_was_made_in(
    ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYMIX_DATASETS_PATH", str(tmp_path))
    library.save(big("own/half", 85))
    mixture = catalog.load("own/half + own/half")
    spec, file = mixture.spec, Path(mixture.file or "")
    store = ReplayStore.create([mixture])
    del mixture

    @ray.remote(num_cpus=0)
    def read(store: ReplayStore) -> tuple[bool, str]:
        columns = store.get("own/half + own/half").columns
        return columns.observations.flags.writeable, columns.digest()

    assert ray.get(read.remote(store)) == (False, spec.hash) and file.exists()
    copied = pickle.loads(pickle.dumps(store))
    del store
    assert not file.exists()  # it was there for as long as the store of the process that made it
    with pytest.raises(UsageError, match=r"are not in .* any more"):
        copied.get("own/half + own/half")


def test_a_write_to_shared_columns_is_found_and_named(ray_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that changes its batch is harmless, one that changes the replay's tensors is not."""
    monkeypatch.setenv("RAYMIX_DEBUG", "1")
    dataset = ReplayStore.create([tiny_dataset()]).get("tests/tiny-v0")
    config = small_config(find("bc"))
    pack = LocalPack("bc", config, [0], dataset, 2, capture="eager")
    pack.advance()
    pack.learner.replay.rewards[3] += 1.0  # the memory that every process on the node reads
    with pytest.raises(RuntimeError, match=r"column rewards of data set tests/tiny-v0 was written to in place during"):
        pack.advance()
    pack.learner.replay.rewards[3] -= 1.0
    monkeypatch.setenv("RAYMIX_DEBUG", "0")
    assert guard(dataset) is None


def test_unknown_names_are_refused(ray_here: None):
    with pytest.raises(UsageError, match="holds no data set 'toy/none-v0', only \\['toy/chain-v0'\\]"):
        ReplayStore.create([toy.chain()]).get("toy/none-v0")

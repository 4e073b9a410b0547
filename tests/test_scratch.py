"""Mixtures larger than memory: made a block at a time, in a file that is there for as long as their columns are."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from test_recipes import keep, root  # noqa: F401  (a fixture)

from raymix import types
from raymix.cli import main
from raymix.data import catalog, columns, library, mixture, scratch
from raymix.data.columns import make_dataset
from raymix.types import Columns, Dataset, UsageError

RECIPES = (
    "own/one + own/two",
    "0.3*own/one + 0.7*own/two",
    "(own/one[reward=by-maximum] + own/two)[reward=by-returns, reward_shift=0.5]",
    "(own/one + own/one)[episodes=3, seed=2] + own/two[returns=0.3..1]",
)


def wide(name: str, episodes: int, length: int, seed: int = 0) -> Dataset:
    """A data set of noise in the library, of 252 bytes a row."""
    rows = episodes * (length + 1)
    generator, place = np.random.default_rng(seed), np.arange(rows) % (length + 1)
    rows_of = Columns(
        observations=generator.standard_normal((rows, 59), dtype=np.float32),
        actions=np.zeros((rows, 1), dtype=np.float32),
        rewards=np.where(place < length, generator.standard_normal(rows), 0.0).astype(np.float32),
        terminals=np.zeros(rows, dtype=bool),
        timeouts=place == length - 1,
        episode=(np.arange(rows) // (length + 1)).astype(np.int32),
        source=np.zeros(rows, dtype=np.int16),
    )
    dataset = make_dataset(rows_of, name, action_low=[-1.0], action_high=[1.0])
    library.save(dataset)
    return dataset


def left(folder: Path) -> list[Path]:
    return list(folder.rglob(f".*{scratch.SUFFIX}"))


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 9), min_size=4, max_size=8), st.integers(1, 11), st.sampled_from(RECIPES))
def test_rows_do_not_depend_on_where_they_are_made_nor_on_the_blocks(lengths: list[int], block: int, recipe: str):
    """Catches a block that loses or repeats a row, or rewards and statistics that depend on where one is cut."""
    keep("own/one", lengths, sources=[index % 2 for index in range(len(lengths))])
    keep("own/two", lengths[::-1], start=1_000)
    expected = catalog.load(recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture, "BLOCK_ROWS", block)
        patch.setattr(types, "BLOCK_ROWS", block)
        patch.setattr(scratch, "IN_MEMORY", 0)
        made = catalog.load(recipe)
    assert made.file is not None and expected.file is None
    assert made.spec.hash == expected.spec.hash == made.columns.digest()
    for fact, value in expected.spec.to_dict().items():
        assert getattr(made.spec, fact) == (pytest.approx(value) if isinstance(value, float | list) else value), fact


@pytest.mark.parametrize("task", ["forward", "jump"])
def test_rewards_that_look_at_the_next_row_do_so_across_blocks(task: str, monkeypatch: pytest.MonkeyPatch):
    generator = np.random.default_rng(0)
    rows_of = Columns(
        observations=generator.standard_normal((20, 17), dtype=np.float32),
        actions=generator.uniform(-1, 1, (20, 6)).astype(np.float32),
        rewards=np.zeros(20, dtype=np.float32),
        terminals=np.zeros(20, dtype=bool),
        timeouts=np.isin(np.arange(20), [8, 18]),
        episode=np.repeat([0, 1], 10).astype(np.int32),
        source=np.zeros(20, dtype=np.int16),
    )
    library.save(make_dataset(rows_of, "own/walker", action_low=[-1.0] * 6, action_high=[1.0] * 6))
    whole = catalog.load(f"own/walker[reward=walker2d-{task}]")
    monkeypatch.setattr(mixture, "BLOCK_ROWS", 3)
    assert catalog.load(f"own/walker[reward=walker2d-{task}]").spec.hash == whole.spec.hash


def test_the_peak_of_memory_is_a_block_and_not_the_mixture(monkeypatch: pytest.MonkeyPatch):
    """NumPy tells tracemalloc what it allocates; what is mapped is no allocation."""
    wide("own/wide", 64, 250)
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    for module in (types, mixture, columns):
        monkeypatch.setattr(module, "BLOCK_ROWS", 1024)
    recipe = " + ".join(f"own/wide[reward_shift={shift}]" for shift in range(8))
    catalog.load("own/wide + own/wide")  # imports
    tracemalloc.start()
    try:
        dataset = catalog.load(recipe)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        library.save(dataclasses.replace(dataset, spec=dataclasses.replace(dataset.spec, name="own/kept")))
        _, saving = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    size = sum(values.nbytes for values in vars(dataset.columns).values())
    assert size > 30e6
    assert peak < 2e6 and saving < 2e6


def test_the_file_goes_with_the_columns(root: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    keep("own/one", [3, 2])
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    dataset = catalog.load("own/one + own/one")
    again = scratch.open_file(dataset.file or "", dataset.spec)
    assert again.digest() == dataset.spec.hash and not again.observations.flags.writeable
    assert [str(path) for path in left(root)] == [dataset.file]
    assert "own/one" in library.names() and len(library.names()) == 1
    spec, file = dataset.spec, dataset.file
    view = dataset.columns.rewards[1:2]
    del dataset
    gc.collect()
    assert left(root)  # for as long as there is a view of it
    del view
    gc.collect()
    assert not left(root) and again.digest() == spec.hash
    with pytest.raises(UsageError, match=r"the rows of data set own/one \+ own/one are not in .* any more"):
        scratch.open_file(file or "", spec)


def test_a_killed_process_leaves_a_file_that_the_next_one_removes(root: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    keep("own/one", [3, 2])
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    code = (
        "from raymix.data import catalog, scratch\nscratch.IN_MEMORY = 0\n"
        "held = catalog.load('own/one + own/one')\nprint(held.file, flush=True)\ninput()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().decode().strip())
        mine = catalog.load("own/one + own/one")
        assert theirs in left(root) and len(left(root)) == 2  # in use: not touched
        process.send_signal(signal.SIGKILL)
    assert theirs in left(root)
    other = catalog.load("own/one + own/one + own/one")
    assert sorted(map(str, left(root))) == sorted([str(mine.file), str(other.file)])


def test_a_library_that_cannot_be_written_is_read_all_the_same(
    root: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    keep("own/one", [3, 2])
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != root)
    assert Path(catalog.load("own/one + own/one").file or "").parent == tmp_path / "temporary"


def test_a_disk_without_room_is_told_before_anything_is_written(
    root: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    wide("own/wide", 10, 100)
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    size = 2 * 1010 * (4 * 60 + 12)
    free = dataclasses.make_dataclass("Usage", ["free"])
    monkeypatch.setattr("shutil.disk_usage", lambda folder: free(2 * size - 1))
    catalog.load("own/wide + own/wide")
    with pytest.raises(SystemExit, match="2"):
        main(["data", "make", "own/wide + own/wide", "--keep", "own/mixed"])
    told = capsys.readouterr().err
    assert "own/wide + own/wide cannot be written to" in told and "it takes 1 MB and 1 MB are free" in told
    monkeypatch.setattr("shutil.disk_usage", lambda folder: free(size // 2 - 1))
    with pytest.raises(UsageError, match=r"own/wide cannot be written to .* are free\); make room there"):
        library.save(library.load("own/wide"))
    gc.collect()
    assert [path.name for path in root.rglob("*") if path.is_file()] == ["wide.arrow"]


def test_a_disk_that_is_full_in_mid_write_leaves_nothing_behind(root: Path):  # noqa: F811
    """The process may write files of 100 kB only: the mixture needs more. A full disk refuses the same writes."""
    wide("own/wide", 4, 100)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from raymix.cli import main\nfrom raymix.data import scratch\nscratch.IN_MEMORY = 0\n"
            "main(['data', 'make', 'own/wide + own/wide', '--keep', 'own/mixed'])",
        ],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        timeout=120,
    )
    assert done.returncode == 2 and "cannot be written to" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in root.rglob("*") if path.is_file()] == ["wide.arrow"]


def test_a_mixture_is_kept_by_a_process_that_could_not_hold_it(root: Path, capsys: pytest.CaptureFixture):  # noqa: F811
    """330 MB of rows by a process that may hold 200 MB besides its imports; a block of 65,536 rows takes half of it."""
    wide("own/wide", 160, 1000)
    recipe = " + ".join(["own/wide"] * 8)
    code = (
        "import resource\nfrom pathlib import Path\nimport numpy as np\nimport raymix.data.catalog\n"
        "from raymix.cli import main\n"
        "held = 4096 * int(Path('/proc/self/statm').read_text().split()[5])\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (held + 200_000_000,) * 2)\n"
        "try:\n    np.ones(330_000_000, np.uint8)\n    raise SystemExit('there is no limit')\n"
        "except MemoryError:\n    pass\n"
        f"main(['data', 'make', {recipe!r}, '--keep', 'own/kept', '--json'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["num_transitions"] == 8 * 160_000 and told["origin"] == {"recipe": recipe}
    assert (root / "own/kept.arrow").stat().st_size > 320e6 and not left(root)
    assert library.load("own/kept").columns.digest() == told["hash"]

"""One of each fault in a running sweep; `python tests/faults.py` does hundreds. Run with -m faults."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import FAULTS, OUTPUT_S, SWEEP, play_round, prepared, rows_of, undisturbed
from test_sweep import Driver

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
TOGETHER = (
    ("kill a trial", "kill a pack", "kill the broker", "kill what plays policies"),
    ("the environment crashes", "the environment hangs", "the environment pays NaN", "the environment shows NaN"),
    ("kill the driver", "SIGTERM to the driver", "SIGINT to the driver"),
    tuple(name for name in FAULTS if name.startswith("kill the driver, ")),
    ("kill the sweep's own raylet",),
    ("lose a node", "a node joins", "kill a pack"),
)
# Without its GCS a Ray waits for a minute before it ends: only the long form does that.
assert {name for names in TOGETHER for name in names} == set(FAULTS) - {"kill the sweep's own GCS"}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple, str]:
    return undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("faults", TOGETHER, ids=" and ".join)
def test_a_sweep_ends_with_the_results_of_an_undisturbed_one(
    faults: tuple[str, ...], expected: dict[tuple, str], tmp_path: Path
) -> None:
    assert set(play_round(tmp_path, list(faults), random.Random(0), expected)) == set(faults)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a few reports."""
    disk = tmp_path / "runs"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("only root may mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_told_and_the_sweep_goes_on_when_there_is_room(
    small_disk: Path, expected: dict[tuple, str], tmp_path: Path
) -> None:
    with prepared(tmp_path):
        status, _, errors = Driver(tmp_path, sweep=SWEEP).finish(OUTPUT_S)
        assert status == 1 and "No space left on device" in errors and "--resume" in errors
        assert "Traceback" not in errors, errors
        (run,) = (path for path in small_disk.iterdir() if path.is_dir())
        subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
        status, _, errors = Driver(tmp_path, "--resume", str(run), sweep=SWEEP).finish(OUTPUT_S)
        assert status == 0, errors
    assert rows_of(run) == expected

"""A sweep of very many short trials, alone and under a fault every so often, and what it costs its driver.

The second sweep is the first's beginning: it must end with the same rows, once each. Told are trials per second, by
quarters (a seat that is lost slows the later ones), the driver's memory, its open files, files in the run's folder, and
how long the live page takes to open on all trials.

    python tests/soak.py --trials 1000 --disturbed 500 --every 20 --log soak.txt      # Linux, Chromium
"""

from __future__ import annotations

import argparse
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from faults import kill, rows_of
from test_browser import Page, open_browser, serve
from test_packed_sweep import title
from test_sweep import Driver

SWEEP = """
import numpy as np
from ray import tune
from raymix import SweepSpec, main

SPEC = SweepSpec(
    algorithm="td3_bc",
    datasets=("two-modes",),
    search={"q_scale": tune.grid_search(np.geomspace(0.1, 10, 1000).round(6).tolist()[:TRIALS])},
    settings={"hidden_dims": (16,), "batch_size": 32},
    steps=600,
    seeds=1,
    evaluate_every=300,
    episodes=4,
    seats=4,
)

if __name__ == "__main__":
    main(SPEC)
"""
REPORTS = 2
FAULTS = {
    "a trial": kill("ray::Trial"),
    "a pack": kill("ray::Pack"),
    "the broker": kill("ray::Broker"),
    "what plays policies": kill("ray::RolloutActor"),
}


@dataclass
class Sample:
    """Of a running driver."""

    seconds: float
    segments: int
    memory: int
    """Bytes that are the driver's alone (USS)."""
    open_files: int


@dataclass
class Soak:
    """A sweep that runs."""

    folder: Path
    trials: int
    samples: list[Sample] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    chance: random.Random = field(default_factory=random.Random)

    def run(self, every: float | None) -> Path:
        """The run's folder, once all is done; with a fault `every` so many seconds."""
        self.folder.mkdir()
        self.driver = Driver(self.folder, sweep=SWEEP.replace("TRIALS", str(self.trials)))
        process, output = self.driver.process, list[str]()
        # Its pipes would fill up.
        pipes = (process.stdout, process.stderr)
        readers = [threading.Thread(target=output.extend, args=[pipe]) for pipe in pipes]
        for reader in readers:
            reader.start()
        began = time.monotonic()
        due = every
        family: set[psutil.Process] = set()
        while process.poll() is None:
            time.sleep(1)
            seconds = time.monotonic() - began
            segments = len(list(self.folder.glob("runs/*/ledger/*.parquet")))
            try:
                driver = psutil.Process(process.pid)
                memory, files = driver.memory_full_info().uss, driver.num_fds()
                self.driver.family = driver.children(recursive=True)
            except psutil.Error:  # it has just ended
                break
            family |= set(self.driver.family)
            if segments and memory:  # none is left of a process that has ended
                self.samples.append(Sample(seconds, segments, memory, files))
            if due is not None and every is not None and segments and seconds > due:
                name = self.chance.choice(list(FAULTS))
                if FAULTS[name](self):
                    self.faults[name] += 1
                    due = seconds + every
        for reader in readers:
            reader.join()
        process.wait()
        assert process.returncode == 0, "".join(output)[-5000:]
        self.driver.family = list(family)
        self.driver.clean_up()
        (run,) = (self.folder / "runs").iterdir()
        return run

    def processes(self, *words: str) -> list[psutil.Process]:
        """What `faults.kill` chooses from."""
        return [process for process in self.driver.family if any(word in title(process) for word in words)]

    def told(self) -> list[str]:
        """What was measured, in words."""
        total = self.trials * REPORTS
        quarters = []
        for share in range(4):
            part = [one for one in self.samples if total * share / 4 <= one.segments <= total * (share + 1) / 4]
            gained = (part[-1].segments - part[0].segments) / REPORTS if len(part) > 1 else 0
            quarters.append(gained / (part[-1].seconds - part[0].seconds) if gained else float("nan"))
        # Not what making the report takes after the last trial.
        later = [one for one in self.samples if total / 5 <= one.segments < total]
        memory = np.array([one.memory for one in later]) / 2**20
        return [
            f"  {self.samples[-1].seconds:.0f} s; trials per second by quarters: "
            + " ".join(f"{rate:.1f}" for rate in quarters),
            f"  the driver's memory after a fifth of the trials {memory[0]:.0f} MiB, at most {memory.max():.0f}, in the"
            f" end {memory[-1]:.0f} ({100 * (memory.max() / memory[0] - 1):+.1f} % at most);"
            f" open files {later[0].open_files} to {max(one.open_files for one in later)}",
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="of the first sweep (default: %(default)s)")
    parser.add_argument("--disturbed", type=int, default=500, help="of the second (default: %(default)s)")
    parser.add_argument("--every", type=float, default=20.0, help="seconds between faults (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults (default: %(default)s)")
    parser.add_argument("--log", type=Path, default=Path("soak.txt"), help="(default: %(default)s)")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="raymix-soak-") as text, options.log.open("w") as log:

        def tell(line: str) -> None:
            print(line, file=log, flush=True)
            print(line, flush=True)

        first = Soak(Path(text, "first"), options.trials)
        run = first.run(None)
        expected = rows_of(run)
        assert len(expected) == options.trials * REPORTS
        tell(f"{options.trials} trials of 600 steps, 2 packs of 4 seats, undisturbed:")
        for line in first.told():
            tell(line)
        tell(f"  {sum(1 for _ in run.rglob('*')):,} files and folders in the run's folder")
        with serve(run) as address, open_browser(Path(text, "profile")) as browser:
            opened = [Page(browser, address).opened for _ in range(4)]
        tell(f"  the live page opens in {opened[0]:.1f} s for the first time, then in {np.median(opened[1:]):.1f} s")
        second = Soak(Path(text, "second"), options.disturbed, chance=random.Random(options.seed))
        run = second.run(options.every)
        found = rows_of(run)
        assert len(found) == options.disturbed * REPORTS
        assert found == {key: expected[key] for key in found}, "faults changed results"
        tell(f"{options.disturbed} trials with a fault every {options.every:g} s, the same rows, once each:")
        for line in second.told():
            tell(line)
        tell(f"  {sum(1 for _ in run.rglob('*')):,} files and folders in the run's folder")
        tell("  killed: " + ", ".join(f"{name} {count} times" for name, count in second.faults.most_common()))


if __name__ == "__main__":
    main()

"""Faults in running sweeps, and what must be left of them: nothing.

Each round runs a small sweep, does some things to it at random times, resumes it where it ended, and compares its
ledger with that of an undisturbed run: the same rows, once each, with the same losses and scores.

    python tests/faults.py --faults 200 --seed 0 --log faults.txt        # the long form; Linux
    pytest -m faults                                                     # one of each, tests/test_faults.py
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from test_packed_sweep import PACKED, title
from test_sweep import Driver, results

from raymix.data import library, toy

AGENTS = ("dashboard/agent", "runtime_env/agent", "DashboardAgent", "RuntimeEnvAgent")
"""Ray's own helpers, which outlive a driver that was killed for a while."""
OUTPUT_S = 240
PATIENCE = "6s"

ENVIRONMENT = """
import ctypes, os, pathlib, time
import gymnasium
from raymix.envs.two_modes import TwoModes

class Faulty(TwoModes):
    "Two modes; does once what a file in its folder is called."
    def step(self, action):
        for order in pathlib.Path(os.environ["FAULTS_ORDERS"]).iterdir():
            try:
                order.unlink()
            except FileNotFoundError:
                continue
            if order.name == "hang":
                time.sleep(10_000)
            if order.name == "crash":
                ctypes.string_at(0)
            observation, reward, *ends = super().step(action)
            return (observation * float("nan"), reward, *ends) if order.name == "nan-state" else (
                observation, float("nan"), *ends)
        return super().step(action)

gymnasium.register("Faulty-v0", Faulty)
"""
# One of five diverges: its siblings, and whoever resumes, must not mind.
SWEEP = (
    PACKED.replace('"two-modes"', '"faults/two-modes"')
    .replace("search={", 'search={"policy_learning_rate": tune.grid_search([3e-4, 1e30]), ')
    .replace("[0.5, 1.0, 2.0, 4.0, 8.0]", "[0.5, 2.0, 8.0]")
)
assert SWEEP != PACKED


@dataclasses.dataclass
class Round:
    """One sweep, and what was done to it."""

    folder: Path
    chance: random.Random
    options: tuple[str, ...] = ()
    cluster: Any = None
    """A `ray.cluster_utils.Cluster` that the sweep runs on; None: a Ray of its own."""
    driver: Any = None
    output: str = ""
    families: list[psutil.Process] = dataclasses.field(default_factory=list)

    def start(self) -> None:
        """The driver, anew or resumed."""
        run = self.run()
        again = () if run is None else ("--resume", str(run))
        self.driver = Driver(self.folder, *again, *self.options, "--environment-patience", PATIENCE, sweep=SWEEP)

    def run(self) -> Path | None:
        """The run's folder, once there is one."""
        return next(iter(sorted((self.folder / "runs").glob("*"))), None)

    def segments(self) -> int:
        return len(list(self.folder.glob("runs/*/ledger/*.parquet")))

    def wait(self) -> bool:
        """Until some more is reported, and a moment longer; False where the sweep ended before."""
        until, moment = self.segments() + self.chance.randint(1, 12), self.chance.random() * 0.5
        deadline = time.monotonic() + OUTPUT_S
        while self.segments() < until:
            if self.driver.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, f"nothing is reported any more in {self.folder}"
            time.sleep(0.02)
        time.sleep(moment)
        if self.driver.process.poll() is not None:
            return False
        self.driver.family = psutil.Process(self.driver.process.pid).children(recursive=True)
        self.families += self.driver.family
        return True

    def finish(self) -> int:
        """The driver's exit status; no process of the sweep is left."""
        output, errors = self.driver.process.communicate(timeout=OUTPUT_S)
        self.output += output + errors
        own = [process for process in self.families if not any(agent in title(process) for agent in AGENTS)]
        names = [title(process) for process in psutil.wait_procs(own, timeout=60)[1]]
        self.driver.clean_up()
        assert not [name for name in names if name], f"processes were left: {names}"
        return self.driver.process.returncode

    def processes(self, *words: str) -> list[psutil.Process]:
        """Processes of the sweep, or of the cluster that it runs on, whose titles have one of the words."""
        found = psutil.Process().children(recursive=True) if self.cluster else self.driver.family
        return [process for process in found if any(word in title(process) for word in words)]


# ---------------------------------------------------------------- faults


def kill(*words: str) -> Callable[[Round], bool]:
    """SIGKILL to one process of the sweep."""

    def fault(at: Round) -> bool:
        found = at.processes(*words)
        if not found:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            at.chance.choice(found).kill()
        return True

    return fault


def end_driver(number: signal.Signals, damage: Callable[[Round], None] = lambda at: None) -> Callable[[Round], bool]:
    """A signal to the driver, damage to what it left, and a new driver that goes on."""

    def fault(at: Round) -> bool:
        at.driver.process.send_signal(number)
        with contextlib.suppress(AssertionError if number == signal.SIGKILL else ()):
            at.finish()
        damage(at)
        at.start()
        return True

    return fault


def order(what: str) -> Callable[[Round], bool]:
    """The environment does something once."""

    def fault(at: Round) -> bool:
        (at.folder / "orders" / what).touch()
        return True

    return fault


def newest_checkpoints(at: Round) -> list[Path]:
    newest = {path.parent.name: path for path in sorted(at.folder.glob("runs/*/trials/*/*/checkpoint_*"))}
    return list(newest.values())


def flip_a_byte(at: Round) -> None:
    """Of the newest checkpoint of each trial."""
    for checkpoint in newest_checkpoints(at):
        for path in at.chance.sample(sorted(checkpoint.iterdir()), 1):
            content = bytearray(path.read_bytes())
            content[at.chance.randrange(len(content))] ^= 1 << at.chance.randrange(8)
            path.write_bytes(content)


def truncate(at: Round) -> None:
    """A file of the newest checkpoint of each trial, as a copy that was cut off leaves it."""
    for checkpoint in newest_checkpoints(at):
        for path in at.chance.sample(sorted(checkpoint.iterdir()), 1):
            os.truncate(path, at.chance.randrange(path.stat().st_size))


def spoil_tune(at: Round) -> None:
    """Tune's snapshot of the experiment cut off, the states of its searcher and of the sweep empty."""
    for path in at.folder.glob("runs/*/trials/*/*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2 if "experiment_state" in path.name else 0)


def damage_ledger(at: Round) -> bool:
    """A killed driver, a segment cut off: nothing goes on by itself, and without the segment its rows come back."""
    at.driver.process.kill()
    with contextlib.suppress(AssertionError):
        at.finish()
    segment = at.chance.choice(sorted(at.folder.glob("runs/*/ledger/*.parquet")))
    os.truncate(segment, at.chance.randrange(segment.stat().st_size))
    at.start()
    assert at.finish() != 0 and str(segment) in at.output, f"{segment} was damaged and nobody said so"
    segment.unlink()
    at.start()
    return True


def lose_node(at: Round) -> bool:
    nodes = sorted(at.cluster.worker_nodes, key=lambda node: node.node_id)
    if len(nodes) < 2:
        return False
    at.cluster.remove_node(at.chance.choice(nodes), allow_graceful=False)
    return True


def add_node(at: Round) -> bool:
    at.cluster.add_node(num_cpus=1)
    return True


RECOVERED = "goes on from its last report after this"
PACK = "A pack died; its trials go on in another one"
PLAYER = "A process that plays policies ended"
FAULTS: dict[str, tuple[Callable[[Round], bool], str | tuple[str, ...] | None]] = {
    "kill a trial": (kill("ray::Trial"), RECOVERED),
    "kill a pack": (kill("ray::Pack"), PACK),
    "kill the broker": (kill("ray::Broker"), PACK),
    "kill what plays policies": (kill("ray::RolloutActor"), PLAYER),
    "kill the driver": (end_driver(signal.SIGKILL), None),
    "SIGTERM to the driver": (end_driver(signal.SIGTERM), "go on with:"),
    "SIGINT to the driver": (end_driver(signal.SIGINT), "go on with:"),
    "kill the driver, flip a byte of checkpoints": (end_driver(signal.SIGKILL, flip_a_byte), None),
    "kill the driver, truncate checkpoints": (end_driver(signal.SIGKILL, truncate), None),
    "kill the driver, spoil Tune's snapshot": (end_driver(signal.SIGKILL, spoil_tune), None),
    "kill the driver, truncate a segment of the ledger": (damage_ledger, "is damaged (its bytes do not match"),
    # Ray ends the driver then, from below Python: nobody is left to say anything.
    "kill the sweep's own raylet": (kill("raylet/raylet"), None),
    "kill the sweep's own GCS": (kill("gcs/gcs_server"), None),
    "the environment hangs": (order("hang"), "no step within 6 s"),
    "the environment crashes": (order("crash"), PLAYER),
    "the environment pays NaN": (order("nan-reward"), "returned the reward nan"),
    "the environment shows NaN": (order("nan-state"), "returned a non-finite observation"),
    "lose a node": (lose_node, (RECOVERED, PACK)),
    "a node joins": (add_node, None),
}
"""What each fault does (False where there was nothing to do it to), and what the user must be told."""
OF_CLUSTERS = ("lose a node", "a node joins")
OF_OWN_RAY = ("kill the sweep's own raylet", "kill the sweep's own GCS")


# ---------------------------------------------------------------- rounds


@contextlib.contextmanager
def prepared(folder: Path) -> Iterator[None]:
    """Data set, environment and orders of the sweeps in `folder`, for the processes that start meanwhile."""
    (folder / "orders").mkdir(parents=True)
    (folder / "faulty_environment.py").write_text(ENVIRONMENT)
    own = {
        "RAYMIX_DATASETS_PATH": str(folder / "library"),
        "RAYMIX_ENVIRONMENTS": "faulty_environment",
        "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "FAULTS_ORDERS": str(folder / "orders"),
    }
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        dataset = toy.two_modes()
        spec = dataclasses.replace(dataset.spec, name="faults/two-modes", environment='{"id": "Faulty-v0"}')
        library.save(dataclasses.replace(dataset, spec=spec))
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def three_nodes() -> Iterator[Any]:
    """A head with one core and two workers with one each, all on this machine."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on loopback; read by Ray when it is imported
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def undisturbed(folder: Path) -> dict[tuple, str]:
    """What every round must have in the end."""
    with prepared(folder):
        status, _, errors = Driver(folder, sweep=SWEEP).finish(OUTPUT_S)
        assert status == 0, errors
    (run,) = (folder / "runs").iterdir()
    return rows_of(run)


def rows_of(run: Path) -> dict[tuple, str]:
    """As `results`; NaN equals itself in text."""
    return {key: repr(row) for key, row in results(run).items()}


def play_round(folder: Path, faults: list[str], chance: random.Random, expected: dict[tuple, str]) -> list[str]:
    """Run a sweep with these faults in this order; the ones that were really done, after all checks held."""
    done = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(prepared(folder))
        needs_cluster = any(fault in OF_CLUSTERS for fault in faults)
        cluster = stack.enter_context(three_nodes()) if needs_cluster else None
        at = Round(folder, chance, ("--address", cluster.address) if cluster else (), cluster)
        at.start()
        status: int | None = None
        for name in faults:
            if not at.wait():
                status = at.finish()
                if status == 0:
                    break
                at.start()  # whatever it was, it can be resumed
                status = None
                if not at.wait():
                    break
            fault, _ = FAULTS[name]
            if fault(at):
                done.append(name)
        if status is None:
            status = at.finish()
        if status:
            at.start()
            status = at.finish()
        assert status == 0, at.output
    run = at.run()
    assert run is not None
    found = rows_of(run)
    assert found == expected, f"{len(found)} rows instead of {len(expected)}, or others, in {run}"
    ordered_and_not_done = [path.name for path in (folder / "orders").iterdir()]
    done = [
        name for name in done if not any(name == of and what in ordered_and_not_done for of, what in ORDERS.items())
    ]
    for name in done:
        told = FAULTS[name][1]
        assert told is None or any(part in at.output for part in ((told,) if isinstance(told, str) else told)), (
            f"after '{name}' nobody said '{told}':\n{at.output}"
        )
    return done


ORDERS = {
    "the environment hangs": "hang",
    "the environment crashes": "crash",
    "the environment pays NaN": "nan-reward",
    "the environment shows NaN": "nan-state",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200, help="how many (default: %(default)s)")
    parser.add_argument("--each", type=int, default=3, help="faults to a round (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what happens when (default: %(default)s)")
    parser.add_argument("--log", type=Path, default=Path("faults.txt"), help="a line per round (default: %(default)s)")
    options = parser.parse_args()
    # A shell starts what it puts in the background with SIGINT ignored, and the sweeps would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="raymix-faults-") as text, options.log.open("w") as log:
        root = Path(text)
        expected = undisturbed(root / "undisturbed")

        def tell(line: str) -> None:
            print(line, file=log, flush=True)
            print(line, flush=True)

        tell(f"seed {options.seed}; every round must end with the {len(expected)} rows of an undisturbed run")
        number = 0
        while sum(counts.values()) < options.faults:
            chance = random.Random(f"{options.seed}-{number}")
            other = OF_OWN_RAY if number % 4 == 3 else OF_CLUSTERS
            kinds = [name for name in FAULTS if name not in other]
            faults = chance.choices(kinds, k=options.each)
            if number % 4 == 3 and not set(faults) & set(OF_CLUSTERS):
                faults[chance.randrange(len(faults))] = "lose a node"
            started = time.monotonic()
            try:
                done = play_round(root / f"round-{number}", faults, chance, expected)
                counts.update(done)
                took = time.monotonic() - started
                tell(f"round {number:3}: whole after {took:3.0f} s and {', '.join(done) or 'nothing'}")
            except Exception as problem:
                tell(f"round {number:3}: FAILED with {', '.join(faults)}: {type(problem).__name__}: {problem}")
                sys.exit(1)
            number += 1
        tell(f"{sum(counts.values())} faults in {number} rounds, none of which left a trace:")
        for name, count in sorted(counts.items(), key=lambda item: -item[1]):
            tell(f"  {count:3}  {name}")


if __name__ == "__main__":
    main()

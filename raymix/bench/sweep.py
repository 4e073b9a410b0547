"""`raymix bench sweep`: the same runs as one process each with the plain loop, and as raymix's own sweep."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from raymix.bench import machine
from raymix.types import Dataset

ALGORITHM, DATASET, SEARCHED = "td3_bc", "two-goals", "q_scale"
LOWEST, HIGHEST = 0.5, 8.0
REPORTS = 4
"""Of each of raymix's trials."""
_PSS_EVERY_S = 1.0


def measure(
    configurations: int = 16,
    seeds: int = 4,
    steps: int = 1_000,
    repeats: int = 3,
    settings: dict[str, Any] | None = None,
    capture: str = "auto",
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """TD3+BC on a toy data set (4 numbers seen and done, 256 x 256 networks): every run both ways, `repeats` times.

    The plain way is an ordinary Tune trial of one core per configuration and seed, with nothing but the plain loop of
    `raymix.bench.plain` in it. raymix also evaluates one episode per seed at each of its `REPORTS` reports, writes
    checkpoints and the ledger, and draws its report; all of it counts. Each starts its own Ray, which counts as well.

    Returns:
        `machine`, what was run, `outside` (the share of a trial's wall-clock in which it neither trained nor evaluated,
        mean over raymix's trials, median over runs), and `rows`, one per way: `way`, `seconds` (wall-clock, median),
        `peak_pss` (MB, of all processes together, the highest), `core_hours`, `ratio` (the plain way's seconds over
        these) and `runs`.
    """
    from raymix.data import catalog

    dataset = catalog.load(DATASET)
    width = (HIGHEST - LOWEST) / max(1, configurations - 1)
    values = [LOWEST + width * index for index in range(configurations)]
    fixed = {**(settings or {}), "steps": steps}
    ways: dict[str, Callable[[], None]] = {
        "plain": lambda: _plainly(values, seeds, {**fixed, "precision": "fp32"}, dataset),
        "raymix": lambda: outside.append(_raymix(values, seeds, fixed, capture)),
    }
    runs: dict[str, list[float]] = {way: [] for way in ways}
    outside: list[float] = []
    peaks: dict[str, float] = dict.fromkeys(ways, 0.0)
    for repeat in range(repeats):
        for way, go in ways.items():
            seconds, peak = _watched(go)
            runs[way].append(seconds)
            peaks[way] = max(peaks[way], peak)
            progress(f"run {repeat + 1} of {repeats}, {way}: {seconds:.0f} s, {peak:,.0f} MB")
    facts = machine.facts(torch.device("cpu"))
    medians = {way: statistics.median(each) for way, each in runs.items()}
    rows = [
        {
            "way": way,
            "seconds": seconds,
            "peak_pss": peaks[way],
            "core_hours": seconds * facts["cores"] / 3600,
            "ratio": medians["plain"] / seconds,
            "runs": runs[way],
        }
        for way, seconds in medians.items()
    ]
    return {
        "machine": facts,
        "algorithm": ALGORITHM,
        "dataset": DATASET,
        "configurations": configurations,
        "seeds": seeds,
        "steps": steps,
        "settings": settings or {},
        "outside": statistics.median(outside),
        "rows": rows,
    }


def _train_plainly(config: dict[str, Any], dataset: Dataset) -> None:
    """One run in one process, as everybody writes it."""
    from raymix.algorithms import base
    from raymix.bench.plain import PlainLoop

    torch.set_num_threads(1)
    torch.manual_seed(config["seed"])
    algorithm = base.find(ALGORITHM)
    settings = algorithm.configure(config["settings"])
    loop = PlainLoop(algorithm, settings, algorithm.phases[-1].name, dataset, torch.device("cpu"))
    loop.run(settings.steps)


def _plainly(values: list[float], seeds: int, fixed: dict[str, Any], dataset: Dataset) -> None:
    from raymix.cluster import connected

    with tempfile.TemporaryDirectory() as storage, connected(dashboard=False):
        from ray import tune

        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_train_plainly, dataset=dataset), {"cpu": 1}),
            param_space={
                "settings": tune.grid_search([{**fixed, SEARCHED: value} for value in values]),
                "seed": tune.grid_search(list(range(seeds))),
            },
            run_config=tune.RunConfig(storage_path=storage, verbose=0),
        )
        results = tuner.fit()
        if results.errors:
            raise RuntimeError(f"{len(results.errors)} of the plain runs failed; the first: {results.errors[0]}")


def _raymix(values: list[float], seeds: int, fixed: dict[str, Any], capture: str) -> float:
    """Run the sweep; returns the mean share of a trial's wall-clock outside training and evaluation."""
    from ray import tune

    from raymix import sweep
    from raymix.plan import SweepSpec

    spec = SweepSpec(
        algorithm=ALGORITHM,
        datasets=(DATASET,),
        search={SEARCHED: tune.grid_search(values)},
        settings={name: value for name, value in fixed.items() if name != "steps"},
        seeds=seeds,
        steps=fixed["steps"],
        evaluate_every=max(1, fixed["steps"] // REPORTS),
        episodes=1,
    )
    with tempfile.TemporaryDirectory() as storage, contextlib.redirect_stdout(io.StringIO()):
        report = sweep.run([spec], "bench", sweep.Options(storage, quiet=True, dashboard=False, capture=capture))
        logging.getLogger(tune.ExperimentAnalysis.__module__).setLevel(logging.ERROR)  # trials write no files of Tune's
        (folder,) = Path(report.run_dir, "trials").iterdir()
        kinds = [f"seconds/{kind}" for kind in ("training", "evaluation", "outside")]
        spent = [[last[kind] for kind in kinds] for last in tune.ExperimentAnalysis(str(folder)).results.values()]
        return statistics.mean(seconds[-1] / sum(seconds) for seconds in spent)


def _watched(go: Callable[[], None]) -> tuple[float, float]:
    """Seconds that it takes, and the highest PSS (MB) that this process and its children have together meanwhile."""
    over = threading.Event()
    seen = [machine.total_pss(os.getpid())]

    def watch() -> None:
        while not over.wait(_PSS_EVERY_S):
            seen.append(machine.total_pss(os.getpid()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    try:
        go()
        seconds = time.perf_counter() - started
    finally:
        over.set()
        watcher.join()
    return seconds, max(seen) / 1e6


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    facts = result["machine"]
    lines = [
        f"{result['configurations']} configurations of {result['algorithm']} x {result['seeds']} seeds,"
        f" {result['steps']:,} steps each, on {result['dataset']}; {facts['device']} ({facts['cores']} cores)",
        "",
        "       | seconds | ratio | peak PSS, MB | core-hours | from run to run",
        "-------+---------+-------+--------------+------------+----------------",
    ]
    lines += [
        f"{row['way']:6} | {row['seconds']:>7.1f} | {row['ratio']:>5.2f} | {row['peak_pss']:>12,.0f} |"
        f" {row['core_hours']:>10.3f} | {min(row['runs']):.1f} to {max(row['runs']):.1f}"
        for row in result["rows"]
    ]
    lines += [
        "",
        f"raymix's trials spent {100 * result['outside']:.1f} % of their wall-clock outside training and evaluation",
    ]
    return "\n".join(lines)

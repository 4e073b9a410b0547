"""`raymix bench learner`: agents trained as one program beside the plain loop, on one device, without Ray."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from raymix.algorithms import base
from raymix.bench import machine
from raymix.bench.plain import PlainLoop, flops_per_step
from raymix.data.columns import make_dataset
from raymix.learner import precision as precision_module
from raymix.learner.learner import Learner
from raymix.learner.replay import DeviceReplay
from raymix.types import Columns, Dataset, UsageError

OBSERVATION_DIM, ACTION_DIM = 17, 6
"""HalfCheetah's and Walker2d's."""
EPISODES, LENGTH = 100, 1_000
PLAIN = (0, "fp32")
"""The plain loop among the packs, which are (members, precision)."""


def measure(
    algorithm: str,
    members: Sequence[int],
    phase: str | None = None,
    device: str = "cpu",
    settings: dict[str, Any] | None = None,
    repeats: int = 5,
    seconds: float = 2.0,
    capture: str = "auto",
    precisions: Sequence[str] = ("fp32",),
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Agent-steps per second of packs of several widths and of the plain loop, by turns; medians of `repeats`.

    Args:
        algorithm: its name; the data are noise in HalfCheetah's shape.
        members: widths of the packs.
        phase: which phase trains; the last by default.
        device: of torch.
        settings: hyperparameters other than the defaults.
        repeats: how often each is measured.
        seconds: about how long each measured stretch lasts.
        capture: 'auto' compiles where there is a compiler; 'eager' never does.
        precisions: those of the packs' matrix products; the plain loop is always in fp32.
        progress: called with a line for people, now and then.

    Returns:
        `machine`, `algorithm`, `phase`, `flops_per_step`, `matmul_peak` (GFLOP/s by precision), and `rows`: each with
        `members` (0 for the plain loop), `precision`, `steps_per_second`, `ratio` to the plain loop, `share_of_peak`
        (of its precision), `compiled` and `runs`.
    """
    found, where = base.find(algorithm), torch.device(device)
    config = found.configure(settings or {})
    name = phase or found.phases[-1].name
    if name not in [stated.name for stated in found.phases]:
        known = ", ".join(stated.name for stated in found.phases)
        raise UsageError(f"{algorithm} has no phase {name!r}; it has: {known}")
    for precision in precisions:
        precision_module.require(precision, where)
    dataset = noise()
    replay = DeviceReplay(dataset, where, with_next_action=found.uses_next_actions)
    loop = PlainLoop(found, config, name, dataset, where)
    flops = flops_per_step(loop)
    progress(f"plain loop: {flops / 1e9:.3f} GFLOP per step")
    runners: dict[tuple[int, str], Callable[[int], Any]] = {PLAIN: loop.run}
    compiled = {PLAIN: False}
    for precision in precisions:
        reduced = found.configure({**(settings or {}), "precision": precision})
        for width in members:
            learner = Learner(found, reduced, name, replay, width, capture)
            for seat in range(width):
                learner.load(seat, learner.fresh(reduced, seat), reduced)
            started = time.perf_counter()
            learner.run(2 * learner.period)
            key = (width, precision)
            runners[key], compiled[key] = learner.run, learner.program.eager_reason is None
            progress(f"{width} members, {precision}: first steps after {time.perf_counter() - started:.1f} s")
    steps = {key: _steps_for(runner, seconds, where) for key, runner in runners.items()}
    rates: dict[tuple[int, str], list[float]] = {key: [] for key in runners}
    for repeat in range(repeats):
        for key, runner in runners.items():  # By turns: what else the machine does meets all alike.
            took = _seconds(runner, steps[key], where)
            rates[key].append(max(key[0], 1) * steps[key] / took)
        progress(f"run {repeat + 1} of {repeats} done")
    peaks = {precision: machine.matmul_peak(where, precision) for precision in dict.fromkeys(("fp32", *precisions))}
    plain = statistics.median(rates[PLAIN])
    rows = []
    for (width, precision), found_rates in rates.items():
        rate = statistics.median(found_rates)
        rows.append(
            {
                "members": width,
                "precision": precision,
                "steps_per_second": rate,
                "ratio": rate / plain,
                "share_of_peak": rate * flops / (peaks[precision] * 1e9),
                "compiled": compiled[width, precision],
                "runs": found_rates,
            }
        )
    return {
        "machine": machine.facts(where),
        "algorithm": algorithm,
        "phase": name,
        "flops_per_step": flops,
        "matmul_peak": peaks,
        "rows": rows,
    }


def noise() -> Dataset:
    """100,000 transitions of noise in HalfCheetah's shape."""
    generator = np.random.default_rng(0)
    rows = EPISODES * (LENGTH + 1)
    step = np.arange(rows) % (LENGTH + 1)
    timeouts = step == LENGTH - 1
    actions = generator.uniform(-1.0, 1.0, (rows, ACTION_DIM)).astype(np.float32)
    actions[step == LENGTH] = 0.0
    columns = Columns(
        observations=generator.standard_normal((rows, OBSERVATION_DIM)).astype(np.float32),
        actions=actions,
        rewards=np.where(step == LENGTH, 0.0, generator.standard_normal(rows)).astype(np.float32),
        terminals=np.zeros(rows, dtype=bool),
        timeouts=timeouts,
        episode=np.repeat(np.arange(EPISODES, dtype=np.int32), LENGTH + 1),
        source=np.zeros(rows, dtype=np.int16),
    )
    return make_dataset(columns, "bench/noise-v0", action_low=[-1.0] * ACTION_DIM, action_high=[1.0] * ACTION_DIM)


def _steps_for(runner: Callable[[int], Any], seconds: float, device: torch.device) -> int:
    trial = 10
    return max(trial, round(trial * seconds / _seconds(runner, trial, device)))


def _seconds(runner: Callable[[int], Any], steps: int, device: torch.device) -> float:
    machine.wait_for(device)
    started = time.perf_counter()
    runner(steps)
    machine.wait_for(device)
    return time.perf_counter() - started


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    facts = result["machine"]
    peaks = ", ".join(f"{peak:.0f} GFLOP/s in {precision}" for precision, peak in result["matmul_peak"].items())
    lines = [
        f"{result['algorithm']}, phase {result['phase']}, on {facts['device']} ({facts['cores']} cores,"
        f" {facts['threads']} threads), torch {facts['torch']}",
        f"{result['flops_per_step'] / 1e9:.3f} GFLOP per agent-step, matmul peak {peaks}",
        "",
        "members | precision | agent-steps/s | ratio | share of peak | from run to run",
        "--------+-----------+---------------+-------+---------------+----------------",
    ]
    for row in result["rows"]:
        name = str(row["members"]) if row["members"] else "plain"
        spread = f"{min(row['runs']):,.0f} to {max(row['runs']):,.0f}"
        eager = "" if row["compiled"] or not row["members"] else "  (uncompiled)"
        lines.append(
            f"{name:>7} | {row['precision']:9} | {row['steps_per_second']:>13,.0f} | {row['ratio']:>5.2f} |"
            f" {row['share_of_peak']:>12.0%}  | {spread}{eager}"
        )
    return "\n".join(lines)

"""Trains one configuration in this process, without Ray: `raymix train`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import raymix
from raymix import checkpoint
from raymix.data.held_out import held_out_episodes
from raymix.evaluation.policy import Policy
from raymix.evaluation.rollout import Evaluation, check_environment, evaluate
from raymix.files import AnyPath, matching, path_of, remove_tree
from raymix.job import (
    Job,
    capture_notices,
    checkpoint_of,
    find_newest,
    is_over,
    job_of,
    live_seats,
    open_ledger,
    open_pack,
    progress_of,
    record,
    score_in_words,
    summary,
)
from raymix.learner import precision
from raymix.packing.boundary import Boundary
from raymix.packing.metrics import check_metric_is_reported
from raymix.plan import SweepSpec, describe, expand, read_description, seat, settled
from raymix.report import Report, find_run, write_report
from raymix.run_folder import load_dataset, locked, new_run_folder, writable_folder
from raymix.types import Dataset, Interrupted, UsageError

KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Options:
    """How the configuration is trained."""

    device: str = "cpu"
    capture: str = "auto"
    """'auto' compiles where there is a compiler; 'eager' never does."""
    quiet: bool = False


def train(spec: SweepSpec, storage: str, options: Options) -> Report:
    """Train the one configuration of `spec`, all seeds as one program; returns the report of its run folder.

    Raises `UsageError` for what cannot be used, and `Interrupted` on Ctrl-C.
    """
    require_device(options.device)
    trials = expand(spec)
    if len(trials) != 1:
        raise UsageError(f"this names {len(trials)} configurations, train takes one; run a sweep for several")
    precision.require(trials[0].config["precision"], options.device)
    root = writable_folder(storage)
    dataset = load_dataset(trials[0].dataset, options.quiet)
    if dataset.spec.environment is not None:
        check_environment(dataset.spec)
    name = f"train-{spec.algorithm}"
    (spec,) = settled([spec], [] if dataset.spec.environment else [dataset.spec.name])
    held_out_episodes(dataset.columns, dataset.spec, spec.held_out or 0.0)  # raises where there are too few
    plan = seat(describe([spec], name, {trials[0].dataset: dataset.spec.hash}, raymix.__version__), "cpu")
    check_metric_is_reported(plan, {trials[0].dataset: dataset})
    return _train(plan, new_run_folder(root, name, plan), dataset, options)


def resume(folder: str, algorithm: str, options: Options) -> Report:
    """Go on with a run that `train` started; as `train` otherwise."""
    require_device(options.device)
    run_dir = find_run(folder)
    plan = read_description(run_dir)
    if [trial["algorithm"] for trial in plan["trials"]] != [algorithm]:
        held = f"{len(plan['trials'])} configurations of {', '.join(plan['phases'])}"
        raise UsageError(f"{run_dir} holds {held}, not one of {algorithm}; resume it by the command that started it")
    dataset = load_dataset(plan["trials"][0]["dataset"], options.quiet, plan["dataset_hashes"])
    return _train(plan, run_dir, dataset, options)


def _train(plan: dict[str, Any], run_dir: AnyPath, dataset: Dataset, options: Options) -> Report:
    job = job_of(plan, plan["trials"][0], run_dir, options.device, options.capture)
    console = Console(highlight=False, markup=False, quiet=options.quiet)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with locked(run_dir), Progress(*columns, console=console) as bar:
        pack = open_pack(job, dataset)
        writer = open_ledger(job)
        start, notices = find_newest(job)
        for notice in notices:
            console.print(notice)
        if start is not None:
            pack.restore(start)
        phases = (f"{name} {steps:,}" for name, steps in job.phases)
        console.print(f"{run_dir}\ngradient steps: {', '.join(phases)}; {len(job.seeds)} seeds")
        task = bar.add_task("loading and compiling", total=1.0)
        bar.update(task, completed=progress_of(job, start))
        over, told_how = is_over(job, start), False
        try:
            while not over:
                boundary = pack.advance()
                for notice in [] if told_how else capture_notices(job, boundary, start):
                    console.print(notice)
                rows = record(job, writer, dataset.spec, boundary, _evaluate(job, boundary))
                save(job, boundary)
                over, told_how = boundary.over, True
                told = line(summary(rows, dataset.spec), plan["metric"])
                bar.update(task, completed=boundary.progress, description=told)
                if not console.is_terminal:
                    console.print(told)
        except KeyboardInterrupt:
            command = ["raymix", "train", job.algorithm, "--resume", str(run_dir)]
            command += ["--eager"] * (options.capture == "eager")
            command += ["--device", options.device] * (options.device != "cpu")
            raise Interrupted(f"Stopped. Every report so far is saved; go on with: {shlex.join(command)}") from None
    return write_report(run_dir)


def _evaluate(job: Job, boundary: Boundary) -> dict[int, Evaluation]:
    """Evaluations by seat; none before the last phase, or where the data set has no environment."""
    if not boundary.policies or boundary.policies[0].spec["environment"] is None:
        return {}
    return {seat: evaluate(Policy(boundary.policies[seat]), job.episodes) for seat in live_seats(boundary)}


def require_device(device: str) -> None:
    """Raise `UsageError` where tensors cannot be put on the device."""
    import torch

    try:
        torch.ones(1, device=device).cpu()
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as problem:
        reason = str(problem).splitlines()[0]
        raise UsageError(
            f"device {device!r} cannot be used ({reason}); take cpu, or cuda where there is a GPU"
        ) from problem


def save(job: Job, boundary: Boundary) -> None:
    """Write a checkpoint where the sweep's would be, and drop all but the newest few."""
    folder = path_of(job.run_dir) / "trials" / "local" / job.config_id
    existing = matching(folder, "checkpoint_*")
    number = 1 + max((int(path.name.removeprefix("checkpoint_")) for path in existing), default=-1)
    fresh = folder / f"checkpoint_{number:06d}"
    fresh.mkdir(parents=True)
    checkpoint.write(fresh, checkpoint_of(job, boundary))
    for old in existing[: 1 - KEPT_CHECKPOINTS]:
        remove_tree(old)


def line(told: dict[str, Any], metric: str) -> str:
    """One report in words."""
    text = ", ".join(filter(None, [f"{told['phase']} {told['phase_step']:,}", score_in_words(told, metric)]))
    return f"{text} ({told['training/steps_per_second']:,.0f} agent-steps/s)"

"""Trains one configuration in this process, without Ray: `raymix train`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import raymix
from raymix.job import (
    Job,
    job_of,
    live_seats,
    make_rows,
    open_ledger,
    open_pack,
    restore_newest,
    summary,
    write_checkpoint,
)
from raymix.job import progress as progress_of
from raymix.plan import SweepSpec, describe, expand, read_description
from raymix.run_folder import load_dataset, locked, new_run_folder, writable_folder
from raymix.types import UsageError

if TYPE_CHECKING:
    from raymix.report import Report

KEPT_CHECKPOINTS = 2


def train(
    spec: SweepSpec,
    storage: str = "runs",
    resume: str | None = None,
    device: str = "cpu",
    capture: str = "auto",
    quiet: bool = False,
) -> Report:
    """Train the one configuration of `spec`, all seeds as one program; returns the report of its run folder.

    With `resume`, go on with the run in that folder instead. Raises `UsageError` for what cannot be used.
    """
    require_device(device)
    if resume is not None:
        run_dir = Path(resume).expanduser().resolve()
        plan = read_description(run_dir)
        if plan["algorithm"] != spec.algorithm or len(plan["trials"]) != 1:
            raise UsageError(
                f"{run_dir} holds {len(plan['trials'])} configurations of {plan['algorithm']}, not one of"
                f" {spec.algorithm}; resume it by the command that started it"
            )
        dataset = load_dataset(plan["trials"][0]["dataset"], quiet, plan["dataset_hashes"])
    else:
        (trial,) = trials = expand(spec)
        root = writable_folder(storage)
        dataset = load_dataset(trial.dataset, quiet)
        hashes = {trial.dataset: dataset.spec.hash}
        name = f"train-{spec.algorithm}"
        plan = describe(spec, name, trials, hashes, raymix.__version__)
        run_dir = new_run_folder(root, name, plan)
    with locked(run_dir):
        job = job_of(plan, plan["trials"][0], run_dir, device, capture)
        pack = open_pack(job, dataset)
        notices = restore_newest(job, pack)
        writer = open_ledger(job)
        bar = Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), disable=quiet)
        with bar:
            for notice in notices:
                bar.console.print(notice)
            task = bar.add_task("loading and compiling", total=1.0)
            while not pack.finished and not all(pack.diverged):
                boundary = pack.advance()
                evaluations = {}
                if boundary.policies and dataset.spec.environment is not None:
                    from raymix.evaluation.policy import Policy
                    from raymix.evaluation.rollout import evaluate

                    for seat in live_seats(boundary):
                        evaluations[seat] = evaluate(Policy(boundary.policies[seat]), job.episodes)
                rows = make_rows(job, dataset.spec, boundary, evaluations)
                writer.append(rows)
                save(job, pack, boundary)
                told = summary(rows, dataset.spec)
                bar.update(task, completed=progress_of(pack, boundary), description=line(told))
                if not bar.console.is_terminal and not quiet:
                    bar.console.print(line(told), highlight=False)
    from raymix.report import write_report

    return write_report(str(run_dir), select=plan["select"], metric=plan["metric"])


def require_device(device: str) -> None:
    """Raise `UsageError` where tensors cannot be put on the device."""
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as problem:
        reason = str(problem).splitlines()[0]
        raise UsageError(
            f"device {device!r} cannot be used ({reason}); take cpu, or cuda where there is a GPU"
        ) from problem


def save(job: Job, pack: Any, boundary: Any) -> None:
    """Write a checkpoint where the sweep's would be, and drop all but the newest few."""
    folder = Path(job.run_dir, "trials", "local", job.config_id)
    existing = sorted(folder.glob("checkpoint_*"))
    number = 1 + max((int(path.name.removeprefix("checkpoint_")) for path in existing), default=-1)
    fresh = folder / f"checkpoint_{number:06d}"
    fresh.mkdir(parents=True)
    write_checkpoint(fresh, job, pack, boundary)
    for old in existing[: 1 - KEPT_CHECKPOINTS]:
        shutil.rmtree(old)


def line(told: dict[str, Any]) -> str:
    """One report in words."""
    text = f"{told['phase']} {told['phase_step']:,}"
    if "evaluation/return" in told:
        text += ", return " + " ".join(f"{score:.1f}" for score in told["evaluation/returns"])
    return f"{text} ({told['training/steps_per_second']:,.0f} agent-steps/s)"

"""One trial's work apart from where it runs: what it has to do, what it writes, and how it goes on.

Shared by the Tune trainable and by `raymix train`. Imports neither torch nor ray; a pack is imported in use.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

import raymix
from raymix import checkpoint, ledger, snapshots
from raymix.files import AnyPath, matching, path_of
from raymix.report import HELD_OUT
from raymix.search.decided import read_decided
from raymix.search.halving import adds_seeds, cohort_of, parts_of, rungs_of
from raymix.search.population import NAME as GENERATIONS
from raymix.search.population import Decision, generations_of, standing
from raymix.types import Dataset, Spec, UsageError

if TYPE_CHECKING:
    from raymix.packing.boundary import Boundary
    from raymix.packing.local import LocalPack

NOT_BEGUN = [-1, 0]
"""`checkpoint.order_of` before the first report."""


@dataclass(frozen=True)
class Job:
    """One configuration to train with all its seeds, as plain data."""

    run: str
    """Name of the run."""
    run_dir: str
    """Folder that holds the run's ledger and checkpoints: a local path or a URI."""
    config_id: str
    algorithm: str
    config: dict[str, Any]
    """All hyperparameters, without the seed."""
    dataset: str
    """Canonical name."""
    seeds: list[int]
    """All of the configuration's, or those that begin together (`raymix.search.halving.Part`)."""
    report_every: int
    """Gradient steps between two reports; in the last phase each report evaluates."""
    episodes: int
    """Evaluation episodes per seed and report."""
    phases: list[tuple[str, int]]
    """Name and gradient steps of each."""
    pack: str
    """Jobs of the same one may train in the same program: the algorithm, the data and all structure fields agree."""
    widths: list[int]
    """Seats of that program, per phase."""
    shared: list[str] = field(default_factory=list)
    """A word for each phase but the last; jobs of the same one have the same phase. Empty: nothing is shared."""
    held_out: float = 0.0
    """Share of the episodes that training does not see."""
    rungs: list[int] = field(default_factory=list)
    """Steps of the last phase at which it has to be told whether to go on (`raymix.search.halving`), or is told what
    to go on with (`raymix.search.population`)."""
    cohort: str = ""
    """Those with whom it is compared there."""
    part: int = 0
    """Which of its configuration's parts its seeds are: 0, 1, ..."""
    share: float = 1.0
    """Its seeds among all of the configuration."""
    gate: int = 0
    """The rung that its configuration has to pass before it begins; 0: it begins at once."""
    population: str = ""
    """That which it is a member of, if it is."""
    parent: str | None = None
    """Configuration id of the member whose state it has taken last."""
    parent_step: int | None = None
    """When it did."""
    label: str = ""
    """What a person calls the configuration."""
    device: str = "cpu"
    capture: str = "auto"

    @property
    def name(self) -> str:
        """What its folder and its seats are called; the configuration's id, except for seeds that begin later. No such
        name begins with another."""
        return f"part{self.part}-{self.config_id}" if self.part else self.config_id


def job_of(plan: dict[str, Any], trial: dict[str, Any], run_dir: AnyPath, device: str, capture: str) -> Job:
    """One of a plan's trials (`raymix.plan.seat`) as a job with all its seeds; `UsageError` where the run is older than
    packs."""
    if "widths" not in trial:
        raise UsageError(
            f"{run_dir} was started by a raymix that trained every trial on its own, so this one cannot go on with it;"
            f" its results so far are whole: `raymix report {shlex.quote(str(run_dir))}`"
        )
    return Job(
        run=run_dir.name,
        run_dir=str(run_dir),
        config_id=trial["config_id"],
        algorithm=trial["algorithm"],
        config=trial["config"],
        dataset=trial["dataset"],
        seeds=plan["seeds"],
        report_every=trial["evaluate_every"],
        episodes=plan["episodes"],
        phases=[(name, trial["config"][steps]) for name, steps in plan["phases"][trial["algorithm"]]],
        pack=trial["pack"],
        widths=trial["widths"],
        shared=trial["shared"],
        held_out=plan.get("held_out", 0.0),  # runs from before there was one
        rungs=[*rungs_of(plan, trial), *generations_of(plan, trial)],
        cohort=cohort_of(plan, trial),
        population=trial.get("population", ""),
        label=trial["label"],
        device=device,
        capture=capture,
    )


def jobs_of(plan: dict[str, Any], trial: dict[str, Any], run_dir: AnyPath, device: str, capture: str) -> list[Job]:
    """One of a plan's trials as jobs, one for each part of its seeds that begins by itself; as `job_of` otherwise."""
    whole = job_of(plan, trial, run_dir, device, capture)
    if not adds_seeds(plan):
        return [whole]
    return [
        dataclasses.replace(
            whole,
            seeds=part.seeds,
            rungs=part.rungs,
            part=number,
            share=len(part.seeds) / len(whole.seeds),
            gate=part.gate,
            # Who shares a phase has the same seeds in it.
            shared=[f"{word}-part{number}" if number else word for word in whole.shared],
        )
        for number, part in enumerate(parts_of(plan, trial))
    ]


def open_pack(job: Job, dataset: Dataset) -> LocalPack:
    """The job's members in this process, at their very beginning."""
    from raymix.algorithms import base
    from raymix.packing.local import LocalPack

    config = base.find(job.algorithm).configure(job.config)
    return LocalPack(
        job.algorithm,
        config,
        job.seeds,
        dataset,
        job.report_every,
        device=job.device,
        capture=job.capture,
        held_out=job.held_out,
    )


def find_newest(job: Job, *more: AnyPath) -> tuple[checkpoint.Checkpoint | None, list[str]]:
    """The newest whole checkpoint, if there is one, and sentences for the user about damaged ones.

    A checkpoint beyond a gap in the ledger is passed over: the missing rows are made again by training.
    """
    found, problems = checkpoint.newest([*checkpoint_folders(job), *more], limit=reported(job)[0])
    if found is not None and checkpoint.order_of(found.state) == NOT_BEGUN:
        found = None
    return found, [f"Skipped a damaged checkpoint: {problem}." for problem in problems]


def capture_notices(job: Job, at: Boundary, start: checkpoint.Checkpoint | None) -> list[str]:
    """What the user must know of how the first report after a start was trained."""
    notices = []
    if at.eager_reason and job.capture == "auto":
        notices.append(f"Training runs uncompiled, about half as fast: {at.eager_reason}.")
    if start is not None and start.state["compiled"] != (at.eager_reason is None):
        now, before = ("uncompiled", "compiled") if at.eager_reason else ("compiled", "uncompiled")
        notices.append(f"Goes on {now} with what was trained {before}: scores may differ a little from one run.")
    return notices


def is_over(job: Job, start: checkpoint.Checkpoint | None) -> bool:
    """Whether nothing is left to train after a checkpoint."""
    if start is None:
        return False
    name, steps = job.phases[-1]
    finished = start.state["phase"] == name and start.state["step"] >= steps
    return finished or all(start.state["diverged"])


def rung_at(job: Job, start: checkpoint.Checkpoint | None) -> int | None:
    """The rung at which a checkpoint was taken, or that is to be passed before the beginning; None if there is none."""
    if start is None:
        return job.gate or None
    if start.state["phase"] != job.phases[-1][0]:
        return None
    return start.state["step"] if start.state["step"] in job.rungs else None


def progress_of(job: Job, start: checkpoint.Checkpoint | None) -> float:
    """Share of all phases' gradient steps that are done."""
    if start is None:
        return 0.0
    before = sum(steps for _, steps in job.phases[: start.state["phase_index"]])
    return (before + start.state["step"]) / sum(steps for _, steps in job.phases)


def report_points(job: Job) -> list[tuple[str, int]]:
    """(phase, step) of every report of an undisturbed run, in order."""
    points = []
    for name, total in job.phases:
        points += [(name, step) for step in range(job.report_every, total, job.report_every)]
        points.append((name, total))
    return points


def reported(job: Job) -> tuple[list[int], bool]:
    """The last report up to which the ledger has every row, and whether nothing is to come after it.

    The report is told as `checkpoint.order_of` does; before the first it is `NOT_BEGUN`. Training ends with the last
    phase, or where all seeds have diverged.
    """
    folder = ledger_folder(job)
    table = ledger.read(folder, job.config_id, ["diverged"]) if folder.is_dir() else None
    return _reported(job, [] if table is None else table.to_pylist())


def is_at_end(job: dict[str, Any]) -> bool:
    """Whether the ledger says that nothing comes after the last report of a job, as plain data."""
    return reported(Job(**job))[1]


def finished(jobs: Sequence[Job]) -> set[str]:
    """Names of those of a run's jobs after whose last report in the ledger nothing is to come."""
    folder = ledger_folder(jobs[0]) if jobs else None
    if folder is None or not folder.is_dir():
        return set()
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in ledger.read(folder, None, ["diverged"]).to_pylist():
        rows.setdefault(row["config_id"], []).append(row)
    return {job.name for job in jobs if _reported(job, rows.get(job.config_id, ()))[1]}


def _reported(job: Job, rows: Iterable[Mapping[str, Any]]) -> tuple[list[int], bool]:
    """`reported` from the job's rows in the ledger: phase, step, seed, diverged."""
    until, points = list(NOT_BEGUN), report_points(job)
    found: dict[tuple[str, int], dict[int, bool]] = {}
    for row in rows:
        if row["seed"] in job.seeds:
            found.setdefault((row["phase"], row["step"]), {})[row["seed"]] = row["diverged"]
    phases = list(dict.fromkeys(phase for phase, _ in points))
    for phase, step in points:
        seeds = found.get((phase, step), {})
        if not seeds.keys() >= set(job.seeds):
            return until, False
        until = [phases.index(phase), step]
        if all(seeds.values()):
            break
    return until, True


def ledger_folder(job: Job) -> AnyPath:
    """The run's ledger."""
    return path_of(job.run_dir) / "ledger"


def open_ledger(job: Job) -> ledger.LedgerWriter:
    """The job's writer, as the next attempt at it."""
    folder = ledger_folder(job)
    attempt = ledger.next_attempt(folder, job.config_id, job.part)
    return ledger.LedgerWriter(folder, job.config_id, attempt, job.part)


def checkpoint_folders(job: Job) -> list[AnyPath]:
    """All checkpoints that any attempt at this run made of this job, whole or not."""
    return matching(path_of(job.run_dir) / "trials", f"*/{job.name}*/checkpoint_*")


def exchange_folder(job: Job, step: int, config_id: str) -> AnyPath:
    """What a member of a population leaves at a generation."""
    return path_of(job.run_dir) / "generations" / str(step) / config_id


def leave_for_others(job: Job, state: checkpoint.Checkpoint) -> None:
    """Put a member's state where others may copy it; to be called before anybody is told that it has come there."""
    folder = exchange_folder(job, state.state["step"], job.config_id)
    try:  # training is repeatable, so what it left in an earlier attempt is the same
        checkpoint.read(folder)
    except checkpoint.DamagedCheckpoint:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write(folder, state)


def in_population(job: Job, start: checkpoint.Checkpoint) -> tuple[Job, checkpoint.Checkpoint]:
    """The job with the hyperparameters that it goes on with after a checkpoint, and the state that it goes on from.

    At a generation in which it copies, that is the parent's: networks, optimisers and divergence, and nothing else.

    Raises:
        RuntimeError: the parent's state is not there any more.
    """
    if start.state["phase"] != job.phases[-1][0]:
        return job, start
    decided = [Decision.of(line) for line in read_decided(path_of(job.run_dir), GENERATIONS)[0]]
    decided = [decision for decision in decided if decision.population == job.population]
    found = standing(decided, job.config_id, step := start.state["step"])
    if found is None:
        return job, start
    copy, since = found
    job = dataclasses.replace(job, config={**job.config, **copy.values}, parent=copy.parent, parent_step=since)
    if since < step:
        return job, start
    parent = dataclasses.replace(job, config_id=copy.parent)
    folders = [exchange_folder(job, step, copy.parent), *checkpoint_folders(parent)]
    order = checkpoint.order_of(start.state)
    taken, problems = checkpoint.newest([folder for folder in folders if folder.is_dir()], limit=order)
    if taken is None or checkpoint.order_of(taken.state) != order:
        raise RuntimeError(
            f"at step {step:,} it takes the state of {copy.parent}, and no whole copy of that is left in {folders[0]}"
            f" ({'; '.join(problems) or 'it is gone'}); restore the folder from a copy, or start the sweep anew"
        )
    state = {**start.state, "diverged": taken.state["diverged"]}
    return job, checkpoint.Checkpoint(state, taken.members)


def live_seats(boundary: Boundary) -> list[int]:
    """Seats whose losses have been finite so far; the others have no policy worth playing."""
    return [seat for seat, diverged in enumerate(boundary.diverged) if not diverged]


def not_begun(job: Job) -> checkpoint.Checkpoint:
    """What there is to keep of a job that waits to begin."""
    phase, step = NOT_BEGUN
    return checkpoint.Checkpoint({"config_id": job.config_id, "phase_index": phase, "step": step, "seeds": []}, [])


def checkpoint_of(job: Job, at: Boundary) -> checkpoint.Checkpoint:
    """The members' states at a boundary, with all that going on from there needs."""
    state = {
        "config_id": job.config_id,
        "algorithm": job.algorithm,
        "config": job.config,
        "dataset": job.dataset,
        "spec": at.spec,
        "phase": at.phase,
        "phase_index": [name for name, _ in job.phases].index(at.phase),
        "step": at.step,
        "seeds": at.seeds,
        "diverged": at.diverged,
        "compiled": at.eager_reason is None,
        "agent_seconds": at.agent_seconds,
    }
    return checkpoint.Checkpoint(state, at.states)


def record(
    job: Job, writer: ledger.LedgerWriter, spec: Spec, at: Boundary, evaluations: dict[int, Any]
) -> list[ledger.Row]:
    """Write down a report, after those that were not handed out on their own; returns its rows.

    `evaluations` by seat.
    """
    for report in (*at.earlier, at):
        write_snapshots(job, report)
    rows = [make_rows(job, spec, report, {}) for report in at.earlier]
    rows.append(make_rows(job, spec, at, evaluations))
    writer.append(row for report_rows in rows for row in report_rows)
    return rows[-1]


def write_snapshots(job: Job, at: Boundary) -> None:
    """Keep the parameters that the algorithm names, of every seed. To be called before the report's ledger rows."""
    for seed, arrays in zip(at.seeds, at.snapshots):
        if arrays:
            snapshots.write(path_of(job.run_dir), job.config_id, at.phase, at.step, seed, arrays)


def make_rows(job: Job, spec: Spec, boundary: Boundary, evaluations: dict[int, Any]) -> list[ledger.Row]:
    """One ledger row per seed; `evaluations` by seat."""
    rows = []
    for seat, seed in enumerate(job.seeds):
        evaluation = evaluations.get(seat)
        rows.append(
            ledger.Row(
                run=job.run,
                seed=seed,
                phase=boundary.phase,
                step=boundary.step,
                dataset=spec.name,
                dataset_hash=spec.hash,
                algorithm=job.algorithm,
                config=job.config,
                parent=job.parent,
                parent_step=job.parent_step,
                returns=tuple(evaluation.returns) if evaluation else (),
                lengths=tuple(evaluation.lengths) if evaluation else (),
                metrics=boundary.metrics[seat],
                diverged=boundary.diverged[seat],
                agent_seconds=boundary.agent_seconds,
                wall_time=time.time(),
                version=raymix.__version__,
                reference_min=spec.reference_min,
                reference_max=spec.reference_max,
            )
        )
    return rows


def summary(rows: list[ledger.Row], spec: Spec) -> dict[str, Any]:
    """What Tune is told of a report: statistics over the live seeds."""
    live = [row for row in rows if not row.diverged]
    told: dict[str, Any] = {
        "phase": rows[0].phase,
        "phase_step": rows[0].step,
        "seeds_left": len(live),
        "agent_seconds": rows[0].agent_seconds,
    }
    for name in rows[0].metrics:
        of_seeds = [row.metrics[name] for row in live or rows]
        told[name if name.startswith(HELD_OUT) else f"training/{name}"] = _mean(of_seeds)
    scores = [float(np.mean(row.returns)) for row in live if row.returns]
    if scores:
        told |= {f"evaluation/{name}": function(scores) for name, function in _STATISTICS.items()}
        # One entry per seed in order; NaN for a diverged one, so that a score cannot pass for another seed's.
        told["evaluation/returns"] = [float(np.mean(row.returns)) if row.returns else math.nan for row in rows]
        if (score := spec.normalized_score(_mean(scores))) is not None:
            told["evaluation/normalized_score"] = score
    return told


def in_words(scores: list[float]) -> str:
    """Scores per seed, for people; NaN is a diverged seed."""
    return " ".join("diverged" if math.isnan(score) else f"{score:.1f}" for score in scores)


def score_in_words(told: Mapping[str, Any], metric: str) -> str:
    """Of a report (`summary`), for people: what its sweep is judged by, or the returns that this is made of; empty
    where the report has none. Held-out losses are known as means over seeds."""
    if metric.startswith(HELD_OUT):
        return f"held-out {metric.removeprefix(HELD_OUT)} {told[metric]:.4g}" if metric in told else ""
    return f"return {in_words(told['evaluation/returns'])}" if "evaluation/returns" in told else ""


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _interquartile_mean(values: list[float]) -> float:
    from raymix.report.statistics import interquartile_mean

    return interquartile_mean(values)


_STATISTICS: dict[str, Callable[[list[float]], float]] = {
    "return": _mean,
    "return_iqm": _interquartile_mean,
    "return_min": min,
    "return_max": max,
}

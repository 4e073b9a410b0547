"""Runs a sweep on Ray Tune to its end, or goes on with one that was stopped or killed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import raymix
from raymix import ledger
from raymix.job import job_of
from raymix.plan import SweepSpec, describe, expand, read_description
from raymix.run_folder import load_dataset, locked, new_run_folder, writable_folder
from raymix.types import Dataset, UsageError

if TYPE_CHECKING:
    from raymix.cluster import Cluster
    from raymix.report import Report


class SweepFailed(Exception):
    """Trials failed; the message says which and why."""


class Interrupted(Exception):
    """The sweep was stopped by a signal; everything reported is saved and the message says how to go on."""


@dataclass(frozen=True)
class Options:
    """How a sweep is run, as far as it does not change its results."""

    storage: str = "runs"
    """Folder of the runs."""
    address: str | None = None
    """A Ray cluster, or None for a Ray of the sweep's own."""
    quiet: bool = False
    dashboard: bool = True
    capture: str = "auto"
    """'auto' compiles where there is a compiler; 'eager' never does."""


def run(spec: SweepSpec, name: str, options: Options) -> Report:
    """Run a sweep to its end, in a new folder; returns its report.

    Raises:
        UsageError: the specification, the storage or the address cannot be used; nothing was written.
        SweepFailed: trials failed more often than they are retried.
        Interrupted: SIGINT or SIGTERM.
    """
    trials = expand(spec)
    root = writable_folder(options.storage)
    datasets = {name: load_dataset(name, options.quiet) for name in dict.fromkeys(trial.dataset for trial in trials)}
    hashes = {dataset: loaded.spec.hash for dataset, loaded in datasets.items()}
    plan = describe(spec, name, trials, hashes, raymix.__version__)
    with _ready(plan, datasets, options) as cluster:
        run_dir = new_run_folder(root, name, plan)
        return _carry_out(plan, run_dir, plan["trials"], datasets, cluster, options)


def resume(folder: str, options: Options) -> Report:
    """Go on with the run in `folder` until all its trials are done; as `run` otherwise."""
    run_dir = Path(folder).expanduser().resolve()
    plan = read_description(run_dir)
    finished = finished_trials(plan, run_dir)
    missing = [trial for trial in plan["trials"] if trial["config_id"] not in finished]
    if not missing:
        return _report(plan, run_dir)
    hashes = plan["dataset_hashes"]
    datasets = {dataset: load_dataset(dataset, options.quiet, hashes) for dataset in hashes}
    with _ready(plan, datasets, options) as cluster:
        return _carry_out(plan, run_dir, missing, datasets, cluster, options)


@contextlib.contextmanager
def _ready(plan: dict[str, Any], datasets: dict[str, Dataset], options: Options) -> Iterator[Cluster]:
    """A Ray on which the plan can run; all that may be wrong is said here, before anything is written."""
    from raymix.cluster import connected

    for dataset, loaded in datasets.items():
        if loaded.spec.environment is None:
            raise UsageError(f"data set {dataset} has no environment to evaluate in; choose one that has")
    with connected(options.address, dashboard=options.dashboard) as cluster:
        cpus, gpus = resources_per_trial(plan, cluster)
        if cpus > cluster.cpus or gpus > cluster.gpus:
            raise UsageError(
                f"a trial asks for {cpus:g} CPUs and {gpus:g} GPUs, this Ray has {cluster.cpus} and {cluster.gpus};"
                " ask for less in the sweep, or run it on a larger cluster"
            )
        yield cluster


def resources_per_trial(plan: dict[str, Any], cluster: Cluster) -> tuple[float, float]:
    """CPUs and GPUs that each trial asks for; unless the sweep says, a whole GPU where the cluster has any."""
    gpus = plan["gpus_per_trial"]
    return plan["cpus_per_trial"], (1.0 if cluster.gpus else 0.0) if gpus is None else gpus


def _carry_out(
    plan: dict[str, Any],
    run_dir: Path,
    missing: list[dict[str, Any]],
    datasets: dict[str, Dataset],
    cluster: Cluster,
    options: Options,
) -> Report:
    how_to_resume = f"{' '.join(command_line())} --resume {run_dir}"
    with locked(run_dir), sigterm_as_sigint():
        problems = _run_trials(plan, run_dir, missing, datasets, cluster, options)
    if problems:
        raise SweepFailed("\n".join([*problems, f"Results so far are kept; try again with: {how_to_resume}"]))
    if {trial["config_id"] for trial in missing} - finished_trials(plan, run_dir):
        raise Interrupted(f"Stopped. Every report so far is saved; go on with: {how_to_resume}")
    return _report(plan, run_dir)


def _report(plan: dict[str, Any], run_dir: Path) -> Report:
    from raymix.report import write_report

    return write_report(str(run_dir), select=plan["select"], metric=plan["metric"])


def _run_trials(
    plan: dict[str, Any],
    run_dir: Path,
    missing: list[dict[str, Any]],
    datasets: dict[str, Dataset],
    cluster: Cluster,
    options: Options,
) -> list[str]:
    """Run the missing trials with Tune; returns one sentence per failed trial."""
    from ray import tune

    from raymix.data.store import ReplayStore
    from raymix.evaluation.pool import RolloutPool
    from raymix.progress import Progress
    from raymix.trainable import Member

    attempt = 1 + sum(1 for _ in (run_dir / "trials").glob("attempt-*"))
    unique = f"{run_dir.name}-{attempt}"
    store = ReplayStore.create(f"raymix-store-{unique}")
    for dataset in dict.fromkeys(trial["dataset"] for trial in missing):
        store.add(datasets[dataset])
    pool = RolloutPool.create(f"raymix-rollouts-{unique}", size=max(1, cluster.cpus // 4))
    cpus, gpus = resources_per_trial(plan, cluster)
    device = "cuda" if gpus else "cpu"
    jobs = [
        dataclasses.asdict(job_of(plan, trial, run_dir, device=device, capture=options.capture)) for trial in missing
    ]
    labels = trial_labels(plan)
    header = [
        f"{plan['sweep']}: {len(labels)} trials of {plan['algorithm']}, {len(plan['seeds'])} seeds each,"
        f" on {cluster.cpus} CPUs and {cluster.gpus} GPUs",
        f"results   {run_dir}",
        *([f"dashboard {cluster.dashboard}  (its token: ray get-auth-token)"] if cluster.dashboard else []),
    ]
    done_before = sorted(labels.keys() - {trial["config_id"] for trial in missing})
    progress = Progress(labels, done_before, header, options.quiet)
    tuner = tune.Tuner(
        tune.with_resources(Member, {"cpu": cpus, **({"gpu": gpus} if gpus else {})}),
        param_space={
            "job": tune.grid_search(jobs),
            "store": store.name,
            "rollouts": pool.name,
            "rollout_actors": pool.size,
        },
        tune_config=tune.TuneConfig(
            reuse_actors=True,  # a process start costs seconds, a reset none
            trial_name_creator=trial_folder,
            trial_dirname_creator=trial_folder,
        ),
        run_config=tune.RunConfig(
            name=f"attempt-{attempt}",
            storage_path=str(run_dir / "trials"),
            callbacks=[progress],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=3),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2, checkpoint_frequency=1, checkpoint_at_end=True),
        ),
    )
    try:
        results = tuner.fit()
    finally:
        progress.stop()
    last_lines = dict.fromkeys(str(error).strip().splitlines()[-1] for error in results.errors)
    return [f"A trial failed: {line}" for line in last_lines]


def trial_folder(trial: Any) -> str:
    """Trials are filed by configuration, so that a later attempt finds their checkpoints."""
    return trial.config["job"]["config_id"]


def trial_labels(plan: dict[str, Any]) -> dict[str, str]:
    """What a person reads for each configuration id; the data set is named only where there are several."""
    several = len(plan["dataset_hashes"]) > 1
    return {
        trial["config_id"]: f"{trial['dataset']}: {trial['label']}" if several else trial["label"]
        for trial in plan["trials"]
    }


def finished_trials(plan: dict[str, Any], run_dir: Path) -> set[str]:
    """Configuration ids whose every seed has its last row in the ledger (or has diverged)."""
    from raymix.algorithms import base

    folder = run_dir / "ledger"
    if not folder.is_dir():
        return set()
    last_phase = base.find(plan["algorithm"]).phases[-1]
    reached: dict[str, set[int]] = {}
    for row in ledger.rows(ledger.read(str(folder))):
        if row.diverged or (row.phase == last_phase.name and row.step >= row.config[last_phase.steps]):
            reached.setdefault(row.config_id, set()).add(row.seed)
    return {config_id for config_id, seeds in reached.items() if seeds >= set(plan["seeds"])}


@contextlib.contextmanager
def sigterm_as_sigint() -> Iterator[None]:
    """Let SIGTERM end the sweep as Ctrl-C does: Tune saves on SIGINT only."""
    try:
        before = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    except ValueError:  # not in the main thread: signals are somebody else's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def command_line() -> list[str]:
    """How this program was called, without its arguments."""
    program = sys.argv[0]
    return ["python", os.path.relpath(program)] if program.endswith(".py") else [os.path.basename(program)]

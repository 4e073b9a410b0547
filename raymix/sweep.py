"""Runs a sweep on Ray Tune to its end, or goes on with one that was stopped or killed."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import raymix
from raymix import ledger
from raymix.data.held_out import held_out_episodes
from raymix.files import AnyPath, matching, remove_tree
from raymix.job import Job, finished, is_at_end, job_of, jobs_of
from raymix.plan import SweepSpec, describe, expand, read_description, seat, settled
from raymix.remote import RemotePath
from raymix.run_folder import load_dataset, locked, new_run_folder, writable_folder
from raymix.search.halving import STOP, halving_of, ladders_of
from raymix.search.truth import total_trials, undecided
from raymix.types import Dataset, Interrupted, Spec, SweepFailed, UsageError
from raymix.watching import require

if TYPE_CHECKING:
    from ray import tune
    from ray.tune.schedulers import TrialScheduler

    from raymix.cluster import Cluster
    from raymix.report import Report


@dataclass(frozen=True)
class Options:
    """How a sweep is run, as far as it does not change its results."""

    storage: str = "runs"
    """Folder of the runs: a local path or a URI."""
    address: str | None = None
    """A Ray cluster, or None for a Ray of the sweep's own."""
    quiet: bool = False
    dashboard: bool = True
    capture: str = "auto"
    """'auto' compiles where there is a compiler; 'eager' never does."""
    environment_patience_s: float = 120.0
    """Seconds without a step after which an environment counts as hanging; a first import and building one fit in."""
    deadline: float | None = None
    """`time.monotonic()` at which the sweep ends with a report of what there is; None: it trains to the end."""
    log_to: tuple[str, ...] = ()
    """Trackers that are told of the trials (`raymix.watching.TRACKERS`)."""
    command: tuple[str, ...] = ()
    """How to call what runs this sweep, without options; empty: as this program was called."""


def run(specs: Sequence[SweepSpec], name: str, options: Options) -> Report:
    """Run one or several specifications as one sweep to its end, in a new folder; returns its report.

    Raises:
        UsageError: a specification, the storage or the address cannot be used; nothing was written.
        SweepFailed: trials failed more often than they are retried.
        Interrupted: SIGINT or SIGTERM.
    """
    from raymix.learner import precision as precisions
    from raymix.packing.metrics import check_metric_is_reported
    from raymix.packing.sharing import share_phases
    from raymix.search.warm import warm_started

    trials = expand(*specs)
    root = writable_folder(options.storage)
    datasets = {name: load_dataset(name, options.quiet) for name in dict.fromkeys(trial.dataset for trial in trials)}
    hashes = {dataset: loaded.spec.hash for dataset, loaded in datasets.items()}
    specs = settled(specs, [name for name, loaded in datasets.items() if loaded.spec.environment is None])
    plan = warm_started(describe(specs, name, hashes, raymix.__version__))
    check_metric_is_reported(plan, datasets)
    with _ready(plan, datasets, options, root) as cluster:
        device = "cuda" if resources_per_pack(plan, cluster)[1] else "cpu"
        if device == "cpu" and options.address is None:  # elsewhere a pack finds out
            for precision in {trial.config["precision"] for trial in trials}:
                precisions.require(precision, device)
        plan = seat(plan, device)
        plan = share_phases(plan, datasets)
        run_dir = new_run_folder(root, name, plan)
        return _carry_out(plan, run_dir, plan["trials"], datasets, cluster, options)


def resume(folder: str, name: str, options: Options) -> Report:
    """Go on with the run in `folder` (or the newest one in a storage root) until all its trials are done."""
    from raymix.report import find_run

    run_dir = find_run(folder)
    plan = read_description(run_dir)
    if plan["sweep"].removesuffix("-smoke") != name:
        raise UsageError(f"{run_dir} was started by {plan['sweep']}, not by {name}; resume it by what started it")
    finished = finished_trials(plan, run_dir)
    missing = [trial for trial in plan["trials"] if trial["config_id"] not in finished]
    over = not missing and not undecided(plan)
    if over and not options.log_to:
        return _report(run_dir)
    hashes = plan["dataset_hashes"]
    datasets = {dataset: load_dataset(dataset, options.quiet, hashes) for dataset in hashes}
    with _ready(plan, datasets, options, run_dir) as cluster:
        if over:
            with locked(run_dir):
                _tell_trackers(plan, run_dir, datasets, options)
            return _report(run_dir)
        return _carry_out(plan, run_dir, missing, datasets, cluster, options)


@contextlib.contextmanager
def _ready(plan: dict[str, Any], datasets: dict[str, Dataset], options: Options, storage: AnyPath) -> Iterator[Cluster]:
    """A Ray on which the plan can run; all that may be wrong is said here, before anything is written."""
    from raymix.cluster import connected

    require(options.log_to, storage)
    _check_data(plan, datasets)
    with connected(options.address, dashboard=options.dashboard) as cluster:
        cpus, gpus = resources_per_pack(plan, cluster)
        if cpus > cluster.cpus or gpus > cluster.gpus:
            raise UsageError(
                f"a pack asks for {cpus:g} CPUs and {gpus:g} GPUs, this Ray has {cluster.cpus} and {cluster.gpus};"
                " ask for less in the sweep, or run it on a larger cluster"
            )
        yield cluster


def _check_data(plan: dict[str, Any], datasets: dict[str, Dataset]) -> None:
    """On its own, so that nothing here holds a data set while the sweep runs."""
    from raymix.evaluation.rollout import check_environment

    for loaded in datasets.values():
        if loaded.spec.environment is not None:
            check_environment(loaded.spec)
        held_out_episodes(loaded.columns, loaded.spec, plan.get("held_out", 0.0))  # raises where there are too few


def resources_per_pack(plan: dict[str, Any], cluster: Cluster) -> tuple[float, float]:
    """CPUs and GPUs that a pack trains on; unless the sweep says, a whole GPU where the cluster has any."""
    gpus = plan["gpus_per_pack"]
    return plan["cpus_per_pack"], (1.0 if cluster.gpus else 0.0) if gpus is None else gpus


def resources_per_trial(job: dict[str, Any], cpus: float, gpus: float) -> tune.PlacementGroupFactory:
    """A trial's share of its pack's device, so that Ray has room for as many trials as there are seats."""
    from ray import tune

    together = max(job["widths"]) // len(job["seeds"])
    # Ray counts in ten-thousandths; rounded down, all shares of one device fit on it.
    shares = {"CPU": math.floor(1e4 * cpus / together) / 1e4, "GPU": math.floor(1e4 * gpus / together) / 1e4}
    return tune.PlacementGroupFactory([{name: share for name, share in shares.items() if share}])


def _carry_out(
    plan: dict[str, Any],
    run_dir: AnyPath,
    missing: list[dict[str, Any]],
    datasets: dict[str, Dataset],
    cluster: Cluster,
    options: Options,
) -> Report:
    patience = options.environment_patience_s
    flags = [
        *(["--address", options.address] if options.address else []),
        *(["--eager"] * (options.capture == "eager")),
        *(["--no-dashboard"] * (not options.dashboard)),
        *([f"--environment-patience={patience:g}s"] * (patience != Options.environment_patience_s)),
        *(f"--log-to={tracker}" for tracker in options.log_to),
    ]
    how_to_resume = shlex.join([*(options.command or command_line()), "--resume", str(run_dir), *flags])
    stopped = f"Stopped. Every report so far is saved; go on with: {how_to_resume}"
    try:
        with locked(run_dir), sigterm_as_sigint():
            problems = _run_trials(plan, run_dir, missing, datasets, cluster, options)
    except KeyboardInterrupt:  # before Tune minds signals itself, or a second one while it saves
        raise Interrupted(stopped) from None
    if problems:
        raise SweepFailed("\n".join([*problems, f"Results so far are kept; try again with: {how_to_resume}"]))
    left = {trial["config_id"] for trial in plan["trials"]} - finished_trials(plan, run_dir)
    if unfinished := len(left) + undecided(plan):
        if options.deadline is None or time.monotonic() < options.deadline:
            raise Interrupted(stopped)
        told = f"The time is up with {unfinished} trials unfinished; go on with: {how_to_resume}"
        if not matching(run_dir, "ledger/*.parquet"):  # no result to make a report of
            raise Interrupted(told)
        print(told, file=sys.stderr)
    elif plan.get("population"):  # nobody copies any more
        with contextlib.suppress(FileNotFoundError):
            remove_tree(run_dir / "generations")
    return _report(run_dir)


def _tell_trackers(plan: dict[str, Any], run_dir: AnyPath, datasets: dict[str, Dataset], options: Options) -> None:
    """Tell the trackers of a run that is over."""
    from raymix.watching.trackers import Tracking, trackers_of

    trackers = trackers_of(options.log_to, plan, run_dir)
    labels = trial_labels(plan)
    specs = {name: loaded.spec for name, loaded in datasets.items()}
    done = [job.name for job in all_jobs(plan, run_dir)]
    tracking = Tracking(trackers, plan, run_dir, specs, labels, done, lambda told: print(told, file=sys.stderr))
    tracking.setup()
    tracking.on_experiment_end([])
    if not options.quiet:
        print("\n".join(tracker.where_in_words for tracker in trackers))


def _report(run_dir: AnyPath) -> Report:
    from raymix.report import write_report

    return write_report(run_dir)


def _run_trials(
    plan: dict[str, Any],
    run_dir: AnyPath,
    missing: list[dict[str, Any]],
    datasets: dict[str, Dataset],
    cluster: Cluster,
    options: Options,
) -> list[str]:
    """Run the missing trials with Tune; returns one sentence per failed trial."""
    from ray import tune

    from raymix.data.store import ReplayStore
    from raymix.evaluation.pool import RolloutPool
    from raymix.packing.broker import start_broker
    from raymix.packing.sharing import SearchPlaces
    from raymix.progress import Forgetting, Progress
    from raymix.search.exchange import Exchange, PopulationScheduler
    from raymix.search.scheduler import HalvingScheduler, RankAt, ladders_in
    from raymix.search.searcher import Studies, StudySearcher
    from raymix.trainable import Member
    from raymix.watching.gauges import Gauges
    from raymix.watching.trackers import Tracking, trackers_of

    attempts = [int(path.name.removeprefix("attempt-")) for path in matching(run_dir, "trials/attempt-*")]
    attempt = 1 + max(attempts, default=0)
    unique = f"{run_dir.name}, attempt {attempt}"
    needed = dict.fromkeys(trial["dataset"] for trial in [*missing, *plan.get("studies", ())])
    store = ReplayStore.create(datasets[name] for name in needed)
    # In place: whoever called holds this dictionary too, and nobody the columns of its own that the store has by now.
    datasets.update({name: store.get(name) for name in needed})
    pool = RolloutPool.create(f"{unique}: policies are played", size=max(1, cluster.cpus // 4))
    broker_name = f"{unique}: broker of seats"
    broker = start_broker(broker_name, run_dir.name)  # lives for as long as it is held here
    cpus, gpus = resources_per_pack(plan, cluster)
    device = "cuda" if gpus else "cpu"
    labels = trial_labels(plan)
    ladders = ladders_in(plan, run_dir)
    left = unfinished_jobs(plan, run_dir, device, options.capture)
    total, at_once = total_trials(plan), math.inf
    exchange = Exchange(plan, run_dir) if plan.get("population") else None

    def tune_config_of(trial: dict[str, Any]) -> dict[str, Any]:
        labels.update(trial_labels({**plan, "trials": [trial]}))
        return {"job": dataclasses.asdict(job_of(plan, trial, run_dir, device, options.capture))}

    searcher: StudySearcher | None = None
    space: dict[str, Any] = {}
    notices = []
    if plan.get("searcher"):
        studies = Studies(plan, run_dir, SearchPlaces(plan, datasets).place, ladders)
        at_once = plan["searcher"]["at_once"] or _room(plan, cluster)
        searcher = StudySearcher(studies, missing, tune_config_of, at_once)
        if studies.torn:
            notices.append(f"The last line of {run_dir / 'trials.jsonl'} was cut off; its trial is decided again.")
    else:
        # The largest first: a long trial that starts last runs on alone while the other cores idle. Those of one pack
        # follow one another.
        # Seeds that have to wait for a rung come last.
        sizes = {trial["config_id"]: network_size(trial, datasets[trial["dataset"]].spec) for trial in missing}
        ordered = sorted(left, key=lambda job: (job.part, -sizes[job.config_id], job.pack))
        space["job"] = tune.grid_search([dataclasses.asdict(job) for job in ordered])
    trackers = trackers_of(options.log_to, plan, run_dir)
    halving = halving_of(plan)
    seeds = halving.seeds_in_words(len(plan["seeds"])) if halving else len(plan["seeds"])
    header = [
        f"{plan['sweep']}: {total} trials of {', '.join(plan['phases'])}, {seeds} seeds each,"
        f" on {cluster.cpus} CPUs and {cluster.gpus} GPUs",
        f"results   {run_dir}",
        *([f"dashboard {cluster.dashboard}  (its token: ray get-auth-token)"] if cluster.dashboard else []),
        *(tracker.where_in_words for tracker in trackers),
        *notices,
    ]
    done_before = sorted(labels.keys() - {trial["config_id"] for trial in missing})
    done_jobs = sorted({job.name for job in all_jobs(plan, run_dir)} - {job.name for job in left})
    begun = {trial["config_id"]: 1.0 for trial in missing}
    for job in left:
        begun[job.config_id] -= job.share
    progress = Progress(labels, done_before, header, options.quiet, total, begun, plan["metric"])
    gauges = Gauges(plan, run_dir, len(done_before), broker)
    specs = {name: loaded.spec for name, loaded in datasets.items()}
    tracking = Tracking(trackers, plan, run_dir, specs, labels, done_jobs, progress.tell)
    trainable: Any = tune.with_resources(
        tune.with_parameters(Member, store=store), lambda config: resources_per_trial(config["job"], cpus, gpus)
    )
    trainable.__qualname__ = "Trial"  # on Ray's dashboard and in lists of processes, instead of Tune's wrapper
    scheduler: TrialScheduler | None = HalvingScheduler(ladders, RankAt(plan), at_once) if ladders else None
    if exchange is not None:
        scheduler = PopulationScheduler(exchange.populations, exchange.rank_at, is_at_end, exchange.write)
    tuner = tune.Tuner(
        trainable,
        param_space={
            **space,
            "broker": broker_name,
            "cpus_per_pack": cpus,
            "rollouts": pool.name,
            "rollout_actors": pool.size,
            "environment_patience_s": options.environment_patience_s,
        },
        tune_config=tune.TuneConfig(
            scheduler=scheduler,
            search_alg=searcher,
            num_samples=total - len(done_before) if searcher else 1,
            reuse_actors=True,  # a process start costs seconds, a reset none
            trial_name_creator=trial_folder,
            trial_dirname_creator=trial_folder,
            time_budget_s=None if options.deadline is None else max(1.0, options.deadline - time.monotonic()),
        ),
        run_config=tune.RunConfig(
            name=f"attempt-{attempt}",
            **_storage_of(run_dir / "trials"),
            callbacks=[progress, gauges, tracking, Forgetting()],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=3),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2, checkpoint_frequency=1, checkpoint_at_end=True),
        ),
    )
    # Tune logs every failure with its traceback, across the table on the screen; they are in the trials' error.txt.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    full = []
    try:
        tuner.fit()
    except Exception:
        if not isinstance(run_dir, Path) or shutil.disk_usage(run_dir).free > 2**20:
            raise
        # Tune cannot read then what it could not write before.
        full = [f"No space left on device: the disk of {run_dir} is full; make room on it."]
    finally:
        progress.stop()
        gauges.stop()
        del broker
    folder = run_dir / "trials" / f"attempt-{attempt}"
    return full + [
        f"The trial {labels[config_id]} failed: {problem} (in full: {folder / name / 'error.txt'})"
        for name, (config_id, problem) in progress.failed.items()
    ]


def _storage_of(folder: AnyPath) -> dict[str, Any]:
    """Where Tune keeps its files, as its `RunConfig` takes it."""
    if isinstance(folder, RemotePath):
        return {"storage_path": folder.inside, "storage_filesystem": folder.filesystem}
    return {"storage_path": str(folder)}


def _room(plan: dict[str, Any], cluster: Cluster) -> int:
    """How many trials of a search train at once where it does not say: as many as there are seats for."""
    cpus, gpus = resources_per_pack(plan, cluster)
    packs = min(cluster.cpus / cpus, cluster.gpus / gpus if gpus else math.inf)
    return max(1, int(packs)) * (plan["width"] // len(plan["seeds"]))


def network_size(trial: dict[str, Any], spec: Spec) -> int:
    """Parameters of one agent: which trials take longest, near enough."""
    from raymix.algorithms import base
    from raymix.learner.networks import fresh_networks

    algorithm = base.find(trial["algorithm"])
    networks = fresh_networks(algorithm, spec, algorithm.configure(trial["config"]), seed=0)
    return sum(parameter.numel() for network in networks.values() for parameter in network.parameters())


def trial_folder(trial: Any) -> str:
    """Trials are filed by configuration and seeds, so that a later attempt finds their checkpoints."""
    return Job(**trial.config["job"]).name


def trial_labels(plan: dict[str, Any]) -> dict[str, str]:
    """What a person reads for each configuration id; data set and algorithm are named only where there are several."""
    shown = [
        name
        for name, several in (("dataset", plan["dataset_hashes"]), ("algorithm", plan["phases"]))
        if len(several) > 1
    ]
    return {trial["config_id"]: ": ".join(trial[name] for name in (*shown, "label")) for trial in plan["trials"]}


def finished_trials(plan: dict[str, Any], run_dir: AnyPath) -> set[str]:
    """Configuration ids of which the ledger has every row to the end: that of training, or where all seeds have
    diverged, or where the trial was stopped early."""
    return {trial["config_id"] for trial in plan["trials"]} - {job.config_id for job in unfinished_jobs(plan, run_dir)}


def all_jobs(plan: dict[str, Any], run_dir: AnyPath, device: str = "cpu", capture: str = "auto") -> list[Job]:
    """The jobs of all trials that are decided."""
    return [job for trial in plan["trials"] for job in jobs_of(plan, trial, run_dir, device, capture)]


def unfinished_jobs(plan: dict[str, Any], run_dir: AnyPath, device: str = "cpu", capture: str = "auto") -> list[Job]:
    """Those to which something may be added, going by the ledger."""
    jobs, folder = all_jobs(plan, run_dir, device, capture), run_dir / "ledger"
    over = finished(jobs)
    rows = ledger.rows(ledger.read(folder)) if plan.get("scheduler") and folder.is_dir() else []
    ladders = ladders_of(plan, rows)
    over_early = {trial for ladder in ladders.values() for trial in ladder.stopped()}

    def is_left(job: Job) -> bool:
        if job.name in over or job.config_id in over_early:
            return False
        return not job.gate or ladders[job.cohort].standing_at(job.config_id, job.gate) != STOP

    return list(filter(is_left, jobs))


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

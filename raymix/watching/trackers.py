"""`--log-to tensorboard | mlflow | wandb`: every trial as a run there, by Tune's own loggers.

A run has the trial's label as its name, the algorithm's hyperparameters, the data set and the seeds as its parameters,
and what the trial reported against its gradient steps, over all phases.

The ledger is what counts. A tracker is told whatever the ledger has and it has not: reports that were made while it was
not asked for, that other trials made of a phase that is shared, or that a kill kept from it. So a resumed sweep goes on
with the same runs, in which nothing is missing and nothing is there twice.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.logger import LoggerCallback

from raymix import ledger
from raymix.files import AnyPath
from raymix.job import Job, jobs_of, ledger_folder, report_points, summary
from raymix.report import HELD_OUT
from raymix.types import Spec
from raymix.watching import TRACKERS

AT_ONCE = 8
"""Finished trials that are told again together; Tune starts a process for each run in W&B."""


@dataclass(eq=False)
class Shown:
    """A trial as Tune's loggers see one."""

    name: str
    trial_id: str
    """The same in every attempt at the run, and in no other run."""
    config: dict[str, Any]
    folder: Path
    experiment_dir_name: str

    @property
    def evaluated_params(self) -> dict[str, Any]:
        return self.config

    @property
    def local_path(self) -> str:
        return str(self.folder)

    def init_local_path(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return self.name


class Tracker:
    """One of the tools; `begin` a trial, `report` in order of the steps, and `end` it or `leave` it for a resume."""

    name: str
    where: str
    """How to look at it."""
    logger: LoggerCallback

    def __init__(self, folder: Path) -> None:
        """`folder` is the tool's own in the run."""
        self.folder, self._told = folder, folder / "told"

    @property
    def where_in_words(self) -> str:
        """A line for the user."""
        return f"{TRACKERS[self.name][0]}: {self.where}"

    def folder_of(self, name: str) -> Path:
        """Where a trial's files go."""
        return self.folder / name

    def begin(self, trial: Shown) -> set[int]:
        """Open the trial's run; returns the steps that it has already."""
        (self._told / trial.trial_id).unlink(missing_ok=True)
        self.logger.log_trial_start(trial)  # type: ignore[arg-type]
        return set()

    def report(self, trial: Shown, step: int, values: dict[str, float], moment: float) -> None:
        """Tell what was reported at a gradient step; `moment` in Unix seconds."""
        # Tune's loggers put a result at its iteration.
        self.logger.log_trial_result(step, trial, {**values, "training_iteration": step})  # type: ignore[arg-type]

    def end(self, trial: Shown, failed: bool) -> None:
        """The trial has ended."""
        self.logger.log_trial_end(trial, failed)  # type: ignore[arg-type]

    def leave(self, trial: Shown) -> None:
        """The sweep stops, the trial has not ended."""
        self.logger.log_trial_end(trial, failed=False)  # type: ignore[arg-type]

    def wait(self) -> None:
        """Return when all that was told has arrived."""

    def last(self, trial: Shown) -> int | None:
        """The last step of a trial that ended, and is not to be told again; None where it did not."""
        mark = self._told / trial.trial_id
        return int(mark.read_text()) if mark.exists() else None

    def mark(self, trial: Shown, step: int) -> None:
        """Remember that the trial ended at this step, and that all that was told has arrived."""
        self._told.mkdir(parents=True, exist_ok=True)
        (self._told / trial.trial_id).write_text(str(step))


class TensorBoard(Tracker):
    """Event files in the run, a folder per trial."""

    name = "tensorboard"

    def __init__(self, run_dir: Path, sweep: str) -> None:
        from ray.tune.logger import TBXLoggerCallback

        super().__init__(run_dir / "tensorboard")
        self.logger = TBXLoggerCallback()
        self.where = shlex.join(["tensorboard", "--logdir", str(self.folder)])

    def begin(self, trial: Shown) -> set[int]:
        for path in trial.folder.glob("events.out.tfevents.*"):  # all of it is told again
            path.unlink()
        return super().begin(trial)


class MLflow(Tracker):
    """The server of $MLFLOW_TRACKING_URI, or a database in the run; the experiment is the sweep."""

    name = "mlflow"

    def __init__(self, run_dir: Path, sweep: str) -> None:
        import logging

        from mlflow import MlflowClient
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        super().__init__(run_dir / "mlflow")
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table of a new database
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            self.folder.mkdir(exist_ok=True)
            uri = f"sqlite:///{self.folder / 'mlflow.db'}"
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or sweep
        self.logger = self._logger = MLflowLoggerCallback(tracking_uri=uri, experiment_name=experiment)
        self._logger.setup()
        self._client, self._experiment = MlflowClient(uri), str(self._logger.mlflow_util.experiment_id)
        self.where = shlex.join(["mlflow", "ui", "--backend-store-uri", uri]) if uri.startswith("sqlite") else uri

    def begin(self, trial: Shown) -> set[int]:
        found = self._run_of(trial)
        if found is not None:
            self._client.update_run(found.info.run_id, status="RUNNING")
            self._logger._trial_runs[trial] = found.info.run_id
        self._logger.tags = {"raymix.trial": trial.trial_id, "raymix.run": trial.experiment_dir_name}
        super().begin(trial)
        run_id = self._logger._trial_runs[trial]
        return {metric.step for metric in self._client.get_metric_history(run_id, "gradient_steps")}

    def report(self, trial: Shown, step: int, values: dict[str, float], moment: float) -> None:
        # Tune's logger asks the server once per value, and a kill may fall between two.
        from mlflow.entities import Metric

        metrics = [Metric(name, value, int(1000 * moment), step) for name, value in values.items()]
        self._client.log_batch(self._logger._trial_runs[trial], metrics)

    def leave(self, trial: Shown) -> None:
        self._client.set_terminated(self._logger._trial_runs[trial], status="KILLED")

    def last(self, trial: Shown) -> int | None:
        found = self._run_of(trial)
        return None if found is None or found.info.status == "RUNNING" else found.data.metrics.get("gradient_steps")

    def mark(self, trial: Shown, step: int) -> None:
        """The server does."""

    def _run_of(self, trial: Shown) -> Any:
        asked = f"tags.`raymix.trial` = '{trial.trial_id}'"
        return next(iter(self._client.search_runs([self._experiment], asked)), None)


class WandB(Tracker):
    """The project $WANDB_PROJECT, or raymix; the group is the run of the sweep. Offline, folders in the run."""

    name = "wandb"

    def __init__(self, run_dir: Path, sweep: str) -> None:
        from ray.air.integrations.wandb import WandbLoggerCallback, _WandbLoggingActor

        class Logging(_WandbLoggingActor):
            """Tune's process for one trial, which Tune kills when `run` returns."""

            def run(self) -> None:
                super().run()
                self._wandb.teardown()  # what it has finished is on its way to the file still

        super().__init__(run_dir / "wandb")
        self.folder.mkdir(exist_ok=True)
        mode = os.environ.get("WANDB_MODE", "online")
        project = os.environ.get("WANDB_PROJECT", "raymix")
        # W&B makes a folder `wandb` where it is told to write.
        self.logger = WandbLoggerCallback(
            project=project, group=run_dir.name, dir=str(run_dir), mode=mode, resume="allow", job_type=sweep
        )
        self.logger._logger_actor_cls = Logging
        self.logger.setup()
        self.where = f"project {project}, group {run_dir.name}"
        if mode == "offline":
            self.where = f"wandb sync {shlex.quote(str(self.folder))}/offline-run-*"

    def begin(self, trial: Shown) -> set[int]:
        for path in self.folder.glob(f"offline-run-*-{trial.trial_id}"):  # all of it is told again
            shutil.rmtree(path)
        return super().begin(trial)  # online, W&B passes over steps that it has

    def folder_of(self, name: str) -> Path:
        return self.folder

    def wait(self) -> None:
        self.logger.on_experiment_end([])


KINDS: dict[str, Callable[[Path, str], Tracker]] = {kind.name: kind for kind in (TensorBoard, MLflow, WandB)}


def trackers_of(names: Sequence[str], plan: dict[str, Any], run_dir: AnyPath) -> list[Tracker]:
    """The trackers of a run that `--log-to` names, each once. Only a run on a disk has any (`raymix.watching`)."""
    if not isinstance(run_dir, Path):
        return []
    return [KINDS[name](run_dir, plan["sweep"]) for name in dict.fromkeys(names)]


class Tracking(Callback):
    """Tune callback that tells trackers of a run's trials. One that fails is left out, and the user told.

    Tune pickles its callbacks into the experiment, so all that lives in the driver only is left out.
    """

    def __init__(
        self,
        trackers: Sequence[Tracker],
        plan: dict[str, Any],
        run_dir: AnyPath,
        specs: Mapping[str, Spec],
        labels: Mapping[str, str],
        done: Sequence[str],
        tell: Callable[[str], None],
    ) -> None:
        """`specs` by data set, `labels` by configuration id; `done` are the names of the jobs that need no training any
        more; `tell` says a sentence to the user."""
        self._trackers = list(trackers)
        self._run_dir, self._specs, self._labels, self._tell = run_dir, specs, labels, tell
        jobs = (job for trial in plan["trials"] for job in jobs_of(plan, trial, run_dir, "cpu", "auto"))
        self._done = [job for job in jobs if job.name in done]
        self._told: dict[tuple[str, str], set[int]] = {}
        """Steps by tracker and job, of those trials that have begun and not ended."""
        self._ended: dict[str, list[tuple[Shown, int]]] = defaultdict(list)
        """Trials by tracker, and the last step of each, of which it is not known that they have arrived."""
        self._shown: dict[tuple[str, str], Shown] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_trackers": [], "_done": [], "_told": {}}

    def setup(self, *args: Any, **info: Any) -> None:
        """Tell of the trials that were done before."""
        self._each(self._catch_up)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job = Job(**trial.config["job"])
        if not job.gate:  # others may never train
            self._each(lambda tracker: self._begin(tracker, job))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "phase" not in result:
            return
        job = Job(**trial.config["job"])
        newest = {step_of(job, result["phase"], result["phase_step"]): (time.time(), values_of(result, job.seeds))}
        self._each(lambda tracker: self._report(tracker, job, newest))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job = Job(**trial.config["job"])
        self._each(lambda tracker: self._end(tracker, job, failed=False))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job = Job(**trial.config["job"])
        self._each(lambda tracker: self._end(tracker, job, failed=True))

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self._each(self._close)

    def _catch_up(self, tracker: Tracker) -> None:
        newest = self._newest_in_ledger()
        due = [job for job in self._done if tracker.last(self._show(tracker, job)) != newest[job.name]]
        for number, job in enumerate(due, start=1):
            self._end(tracker, job, failed=False)
            if number % AT_ONCE == 0 or number == len(due):
                self._arrived(tracker)

    def _begin(self, tracker: Tracker, job: Job) -> set[int]:
        key = (tracker.name, job.name)
        if key not in self._told:
            self._told[key] = tracker.begin(self._show(tracker, job))
        return self._told[key]

    def _report(
        self, tracker: Tracker, job: Job, newest: Mapping[int, tuple[float, dict[str, float]]] | None = None
    ) -> None:
        """Tell the newest report after all before it; None: all that the ledger has."""
        if job.gate and newest is None and not self._in_ledger(job):
            return
        told = self._begin(tracker, job)
        steps = [step_of(job, *point) for point in report_points(job)]
        due = [step for step in steps if step not in told and (newest is None or step <= max(newest))]
        if not due:
            return
        known = newest if newest is not None and newest.keys() >= set(due) else self._in_ledger(job)
        for step in due:
            if step in known:
                moment, values = known[step]
                tracker.report(self._show(tracker, job), step, {"gradient_steps": step, **values}, moment)
                told.add(step)

    def _end(self, tracker: Tracker, job: Job, failed: bool) -> None:
        self._report(tracker, job)
        if (tracker.name, job.name) not in self._told:  # its seeds never began
            return
        shown = self._show(tracker, job)
        tracker.end(shown, failed)
        told = self._told.pop((tracker.name, job.name))
        self._ended[tracker.name].append((shown, max(told, default=0)))

    def _close(self, tracker: Tracker) -> None:
        for name, job in list(self._told):
            if name == tracker.name:
                tracker.leave(self._shown[name, job])
        self._arrived(tracker)

    def _arrived(self, tracker: Tracker) -> None:
        tracker.wait()
        for shown, step in self._ended.pop(tracker.name, ()):
            tracker.mark(shown, step)

    def _each(self, do: Callable[[Tracker], object]) -> None:
        for tracker in list(self._trackers):
            try:
                do(tracker)
            except Exception as problem:  # a server that is away, a disk that is full: training is not to end by it
                self._trackers.remove(tracker)
                reason = (str(problem).strip() or type(problem).__name__).splitlines()[0]
                self._tell(
                    f"{TRACKERS[tracker.name][0]} failed ({reason}); the sweep goes on without it. `--resume` with"
                    f" `--log-to {tracker.name}` tells it what it missed."
                )

    def _show(self, tracker: Tracker, job: Job) -> Shown:
        key = (tracker.name, job.name)
        if key not in self._shown:
            label = self._labels[job.config_id]
            if job.share < 1:
                label += f", seeds {' '.join(map(str, job.seeds))}"
            file_name = re.sub(r"[^\w.=+-]+", "_", label)[:80]
            self._shown[key] = Shown(
                name=label,
                trial_id=hashlib.sha256(f"{job.run}/{job.name}".encode()).hexdigest()[:16],
                config=parameters(job),
                folder=tracker.folder_of(f"{file_name}-{job.name}"),
                experiment_dir_name=job.run,
            )
        return self._shown[key]

    def _newest_in_ledger(self) -> dict[str, int]:
        """The last step of each trial that was done before, by job."""
        jobs = {(job.config_id, seed): job for job in self._done for seed in job.seeds}
        newest = {job.name: 0 for job in self._done}
        if self._done and ledger_folder(self._done[0]).is_dir():
            for row in ledger.read(ledger_folder(self._done[0]), None, []).to_pylist():
                if (job := jobs.get((row["config_id"], row["seed"]))) is not None:
                    newest[job.name] = max(newest[job.name], step_of(job, row["phase"], row["step"]))
        return newest

    def _in_ledger(self, job: Job) -> dict[int, tuple[float, dict[str, float]]]:
        """The reports that the ledger has of all seeds, by step."""
        if not ledger_folder(job).is_dir():
            return {}
        reports: dict[tuple[str, int], dict[int, ledger.Row]] = defaultdict(dict)
        for row in ledger.rows(ledger.read(ledger_folder(job), job.config_id)):
            reports[row.phase, row.step][row.seed] = row
        found = {}
        for (phase, step), rows in reports.items():
            if rows.keys() >= set(job.seeds):
                own = [rows[seed] for seed in job.seeds]
                values = values_of(summary(own, self._specs[job.dataset]), job.seeds)
                found[step_of(job, phase, step)] = max(row.wall_time for row in own), values
        return found


def step_of(job: Job, phase: str, step: int) -> int:
    """Gradient steps since the beginning of training, of which phases before the present one are a part."""
    names = [name for name, _ in job.phases]
    return sum(steps for _, steps in job.phases[: names.index(phase)]) + step


def parameters(job: Job) -> dict[str, Any]:
    """What a trial is told apart by, as numbers and words."""
    config = {
        name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in job.config.items()
    }
    return {
        "algorithm": job.algorithm,
        "dataset": job.dataset,
        "seeds": " ".join(map(str, job.seeds)),
        **config,
        "run": job.run,
        "config_id": job.config_id,
    }


def values_of(told: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, float]:
    """The numbers of a report (`raymix.job.summary`), with the return of each seed under a name of its own."""
    kept = ("training/", "evaluation/", HELD_OUT)
    values = {
        name: float(value)
        for name, value in told.items()
        if (name.startswith(kept) or name in ("phase_step", "seeds_left", "agent_seconds"))
        and isinstance(value, int | float)
    }
    returns = told.get("evaluation/returns", ())
    return values | {f"evaluation/return_of_seed_{seed}": float(value) for seed, value in zip(seeds, returns)}

"""What raymix relies on in Ray Tune, in one place: when a new Ray breaks something, it should be a test here.

One small experiment is run with a scheduler that writes down how Tune calls it. Six trials of three steps each:

    plain    is let through to its end
    paused   is paused at step 1 and goes on when the scheduler chooses it
    vain     is paused at step 1 and stopped while it waits
    stopped  is stopped at step 1
    shaky    fails once in step 2
    broken   fails in step 2 whenever it is tried
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.sample import Categorical, Domain, Float, Integer, LogUniform, Quantized, Uniform
from ray.tune.search.variant_generator import generate_variants

from raymix.progress import Forgetting

NAMES = ["plain", "paused", "vain", "stopped", "shaky", "broken"]


class Script(tune.Trainable):
    """Does what its name says, and writes down what Tune asks of it."""

    def setup(self, config: dict[str, Any]) -> None:
        self.name, self.log, self.count = config["name"], Path(config["log"]), 0
        self.note("setup")

    def note(self, what: str) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps([self.name, what]) + "\n")

    def step(self) -> dict[str, Any]:
        self.count += 1
        self.note(f"step {self.count}")
        failed = self.log.with_name(f"{self.name}-failed")
        if self.count == 2 and (self.name == "broken" or (self.name == "shaky" and not failed.exists())):
            failed.touch()
            raise RuntimeError("as the script says")
        return {"count": self.count, "nested": {"list": [1.0, None]}, "done": self.count == 3}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, "count").write_text(str(self.count))
        self.note(f"save {self.count}")

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        self.count = int(Path(checkpoint_dir, "count").read_text())
        self.note(f"load {self.count}")

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True


class Recorder(TrialScheduler):
    """Decides as the script says; `calls` are (trial, method, its status then)."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str, str]] = []

    def note(self, trial: Trial, method: str) -> None:
        self.calls.append((trial.config["name"], method, trial.status))

    def of(self, name: str) -> list[tuple[str, str]]:
        return [(method, status) for trial, method, status in self.calls if trial == name]

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self.note(trial, "add")

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self.note(trial, "error")

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self.note(trial, "complete")

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        self.note(trial, "remove")

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        self.note(trial, f"result {result['count']}")
        if result["count"] == 1:
            name = trial.config["name"]
            return {"paused": self.PAUSE, "vain": self.PAUSE, "stopped": self.STOP}.get(name, self.CONTINUE)
        return self.CONTINUE

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Nobody but `paused`, and that only when nobody else is at work."""
        trials = tune_controller.get_trials()
        if any(trial.status in (Trial.PENDING, Trial.RUNNING) for trial in trials):
            return None
        for trial in trials:
            if trial.config["name"] == "vain":
                tune_controller.stop_trial(trial)
        return next((trial for trial in trials if trial.status == Trial.PAUSED), None)

    def debug_string(self) -> str:
        return ""


class Watcher(tune.Callback):
    """The hooks that draw the sweep, by trial."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.calls.append((trial.config["name"], "start"))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        assert result["nested"]["list"] == [1.0, None]
        self.calls.append((trial.config["name"], f"result {result['count']}"))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.calls.append((trial.config["name"], f"complete {trial.last_result['count']}"))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.calls.append((trial.config["name"], "error"))


class Experiment:
    """What came of it."""

    def __init__(self, folder: Path) -> None:
        self.scheduler, watcher, log = Recorder(), Watcher(), folder / "log"
        tuner = tune.Tuner(
            tune.with_resources(Script, lambda config: tune.PlacementGroupFactory([{"CPU": 0.5}])),
            param_space={"name": tune.grid_search(NAMES), "log": str(log)},
            tune_config=tune.TuneConfig(
                scheduler=self.scheduler,
                reuse_actors=True,
                trial_name_creator=lambda trial: trial.config["name"],
                trial_dirname_creator=lambda trial: trial.config["name"],
            ),
            run_config=tune.RunConfig(
                name="attempt-1",
                storage_path=str(folder),
                callbacks=[watcher],
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=1),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=2, checkpoint_frequency=1, checkpoint_at_end=True),
            ),
        )
        self.results = tuner.fit()
        self.folder = folder / "attempt-1"
        self.shown = watcher.calls
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        self.asked = {name: [what for trial, what in lines if trial == name] for name in NAMES}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experiment]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the trials' processes know no tests
    yield Experiment(tmp_path_factory.mktemp("experiment"))
    ray.shutdown()


def test_pending_trials_are_started_without_asking_the_scheduler(experiment: Experiment) -> None:
    """So a trial that begins at a rung has to report it again. The scheduler chose nobody while trials were pending."""
    assert all("step 1" in experiment.asked[name] for name in NAMES)


def test_a_pause_saves_lets_go_and_waits_to_be_chosen(experiment: Experiment) -> None:
    assert experiment.scheduler.of("paused") == [
        ("add", "PENDING"),
        ("result 1", "RUNNING"),
        ("result 2", "RUNNING"),
        ("complete", "RUNNING"),
    ]
    asked = experiment.asked["paused"]
    # Tune may set up processes that it does not use.
    done = [what for what in asked if what != "setup"]
    assert done[:4] == ["step 1", "save 1", "load 1", "step 2"]
    assert "setup" in asked[asked.index("save 1") : asked.index("load 1")], "the process was not let go"
    finished = [index for index, call in enumerate(experiment.scheduler.calls) if call[1] in ("complete", "error")]
    resumed = experiment.scheduler.calls.index(("paused", "result 2", "RUNNING"))
    assert sum(index < resumed for index in finished) >= 4, "it went on before it was chosen"


def test_a_trial_that_waits_can_be_stopped(experiment: Experiment) -> None:
    assert experiment.scheduler.of("vain") == [
        ("add", "PENDING"),
        ("result 1", "RUNNING"),
        ("remove", "PAUSED"),
    ]
    assert ("vain", "complete 1") in experiment.shown
    assert not any(what == "step 2" for what in experiment.asked["vain"] + experiment.asked["stopped"])


def test_a_stop_and_an_end_complete_a_trial(experiment: Experiment) -> None:
    """The last result of a trial that says `done` goes to on_trial_complete, never to on_trial_result."""
    assert experiment.scheduler.of("stopped") == [("add", "PENDING"), ("result 1", "RUNNING"), ("complete", "RUNNING")]
    assert [method for method, _ in experiment.scheduler.of("plain")] == ["add", "result 1", "result 2", "complete"]
    assert ("stopped", "complete 1") in experiment.shown and ("plain", "complete 3") in experiment.shown


def test_a_trial_that_is_tried_again_is_added_again_at_once(experiment: Experiment) -> None:
    """Between the error and the next `add` the scheduler is asked nothing, so no decision counts it as lost."""
    calls = experiment.scheduler.calls
    error = calls.index(("shaky", "error", "ERROR"))
    assert calls[error + 1] == ("shaky", "add", "PENDING")
    methods = [method for method, _ in experiment.scheduler.of("shaky")]
    assert methods == ["add", "result 1", "error", "add", "result 2", "complete"]
    assert "load 1" in experiment.asked["shaky"]


def test_a_trial_that_fails_for_good_is_an_error_and_no_more(experiment: Experiment) -> None:
    assert experiment.scheduler.of("broken")[-1] == ("error", "RUNNING")
    assert experiment.shown[-1] != ("broken", "complete 1") and ("broken", "error") in experiment.shown
    errors = [result for result in experiment.results if result.error is not None]
    assert [result.config["name"] for result in errors] == ["broken"]
    assert "as the script says" in str(errors[0].error)


def test_every_report_is_shown_and_saved_where_a_resume_looks(experiment: Experiment) -> None:
    assert [what for name, what in experiment.shown if name == "plain"] == [
        "start",
        "result 1",
        "result 2",
        "result 3",
        "complete 3",
    ]
    kept = {name: sorted(experiment.folder.glob(f"{name}*/checkpoint_*/count")) for name in NAMES}
    assert {name: {int(path.read_text()) for path in paths} for name, paths in kept.items()} == {
        "plain": {2, 3},
        "paused": {2, 3},
        "vain": {1},
        "stopped": {1},
        "shaky": {2, 3},
        "broken": {1},
    }


class Asked(Searcher):
    """Suggests the names one by one, at most two that are at work, and writes down what Tune tells it."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.at_work = list(NAMES), dict[str, str]()
        self.calls: list[tuple[str, bool]] = []
        self.refused = 0

    def suggest(self, trial_id: str) -> Any:
        if len(self.at_work) == 2:
            self.refused += 1
            return None
        if not self.left:
            return Searcher.FINISHED
        self.at_work[trial_id] = self.left.pop(0)
        return {"name": self.at_work[trial_id]}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.calls.append((self.at_work.pop(trial_id), error))

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


@pytest.mark.parametrize("samples", [20, 6])
def test_a_searcher_is_asked_until_it_says_so_and_told_of_every_end(
    experiment: Experiment, tmp_path: Path, samples: int
) -> None:
    """It may say `not now`; what it suggests joins the other settings; a retry is no end, an end by a scheduler, also
    while the trial waits, is one; `num_samples` may be more than it suggests, or as many."""
    searcher = Asked()
    tuner = tune.Tuner(
        tune.with_resources(Script, lambda config: tune.PlacementGroupFactory([{"CPU": 0.5}])),
        param_space={"log": str(tmp_path / "log")},
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=Recorder(),
            num_samples=samples,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.config["name"],
            trial_dirname_creator=lambda trial: trial.config["name"],
        ),
        run_config=tune.RunConfig(
            name="attempt-1",
            storage_path=str(tmp_path),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=1),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2, checkpoint_frequency=1, checkpoint_at_end=True),
        ),
    )
    found = tuner.fit()
    assert sorted(searcher.calls) == sorted((name, name == "broken") for name in NAMES)
    assert searcher.refused > 0 and not searcher.at_work and len(found) == 6
    assert sorted(path.name for path in (tmp_path / "attempt-1").iterdir() if path.is_dir()) == sorted(NAMES)


def test_search_spaces_say_what_they_are() -> None:
    """What is translated into Optuna's distributions."""
    for domain, kind, sampler, step in (
        (tune.uniform(1, 2), Float, Uniform, None),
        (tune.loguniform(1, 2), Float, LogUniform, None),
        (tune.quniform(1, 2, 0.5), Float, Uniform, 0.5),
        (tune.randint(1, 9), Integer, Uniform, None),
        (tune.lograndint(1, 9), Integer, LogUniform, None),
        (tune.qrandint(2, 8, 2), Integer, Uniform, 2),
    ):
        found = domain.get_sampler()
        assert isinstance(found, Quantized) is (step is not None)
        if step is not None:
            assert found.q == step
            found = found.sampler
        assert isinstance(domain, kind) and isinstance(found, sampler) and domain.lower < domain.upper
    assert not isinstance(tune.loguniform(1, 2).get_sampler(), Uniform)
    assert tune.choice([1, 2]).categories == [1, 2] and isinstance(tune.choice([1]), Categorical)


def test_search_spaces_are_drawn_alike_from_one_seed() -> None:
    assert issubclass(Float, Domain) and isinstance(tune.loguniform(0.1, 1.0), Float)
    assert tune.grid_search([1, 2]) == {"grid_search": [1, 2]}

    def drawn(seed: int) -> list[dict[str, Any]]:
        space = {"search": {"beta": tune.loguniform(0.1, 1.0), "components": tune.grid_search([1, 5])}}
        return [variant for _, variant in generate_variants(space, random_state=np.random.RandomState(seed))]

    assert drawn(0) == drawn(0) != drawn(1)
    assert [variant["search"]["components"] for variant in drawn(0)] == [1, 5]


def test_names_that_schedulers_answer_with() -> None:
    assert (TrialScheduler.CONTINUE, TrialScheduler.PAUSE, TrialScheduler.STOP) == ("CONTINUE", "PAUSE", "STOP")
    statuses = (Trial.PENDING, Trial.RUNNING, Trial.PAUSED, Trial.TERMINATED, Trial.ERROR)
    assert statuses == ("PENDING", "RUNNING", "PAUSED", "TERMINATED", "ERROR")


def test_warnings_of_many_processes_can_be_skipped() -> None:
    """Catches a Ray that prints messages of its raylet by other ways."""
    from ray._private import ray_logging

    from raymix.cluster import _skip_warnings_of_many_processes

    _skip_warnings_of_many_processes()
    warning = "WARNING: 8 PYTHON worker processes have been started on node: 43b7 with address: 127.0.0.1."
    for shown in (ray_logging.stdout_deduplicator, ray_logging.stderr_deduplicator):
        for line, lines in ((warning, []), ("out of memory", ["out of memory"])):
            (batch,) = shown.deduplicate({"ip": "", "pid": "raylet", "is_err": True, "lines": [line]})
            assert batch["lines"] == lines


def test_what_tune_keeps_of_every_report_can_be_dropped() -> None:
    """Catches a Tune that keeps it elsewhere, with which the driver of a thousand trials would grow without end."""
    trial = Trial("anything", stub=True)
    trial.update_last_result({"evaluation/return": 1.0, "training_iteration": 1})
    kept = trial.run_metadata
    assert "evaluation/return" in kept.metric_analysis and "evaluation/return" in kept.metric_n_steps
    long = len(kept.get_json_state())
    Forgetting().on_trial_complete(0, [], trial)
    assert not kept.metric_analysis and not kept.metric_n_steps and len(kept.get_json_state()) < long
    assert trial.last_result["evaluation/return"] == 1.0

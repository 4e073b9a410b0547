"""`--log-to`: what TensorBoard, MLflow and W&B have of a sweep that was killed and resumed, all offline."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.air.integrations.wandb import WandbLoggerCallback, _WandbLoggingActor
from ray.tune.logger import LoggerCallback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_sweep import SWEEP, Driver
from wandb.proto import wandb_internal_pb2

import raymix.watching
from raymix import ledger
from raymix.data.catalog import load
from raymix.files import path_of
from raymix.job import Job
from raymix.plan import read_description
from raymix.types import UsageError
from raymix.watching.trackers import Shown, Tracker, Tracking, parameters, step_of

SMALL = SWEEP.replace("[1, 2, 3]", "[1, 2]").replace("steps=300", "steps=150")
assert SMALL.count("[1, 2]") == SMALL.count("steps=150") == 1
ALL = ("--log-to", "tensorboard", "--log-to", "mlflow", "--log-to", "wandb")
Curves = dict[str, dict[str, list[tuple[int, float]]]]
"""(step, value) in the order in which they are there, by trial and metric."""


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run of a sweep of two trials of seven reports whose driver was killed when one of them was done."""
    folder = tmp_path_factory.mktemp("resumed")
    with pytest.MonkeyPatch.context() as environment:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT"):
            environment.delenv(name, raising=False)
        environment.setenv("WANDB_MODE", "offline")
        driver = Driver(folder, *ALL, sweep=SMALL)
        driver.wait_for_segments(9)
        driver.process.kill()
        driver.finish()
        (run,) = (folder / "runs").iterdir()
        status, output, errors = Driver(folder, "--resume", str(run), *ALL, sweep=SMALL).finish()
    assert status == 0, errors
    for words in (f"tensorboard --logdir {run}/tensorboard", f"sqlite:///{run}/mlflow/mlflow.db", "wandb sync"):
        assert words in output
    yield run


@pytest.fixture(scope="module")
def expected(resumed: Path) -> Curves:
    """What the ledger has, by configuration id; the mixture's 60 steps come before the 150 of the main phase."""
    found: dict[tuple[str, int], list[ledger.Row]] = {}
    for row in ledger.rows(ledger.read(str(resumed / "ledger"))):
        found.setdefault((row.config_id, row.step + 60 * (row.phase == "main")), []).append(row)
    curves: Curves = {}
    for (config_id, step), rows in sorted(found.items()):
        curve = curves.setdefault(
            config_id, {"phase_step": [], "evaluation/return": [], "evaluation/return_of_seed_1": []}
        )
        curve["phase_step"].append((step, rows[0].step))
        if rows[0].phase == "main":
            returns = [float(np.mean(row.returns)) for row in rows]
            curve["evaluation/return"].append((step, float(np.mean(returns))))
            curve["evaluation/return_of_seed_1"].append((step, returns[1]))
    assert len(curves) == 2 and {len(curve["phase_step"]) for curve in curves.values()} == {7}
    return curves


def label_of(run: Path, config_id: str) -> str:
    return next(trial["label"] for trial in read_description(run)["trials"] if trial["config_id"] == config_id)


def test_tensorboard_has_every_report_once(resumed: Path, expected: Curves) -> None:
    for config_id, curves in expected.items():
        (folder,) = (resumed / "tensorboard").glob(f"*-{config_id}")
        assert folder.name == f"{label_of(resumed, config_id)}-{config_id}" and len(list(folder.iterdir())) == 1
        events = EventAccumulator(str(folder))
        events.Reload()
        for name, points in curves.items():
            scalars = [(event.step, event.value) for event in events.Scalars(f"ray/tune/{name}")]
            assert np.allclose(scalars, points)
        assert any("hparams" in name for name in events.PluginTagToContent("hparams"))


def test_mlflow_has_a_run_per_trial_with_every_report_once(resumed: Path, expected: Curves) -> None:
    client = MlflowClient(f"sqlite:///{resumed}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("small_sweep")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.data.params["config_id"] for run in runs} == expected.keys() and len(runs) == 2
    for run in runs:
        config_id = run.data.params["config_id"]
        assert run.info.status == "FINISHED" and run.info.run_name == label_of(resumed, config_id)
        assert f"num_components={run.data.params['num_components']}" == run.info.run_name
        assert (run.data.params["algorithm"], run.data.params["seeds"]) == ("lom", "0 1")
        assert run.data.params["hidden_dims"] == "[16]"
        for name, points in expected[config_id].items():
            history = client.get_metric_history(run.info.run_id, name)
            assert np.array_equal(sorted((metric.step, metric.value) for metric in history), points)


def test_wandb_has_one_folder_per_trial_with_every_report_once(resumed: Path, expected: Curves) -> None:
    files = list((resumed / "wandb").glob("offline-run-*/run-*.wandb"))
    found: Curves = {}
    for path in files:
        config: dict[str, Any] = {}
        curves: dict[str, list[tuple[int, float]]] = {}
        for record in records(path):
            if record.HasField("run"):
                config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
                shown = record.run
                assert (shown.project, shown.run_group) == ("raymix", resumed.name)
            for item in record.history.item:
                curves.setdefault("/".join(item.nested_key) or item.key, []).append(
                    (record.history.step.num, json.loads(item.value_json))
                )
        assert config["config_id"] not in found and shown.display_name == label_of(resumed, config["config_id"])
        assert f"num_components={config['num_components']}" == shown.display_name
        found[config["config_id"]] = curves
    assert found.keys() == expected.keys()
    for config_id, curves in expected.items():
        for name, points in curves.items():
            assert np.array_equal(found[config_id][name], points)


def records(path: Path) -> Iterator[Any]:
    """The records of W&B's file, which is a LevelDB log: blocks of 32 KiB, in them parts with checksum, size, kind."""
    data, at, whole = path.read_bytes(), 7, b""
    while at < len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


JOB = Job(
    run="a-run",
    run_dir="",
    config_id="abc",
    algorithm="lom",
    config={"beta": 2.0, "hidden_dims": [16, 16], "fast": True, "preset": None},
    dataset="toy",
    seeds=[0, 1],
    report_every=30,
    episodes=1,
    phases=[("mdn", 60), ("main", 90)],
    pack="",
    widths=[2, 2],
)


class Kept(Tracker):
    """Keeps what it is told."""

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.calls: list[Any] = []

    def begin(self, trial: Shown) -> set[int]:
        self.calls.append("begin")
        return set()

    def report(self, trial: Shown, step: int, values: dict[str, float], moment: float) -> None:
        self.calls.append(step)

    def end(self, trial: Shown, failed: bool) -> None:
        self.calls.append("end")

    def leave(self, trial: Shown) -> None:
        self.calls.append("leave")


def test_a_trial_is_told_again_where_the_ledger_has_more(resumed: Path) -> None:
    """Catches an end by a time budget that passes for the trial's own: later attempts may train without `--log-to`."""
    plan = read_description(resumed)
    config_id = plan["trials"][0]["config_id"]
    specs = {plan["trials"][0]["dataset"]: load(plan["trials"][0]["dataset"]).spec}
    tracker = Kept(resumed / "kept")

    def attempt() -> list[Any]:
        tracker.calls.clear()
        tracking = Tracking([tracker], plan, resumed, specs, {config_id: "x"}, [config_id], pytest.fail)
        tracking.setup()
        tracking.on_experiment_end([])
        return list(tracker.calls)

    whole = ["begin", 30, 60, 90, 120, 150, 180, 210, "end"]
    assert attempt() == whole
    assert attempt() == []
    (mark,) = (resumed / "kept" / "told").iterdir()
    assert mark.read_text() == "210"
    mark.write_text("120")
    assert attempt() == whole


def test_parameters_are_plain_values() -> None:
    told = parameters(JOB)
    assert (told["beta"], told["hidden_dims"], told["fast"], told["preset"]) == (2.0, "[16, 16]", True, "None")
    assert (told["algorithm"], told["dataset"], told["seeds"]) == ("lom", "toy", "0 1")
    assert [step_of(JOB, *point) for point in (("mdn", 60), ("main", 30))] == [60, 90]


class Broken(Tracker):
    name = "mlflow"

    def begin(self, trial: Shown) -> set[int]:
        raise ConnectionError("the server is away\nand more")


def test_a_tracker_that_fails_is_left_out_and_training_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    plan = {"trials": []}
    tracking = Tracking([Broken(tmp_path / "mlflow")], plan, tmp_path, {}, {"abc": "beta=2"}, [], said.append)

    class Trial:
        config = {"job": vars(JOB)}

    for _ in range(2):
        tracking.on_trial_start(0, [], Trial())
    tracking.on_experiment_end([])
    (sentence,) = said
    assert sentence.startswith("MLflow failed (the server is away); the sweep goes on without it.")


def test_what_is_missing_is_said_before_anything_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(raymix.watching.TRACKERS, "mlflow", ("MLflow", "not_installed_at_all"))
    with pytest.raises(UsageError, match=r"--log-to mlflow needs MLflow: pip install 'raymix\[mlflow\]'"):
        raymix.watching.require(["tensorboard", "mlflow"], tmp_path)
    raymix.watching.require(["tensorboard"], tmp_path)
    with pytest.raises(UsageError, match="take a folder on a disk as storage"):
        raymix.watching.require(["tensorboard"], path_of("s3://bucket/runs?region=us-east-1"))
    raymix.watching.require([], path_of("s3://bucket/runs?region=us-east-1"))


def test_an_mlflow_server_that_is_not_there_is_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"finds no MLflow at \$MLFLOW_TRACKING_URI=http://127.0.0.1:9 "):
        raymix.watching.require(["mlflow"], tmp_path)
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'm.db'}")
    raymix.watching.require(["mlflow"], tmp_path)


def test_a_run_that_is_over_is_told_to_a_tracker_later(
    resumed: Path, expected: Curves, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a server that was away at the end; nothing trains."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    status, output, errors = Driver(tmp_path, "--resume", str(resumed), "--log-to", "mlflow", sweep=SMALL).finish()
    assert status == 0 and "other.db" in output, errors
    client = MlflowClient(f"sqlite:///{tmp_path / 'other.db'}")
    experiment = client.get_experiment_by_name("small_sweep")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.data.params["config_id"] for run in runs} == expected.keys()
    for run in runs:
        history = client.get_metric_history(run.info.run_id, "evaluation/return")
        points = expected[run.data.params["config_id"]]["evaluation/return"]
        assert np.array_equal(sorted((metric.step, metric.value) for metric in history), points)


def test_wandb_needs_an_account_or_to_be_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(UsageError, match="run `wandb login`, or set WANDB_MODE=offline"):
        raymix.watching.require(["wandb"], tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    raymix.watching.require(["wandb"], tmp_path)


def test_what_is_used_of_tunes_loggers_beside_their_public_methods(tmp_path: Path) -> None:
    """Catches a Ray whose MLflow logger keeps its runs elsewhere, with which a resumed sweep goes on, and one whose W&B
    logger works in another process: Tune's is killed before all is on disk."""
    logger = MLflowLoggerCallback(tracking_uri=f"sqlite:///{tmp_path / 'm.db'}", experiment_name="x")
    logger.setup()
    assert logger._trial_runs == {} and logger.mlflow_util.experiment_id
    assert WandbLoggerCallback._logger_actor_cls is _WandbLoggingActor and callable(_WandbLoggingActor.run)
    for name in ("log_trial_start", "log_trial_result", "log_trial_end"):
        assert callable(getattr(LoggerCallback, name))

"""Sweeps as a user runs them: a file, a command line, a local Ray, a killed driver, a resumed run."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from raymix import ledger
from raymix.cli import main as raymix_command
from raymix.files import AnyPath, matching, path_of

SWEEP = """
from ray import tune
from raymix import SweepSpec, main

SPEC = SweepSpec(
    algorithm="lom",
    datasets=("two-modes",),
    search={"num_components": tune.grid_search([1, 2, 3])},
    settings={
        "hidden_dims": (16,), "mdn_hidden_dims": (16,), "mdn_steps": 60, "mdn_batch_size": 32,
        "critic_batch_size": 32, "hyper_critic_batch_size": 32, "policy_batch_size": 32,
    },
    steps=300,
    seeds=2,
    evaluate_every=30,
    episodes=4,
)

if __name__ == "__main__":
    main(SPEC)
"""
ROWS = 3 * 2 * (2 + 10)  # configurations x seeds x (reports of the mixture phase + of the main phase)


class Driver:
    """One sweep process, and every process it started."""

    def __init__(
        self, folder: Path, *options: str, dashboard: bool = False, sweep: str = SWEEP, storage: str | None = None
    ) -> None:
        self.script = folder / "small_sweep.py"
        self.script.write_text(sweep)
        self.storage = path_of(storage or folder / "runs")
        command = [sys.executable, str(self.script), "--eager"]
        command += [] if "--resume" in options else ["--storage", str(self.storage)]
        command += [] if dashboard else ["--no-dashboard"]
        # What other tests set for the Ray in this process must not help the sweep's own.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
        if "--address" in options:  # a cluster that tests started, on loopback
            environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        self.process = subprocess.Popen(
            [*command, *options],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.family: list[psutil.Process] = []

    def finish(self, seconds: float = 120) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        try:
            output, errors = self.process.communicate(timeout=seconds)
        finally:
            self.clean_up()
        return self.process.returncode, output, errors

    def wait_for_segments(self, number: int, seconds: float = 120) -> None:
        """Return when the ledger holds `number` segments; the driver must be running still."""
        deadline = time.monotonic() + seconds
        while len(matching(self.storage, "*/ledger/*.parquet")) < number:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, "the sweep reported too little in time"
            time.sleep(0.02)
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def clean_up(self) -> None:
        """End what a killed driver leaves behind, by process, never by name."""
        for process in self.family:
            if process.is_running():
                process.kill()
        psutil.wait_procs(self.family, timeout=30)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """An undisturbed run: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    status, output, errors = Driver(folder).finish()
    assert status == 0, errors
    (run,) = (folder / "runs").iterdir()
    yield run, output


def results(run: AnyPath) -> dict[tuple, tuple]:
    """What must not depend on faults: every row's key, scores, losses and divergence."""
    kept = {}
    for row in ledger.rows(ledger.read(run / "ledger")):
        timings = ("steps_per_second", "compile_seconds")
        losses = tuple(sorted((name, value) for name, value in row.metrics.items() if name not in timings))
        key = (row.config_id, row.seed, row.phase, row.step)
        assert key not in kept, "the ledger shows a row twice"
        kept[key] = (row.returns, row.lengths, losses, row.diverged)
    return kept


def test_a_sweep_reports_every_seed_and_step_once(whole: tuple[Path, str]) -> None:
    run, output = whole
    assert len(results(run)) == ROWS
    assert "num_components" in output and str(run) in output
    assert (run / "report" / "scores.png").stat().st_size > 1000
    evaluated = [row for row in ledger.rows(ledger.read(str(run / "ledger"))) if row.phase == "main"]
    assert all(len(row.returns) == 4 and set(row.returns) <= {0.0, 1.0} for row in evaluated)


def test_ray_listens_on_this_machine_only(tmp_path: Path) -> None:
    """With the dashboard, and with Ray imported before raymix, as sweeps do."""
    driver = Driver(tmp_path, dashboard=True)
    driver.wait_for_segments(1)
    addresses = {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in [psutil.Process(driver.process.pid), *driver.family]
        for connection in connections_of(process)
        if connection.status == psutil.CONN_LISTEN
    }
    driver.process.send_signal(signal.SIGINT)
    driver.finish()
    assert addresses == {"127.0.0.1"}


def connections_of(process: psutil.Process) -> list:
    try:
        return process.net_connections(kind="tcp")
    except psutil.NoSuchProcess:
        return []


def test_report_prints_the_same_table_from_the_ledger_alone(
    whole: tuple[Path, str], capsys: pytest.CaptureFixture
) -> None:
    run, output = whole
    raymix_command(["report", str(run)])
    table = capsys.readouterr().out.split("\n\n")[0].strip()
    assert table in output
    raymix_command(["report", str(run.parent), "--json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["num_components"] for row in rows] == [1, 2, 3]


def test_a_killed_driver_loses_and_doubles_nothing(whole: tuple[Path, str], tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    driver.wait_for_segments(5)
    driver.process.kill()
    driver.finish()
    (run,) = (tmp_path / "runs").iterdir()
    assert len(results(run)) < ROWS, "the driver was killed too late to test anything"
    # The newest checkpoint of each trial is damaged: the one before it must serve, and the user must hear of it.
    newest = {path.parent: path for path in sorted(run.glob("trials/*/*/checkpoint_*"))}
    for checkpoint in newest.values():
        arrays = checkpoint / "member-0.npz"
        if arrays.exists():
            content = bytearray(arrays.read_bytes())
            content[len(content) // 2] ^= 1
            arrays.write_bytes(content)
    status, output, errors = Driver(tmp_path, "--resume", str(run)).finish()
    assert status == 0, errors
    assert results(run) == results(whole[0])
    assert "damaged checkpoint" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(number: signal.Signals, tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    driver.wait_for_segments(3)
    driver.process.send_signal(number)
    status, _, errors = driver.finish()
    (run,) = (tmp_path / "runs").iterdir()
    assert status == 1
    assert f"--resume {run}" in errors and "Traceback" not in errors
    assert not [process for process in driver.family if process.is_running()]


def test_a_killed_trial_process_is_made_again(whole: tuple[Path, str], tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    driver.wait_for_segments(4)
    trials = [process for process in driver.family if "ray::Trial" in " ".join(process.cmdline())]
    assert trials, [process.cmdline() for process in driver.family]
    trials[0].kill()
    status, _, errors = driver.finish()
    assert status == 0, errors
    (run,) = (tmp_path / "runs").iterdir()
    assert results(run) == results(whole[0])


@pytest.mark.parametrize("lost", [0, 5, -1])
def test_lost_rows_are_trained_again(lost: int, whole: tuple[Path, str], tmp_path: Path) -> None:
    """Someone removed a damaged segment, as the ledger's error advises: a resume must bring its rows back."""
    run = tmp_path / "runs" / whole[0].name
    shutil.copytree(whole[0], run)
    config_id = json.loads((run / "sweep.json").read_text())["trials"][0]["config_id"]
    sorted((run / "ledger").glob(f"{config_id}-*.parquet"))[lost].unlink()
    assert len(results(run)) == ROWS - 2
    status, _, errors = Driver(tmp_path, "--resume", str(run)).finish()
    assert status == 0, errors
    assert results(run) == results(whole[0])


def test_a_diverged_configuration_ends_and_says_so(tmp_path: Path) -> None:
    """Also when it is resumed: no further rows, no error."""
    driver = Driver(tmp_path, "--set", "policy_learning_rate=1e30", "--set", "num_components=2")
    status, output, errors = driver.finish()
    assert status == 0, errors
    assert "2 of 2 seeds diverged" in output
    (run,) = (tmp_path / "runs").iterdir()
    before = results(run)
    assert len(before) < ROWS / 3 and all(row[3] for key, row in before.items() if key[2] == "main")
    status, output, errors = Driver(tmp_path, "--resume", str(run)).finish()
    assert status == 0 and results(run) == before, errors


def test_a_finished_run_resumes_to_its_report_without_ray(whole: tuple[Path, str], tmp_path: Path) -> None:
    run, _ = whole
    before = results(run)
    status, output, errors = Driver(tmp_path, "--resume", str(run)).finish()
    assert status == 0, errors
    assert "num_components" in output and results(run) == before


def test_training_in_process_gives_the_rows_of_the_sweep(
    whole: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run, _ = whole
    trial = json.loads((run / "sweep.json").read_text())["trials"][1]
    options = [part for name, value in trial["config"].items() for part in ("--set", f"{name}={value}")]
    command = ["train", "lom", "--dataset", "two-modes", "--seeds", "2", "--evaluate-every", "30", "--episodes", "4"]
    raymix_command([*command, *options, "--eager", "--storage", str(tmp_path), "--json"])
    capsys.readouterr()
    (local,) = tmp_path.iterdir()
    expected = {key: value for key, value in results(run).items() if key[0] == trial["config_id"]}
    assert results(local) == expected


def test_a_log_without_an_environment_sweeps_on_held_out_episodes(tmp_path: Path) -> None:
    status, output, errors = Driver(tmp_path, "--dataset", "chain").finish()
    assert status == 0, errors
    assert "held-out action_error (less is better) on toy/chain-v0" in output
    (run,) = (tmp_path / "runs").iterdir()
    rows = list(ledger.rows(ledger.read(str(run / "ledger"))))
    assert len(rows) == ROWS and not any(row.returns for row in rows)
    assert all(("held_out/action_error" in row.metrics) == (row.phase == "main") for row in rows)
    assert all("held_out/mdn_loss" in row.metrics for row in rows if row.phase == "mdn")


COUNTING = """
    import sys
    from raymix.data import library, scratch

    def filled(*arguments, of=scratch.filled):
        columns, file = of(*arguments)
        files.append(file)
        return columns, file

    def fit(tuner, of=tune.Tuner.fit):
        left = list(library.root().glob(".*.rows"))
        print(f"{len(files)} mixtures made in files, {len(left)} left", file=sys.stderr)
        return of(tuner)

    files = []
    scratch.IN_MEMORY, scratch.filled, tune.Tuner.fit = 0, filled, fit
    main(SPEC)
"""


def test_a_sweep_on_a_mixture_holds_no_copy_beside_the_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that a mixture is made in goes with the last who holds its columns."""
    monkeypatch.setenv("RAYMIX_DATASETS_PATH", str(tmp_path / "library"))
    script = SWEEP.replace('"two-modes"', '"chain + chain"').replace("\n    main(SPEC)\n", COUNTING)
    driver = Driver(tmp_path, sweep=script)
    status, _, errors = driver.finish()
    assert status == 0 and "1 mixtures made in files, 0 left" in errors, errors
    (run,) = (tmp_path / "runs").iterdir()
    rows = list(ledger.rows(ledger.read(str(run / "ledger"))))
    assert len(rows) == ROWS and {row.dataset for row in rows} == {"toy/chain-v0 + toy/chain-v0"}


def sweep_error(folder: Path, *options: str) -> str:
    """The one sentence of a sweep that cannot be run."""
    driver = Driver(folder, *options)
    status, _, errors = driver.finish()
    assert status == 2, errors
    assert errors.startswith("error: ") and "Traceback" not in errors
    assert not list(folder.glob("runs/*")), "something was written before the error"
    return errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "num_component=3"], ["num_component'", "did you mean num_components?", "beta=5.0"]),
        (["--set", "beta=-1"], ["beta", "-1", "at least 0"]),
        (["--set", "discount=high"], ["discount", "a number", "'high'"]),
        (["--set", "beta"], ["NAME=VALUE"]),
        (["--dataset", "two-mode"], ["two-mode", "two-modes"]),
        (["--dataset", "mujoco/hopper/medium-v0"], ["minari download mujoco/hopper/medium-v0"]),
        (["--dataset", "toy/chain-v0", "--metric", "return"], ["no environment", "held_out/action_error"]),
        (["--seeds", "0"], ["seeds", "0"]),
        (["--steps", "0"], ["steps", "at least 1"]),
        (["--address", "127.0.0.1:1"], ["127.0.0.1:1", "ray start --head"]),
        (["--resume", "/dev"], ["/dev", "no run"]),
        (["--resume", "/dev", "--steps", "5", "--smoke"], ["--steps --smoke", "settings"]),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(options: list[str], words: list[str], tmp_path: Path) -> None:
    message = sweep_error(tmp_path, *options)
    assert all(word in message for word in words), message


def test_a_storage_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "--storage" in sweep_error(tmp_path, "--storage", str(tmp_path / "file" / "runs"))
    assert "--storage takes a folder" in sweep_error(tmp_path, "--storage", "")  # a shell's unset variable


def test_a_ray_that_does_not_start_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tmp_path / ("long" * 30)  # longer than a socket's name may be
    files.mkdir()
    monkeypatch.setenv("TMPDIR", str(files))
    status, _, errors = Driver(tmp_path).finish()
    assert status == 1 and errors.startswith("Ray did not start on this machine ("), errors
    assert "Traceback" not in errors and str(files / "ray" / "session_latest" / "logs") in errors
    assert not list(tmp_path.glob("runs/*")), "something was written before the error"


def test_a_time_budget_that_ends_before_the_first_result_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    status, output, errors = Driver(folder, "--time-budget", "1s").finish()
    assert status == 1 and "The time is up with 3 trials unfinished; go on with: " in errors, output + errors
    assert shlex.quote(str(next((folder / "runs").iterdir()))) in errors


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_plan_is_never_a_fresh_start(damage: str, whole: tuple[Path, str], tmp_path: Path) -> None:
    text = (whole[0] / "sweep.json").read_text()
    damaged = {"truncate": text[: len(text) // 2], "flip": text.replace("0.02", "0.03"), "empty": ""}[damage]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "sweep.json").write_text(damaged)
    message = sweep_error(tmp_path, "--resume", str(tmp_path / "run"))
    assert "damaged" in message
    assert sorted(os.listdir(tmp_path / "run")) == ["sweep.json"]


def test_a_dry_run_names_trials_and_programs_and_writes_nothing(tmp_path: Path) -> None:
    status, output, errors = Driver(tmp_path, "--dry-run", "--json").finish()
    assert status == 0, errors
    facts = json.loads(output)
    assert [trial["label"] for trial in facts["trials"]] == ["num_components=1", "num_components=2", "num_components=3"]
    assert facts["programs"] == 3 and facts["expected_device_hours"] is None
    assert not (tmp_path / "runs").exists()

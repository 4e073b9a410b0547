"""Sweeps that are submitted to a cluster: started once, followed, stopped with all they know, and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_connection import environment, free_port
from test_sweep import SWEEP, results

from raymix.cli import main
from raymix.jobs import Jobs, kept_by_resume
from raymix.types import UsageError

PROJECT = str(Path(__file__).parents[1])


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """Ray's files and token; not in pytest's folder, as the names of sockets would get too long."""
    with tempfile.TemporaryDirectory(prefix="raymix-") as name:
        (Path(name) / ".ray").mkdir()
        (Path(name) / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
        yield Path(name)


@pytest.fixture(scope="module")
def dashboard(home: Path) -> Iterator[str]:
    """Address of the dashboard of a cluster that `ray start` made, which asks for a token."""
    port = free_port()
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={free_port()}"]
    options = ["--num-cpus=2", f"--dashboard-port={port}", "--dashboard-host=127.0.0.1"]
    options += [f"--ray-client-server-port={free_port()}", "--object-store-memory=100000000"]
    # Its default is one port for all Rays of a machine, and only the first that has it can start jobs.
    options.append(f"--dashboard-agent-listen-port={free_port()}")
    node = subprocess.Popen(
        [*command, *options],
        env={**environment(home), "RAY_AUTH_MODE": "token", "PYTHONPATH": PROJECT},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert node.stdout is not None
    try:
        for line in node.stdout:
            if "Ray runtime started" in line:
                break
        else:
            pytest.fail("no cluster was started")
        yield f"http://127.0.0.1:{port}"
    finally:
        node.terminate()
        try:
            node.wait(30)
        finally:
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait()
            node.stdout.close()


def raymix(home: Path, folder: Path, *words: str) -> subprocess.Popen[str]:
    """The command as a user's process in a project's folder."""
    start = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    return subprocess.Popen(
        [sys.executable, "-c", f"{start}; from raymix.cli import main; main(sys.argv[1:])", *words],
        cwd=folder,
        env={**environment(home), "PYTHONPATH": PROJECT, "RAY_AUTH_MODE": "token"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(home: Path, folder: Path, *words: str) -> tuple[int, str, str]:
    process = raymix(home, folder, *words)
    output, errors = process.communicate(timeout=240)
    return process.returncode, output, errors


def wait_for(what: str, condition, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.mark.timeout(900)
def test_a_sweep_is_submitted_once_stopped_and_resumed(home: Path, dashboard: str, tmp_path: Path) -> None:
    project, runs = tmp_path / "project", tmp_path / "runs"
    (project / "sweeps").mkdir(parents=True)
    (project / "sweeps/small_sweep.py").write_text(SWEEP)
    at = ("--address", dashboard)
    command = ("submit", *at, "--storage", str(runs), "sweeps/small_sweep.py", "--eager", "--no-dashboard")
    command += ("--log-to", "tensorboard")
    # It is followed; Ctrl-C leaves it running.
    process = raymix(home, project, *command)
    wait_for("the sweep began", lambda: len(list(runs.glob("*/ledger/*.parquet"))) >= 3 or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "goes on. Come back with: raymix status" in errors, output + errors
    job = output.split()[0]
    assert job.startswith("small_sweep-") and "3 trials of lom" in output
    # The same again finds it.
    status, output, _ = said(home, project, *command[:3], "--json", *command[3:])
    assert status == 0 and json.loads(output) == {"id": job, "new": False, "status": "RUNNING"}
    status, output, errors = said(home, project, "stop", *at, job)
    assert status == 0 and f"raymix resume {job}" in output, errors

    def ended() -> bool:
        (facts,) = json.loads(said(home, project, "status", *at, "--json", job)[1])
        return facts["status"] == "STOPPED"

    wait_for("the sweep ended", ended)
    status, output, _ = said(home, project, "status", *at, job)
    assert status == 1 and "Every report so far is saved; go on with:" in output
    # To its end, and each row once.
    status, output, errors = said(home, project, "resume", *at, job)
    assert status == 0 and f"{job.rsplit('-', 1)[0]}" in output and "num_components" in output, output + errors
    (run,) = (path for path in runs.iterdir() if path.is_dir())
    assert len(results(run)) == 3 * 2 * (2 + 10) and f"tensorboard --logdir {run}/tensorboard" in output
    _, output, _ = said(home, project, "status", *at)
    assert [line.split()[1] for line in output.splitlines()] == ["STOPPED", "SUCCEEDED"]
    for words, message in (
        (("stop", *at, job), "has ended already"),
        (("status", *at, "nothing"), f"there is no sweep 'nothing' on {dashboard}; there are: {job}"),
        (("submit", *at, "--storage", "runs", "sweeps/small_sweep.py"), "--storage takes a folder that all nodes"),
        (("submit", *at, "--storage", "/runs", "sweeps/none.py"), "is no file below"),
        ((*command, "--storage", "x"), "--storage is an option of `raymix submit`"),
        ((*command, "--json"), "--json is an option of `raymix submit`; give it before the sweep's file"),
        ((*command, "--resume=x"), "`raymix resume ID` goes on with its run"),
        (("submit", "--storage", "/runs", "x.py", f"--address={dashboard}"), "--address is an option of"),
    ):
        status, _, errors = said(home, project, *words)
        assert status == 2 and message in errors


def test_a_run_that_goes_on_is_run_as_before() -> None:
    words = "--address auto --storage /x --eager --time-budget 8h --environment-patience=6s --set beta=3"
    words += " --log-to=mlflow --log-to wandb"
    kept = ["--eager", "--time-budget=8h", "--environment-patience=6s", "--log-to=mlflow", "--log-to=wandb"]
    assert kept_by_resume(words.split()) == kept
    assert kept_by_resume([]) == []


def test_names_and_folders_that_are_unusual(home: Path, dashboard: str, tmp_path: Path) -> None:
    """An id needs no quotes, whatever the file's name; a folder that is too large to travel is one sentence."""
    (tmp_path / "my sweep [1].py").write_text("print('here')")
    command = ("submit", "--address", dashboard, "--storage", "/runs", "my sweep [1].py")
    status, output, errors = said(home, tmp_path, *command)
    assert status == 0 and output.startswith("my-sweep-1-") and "here" in output, output + errors
    assert "WebSocket" not in output + errors
    (tmp_path / "data.bin").write_bytes(os.urandom(101 * 2**20))
    status, _, errors = said(home, tmp_path, *command)
    assert status == 2 and "is too large to travel" in errors and ".gitignore" in errors, errors
    assert "Traceback" not in errors
    (tmp_path / ".gitignore").write_text("*.bin")
    assert said(home, tmp_path, *command)[0] == 0


def test_without_a_cluster_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["status", "--address", f"http://127.0.0.1:{free_port()}"])
    error = capsys.readouterr().err
    assert "no dashboard of a Ray cluster answers at http://127.0.0.1:" in error and error.count("\n") == 1
    with pytest.raises(UsageError, match="--address takes the dashboard's"):
        Jobs("127.0.0.1:6379")

"""Runs on an object store: a server that speaks S3, on loopback."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from test_sweep import ROWS, Driver, results

from raymix import checkpoint, export, lease, snapshots
from raymix.cli import main as raymix_command
from raymix.dash.watch import Storage
from raymix.files import append_durably, matching, path_of, remove_tree, write_atomically
from raymix.remote import RemotePath, StoreError
from raymix.report import find_run
from raymix.run_folder import locked, new_run_folder, writable_folder
from raymix.types import UsageError


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[str]:
    """The server's address. It holds the empty bucket `lab`; this process and its children use it for s3://."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            environment.setenv(name, value)
        with urllib.request.urlopen(urllib.request.Request(f"{address}/lab", method="PUT")):
            pass
        yield address
    server.stop()


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    """An empty folder on a disk, and one on the store."""
    if request.param == "disk":
        return tmp_path
    return path_of(f"s3://lab/{tmp_path.name}")


def test_paths_behave_as_on_a_disk(folder: Path) -> None:
    one = folder / "runs" / "a" / "ledger"
    one.mkdir(parents=True)
    with pytest.raises(FileExistsError):
        one.mkdir()
    one.mkdir(exist_ok=True)
    write_atomically(one / "x.parquet", b"first")
    write_atomically(one / "x.parquet", b"second")
    write_atomically(str(folder / "runs" / "a" / "sweep.json"), "\u03bb")
    assert (one / "x.parquet").read_bytes() == b"second"
    assert (folder / "runs" / "a" / "sweep.json").read_text() == "\u03bb"
    assert [path.name for path in one.iterdir()] == ["x.parquet"]
    assert matching(folder / "runs", "*/ledger/*.parquet") == [one / "x.parquet"]
    assert matching(folder / "nowhere", "*") == []
    assert one.is_dir() and not one.is_file() and one.exists()
    assert (one / "x.parquet").is_file() and not (one / "x.parquet").is_dir() and not (one / "y").exists()
    assert (one / "x.parquet").stat().st_size == 6 and (one / "x.parquet").stat().st_mtime_ns > 1e18
    assert (one.name, one.parent.name, (one / "x.parquet").suffix) == ("ledger", "a", ".parquet")
    assert (one / "x.parquet").with_suffix(".json") == one / "x.json"
    assert one.is_relative_to(folder) and not folder.is_relative_to(one)
    assert path_of(str(one)) == one and path_of(f"{folder / 'runs'}/b/../a/ledger") == one
    for missing in (one / "y", folder / "nowhere" / "y"):
        with pytest.raises(FileNotFoundError):
            missing.read_bytes()
        with pytest.raises(FileNotFoundError):
            missing.stat()
    append_durably(one / "lines", b"a\n")
    append_durably(one / "lines", b"b\n")
    assert (one / "lines").read_bytes() == b"a\nb\n"
    remove_tree(folder / "runs" / "a")
    assert not one.exists() and not (folder / "runs" / "a" / "sweep.json").exists()


def test_a_uri_keeps_its_options(server: str) -> None:
    options = f"?region=us-east-1&scheme=http&endpoint_override={server.removeprefix('http://')}"
    root = path_of(f"s3://lab/with/options/{options}")
    write_atomically(root / "run" / "file", b"there")
    assert str(root / "run") == f"s3://lab/with/options/run{options}"
    assert path_of(str(root / "run" / "file")).read_bytes() == b"there"
    assert [path_of(str(path)).read_bytes() for path in matching(root, "*/file")] == [b"there"]


def test_checkpoints_and_snapshots_are_the_same_there(folder: Path) -> None:
    state = {"config_id": "0" * 12, "phase_index": 0, "step": 3, "seeds": [0], "diverged": [False]}
    (folder / "checkpoint_000000").mkdir(parents=True)
    checkpoint.write(folder / "checkpoint_000000", checkpoint.Checkpoint(state, [{"w": np.arange(3.0)}]))
    found, problems = checkpoint.newest(matching(folder, "checkpoint_*"), limit=[0, 3])
    assert found is not None and found.state == state and not problems
    np.testing.assert_array_equal(found.members[0]["w"], np.arange(3.0))
    flipped = bytearray((folder / "checkpoint_000000" / "member-0.npz").read_bytes())
    flipped[-1] ^= 1
    (folder / "checkpoint_000000" / "member-0.npz").write_bytes(bytes(flipped))
    found, problems = checkpoint.newest(matching(folder, "checkpoint_*"), limit=[0, 3])
    assert found is None and "member-0.npz" in problems[0]
    snapshots.write(folder, "0" * 12, "main", 5, 1, {"net/weight": np.ones(2)})
    (one,) = snapshots.find(folder)
    assert (one.config_id, one.phase, one.step, one.seed) == ("0" * 12, "main", 5, 1)
    np.testing.assert_array_equal(one.read()["net/weight"], np.ones(2))


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("s3://key:secret@lab/runs", "AWS_SECRET_ACCESS_KEY"),
        ("s3:///runs", "names no bucket"),
        ("s3:/lab/runs", "write s3://..."),
        ("ftp://host/runs", "give a local path or a URI such as s3://bucket/runs"),
        ("s3://no-such-bucket/runs", "cannot write to the storage folder s3://no-such-bucket/runs"),
    ],
)
def test_a_storage_that_cannot_be_is_a_sentence(uri: str, told: str) -> None:
    with pytest.raises(UsageError) as refused:
        writable_folder(uri)
    assert told in str(refused.value) and "\n" not in str(refused.value)
    assert "key:secret" not in str(refused.value)


def test_a_store_that_is_away_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    away = "s3://lab/runs?region=us-east-1&scheme=http&endpoint_override=127.0.0.1:9"
    for command in (["report", away], ["dash", away]):
        with pytest.raises(SystemExit, match="1"):
            raymix_command(command)
        told = capsys.readouterr().err
        assert told.startswith("error: s3://lab/runs") and "cannot be used" in told and told.count("\n") == 1


def test_a_store_that_is_away_damages_no_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a trial that starts from its beginning because the store did not answer for a moment."""
    folder = path_of("s3://lab/away/checkpoint_000000")
    state = {"config_id": "0" * 12, "phase_index": 0, "step": 3, "seeds": [0], "diverged": [False]}
    checkpoint.write(folder, checkpoint.Checkpoint(state, [{"w": np.arange(3.0)}]))
    read_bytes = RemotePath.read_bytes
    for name in ("manifest.json", "member-0.npz"):

        def read(path: RemotePath, name: str = name) -> bytes:
            if path.name == name:
                raise StoreError(f"{path} cannot be used")
            return read_bytes(path)

        with monkeypatch.context() as patch, pytest.raises(StoreError, match=name):
            patch.setattr(RemotePath, "read_bytes", read)
            checkpoint.newest([folder], limit=[0, 3])
    assert checkpoint.newest([folder], limit=[0, 3])[0] is not None


def test_a_lease_that_cannot_be_read_is_none() -> None:
    run = new_run_folder(writable_folder("s3://lab/unreadable"), "sweep", {"trials": []})
    for content in (b"", b"[]", b"{}", b"\xff"):
        (run / ".lock").write_bytes(content)
        with locked(run):
            pass


def test_one_process_runs_a_sweep() -> None:
    run = new_run_folder(writable_folder("s3://lab/leased"), "sweep", {"trials": []})
    assert isinstance(run, RemotePath)
    with locked(run):
        with (
            pytest.raises(UsageError, match=f"another process \\({os.getpid()} on .*stop it, or wait for it"),
            locked(run),
        ):
            pass
        assert (run / ".lock").exists()
    assert not (run / ".lock").exists()
    with locked(run):
        ours = json.loads((run / ".lock").read_text())
    for holder, held in [
        ({"host": "elsewhere"}, True),
        ({"process": 2**22 + 1}, False),  # beyond any process number: it was killed
        ({"host": "elsewhere", "renewed": ours["renewed"] - lease.LEASE_S - 1}, False),
    ]:
        (run / ".lock").write_bytes(json.dumps({**ours, **holder}).encode())
        if held:
            with pytest.raises(UsageError, match="elsewhere"), locked(run):
                pass
        else:
            with locked(run):
                pass


def test_who_lost_the_lease_stops(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 0.2)
    # A shell starts what it puts in the background with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    run = new_run_folder(writable_folder("s3://lab/lost"), "sweep", {"trials": []})
    with pytest.raises(KeyboardInterrupt), locked(run):
        taken = {**json.loads((run / ".lock").read_text()), "host": "elsewhere", "process": 7, "token": "theirs"}
        (run / ".lock").write_bytes(json.dumps(taken).encode())
        threading.Event().wait(30)
    signal.signal(signal.SIGINT, before)
    assert "Process 7 on elsewhere took over" in capsys.readouterr().err
    assert json.loads((run / ".lock").read_text())["token"] == "theirs"


def test_a_killed_sweep_on_the_store_goes_on_as_one_on_a_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "disk").mkdir()
    status, _, errors = Driver(tmp_path / "disk").finish()
    assert status == 0, errors
    (undisturbed,) = (tmp_path / "disk" / "runs").iterdir()
    driver = Driver(tmp_path, storage="s3://lab/team/runs")
    driver.wait_for_segments(8)
    driver.process.kill()
    driver.finish()
    run = find_run("s3://lab/team/runs")
    assert len(results(run)) < ROWS
    status, output, errors = Driver(tmp_path, "--resume", "s3://lab/team/runs", storage="s3://lab/team/runs").finish()
    assert status == 0, errors
    assert results(run) == results(undisturbed)
    assert str(run) in output and f"raymix report {run}" in output
    assert not list(tmp_path.glob("s3:*")), "something took the URI for a name"

    raymix_command(["report", str(run)])
    told = capsys.readouterr().out
    raymix_command(["report", str(undisturbed)])
    table = [line for line in capsys.readouterr().out.splitlines() if "num_components" in line]
    assert table and all(line in told for line in table)
    page = tmp_path / "page.html"
    raymix_command(["report", "s3://lab/team/runs", "--html", str(page), "--csv", "s3://lab/team/all.csv"])
    assert run.name in page.read_text() and path_of("s3://lab/team/all.csv").is_file()
    exported = export.export(str(run))
    assert path_of(exported.policy).is_file() and exported.policy.startswith("s3://lab/team/runs/")
    storage = Storage("s3://lab/team/runs")
    assert [line["name"] for line in storage.listing()] == [run.name]
    watched = storage.watched(run.name)
    assert watched is not None
    watched.update()
    assert watched.facts is not None and not watched.reading


def test_train_keeps_its_run_on_the_store(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "bc", "--dataset", "two-modes", "--steps", "60", "--evaluate-every", "20", "--eager"]
    raymix_command([*command, "--seeds", "2", "--storage", "s3://lab/trained"])
    run = find_run("s3://lab/trained")
    assert {path.name for path in run.iterdir()} >= {"sweep.json", "ledger", "trials", "report"}
    assert len(matching(run, "trials/local/*/checkpoint_*")) == 2


def test_a_uri_that_would_mean_another_place_is_refused() -> None:
    with pytest.raises(UsageError, match="holds a #"):
        path_of("s3://lab/run#1")
    with pytest.raises(UsageError, match="file:///tmp/"):
        path_of("file://tmp/x")
    assert path_of("file:///tmp/a/../x#1") == path_of("file://localhost/tmp/x#1") == Path("/tmp/x#1")


def test_paths_with_options_lie_in_their_folder() -> None:
    folder = path_of("s3://lab/x?region=eu-west-1")
    assert (folder / "y").is_relative_to(folder) and (folder / "y").is_relative_to(folder.parent)
    assert not folder.parent.is_relative_to(folder) and not (folder.parent / "xy").is_relative_to(folder)
    assert not path_of("s3://lab/x/y").is_relative_to(folder)

"""Connecting to a running Ray cluster, and what is said where there is none."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raymix import cluster
from raymix.cluster import connected
from raymix.types import UsageError

# Ray comes first, as in a sweep's file that imports it: settings made later must still take effect.
DRIVER = """
import sys
import ray
from raymix.cluster import connected
from raymix.types import UsageError
try:
    with connected(*sys.argv[1:], dashboard=False) as found:
        actor = ray.remote(num_cpus=0)(type("Six", (), {"times": lambda self, by: 6 * by})).remote()
        print(found.cpus, found.gpus, found.elastic, ray.get(actor.times.remote(7)))
except UsageError as problem:
    print(problem)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(home: Path) -> dict[str, str]:
    """Loopback only, and a home folder of its own for Ray's token and its files.

    `ray start` leaves the address of its cluster among those files, where every later Ray of this machine looks.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ours = {"HOME": str(home), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    return {**kept, **ours, "RAY_TMPDIR": str(home)}


def said_by_driver(home: Path, *address: str) -> str:
    command = [sys.executable, "-c", DRIVER, *address]
    driver = subprocess.run(command, env=environment(home), capture_output=True, text=True, timeout=60)
    assert driver.returncode == 0, driver.stderr
    return driver.stdout


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """Home folder with a token, which `ray start --head` asks for from then on.

    Not in pytest's folder: the names of Ray's sockets would get longer than the system allows.
    """
    with tempfile.TemporaryDirectory(prefix="raymix-") as name:
        folder = Path(name)
        (folder / ".ray").mkdir()
        (folder / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
        yield folder


@pytest.fixture(scope="module", params=["token", "disabled"])
def head(home: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of a head node that `ray start` made, which asks for the token or for none."""
    address = f"127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    # Ray Client's server wants a port of its own, 10001, which another test's Ray may have.
    options = ["--num-cpus=3", "--include-dashboard=false", f"--ray-client-server-port={free_port()}"]
    node = subprocess.Popen(
        [*command, *options, "--object-store-memory=80000000"],
        env={**environment(home), "RAY_AUTH_MODE": request.param},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a process group of its own, by which it ends whole
    )
    assert node.stdout is not None
    try:
        lines = []
        for line in node.stdout:
            lines.append(line)
            if "Ray runtime started" in line:
                break
        else:
            pytest.fail("".join(lines))
        yield address
    finally:
        node.terminate()  # it ends its own Ray's processes on this signal
        try:
            node.wait(20)
        finally:
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait()
            node.stdout.close()


def test_a_running_cluster_is_used_with_its_token_or_without(head: str, home: Path) -> None:
    assert said_by_driver(home, head).split() == ["3", "0", "True", "42"]


def test_without_an_address_the_cluster_next_door_is_left_alone(head: str, home: Path) -> None:
    assert head in (home / "ray" / "ray_current_cluster").read_text(), "Ray would not find it"
    assert said_by_driver(home).split() == [str(cluster._usable_cpus()), "0", "False", "42"]


@pytest.mark.parametrize("head", ["token"], indirect=True)
def test_rays_own_reason_is_told(head: str, tmp_path: Path) -> None:
    said = said_by_driver(tmp_path, head)
    assert head in said and "token" in said


def test_a_port_that_is_not_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    """It listens and never answers, as other services do to Ray; Ray itself would wait 80 s and end the process."""
    monkeypatch.setattr(cluster, "_PROBE_S", 4.0)
    monkeypatch.setattr(cluster, "_has_token", lambda: False)  # the mode would stay set for the tests after this one
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(UsageError, match=rf"{address} .*6379.*8265"), connected(address):
            pass
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("here", "HOST:PORT"),
        ("127.0.0.1", "HOST:PORT"),
        (":6379", "HOST:PORT"),
        ("http://127.0.0.1:8265", "HOST:PORT"),
        ("ray://127.0.0.1:10001", "ray attach"),
        ("..:6379", "no Ray cluster"),
        ("127.0.0.1:99999", "no Ray cluster"),
        ("127.0.0.1:1", "ray start --head"),
    ],
)
def test_addresses_that_are_refused_at_once(address: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cluster, "_require_ray")  # no process is started to find out
    with pytest.raises(UsageError, match=said), connected(address):
        pass


def test_cpus_where_a_process_cannot_be_bound_to_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cluster._usable_cpus() == os.cpu_count()

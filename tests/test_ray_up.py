"""`ray up cluster.yaml`, really carried out: the head node and a worker are processes of this machine.

Of cluster.yaml only the provider, what belongs to it (auth, docker, machines, mounts), resources, ports and the
installation by pip are replaced. It starts the head node by its commands, whose autoscaler starts the worker by its
own; a sweep runs on both; `ray down` ends them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from local_nodes import end, processes
from test_connection import free_port
from test_packed_sweep import title
from test_sweep import ROWS, Driver, results

ROOT = Path(__file__).parents[1]


def on_this_machine(folder: Path, port: int) -> dict:
    """cluster.yaml for nodes that are processes."""
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    del config["docker"]
    # Ray fills these in for its own providers.
    config.update({name: [] for name in ("head_setup_commands", "worker_setup_commands", "cluster_synced_files")})
    config["file_mounts_sync_continuously"] = False
    config["initialization_commands"] = []
    config["auth"] = {"ssh_user": "nobody"}
    config["provider"] = {
        "type": "external",
        "module": "local_nodes.LocalNodes",
        "folder": str(folder),
        "python": sys.executable,
        "environment": environment(),
    }
    for kind in config["available_node_types"].values():
        kind["resources"], kind["node_config"] = {"CPU": 1}, {}
    assert len(config["setup_commands"]) == 1 and config["setup_commands"][0].startswith("pip install -e ~/raymix ")
    config["setup_commands"] = ["test -f ~/raymix/pyproject.toml"]

    def here(command: str) -> str:
        replaced = command.replace("6379", str(port)).replace(" --object-manager-port=8076", "")
        assert replaced.count(str(port)) == 1 and "8076" not in replaced
        if "--head" in command:
            replaced += f" --dashboard-port={free_port()} --temp-dir={folder}/ray"
        return replaced

    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        config[name] = [here(command) for command in config[name]]
    return config


def environment() -> dict[str, str]:
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_UP_enable_autoscaler_v2": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)]),
    }


class Up:
    """A cluster by its YAML."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.yaml = folder / "cluster.yaml"
        self.yaml.write_text(yaml.safe_dump(on_this_machine(folder, self.port)))

    def ray(self, *words: str, seconds: float = 180) -> str:
        """What `ray` prints."""
        names = [name for name in os.environ if name.startswith(("RAY_", "TUNE_"))]
        kept = {name: value for name, value in os.environ.items() if name not in names}
        done = subprocess.run(
            [str(Path(sys.executable).parent / "ray"), *words],
            env={**kept, **environment()},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
        logs = [path.read_text() for path in self.folder.glob("node-*/output.log")]
        assert done.returncode == 0, "\n".join([done.stdout, *logs])
        return done.stdout


@pytest.fixture
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    try:
        yield Up(folder)
    finally:
        end(folder)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ray_up_starts_a_cluster_that_a_sweep_runs_on(up: Up, tmp_path: Path) -> None:
    up.ray("up", str(up.yaml), "--yes", "--no-config-cache")
    head, worker = (up.folder / name for name in ("node-0", "node-1"))
    assert (head / "raymix" / "sweeps" / "lom_M.py").is_file() and not (head / "raymix" / ".git").exists()

    # As cluster.yaml says: "wait until it lists" the worker.
    deadline, nodes = time.monotonic() + 120, ""
    while "1 gpu_worker" not in nodes.partition("Pending:")[0]:
        assert time.monotonic() < deadline, nodes
        up.ray("exec", str(up.yaml), f"ray status --address=127.0.0.1:{up.port} > status.txt")
        nodes = (head / "status.txt").read_text()
    for node, commands in ((head, "--head"), (worker, "--address=$RAY_HEAD_IP")):
        (started,) = (line for line in (node / "commands.log").read_text().splitlines() if "ray start" in line)
        assert commands in started and "ray stop" not in started

    driver = Driver(tmp_path, "--address", f"127.0.0.1:{up.port}")
    seen: set[Path] = set()
    while seen != {head, worker}:
        assert driver.process.poll() is None, f"it ended, and its trials were on {seen} only"
        seen |= {node for node in (head, worker) if any("ray::Trial" in title(each) for each in processes(node))}
        time.sleep(0.2)
    status, _, errors = driver.finish()
    assert status == 0, errors
    (run,) = (tmp_path / "runs").iterdir()
    assert len(results(run)) == ROWS

    up.ray("down", str(up.yaml), "--yes")
    assert processes(up.folder) == []

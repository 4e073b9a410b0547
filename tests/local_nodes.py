"""Nodes for `ray up` that are processes of this machine: a provider for `provider: {type: external}`.

A node is a folder, which is its home, and whatever runs with its name in the environment. Commands that Ray would send
by ssh run here, with that home, so `~` is another place on each node. Ray's own parts are real: the command `ray up`,
the updater that copies files and runs the commands of the YAML, and the autoscaler on the head node, which starts
workers through this provider too.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock
from ray.autoscaler.command_runner import CommandRunnerInterface
from ray.autoscaler.node_provider import NodeProvider

MARK = "RAYMIX_LOCAL_NODE"
"""In the environment of each process of a node: the node's folder."""

# What Ray runs as `ray` on a node. With the setting that keeps Ray on loopback `ray start` refuses to join a cluster,
# of which it asks in one place of its own; everybody else reads the setting as it is.
RAY = """#!{python}
import types
from ray._private import ray_constants
from ray.scripts import scripts
scripts.ray_constants = types.SimpleNamespace(**{{**vars(ray_constants), "ENABLE_RAY_CLUSTER": True}})
scripts.main()
"""


class LocalNodes(NodeProvider):
    """The provider; what it knows is in a file, as `ray up` and the autoscaler are two processes."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self.folder = Path(provider_config["folder"])
        self._file = self.folder / "nodes.json"

    @contextlib.contextmanager
    def _nodes(self) -> Iterator[dict[str, dict[str, str]]]:
        """Tags by node, to be read or changed."""
        with FileLock(f"{self._file}.lock"):
            nodes = json.loads(self._file.read_text()) if self._file.exists() else {}
            yield nodes
            self._file.write_text(json.dumps(nodes))

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        with self._nodes() as nodes:
            return [name for name, tags in nodes.items() if tag_filters.items() <= tags.items()]

    def is_running(self, node_id: str) -> bool:
        with self._nodes() as nodes:
            return node_id in nodes

    def is_terminated(self, node_id: str) -> bool:
        return not self.is_running(node_id)

    def node_tags(self, node_id: str) -> dict[str, str]:
        with self._nodes() as nodes:
            return nodes.get(node_id, {})

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        with self._nodes() as nodes:
            nodes[node_id].update(tags)

    def external_ip(self, node_id: str) -> str:
        return "127.0.0.1"

    def internal_ip(self, node_id: str) -> str:
        return "127.0.0.1"

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        made = {}
        with self._nodes() as nodes:
            for _ in range(count):
                name = f"node-{len(list(self.folder.glob('node-*')))}"
                (self.folder / name / "bin").mkdir(parents=True)
                command = self.folder / name / "bin" / "ray"
                command.write_text(RAY.format(python=self.provider_config["python"]))
                command.chmod(0o755)
                nodes[name] = made[name] = dict(tags)
        return made

    def terminate_node(self, node_id: str) -> None:
        end(self.folder / node_id)
        with self._nodes() as nodes:
            nodes.pop(node_id, None)

    def get_command_runner(self, log_prefix: str, node_id: str, *_: Any, **more: Any) -> CommandRunnerInterface:
        return LocalCommands(self.folder / node_id, self.provider_config)


class LocalCommands(CommandRunnerInterface):
    """Runs a node's commands in a shell of this machine."""

    def __init__(self, home: Path, config: dict[str, Any]) -> None:
        self._home, self._config = home, config

    def run(
        self,
        cmd: str | None = None,
        timeout: int = 120,
        exit_on_fail: bool = False,
        port_forward: Any = None,
        with_output: bool = False,
        environment_variables: dict[str, object] | None = None,
        run_env: str = "auto",
        ssh_options_override_ssh_key: str = "",
        shutdown_after_run: bool = False,
    ) -> str:
        if cmd is None or cmd.strip().endswith("ray stop"):  # of `ray down`; it would end every Ray of this user
            end(self._home)
            return ""
        with (self._home / "commands.log").open("a") as log:
            log.write(f"{cmd}\n")
        values = {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in (environment_variables or {}).items()
        }
        own = {"HOME": str(self._home), MARK: str(self._home)}
        own["PATH"] = os.pathsep.join(
            [str(self._home / "bin"), str(Path(self._config["python"]).parent), os.environ["PATH"]]
        )
        with (self._home / "output.log").open("ab") as output:
            done = subprocess.run(
                ["bash", "-c", cmd],
                env={**os.environ, **self._config["environment"], **own, **values},
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                # A pipe would stay open for as long as what the command leaves running.
                stdout=subprocess.PIPE if with_output else output,
                stderr=output,
                timeout=timeout,
            )
        if done.returncode and exit_on_fail:
            raise SystemExit(f"{cmd} failed with {done.returncode}")
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, cmd)
        return done.stdout.decode() if with_output else ""

    def run_rsync_up(self, source: str, target: str, options: dict[str, Any] | None = None) -> None:
        to = Path(target.replace("~", str(self._home), 1))
        if Path(source).is_dir():
            left_out = [pattern.removeprefix("**/") for pattern in (options or {}).get("rsync_exclude") or ()]
            shutil.copytree(source, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*left_out))
        else:
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, to)

    def run_rsync_down(self, source: str, target: str, options: dict[str, Any] | None = None) -> None:
        shutil.copyfile(source.replace("~", str(self._home), 1), target)

    def remote_shell_command_str(self) -> str:
        return f"HOME={self._home} bash"


def processes(home: Path) -> list[psutil.Process]:
    """What runs on a node; or on any of a folder's nodes."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            mark = process.environ().get(MARK)
            if mark is not None and Path(mark).is_relative_to(home):
                found.append(process)
    return found


def end(home: Path) -> None:
    """End a node, or all nodes of a folder, by process."""
    for _ in range(2):  # what was being started by the first
        found = processes(home)
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(found, timeout=30)

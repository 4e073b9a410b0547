"""Ray for one sweep: a local one that listens on this machine only, or a running cluster."""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raymix.envs.build import OWN
from raymix.types import SweepFailed, UsageError

# Read by Ray when it is imported or when a process starts; a user's own setting wins.
_SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean what they mean to the driver
    "TUNE_ONLY_STORE_CHECKPOINT_SCORE_ATTRIBUTE": "1",  # else a driver grows with every report
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger holds the results, once
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a process that asks for no GPU must see none
    "RAY_AIR_NEW_OUTPUT": "0",  # only Tune's older reporter can be silent; raymix draws its own
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",  # a snapshot a report is meant
}
_LOCAL_SETTINGS = {
    # On Linux this, and not the node address, is what keeps every listener of Ray on loopback.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


# Run by an interpreter of its own: ray.init waits 80 s for a GCS that does not answer, in C++, and then leaves the
# process. It keeps to itself why it was refused (no token, another service's port), which the client tells at once.
# The actor finds out what ray.init does not: a cluster without tokens ends the actors of drivers that ask for one.
_PROBE = """
import sys
import ray
try:
    if sys.argv[1] != "auto":
        ray._raylet.GcsClient(address=sys.argv[1])
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
    print("connected", flush=True)
    ray.get(ray.remote(num_cpus=0)(type("Probe", (), {"answer": lambda self: 0})).remote().answer.remote())
except Exception as problem:
    print(str(problem).splitlines()[0].split(". ")[0])
    sys.exit(1)
"""
_PROBE_S = 15.0
"""For an answer as Ray."""
_ACTOR_S = 60.0
"""For a first process on the cluster."""


@dataclass(frozen=True)
class Cluster:
    """What a sweep needs to know about the Ray that it runs on."""

    cpus: int
    gpus: int
    dashboard: str | None
    """URL of Ray's dashboard."""
    elastic: bool
    """Whether nodes may join later, `cpus` and `gpus` being no bounds; true of any cluster, as Ray does not tell."""


@contextmanager
def connected(address: str | None = None, dashboard: bool = True) -> Iterator[Cluster]:
    """A Ray to run on: started here and stopped at the end, or the cluster at `address` ('auto' or HOST:PORT).

    Raises:
        UsageError: there is no cluster at `address`.
        SweepFailed: no Ray can be started here.
    """
    os.environ.update({name: value for name, value in _SETTINGS.items() if name not in os.environ})
    if address is None:
        os.environ.update({name: value for name, value in _LOCAL_SETTINGS.items() if name not in os.environ})
        os.environ.pop("RAY_ADDRESS", None)
    else:
        _require_listener(address)
    import ray

    if address is None and os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0":
        # Ray read the setting when it was imported, which a sweep's file may have done first; it is asked of this
        # constant. tests/test_sweep.py holds Ray to it.
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
    _skip_warnings_of_many_processes()
    if ray.is_initialized():
        raise UsageError("Ray is running in this process already; call ray.shutdown() before starting a sweep")
    if address is None:
        context = _start(dashboard)
    else:
        _require_ray(address)
        # The sweep's file may have imported Ray, which read RAY_AUTH_MODE. tests/test_connection.py holds it to this.
        ray._raylet.Config.initialize("")  # type: ignore[attr-defined]  # compiled, without stubs
        # Processes on other nodes do not inherit what this one was started with; a Ray job's do.
        in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        kept = {name: os.environ[name] for name in (OWN,) if name in os.environ and not in_job}
        context = ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": kept} if kept else None,
        )
    try:
        resources = ray.cluster_resources()
        url = getattr(context, "dashboard_url", None)
        yield Cluster(
            cpus=int(resources.get("CPU", 1)),
            gpus=int(resources.get("GPU", 0)),
            dashboard=f"http://{url}" if url else None,
            elastic=address is not None,
        )
    finally:
        ray.shutdown()


def _start(dashboard: bool) -> Any:
    """Ray's context, of a Ray of our own."""
    import ray

    try:
        return ray.init(
            address="local",  # without it Ray goes to the cluster that `ray start` last made here, if it left its file
            num_cpus=_usable_cpus(),
            include_dashboard=dashboard,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as problem:  # of many kinds, some of them bare: ports, sockets, disks, processes that are late
        why = (str(problem).strip().splitlines() or [type(problem).__name__])[0].rstrip(".")
        files = next(filter(None, (os.environ.get(name) for name in ("RAY_TMPDIR", "TMPDIR"))), "/tmp")
        raise SweepFailed(
            f"Ray did not start on this machine ({why}); it gives up after half a minute where the machine is busy, and"
            " needs room in memory and for its files (RAY_TMPDIR names another folder): try again. Its logs:"
            f" {files}/ray/session_latest/logs"
        ) from problem


def _skip_warnings_of_many_processes() -> None:
    """Ray warns of every few processes more than cores, on the screen; a sweep has them on purpose.

    $RAY_DEDUP_LOGS_SKIP_REGEX says the same, but is read when Ray is imported. tests/test_tune_contract.py holds Ray
    to this.
    """
    from ray._private import ray_logging

    for shown in (ray_logging.stdout_deduplicator, ray_logging.stderr_deduplicator):
        shown.skip_re = shown.skip_re or re.compile("PYTHON worker processes have been started on node")


def _usable_cpus() -> int:
    """CPUs that this process may use; macOS knows the machine's only."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_token() -> bool:
    named = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return named or (Path.home() / ".ray" / "auth_token").is_file()


def _require_listener(address: str) -> None:
    """Refuse a spelling that Ray cannot use, and a closed port: both are known at once."""
    if address.startswith("ray://"):
        raise UsageError(
            f"--address {address} is a Ray Client's, through which no sweep runs; run the script on the cluster's head"
            " node (`ray attach` or `ray exec`) with --address auto"
        )
    if address == "auto":
        return
    spelling = re.fullmatch(r"([^\s:/]+|\[[0-9a-fA-F:]+\]):([0-9]+)", address)
    if spelling is None:
        raise UsageError(f"--address takes auto or HOST:PORT, not {address!r}; leave it out to run on this machine")
    try:
        socket.create_connection((spelling[1].strip("[]"), int(spelling[2])), timeout=5).close()
    except (OSError, UnicodeError, OverflowError) as problem:  # no answer, no host name, no port number
        raise _no_cluster(address, str(problem)) from problem


def _require_ray(address: str) -> None:
    """Find out in processes that can be ended whether a Ray answers at `address`, with tokens or without.

    `ray start` asks for a token where it finds one on its machine; so does ray.init for 'auto' only.
    """
    modes = ["token", "disabled"] if "RAY_AUTH_MODE" not in os.environ and _has_token() else [None]
    reasons = []
    for mode in modes:
        reason = _problem_with(address, mode)
        if reason is None:
            if mode is not None:
                os.environ["RAY_AUTH_MODE"] = mode
            return
        reasons.append(reason)
    raise _no_cluster(address, reasons[0])


def _problem_with(address: str, mode: str | None) -> str | None:
    """Why no Ray can be used at `address` in a mode of authentication; None where one can."""
    probe = subprocess.Popen(
        [sys.executable, "-P", "-c", _PROBE, address],  # -P: no module of the current folder comes in
        env={**os.environ, **({"RAY_AUTH_MODE": mode} if mode else {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        try:
            output, _ = probe.communicate(timeout=_PROBE_S)
        except subprocess.TimeoutExpired as late:
            if b"connected" not in (late.stdout or b""):
                return f"nothing there answered as Ray within {_PROBE_S:g} s"
            output, _ = probe.communicate(timeout=_ACTOR_S)
    except subprocess.TimeoutExpired:
        return f"it started no process within {_ACTOR_S:g} s"
    finally:
        probe.kill()
    if probe.returncode == 0:
        return None
    return (output.strip().splitlines() or [f"Ray ended with exit code {probe.returncode}"])[-1]


def _no_cluster(address: str, reason: str) -> UsageError:
    return UsageError(
        f"no Ray cluster can be used at --address {address} ({reason}); its port is usually 6379 (8265 is its"
        " dashboard's), `ray start --head` starts one, and without --address the sweep runs on this machine"
    )

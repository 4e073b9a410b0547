"""Ray for one sweep: a local one that listens on this machine only, or a running cluster."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from raymix.types import UsageError

# Read by Ray when it is imported or when a process starts; a user's own setting wins.
_SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean what they mean to the driver
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


@dataclass(frozen=True)
class Cluster:
    """What a sweep needs to know about the Ray that it runs on."""

    cpus: int
    gpus: int
    dashboard: str | None
    """URL of Ray's dashboard."""


@contextmanager
def connected(address: str | None = None, cpus: int | None = None, dashboard: bool = True) -> Iterator[Cluster]:
    """A Ray to run on: started here and stopped at the end, or the cluster at `address` ('auto', HOST:PORT, ray://).

    Raises:
        UsageError: there is no cluster at `address`.
    """
    os.environ.update({name: value for name, value in _SETTINGS.items() if name not in os.environ})
    if address is None:
        os.environ.update({name: value for name, value in _LOCAL_SETTINGS.items() if name not in os.environ})
        os.environ.pop("RAY_ADDRESS", None)
    import ray

    if address is None and os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0":
        # Ray read the setting when it was imported, which a sweep's file may have done first; it is asked of this
        # constant. tests/test_sweep.py holds Ray to it.
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
    if ray.is_initialized():
        raise UsageError("Ray is running in this process already; call ray.shutdown() before starting a sweep")
    if address is not None:
        _require_listener(address)
    try:
        if address is None:
            context = ray.init(
                num_cpus=cpus or len(os.sched_getaffinity(0)),
                include_dashboard=dashboard,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        else:
            context = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as problem:
        if address is None:
            raise
        raise _no_cluster(address, str(problem).splitlines()[0]) from problem
    try:
        resources = ray.cluster_resources()
        url = getattr(context, "dashboard_url", None)
        yield Cluster(int(resources.get("CPU", 1)), int(resources.get("GPU", 0)), f"http://{url}" if url else None)
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Ray waits minutes for a cluster that is not there; a closed port is known at once."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not colon or not port.isdigit():
        raise UsageError(f"--address takes auto, HOST:PORT or ray://HOST:PORT, not {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as problem:
        raise _no_cluster(address, str(problem)) from problem


def _no_cluster(address: str, reason: str) -> UsageError:
    return UsageError(
        f"no Ray cluster answers at --address {address} ({reason}); start one with `ray start --head`, or leave"
        " --address out to run on this machine"
    )

"""Watching a sweep with tools that are not raymix's: Prometheus and Grafana, TensorBoard, MLflow, Weights & Biases.

Importing this loads none of them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
from collections.abc import Sequence

from raymix.files import AnyPath
from raymix.remote import RemotePath
from raymix.types import UsageError

TRACKERS = {
    "tensorboard": ("TensorBoard", "tensorboardX"),
    "mlflow": ("MLflow", "mlflow"),
    "wandb": ("Weights & Biases", "wandb"),
}
"""What `--log-to` takes: its name in words, and the module that it needs. The extra has the option's name."""

_SETTINGS = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}
"""Neither tells its makers what happens here; a user's own setting wins."""


def require(trackers: Sequence[str], storage: AnyPath) -> None:
    """Raise `UsageError` where one of `TRACKERS` is not installed, has no server or account, or cannot write there."""
    if trackers and isinstance(storage, RemotePath):
        raise UsageError(
            f"--log-to keeps files with the run, and none of {', '.join(TRACKERS)} writes them to {storage}; leave it"
            " out, or take a folder on a disk as storage"
        )
    if trackers:
        os.environ.update({name: value for name, value in _SETTINGS.items() if name not in os.environ})
    for name in trackers:
        title, module = TRACKERS[name]
        if importlib.util.find_spec(module) is None:
            raise UsageError(f"--log-to {name} needs {title}: pip install 'raymix[{name}]'")
    server = os.environ.get("MLFLOW_TRACKING_URI")
    if "mlflow" in trackers and server and (problem := _problem_with_mlflow(server)):
        raise UsageError(
            f"--log-to mlflow finds no MLflow at $MLFLOW_TRACKING_URI={server} ({problem}); start it there, or unset"
            " the variable to keep a database with the run"
        )
    if "wandb" in trackers and os.environ.get("WANDB_MODE") not in ("offline", "disabled") and not _logged_in():
        raise UsageError(
            "--log-to wandb has no account to log in with: run `wandb login`, or set WANDB_MODE=offline to keep the"
            " curves with the run until `wandb sync` sends them"
        )


def _problem_with_mlflow(server: str) -> str | None:
    """Why the server cannot be used; None where it can."""
    from mlflow import MlflowClient

    patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}  # of minutes otherwise
    added = {name: value for name, value in patience.items() if name not in os.environ}
    os.environ.update(added)
    try:
        MlflowClient(server).search_experiments(max_results=1)
    except Exception as problem:  # of the connection, of the server, of a spelling
        return (str(problem).strip() or type(problem).__name__).splitlines()[0]
    finally:
        for name in added:
            del os.environ[name]
    return None


def _logged_in() -> bool:
    import wandb

    with contextlib.redirect_stderr(io.StringIO()):  # it explains at length
        try:
            return bool(wandb.login(prompt=False))
        except Exception:  # no key, or one of an impossible form
            return False

"""Sweeps on a cluster from any machine that reaches its dashboard, as Ray Jobs.

The project's folder travels with the sweep; the cluster's nodes have raymix installed (`cluster.yaml` does that). A job
goes on whatever happens to the machine that submitted it. Its id is made from what it runs, so submitting the same
again while it runs follows it instead of starting another.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raymix.types import UsageError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
STOP_WAIT_S = 300
"""How long a sweep that is asked to stop may take to save; Ray itself would end it after 3 s."""
_AGENT_S = 60.0
"""How long a cluster that has just started may take until it accepts jobs."""
_MARK = "raymix"
"""The key of a job's metadata that holds its `storage`, and tells that it is a sweep of raymix."""
_EXCLUDED = [".git", "runs", "**/__pycache__", ".venv", "venv", "*.egg-info", "*.mp4"]
_RESULTS = re.compile(r"^results +(\S.*?) *$", re.MULTILINE)


@dataclass(frozen=True)
class Job:
    """A sweep that was submitted."""

    id: str
    status: str
    """Ray's word: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    entrypoint: str
    started: float | None
    """Unix seconds."""
    ended: float | None


def check_options(options: Sequence[str]) -> None:
    """Raise `UsageError` for options after the sweep's file that are meant for `raymix submit`, or have no use there.

    The sweep has a --json too, but what it prints then does not tell where its run is, which `raymix resume` needs.
    """
    for name in (option.split("=")[0] for option in options):
        if name in ("--address", "--storage", "--python", "--detach", "--json"):
            raise UsageError(f"{name} is an option of `raymix submit`; give it before the sweep's file")
        if name == "--resume":
            raise UsageError("--resume is not for a sweep that is submitted; `raymix resume ID` goes on with its run")


class Jobs:
    """The jobs of the cluster whose dashboard is at an address such as http://127.0.0.1:8265."""

    def __init__(self, address: str) -> None:
        """Raises `UsageError` where no dashboard answers."""
        self.address = address
        if urlsplit(address).scheme not in ("http", "https"):
            raise UsageError(f"--address takes the dashboard's, such as {DEFAULT_ADDRESS}, not {address!r}")
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # says that a job's output ended
        try:
            self._client = JobSubmissionClient(address)
        except Exception as problem:  # whatever its HTTP library raises
            reason = str(problem).strip().splitlines()[0]
            raise UsageError(
                f"no dashboard of a Ray cluster answers at {address} ({reason}); `ray dashboard cluster.yaml` brings it"
                f" to {DEFAULT_ADDRESS}"
            ) from problem

    def submit(self, script: str, options: Sequence[str], storage: str, python: str | None = None) -> tuple[Job, bool]:
        """Start a sweep, or find the same one running; the job, and whether it is new.

        Args:
            script: path of the sweep's file below the current folder, which travels to the cluster.
            options: the sweep's own options.
            storage: folder of the runs, which all nodes see.
            python: the cluster's interpreter; None: this one where the cluster is on this machine, else its `python`.
        """
        if not Path(script).is_file() or not Path(script).resolve().is_relative_to(Path.cwd()):
            raise UsageError(f"{script} is no file below {Path.cwd()}; submit from the folder that holds your sweeps")
        if "://" not in storage and not Path(storage).is_absolute():
            raise UsageError(
                f"--storage takes a folder that all nodes of the cluster see, such as /mnt/raymix/runs or"
                f" s3://bucket/runs, not {storage!r}"
            )
        relative = Path(script).resolve().relative_to(Path.cwd()).as_posix()
        return self._start(relative, ["--storage", storage, *options], python)

    def resume(self, job_id: str) -> tuple[Job, bool]:
        """Go on with the run of a job that ended; the new job."""
        before = self.find(job_id)
        if before.status in ("PENDING", "RUNNING"):
            raise UsageError(f"{job_id} is {before.status.lower()} still; follow it with `raymix status {job_id}`")
        found = _RESULTS.search(self.logs(job_id))
        if found is None:
            raise UsageError(f"{job_id} ended before its run began, so there is nothing to go on with; submit it again")
        python, script = shlex.split(before.entrypoint)[:2]
        return self._start(script, ["--resume", found[1], *kept_by_resume(shlex.split(before.entrypoint)[2:])], python)

    def _start(self, script: str, options: Sequence[str], python: str | None) -> tuple[Job, bool]:
        here = urlsplit(self.address).hostname in ("127.0.0.1", "localhost", "::1")
        python = python or (sys.executable if here else "python")
        entrypoint = shlex.join([python, script, "--address", "auto", *options])
        word = re.sub(r"[^\w.-]+", "-", Path(script).stem).strip("-") or "sweep"  # an id is typed into a shell
        stem = f"{word}-{hashlib.sha256(entrypoint.encode()).hexdigest()[:8]}"
        earlier = [job for job in self.all() if re.fullmatch(rf"{re.escape(stem)}(-\d+)?", job.id)]
        if running := [job for job in earlier if job.status in ("PENDING", "RUNNING")]:
            return running[0], False
        own = {name: os.environ[name] for name in ("RAYMIX_ENVIRONMENTS",) if name in os.environ}
        job_id = stem if not earlier else f"{stem}-{len(earlier) + 1}"
        runtime_env = {
            "working_dir": str(Path.cwd()),
            "excludes": _EXCLUDED,
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), "PYTHONUNBUFFERED": "1", **own},
        }
        until = time.monotonic() + _AGENT_S
        while True:
            try:
                self._client.submit_job(
                    entrypoint=entrypoint, submission_id=job_id, runtime_env=runtime_env, metadata={_MARK: script}
                )
            except (RuntimeError, ValueError) as problem:  # of Ray: what its dashboard says, and files over its limits
                reason = str(problem).strip().splitlines()[0].rstrip(".")
                if "No available agent" in reason and time.monotonic() < until:
                    time.sleep(1.0)
                    continue
                if "size" not in reason:
                    raise UsageError(f"{self.address} does not take the sweep now ({reason}); try again") from problem
                raise UsageError(
                    f"{Path.cwd()} is too large to travel to the cluster ({reason}); name data and results in its"
                    " .gitignore, or keep them elsewhere"
                ) from problem
            return self.find(job_id), True

    def all(self) -> list[Job]:
        """The sweeps that were submitted to this cluster, oldest first."""
        found = [info for info in self._client.list_jobs() if info.submission_id and _MARK in (info.metadata or {})]
        return [_job(info) for info in sorted(found, key=lambda info: info.start_time or 0)]

    def find(self, job_id: str) -> Job:
        """A job by its id; `UsageError` where there is none."""
        for info in self._client.list_jobs():
            if info.submission_id == job_id and _MARK in (info.metadata or {}):
                return _job(info)
        known = ", ".join(job.id for job in self.all()) or "none"
        raise UsageError(f"there is no sweep {job_id!r} on {self.address}; there are: {known}")

    def logs(self, job_id: str) -> str:
        """All that a job has printed."""
        return self._client.get_job_logs(job_id)

    def follow(self, job_id: str) -> AsyncIterator[str]:
        """What a job prints, from its beginning to its end."""
        return self._client.tail_job_logs(job_id)

    def stop(self, job_id: str) -> None:
        """Ask a running job to save and end; returns at once."""
        if self.find(job_id).status not in ("PENDING", "RUNNING"):
            raise UsageError(f"{job_id} has ended already; `raymix resume {job_id}` goes on with its run")
        self._client.stop_job(job_id)


def kept_by_resume(options: Sequence[str]) -> list[str]:
    """Those of a sweep's options that say how it runs, not what: a run that goes on has them again."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--eager", "--no-dashboard"):
        parser.add_argument(flag, action="store_true")
    for option in ("--time-budget", "--environment-patience"):
        parser.add_argument(option)
    parser.add_argument("--log-to", action="append")
    words = []
    for name, value in vars(parser.parse_known_args(options)[0]).items():
        option = f"--{name.replace('_', '-')}"
        if value:
            values = value if isinstance(value, list) else [value]
            words += [option if one is True else f"{option}={one}" for one in values]
    return words


def _job(info: Any) -> Job:
    seconds = [None if moment is None else moment / 1000 for moment in (info.start_time, info.end_time)]
    return Job(info.submission_id, str(info.status.value), info.entrypoint, *seconds)

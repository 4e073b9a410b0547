"""The commands `raymix submit | status | stop | resume`: sweeps on a cluster, from anywhere."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import sys
import time
from typing import Any

from raymix.jobs import DEFAULT_ADDRESS, Job, Jobs, check_options


def add_to(commands: Any) -> None:
    """Add the commands to those of `raymix`."""
    command = commands.add_parser(
        "submit",
        help="run a sweep on a cluster and leave it there",
        description="Send the current folder to a cluster and run a sweep of it there, as a Ray job. What it prints is"
        " shown; Ctrl-C ends only that. Options of the sweep come after its file: raymix submit --storage"
        " /mnt/raymix/runs sweeps/lom_M.py --seeds 5",
    )
    command.add_argument(
        "--storage",
        required=True,
        metavar="DIR",
        help="folder of the runs that all nodes see, or a URI such as s3://bucket/runs",
    )
    command.add_argument("--python", metavar="PATH", help="interpreter on the cluster (default: its `python`)")
    _shared(command)
    command.add_argument("script", help="the sweep's file, below the current folder")
    command.add_argument("options", nargs=argparse.REMAINDER, help="the sweep's own options")
    command.set_defaults(run=submit)

    command = commands.add_parser("status", help="the sweeps that were submitted to a cluster, or one and what it says")
    command.add_argument("job", nargs="?", help="show what this one prints; Ctrl-C ends only that")
    _shared(command)
    command.set_defaults(run=status)

    command = commands.add_parser("stop", help="let a submitted sweep save and end")
    command.add_argument("job", help="its id; `raymix status` lists them")
    _shared(command, follows=False)
    command.set_defaults(run=stop)

    command = commands.add_parser("resume", help="go on with a submitted sweep that ended, on the cluster")
    command.add_argument("job", help="its id; `raymix status` lists them")
    _shared(command)
    command.set_defaults(run=resume)


def _shared(command: argparse.ArgumentParser, follows: bool = True) -> None:
    command.add_argument(
        "--address",
        default=os.environ.get("RAY_ADDRESS", DEFAULT_ADDRESS),
        help="the cluster's dashboard (default: $RAY_ADDRESS, or %(default)s)",
    )
    if follows:
        command.add_argument("--detach", action="store_true", help="do not show what the sweep prints")
    command.add_argument("--json", action="store_true", help="print JSON and nothing else")


def submit(options: argparse.Namespace) -> None:
    """`raymix submit SWEEP.py`."""
    check_options(options.options)  # before an address is asked that is not meant
    jobs = Jobs(options.address)
    _started(jobs, *jobs.submit(options.script, options.options, options.storage, options.python), options)


def resume(options: argparse.Namespace) -> None:
    """`raymix resume JOB`."""
    jobs = Jobs(options.address)
    _started(jobs, *jobs.resume(options.job), options)


def _started(jobs: Jobs, job: Job, new: bool, options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps({"id": job.id, "new": new, "status": job.status}))
        return
    print(f"{job.id} {'is submitted' if new else 'runs already'}: {job.entrypoint}")
    if not options.detach:
        _follow(jobs, job.id)


def status(options: argparse.Namespace) -> None:
    """`raymix status [JOB]`."""
    jobs = Jobs(options.address)
    found = [jobs.find(options.job)] if options.job else jobs.all()
    if options.json:
        print(json.dumps([dataclasses.asdict(job) for job in found]))
        return
    for job in found:
        print(_line(job))
    if not found:
        print(f"no sweep was submitted to {options.address}")
    if options.job and not options.detach:
        _follow(jobs, options.job)


def stop(options: argparse.Namespace) -> None:
    """`raymix stop JOB`."""
    jobs = Jobs(options.address)
    jobs.stop(options.job)
    if options.json:
        print(json.dumps({"id": options.job}))
    else:
        print(f"{options.job} saves and ends; go on with: raymix resume {options.job} --address {options.address}")


def _follow(jobs: Jobs, job_id: str) -> None:
    """Show what a job prints until it ends; exits with 1 where it failed."""

    async def show() -> None:
        async for lines in jobs.follow(job_id):
            print(lines, end="", flush=True)

    try:
        asyncio.run(show())
    except KeyboardInterrupt:
        print(f"\n{job_id} goes on. Come back with: raymix status {job_id} --address {jobs.address}", file=sys.stderr)
        sys.exit(1)
    except RuntimeError as problem:
        print(
            f"the connection to {jobs.address} broke ({problem}); {job_id} goes on. Come back with: raymix status"
            f" {job_id} --address {jobs.address}",
            file=sys.stderr,
        )
        sys.exit(1)
    job = jobs.find(job_id)
    print(_line(job))
    if job.status != "SUCCEEDED":
        sys.exit(1)


def _line(job: Job) -> str:
    """A job for people."""
    from raymix.waiting import duration

    if job.started is None:
        return f"{job.id}  {job.status}"
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started))
    took = duration((job.ended or time.time()) - job.started)
    return f"{job.id}  {job.status}  {began}, {took}"

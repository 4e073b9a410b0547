"""The command `raymix reproduce`: tables and figures of papers, rebuilt."""

from __future__ import annotations

import argparse
import json
from typing import Any

from raymix.commands.shared import DEFAULT_STORAGE, refuse_beside_resume
from raymix.types import UsageError


def add_to(commands: Any) -> None:
    """Add the command to those of `raymix`."""
    command = commands.add_parser(
        "reproduce",
        help="rebuild a table or figure of a paper",
        description="Run what a table or figure of a paper needs, and print it beside the published numbers.",
    )
    command.add_argument("name", nargs="?", help="such as lom-table2; --list names them all")
    command.add_argument("--list", action="store_true", help="name all reproductions, with what they show")
    command.add_argument("--storage", metavar="DIR", help="folder of the runs, or s3://bucket/runs (default: runs)")
    command.add_argument(
        "--variant", help="another task of the same table (lom-table2: push, pick; dmpo-fig4: a data set)"
    )
    command.add_argument("--resume", metavar="DIR", help="go on with the run in this folder")
    command.add_argument("--address", metavar="ADDRESS", help="run on a Ray cluster: auto, or HOST:PORT")
    command.add_argument("--eager", action="store_true", help="do not compile the training step")
    command.add_argument("--json", action="store_true", help="print JSON and nothing else")
    command.set_defaults(run=reproduce)


def reproduce(options: argparse.Namespace) -> None:
    """`raymix reproduce NAME` and `raymix reproduce --list`."""
    from raymix.reproduce import base

    if options.list:
        titles = {name: (base.find(name).__doc__ or "").splitlines()[0] for name in base.names()}
        if options.json:
            print(json.dumps([{"name": name, "title": title} for name, title in titles.items()]))
            return
        for name, title in titles.items():
            print(f"{name:{max(map(len, titles))}}  {title}")
        return
    if not options.name:
        raise UsageError(f"name a reproduction; there are: {', '.join(base.names())}")
    if options.resume:
        refuse_beside_resume(options, "storage")
    capture = "eager" if options.eager else "auto"
    found = base.find(options.name)
    if options.variant and not hasattr(found, "VARIANTS"):
        raise UsageError(f"{options.name} has no variants; leave out --variant")
    how = base.Options(
        options.storage or DEFAULT_STORAGE, options.address, options.resume, options.variant, options.json, capture
    )
    outcome = found.reproduce(how)
    if options.json:
        print(json.dumps({"text": outcome.text, "files": list(outcome.files)}))
        return
    print(f"\n{outcome.text}\n")
    for file in outcome.files:
        print(file)

"""The commands `raymix dash | grafana`: runs while they train."""

from __future__ import annotations

import argparse
import os
from typing import Any

from raymix.commands.shared import DEFAULT_STORAGE
from raymix.dash import DEFAULT_PORT
from raymix.files import write_atomically
from raymix.types import UsageError


def add_to(commands: Any) -> None:
    """Add the commands to those of `raymix`."""
    command = commands.add_parser(
        "dash",
        help="watch runs live in a browser",
        description="A page of the runs in a storage folder, from their ledgers alone: while they train, after, and of"
        " a copied folder. Beyond loopback it needs Ray's token, and what it sends is not encrypted: where the network"
        " is not trusted, use `ssh -L` instead.",
    )
    command.add_argument("folder", nargs="?", help="the storage folder of runs, or a run (default: runs)")
    command.add_argument(
        "--port", type=int, default=DEFAULT_PORT, metavar="N", help="0: any free one (default: %(default)s)"
    )
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    command.set_defaults(run=dash)

    command = commands.add_parser(
        "grafana",
        help="the Grafana board of a running sweep",
        description="Print a Grafana board of raymix's gauges, for Dashboards > New > Import; or write it into the"
        " folder from which Grafana takes its boards. For a Grafana that was set up as Ray's manual says, that is"
        " /tmp/ray/session_latest/metrics/grafana/dashboards, or $RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR as it was"
        " when Ray started. Prometheus collects the gauges from Ray's nodes with the rest of Ray's metrics (`ray"
        " metrics launch-prometheus` starts one).",
    )
    command.add_argument("folder", nargs="?", metavar="DIR", help="write raymix_grafana_dashboard.json there")
    command.set_defaults(run=grafana)


def dash(options: argparse.Namespace) -> None:
    """`raymix dash [DIR]`."""
    from raymix.dash.server import serve

    serve(options.folder or DEFAULT_STORAGE, options.host, options.port)


def grafana(options: argparse.Namespace) -> None:
    """`raymix grafana [DIR]`."""
    from importlib import resources

    board = resources.files("raymix.watching").joinpath("grafana.json").read_text()
    if options.folder is None:
        print(board, end="")
        return
    path = os.path.join(options.folder, "raymix_grafana_dashboard.json")
    try:
        write_atomically(path, board)
    except OSError as problem:
        raise UsageError(
            f"cannot write {path} ({problem.strerror}); give a folder that is there, or none to print the board"
        ) from problem
    print(path)

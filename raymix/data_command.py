"""The commands `raymix data ...`: thin, everything they do can be called from Python."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from raymix.files import write_atomically
from raymix.types import UsageError


def add_to(commands: Any) -> None:
    """Add `data` and its actions to the commands of `raymix`."""
    data = commands.add_parser("data", help="list, make or describe data sets").add_subparsers(
        required=True, metavar="ACTION"
    )
    command = data.add_parser("list", help="data sets that can be named here")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=list_known)
    command = data.add_parser("make", help="make a data set of raymix's own, once; it is kept as a Minari data set")
    command.add_argument("name", help="such as fetchreach-multigoal")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=info, html=None)
    command = data.add_parser(
        "info",
        help="what is in a data set: sizes, returns, ends, saturated actions, duplicates",
        description="What is in a data set: sizes and spaces, lengths of episodes and how they end, returns of each"
        " source, rewards, the share of action entries at their box's edges, transitions that repeat another, and"
        " columns that never change.",
    )
    command.add_argument("name", help="a short name, a Minari id, or a mixture such as 'a + b'")
    command.add_argument("--html", metavar="FILE", help="also write a page with figures; it needs no other file")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=info)
    command = data.add_parser(
        "modes",
        help="is a data set multi-modal, and at which share of its states?",
        description="Fits mixtures of 1, 2, 5, 10 and 20 Gaussians to the actions of most episodes, asks held-out"
        " episodes how likely each makes their actions, and counts the separate modes of the smallest one that loses"
        " nothing. A mode here is of one state: where each source visits states of its own, two sources are one mode"
        " each. Actions nearer than about a tenth of their box are one; needs 10 episodes.",
    )
    command.add_argument("name", help="a short name, a Minari id, or a mixture such as 'a + b'")
    command.add_argument("--seeds", type=int, default=3, metavar="N", help="networks per size (default: %(default)s)")
    command.add_argument("--steps", type=int, default=3_000, metavar="N", help="of training (default: %(default)s)")
    command.add_argument("--html", metavar="FILE", help="also write a page with figures; it needs no other file")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=modes)


def list_known(options: argparse.Namespace) -> None:
    """`raymix data list`."""
    from raymix.data import catalog

    rows = catalog.known()
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        size = f"{row['transitions']:,} transitions" if row["transitions"] else "made on first use"
        short = f" ({row['short_name']})" if row["short_name"] else ""
        print(f"{row['name']}{short}\n    {size}; {row['description']}")


def info(options: argparse.Namespace) -> None:
    """`raymix data info NAME` and `raymix data make NAME`."""
    from raymix.data import describe
    from raymix.run_folder import load_dataset

    if options.html:
        check_page(options.html)
    dataset = load_dataset(options.name, quiet=options.json)
    facts = describe.describe(dataset)
    if options.html:
        from raymix.report import dataset_page

        write_atomically(options.html, dataset_page.info_page(dataset, facts))
    print(json.dumps(facts) if options.json else describe.text(facts))


def modes(options: argparse.Namespace) -> None:
    """`raymix data modes NAME`."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from raymix import modes
    from raymix.run_folder import load_dataset

    if options.html:
        check_page(options.html)
    dataset = load_dataset(options.name, quiet=options.json)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(elapsed_when_finished=True))
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=options.json) as bar:
        task = bar.add_task("fitting mixtures", total=1.0)
        result = modes.find_modes(
            dataset,
            seeds=options.seeds,
            steps=options.steps,
            progress=lambda share: bar.update(task, completed=share),
        )
    if options.html:
        from raymix.report import dataset_page

        write_atomically(options.html, dataset_page.modes_page(result, modes.text(result)))
    print(json.dumps(result) if options.json else modes.text(result))


def check_page(path: str) -> None:
    """Refuse a page that could not be written, before any work is done for it."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.access(folder, os.W_OK):
        raise UsageError(f"the page {path} cannot be written; name a file in a folder that is there and writable")

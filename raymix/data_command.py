"""The commands `raymix data ...`: thin, everything they do can be called from Python."""

from __future__ import annotations

import argparse
import json
from typing import Any


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
    command.set_defaults(run=info)
    command = data.add_parser("info", help="shapes, statistics, sources and environment of a data set")
    command.add_argument("name", help="a short name, a Minari id, or a mixture such as 'a + b'")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=info)


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
    from raymix.run_folder import load_dataset

    facts = load_dataset(options.name, quiet=options.json).spec.to_dict()
    if options.json:
        print(json.dumps(facts))
        return
    environment = json.loads(facts.pop("environment") or "{}").get("id")
    for name, value in {**facts, "environment": environment}.items():
        if isinstance(value, list):
            value = " ".join(f"{part:.4g}" if isinstance(part, float) else str(part) for part in value)
        print(f"{name:18} {value}")

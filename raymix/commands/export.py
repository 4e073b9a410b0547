"""The command `raymix export`: a policy as a file."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_to(commands: Any) -> None:
    """Add the command to those of `raymix`."""
    command = commands.add_parser(
        "export",
        help="a trained policy as one file that needs no raymix",
        description="Write a run's policy as TorchScript, with its normalisation and the action box inside, and a JSON"
        " card that says what it is: data set and hash, configuration, scores, versions.",
    )
    command.add_argument("folder", help="a run, or the storage folder of runs (then the newest)")
    command.add_argument("--config", metavar="ID", help="of the configuration (default: that of the best mean score)")
    command.add_argument("--seed", type=int, metavar="N", help="whose policy (default: that of the best score)")
    command.add_argument("--out", metavar="FILE.pt", help="default: exported/best.pt in the run's folder")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=export)


def export(options: argparse.Namespace) -> None:
    """`raymix export DIR`."""
    from raymix.export import export as write_policy

    done = write_policy(options.folder, options.out, options.config, options.seed)
    if options.json:
        print(json.dumps({"policy": done.policy, "card": done.card, **done.facts}))
        return
    facts = done.facts
    score = f"{facts['metric_in_words']} {facts['score']:.4g}"
    print(f"{facts['algorithm']} on {facts['dataset']}, seed {facts['seed']}, {score}")
    print(f"chosen from {facts['chosen_from']}\npolicy  {done.policy}\ncard    {done.card}\nuse     {facts['usage']}")

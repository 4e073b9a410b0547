"""The command `raymix compare`: two runs, configuration by configuration."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def add_to(commands: Any) -> None:
    """Add the command to those of `raymix`."""
    command = commands.add_parser(
        "compare",
        help="two runs, configuration by configuration",
        description="Differences (B - A) with 95 % intervals between configurations of the same algorithm, data set and"
        " hyperparameters; seeds are paired where both runs have them.",
    )
    command.add_argument("a", metavar="A", help="a run, or the storage folder of runs (then the newest)")
    command.add_argument("b", metavar="B", help="the other run")
    command.add_argument("--select", help="last, mean_last_3, or best (an oracle); default: as the runs were started")
    command.add_argument("--metric", help="return, normalized_score or held_out/NAME; default: as they were started")
    command.add_argument("--keep-going", action="store_true", help="leave out damaged parts of ledgers, and name them")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=compare)


def compare(options: argparse.Namespace) -> None:
    """`raymix compare A B`."""
    from raymix.report import SELECT, comparison, metric_in_words
    from raymix.report.runs import read_runs

    one, other = (
        read_runs([folder], options.select, options.metric, options.keep_going) for folder in (options.a, options.b)
    )
    frame, words = comparison.compare(one, other)
    words = list(dict.fromkeys([*one.notices, *other.notices, *words]))
    if options.json:
        print(frame.to_json(orient="records"))
        print("\n".join(words), end="\n" if words else "", file=sys.stderr)
        return
    print(f"{metric_in_words(one.metric)}, {SELECT[one.select]}\na  {one.folders[0]}\nb  {other.folders[0]}\n")
    print("\n".join([comparison.render(frame), *([""] if words else []), *words]))

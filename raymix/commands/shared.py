"""What several commands need."""

from __future__ import annotations

import argparse
import json
from typing import Any

from raymix.files import write_atomically
from raymix.types import UsageError

DEFAULT_STORAGE = "runs"
"""Where runs are kept when nobody says where."""


def refuse_beside_resume(options: argparse.Namespace, *names: str) -> None:
    """A resumed run keeps what it was started with: anything else asked for is refused, not ignored."""
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name)]
    if given:
        raise UsageError(
            f"a resumed run keeps the settings it was started with; leave out {' '.join(given)}, or start a new run"
        )


def write(path: str, text: str) -> None:
    """Write a file that the user named, whole or not at all."""
    try:
        write_atomically(path, text)
    except OSError as problem:
        raise UsageError(f"cannot write {path}: {problem.strerror or problem}; give another file") from problem


def show(result: Any, as_json: bool) -> None:
    """Print a `raymix.report.Report`."""
    if as_json:
        from raymix.report.tables import records

        print(json.dumps({"run": result.run_dir, "rows": records(result.frame)}))
        return
    print(f"\n{result.text}\n")
    print(f"table   {result.csv}\nfigure  {result.png}\nledger  {result.run_dir}/ledger")

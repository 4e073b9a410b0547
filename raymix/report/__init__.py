"""Reports of a run, made from its ledger alone."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raymix.types import UsageError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Report:
    """What `write_report` made: the table, and the paths of the files that show it."""

    run_dir: str
    text: str
    frame: pd.DataFrame
    """See `raymix.report.tables.score_table`; `raymix.report.tables.records` makes it JSON-ready."""
    csv: str
    txt: str
    png: str


def find_run(folder: str) -> str:
    """`folder` if it is a run (it holds a `sweep.json` or a ledger), else the newest run in it (a storage root).

    Newest is the run whose `sweep.json` was written last. Raises `UsageError` where there is none.
    """
    folder = os.path.abspath(os.path.expanduser(folder))
    if not os.path.isdir(folder):
        raise UsageError(f"there is no folder {folder}; give a run, or the storage root of runs")
    if os.path.exists(os.path.join(folder, "sweep.json")) or os.path.isdir(os.path.join(folder, "ledger")):
        return folder
    sweeps = [os.path.join(entry.path, "sweep.json") for entry in os.scandir(folder) if entry.is_dir()]
    found = [(os.stat(sweep).st_mtime_ns, sweep) for sweep in sweeps if os.path.isfile(sweep)]
    if not found:
        raise UsageError(f"{folder} is no run and holds none (a run has a sweep.json); give a run or its storage root")
    return os.path.dirname(max(found)[1])


def write_report(run_dir: str, select: str = "last", metric: str = "return") -> Report:
    """Write `scores.csv`, `scores.txt` and `scores.png` to `<run_dir>/report`, each whole or not at all.

    `run_dir` is a run, or a storage root (its newest run); `select` and `metric` as in `score_table`. Raises
    `UsageError` for a folder without a ledger, for a ledger without results, and for a folder that cannot be written.
    """
    from raymix import ledger
    from raymix.report import figures, tables

    run_dir = find_run(run_dir)
    if not os.path.isdir(os.path.join(run_dir, "ledger")):
        raise UsageError(f"{run_dir} has no ledger yet; start the run, or resume it, and ask again")
    frame = tables.score_table(ledger.read(os.path.join(run_dir, "ledger")), select, metric)
    if frame.empty:
        raise UsageError(f"the ledger of {run_dir} has no results yet; ask again after the run's first report")
    text = tables.render(frame)
    folder = os.path.join(run_dir, "report")
    csv, txt, png = (os.path.join(folder, f"scores.{kind}") for kind in ("csv", "txt", "png"))
    try:
        os.makedirs(folder, exist_ok=True)
        _write(csv, tables.to_csv(frame))
        _write(txt, text + "\n")
        figures.score_figure(frame, png)
    except OSError as error:
        raise UsageError(f"cannot write the report to {folder}: {error}; make the folder writable") from error
    return Report(run_dir=run_dir, text=text, frame=frame, csv=csv, txt=txt, png=png)


def _write(path: str, content: str) -> None:
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(content)
    os.replace(temporary, path)

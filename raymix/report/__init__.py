"""Reports of a run, made from its ledger; what its `sweep.json` knows beyond that is used where there is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raymix.files import AnyPath, matching, path_of, write_atomically
from raymix.types import UsageError

if TYPE_CHECKING:
    import pandas as pd

# Here and not with the tables: a sweep's specification is checked against them without importing pandas.
SELECT = {
    "last": "at the last evaluation",
    "mean_last_3": "mean of the last 3 evaluations",
    "best": "at each seed's best evaluation (oracle: chosen by the scores that it reports)",
}
"""The rules that pick a seed's score from its evaluations, in words."""
METRIC = {"return": "undiscounted return", "normalized_score": "normalized score"}
"""The metrics of episodes that were played, in words; normalized scores need a data set with references."""
HELD_OUT = "held_out/"
"""What the metrics begin with that are measured on held-out episodes, such as held_out/action_error. Less is better."""

ACTION_ERROR = f"{HELD_OUT}action_error"
"""Mean squared difference between the policy's action and the data's, per dimension of the unit box."""


def metric_in_words(metric: str) -> str:
    """A metric for titles and axes."""
    return METRIC.get(metric) or f"held-out {metric.removeprefix(HELD_OUT)} (less is better)"


def check_metric(metric: str) -> None:
    """Raise `UsageError` for what is no metric's name."""
    if metric not in METRIC and not (metric.startswith(HELD_OUT) and len(metric) > len(HELD_OUT)):
        raise UsageError(
            f"metric is one of {', '.join(METRIC)}, {ACTION_ERROR}, or {HELD_OUT}NAME for a loss of the"
            f" algorithm, not {metric!r}"
        )


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


def find_run(folder: str | AnyPath) -> AnyPath:
    """`folder` if it is a run (it holds a `sweep.json` or a ledger), else the newest run in it (a storage root).

    Newest is the run whose `sweep.json` was written last; one without results counts only where none has any. Raises
    `UsageError` where there is none.
    """
    folder = path_of(folder)
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}; give a run, or the storage root of runs")
    if is_run(folder):
        return folder
    sweeps = matching(folder, "*/sweep.json")
    if not sweeps:
        raise UsageError(f"{folder} is no run and holds none (a run has a sweep.json); give a run or its storage root")
    return max(sweeps, key=lambda sweep: (_has_results(sweep.parent), sweep.stat().st_mtime_ns, str(sweep))).parent


def is_run(folder: AnyPath) -> bool:
    """Whether a folder is a run: it holds a `sweep.json` or a ledger."""
    return (folder / "sweep.json").is_file() or (folder / "ledger").is_dir()


def _has_results(run: AnyPath) -> bool:
    # A ledger writes no segment without rows.
    return bool(matching(run, "ledger/*.parquet"))


def write_report(run_dir: str | AnyPath, select: str | None = None, metric: str | None = None) -> Report:
    """Write `scores.csv`, `scores.txt` and `scores.png` to `<run_dir>/report`, each whole or not at all; with another
    rule or metric than the run's own, `scores-RULE-METRIC.csv` and so on, so that the run's stay.

    `run_dir` is a run, or a storage root (its newest run); `select` and `metric` as in `score_table`, None being what
    the run's `sweep.json` says, or 'last' and 'return' without one. Raises `UsageError` for a folder without a ledger,
    for a ledger without results, and for a folder that cannot be written.
    """
    from raymix import ledger
    from raymix.report import figures, tables
    from raymix.report.evaluations import left_out_by, require_metric
    from raymix.report.lineage import lineages_in_words
    from raymix.search.halving import adds_seeds, stopped_trials
    from raymix.search.truth import costs, undecided_in_words

    run_dir = find_run(run_dir)
    if not (run_dir / "ledger").is_dir():
        raise UsageError(f"{run_dir} has no ledger yet; start the run, or resume it, and ask again")
    plan = _plan_of(run_dir)
    table = ledger.read(run_dir / "ledger")
    if metric is not None:
        require_metric(table, metric)
    own = plan.get("select", "last"), plan.get("metric", "return")
    asked = select or own[0], metric or own[1]
    frame = tables.score_table(
        table,
        select=asked[0],
        metric=asked[1],
        phases=plan.get("phases", {}),
        stopped=stopped_trials(plan, ledger.rows(table)),
        costs=costs(plan),
        seeds=plan["seeds"] if adds_seeds(plan) else (),
        left_out=left_out_by([plan]),
    )
    if frame.empty:
        raise UsageError(f"the ledger of {run_dir} has no results yet; ask again after the run's first report")
    text = tables.render(frame, planned=[trial["config_id"] for trial in plan.get("trials", ())])
    text = "\n".join([text, *lineages_in_words(plan, table, frame), *undecided_in_words(plan, run_dir)])
    folder = run_dir / "report"
    stem = "-".join(["scores", *(words.replace("/", "-") for words, its in zip(asked, own) if words != its)])
    csv, txt, png = (folder / f"{stem}.{kind}" for kind in ("csv", "txt", "png"))
    try:
        folder.mkdir(exist_ok=True)
        write_atomically(csv, tables.to_csv(frame))
        write_atomically(txt, text + "\n")
        figures.score_figure(frame, png)
    except OSError as error:
        raise UsageError(f"cannot write the report to {folder}: {error}; make the folder writable") from error
    return Report(run_dir=str(run_dir), text=text, frame=frame, csv=str(csv), txt=str(txt), png=str(png))


def _plan_of(run_dir: AnyPath) -> dict[str, Any]:
    """The run's `sweep.json`; empty where there is none or it is damaged, since a ledger can be reported without."""
    from raymix.plan import read_description

    try:
        return read_description(run_dir)
    except UsageError:
        return {}

"""Where the best member of a population has its networks from, by the ledger: who was copied when, which values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raymix import ledger
from raymix.report import HELD_OUT
from raymix.report.tables import text

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Ancestor:
    """Who trained networks from a step on, and with which values."""

    config_id: str
    since: int
    """Gradient steps of the last phase."""
    config: Mapping[str, Any]


def ancestry(rows: Sequence[ledger.Row], config_id: str) -> list[Ancestor]:
    """Who trained the networks that a member has now, the first one first; `rows` are those of the last phase."""
    own: dict[str, list[ledger.Row]] = defaultdict(list)
    for row in rows:
        own[row.config_id].append(row)
    found: list[Ancestor] = []
    until = max(row.step for row in own[config_id])
    while True:
        # The parent's row at the step of the copy tells of its networks before it.
        last = max((row for row in own[config_id] if row.step <= until), key=lambda row: row.step)
        if last.parent is None or last.parent_step is None:
            return [Ancestor(config_id, 0, last.config), *found]
        found.insert(0, Ancestor(config_id, last.parent_step, last.config))
        config_id, until = last.parent, last.parent_step


def lineages_in_words(plan: Mapping[str, Any], table: pa.Table, frame: pd.DataFrame) -> list[str]:
    """Of the best member of each population, in lines of text; `table` is the ledger's and `frame` its scores."""
    lines: list[str] = []
    for name, stated in plan.get("populations", {}).items():
        trials = {trial["config_id"]: trial for trial in plan["trials"] if trial["population"] == name}
        scored = frame[frame["config_id"].isin(list(trials)) & frame["mean"].notna()]
        if scored.empty:
            continue
        # As long as they train, the scores that may be compared are those of the members that have come furthest.
        scored = scored[scored["step"] == scored["step"].max()]
        so_far = "" if scored["finished"].all() else f", so far, at step {scored['step'].iloc[0]:,}"
        means = scored.set_index("config_id")["mean"]
        best = str(means.idxmin() if str(scored["metric"].iloc[0]).startswith(HELD_OUT) else means.idxmax())
        phase = plan["phases"][trials[best]["algorithm"]][-1][0]
        rows = [row for row in ledger.rows(table) if row.config_id in trials and row.phase == phase]
        explored = "; values by PB2" if plan["population"].get("explore") == "pb2" else ""  # older runs do not say
        lines.append(
            f"Best of the population of {len(trials)} on {trials[best]['dataset']}: {best}, mean"
            f" {means[best]:g}{so_far}{explored}"
        )
        for ancestor in ancestry(rows, best):
            values = ", ".join(f"{key}={text(ancestor.config[key])}" for key in stated["space"])
            start = f"copied at {ancestor.since:,} by" if ancestor.since else "began as"
            lines.append(f"  {start} {ancestor.config_id}: {values}")
    return lines

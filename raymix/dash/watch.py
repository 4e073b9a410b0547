"""What the live page knows of a run: read bit by bit, as its ledger grows."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from raymix import ledger
from raymix.files import AnyPath, path_of
from raymix.report import is_run
from raymix.report.evaluations import Configuration, configurations, dataset_labels, left_out_by
from raymix.report.page_facts import Memo, curve, page_facts
from raymix.report.runs import Runs, columns_of, of_populations, phases_told, plan_of, seeds_of, stopped
from raymix.search import decided
from raymix.search.truth import total_trials, undecided_in_words
from raymix.types import UsageError

SEGMENTS_AT_ONCE = 250
"""That are read before the page hears of them: a fraction of a second."""
_SHARE = 0.2
"""Of the time that reading a long ledger takes, what may go into facts about its beginning."""
_DAMAGE = 20
"""Damaged segments that are named one by one."""
_REST = 20
"""Times as long as the forests behind the importances took last, before they are grown again."""
_NAME = re.compile(r".*-(\d{4})(\d{2})(\d{2})-(\d{2})(\d{2})(\d{2})-.*")


class Storage:
    """A storage folder of runs, or one run."""

    def __init__(self, folder: str) -> None:
        """Raises `UsageError` where there is no such folder."""
        self.folder = path_of(folder).resolve()
        if not self.folder.is_dir():
            raise UsageError(f"there is no folder {self.folder}; give the storage folder of runs, or a run")
        self._plans: dict[AnyPath, _Plan] = {}
        self._watched: dict[AnyPath, Watched] = {}

    def runs(self) -> dict[str, AnyPath]:
        """The runs by name. What leads out of the folder, such as a link, is none of them."""
        if is_run(self.folder):
            return {self.folder.name: self.folder}
        runs = {}
        for path in self.folder.iterdir():
            real = path.resolve()
            # Of one kind by construction; mypy cannot know.
            inside = real.is_relative_to(self.folder)  # type: ignore[arg-type]
            if inside and is_run(path):
                runs[path.name] = path
        return runs

    def listing(self) -> list[dict[str, Any]]:
        """Each run in a line, the newest first."""
        lines = []
        for name, path in self.runs().items():
            plan = self._plans.setdefault(path, _Plan(path)).read()
            trials = plan.get("trials", [])
            changed = _changed(path / "ledger")
            date = _NAME.fullmatch(name)
            lines.append(
                {
                    "name": name,
                    "trials": total_trials(plan) if plan else None,
                    "algorithms": sorted({trial["algorithm"] for trial in trials if "algorithm" in trial}),
                    "datasets": sorted({trial["dataset"] for trial in trials if "dataset" in trial}),
                    "started": "{}-{}-{} {}:{}:{}".format(*date.groups()) if date else "–",
                    "newest": changed,
                }
            )
        return sorted(lines, key=lambda line: (line["newest"] or 0.0, line["name"]), reverse=True)

    def watched(self, name: str) -> Watched | None:
        """The run of this name; None where there is none."""
        path = self.runs().get(name)
        if path is None:
            return None
        if path not in self._watched:
            self._watched[path] = Watched(path)
        return self._watched[path]


def _changed(folder: AnyPath) -> float | None:
    """Unix seconds of the last change in a folder; None where there is none, or the store does not say."""
    return folder.stat().st_mtime_ns / 1e9 or None if folder.is_dir() else None


class _Plan:
    """A run's plan, read again when the run is described anew or a search has decided another trial."""

    def __init__(self, folder: AnyPath) -> None:
        self._folder = folder
        self._state: object = None
        self._plan: dict[str, Any] = {}

    def read(self) -> dict[str, Any]:
        """Empty where there is none or it is damaged."""
        files = [self._folder / name for name in ("sweep.json", decided.NAME)]
        state = [(path.stat().st_mtime_ns, path.stat().st_size) for path in files if path.exists()]
        if state != self._state:
            self._state, self._plan = state, plan_of(self._folder)
        return self._plan


class Watched:
    """One run. `update` reads on, in one thread at a time; all else answers at once with what is known."""

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder
        self.version = ""
        """Another one whenever `facts` are others."""
        self.facts: str | None = None
        """As JSON; None before there are any."""
        self.reading = "Reading the ledger."
        """What keeps the page from being whole; empty where it is."""
        self._lock = threading.Lock()
        self._memo = Memo()
        self._plan_file = _Plan(folder)
        self._plan: dict[str, Any] = {}
        self._follower: ledger.Follower | None = None
        self._damage: list[str] = []
        self._found: dict[str, Configuration] = {}
        self._runs: Runs | None = None
        self._read = 0
        self._forests_of = ""
        """The version that has importances of what was finished."""
        self._forests_due = 0.0

    def update(self) -> None:
        """Read what is new, and make the facts anew if anything is. Returns at once where another thread does so."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._update()
        except UsageError as problem:
            self.reading = f"The run cannot be shown: {problem}."
        finally:
            self._lock.release()

    def curves(self, ids: Sequence[str]) -> dict[str, Any]:
        """The learning curves of those of the configurations that have results."""
        runs, found = self._runs, self._found
        return {name: curve(found[name], runs) for name in ids if name in found} if runs is not None else {}

    def _update(self) -> None:
        known, self._plan = self._plan, self._plan_file.read()
        metric = self._plan.get("metric") or "return"
        if self._follower is None:
            columns = columns_of([self._plan], metric)
            self._follower = ledger.Follower(
                self.folder / "ledger", columns, lambda damage: self._damage.append(str(damage))
            )
        started, spent, left = time.monotonic(), 0.0, 1
        stale = self.facts is None or self._plan is not known
        while left:
            told = len(self._damage)
            changed, left = self._follower.poll(SEGMENTS_AT_ONCE)
            for config_id in changed:
                (self._found[config_id],) = configurations(self._follower.table(config_id), metric)
            self._read += SEGMENTS_AT_ONCE if left else 0
            self.reading = f"Reading the ledger: {self._read:,} segments, {left:,} to go." if left else ""
            stale = stale or bool(changed) or len(self._damage) > told
            # Of a long ledger the page shows the beginning at once, and more of it now and then.
            if stale and (not left or spent <= _SHARE * (time.monotonic() - started)):
                before = time.monotonic()
                self._tell(metric, forests=False)
                spent, stale = spent + time.monotonic() - before, False
        if self._forests_of != self.version and time.monotonic() >= self._forests_due:
            before = time.monotonic()
            self._tell(metric, forests=True)
            self._forests_of = self.version
            self._forests_due = time.monotonic() + _REST * (time.monotonic() - before)

    def _tell(self, metric: str, forests: bool) -> None:
        assert self._follower is not None
        labels = dataset_labels((one.dataset.partition("@")[0], one.dataset_hash) for one in self._found.values())
        left_out = left_out_by([self._plan])
        for config_id, one in self._found.items():
            label, own = labels[one.dataset.partition("@")[0], one.dataset_hash], left_out.get(config_id, ())
            if (one.dataset, one.left_out) != (label, own):
                self._found[config_id] = dataclasses.replace(one, dataset=label, left_out=own)
        out: Sequence[str] = ()
        if self._plan.get("scheduler") and self._found:
            tables = pa.concat_tables([self._follower.table(config_id) for config_id in sorted(self._found)])
            out = list(stopped(self._plan, tables))
        self._runs = Runs(
            folders=[self.folder],
            configurations=[self._found[config_id] for config_id in sorted(self._found)],
            select=self._plan.get("select", "last"),
            metric=metric,
            phases=phases_told({str(self.folder): self._plan}),
            seeds=seeds_of([self._plan], self._found.values(), out),
            notices=[
                *_first(self._damage),
                *_starts(self._found.values()),
                *undecided_in_words(self._plan, self.folder.name),
                *of_populations([self._plan]),
            ],
            plans=[self._plan],
            stopped=out,
        )
        facts = page_facts(self._runs, live=True, memo=self._memo, forests=forests)
        facts |= {"programs": _programs(self._plan, facts["rows"]), "progress": _progress(self._plan, facts["rows"])}
        self.facts = json.dumps(facts, separators=(",", ":"), allow_nan=False)
        # A digest: also that of a server before this one says whether a page is up to date.
        self.version = hashlib.sha256(self.facts.encode()).hexdigest()[:16]


def _first(damage: Sequence[str]) -> list[str]:
    """Not all of a whole ledger that another version wrote."""
    more = len(damage) - _DAMAGE
    return [*damage[:_DAMAGE], *([f"and {more:,} more segments like these"] if more > 0 else [])]


def _starts(found: Any) -> list[str]:
    """What the ledger says of faults: an attempt beyond the first follows a kill, a failure or a resume."""
    again = [one.pace.attempts - 1 for one in found if one.pace.attempts > 1]
    if not again:
        return []
    why = "after a kill, a failure, a resume or a rung"
    return [f"{len(again)} trials were started again ({why}), {sum(again)} times in all"]


def _progress(plan: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How far the run is: shares, counts, and agent-steps left and per second of the trials that report."""
    reported = [row["reported"] for row in rows if row["reported"] is not None]
    newest = max(reported, default=None)
    training = [row for row in rows if _reports(row, newest)]
    totals = {trial["config_id"]: _steps(plan, trial) for trial in plan.get("trials", ())}
    seeds = len(plan.get("seeds", ()))
    total = max(len(rows), total_trials(dict(plan)) if plan else 0)
    over = [row["status"] not in ("unfinished", "no results yet") for row in rows]
    left = [
        totals[row["id"]] * (1 - row["progress"]) * seeds
        for row in rows
        if row["id"] in totals and row["progress"] is not None
    ]
    speed = sum(row["speed"] for row in training)
    return {
        "done": sum(row["progress"] or 0.0 for row in rows) / total if total else 0.0,
        "trials": total,
        "over": sum(over),
        "training": len(training),
        "speed": speed or None,
        "left": sum(left) / speed if speed and left else None,
        "newest": newest,
        "patience": max((row["patience"] for row in training), default=60.0),
    }


def _reports(row: Mapping[str, Any], newest: float | None) -> bool:
    """Whether a trial reports on, by the time of the run's last report: a folder's copy says the same."""
    if row["status"] != "unfinished" or newest is None or row["patience"] is None:
        return False
    return newest - row["reported"] <= row["patience"]


def _steps(plan: Mapping[str, Any], trial: Mapping[str, Any]) -> int:
    phases = plan.get("phases", {}).get(trial.get("algorithm"), ())
    return sum(int(trial["config"].get(steps, 0)) for _, steps in phases)


def _programs(plan: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The programs in which trials train together: members, speed and cost."""
    by_id = {row["id"]: row for row in rows}
    newest = max((row["reported"] for row in rows if row["reported"] is not None), default=None)
    programs: dict[str, dict[str, Any]] = {}
    for trial in plan.get("trials", ()):
        if (row := by_id.get(trial["config_id"])) is None or "pack" not in trial:
            continue
        seats = trial["widths"][-1] if trial.get("widths") else None
        empty = {"trials": 0, "training": 0, "over": 0, "speed": 0.0, "hours": 0.0}
        one = programs.setdefault(
            trial["pack"], {"pack": trial["pack"], "dataset": row["dataset"], "seats": seats} | empty
        )
        training = _reports(row, newest)
        one["trials"] += 1
        one["training"] += training
        one["over"] += row["status"] not in ("unfinished", "no results yet")
        one["speed"] += row["speed"] if training else 0.0
        one["hours"] += row["hours"]
    return list(programs.values())

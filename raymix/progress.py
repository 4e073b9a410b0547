"""What a person watches while a sweep runs: a line per trial, a bar, the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.tune import Callback
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from raymix.job import Job, score_in_words
from raymix.waiting import duration


@dataclass
class _Line:
    label: str
    status: str = "waiting"
    phase: str = ""
    progress: float = 0.0
    score: str = ""
    speed: str = ""
    restored: float = 0.0
    """Progress that this attempt found done."""
    parts: dict[str, float] = field(default_factory=dict)
    """Of the progress, what each of its jobs has made; they differ in their seeds (`raymix.job.Job.part`)."""


@dataclass
class _Screen:
    """What is on the screen; lives in the driver only."""

    console: Console
    lines: dict[str, _Line]
    header: str
    total: int
    """Trials, of which not all may have a line yet."""
    started: float = field(default_factory=time.monotonic)
    notices: list[str] = field(default_factory=list)

    def __rich__(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("trial", "", "progress", "", "score", "agent-steps/s"):
            table.add_column(column, no_wrap=True)
        for line in self.lines.values():
            bar = ProgressBar(total=1.0, completed=line.progress, width=24)
            table.add_row(line.label, line.status, bar, line.phase, line.score, line.speed)
        return Group(self.header, "", table, "", self.clock(), *self.notices)

    def overall(self) -> float:
        return sum(line.progress for line in self.lines.values()) / self.total

    def clock(self) -> str:
        """Elapsed time, and what is left if the rest goes as fast as what was done."""
        done, elapsed = self.overall(), time.monotonic() - self.started
        gained = done - sum(line.restored for line in self.lines.values()) / self.total
        left = f"about {duration(elapsed * (1 - done) / gained)} left" if gained > 0.02 else "time left: not known yet"
        return f"{done:4.0%} done, {duration(elapsed)} so far, {left}"


class Progress(Callback):
    """Tune callback that draws the sweep: live on a terminal, a line per report elsewhere.

    Tune pickles its callbacks into the experiment, so the screen is left out of the pickle.
    """

    def __init__(
        self,
        labels: dict[str, str],
        done: list[str],
        header: list[str],
        quiet: bool = False,
        total: int | None = None,
        begun: Mapping[str, float] | None = None,
        metric: str = "return",
    ) -> None:
        """`labels` by configuration id, to which those of a search are added while it runs; `done` are those that need
        no training any more; `total` is how many trials there will be, if more; `begun` is the share of the seeds that
        need none, of those trials that are not done; `metric` is what the sweep is judged by."""
        self._metric = metric
        self._labels = labels
        self._screen: _Screen | None = None
        self._live: Live | None = None
        self.failed: dict[str, tuple[str, str]] = {}
        """Configuration id of trials that Tune has given up and the last line of their errors, by their folders."""
        if quiet:
            return
        # Where nobody watches, lines stay whole for whoever reads the log.
        # Paths and messages are shown as they are: brackets in them are no markup.
        console = Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())
        lines = {config_id: _Line(label) for config_id, label in labels.items()}
        for config_id in done:
            lines[config_id] = _Line(labels[config_id], "done before", progress=1.0, restored=1.0)
        for config_id, share in (begun or {}).items():
            lines[config_id].progress = lines[config_id].restored = lines[config_id].parts["before"] = share
        self._screen = _Screen(console, lines, "\n".join(header), total or len(labels))
        if console.is_terminal:
            self._live = Live(self._screen, console=console, refresh_per_second=4)
            self._live.start()
        else:
            console.print(self._screen.header)

    def __getstate__(self) -> dict[str, Any]:
        return {"_screen": None, "_live": None, "_labels": {}, "_metric": self._metric, "failed": {}}

    def stop(self) -> None:
        """Leave the last state on the screen."""
        if self._live is not None:
            self._live.stop()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if not trial.config["job"].get("gate"):  # such seeds may have to wait before they begin
            self._update(trial, status="starting", phase="loading and compiling")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "phase" not in result or self._screen is None:
            return
        line, job = self._line(trial), Job(**trial.config["job"])
        score = score_in_words(result, self._metric)
        self._update(
            trial,
            status="training",
            phase=f"{result['phase']} {result['phase_step']:,}",
            progress=result["progress"],
            # A trial that waited at a rung goes on from there: this attempt found less done.
            restored=line.restored + (0.0 if line.parts.get(job.name) else result["restored"] * job.share),
            speed=f"{result['training/steps_per_second']:,.0f}",
            **({"score": score} if score else {}),
        )
        for notice in result.get("notices", ()):
            self.tell(notice)
        if self._live is None:
            score = f", {line.score}" if line.score else ""
            seeds = f", seeds {' '.join(map(str, job.seeds))}" if job.share < 1 else ""
            self._screen.console.print(f"{line.label}{seeds}: {line.phase}{score} ({self._screen.clock()})")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        last = trial.last_result or {}
        waited = last.get("phase") is None and "rung" in last  # its seeds have not begun
        early = last.get("progress", 1.0) < 1.0 and (waited or last.get("seeds_left", 0) > 0)
        self._update(trial, status="stopped" if early else "done", progress=1.0)
        if early and not waited and self._screen is not None and self._live is None:
            line = self._line(trial)
            self._screen.console.print(f"{line.label}: stopped after {line.phase} ({self._screen.clock()})")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self._screen is not None:
            label = self._screen.lines[trial.config["job"]["config_id"]].label
            self.tell(f"The trial {label} goes on from its last report after this: {last_error(trial)}")
        self._update(trial, status="starting", phase="")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job = Job(**trial.config["job"])
        self.failed[job.name] = job.config_id, last_error(trial)
        self._update(trial, status="failed")

    def _line(self, trial: Any) -> _Line:
        assert self._screen is not None
        config_id = trial.config["job"]["config_id"]
        if config_id not in self._screen.lines:
            self._screen.lines[config_id] = _Line(self._labels[config_id])
        return self._screen.lines[config_id]

    def tell(self, notice: str) -> None:
        """Say a sentence to the user, once."""
        if self._screen is not None and notice not in self._screen.notices:
            self._screen.notices.append(notice)
            if self._live is None:
                self._screen.console.print(notice)

    def _update(self, trial: Any, **changes: Any) -> None:
        if self._screen is not None:
            line, job = self._line(trial), Job(**trial.config["job"])
            if "progress" in changes:
                line.parts[job.name] = changes["progress"] * job.share
                changes["progress"] = sum(line.parts.values())
            for name, value in changes.items():
                setattr(line, name, value)


class Forgetting(Callback):
    """Tune callback that drops what Tune keeps of every report of a trial that has ended, about 100 KB each: raymix
    reads the ledger, and a driver of thousands of trials would grow and write all of it into each snapshot."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        trial.run_metadata.metric_analysis = {}
        trial.run_metadata.metric_n_steps = {}

    on_trial_error = on_trial_complete


def last_error(trial: Any) -> str:
    """What a trial's last error says, without its traceback; from Tune's local file, as the storage may be full."""
    try:
        return Path(trial.error_file).read_text().strip().splitlines()[-1]
    except (OSError, TypeError, IndexError):
        return "its process ended"

"""What Prometheus may ask of a running sweep: a few numbers per run, by `ray.util.metrics`.

Ray serves them on each node's metrics port as `ray_<name>`; `raymix grafana` has a board for them. Nothing here is on
the way of training: reports are only noted down, and a thread of the driver asks the packs now and then.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import defaultdict
from functools import partial
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.util.metrics import Gauge

from raymix.files import AnyPath
from raymix.report import HELD_OUT
from raymix.search.truth import found_in, minimizes, total_trials

PERIOD_S = 5.0
"""Between two looks; Ray hands them out every ten seconds."""
TAGS = ("sweep", "run")
"""Of every gauge; nothing that grows with the trials."""
GAUGES = {
    "raymix_agent_steps_per_second": "Gradient steps times members, of all packs, going by the last report of each",
    "raymix_seats": "Seats of the packs there are",
    "raymix_seats_used": "Seats taken by trials",
    "raymix_best_score": "Best mean score over the seeds of a configuration, of all reports in which no seed diverged",
    "raymix_evaluation_wait_seconds": "Mean seconds for which the newest reports waited for their evaluation",
    "raymix_trials": "Trials that the sweep has in all",
    "raymix_trials_running": "Trials that train",
    "raymix_trials_done": "Trials that ended, at their last step or stopped early",
    "raymix_trials_failed": "Trials that were given up",
}
"""What each one says. In Prometheus their names begin with `ray_`."""


class Pace:
    """Speed of a counter that moves in steps, such as a pack's, which counts when a report is made."""

    def __init__(self, count: float, now: float) -> None:
        self._count, self._since, self._rate, self._interval = count, now, 0.0, math.inf

    def seen(self, count: float, now: float) -> float:
        """Its rate per second over the last step; less where the next one is overdue."""
        if count > self._count:
            self._interval = max(now - self._since, 1e-9)
            self._rate = (count - self._count) / self._interval
            self._count, self._since = count, now
        late = max(self._interval, now - self._since)
        return self._rate * self._interval / late if self._rate else 0.0


class Gauges(Callback):
    """Tune callback that keeps the gauges of a run; `stop` it at the end.

    Tune pickles its callbacks into the experiment, so all that lives in the driver only is left out.
    """

    def __init__(self, plan: dict[str, Any], run_dir: AnyPath, done: int, broker: Any) -> None:
        """`done` trials need no training any more; `broker` is the handle of the packs' broker."""
        self._tags = {"sweep": plan["sweep"], "run": run_dir.name}
        self._gauges = {name: Gauge(name, description=text, tag_keys=TAGS) for name, text in GAUGES.items()}
        self._broker, self._done, self._total = broker, done, total_trials(plan)
        self._metric, self._minimizes = metric_of(plan), minimizes(plan)
        self._best, self._best_of = best_before(plan, run_dir), partial(best_before, plan, run_dir)
        self._trials: list[Any] = []
        self._waited: dict[str, float] = {}
        self._waits: list[float] = []
        self._paces: dict[str, Pace] = {}
        self._looked = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gauges", daemon=True)
        self._thread.start()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._trials = trials

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._trials = trials
        if "phase" not in result:
            return
        waited, before = result["seconds/evaluation"], self._waited.get(trial.trial_id, 0.0)
        self._waits.append(waited - before if waited >= before else waited)  # it counts anew in each seat
        self._waited[trial.trial_id] = waited
        job, score = trial.config["job"], result.get(self._metric, math.nan)
        if result["phase"] == job["phases"][-1][0] and result["seeds_left"] == len(job["seeds"]):
            if job.get("share", 1.0) == 1:
                self._best = better(self._best, score, self._minimizes)
            else:
                self._best = better(self._best, self._best_of(job["config_id"]), self._minimizes)

    def stop(self) -> None:
        """Show the end: nothing trains any more."""
        self._over.set()
        self._thread.join()
        self._broker = None  # it ends when nobody holds it
        self._show({"raymix_agent_steps_per_second": 0.0, "raymix_seats": 0, "raymix_seats_used": 0} | self._told())

    def _watch(self) -> None:
        while not self._over.wait(PERIOD_S):
            with contextlib.suppress(RayError, GetTimeoutError):  # the broker is being made anew
                self._show(self._looked_at(ray.get(self._broker.occupancy.remote(), timeout=PERIOD_S)))
            self._show(self._told())

    def _looked_at(self, packs: list[dict[str, Any]]) -> dict[str, float]:
        """The gauges that come from the packs."""
        asked = {pack["pack"].agent_steps.remote(): pack for pack in packs}
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=PERIOD_S) if asked else ([], [])
        now, speed = time.monotonic(), 0.0
        for answer in answered:
            with contextlib.suppress(RayError):  # it has died meanwhile
                count, name = ray.get(answer), repr(asked[answer]["pack"])
                # One that is new has made its steps since the last look.
                rate = self._paces.setdefault(name, Pace(0, self._looked)).seen(count, now)
                speed += rate if asked[answer]["taken"] else 0.0
        self._looked = now
        return {
            "raymix_agent_steps_per_second": speed,
            "raymix_seats": sum(pack["seats"] for pack in packs),
            "raymix_seats_used": sum(pack["taken"] for pack in packs),
        }

    def _told(self) -> dict[str, float]:
        """The gauges that come from the trials' reports."""
        # Some of Tune's trials may be one, with different seeds.
        of_trials: dict[str, set[str]] = defaultdict(set)
        for trial in list(self._trials):
            of_trials[trial.config["job"]["config_id"]].add(trial.status)
        order = (Trial.ERROR, Trial.RUNNING, Trial.PENDING, Trial.PAUSED, Trial.TERMINATED)
        statuses = [next(each for each in order if each in own) for own in of_trials.values()]
        told: dict[str, float] = {
            "raymix_trials": self._total,
            "raymix_trials_running": 0 if self._over.is_set() else statuses.count(Trial.RUNNING),
            "raymix_trials_done": self._done + statuses.count(Trial.TERMINATED),
            "raymix_trials_failed": statuses.count(Trial.ERROR),
        }
        if math.isfinite(self._best):
            told["raymix_best_score"] = self._best
        waits, self._waits = self._waits, []
        if waits:
            told["raymix_evaluation_wait_seconds"] = sum(waits) / len(waits)
        return told

    def _show(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._gauges[name].set(value, self._tags)


def metric_of(plan: dict[str, Any]) -> str:
    """What a report calls the run's metric (`raymix.job.summary`)."""
    metric = plan["metric"]
    return metric if metric.startswith(HELD_OUT) else f"evaluation/{metric}"


def better(one: float, other: float, less: bool) -> float:
    """The better of two scores, of which any may be NaN; `less` where less is better."""
    if math.isnan(one) or math.isnan(other):
        return other if math.isnan(one) else one
    return min(one, other) if less else max(one, other)


def best_before(plan: dict[str, Any], run_dir: AnyPath, config_id: str | None = None) -> float:
    """The best score in the ledger that a run goes on with (or of one configuration); NaN where there is none."""
    best = math.nan
    for found in found_in(plan, run_dir, config_id).values():
        last = plan["phases"][found.algorithm][-1][0]
        scores: dict[int, list[float]] = defaultdict(list)
        for seed in plan["seeds"]:
            for each in found.seeds.get(seed, ()):
                if each.phase == last and each.score is not None and not each.diverged:
                    scores[each.step].append(each.score)
        for of_step in scores.values():
            if len(of_step) == len(plan["seeds"]):
                best = better(best, sum(of_step) / len(of_step), minimizes(plan))
    return best

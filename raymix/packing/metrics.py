"""Which held-out metrics a sweep's algorithms report, known before anything is trained."""

from __future__ import annotations

from typing import Any

from raymix.algorithms import base
from raymix.learner.learner import Learner
from raymix.learner.replay import DeviceReplay
from raymix.report import ACTION_ERROR, HELD_OUT
from raymix.types import Dataset, UsageError


def check_metric_is_reported(plan: dict[str, Any], datasets: dict[str, Dataset]) -> None:
    """Raise `UsageError` where an algorithm of the plan does not report the plan's held-out metric."""
    metric = plan["metric"]
    if not metric.startswith(HELD_OUT) or metric == ACTION_ERROR:
        return
    first = {trial["algorithm"]: trial for trial in reversed(plan["trials"] or plan["studies"])}
    for name, trial in first.items():
        algorithm = base.find(name)
        replay = DeviceReplay(
            datasets[trial["dataset"]], with_next_action=algorithm.uses_next_actions, held_out=plan["held_out"]
        )
        config = algorithm.configure(trial["config"])
        learner = Learner(algorithm, config, algorithm.phases[-1].name, replay, width=1, capture="eager")
        known = sorted(f"{HELD_OUT}{found}" for found in learner.held_out([0])[0])
        if metric not in known:
            raise UsageError(f"{name} reports no {metric}; it reports {', '.join(known)}")

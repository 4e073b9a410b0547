"""Which trials have the same first phase, bit for bit, so that a pack trains it once for all of them."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from typing import Any

from raymix.algorithms import base
from raymix.learner.learner import Learner
from raymix.learner.replay import DeviceReplay
from raymix.types import Dataset


def share_phases(plan: dict[str, Any], datasets: dict[str, Dataset]) -> dict[str, Any]:
    """The plan with what trials must agree on to share their first phase, and no more seats in it than are needed.

    They agree on the seeds, the data and all structure fields anyhow, and here on the scalar fields that the phase
    reads: those of LOM's mixture are its learning rate, so a grid over `beta` fits each mixture once a pack.
    """
    alike = defaultdict(list)
    for trial in plan["trials"]:
        alike[trial["pack"]].append(trial)
    shared: dict[str, str] = {}
    widths: dict[str, list[int]] = {}
    for trials in alike.values():
        first = trials[0]
        if len(trials) == 1 or len(plan["phases"][first["algorithm"]]) == 1:
            continue
        read = _read(first, datasets[first["dataset"]])
        steps = plan["phases"][first["algorithm"]][0][1]
        for trial in trials:
            content = [trial["pack"], trial["config"][steps], {name: trial["config"][name] for name in sorted(read)}]
            shared[trial["config_id"]] = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        different = len({shared[trial["config_id"]] for trial in trials})
        narrow = min(first["widths"][0], different * len(plan["seeds"]))
        widths |= {trial["config_id"]: [narrow, *trial["widths"][1:]] for trial in trials}
    return {
        **plan,
        "trials": [
            {
                **trial,
                "widths": widths.get(trial["config_id"], trial["widths"]),
                "shared": shared.get(trial["config_id"]),
            }
            for trial in plan["trials"]
        ],
    }


def _read(trial: dict[str, Any], dataset: Dataset) -> set[str]:
    algorithm = base.find(trial["algorithm"])
    config = algorithm.configure(trial["config"])
    replay = DeviceReplay(dataset, with_next_action=algorithm.uses_next_actions)  # which rows does not matter here
    return Learner(algorithm, config, algorithm.phases[0].name, replay, width=1, capture="eager").scalars_read()

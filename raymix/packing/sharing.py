"""Which trials have the same phases, bit for bit, so that a pack trains each once for all of them."""

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
    """The plan with what trials must agree on to share a phase, and no more seats in it than are needed.

    They agree on the seeds, the data and all structure fields anyhow, and here on the scalar fields that the phase and
    those before it read: those of LOM's mixture are its learning rate, so a grid over `beta` fits each mixture once a
    pack; OneStep's behaviour and critic do not read `temperature`. The last phase is a trial's own.
    """
    alike = defaultdict(list)
    for trial in plan["trials"]:
        alike[trial["pack"]].append(trial)
    shared: dict[str, list[str]] = {}
    widths: dict[str, list[int]] = {}
    for trials in alike.values():
        first = trials[0]
        phases = plan["phases"][first["algorithm"]]
        if len(trials) == 1:
            continue
        words: dict[str, list[str]] = {trial["config_id"]: [] for trial in trials}
        narrow = []
        for index, (_, steps) in enumerate(phases[:-1]):
            read = sorted(_read(first, datasets[first["dataset"]], index))
            for trial in trials:
                config, before = trial["config"], words[trial["config_id"]]
                own = [trial["pack"], trial["evaluate_every"], *before, config[steps], {n: config[n] for n in read}]
                before.append(hashlib.sha256(json.dumps(own).encode()).hexdigest()[:16])
            different = len({own[index] for own in words.values()})
            narrow.append(min(first["widths"][index], different * len(plan["seeds"])))
        shared |= words
        widths |= {trial["config_id"]: [*narrow, *trial["widths"][len(narrow) :]] for trial in trials}
    return {
        **plan,
        "trials": [
            {
                **trial,
                "widths": widths.get(trial["config_id"], trial["widths"]),
                "shared": shared.get(trial["config_id"], []),
            }
            for trial in plan["trials"]
        ],
    }


def _read(trial: dict[str, Any], dataset: Dataset, phase: int) -> set[str]:
    algorithm = base.find(trial["algorithm"])
    config = algorithm.configure(trial["config"])
    # Which rows are held out does not matter here.
    replay = DeviceReplay(dataset, with_next_action=algorithm.uses_next_actions)
    return Learner(algorithm, config, algorithm.phases[phase].name, replay, width=1, capture="eager").scalars_read()

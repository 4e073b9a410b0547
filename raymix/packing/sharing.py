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
                before = words[trial["config_id"]]
                before.append(_word(trial, before, steps, read))
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


class SearchPlaces:
    """Gives places to the trials of a search, one by one: none depends on which trials there are besides.

    A program is as wide as a full one (`raymix.plan.seat`), except in phases that read nothing which is searched: of
    those there are no more than there are cells in the grid.
    """

    def __init__(self, plan: dict[str, Any], datasets: dict[str, Dataset]) -> None:
        self._plan, self._datasets = plan, datasets
        self._reads: dict[str, list[list[str]]] = {}

    def place(self, trial: dict[str, Any]) -> dict[str, Any]:
        """The trial with its widths and the words of its shared phases."""
        phases, seeds = self._plan["phases"][trial["algorithm"]], len(self._plan["seeds"])
        reads = self._reads.setdefault(trial["pack"], [])
        words: list[str] = []
        widths = []
        so_far: set[str] = set()
        for index, (_, steps) in enumerate(phases[:-1]):
            if index == len(reads):
                reads.append(sorted(_read(trial, self._datasets[trial["dataset"]], index)))
            words.append(_word(trial, words, steps, reads[index]))
            so_far |= {steps, *reads[index]}
            widths.append(min(self._plan["width"], self._most_different(trial, so_far) * seeds))
        return {**trial, "widths": [*widths, self._plan["width"]], "shared": words}

    def _most_different(self, trial: dict[str, Any], fields: set[str]) -> int:
        """In how many ways these fields may differ between trials of the same algorithm and data set."""
        alike = [
            study
            for study in self._plan["studies"]
            if (study["algorithm"], study["dataset"]) == (trial["algorithm"], trial["dataset"])
        ]
        if any(fields & study["space"].keys() for study in alike):
            return self._plan["width"]
        return len({json.dumps({name: study["config"][name] for name in sorted(fields)}) for study in alike})


def _word(trial: dict[str, Any], before: list[str], steps: str, read: list[str]) -> str:
    """What a trial must agree on with others to share a phase of so many steps that reads these fields."""
    config = trial["config"]
    own = [trial["pack"], trial["evaluate_every"], *before, config[steps], {name: config[name] for name in read}]
    return hashlib.sha256(json.dumps(own).encode()).hexdigest()[:16]


def _read(trial: dict[str, Any], dataset: Dataset, phase: int) -> set[str]:
    algorithm = base.find(trial["algorithm"])
    config = algorithm.configure(trial["config"])
    # Which rows are held out does not matter here.
    replay = DeviceReplay(dataset, with_next_action=algorithm.uses_next_actions)
    return Learner(algorithm, config, algorithm.phases[phase].name, replay, width=1, capture="eager").scalars_read()

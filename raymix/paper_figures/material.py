"""What figures are made of: the configurations of runs, their data sets, and their trained networks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from raymix.files import AnyPath
from raymix.report import HELD_OUT, evaluations
from raymix.report.evaluations import Configuration
from raymix.report.runs import Runs
from raymix.report.tables import natural, phases_of, shown, text
from raymix.run_folder import load_dataset
from raymix.types import Dataset, UsageError

if TYPE_CHECKING:
    from raymix.reproduce.base import Member


class Lacking(UsageError):
    """These runs cannot give a figure; the message says what to run."""


class Material:
    """Runs, and what can be read for their configurations. Data sets are kept one at a time."""

    def __init__(self, runs: Runs, keep_going: bool = False) -> None:
        self.runs, self.keep_going = runs, keep_going
        self.phases = phases_of(runs.configurations, runs.phases)
        self.left_out: list[str] = []
        """Why configurations are not in a figure that shows the others."""
        self._kept: tuple[str, Dataset] | None = None

    @property
    def algorithms(self) -> set[str]:
        """Their names."""
        return {one.algorithm for one in self.runs.configurations}

    @cached_property
    def swept(self) -> list[str]:
        """The fields in which configurations of one algorithm differ."""
        return evaluations.swept_fields(self.runs.configurations)

    def of(self, *algorithms: str) -> list[Configuration]:
        """The configurations of these algorithms, in the order of tables."""
        found = [one for one in self.runs.configurations if one.algorithm in algorithms]
        values = {one.config_id: [natural(shown(one.applied.get(name))) for name in self.swept] for one in found}
        return sorted(found, key=lambda one: (one.dataset, one.algorithm, values[one.config_id], one.config_id))

    def score(self, one: Configuration) -> float:
        """Mean over the seeds that did not diverge; NaN without any."""
        last = self.phases[one.algorithm][-1][0]
        scores = [evaluations.score(each, last, self.runs.select, self.runs.metric) for each in one.seeds.values()]
        finite = [score for score in scores if score is not None and math.isfinite(score)]
        return float(np.mean(finite)) if finite else math.nan

    def ranked(self, configurations: Sequence[Configuration]) -> list[Configuration]:
        """The best first, those without a score last."""
        sign = 1.0 if self.runs.metric.startswith(HELD_OUT) else -1.0
        scores = {one.config_id: self.score(one) for one in configurations}
        return sorted(configurations, key=lambda one: (math.isnan(scores[one.config_id]), sign * scores[one.config_id]))

    def words(self, one: Configuration) -> str:
        """The algorithm, and what was swept."""
        values = [f"{name}={text(shown(one.applied[name]))}" for name in self.swept if name in one.applied]
        return ", ".join([one.algorithm, *values])

    def dataset(self, one: Configuration) -> Dataset:
        """What it was trained on. `UsageError` where that is gone, or another now."""
        _, plan, trial = self._planned(one)
        if self._kept is None or self._kept[0] != one.dataset_hash:
            self._kept = one.dataset_hash, load_dataset(trial["dataset"], True, plan["dataset_hashes"])
        return self._kept[1]

    def member(self, one: Configuration) -> Member:
        """Its first seed that did not diverge, as it was at the last report.

        Raises:
            Lacking: there is no checkpoint of the last phase, or all seeds diverged.
        """
        import torch

        from raymix import checkpoint
        from raymix.job import checkpoint_folders, jobs_of, reported
        from raymix.reproduce.base import member_of

        folder, plan, trial = self._planned(one)
        job = jobs_of(dict(plan), trial, folder, "cpu", "auto")[0]  # all its seeds, or those that began first
        found, _ = checkpoint.newest(checkpoint_folders(job), limit=reported(job)[0])
        if found is None or found.state["phase"] != job.phases[-1][0]:
            raise Lacking(
                f"{self.words(one)} on {one.dataset} has no whole checkpoint of its phase {job.phases[-1][0]}; resume"
                f" {folder}"
            )
        for seed, diverged, arrays in zip(found.state["seeds"], found.state["diverged"], found.members):
            if not diverged:
                tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
                return member_of(job.algorithm, found.state["config"], self.dataset(one).spec, seed, tensors)
        raise Lacking(f"all seeds of {self.words(one)} on {one.dataset} diverged; run others")

    def members(self, configurations: Sequence[Configuration]) -> Iterator[tuple[Configuration, Member]]:
        """Those that have a trained member (`member`), one after another; of the others `left_out` says why.

        Raises:
            Lacking: none has one.
        """
        why: list[Lacking] = []
        for one in configurations:
            try:
                member = self.member(one)
            except Lacking as problem:
                why.append(problem)
            else:
                yield one, member
        if len(why) == len(configurations):
            raise why[0]
        self.left_out += map(str, why)

    def folder(self, one: Configuration) -> AnyPath:
        """The run's."""
        return self._planned(one)[0]

    def _planned(self, one: Configuration) -> tuple[AnyPath, Any, dict[str, Any]]:
        for folder, plan in zip(self.runs.folders, self.runs.plans):
            for trial in plan.get("trials", ()):
                if trial["config_id"] == one.config_id:
                    return folder, plan, trial
        raise Lacking(
            f"no sweep.json knows {self.words(one)} on {one.dataset}, so its data set and checkpoints are not found;"
            " give the run's whole folder"
        )

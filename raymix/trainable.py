"""The Tune trainable: one trial is one configuration, its seeds are the members that train together.

Importing this module imports no torch: a trial that trains in its own process imports it in `setup`.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray import tune

import raymix
from raymix import checkpoint, ledger
from raymix.types import Spec

if TYPE_CHECKING:
    from raymix.packing.local import Boundary, LocalPack

@dataclasses.dataclass(frozen=True)
class Job:
    """What one trial has to do, as plain data: the entry `job` of the trial's Tune `config`."""

    run: str
    """Name of the run."""
    run_dir: str
    """Folder that holds the run's ledger and checkpoints."""
    config_id: str
    algorithm: str
    config: dict[str, Any]
    """All hyperparameters, without the seed."""
    dataset: str
    """Canonical name in the replay store."""
    seeds: list[int]
    report_every: int
    """Gradient steps between two reports; in the last phase each report evaluates."""
    episodes: int
    """Evaluation episodes per seed and report."""
    store: str
    """Name of the replay store's actor."""
    rollouts: str
    """Name of the rollout pool."""
    rollout_actors: int
    device: str
    capture: str


class Member(tune.Trainable):
    """A configuration's seeds as an ordinary Tune trial.

    `step` returns chunk i with chunk i's own scores, while chunk i + 1 is trained; so a checkpoint holds the state
    of the chunk that was reported last, not the newest one. Results are in the ledger before Tune sees them.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.job = Job(**config["job"])
        self._notices: list[str] = []
        self._pack, self._spec = self._open_pack()
        self._pool = self._connect_rollouts()
        folder = str(Path(self.job.run_dir, "ledger"))
        attempt = ledger.next_attempt(folder, self.job.config_id)
        self._ledger = ledger.LedgerWriter(folder, self.job.config_id, attempt)
        self._reported: Boundary | None = None
        self._ahead: tuple[Boundary, list[Any]] | None = None
        self._restore_newest()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Tune reuses the process for another trial: everything is made anew but the imports."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if self._pack.finished and self._ahead is None:
            # Restored from its last checkpoint: all rows are in the ledger, there is nothing to add.
            return {"done": True, "progress": 1.0}
        boundary, pending = self._ahead or self._train()
        done = boundary.finished or all(boundary.diverged)
        self._ahead = None if done else self._train()
        evaluations = dict(zip(live_seats(boundary), ray.get(pending))) if pending else {}
        rows = make_rows(self.job, self._spec, boundary, evaluations)
        self._ledger.append(rows)
        self._reported = boundary
        if self._pack.eager_reason and self.job.capture == "auto":
            self._notices.append(f"Training runs uncompiled, about half as fast: {self._pack.eager_reason}.")
        notices, self._notices = self._notices, []
        told = {**summary(rows, self._spec), "progress": self._progress(boundary), "done": done}
        return {**told, "notices": notices} if notices else told

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        if self._reported is not None:
            write_checkpoint(checkpoint_dir, self.job.config_id, self.job.config, self._phases(), self._reported)

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        # Tune hands over the checkpoint of its last snapshot; a newer whole one may be on disk.
        self._restore_newest(Path(checkpoint_dir))

    def _open_pack(self) -> tuple[LocalPack, Spec]:
        import torch

        from raymix.algorithms import base
        from raymix.data.store import ReplayStore
        from raymix.packing.local import LocalPack

        torch._dynamo.reset()  # a reused process drops the programs of its last trial
        dataset = ReplayStore.connect(self.job.store).get(self.job.dataset)
        config = base.find(self.job.algorithm).configure(self.job.config)
        pack = LocalPack(
            self.job.algorithm,
            config,
            self.job.seeds,
            dataset,
            self.job.report_every,
            device=self.job.device,
            capture=self.job.capture,
        )
        return pack, dataset.spec

    def _connect_rollouts(self) -> Any:
        from raymix.evaluation.pool import RolloutPool

        return RolloutPool.connect(self.job.rollouts, self.job.rollout_actors)

    def _train(self) -> tuple[Boundary, list[Any]]:
        """Train one chunk and start the evaluation of its policies."""
        boundary = self._pack.advance()
        policies = [boundary.policies[seat] for seat in live_seats(boundary)] if boundary.policies else []
        offset = int(self.job.config_id, 16)
        return boundary, self._pool.submit(policies, self.job.episodes, offset)

    def _restore_newest(self, *more: Path) -> None:
        folders = [*checkpoint_folders(self.job.run_dir, self.job.config_id), *more]
        found, problems = checkpoint.newest(folders)
        for problem in problems:
            self._notices.append(f"Skipped a damaged checkpoint: {problem}.")
        if found is not None:
            restore(self._pack, found)

    def _phases(self) -> list[str]:
        return [phase.name for phase in self._pack.algorithm.phases]

    def _progress(self, boundary: Boundary) -> float:
        """Share of all phases' gradient steps that are done."""
        phases = self._pack.algorithm.phases
        totals = [getattr(self._pack.config, phase.steps) for phase in phases]
        index = self._phases().index(boundary.phase)
        return (sum(totals[:index]) + boundary.step) / sum(totals)


def checkpoint_folders(run_dir: str, config_id: str) -> list[Path]:
    """All checkpoints that any attempt at this run made of this configuration, whole or not."""
    return sorted(Path(run_dir, "tune").glob(f"*/{config_id}*/checkpoint_*"))


def live_seats(boundary: Boundary) -> list[int]:
    """Seats whose losses have been finite so far; the others have no policy worth playing."""
    return [seat for seat, diverged in enumerate(boundary.diverged) if not diverged]


def write_checkpoint(folder: str, config_id: str, config: dict[str, Any], phases: list[str], at: Boundary) -> None:
    """Write the members' states at a boundary as a `raymix.checkpoint`."""
    state = {
        "config_id": config_id,
        "config": config,
        "phase": at.phase,
        "phase_index": phases.index(at.phase),
        "step": at.step,
        "seeds": [member.seed for member in at.states],
        "diverged": at.diverged,
        "agent_seconds": at.agent_seconds,
    }
    members = [{name: value.numpy() for name, value in member.tensors.items()} for member in at.states]
    checkpoint.write(folder, state, members)


def restore(pack: LocalPack, found: checkpoint.Checkpoint) -> None:
    """Continue a pack from a checkpoint: weights, optimisers and steps, never hyperparameters."""
    import torch

    from raymix.learner.state import MemberState

    state = found.state
    members = [
        MemberState(state["phase"], state["step"], seed, {name: torch.from_numpy(a) for name, a in tensors.items()})
        for seed, tensors in zip(state["seeds"], found.members, strict=True)
    ]
    pack.load(members, state["diverged"], state["agent_seconds"])


def make_rows(job: Job, spec: Spec, boundary: Boundary, evaluations: dict[int, Any]) -> list[ledger.Row]:
    """One ledger row per seed; `evaluations` by seat."""
    rows = []
    for seat, seed in enumerate(job.seeds):
        evaluation = evaluations.get(seat)
        rows.append(
            ledger.Row(
                run=job.run,
                seed=seed,
                phase=boundary.phase,
                step=boundary.step,
                dataset=spec.name,
                dataset_hash=spec.hash,
                algorithm=job.algorithm,
                config=job.config,
                returns=tuple(evaluation.returns) if evaluation else (),
                lengths=tuple(evaluation.lengths) if evaluation else (),
                metrics=boundary.metrics[seat],
                diverged=boundary.diverged[seat],
                agent_seconds=boundary.agent_seconds,
                wall_time=time.time(),
                version=raymix.__version__,
                reference_min=spec.reference_min,
                reference_max=spec.reference_max,
            )
        )
    return rows


def summary(rows: list[ledger.Row], spec: Spec) -> dict[str, Any]:
    """What Tune is told of a report: statistics over the live seeds."""
    live = [row for row in rows if not row.diverged]
    told: dict[str, Any] = {
        "phase": rows[0].phase,
        "phase_step": rows[0].step,
        "seeds_left": len(live),
        "agent_seconds": rows[0].agent_seconds,
    }
    for name in rows[0].metrics:
        told[f"training/{name}"] = _mean([row.metrics[name] for row in live])
    scores = [float(np.mean(row.returns)) for row in live if row.returns]
    if scores:
        told |= {f"evaluation/{name}": function(scores) for name, function in _STATISTICS.items()}
        told["evaluation/returns"] = scores
        if (score := spec.normalized_score(_mean(scores))) is not None:
            told["evaluation/normalized_score"] = score
    return told


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _interquartile_mean(values: list[float]) -> float:
    from raymix.report.statistics import interquartile_mean

    return interquartile_mean(values)


_STATISTICS: dict[str, Callable[[list[float]], float]] = {
    "return": _mean,
    "return_iqm": _interquartile_mean,
    "return_min": min,
    "return_max": max,
}

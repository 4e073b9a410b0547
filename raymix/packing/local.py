"""A pack in this process: the seeds of one configuration as members of one learner, phase after phase."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch

from raymix.algorithms import base
from raymix.config import AlgorithmConfig
from raymix.evaluation.policy import PolicyWeights
from raymix.learner.learner import Learner
from raymix.learner.replay import DeviceReplay
from raymix.learner.state import MemberState
from raymix.types import Dataset


@dataclass(frozen=True)
class Boundary:
    """Everything that is known where a chunk of training ends: enough to report, to evaluate and to continue."""

    phase: str
    step: int
    """Gradient steps done in this phase."""
    metrics: list[dict[str, float]]
    """Per seed: means over the chunk, and `steps_per_second` (agent-steps of the whole group)."""
    diverged: list[bool]
    """Per seed: a loss or a weight was not finite, now or before."""
    agent_seconds: float
    """Training time spent on each seed so far: wall-clock of the group divided by the number of seeds."""
    states: list[MemberState] = field(repr=False)
    policies: list[PolicyWeights] = field(repr=False)
    """Empty before the last phase, when there is no policy to play."""
    finished: bool
    progress: float
    """Share of all phases' gradient steps that are done."""


class LocalPack:
    """Trains the members of one configuration, one per seed, to the end of the algorithm's last phase."""

    def __init__(
        self,
        algorithm: str,
        config: AlgorithmConfig,
        seeds: list[int],
        dataset: Dataset,
        report_every: int,
        device: str = "cpu",
        capture: str = "auto",
    ) -> None:
        self.name, self.algorithm = algorithm, base.find(algorithm)
        self.config, self.seeds, self.dataset, self.report_every = config, seeds, dataset, report_every
        self._capture = capture
        self._replay = DeviceReplay(dataset, device, with_next_action=self.algorithm.uses_next_actions)
        self.diverged = [False] * len(seeds)
        self.agent_seconds = 0.0
        self._learner = self._open(self.algorithm.phases[0].name)
        for seat, seed in enumerate(seeds):
            self._learner.load(seat, self._learner.fresh(config, seed), config)
        self.step = 0

    def _open(self, phase: str) -> Learner:
        return Learner(self.algorithm, self.config, phase, self._replay, len(self.seeds), self._capture)

    @property
    def phase(self) -> str:
        """The phase that trains now."""
        return self._learner.phase.name

    @property
    def phase_steps(self) -> int:
        """Gradient steps of the current phase."""
        return getattr(self.config, self._learner.phase.steps)

    @property
    def _in_last_phase(self) -> bool:
        return self.phase == self.algorithm.phases[-1].name

    @property
    def finished(self) -> bool:
        """Whether the last phase is done."""
        return self._in_last_phase and self.step >= self.phase_steps

    @property
    def progress(self) -> float:
        """Share of all phases' gradient steps that are done."""
        totals = [getattr(self.config, phase.steps) for phase in self.algorithm.phases]
        before = sum(totals[: self._learner.phase_index])
        return (before + self.step) / sum(totals)

    @property
    def eager_reason(self) -> str | None:
        """Why training runs uncompiled; None if it is compiled (or has not begun)."""
        return self._learner.program.eager_reason

    def advance(self) -> Boundary:
        """Train to the next multiple of `report_every`, or to the end of the phase."""
        if self.finished:
            raise RuntimeError("this pack has finished its last phase")
        if self.step >= self.phase_steps:
            self._enter_next_phase()
        steps = min(self.report_every - self.step % self.report_every, self.phase_steps - self.step)
        compiled_before = self._learner.program.compile_seconds
        started = time.perf_counter()
        chunk = self._learner.run(steps)
        seconds = time.perf_counter() - started
        compiling = self._learner.program.compile_seconds - compiled_before
        self.step += steps
        self.agent_seconds += seconds / len(self.seeds)
        metrics = [{name: values[seat] for name, values in chunk.metrics.items()} for seat in range(len(self.seeds))]
        for seat, values in enumerate(metrics):
            self.diverged[seat] |= not all(map(math.isfinite, values.values()))
            # The compiler ran inside this chunk; what it took says nothing about training.
            values["steps_per_second"] = steps * len(self.seeds) / max(seconds - compiling, 1e-9)
            values["compile_seconds"] = compiling
        return self.boundary(metrics)

    def boundary(self, metrics: list[dict[str, float]] | None = None) -> Boundary:
        """Where training stands now."""
        states = [self._learner.state(seat) for seat in range(len(self.seeds))]
        for seat, state in enumerate(states):
            # The last step's loss can be finite and its update not.
            self.diverged[seat] |= not state.is_finite()
        return Boundary(
            phase=self.phase,
            step=self.step,
            metrics=metrics or [{} for _ in self.seeds],
            diverged=list(self.diverged),
            agent_seconds=self.agent_seconds,
            states=states,
            policies=self.policies() if self._in_last_phase else [],
            finished=self.finished,
            progress=self.progress,
        )

    def _enter_next_phase(self) -> None:
        following = self.algorithm.phases[self._learner.phase_index + 1]
        previous, self._learner = self._learner, self._open(following.name)
        for seat in range(len(self.seeds)):
            self._learner.load(seat, self._learner.entering(previous.state(seat), self.config), self.config)
        self.step = 0

    def load(self, states: list[MemberState], diverged: list[bool], agent_seconds: float) -> None:
        """Continue from states, one per seed in order, all at one step of one phase."""
        (phase,), (self.step,) = {state.phase for state in states}, {state.step for state in states}
        if phase != self.phase:
            self._learner = self._open(phase)
        for seat, state in enumerate(states):
            self._learner.load(seat, state, self.config)
        self.diverged, self.agent_seconds = list(diverged), agent_seconds

    def policies(self) -> list[PolicyWeights]:
        """The members' policies as they are now."""
        config, spec = self.config.to_dict(), self.dataset.spec.to_dict()
        return [
            PolicyWeights(self.name, config, spec, seed, to_numpy(self._learner.acting_weights(seat)))
            for seat, seed in enumerate(self.seeds)
        ]


def to_numpy(tensors: dict[str, torch.Tensor]) -> dict:
    """Host tensors as arrays, by the same names."""
    return {name: value.numpy() for name, value in tensors.items()}

"""Who trains where on one device: the members of several trials in the seats of one program per phase.

A *group* is the members of one trial, one per seed, in one phase; trials that agree on all that a phase depends on
share one group in it. Groups with the same structure sit in the same program and train in lock-step, and come and go
where a chunk ends. A member's numbers depend on the program's width and on nothing else of its company.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from raymix.algorithms import base
from raymix.checkpoint import Checkpoint
from raymix.config import AlgorithmConfig
from raymix.data.guard import guard
from raymix.evaluation.weights import PolicyWeights
from raymix.learner.learner import Learner
from raymix.learner.replay import DeviceReplay
from raymix.learner.state import MemberState, acting_of
from raymix.packing.boundary import Boundary
from raymix.report import HELD_OUT
from raymix.types import Dataset

KEPT_PHASES = 8
"""So many finished shared phases are kept in memory for trials that come later."""


@dataclass(eq=False)
class Group:
    """Members that go through one phase together, one per seed."""

    config: AlgorithmConfig
    seeds: list[int]
    phase: int
    report_every: int
    total: int
    """Gradient steps of the phase."""
    trials: list[str]
    shared: str | None
    """Trials that name the same one may share the group."""
    states: list[MemberState] | None
    """None while it is seated, and before it has begun."""
    step: int
    diverged: list[bool]
    seats: list[int] = field(default_factory=list)
    seconds: float = 0.0
    """Since the last report, as the following two."""
    compiling: float = 0.0
    agent_steps: int = 0
    """Of all members of the program."""
    history: list[Boundary] = field(default_factory=list)

    @property
    def to_report(self) -> int:
        """Steps to its next report."""
        return min(self.report_every - self.step % self.report_every, self.total - self.step)


@dataclass(eq=False)
class _Program:
    """One phase's learner, and who sits in it."""

    learner: Learner
    seated: list[Group] = field(default_factory=list)
    waiting: list[Group] = field(default_factory=list)
    turns: int = 0

    def free(self) -> list[int]:
        taken = {seat for group in self.seated for seat in group.seats}
        return [seat for seat in range(self.learner.width) if seat not in taken]


class Seating:
    """All trials of one structure on one device; see `join`, `advance`, `take` and `leave`. Not safe for threads,
    but for `take` beside `advance`."""

    def __init__(
        self,
        algorithm: str,
        config: AlgorithmConfig,
        dataset: Dataset,
        widths: Sequence[int],
        device: str = "cpu",
        capture: str = "auto",
        held_out: float = 0.0,
    ) -> None:
        """`config` is any of the trials': they have its structure fields. `widths`: seats per phase. `held_out`: the
        share of the episodes that training does not see."""
        self.name, self.algorithm, self.config, self.dataset = algorithm, base.find(algorithm), config, dataset
        self.widths, self._capture = list(widths), capture
        if len(self.widths) != len(self.algorithm.phases):
            raise ValueError(f"{len(self.widths)} widths for the {len(self.algorithm.phases)} phases of {algorithm}")
        self._replay = DeviceReplay(
            dataset, device, with_next_action=self.algorithm.uses_next_actions, held_out=held_out
        )
        self._guard = guard(dataset)
        self._programs: dict[int, _Program] = {}
        self._handing_out = threading.Lock()
        self._reports: dict[str, Boundary] = {}
        """The newest report of each trial that has not taken it."""
        self._owed: dict[str, tuple[Boundary, ...]] = {}
        """What a trial that came late to a shared group has not been told."""
        self._configs: dict[str, AlgorithmConfig] = {}
        self._spent: dict[str, float] = {}
        self._finished: dict[str, tuple[Group, Boundary]] = {}
        """The last reports of shared phases that are done."""
        self._shared: dict[str, Sequence[str]] = {}

    # Trials

    def join(
        self,
        trial: str,
        config: AlgorithmConfig,
        seeds: Sequence[int],
        report_every: int,
        start: Checkpoint | None = None,
        shared: Sequence[str] = (),
    ) -> None:
        """Let a trial in, at its beginning or where a checkpoint left it.

        Args:
            trial: its name, used once.
            config: its hyperparameters.
            seeds: one member each.
            report_every: gradient steps between reports.
            start: where to go on; None: from the beginning.
            shared: one word for each phase but the last, or none at all; trials that say the same for a phase have the
                same one, bit for bit.
        """
        if config.of_kind("structure") != self.config.of_kind("structure"):
            raise ValueError(f"trial {trial} has another structure than this pack")
        if len(seeds) > min(self.widths):
            raise ValueError(f"{len(seeds)} seeds do not fit into {min(self.widths)} seats")
        self._configs[trial], self._spent[trial], self._shared[trial] = config, 0.0, shared
        if start is not None:
            self._spent[trial] = start.state["agent_seconds"]
            states = _states(start)
            phase = [stated.name for stated in self.algorithm.phases].index(states[0].phase)
            group = self._group(trial, list(seeds), phase, report_every, states)
            group.diverged = list(start.state["diverged"])
            if group.step >= group.total and phase < len(self.algorithm.phases) - 1:
                self._enter_next(group)
            else:
                self._program(phase).waiting.append(group)
            return
        if not self._share(trial, 0):
            self._wait_for_seats(trial, self._group(trial, list(seeds), 0, report_every, None))

    def _share(self, trial: str, phase: int) -> bool:
        """Let the trial into a group that trains this phase for it too, or give it what such a group has found."""
        shared = self._word(trial, phase)
        if shared is None:
            return False
        if shared in self._finished:
            group, last = self._finished[shared]
            self._owed[trial] = tuple(group.history[:-1])
            self._hand_out(trial, last)
            if not last.over:
                self._enter_next(group, [trial])
            return True
        program = self._program(phase)
        for group in (*program.seated, *program.waiting):
            if group.shared == shared:
                group.trials.append(trial)
                self._owed[trial] = tuple(group.history)
                return True
        return False

    def _word(self, trial: str, phase: int) -> str | None:
        words = self._shared[trial]
        return words[phase] if phase < len(words) else None

    def _wait_for_seats(self, trial: str, group: Group) -> None:
        """A group at the beginning of its phase, which other trials may share."""
        group.shared = self._word(trial, group.phase)
        self._program(group.phase).waiting.append(group)

    def leave(self, trial: str) -> None:
        """Let a trial go; its seats are free from here on."""
        for program in self._programs.values():
            for groups in (program.seated, program.waiting):
                for group in [group for group in groups if trial in group.trials]:
                    group.trials.remove(trial)
                    if not group.trials:
                        groups.remove(group)
        for kept in (self._reports, self._owed, self._configs, self._spent, self._shared):
            kept.pop(trial, None)  # type: ignore[attr-defined]

    def take(self, trial: str) -> Boundary | None:
        """The trial's report, once; None until there is one."""
        with self._handing_out:
            return self._reports.pop(trial, None)

    def has_report(self, trial: str) -> bool:
        """Whether `take` would give one."""
        return trial in self._reports

    def unclaimed(self) -> list[str]:
        """Trials whose untaken report keeps a program from going on."""
        return [
            trial
            for program in self._programs.values()
            for group in program.seated
            if self._blocked(group)
            for trial in group.trials
        ]

    def park(self, trial: str) -> None:
        """Take a trial out of its seats, for the others to go on; it is seated again when it has taken its report."""
        for program in self._programs.values():
            for group in [group for group in program.seated if trial in group.trials and self._blocked(group)]:
                group.states = program.learner.states(group.seats)
                program.seated.remove(group)
                program.waiting.append(group)

    # Training

    def can_advance(self) -> bool:
        """Whether somebody can go on."""
        return any(map(self._can_run, self._programs.values()))

    def advance(self) -> int:
        """Train the program whose turn it is to the next report of somebody in it, if anybody can go on.

        Returns the agent-steps that were made: gradient steps, times the members that made them.
        """
        runnable = [program for program in self._programs.values() if self._can_run(program)]
        if not runnable:
            return 0
        program = min(runnable, key=lambda program: program.turns)
        program.turns = max(other.turns for other in self._programs.values()) + 1
        self._fill(program)
        return self._train(program)

    def _blocked(self, group: Group) -> bool:
        """Nobody has taken the last report; training is one chunk ahead of it already."""
        return all(trial in self._reports for trial in group.trials)

    def _can_run(self, program: _Program) -> bool:
        if any(self._blocked(group) for group in program.seated):
            return False
        return bool(program.seated) or any(not self._blocked(group) for group in program.waiting)

    def _fill(self, program: _Program) -> None:
        """Seat who waits, where there is room and its time agrees with the others'."""
        learner = program.learner
        for group in list(program.waiting):
            free = program.free()
            if self._blocked(group) or len(free) < len(group.seeds) or _wait(program, group):
                continue
            group.seats = free[: len(group.seeds)]
            states = group.states or [learner.fresh(group.config, seed) for seed in group.seeds]
            for seat, state in zip(group.seats, states):
                learner.load(seat, state, group.config)
            group.states = None
            program.waiting.remove(group)
            program.seated.append(group)
        if program.free():
            learner.align(program.free(), program.seated[0].step)

    def _train(self, program: _Program) -> int:
        learner, seated = program.learner, program.seated
        waits = [_wait(program, group) for group in program.waiting if not self._blocked(group)]
        steps = min([group.to_report for group in seated] + [wait for wait in waits if wait])
        compiled_before = learner.program.compile_seconds
        started = time.perf_counter()
        learner.train(steps)
        arrived = [group for group in seated if group.to_report == steps]
        # Waits for the device.
        metrics = iter(learner.take_metrics([seat for group in arrived for seat in group.seats]))
        seconds = time.perf_counter() - started
        if self._guard is not None:
            self._guard.check(f"phase {learner.phase.name} of {self.name}")
        members = sum(len(group.seeds) for group in seated)
        for group in seated:
            group.step += steps
            group.seconds += seconds
            group.compiling += learner.program.compile_seconds - compiled_before
            group.agent_steps += steps * members
            for trial in group.trials:
                self._spent[trial] += seconds / members / len(group.trials)
        for group in arrived:
            self._report(program, group, [next(metrics) for _ in group.seeds])
        return steps * members

    def _report(self, program: _Program, group: Group, metrics: list[dict[str, float]]) -> None:
        for seat, values in enumerate(metrics):
            group.diverged[seat] |= not all(map(math.isfinite, values.values()))
            # The compiler ran inside this chunk; what it took says nothing about training.
            values["steps_per_second"] = group.agent_steps / max(group.seconds - group.compiling, 1e-9)
            values["compile_seconds"] = group.compiling
        group.seconds, group.compiling, group.agent_steps = 0.0, 0.0, 0
        for values, looked_at in zip(metrics, program.learner.held_out(group.seats)):
            values.update({f"{HELD_OUT}{name}": value for name, value in looked_at.items()})
        states = program.learner.states(group.seats)
        boundary = self._boundary(group, program.learner, states, metrics)
        if group.shared is not None:
            group.history.append(boundary.light())
        for trial in group.trials:
            self._hand_out(trial, boundary)
        if boundary.over or group.step >= group.total:
            group.states = states
            program.seated.remove(group)
            if group.shared is not None:
                self._finished[group.shared] = (group, boundary)
                while len(self._finished) > KEPT_PHASES:
                    del self._finished[next(iter(self._finished))]
            if not boundary.over:
                self._enter_next(group)

    def _hand_out(self, trial: str, boundary: Boundary) -> None:
        with self._handing_out:
            untaken = self._reports.get(trial)
            earlier = [*self._owed.pop(trial, ()), *((*untaken.earlier, untaken) if untaken else ())]
            earlier.sort(key=self._order)
            spent = self._spent[trial]
            self._reports[trial] = dataclasses.replace(
                boundary,
                agent_seconds=spent,
                earlier=tuple(dataclasses.replace(report.light(), agent_seconds=spent) for report in earlier),
            )

    def _order(self, report: Boundary) -> tuple[int, int]:
        return [phase.name for phase in self.algorithm.phases].index(report.phase), report.step

    def _enter_next(self, group: Group, trials: list[str] | None = None) -> None:
        """Each trial of a group goes into the phase that follows, on its own where it shares that with nobody."""
        following = self._program(group.phase + 1)
        assert group.states is not None
        for trial in trials or group.trials:
            if self._share(trial, group.phase + 1):
                continue
            config = self._configs[trial]
            states = [following.learner.entering(state, config) for state in group.states]
            entered = self._group(trial, group.seeds, group.phase + 1, group.report_every, states)
            entered.diverged = list(group.diverged)
            self._wait_for_seats(trial, entered)

    # What there is

    def _group(
        self, trial: str, seeds: list[int], phase: int, report_every: int, states: list[MemberState] | None
    ) -> Group:
        config = self._configs[trial]
        return Group(
            config=config,
            seeds=seeds,
            phase=phase,
            report_every=report_every,
            total=getattr(config, self.algorithm.phases[phase].steps),
            trials=[trial],
            shared=None,
            states=states,
            step=states[0].step if states else 0,
            diverged=[False] * len(seeds),
        )

    def _program(self, phase: int) -> _Program:
        if phase not in self._programs:
            name, width = self.algorithm.phases[phase].name, self.widths[phase]
            learner = Learner(self.algorithm, self.config, name, self._replay, width, self._capture)
            self._programs[phase] = _Program(learner)
        return self._programs[phase]

    def learner(self, phase: int) -> Learner:
        """The learner that trains the phase."""
        return self._program(phase).learner

    def standing(self, trial: str) -> Boundary:
        """Where a trial's training stands, between two calls of `advance`."""
        for program in self._programs.values():
            for group in (*program.seated, *program.waiting):
                if trial in group.trials:
                    learner = program.learner
                    fresh = group.states or [learner.fresh(group.config, seed) for seed in group.seeds]
                    states = learner.states(group.seats) if group in program.seated else fresh
                    return self._boundary(group, learner, states, [{} for _ in group.seeds], self._spent[trial])
        raise ValueError(f"trial {trial} is not here, or has finished")

    def _boundary(
        self,
        group: Group,
        learner: Learner,
        states: list[MemberState],
        metrics: list[dict[str, float]],
        spent: float = 0.0,
    ) -> Boundary:
        for seat, state in enumerate(states):
            # The last step's loss can be finite and its update not.
            group.diverged[seat] |= not state.is_finite()
        phases = self.algorithm.phases
        totals = [getattr(group.config, phase.steps) for phase in phases]
        in_last = group.phase == len(phases) - 1
        config, spec = group.config.to_dict(), self.dataset.spec.to_dict()
        arrays = [to_numpy(state.tensors) for state in states]
        return Boundary(
            phase=phases[group.phase].name,
            step=group.step,
            metrics=metrics,
            diverged=list(group.diverged),
            agent_seconds=spent,
            seeds=list(group.seeds),
            spec=spec,
            states=arrays,
            policies=[
                PolicyWeights(
                    self.name, config, spec, state.seed, to_numpy(acting_of(learner.algorithm, state.tensors))
                )
                for state in states
                if in_last
            ],
            snapshots=[{name: own[f"parameters/{name}"] for name in self.algorithm.snapshots} for own in arrays],
            finished=in_last and group.step >= group.total,
            progress=(sum(totals[: group.phase]) + group.step) / sum(totals),
            eager_reason=learner.program.eager_reason,
        )


def to_numpy(tensors: dict[str, torch.Tensor]) -> dict:
    """Host tensors as arrays, by the same names."""
    return {name: value.numpy() for name, value in tensors.items()}


def _states(start: Checkpoint) -> list[MemberState]:
    state = start.state
    return [
        MemberState(state["phase"], state["step"], seed, {name: torch.tensor(a) for name, a in arrays.items()})
        for seed, arrays in zip(state["seeds"], start.members, strict=True)
    ]


def _wait(program: _Program, group: Group) -> int:
    """Steps after which the program's clock is where the group's is: some updates are not done in every step."""
    if not program.seated:
        return 0
    return (group.step - program.seated[0].step) % program.learner.period

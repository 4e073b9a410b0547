"""Where a chunk of training ends, as plain data that travels between processes. Imports no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raymix.evaluation.weights import PolicyWeights


@dataclass(frozen=True)
class Boundary:
    """Everything that is known where a chunk of training ends: enough to report, to evaluate and to continue."""

    phase: str
    step: int
    """Gradient steps done in this phase."""
    metrics: list[dict[str, float]]
    """Per seed: means over the chunk, and `steps_per_second` (agent-steps of all that train in the program)."""
    diverged: list[bool]
    """Per seed: a loss or a weight was not finite, now or before."""
    agent_seconds: float
    """Training time spent on each seed so far: wall-clock of the program divided by the members that shared it."""
    seeds: list[int]
    spec: dict[str, Any] = field(repr=False)
    """The data set's facts (`Spec.to_dict`): without them no policy can be rebuilt."""
    states: list[dict[str, np.ndarray]] = field(repr=False)
    """Per seed: tensors by path, as `raymix.learner.state.MemberState` has them."""
    policies: list[PolicyWeights] = field(repr=False)
    """Empty before the last phase, when there is no policy to play."""
    snapshots: list[dict[str, np.ndarray]] = field(repr=False)
    """Per seed: the parameters that the algorithm keeps of each report, by `network/parameter`."""
    finished: bool
    """The last phase is done."""
    progress: float
    """Share of all phases' gradient steps that are done."""
    eager_reason: str | None = None
    """Why training runs uncompiled; None if it is compiled."""
    earlier: tuple[Boundary, ...] = ()
    """Reports that were due before this one and not handed out, oldest first, without states and policies. Their
    `agent_seconds` are those of this one."""

    @property
    def over(self) -> bool:
        """Nothing comes after it: training has finished, or every seed has diverged."""
        return self.finished or all(self.diverged)

    def light(self) -> Boundary:
        """The report alone: without states, policies and what came earlier."""
        return dataclasses.replace(self, states=[], policies=[], earlier=())

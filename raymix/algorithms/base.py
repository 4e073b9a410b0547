"""What an algorithm is: hyperparameters, networks, losses for ONE agent, and how it acts.

A file in this folder that defines a subclass of `Algorithm` is found by its module name; nothing is registered.
Losses never see the member axis, the optimiser, the device or a log:

    def critic_loss(self, nets, batch, config, key):
        ...
        return loss, {"q_mean": q.mean()}

`nets.NAME(...)` calls a network, `nets.target.NAME(...)` its slow copy. Gradient reaches only the networks that
the loss's `Update` trains; everything else is constant, so losses need no `detach` except for their own outputs.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

import raymix.algorithms
from raymix.config import AlgorithmConfig
from raymix.random import Key
from raymix.types import Spec, UsageError


@dataclass(frozen=True)
class Update:
    """One gradient step: which loss, and which networks it trains with an Adam of its own."""

    loss: str
    """Name of the method."""
    trains: str | tuple[str, ...]
    learning_rate: str = "learning_rate"
    """Name of the scalar field."""
    batch_size: str = "batch_size"
    """Name of the structure field; every update draws its own batch."""
    every: int = 1
    first: int = 0
    """Done in steps first, first + every, first + 2 * every, ... of the phase; first < every."""
    pace: str | None = None
    """Name of a structure field n instead of `every` and `first`: done in the last of every n steps."""
    when: str | None = None
    """Name of a structure field: where it is false, the update is left out."""
    schedule: str = "constant"
    """'cosine': the learning rate falls from its value, in the first update, to 0 over the phase (half a wave)."""
    batch_of: str | None = None
    """Name of another loss of the phase whose minibatch is used again, instead of one of its own."""

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.every:
            raise ValueError(f"update {self.loss} starts in step {self.first}, which is not below every={self.every}")
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"update {self.loss} has the schedule {self.schedule!r}, not 'constant' or 'cosine'")

    @property
    def networks(self) -> tuple[str, ...]:
        """The trained networks' names."""
        return (self.trains,) if isinstance(self.trains, str) else self.trains


@dataclass(frozen=True)
class Phase:
    """A stretch of training with its own program. The updates run in order, each seeing the result of the last."""

    name: str
    updates: tuple[Update, ...]
    steps: str = "steps"
    """Name of the schedule field that holds the phase's number of gradient steps."""
    targets: tuple[str, ...] = ()
    """Networks whose slow copies follow after the step: target <- (1 - config.tau) * target + config.tau * online."""
    targets_every: int = 1
    targets_first: int = 0
    """The copies move in steps targets_first, targets_first + targets_every, ... of the phase."""
    targets_pace: str | None = None
    """Name of a structure field n instead of those two: the copies move in the last of every n steps."""

    def under(self, config: Any) -> Phase:
        """The phase as this configuration trains it: without the updates it leaves out, every pace a number."""
        updates = tuple(
            update if update.pace is None else replace(update, every=(n := getattr(config, update.pace)), first=n - 1)
            for update in self.updates
            if update.when is None or getattr(config, update.when)
        )
        if self.targets_pace is None:
            return replace(self, updates=updates)
        every = getattr(config, self.targets_pace)
        return replace(self, updates=updates, targets_every=every, targets_first=every - 1)


class Batch(Protocol):
    """A minibatch of transitions; B rows drawn uniformly with replacement. Actions are in the unit box."""

    @property
    def observations(self) -> Tensor: ...  # (B, S)
    @property
    def actions(self) -> Tensor: ...  # (B, A)
    @property
    def rewards(self) -> Tensor: ...  # (B,)
    @property
    def next_observations(self) -> Tensor: ...  # (B, S)
    @property
    def next_actions(self) -> Tensor: ...  # (B, A); zeros where `terminals` is 1
    @property
    def terminals(self) -> Tensor: ...  # (B,) 1.0 where the environment ended, never at a time limit
    @property
    def episodes(self) -> Tensor: ...  # (B,) int64: the episode, from 0, that the transition belongs to


class Data(Protocol):
    """The whole data set on the training device: R rows in the layout of `raymix.types.Columns`."""

    spec: Spec
    observations: Tensor
    """(R, S)."""
    actions: Tensor
    """(R, A) in the unit box."""
    rewards: Tensor
    """(R,)."""
    episodes: Tensor
    """(R,) int64."""
    rows: Tensor
    """(N,) int64: the rows that start a transition and may be drawn."""


class Algorithm:
    """Base class. One instance serves every member and every device: it holds no state."""

    Config: ClassVar[type[AlgorithmConfig]]
    paper: ClassVar[str]
    """Authors, year, title."""
    phases: ClassVar[tuple[Phase, ...]]
    acting: ClassVar[tuple[str, ...]]
    """The networks that `sample_actions` calls."""
    acting_targets: ClassVar[tuple[str, ...]] = ()
    """Those of `acting` whose slow copy acts; `sample_actions` calls them by their plain name."""
    uses_next_actions: ClassVar[bool] = False
    """True: transitions without a next action (the last before a time limit) are not sampled."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named sets of hyperparameters."""
    snapshots: ClassVar[tuple[str, ...]] = ()
    """Parameters, as `network/parameter`, that each report keeps in the run's folder for figures."""

    def networks(self, spec: Spec, config: Any) -> dict[str, nn.Module]:
        """Fresh networks of one agent, initialised from torch's global generator (seeded by the caller)."""
        raise NotImplementedError  # abstract

    def sample_actions(self, nets: Any, observations: Tensor, config: Any, key: Key | None = None) -> Tensor:
        """(B, S) -> (B, A) in the unit box: how the trained policy is evaluated; `key` feeds a stochastic one."""
        raise NotImplementedError  # abstract

    def enter_phase(self, phase: Phase, tensors: Mapping[str, Tensor], data: Data, config: Any) -> dict[str, Tensor]:
        """What changes when one agent enters `phase` from the phase before.

        `tensors` are its networks as `parameters/NETWORK/NAME` and `targets/NETWORK/NAME`; returned are the new
        values of those that change, under the same names. Not called for the first phase.
        """
        return {}

    def configure(self, values: Mapping[str, Any], preset: str | None = None) -> AlgorithmConfig:
        """The configuration with the preset's values and then `values` on top."""
        if preset is not None and preset not in self.presets:
            known = ", ".join(self.presets) or "none"
            raise UsageError(f"unknown preset {preset!r} of {type(self).__name__}; it has: {known}")
        return self.Config.create({**(self.presets[preset] if preset else {}), **values})


def names() -> list[str]:
    """Names of all algorithms: the modules beside this one."""
    return sorted(module.name for module in pkgutil.iter_modules(raymix.algorithms.__path__) if module.name != "base")


def find(name: str) -> Algorithm:
    """The algorithm defined in `raymix/algorithms/<name>.py`; a `UsageError` lists the known ones."""
    if name not in names():
        raise UsageError(f"unknown algorithm {name!r}; known: {', '.join(names())}")
    module = importlib.import_module(f"raymix.algorithms.{name}")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Algorithm) and value.__module__ == module.__name__
    )
    return found()

"""Replays runs that were recorded from authors' own code (`tests/golden/README.md`) through raymix's losses.

The losses run unlifted, on recorded weights, batches and noise, with `torch.optim.Adam`: what is compared is the
algorithm alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raymix.algorithms.base import Algorithm, Phase, Update
from raymix.learner.networks import LiftedConfig, Networks, fresh_networks
from raymix.types import Spec

OBSERVATION_DIM, ACTION_DIM, STEPS = 5, 3, 10
RELATIVE = 2e-5
"""Tolerance of losses and gradients, relative to max(1, |value|)."""
_BATCH = {
    "state": "observations",
    "action": "actions",
    "next_state": "next_observations",
    "reward": "rewards",
    "done": "terminals",
}


def identity_spec(observation_epsilon: float = 0.0, action_epsilon: float = 0.0) -> Spec:
    """A data set's facts under which (x - mean) / (std + epsilon) leaves everything as it is."""
    observations, actions = (0.0,) * OBSERVATION_DIM, (0.0,) * ACTION_DIM
    return Spec(
        name="golden",
        hash="",
        observation_dim=OBSERVATION_DIM,
        action_dim=ACTION_DIM,
        action_low=(-1.0,) * ACTION_DIM,
        action_high=(1.0,) * ACTION_DIM,
        observation_mean=observations,
        observation_std=(1.0 - observation_epsilon,) * OBSERVATION_DIM,
        action_mean=actions,
        action_std=(1.0 - action_epsilon,) * ACTION_DIM,
        reward_min=-1.0,
        reward_max=1.0,
        num_transitions=1,
        num_episodes=1,
        returns_mean=0.0,
        returns_min=-1.0,
        returns_max=1.0,
    )


class Recording:
    """One variant of a file in `tests/golden`: `recording["mid/train.weight"]`.

    What it shares with `base`, another variant, may be stored under that one only.
    """

    def __init__(self, file: str, variant: str, base: str | None = None) -> None:
        self.arrays: dict[str, Tensor] = {}
        with np.load(Path(__file__).parent / "golden" / file) as archive:
            for prefix in (f"{base}/", f"{variant}/"):
                self.arrays |= {
                    name.removeprefix(prefix): torch.from_numpy(archive[name])
                    for name in archive.files
                    if name.startswith(prefix) and archive[name].dtype.kind in "fiub"
                }

    def __getitem__(self, name: str) -> Tensor:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def at(self, name: str, step: int) -> Tensor:
        """Row of step 1, 2, ..."""
        return self.arrays[name][step - 1]

    def batch(self, step: int) -> SimpleNamespace:
        """What every update of this step read."""
        rows = {ours: self.at(f"batch/{theirs}", step) for theirs, ours in _BATCH.items()}
        return SimpleNamespace(
            **{name: row[:, 0] if name in ("rewards", "terminals") else row for name, row in rows.items()}
        )


class RecordedKey:
    """Hands out recorded noise in the order of the draws; a draw of another shape is an error."""

    def __init__(self, *noise: Tensor) -> None:
        self.noise = list(noise)

    def normal(self, *shape: int) -> Tensor:
        drawn = self.noise.pop(0)
        assert drawn.shape == shape, (drawn.shape, shape)
        return drawn

    uniform = normal

    def gumbel(self, *shape: int) -> Tensor:
        """From recorded uniform numbers, with the authors' guards against 0."""
        return -torch.log(-torch.log(self.normal(*shape) + 1e-12) + 1e-12)

    def integers(self, high: int, *shape: int) -> Tensor:
        drawn = self.normal(*shape).long()
        assert int(drawn.min()) >= 0 and int(drawn.max()) < high
        return drawn


@dataclass
class Replay:
    """Replays the phase's steps; every comparison is kept as (what, step, difference in units of its tolerance)."""

    recording: Recording
    algorithm: Algorithm
    config_values: Mapping[str, Any]
    weights: Callable[[str, str, str], Tensor]
    """(group such as `w0`, kind and network such as `parameters/critic` or `targets/critic`, parameter) -> value."""
    noise: Callable[[str, int], list[Tensor]]
    """(loss, step) -> what its key hands out, in order of the draws."""
    checks: Callable[[str, int, Tensor, dict[str, Tensor]], dict[str, tuple[Tensor, Tensor]]]
    """(loss, step, its value, its metrics) -> name of a comparison -> (ours, recorded)."""
    gradients: Callable[[str, str, str], Tensor] | None = None
    """(loss, network, parameter) -> recorded gradient of the optimiser's first step."""
    spec: Spec | None = None
    phase: str = "main"
    weight_tolerance: float = 5e-6

    def __post_init__(self) -> None:
        self.found: list[tuple[str, int, float]] = []
        config = self.algorithm.configure(self.config_values)
        scalars = {name: torch.tensor(value) for name, value in config.of_kind("scalar").items()}
        self.config = LiftedConfig(config.of_kind("structure"), scalars)
        modules = fresh_networks(self.algorithm, self.spec or identity_spec(), config, seed=0)
        self.parameters = {
            network: {
                name: self.weights("w0", f"parameters/{network}", name).clone().requires_grad_()
                for name, _ in module.named_parameters()
            }
            for network, module in modules.items()
        }
        stated: Phase = next(phase for phase in self.algorithm.phases if phase.name == self.phase).under(config)
        self.targets = {
            network: {name: self.weights("w0", f"targets/{network}", name).clone() for name in self.parameters[network]}
            for network in stated.targets
        }
        self.modules, self.nets = modules, Networks(modules, self.parameters, self.targets)
        self._run(stated, config)

    @property
    def failures(self) -> list[tuple[str, int, float]]:
        return [row for row in self.found if not row[2] <= 1.0]

    def compare(self, what: str, step: int, ours: Tensor, recorded: Tensor, tolerance: float | None = None) -> None:
        ours, recorded = ours.detach().double(), recorded.double()
        assert ours.shape == recorded.shape, (what, ours.shape, recorded.shape)
        allowed = RELATIVE * recorded.abs().clamp(min=1.0) if tolerance is None else torch.tensor(tolerance).double()
        self.found.append((what, step, float(((ours - recorded).abs() / allowed).max())))

    def _run(self, phase: Phase, config: Any) -> None:
        adams = {
            update.loss: torch.optim.Adam(
                [value for network in update.networks for value in self.parameters[network].values()],
                getattr(config, update.learning_rate),
            )
            for update in phase.updates
        }
        for step in range(1, STEPS + 1):
            for update in phase.updates:
                if (step - 1) % update.every == update.first:
                    self._update(update, step, adams[update.loss], getattr(config, phase.steps))
            if (step - 1) % phase.targets_every == phase.targets_first:
                for network, tensors in self.targets.items():
                    for name, target in tensors.items():
                        target.lerp_(self.parameters[network][name].detach(), float(self.config.tau))
            if any(name.startswith(f"w{step}/") for name in self.recording.arrays):
                self._compare_weights(f"w{step}", step)
        observations = self.recording["eval/state"]
        slow = {name: self.targets[name] for name in self.algorithm.acting_targets}
        acting = Networks(self.modules, {**self.parameters, **slow})
        with torch.no_grad():
            actions = self.algorithm.sample_actions(acting, observations, self.config)
        self.compare("evaluated actions", STEPS, actions, self.recording["eval/action"].clamp(-1.0, 1.0), 2e-5)

    def _update(self, update: Update, step: int, adam: torch.optim.Adam, total: int) -> None:
        key = RecordedKey(*self.noise(update.loss, step))
        loss, details = getattr(self.algorithm, update.loss)(self.nets, self.recording.batch(step), self.config, key)
        assert not key.noise, "the loss left recorded noise unused"
        for name, (ours, recorded) in self.checks(update.loss, step, loss, details).items():
            self.compare(name, step, ours, recorded)
        trained = [(n, name, value) for n in update.networks for name, value in self.parameters[n].items()]
        first = step == 1 + update.first
        for (network, name, value), gradient in zip(trained, torch.autograd.grad(loss, [v for *_, v in trained])):
            value.grad = gradient
            if first and self.gradients is not None:
                expected = self.gradients(update.loss, network, name)
                self.compare(f"gradient {update.loss} {network}.{name}", step, gradient, expected)
        if update.schedule == "cosine":
            share = 0.5 * (1 + math.cos(math.pi * min((step - 1 - update.first) / total, 1)))
            adam.param_groups[0]["lr"] = share * float(getattr(self.config, update.learning_rate))
        adam.step()

    def _compare_weights(self, group: str, step: int) -> None:
        for kind, networks in (("parameters", self.parameters), ("targets", self.targets)):
            for network, tensors in networks.items():
                for name, value in tensors.items():
                    expected = self.weights(group, f"{kind}/{network}", name)
                    self.compare(f"weights {kind}/{network}.{name}", step, value, expected, self.weight_tolerance)

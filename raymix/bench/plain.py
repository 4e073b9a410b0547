"""The training loop that everybody writes: one agent, `nn.Linear`, `torch.optim.Adam`, a NumPy replay buffer.

It trains any of raymix's algorithms by the same losses, called on the modules themselves, with torch's own random
numbers: what a packed program is compared with.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raymix.algorithms.base import Algorithm, Update
from raymix.config import AlgorithmConfig
from raymix.types import Dataset


class PlainKey:
    """The draws of `raymix.random.Key` from torch's global generator."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, device=self.device)

    def gumbel(self, *shape: int) -> Tensor:
        return -torch.log(-torch.log(self.uniform(*shape)))

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, device=self.device)

    def categorical(self, logits: Tensor) -> Tensor:
        return torch.distributions.Categorical(logits=logits).sample()


class PlainLoop:
    """One agent in one phase of an algorithm."""

    def __init__(
        self, algorithm: Algorithm, config: AlgorithmConfig, phase: str, dataset: Dataset, device: torch.device
    ) -> None:
        self.algorithm, self.device = algorithm, device
        self.phase = next(stated for stated in algorithm.phases if stated.name == phase).under(config)
        # Scalars as tensors, which is what the losses are written for.
        scalars = {name: torch.tensor(value, device=device) for name, value in config.of_kind("scalar").items()}
        self.config = SimpleNamespace(**config.of_kind("structure"), **scalars)
        self.rates = config.of_kind("scalar")
        self.modules = {name: net.to(device) for name, net in algorithm.networks(dataset.spec, config).items()}
        followed = {name for stated in algorithm.phases for name in stated.targets}
        self.targets = {name: net.to(device) for name, net in algorithm.networks(dataset.spec, config).items()}
        for name in followed:
            self.targets[name].load_state_dict(self.modules[name].state_dict())
            self.targets[name].requires_grad_(False)
        self.nets = SimpleNamespace(**self.modules, target=SimpleNamespace(**self.targets))
        self.adams = {
            update.loss: torch.optim.Adam(self._trained(update), self.rates[update.learning_rate])
            for update in self.phase.updates
        }
        self.steps_in_phase = getattr(config, self.phase.steps)
        columns = dataset.columns
        self.rows = columns.transition_rows(algorithm.uses_next_actions)
        self.columns = columns
        self.step = 0
        self.generator = np.random.default_rng(0)

    def _trained(self, update: Update) -> list[Tensor]:
        return [parameter for name in update.networks for parameter in self.modules[name].parameters()]

    def _sample(self, size: int) -> SimpleNamespace:
        rows = self.generator.choice(self.rows, size)
        columns = self.columns

        def tensor(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

        return SimpleNamespace(
            observations=tensor(columns.observations[rows]),
            actions=tensor(columns.actions[rows]),
            rewards=tensor(columns.rewards[rows]),
            next_observations=tensor(columns.observations[rows + 1]),
            next_actions=tensor(columns.actions[rows + 1]),
            terminals=tensor(columns.terminals[rows].astype(np.float32)),
            episodes=tensor(columns.episode[rows].astype(np.int64)),
        )

    def run(self, steps: int) -> None:
        """Take so many gradient steps."""
        key = PlainKey(self.device)
        for _ in range(steps):
            batches: dict[str, SimpleNamespace] = {}
            for update in self.phase.updates:
                if (self.step - update.first) % update.every:
                    continue
                lender = batches.get(update.batch_of or "")
                batch = batches[update.loss] = lender or self._sample(getattr(self.config, update.batch_size))
                self._update(update, batch, key)
            if (self.step - self.phase.targets_first) % self.phase.targets_every == 0:
                self._move_targets()
            self.step += 1

    def _update(self, update: Update, batch: SimpleNamespace, key: PlainKey) -> None:
        adam = self.adams[update.loss]
        if update.schedule == "cosine":
            share = 0.5 * (1 + math.cos(math.pi * min(self.step / self.steps_in_phase, 1)))
            adam.param_groups[0]["lr"] = share * self.rates[update.learning_rate]
        # What careful authors write as `no_grad` and `detach`: nothing is computed for networks that stand still.
        for name, module in self.modules.items():
            module.requires_grad_(name in update.networks)
        loss, _ = getattr(self.algorithm, update.loss)(self.nets, batch, self.config, key)
        adam.zero_grad()
        loss.backward()
        adam.step()

    def _move_targets(self) -> None:
        tau = self.rates.get("tau", 0.0)
        with torch.no_grad():
            for name in self.phase.targets:
                pairs = zip(self.modules[name].parameters(), self.targets[name].parameters(), strict=True)
                for online, slow in pairs:
                    slow.lerp_(online, tau)


def flops_per_step(loop: PlainLoop) -> float:
    """Floating-point operations of one step, averaged over the pace of its updates."""
    from torch.utils.flop_counter import FlopCounterMode

    steps: Any = math.lcm(*(update.every for update in loop.phase.updates))
    with FlopCounterMode(display=False) as counter:
        loop.run(steps)
    return counter.get_total_flops() / steps

"""The learner: one phase of an algorithm, written for one agent, trained for N members as one program.

Losses are lifted over the member axis by `torch.vmap`; the gradient is that of the sum over members, which gives each
member its own (a member's loss touches its own parameters only). Runs without Ray.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raymix.algorithms.base import Algorithm, Phase
from raymix.config import AlgorithmConfig
from raymix.learner.adam import adam_
from raymix.learner.capture import Program
from raymix.learner.networks import LiftedConfig, Networks, Watched, fresh_networks
from raymix.learner.replay import DeviceReplay, DrawnBatch, HeldOutBatch, UnseenEpisodes
from raymix.learner.state import MemberState, acting_of, flatten, unflatten
from raymix.random import HELD_OUT, Key, streams

HELD_OUT_BATCHES = 16
"""The most batches of held-out data that are looked at in a report."""


@dataclass
class Chunk:
    """What one stretch of steps gives back, on the host."""

    steps: int
    metrics: dict[str, list[float]]
    """Means over the chunk's steps, one value per seat."""


class Learner:
    """N seats that train one phase of one algorithm in lock-step.

    All seats share `config`'s structure fields; scalars and the seed belong to the member in the seat. Every seat is
    computed always: an unclaimed one trains a copy that nobody reads, so that admission never changes the program.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        config: AlgorithmConfig,
        phase: str,
        replay: DeviceReplay,
        width: int,
        capture: str = "auto",
    ) -> None:
        self.algorithm, self.config, self.replay, self.width = algorithm, config, replay, width
        self.phase_index = [stated.name for stated in algorithm.phases].index(phase)
        self.phase: Phase = algorithm.phases[self.phase_index].under(config)
        self.device, self.dtype = replay.observations.device, replay.observations.dtype
        self._modules = {
            name: module.to(self.device, self.dtype).requires_grad_(False)
            for name, module in fresh_networks(algorithm, replay.spec, config, seed=0).items()
        }
        self._structure = config.of_kind("structure")
        self.program = Program(self._step, self.device, capture, config.precision)
        # Updates with `every` > 1 are left out of the program of a step, so all seats must agree on when.
        self.period = math.lcm(*(update.every for update in self.phase.updates))
        blank = self.fresh(config, seed=0)
        stacked = {name: torch.stack([value] * width) for name, value in blank.tensors.items()}
        self._state = unflatten({name: value.to(self.device) for name, value in stacked.items()})
        self._scalars = {
            name: torch.full((width,), float(value), device=self.device, dtype=self.dtype)
            for name, value in config.of_kind("scalar").items()
        }
        # The phase's number of steps, for learning rates that fall over it.
        self._horizons = torch.ones(width, dtype=torch.float64, device=self.device)
        self._seeds = torch.zeros(width, dtype=torch.int64, device=self.device)
        self._steps = torch.zeros(width, dtype=torch.int64, device=self.device)
        # Sums of metrics since each seat's were last taken, and of how many steps.
        self._totals: dict[str, Tensor] = {}
        self._counts: dict[str, np.ndarray] = {}

    # Seats

    def fresh(self, config: AlgorithmConfig, seed: int) -> MemberState:
        """A new member at step 0 of this phase: networks initialised from its seed, optimisers at rest."""
        modules = fresh_networks(self.algorithm, self.replay.spec, config, seed)
        parameters = {
            name: {key: value.detach().to(self.dtype) for key, value in module.named_parameters()}
            for name, module in modules.items()
        }
        targets = {name: parameters[name] for phase in self.algorithm.phases for name in phase.targets}
        networks = flatten({"parameters": parameters, "targets": targets})
        return MemberState(self.phase.name, 0, seed, {**networks, **self._resting_optimisers(networks)})

    def entering(self, state: MemberState, config: AlgorithmConfig) -> MemberState:
        """A member that finished the phase before, at step 0 of this one: its networks, optimisers at rest."""
        networks = {name: value for name, value in state.tensors.items() if not name.startswith("adam/")}
        changes = self.algorithm.enter_phase(self.phase, networks, self.replay, config)
        if unknown := changes.keys() - networks.keys():
            raise ValueError(f"enter_phase of {self.phase.name} returned {sorted(unknown)}, which are no networks'")
        networks |= {name: value.detach().cpu().clone() for name, value in changes.items()}
        return MemberState(self.phase.name, 0, state.seed, {**networks, **self._resting_optimisers(networks)})

    def _resting_optimisers(self, networks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for update in self.phase.updates:
            tensors[f"adam/{update.loss}/count"] = torch.zeros((), dtype=torch.int64)
            for name, value in networks.items():
                kind, network, *_ = name.split("/")
                if kind == "parameters" and network in update.networks:
                    for moment in ("means", "squares"):
                        tensors[f"adam/{update.loss}/{moment}/{name.split('/', 1)[1]}"] = torch.zeros_like(value)
        return tensors

    def load(self, seat: int, state: MemberState, config: AlgorithmConfig) -> None:
        """Seat a member: its weights, optimisers and step from `state`, its scalars from `config`."""
        if state.phase != self.phase.name:
            raise ValueError(f"a member in phase {state.phase!r} cannot sit in a learner of phase {self.phase.name!r}")
        ours = flatten(self._state)
        expected = {(name, value.shape[1:]) for name, value in ours.items()}
        if odd := expected ^ {(name, value.shape) for name, value in state.tensors.items()}:
            raise ValueError(f"the state's tensors are not this program's: {sorted({name for name, _ in odd})}")
        for name, value in state.tensors.items():
            ours[name][seat].copy_(value)
        self._seeds[seat], self._steps[seat] = state.seed, state.step
        self.set_scalars(seat, config)
        self._forget_metrics([seat])

    def set_scalars(self, seat: int, config: AlgorithmConfig) -> None:
        """Write a member's scalar hyperparameters in place."""
        for name, value in config.of_kind("scalar").items():
            self._scalars[name][seat] = float(value)
        self._horizons[seat] = getattr(config, self.phase.steps)

    def state(self, seat: int) -> MemberState:
        """A copy, on the host, of everything that a step of this member reads except its scalars."""
        return self.states([seat])[0]

    def states(self, seats: Sequence[int]) -> list[MemberState]:
        """The `state` of several seats, fetched from the device together."""
        index = torch.tensor(list(seats), dtype=torch.int64, device=self.device)
        fetched = {name: value[index].cpu() for name, value in flatten(self._state).items()}
        return [
            MemberState(
                self.phase.name,
                int(self._steps[seat]),
                int(self._seeds[seat]),
                {name: value[row] for name, value in fetched.items()},
            )
            for row, seat in enumerate(seats)
        ]

    def align(self, seats: Sequence[int], step: int) -> None:
        """Let the seats that nobody reads keep the others' time: all must agree on it modulo `period`."""
        self._steps[list(seats)] = step

    def acting_weights(self, seat: int) -> dict[str, Tensor]:
        """Host copies of the parameters that `sample_actions` needs, as `network/parameter`."""
        return acting_of(self.algorithm, self.state(seat).tensors)

    def scalars_read(self) -> set[str]:
        """Names of the scalar fields that this phase depends on: members that agree on them train alike.

        Losses are called once to see what they read, as they are: written for one agent and free of branches on data.
        """
        scalars = {name: value[0] for name, value in self._scalars.items()}
        watched = Watched(LiftedConfig(self._structure, scalars))
        state = unflatten({name: value[0] for name, value in flatten(self._state).items()})
        nets = Networks(self._modules, state["parameters"], state["targets"])
        starts = streams(self._seeds[:1], self._steps[:1], len(self.phase.updates), domain=self.phase_index)[0]
        for update, start in zip(self.phase.updates, starts):
            rows = self.replay.rows[: self._structure[update.batch_size]]
            getattr(self.algorithm, update.loss)(nets, DrawnBatch(self.replay, rows), watched, Key(start, self.dtype))
        starting = Watched(self.config)
        fresh_networks(self.algorithm, self.replay.spec, starting, seed=0)
        if self.phase_index:
            networks = {name: value for name, value in flatten(state).items() if not name.startswith("adam/")}
            self.algorithm.enter_phase(self.phase, networks, self.replay, starting)
        read = watched.read | starting.read | {update.learning_rate for update in self.phase.updates}
        return (read | ({"tau"} if self.phase.targets else set())) & self._scalars.keys()

    # Training

    def run(self, steps: int) -> Chunk:
        """Train every seat for `steps` steps, and take all their metrics."""
        self.train(steps)
        taken = self.take_metrics(range(self.width))
        return Chunk(steps, {name: [values[name] for values in taken] for name in taken[0]})

    def train(self, steps: int) -> None:
        """Train every seat for `steps` steps. Nothing waits for the device meanwhile; metrics are summed up there."""
        offsets = (self._steps % self.period).tolist()
        if len(set(offsets)) > 1:
            raise ValueError(f"seats are at steps {self._steps.tolist()}, which differ modulo {self.period}")
        times = self._steps + torch.arange(steps, device=self.device)[:, None]
        starts = streams(self._seeds, times, len(self.phase.updates), domain=self.phase_index)
        shares, rates = self._target_shares(times), self._rate_factors(times)
        done: Counter[str] = Counter()
        for index in range(steps):
            clock = (offsets[0] + index) % self.period
            metrics = self.program(self._state, self._scalars, starts[index], shares[index], rates[index], clock)
            done.update(metrics.keys())  # An update with `every` > 1 has metrics in some steps only.
            for name in metrics.keys() - self._totals.keys():
                self._totals[name] = torch.zeros_like(metrics[name])
                self._counts[name] = np.zeros(self.width, dtype=np.int64)
            if metrics:  # Steps in which every update rests have none.
                torch._foreach_add_([self._totals[name] for name in metrics], list(metrics.values()))
        self._steps += steps
        for name, times_done in done.items():
            self._counts[name] += times_done

    def take_metrics(self, seats: Sequence[int]) -> list[dict[str, float]]:
        """Per seat: means over the steps since they were last taken, or since its member came; waits for the device.

        The sums run on over any number of calls of `train`, so a mean does not depend on how its steps were cut.
        """
        taken = [{} for _ in seats]  # type: list[dict[str, float]]
        if self._totals:
            totals = torch.stack(list(self._totals.values())).cpu().double()
            for name, sums in zip(self._totals, totals.tolist()):
                counts = self._counts[name]
                for values, seat in zip(taken, seats):
                    if counts[seat]:
                        values[name] = sums[seat] / int(counts[seat])
        self._forget_metrics(seats)
        return taken

    def _forget_metrics(self, seats: Sequence[int]) -> None:
        index = torch.tensor(list(seats), dtype=torch.int64, device=self.device)
        for name, total in self._totals.items():
            total.index_fill_(0, index, 0.0)
            self._counts[name][list(seats)] = 0

    def _drawn(self, key: Key, size: int) -> Tensor:
        """(size,) rows that start a transition: uniform, in runs of `draw_block` neighbours (whole runs but the last).

        Runs go on from the last row to the first, so that every row is as likely.
        """
        rows, block = self.replay.rows, self._structure["draw_block"]
        if block == 1:
            return rows[key.integers(len(rows), size)]
        starts = key.integers(len(rows), -(-size // block))
        places = (starts[:, None] + torch.arange(block, device=self.device)) % len(rows)
        return rows[places.reshape(-1)[:size]]

    # Held-out data

    @torch.no_grad()
    def held_out(self, seats: Sequence[int]) -> list[dict[str, float]]:
        """Per seat: the phase's losses, with their details, on the held-out episodes; empty where none are.

        Means over at most `HELD_OUT_BATCHES` fixed batches of the size that an update trains on. In the last phase
        `action_error` besides: the mean squared difference, per dimension of the unit box, between the policy's action
        and the data's. Losses that depend on what was learnt of an episode are left out.
        """
        rows = self.replay.held_out_rows
        if not len(rows):
            return [{} for _ in seats]
        totals: dict[str, Tensor] = {}
        functions: list[tuple[str, Any, int]] = [
            (update.loss, getattr(self.algorithm, update.loss), self._structure[update.batch_size])
            for update in self.phase.updates
        ]
        if self.phase_index == len(self.algorithm.phases) - 1:
            functions.append(("action_error", self._action_error, max(size for _, _, size in functions)))
        for index, (name, function, size) in enumerate(functions):
            batches = _evenly(rows, size)
            with contextlib.suppress(UnseenEpisodes):
                for number, chosen in enumerate(batches):
                    value, details = self._looked_at(function, chosen, index, number, len(functions))
                    for key, found in {name: value, **details}.items():
                        totals[key] = totals.get(key, 0.0) + found / len(batches)
        if not totals:
            return [{} for _ in seats]
        found = torch.stack(list(totals.values())).cpu().double()
        return [dict(zip(totals, found[:, seat].tolist())) for seat in seats]

    def _looked_at(
        self, function: Any, rows: Tensor, index: int, number: int, count: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A loss (N,) and its details of all seats on the same rows; `index` of `count` is whose numbers it draws."""
        starts = streams(self._seeds, torch.full_like(self._steps, number), count, domain=HELD_OUT)[:, index]

        def member(parameters: Any, targets: Any, scalars: dict[str, Tensor], starts: Tensor) -> Any:
            nets = Networks(self._modules, parameters, targets)
            config = LiftedConfig(self._structure, scalars)
            return function(nets, HeldOutBatch(self.replay, rows), config, Key(starts, self.dtype))

        return torch.vmap(member)(self._state["parameters"], self._state["targets"], self._scalars, starts)

    def _action_error(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        slow = self.algorithm.acting_targets
        acting = Networks(
            self._modules,
            {name: (nets.target if name in slow else nets)._parameters.get(name, {}) for name in self.algorithm.acting},
        )
        actions = self.algorithm.sample_actions(acting, batch.observations, config, key)
        return (actions.clamp(-1.0, 1.0) - batch.actions).square().mean(), {}

    def _target_shares(self, times: Tensor) -> Tensor:
        """(steps, N): how far the targets move in each step; 0 in the steps between, which keeps one program for all.

        An algorithm without target networks has no `tau`, and its program reads none of these.
        """
        tau = self._scalars.get("tau", torch.zeros(self.width, device=self.device, dtype=self.dtype))
        moving = (times - self.phase.targets_first) % self.phase.targets_every == 0
        return torch.where(moving, tau, 0.0)

    def _rate_factors(self, times: Tensor) -> Tensor:
        """(steps, updates, N): what scheduled learning rates are multiplied by in each step; 1 at the first update."""
        firsts = torch.tensor([update.first for update in self.phase.updates], device=self.device)
        done = ((times[:, None] - firsts[:, None]) / self._horizons).clamp(0.0, 1.0)
        return (0.5 * (1.0 + torch.cos(math.pi * done))).to(self.dtype)

    def _step(
        self,
        state: dict[str, Any],
        scalars: dict[str, Tensor],
        starts: Tensor,
        shares: Tensor,
        rates: Tensor,
        clock: int,
    ) -> dict[str, Tensor]:
        """One step of all seats, in place.

        Takes (N, updates, DRAWS) random starts, (N,) shares by which targets move, (updates, N) factors of scheduled
        learning rates, and the step modulo `period`; returns metrics (N,).
        """
        metrics: dict[str, Tensor] = {}
        parameters, targets = state["parameters"], state["targets"]
        for index, update in enumerate(self.phase.updates):
            if (clock - update.first) % update.every:
                continue
            trained = {name: parameters[name] for name in update.networks}
            gradients, (losses, details) = torch.func.grad(self._summed_loss, has_aux=True)(
                trained, parameters, targets, scalars, starts, index
            )
            metrics[update.loss] = losses
            metrics.update(details)
            optimiser = state["adam"][update.loss]
            trees = [flatten(tree) for tree in (trained, gradients, optimiser["means"], optimiser["squares"])]
            values, slopes, means, squares = ([tree[name] for name in trees[0]] for tree in trees)  # Orders may differ.
            learning_rate = scalars[update.learning_rate]
            if update.schedule == "cosine":
                learning_rate = learning_rate * rates[index]
            adam_(values, slopes, means, squares, optimiser["count"], learning_rate)
        for network in self.phase.targets:
            for name, value in targets[network].items():
                value.lerp_(parameters[network][name], shares.view((-1,) + (1,) * (value.dim() - 1)))
        return metrics

    def _summed_loss(
        self,
        trained: dict[str, dict[str, Tensor]],
        parameters: dict[str, dict[str, Tensor]],
        targets: dict[str, dict[str, Tensor]],
        scalars: dict[str, Tensor],
        starts: Tensor,
        index: int,
    ) -> tuple[Tensor, tuple[Tensor, dict[str, Tensor]]]:
        """The sum over members of one update's loss; losses and metrics per member beside it."""
        update = self.phase.updates[index]
        loss_function = getattr(self.algorithm, update.loss)
        batch_size = self._structure[update.batch_size]
        names = [other.loss for other in self.phase.updates]
        lender = names.index(update.batch_of) if update.batch_of else index

        def member_loss(
            parameters: Any, targets: Any, scalars: dict[str, Tensor], starts: Tensor
        ) -> tuple[Tensor, dict[str, Tensor]]:
            key = Key(starts[index], self.dtype)
            # The first draw of an update chooses its rows; a borrower repeats that of its lender.
            rows_key = key if lender == index else Key(starts[lender], self.dtype)
            rows = self._drawn(rows_key, batch_size)
            config = LiftedConfig(self._structure, scalars)
            nets = Networks(self._modules, parameters, targets)
            return loss_function(nets, DrawnBatch(self.replay, rows), config, key)

        losses, details = torch.vmap(member_loss)({**parameters, **trained}, targets, scalars, starts)
        return losses.sum(), (losses.detach(), {name: value.detach() for name, value in details.items()})


def _evenly(rows: Tensor, size: int) -> list[Tensor]:
    """At most `HELD_OUT_BATCHES` batches of `size` rows, spread evenly; one of all rows where there are fewer."""
    if len(rows) <= size:
        return [rows]
    count = min(HELD_OUT_BATCHES, len(rows) // size)
    # Strided, so that every batch has rows of many episodes.
    chosen = rows[torch.linspace(0, len(rows) - 1, count * size, device=rows.device).long()]
    return list(chosen.reshape(size, count).T)

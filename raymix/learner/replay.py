"""A data set on a training device: shared columns, and the minibatches that are views of drawn rows."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from raymix.data.held_out import held_out_episodes
from raymix.types import Dataset, Spec, UsageError


class DeviceReplay:
    """One data set's columns as tensors on one device, shared by all members that train there.

    On a CPU the columns may alias read-only memory that other processes see (the object store), so they are never
    handed out: `batch` gathers drawn rows into new tensors.
    """

    def __init__(
        self,
        dataset: Dataset,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        with_next_action: bool = False,
        held_out: float = 0.0,
    ) -> None:
        """`held_out` is the share of the episodes that training does not see (`raymix.data.held_out`)."""
        columns, spec = dataset.columns, dataset.spec
        self.spec = spec
        self.observations = _tensor(columns.observations, device, dtype)
        self.actions = _to_unit_box(_tensor(columns.actions, device, dtype), spec, columns.last_rows)
        self.rewards = _tensor(columns.rewards, device, dtype)
        self.terminals = _tensor(columns.terminals, device, torch.bool)
        self.episodes = _tensor(columns.episode, device, torch.int64)
        rows = columns.transition_rows(with_next_action)
        if not len(rows):
            raise UsageError(
                f"no transition of data set {spec.name} has a next action: every episode is one step, cut by a limit"
            )
        held = np.isin(columns.episode[rows], held_out_episodes(columns, spec, held_out))
        self.rows = torch.from_numpy(rows[~held]).to(device)
        """(N,) rows that start a transition and may be drawn."""
        self.held_out_rows = torch.from_numpy(rows[held]).to(device)
        """(H,) rows of the episodes that are held out."""
        if not len(self.rows):
            raise UsageError(
                f"no transition of data set {spec.name} is left to train on beside its held-out episodes; give more"
                " episodes"
            )


class DrawnBatch:
    """The transitions that start at `rows` (B,): an `algorithms.base.Batch` that gathers what is asked for."""

    def __init__(self, replay: DeviceReplay, rows: Tensor) -> None:
        self._replay, self._rows = replay, rows

    @property
    def observations(self) -> Tensor:
        return self._replay.observations[self._rows]

    @property
    def actions(self) -> Tensor:
        return self._replay.actions[self._rows]

    @property
    def rewards(self) -> Tensor:
        return self._replay.rewards[self._rows]

    @property
    def next_observations(self) -> Tensor:
        return self._replay.observations[self._rows + 1]

    @property
    def next_actions(self) -> Tensor:
        return self._replay.actions[self._rows + 1]

    @property
    def terminals(self) -> Tensor:
        return self._replay.terminals[self._rows].to(self._replay.rewards.dtype)

    @property
    def episodes(self) -> Tensor:
        return self._replay.episodes[self._rows]


class UnseenEpisodes(Exception):
    """A loss asked which episode a held-out transition is of."""


class HeldOutBatch(DrawnBatch):
    """Transitions of episodes that training has not seen: what is learnt of an episode says nothing about them."""

    @property
    def episodes(self) -> Tensor:
        raise UnseenEpisodes


def _tensor(array: np.ndarray, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    with warnings.catch_warnings():
        # Read-only shared memory: torch warns that writing would be undefined; DeviceReplay never writes.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array).to(device=device, dtype=dtype)


def _to_unit_box(actions: Tensor, spec: Spec, padding: np.ndarray) -> Tensor:
    """Actions scaled from the environment's box to [-1, 1]^A, rows of padding zero; as they are where they fit."""
    low, high = actions.new_tensor(spec.action_low), actions.new_tensor(spec.action_high)
    if bool((low == -1).all() and (high == 1).all()):
        return actions
    actions = (actions - low) * (2.0 / (high - low)) - 1.0
    actions[torch.from_numpy(padding).to(actions.device)] = 0.0
    return actions

"""A member's training state: everything a step reads, detached from the seat and the program it sits in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from raymix.algorithms.base import Algorithm

_Array = TypeVar("_Array")


@dataclass(frozen=True)
class MemberState:
    """One member between two steps. Hyperparameters are not part of it: they come from its configuration."""

    phase: str
    step: int
    """Gradient steps done in this phase."""
    seed: int
    tensors: dict[str, Tensor]
    """Host tensors by path: `parameters/NET/NAME`, `targets/NET/NAME`, `adam/LOSS/{count,means/...,squares/...}`."""

    def is_finite(self) -> bool:
        """Whether no number in it is NaN or infinite."""
        return all(bool(torch.isfinite(value).all()) for value in self.tensors.values())


def acting_of(algorithm: Algorithm, tensors: Mapping[str, _Array]) -> dict[str, _Array]:
    """Those of a member's tensors that `sample_actions` needs, as `network/parameter`; not copied."""
    slow = algorithm.acting_targets
    kinds = {name: "targets" if name in slow else "parameters" for name in algorithm.acting}
    return {
        path.split("/", 1)[1]: value
        for path, value in tensors.items()
        if kinds.get(path.split("/")[1]) == path.split("/")[0]
    }


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries to one with paths such as `parameters/critic/0.weight`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{name}/"))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`, with the empty branches that a program looks up."""
    tree: dict[str, Any] = {"parameters": {}, "targets": {}, "adam": {}}
    for path, value in flat.items():
        *branches, leaf = path.split("/")
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
        node[leaf] = value
    return tree

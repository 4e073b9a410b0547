"""Networks as losses see them: modules called with parameters that live elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from raymix.algorithms.base import Algorithm
from raymix.types import Spec

Parameters = Mapping[str, Mapping[str, Tensor]]
"""Network name -> parameter name -> tensor."""


class Networks:
    """`nets.NAME(...)` calls the module NAME with the given parameters; `nets.target.NAME(...)` its slow copy."""

    target: Networks

    def __init__(
        self, modules: Mapping[str, nn.Module], parameters: Parameters, targets: Parameters | None = None
    ) -> None:
        self._modules, self._parameters = modules, parameters
        if targets is not None:
            self.target = Networks(modules, targets)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or not (name in self._parameters or name in self._constants()):
            raise AttributeError(
                f"no network {name!r} here; there are: {', '.join(self.__dict__.get('_parameters', ()))}"
            )
        module, parameters = self._modules[name], self._parameters.get(name, {})
        return lambda *arguments: functional_call(module, dict(parameters), arguments)

    def _constants(self) -> list[str]:
        """Modules without parameters, such as a scale taken from the data set: nothing to be given for them."""
        return [name for name, module in self._modules.items() if not any(True for _ in module.parameters())]


class LiftedConfig:
    """A member's hyperparameters as losses see them: structure fields as they are, scalars as 0-d tensors."""

    def __init__(self, structure: Mapping[str, Any], scalars: Mapping[str, Tensor]) -> None:
        self._values = {**structure, **scalars}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._values:
            raise AttributeError(f"losses may read scalar and structure fields; {name!r} is neither")
        return self._values[name]


class Watched:
    """A configuration that notes which of its fields are read."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return getattr(self._config, name)


def fresh_networks(algorithm: Algorithm, spec: Spec, config: Any, seed: int) -> dict[str, nn.Module]:
    """One agent's networks, initialised from `seed` alone (torch's global generator is left as it was)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return algorithm.networks(spec, config)

"""raymix: hyperparameter sweeps on Ray for offline reinforcement learning from multi-modal data."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raymix.commands.sweep import main
    from raymix.data.catalog import load as load_dataset
    from raymix.plan import SweepSpec
    from raymix.search.conditions import when
    from raymix.search.halving import Halving
    from raymix.search.optuna import Optuna
    from raymix.search.population import Population

__version__ = "0.1.0"
__all__ = ["Halving", "Optuna", "Population", "SweepSpec", "__version__", "load_dataset", "main", "when"]

_HOMES = {
    "Halving": ("raymix.search.halving", "Halving"),
    "Optuna": ("raymix.search.optuna", "Optuna"),
    "Population": ("raymix.search.population", "Population"),
    "SweepSpec": ("raymix.plan", "SweepSpec"),
    "main": ("raymix.commands.sweep", "main"),
    "load_dataset": ("raymix.data.catalog", "load"),
    "when": ("raymix.search.conditions", "when"),
}


def __getattr__(name: str) -> Any:
    """Public names, imported when first used: `import raymix` itself stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'raymix' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)

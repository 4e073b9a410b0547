"""A policy as plain data: what travels from training to evaluation. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PolicyWeights:
    """A policy as plain data, to send to another process or to write to disk. Holds no code."""

    algorithm: str
    config: dict[str, Any]
    spec: dict[str, Any]
    seed: int
    weights: dict[str, np.ndarray]
    """By `network/parameter`: the algorithm's acting networks."""

"""Behaviour policies for tests of collecting, as a user would write them: factories that `MODULE:FUNCTION` names."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np


def published(path: str) -> Any:
    """A policy of the folder that RAYMIX_TEST_POLICIES names, which samples."""
    reader = Path(path).parent / "npz_policy.py"
    spec = importlib.util.spec_from_file_location("npz_policy", reader)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    policy = module.load(path)
    return lambda observations, step, generator: policy(observations, generator, step)


def drawn(crash: str = "") -> Any:
    """Actions (B, 1) that depend on all three arguments; ends its process at step 50 unless the file `crash` exists."""

    def act(observations: np.ndarray, step: int, generator: np.random.Generator) -> np.ndarray:
        if crash and step == 50 and not os.path.exists(crash):
            Path(crash).touch()
            os._exit(1)
        return np.sin(observations[:, :1] + step) + 0.1 * generator.standard_normal((len(observations), 1))

    return act


def spoiled(how: str, step: str = "0") -> Any:
    """Acts as `how` says from that step on; zeros (B, 1) before."""
    ways = {
        "shape": lambda seen: np.zeros(len(seen)),
        "whole": lambda seen: np.zeros((len(seen), 1), dtype=int),
        "text": lambda seen: "left",
        "nan": lambda seen: np.full((len(seen), 1), np.nan),
        "exit": lambda seen: os._exit(1),
        "raise": lambda seen: 1 / 0,
    }

    def act(observations: np.ndarray, now: int, generator: np.random.Generator) -> Any:
        return ways[how](observations) if now >= int(step) else np.zeros((len(observations), 1))

    return act

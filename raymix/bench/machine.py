"""What a benchmark says of the machine it ran on, and how fast that machine multiplies matrices."""

from __future__ import annotations

import os
import platform
import statistics
import time
from typing import Any

import torch

import raymix

PEAK_SIZE = 2048


def facts(device: torch.device) -> dict[str, Any]:
    """Machine, versions and threads, JSON-ready."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cores": usable,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "raymix": raymix.__version__,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def matmul_peak(device: torch.device, repeats: int = 5) -> float:
    """GFLOP/s of a large square float32 product: median of `repeats`, after one that warms up."""
    left, right = (torch.randn(PEAK_SIZE, PEAK_SIZE, device=device) for _ in range(2))
    rates = []
    for _ in range(repeats + 1):
        wait_for(device)
        started = time.perf_counter()
        left @ right
        wait_for(device)
        rates.append(2 * PEAK_SIZE**3 / (time.perf_counter() - started) / 1e9)
    return statistics.median(rates[1:])


def wait_for(device: torch.device) -> None:
    """Let the device finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

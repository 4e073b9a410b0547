"""What a benchmark says of the machine it ran on, and how fast that machine multiplies matrices."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import raymix
from raymix.learner import precision as precisions
from raymix.types import UsageError

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


def matmul_peak(device: torch.device, precision: str = "fp32", repeats: int = 5) -> float:
    """GFLOP/s of a large square product of float32 matrices: median of `repeats`, after one that warms up."""
    left, right = (torch.randn(PEAK_SIZE, PEAK_SIZE, device=device) for _ in range(2))
    rates = []
    with precisions.products(precision, device):
        for _ in range(repeats + 1):
            wait_for(device)
            started = time.perf_counter()
            left @ right
            wait_for(device)
            rates.append(2 * PEAK_SIZE**3 / (time.perf_counter() - started) / 1e9)
    return statistics.median(rates[1:])


def total_pss(root: int) -> int:
    """Bytes that a process and all its descendants hold, shared pages counted once (the sum of their PSS).

    Raises:
        UsageError: this system does not tell it; Linux does, in `/proc/PID/smaps_rollup`.
    """
    if not Path("/proc/self/smaps_rollup").exists():
        raise UsageError("this system does not tell how much memory processes share (PSS); measure on Linux")
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            # The name, in brackets, may hold anything; the state and the parent follow it.
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    family, found = {root}, 0
    while len(family) > found:
        found = len(family)
        family |= {process for process, parent in parents.items() if parent in family}
    total = 0
    for process in family:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += 1024 * int(line.split()[1])
    return total


def wait_for(device: torch.device) -> None:
    """Let the device finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

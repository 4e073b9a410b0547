"""Turns a stepping function into one compiled program, or says why it cannot."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from raymix.learner import precision as precisions

logger = logging.getLogger(__name__)


class Program:
    """`step` compiled on its first call; uncompiled where that fails or is not wanted (`eager_reason` says why).

    `mode` is 'auto' (compile if there is a compiler), 'compile' (a failure raises) or 'eager'; `precision` says how
    float32 matrices are multiplied in it (`raymix.learner.precision`; `UsageError` where the device cannot).
    """

    def __init__(
        self, step: Callable[..., Any], device: torch.device, mode: str = "auto", precision: str = "fp32"
    ) -> None:
        if mode not in ("auto", "compile", "eager"):
            raise ValueError(f"capture mode {mode!r} is not one of 'auto', 'compile', 'eager'")
        precisions.require(precision, device)
        self._step, self._mode, self._device, self._precision = step, mode, device, precision
        self.compile_seconds = 0.0
        self.eager_reason: str | None = None
        if mode == "eager":
            self.eager_reason = "asked for"
        elif mode == "auto" and device.type == "cpu":
            self.eager_reason = compiler_problem()
            if self.eager_reason:
                logger.warning("training runs uncompiled, about half as fast: %s", self.eager_reason)
        self._program = step if self.eager_reason else None

    def __call__(self, *arguments: Any) -> Any:
        # The setting is the process's, and other programs in it may want another.
        with precisions.products(self._precision, self._device):
            return self._run(*arguments)

    def _run(self, *arguments: Any) -> Any:
        if self._program is None:
            return self._first_call(*arguments)
        return self._program(*arguments)

    def _first_call(self, *arguments: Any) -> Any:
        # All learners share one code object, and dynamo refuses more than 8 programs of one by default.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 256)
        # Compile in this process: the worker pool costs two extra processes for one program at a time.
        torch._inductor.config.compile_threads = 1
        started = time.monotonic()
        program = torch.compile(self._step, dynamic=False, fullgraph=True)
        try:
            result = program(*arguments)
        except Exception as problem:
            # The compiler stops before the program first runs, so the state is untouched and the step can be redone.
            if self._mode == "compile":
                raise
            self.eager_reason = f"the compiler failed with {type(problem).__name__}: {str(problem).splitlines()[0]}"
            logger.warning("training runs uncompiled, about half as fast: %s", self.eager_reason)
            self._program = self._step
            return self._step(*arguments)
        self.compile_seconds = time.monotonic() - started
        self._program = program
        return result


@functools.cache
def compiler_problem() -> str | None:
    """None if a C++ program can be built here, else one sentence with the remedy. Takes a second, once a process."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")), None)
    if compiler is None:
        return "no C++ compiler was found (install g++, or set CXX)"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text("#include <vector>\nint main() { return std::vector<int>{0}[0]; }\n")
        command = [*compiler.split(), str(source), "-o", str(source.with_suffix(""))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as problem:
            return f"the C++ compiler {compiler} could not be run ({problem})"
    if done.returncode:
        detail = (done.stderr.strip() or "no message").splitlines()[0]
        return f"the C++ compiler {compiler} cannot build a program ({detail})"
    return None

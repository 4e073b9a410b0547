"""How matrix products are computed, for as long as a program runs.

`fp32`: by torch's default library. `fp32_onednn`: in float32 by oneDNN, which on some CPUs (AMD EPYC) is twice
as fast as that default; it rounds in another order. `bf16` rounds the factors of a product to bfloat16 and adds up in
float32; results stay float32. On a CPU oneDNN does that, where the processor has matrix units for it (AMX). On CUDA it
is TF32, which rounds less; no test has run there yet.

On CPUs the last two are one setting of torch, which asks oneDNN for bfloat16 products: without AMX it takes those of
more than 4,096 multiplications and computes them in float32. So each processor offers one of the two.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch

from raymix.types import UsageError

_PROBE_SIZE = 256
_PROBE_VALUE = 1.0 + 2.0**-12
"""Exact in float32; 1 in bfloat16 and in TF32."""


@contextlib.contextmanager
def products(precision: str, device: torch.device) -> Iterator[None]:
    """Let torch multiply float32 matrices so, in the whole process, until the end of the block.

    The compiler's programs call torch's product and look at the setting when they run: on a CPU neither guards nor
    cached programs depend on it. On CUDA the guards do, so that a program must be compiled under it.
    """
    if precision == "fp32":
        yield
        return
    if device.type == "cuda":
        # The older of torch's two interfaces: after the newer one has set CUDA's, reading the older raises.
        kept = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(kept)
        return
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # set up when torch is imported
    kept = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = kept


def require(precision: str, device: torch.device | str) -> None:
    """Raise `UsageError` where the device does not multiply in this way."""
    device = torch.device(device)
    if precision == "bf16" and not can_reduce(device):
        raise UsageError(
            f"precision=bf16 asks for matrix products in reduced precision, but {device} multiplies in full"
            " precision only (a CPU needs AMX, a GPU TF32); take precision=fp32, or another machine"
        )
    if precision == "fp32_onednn" and not can_choose_onednn(device):
        raise UsageError(
            f"precision=fp32_onednn asks for float32 products by oneDNN, which {device} cannot be told to use (it takes"
            " a CPU with AVX-512 and without AMX); take precision=fp32, or bf16 where there is AMX"
        )


@functools.cache
def can_reduce(device: torch.device) -> bool:
    """Whether a product in reduced precision is one: by its result, as torch and oneDNN fall back without a word."""
    left = torch.full((_PROBE_SIZE, _PROBE_SIZE), _PROBE_VALUE, device=device)
    with products("bf16", device):
        product = left @ torch.ones_like(left)
    return bool((product == _PROBE_SIZE).all())


def can_choose_onednn(device: torch.device) -> bool:
    """Whether torch hands float32 products to oneDNN when asked to, and they stay in float32."""
    return device.type == "cpu" and "AVX512" in torch.backends.cpu.get_cpu_capability() and not can_reduce(device)

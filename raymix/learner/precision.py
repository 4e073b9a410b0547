"""Matrix products in reduced precision, for as long as a program runs.

`bf16` rounds the factors of a product to bfloat16 and adds up in float32; results stay float32. On a CPU oneDNN does
it, for products of more than 4,096 multiplications, where the processor has matrix units for it (AMX). On CUDA it is
TF32, which rounds less; no test has run there yet.
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
def reduced(device: torch.device) -> Iterator[None]:
    """Let torch multiply float32 matrices in reduced precision, in the whole process, until the end of the block.

    The compiler's programs call torch's product and look at the setting when they run: on a CPU neither guards nor
    cached programs depend on it. On CUDA the guards do, so that a program must be compiled under it.
    """
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
    """Raise `UsageError` where the device does not multiply in this precision."""
    if precision != "fp32" and not can_reduce(torch.device(device)):
        raise UsageError(
            f"precision={precision} asks for matrix products in reduced precision, but {device} multiplies in full"
            " precision only (a CPU needs AMX, a GPU TF32); take precision=fp32, or another machine"
        )


@functools.cache
def can_reduce(device: torch.device) -> bool:
    """Whether a product in reduced precision is one: by its result, as torch and oneDNN fall back without a word."""
    left = torch.full((_PROBE_SIZE, _PROBE_SIZE), _PROBE_VALUE, device=device)
    with reduced(device):
        product = left @ torch.ones_like(left)
    return bool((product == _PROBE_SIZE).all())

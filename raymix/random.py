"""Random numbers that are a function of (seed, phase, step, update, draw) and of nothing else.

A member's numbers must not depend on who shares its program, and a resumed run must continue exactly. So there is
no generator state: `Key` names a stream, and each call on it takes the next draw. A stream is SplitMix64 (Steele,
Lea and Flood, 2014, "Fast splittable pseudorandom number generators"; Java's `SplittableRandom`) started at a point
hashed from these numbers: word i is `mix(start + (i + 1) * GOLDEN)`, so any word is computed on its own, under
`torch.vmap`, under `torch.compile`, and on any device.

Philox 4x32-10, the usual choice, was measured beside it on the draws of one LOM step (three members, 20
components): as fast once compiled, but 6 s more to compile per program and five times as slow uncompiled.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The int64 with the low 64 bits of a whole number: torch multiplies int64 modulo 2^64."""
    value %= 1 << 64
    return value - (1 << 64) if value >= 1 << 63 else value


GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _shift(word: Tensor, bits: int) -> Tensor:
    """Logical right shift (torch's >> on int64 copies the sign)."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)


def mix(word: Tensor) -> Tensor:
    """SplitMix64's finalizer: a bijection of 64-bit words (int64 tensors of any shape)."""
    word = (word ^ _shift(word, 30)) * _FIRST
    word = (word ^ _shift(word, 27)) * _SECOND
    return word ^ _shift(word, 31)


def words(start: Tensor, count: int) -> Tensor:
    """(count,) int64: the first outputs of SplitMix64 from the 0-d state `start`."""
    return mix(start + torch.arange(1, count + 1, device=start.device) * GOLDEN)


DRAWS = 8
"""The most draws that one update of one step may make."""


ACTING = -1
"""The domain of numbers drawn by a policy that acts; training uses the number of its phase."""
HELD_OUT = -2
"""The domain of numbers drawn where held-out data is looked at."""


def streams(seeds: Tensor, steps: Tensor, updates: int, domain: int = 0) -> Tensor:
    """Where each draw starts: (..., updates, DRAWS) int64 for int64 `seeds` and `steps` that broadcast to (...).

    Different domains share no numbers: the same step of two phases draws differently.
    Computed for a whole chunk of steps at once, outside the training program: nested hashing inside it makes the
    compiler inline the same expression thousands of times.
    """
    seeds, steps = torch.broadcast_tensors(seeds, steps)
    places = torch.arange(updates * DRAWS, device=seeds.device).reshape(updates, DRAWS)
    return mix(mix(mix(mix(seeds + GOLDEN) + domain) + steps)[..., None, None] + places)


class Key:
    """One stream of random numbers. Each call is a new draw; the order of calls is part of the stream.

    `starts` is (DRAWS,) int64, one member's row of `streams` for one update of one step.
    """

    def __init__(self, starts: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self.starts, self.dtype = starts, dtype
        self.draws = 0

    @classmethod
    def of(cls, seed: int, step: int | Tensor) -> Key:
        """The key of a single use, such as acting in step `step` of an episode."""
        return cls(streams(torch.tensor(seed), torch.as_tensor(step), updates=1, domain=ACTING)[0])

    def _halves(self, count: int) -> tuple[Tensor, Tensor]:
        """Two (count,) tensors of 32 random bits."""
        drawn = words(self.starts[self.draws], count)
        self.draws += 1
        return _shift(drawn, 32), drawn & 0xFFFFFFFF

    def _cells(self, size: int) -> tuple[Tensor, Tensor]:
        """Two tensors that together hold `size` or more numbers of {0.5, 1.5, ..., 2^23 - 0.5}, exact in float32."""
        upper, lower = self._halves((size + 1) // 2)
        return (upper >> 9).to(self.dtype) + 0.5, (lower >> 9).to(self.dtype) + 0.5

    def uniform(self, *shape: int) -> Tensor:
        """Uniform in (0, 1), never 0 or 1."""
        size = math.prod(shape)
        return (torch.cat(self._cells(size))[:size] * 2.0**-23).reshape(shape)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal (Box-Muller)."""
        size = math.prod(shape)
        upper, lower = self._cells(size)
        radius, angle = torch.sqrt(-2.0 * torch.log(upper * 2.0**-23)), lower * (2.0 * math.pi * 2.0**-23)
        return torch.cat((radius * torch.cos(angle), radius * torch.sin(angle)))[:size].reshape(shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform in {0, ..., high - 1}, int64; high < 2^31. The bias is below high / 2^32."""
        size = math.prod(shape)
        drawn = torch.cat(self._halves((size + 1) // 2))[:size]
        return ((drawn * high) >> 32).reshape(shape)

    def gumbel(self, *shape: int) -> Tensor:
        """Standard Gumbel: the argmax of log-weights plus these is a draw by the weights."""
        return -torch.log(-torch.log(self.uniform(*shape)))

    def categorical(self, logits: Tensor) -> Tensor:
        """One index per row of (..., M) unnormalised log-weights (Gumbel maximum)."""
        return (logits + self.gumbel(*logits.shape)).argmax(-1)

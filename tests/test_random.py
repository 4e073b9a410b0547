"""Random numbers: the published generator, the right distributions, and no dependence on who else draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from raymix.random import DRAWS, Key, mix, streams, words

COUNT = 200_000
KNOWN = (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821)


def key(seed: int = 0, step: int = 0, update: int = 0, updates: int = 1) -> Key:
    return Key(streams(torch.tensor(seed), torch.tensor(step), updates)[update])


def unmix(word: int) -> int:
    """The 64-bit word that `mix` sends to `word`, in whole numbers of Python."""
    mask = (1 << 64) - 1

    def unshift(value: int, bits: int) -> int:
        result = value
        for _ in range(64 // bits):
            result = value ^ (result >> bits)
        return result

    word = unshift(word, 31) * pow(0x94D049BB133111EB, -1, 1 << 64) & mask
    word = unshift(word, 27) * pow(0xBF58476D1CE4E5B9, -1, 1 << 64) & mask
    return unshift(word, 30)


def key_whose_first_word_is(word: int) -> Key:
    start = (unmix(word) - 0x9E3779B97F4A7C15) % (1 << 64)
    return Key(torch.full((DRAWS,), start - (1 << 64) if start >= 1 << 63 else start))


def test_known_answers():
    """Catches a wrong constant, a shift that copies the sign, or an off-by-one in the counter."""
    assert [word % 2**64 for word in words(torch.tensor(1234567), 5).tolist()] == list(KNOWN)


def test_mix_is_a_bijection_with_the_inverse_used_below():
    """Catches a finaliser that loses words; and checks `unmix`, on which the test of extremes rests."""
    values = words(torch.tensor(7), 1000)
    assert [unmix(word % 2**64) for word in mix(values).tolist()] == [word % 2**64 for word in values.tolist()]


def test_uniform_is_uniform():
    """Catches a lost bit, a wrong scale, or halves of a word that repeat each other."""
    drawn = key().uniform(COUNT).double().numpy()
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3
    assert abs(drawn.mean() - 0.5) < 5 / math.sqrt(12 * COUNT)
    assert abs(np.corrcoef(drawn[: COUNT // 2], drawn[COUNT // 2 :])[0, 1]) < 5 / math.sqrt(COUNT / 2)
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 5 / math.sqrt(COUNT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_words_stay_inside_the_open_interval(dtype):
    """Catches 0 or 1 by rounding: the largest word once gave exactly 1.0 in float32, whose Gumbel noise is infinite."""
    for word in (0, 2**64 - 1):
        extreme = key_whose_first_word_is(word)
        extreme.dtype = dtype
        drawn = extreme.uniform(2)
        assert bool(((drawn > 0) & (drawn < 1)).all()), (word, drawn)
        assert bool(extreme.normal(2).isfinite().all())
        assert bool(extreme.categorical(torch.zeros(2)) < 2)
        assert extreme.integers(2**31 - 1, 2).tolist() == ([0, 0] if word == 0 else [2**31 - 2] * 2)


def test_normal_is_normal():
    """Catches a Box-Muller with swapped or correlated halves, and a wrong variance."""
    drawn = key().normal(COUNT).double().numpy()
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    assert abs(drawn.mean()) < 5 / math.sqrt(COUNT)
    assert abs(drawn.var() - 1) < 5 * math.sqrt(2 / COUNT)
    cosine, sine = drawn[: COUNT // 2], drawn[COUNT // 2 :]
    assert abs(np.corrcoef(cosine, sine)[0, 1]) < 5 / math.sqrt(COUNT / 2)
    assert abs(np.corrcoef(cosine**2, sine**2)[0, 1]) < 5 / math.sqrt(COUNT / 2)


@pytest.mark.parametrize("shape", [(1,), (3,), (4, 5), (3, 3, 3), ()])
def test_shapes(shape):
    """Catches an odd number of values taken from an even number of halves."""
    assert key().uniform(*shape).shape == key().normal(*shape).shape == key().integers(5, *shape).shape == shape


@pytest.mark.parametrize("high", [1, 2, 7, 1000])
def test_integers_cover_their_range_evenly(high):
    """Catches a missing or an extra value and visible bias (rows of a data set that are never drawn)."""
    drawn = key().integers(high, COUNT)
    counts = torch.bincount(drawn, minlength=high).numpy()
    assert len(counts) == high and counts.min() > 0
    assert high == 1 or stats.chisquare(counts).pvalue > 1e-3


def test_integers_of_a_large_range_have_no_overflow():
    """Catches a product beyond 63 bits, which would give negative rows."""
    drawn = key().integers(2**31 - 1, COUNT).double()
    assert float(drawn.min()) >= 0 and float(drawn.max()) < 2**31 - 1
    assert stats.kstest((drawn / (2**31 - 1)).numpy(), "uniform").pvalue > 1e-3


def test_gumbel_is_gumbel():
    """Catches a wrong sign, and a logarithm too few."""
    drawn = key().gumbel(COUNT).double().numpy()
    assert stats.kstest(drawn, "gumbel_r").pvalue > 1e-3


def test_categorical_frequencies():
    """Catches Gumbel noise of the wrong sign and probabilities that are not the softmax."""
    logits = torch.tensor([0.0, 1.0, -2.0, 0.5, -torch.inf]) + 3.0
    counts = torch.bincount(key().categorical(logits.expand(COUNT, 5)), minlength=5).numpy()
    expected = torch.softmax(logits, -1).numpy() * COUNT
    assert counts[4] == 0
    assert stats.chisquare(counts[:4], expected[:4] * counts[:4].sum() / expected[:4].sum()).pvalue > 1e-3


def test_streams_are_distinct_and_uncorrelated():
    """Catches two places that share their numbers, such as step 0 of seed 1 and step 1 of seed 0."""
    starts = streams(torch.arange(-8, 8), torch.arange(50)[:, None], updates=4)
    assert starts.shape == (50, 16, 4, DRAWS)
    assert len(torch.unique(starts)) == starts.numel()
    first = mix(starts + 1) >> 40  # one word of each stream
    assert stats.kstest((first.double().numpy().ravel() + 2**23) / 2**24, "uniform").pvalue > 1e-3
    number = 10_000
    base = key(seed=3, step=5, update=0, updates=2)
    rows = [base.normal(number), base.normal(number)]
    for other in ({"seed": 4, "step": 5}, {"seed": 3, "step": 6}, {"seed": 3, "step": 5, "update": 1}):
        rows.append(key(**other, updates=2).normal(number))
    correlation = np.corrcoef(torch.stack(rows).double().numpy()) - np.eye(len(rows))
    assert np.abs(correlation).max() < 5 / math.sqrt(number)


def test_domains_share_no_numbers():
    """Two phases, or training and acting, at the same step would otherwise use one another's noise."""
    drawn = [streams(torch.tensor(1), torch.arange(100), updates=3, domain=domain).flatten() for domain in (-1, 0, 1)]
    assert len(torch.cat(drawn).unique()) == sum(map(len, drawn))


def test_the_number_of_updates_does_not_move_earlier_streams():
    """Catches an added update that would change the numbers of those before it."""
    one, three = (streams(torch.tensor(1), torch.tensor(2), updates) for updates in (1, 3))
    assert torch.equal(one[0], three[0])


def test_vmapped_members_draw_what_they_draw_alone():
    """Catches numbers that depend on the seat or on the neighbours."""
    starts = streams(torch.tensor([5, 6, 7]), torch.tensor([0, 10, 20]), updates=1)[:, 0]

    def draw(starts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        key = Key(starts)
        logits = torch.linspace(-1.0, 1.0, 5).expand(9, 5)
        return key.uniform(5), key.normal(3, 3), key.integers(100, 7), key.categorical(logits)

    together = torch.vmap(draw)(starts)
    for member in range(3):
        for packed, alone in zip(together, draw(starts[member])):
            assert torch.equal(packed[member], alone)


def test_too_many_draws_fail():
    """Catches a silent overlap with the next update's stream; under vmap too, where indices are easily wrapped."""

    def draw(starts: torch.Tensor) -> torch.Tensor:
        key = Key(starts)
        return torch.stack([key.uniform() for _ in range(DRAWS + 1)])

    starts = streams(torch.arange(2), torch.tensor(0), updates=2)
    with pytest.raises(IndexError):
        draw(starts[0, 0])
    with pytest.raises(IndexError):
        torch.vmap(draw)(starts[:, 0])

"""The modes of a mixture: components with a gap between them, in the fitted density and in the data's actions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from raymix.modes.mixtures import EDGE
from raymix.nn.policies import Mixture

GAP, DIP = 0.25, 0.5
"""Between two modes the density falls below GAP of its mean there; a mode's own peak is at least 1 / DIP above that."""
SLIGHT = 0.05
"""A mode of less than this share of a state's actions is not counted."""
_GRID = 25
_BLOCK = 50
_DRAWS = 10
_GAP_WIDTH = 0.05


def modes_of(mixture: Mixture, actions: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
    """(B, M): the shares of the modes of B mixtures, each at its heaviest component, 0 elsewhere; and the filling.

    `actions` (B, A) are the data's at these states.
    """
    weights, (means, stds) = mixture.logits.softmax(-1), in_box(mixture)
    blocks = zip(*(part.split(_BLOCK) for part in (weights, means, stds)), strict=True)
    parts = [profiles_of(*block) for block in blocks]
    profiles = _Profiles(*(torch.cat(column) for column in zip(*parts, strict=True)))
    found = shares_of(weights, profiles)
    filling = _filling(found > 0, profiles.lowest, mixture, actions, generator)
    return shares_of(weights, profiles, filling), filling


class _Profiles(NamedTuple):
    """The density between each two components of B mixtures, (B, M, M) each."""

    valley: Tensor
    """Its smallest value between the two."""
    mean: Tensor
    """Its mean between them."""
    ends: Tensor
    """The lower one of its values at the two."""
    lowest: Tensor
    """Where it is smallest: 0 at the first, 1 at the second."""


def profiles_of(weights: Tensor, means: Tensor, stds: Tensor) -> _Profiles:
    """Of mixtures (B, M), (B, M, A), (B, M, A) whose means are in reach of the box (`in_box`).

    The density is that of the mixture projected on the direction that tells the two apart best (Fisher's), so that one
    of many dimensions becomes one of a line; components beside the line count less, by their distance from it. What
    lies beyond the box's edge is not seen, so there can be no valley.
    """
    variances = stds.square()
    way = means[:, None] - means[:, :, None]
    pooled = 0.5 * (variances[:, None] + variances[:, :, None])
    direction = torch.nn.functional.normalize(way / pooled, dim=-1)
    length = (direction * way).sum(-1, keepdim=True).clamp_min(1e-9)
    # Where each component lies on each line, how wide it is along it, and how far it is from it (B, M, M, M).
    offset = means[:, None, None] - means[:, :, None, None]
    place = torch.einsum("bjka,bjkca->bjkc", direction, offset.expand(-1, -1, len(weights[0]), -1, -1))
    width = torch.einsum("bjka,bca->bjkc", direction.square(), variances).sqrt()
    beside = offset - (place / length).clamp(0.0, 1.0)[..., None] * way[..., None, :]
    beside = beside - (beside * direction[..., None, :]).sum(-1, keepdim=True) * direction[..., None, :]
    distance = (beside.square() / (pooled[..., None, :] + variances[:, None, None])).sum(-1)
    near = weights[:, None, None] * torch.exp(-0.5 * distance)

    steps = torch.linspace(0.0, 1.0, _GRID)
    points = length[..., None] * steps
    heights = torch.exp(-0.5 * ((points - place[..., None]) / width[..., None]).square())
    density = torch.einsum("bjkc,bjkcg->bjkg", near / (width * math.sqrt(2.0 * math.pi)), heights)
    within = torch.special.ndtr((length - place) / width) - torch.special.ndtr(-place / width)
    mean = (near * within).sum(-1) / length[..., 0]
    inside = (means[:, :, None, None] + steps[:, None] * way[..., None, :]).abs() < EDGE
    seen = torch.einsum("bjka,bjkga->bjkg", direction.square(), inside.to(density.dtype)) > 0.5
    # The mean over a stretch as long as `_in_gap`'s, whose filling it is multiplied by.
    stretch = torch.nn.functional.avg_pool1d(density.flatten(0, 1), 3, 1, 1, count_include_pad=False)
    valley = stretch.view_as(density).masked_fill(~seen, math.inf).min(-1)
    ends = torch.minimum(density[..., 0], density[..., -1])
    return _Profiles(valley.values, mean, ends, valley.indices / (_GRID - 1.0))


def in_box(mixture: Mixture) -> tuple[Tensor, Tensor]:
    """(B, M, A) means and standard deviations: means at most one of the latter beyond the box, since how far they are
    is hardly known."""
    stds = mixture.log_stds.exp()
    return torch.maximum(torch.minimum(mixture.means, EDGE + stds), -EDGE - stds), stds


def shares_of(weights: Tensor, profiles: _Profiles, filling: float = 1.0) -> Tensor:
    """(B, M): the shares of the modes, each at its heaviest component, 0 elsewhere and for slight ones; they sum to 1.

    `filling` multiplies the valleys.
    """
    gap = filling * profiles.valley < GAP * profiles.mean
    reach = _in_reach(~gap, weights)
    head = torch.where(reach, weights[:, None], -1.0).argmax(-1)
    mass = torch.zeros_like(weights).scatter_add_(1, head, weights)
    # A tail: no peak of its own beside a heavier component.
    heavier = weights[:, None] > weights[:, :, None]
    tail = (gap & (filling * profiles.valley >= DIP * profiles.ends) & heavier).any(-1)
    mass = torch.where(tail | (mass < SLIGHT), 0.0, mass)
    # Where nothing is left, as in a mixture of many slight parts, the heaviest component is the only mode.
    only = torch.nn.functional.one_hot(weights.argmax(-1), weights.shape[1]).to(mass)
    mass = torch.where(mass.sum(-1, keepdim=True) > 0, mass, only)
    return mass / mass.sum(-1, keepdim=True)


def _in_reach(joined: Tensor, weights: Tensor) -> Tensor:
    """(B, M, M) bool: components that a chain of `joined` ones connects; slight ones connect nothing."""
    heavy = weights >= 0.2 * SLIGHT
    size = weights.shape[1]
    reach = joined & heavy[:, None] & heavy[:, :, None] | torch.eye(size, dtype=torch.bool)
    for _ in range(math.ceil(math.log2(size))):
        reach = (reach.float() @ reach.float()) > 0
    return reach


def _filling(
    modes: Tensor,
    lowest: Tensor,
    mixture: Mixture,
    actions: Tensor,
    generator: torch.Generator,
) -> float:
    """How many times more of the data's actions than of the mixtures' own lie in the gaps between modes; at least 1.

    A mixture of diagonal Gaussians that tiles noise along an oblique line has gaps that the data has not.
    """
    several = modes.sum(-1) > 1
    if not several.any():
        return 1.0
    modes, lowest, mixture = modes[several], lowest[several], Mixture(*(part[several] for part in mixture))
    own = torch.multinomial(mixture.logits.softmax(-1), _DRAWS, replacement=True, generator=generator)
    own = own[..., None].expand(-1, -1, mixture.means.shape[-1])
    noise = mixture.log_stds.exp().gather(1, own) * torch.randn(own.shape, generator=generator)
    drawn = (mixture.means.gather(1, own) + noise).clamp(-EDGE, EDGE)
    means, stds = in_box(mixture)
    actual = _in_gap(actions[several][:, None], modes, lowest, means, stds).sum()
    expected = _in_gap(drawn, modes, lowest, means, stds).sum() / _DRAWS
    return max(1.0, float((actual + 1) / (expected + 1)))


def _in_gap(actions: Tensor, modes: Tensor, lowest: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """(B, n) bool: actions (B, n, A) about where the density is lowest between the two modes nearest to them."""
    distance = ((actions[:, :, None] - means[:, None]) / stds[:, None]).square().sum(-1)
    nearest = distance.masked_fill(~modes[:, None], math.inf).topk(2, largest=False).indices
    index = nearest[..., None].expand(*nearest.shape, means.shape[-1])
    (one, two), (first, second) = (
        part[:, None].expand(-1, actions.shape[1], -1, -1).gather(2, index).unbind(2) for part in (means, stds)
    )
    direction = (two - one) / (first.square() + second.square())
    place = (direction * (actions - one)).sum(-1) / (direction * (two - one)).sum(-1)
    batch = torch.arange(len(means))[:, None]
    return (place - lowest[batch, nearest[..., 0], nearest[..., 1]]).abs() < _GAP_WIDTH

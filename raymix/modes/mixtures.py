"""Mixtures of actions that the box has cut, and how they are fitted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from raymix.algorithms import mdn
from raymix.config import AlgorithmConfig
from raymix.learner.learner import Learner
from raymix.learner.networks import fresh_networks
from raymix.learner.replay import DeviceReplay
from raymix.nn.layers import Standardise, mlp
from raymix.nn.losses import normal_log_prob
from raymix.nn.policies import Mixture
from raymix.random import Key
from raymix.types import Spec, UsageError

RESOLUTION = 0.05
"""Standard deviation of the noise added to actions, in the unit box."""
EDGE = 1.0 - 2.0 * RESOLUTION
"""Actions beyond it, in the unit box, are at the box's edge: all that is known of them is that they lie there."""
_WIDEST = 1.0
"""Largest standard deviation of a component. One wider would put most actions at both edges of the box and few between,
which are two modes."""
TEST_ROWS, STATES = 20_000, 2_000
"""Most held-out transitions by which a mixture is judged, and most of their states at which modes are counted."""
STRETCHES = 10
"""Of training, after each of which validation episodes are asked."""
_LEARNING_RATE = 2e-3


@dataclass(frozen=True)
class Split:
    """Rows that start a transition, by what their episode is for."""

    train: Tensor
    validation: Tensor
    test: Tensor

    def among(self, rows: Tensor) -> Split:
        """Only those of the rows."""
        return Split(*(part[torch.isin(part, rows)] for part in (self.train, self.validation, self.test)))


class Fit(NamedTuple):
    """The best seed of one number of components, and what it says at test rows."""

    config: AlgorithmConfig
    weights: dict[str, Tensor]
    validation: list[float]
    """Negative log-likelihood of each seed there, at its best."""
    nll: np.ndarray
    """(n,) negative log-likelihood of each test action."""
    mixture: Mixture
    """At the test states whose modes are counted: the first of them."""


def fitted(
    replay: DeviceReplay,
    split: Split,
    size: int,
    seeds: int,
    steps: int,
    hidden_dims: tuple[int, ...],
    progress: Callable[[float], None],
) -> Fit:
    algorithm = _CensoredMixture()
    values = {"num_components": size, "hidden_dims": hidden_dims, "batch_size": 256, "steps": steps}
    configs = [algorithm.configure({**values, "learning_rate": rate}) for rate in _falling_rates()]
    # Compiling five programs takes longer than it saves.
    learner = Learner(algorithm, configs[0], "main", replay, seeds, capture="eager")
    for seat in range(seeds):
        learner.load(seat, learner.fresh(configs[0], seat), configs[0])
    best: list[tuple[float, dict[str, Tensor]]] = [(math.inf, {})] * seeds
    for stretch, config in enumerate(configs):
        for seat in range(seeds):
            learner.set_scalars(seat, config)
        learner.train(steps // STRETCHES)
        for seat in range(seeds):
            weights = learner.acting_weights(seat)
            loss = float(_nll(replay, config, weights, split.validation)[0].mean())
            best[seat] = min(best[seat], (loss, weights), key=lambda each: each[0])
        progress((stretch + 1) / STRETCHES)
    loss, weights = min(best, key=lambda each: each[0])
    if not math.isfinite(loss):
        raise UsageError(
            f"no mixture of {size} could be fitted to data set {replay.spec.name}, training diverged; look for outliers"
            " with `raymix data info`"
        )
    return tested(replay, configs[0], weights, [loss for loss, _ in best], split.test)


def tested(
    replay: DeviceReplay, config: AlgorithmConfig, weights: dict[str, Tensor], validation: list[float], test: Tensor
) -> Fit:
    nll, _ = _nll(replay, config, weights, test[:TEST_ROWS])
    _, mixture = _nll(replay, config, weights, test[:STATES])
    return Fit(config, weights, validation, nll.double().numpy(), mixture)


def _falling_rates() -> list[float]:
    """Half a cosine, one rate per stretch of training."""
    return [_LEARNING_RATE * 0.5 * (1.0 + math.cos(math.pi * done / STRETCHES)) for done in range(STRETCHES)]


@torch.no_grad()
def _nll(
    replay: DeviceReplay, config: AlgorithmConfig, weights: dict[str, Tensor], rows: Tensor
) -> tuple[Tensor, Mixture]:
    """(n,) negative log-likelihood of the actions at some rows, and the mixture there."""
    network = fresh_networks(_CensoredMixture(), replay.spec, config, seed=0)["mdn"]
    parameters = {path.removeprefix("mdn/"): value for path, value in weights.items()}
    mixture = torch.func.functional_call(network, parameters, (replay.observations[rows],))
    return -censored_log_prob(mixture, replay.actions[rows]), mixture


class _CensoredMixture(mdn.MDN):
    """`mdn` of actions before the box cut them."""

    def networks(self, spec: Spec, config: Any) -> dict[str, nn.Module]:
        standardise = Standardise.noisy(spec)
        return {"mdn": _FreeMixture(standardise, config.hidden_dims, spec.action_dim, config.num_components)}

    def mdn_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        return -censored_log_prob(nets.mdn(batch.observations), batch.actions).mean(), {}


class _FreeMixture(nn.Module):
    """(B, S) -> `Mixture` whose means may lie outside the box; log standard deviations are softly bounded."""

    def __init__(self, standardise: Standardise, hidden_dims: Sequence[int], action_dim: int, size: int) -> None:
        super().__init__()
        self.standardise, self.shape = standardise, (size, action_dim)
        self.trunk = mlp(len(standardise.mean), hidden_dims, size * (2 * action_dim + 1))

    def forward(self, observations: Tensor) -> Mixture:
        number = math.prod(self.shape)
        output = self.trunk(self.standardise(observations))
        means, log_stds, logits = output.split((number, number, self.shape[0]), -1)
        low, high = math.log(RESOLUTION), math.log(_WIDEST)
        log_stds = low + 0.5 * (high - low) * (torch.tanh(log_stds) + 1.0)
        shape = (*output.shape[:-1], *self.shape)
        return Mixture(means.reshape(shape), log_stds.reshape(shape), logits)


def censored_log_prob(mixture: Mixture, actions: Tensor) -> Tensor:
    """(B,): of actions (B, A) cut at EDGE: in a dimension at the edge, of all that lies beyond it (Tobin, 1958)."""
    actions = actions[..., None, :]
    inside = normal_log_prob(actions[..., None], mixture.means[..., None], mixture.log_stds[..., None])
    distance = (actions - mixture.means) * torch.exp(-mixture.log_stds)
    each = torch.where(actions.abs() >= EDGE, log_normal_cdf(-actions.sign() * distance), inside)
    return torch.logsumexp(each.sum(-1) + torch.log_softmax(mixture.logits, -1), -1)


def log_normal_cdf(values: Tensor) -> Tensor:
    """`torch.special.log_ndtr`, for which torch has no batching rule."""
    scaled = values / math.sqrt(2.0)
    below = torch.log(0.5 * torch.special.erfcx(-scaled.clamp(max=0.0))) - scaled.square()
    return torch.where(values < 0.0, below, torch.log1p(-0.5 * torch.erfc(scaled.clamp(min=0.0))))

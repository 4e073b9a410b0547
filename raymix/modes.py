"""Is a data set multi-modal, and where? What `raymix data modes` answers.

Mixture density networks of 1, 2, 5, 10 and 20 components are fitted to most episodes; episodes held out say how likely
each makes their actions, and the smallest mixture that loses nothing to the best is asked how many modes it has at
held-out states. Four things keep the answer honest:

- Actions have a resolution: normal noise of sd 0.05 (the box is [-1, 1]) is added to them, before the split. Without it
  the likelihood has no upper bound where a policy is deterministic or saturates, and says only how narrow a component
  may get. Modes nearer to each other than about 0.2 are therefore one.
- The box cuts actions, and what piles up at its edge is no mode of its own: of an action there, the likelihood is that
  of all that lies beyond (Tobin, 1958, as for censored data), and means may lie outside the box. So a policy that
  saturates, or that swings from edge to edge within a short way, is one Gaussian of a smooth mean, and four goals whose
  actions reach the edges are four. What this cannot tell from one mode: actions at both edges and evenly between.
- Components are not modes. They tile whatever is not Gaussian: flat or skewed noise, noise that is correlated between
  dimensions. Two of them are one mode unless there is a gap between them (`_in_reach`), in the fitted density and in
  the held-out actions (`_filling`).
- Training stops where validation episodes say, and of several seeds the one that does best there is taken.

What it can miss: modes at a few steps in hundreds. The mixture's size is chosen, and its networks trained, by the
likelihood of all transitions, in which a step in 50 counts for 2 %. So the first transitions of episodes, where it is
often decided which way one goes, have mixtures of their own; later branches have not.
"""

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
from raymix.data.describe import AT_EDGE
from raymix.learner.learner import Learner
from raymix.learner.networks import fresh_networks
from raymix.learner.replay import DeviceReplay
from raymix.nn.layers import Standardise, mlp
from raymix.nn.losses import normal_log_prob
from raymix.nn.policies import Mixture
from raymix.random import Key
from raymix.types import Columns, Dataset, Spec, UsageError

COMPONENTS = (1, 2, 5, 10, 20)
FEWEST_EPISODES = 10
RESOLUTION = 0.05
"""Standard deviation of the noise added to actions, in the unit box."""
EDGE = 1.0 - 2.0 * RESOLUTION
"""Actions beyond it, in the unit box, are at the box's edge: all that is known of them is that they lie there."""
_WIDEST = 1.0
"""Largest standard deviation of a component. One wider would put most actions at both edges of the box and few between,
which are two modes."""
GAP, DIP = 0.25, 0.5
"""Between two modes the density falls below GAP of its mean there; a mode's own peak is at least 1 / DIP above that."""
SLIGHT = 0.05
"""A mode of less than this share of a state's actions is not counted."""
NO_GAIN = 0.02
"""Nats per action: what a larger mixture must gain, with 95 % confidence, to be taken."""
FEW_STATES, NO_STATES = 0.05, 0.01
"""Below these shares of multi-modal states a data set is called unimodal in most of its states, and in all."""
_TEST, _VALIDATION = 0.2, 0.1
_TEST_ROWS, _VALIDATION_ROWS, _STATES = 20_000, 4_000, 2_000
_FEWEST_STARTS = 20
"""Held-out episodes without which their starts are not looked at on their own."""
_STEPS = (0, 1, 5, 20, 100)
"""Where parts of an episode begin, to say in which of them the modes are."""
_LEARNING_RATE, _STRETCHES = 2e-3, 10
_GRID = 25
_BLOCK = 50
_RESAMPLES = 1_000
_DRAWS = 10
_GAP_WIDTH = 0.05


@dataclass(frozen=True)
class _Split:
    """Rows that start a transition, by what their episode is for."""

    train: Tensor
    validation: Tensor
    test: Tensor

    def among(self, rows: Tensor) -> _Split:
        """Only those of the rows."""
        return _Split(*(part[torch.isin(part, rows)] for part in (self.train, self.validation, self.test)))


class _Fit(NamedTuple):
    """The best seed of one number of components, and what it says at test rows."""

    config: AlgorithmConfig
    weights: dict[str, Tensor]
    validation: list[float]
    """Negative log-likelihood of each seed there, at its best."""
    nll: np.ndarray
    """(n,) negative log-likelihood of each test action."""
    mixture: Mixture
    """At the test states whose modes are counted: the first of them."""


class _Answer(NamedTuple):
    """Mixtures of all sizes, and the modes of the one that was chosen."""

    fits: dict[int, _Fit]
    chosen: int
    counts: np.ndarray
    """(n,) modes at the first test states."""
    masses: Tensor
    """(n, M) their shares."""
    filling: float


def find_modes(
    dataset: Dataset,
    *,
    components: Sequence[int] = COMPONENTS,
    seeds: int = 3,
    steps: int = 3_000,
    hidden_dims: tuple[int, ...] = (128, 128),
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Any]:
    """How many modes the actions of a data set have, and at which share of its states.

    Args:
        dataset: at least 10 episodes, whose actions differ.
        components: sizes of the mixtures, 1 among them, ascending.
        seeds: networks of each size, trained as one program; the best on validation episodes is taken.
        steps: gradient steps of 256 transitions each, at least 10.
        hidden_dims: widths of the networks.
        progress: called with the share of the work done, from 0 to 1.

    Returns:
        JSON-ready: `likelihood` (per size: `nll` in nats per held-out action, its interval `low`, `high`, the `gain`
        over one Gaussian with `gain_low`, `gain_high`, and `seeds`, the validation value of each), `chosen` (the size
        whose modes were counted), `states` (how many), `histogram` (share of states by number of modes), `multimodal`
        (`share` of states with more than one, `low`, `high`), `typical` (the most frequent number of modes among
        those, or 1), `effective` (mean over states of exp(entropy of the modes' shares)), `filling` (how much fuller
        than fitted the gaps are), `by_source` (source, states, share, low, high, typical, gain), `by_step` (the same
        by steps since the episode began: from, to, states, share, typical), `start` (of mixtures fitted to the first
        transitions of episodes alone, or of all where those are likelier there: chosen, states, share, typical, gain,
        and `later`, the share of the other states with more than one; None where starts are too few),
        `saturated` (share of action entries at their box's edges), and `verdict`, the sentence. Intervals are of 95 %,
        from resampled episodes; None where fewer than three are held out.

    Raises:
        UsageError: too few episodes, actions that never change, impossible settings.
    """
    columns, spec = dataset.columns, dataset.spec
    _check(dataset, components, seeds, steps)
    replay = DeviceReplay(dataset)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(replay.actions.shape, generator=generator)
    replay.actions = (replay.actions + RESOLUTION * noise).clamp(-EDGE, EDGE)  # A copy: the columns may be shared.
    split = _split(columns, generator)
    firsts = np.append(0, columns.last_rows[:-1] + 1)
    at_starts = split.among(torch.from_numpy(firsts))
    alone = len(at_starts.test) >= _FEWEST_STARTS and spec.num_transitions > 2 * spec.num_episodes
    most = 0.75 if alone else 1.0
    fits, chosen, counts, masses, filling = _answer(
        replay, columns, split, components, seeds, steps, hidden_dims, generator, lambda share: progress(most * share)
    )
    starting = None
    if alone:
        # One state in many, whose modes hardly move the likelihood of all. But few are soon learnt by heart, so the
        # mixtures of all states are asked too, and believed unless those of starts are surely likelier there.
        own = _answer(
            replay,
            columns,
            at_starts,
            components,
            seeds,
            max(_STRETCHES, steps // 3),
            hidden_dims,
            generator,
            lambda share: progress(most + (1.0 - most) * share),
        )
        fits_there = {size: _tested(replay, *fit[:3], at_starts.test) for size, fit in fits.items()}
        general = _counted(replay, fits_there, chosen, at_starts.test, generator)
        gains = general.fits[chosen].nll - own.fits[own.chosen].nll
        surely, _ = interval(gains, columns.episode[at_starts.test[:_TEST_ROWS].numpy()])
        starting = own if surely is not None and surely > NO_GAIN else general
    test = split.test[:_TEST_ROWS]
    episodes, states = columns.episode[test.numpy()], test[:_STATES]
    of_state = episodes[: len(states)]
    steps_in = states.numpy() - firsts[of_state]
    effective = torch.exp(-torch.xlogy(masses, masses).sum(-1)).numpy()
    if starting is not None and (first := steps_in == 0).any():
        rows = states[torch.from_numpy(first)]
        fits_there = {starting.chosen: _tested(replay, *starting.fits[starting.chosen][:3], rows)}
        there = _counted(replay, fits_there, starting.chosen, rows, generator)
        counts[first] = there.counts
        effective[first] = torch.exp(-torch.xlogy(there.masses, there.masses).sum(-1)).numpy()
    several = (counts > 1).astype(np.float64)
    gains = fits[components[0]].nll - fits[chosen].nll
    state_sources, test_sources = (columns.source[rows.numpy()] for rows in (states, test))
    by_source = []
    for index, name in enumerate(spec.sources):
        here = state_sources == index
        if here.any():
            found = {"states": int(here.sum()), **_share(several[here], of_state[here])}
            gain = float(gains[test_sources == index].mean())
            by_source.append({"source": name, **found, "typical": _typical(counts[here]), "gain": gain})
    by_step = []
    for begin, end in zip(_STEPS, (*_STEPS[1:], np.inf)):
        here = starting.counts if starting and not begin else counts[(begin <= steps_in) & (steps_in < end)]
        if len(here):
            found = {"states": len(here), "share": float((here > 1).mean()), "typical": _typical(here)}
            by_step.append({"from": begin, "to": None if end == np.inf else int(end) - 1, **found})
    low, high = np.array(spec.action_low, np.float32), np.array(spec.action_high, np.float32)
    margin = AT_EDGE * (high - low)
    actions = columns.actions[columns.transition_rows()]
    result: dict[str, Any] = {
        "name": spec.name,
        "hash": spec.hash,
        "held_out_episodes": len(np.unique(episodes)),
        "held_out_transitions": len(episodes),
        "likelihood": [
            {
                "components": size,
                "nll": float(fit.nll.mean()),
                **dict(zip(("low", "high"), interval(fit.nll, episodes))),
                "gain": float((fits[components[0]].nll - fit.nll).mean()),
                **dict(zip(("gain_low", "gain_high"), interval(fits[components[0]].nll - fit.nll, episodes))),
                "seeds": fit.validation,
            }
            for size, fit in fits.items()
        ],
        "chosen": chosen,
        "states": len(states),
        "histogram": {str(count): float((counts == count).mean()) for count in np.unique(counts)},
        "multimodal": _share(several, of_state),
        "typical": _typical(counts),
        "effective": float(effective.mean()),
        "filling": filling,
        "by_source": by_source,
        "by_step": by_step,
        "start": {
            "chosen": starting.chosen,
            "states": len(starting.counts),
            "share": float((starting.counts > 1).mean()),
            "typical": _typical(starting.counts),
            "gain": float((starting.fits[components[0]].nll - starting.fits[starting.chosen].nll).mean()),
            "later": float(several[steps_in > 0].mean()),
        }
        if starting
        else None,
        "saturated": float(((actions <= low + margin) | (actions >= high - margin)).mean()),
    }
    return {**result, "verdict": verdict(result)}


def _check(dataset: Dataset, components: Sequence[int], seeds: int, steps: int) -> None:
    spec, actions = dataset.spec, dataset.columns.actions[dataset.columns.transition_rows()]
    if list(components) != sorted(set(components)) or not components or components[0] != 1:
        raise UsageError(
            f"components are {list(components)}; give ascending numbers that start with 1, such as 1, 2, 5"
        )
    if seeds < 1 or steps < _STRETCHES:
        raise UsageError(f"seeds are {seeds} and steps {steps}; at least 1 and {_STRETCHES} are needed")
    if spec.num_episodes < FEWEST_EPISODES:
        raise UsageError(
            f"data set {spec.name} has too few episodes to hold some out: {spec.num_episodes}, and modes need at least"
            f" {FEWEST_EPISODES}, since transitions of one episode are not independent; add episodes, or cut the log"
            " into more"
        )
    if (actions == actions[0]).all():
        raise UsageError(
            f"all actions of data set {spec.name} are the same ({actions[0].tolist()}), so there is no distribution to"
            " look into; check that the right column was imported"
        )


def _split(columns: Columns, generator: torch.Generator) -> _Split:
    """Episodes by lot; held-out rows in random order, at most as many as are needed."""
    number = int(columns.episode[-1]) + 1
    test, validation = max(3, round(_TEST * number)), max(2, round(_VALIDATION * number))
    use = torch.zeros(number, dtype=torch.int64)
    order = torch.randperm(number, generator=generator)
    use[order[:test]], use[order[test : test + validation]] = 2, 1
    rows = torch.from_numpy(columns.transition_rows())
    purpose = use[torch.from_numpy(columns.episode).long()[rows]]

    def some(which: int, most: int) -> Tensor:
        found = rows[purpose == which]
        return found[torch.randperm(len(found), generator=generator)[:most]]

    return _Split(rows[purpose == 0], some(1, len(rows)), some(2, len(rows)))


def _answer(
    replay: DeviceReplay,
    columns: Columns,
    split: _Split,
    components: Sequence[int],
    seeds: int,
    steps: int,
    hidden_dims: tuple[int, ...],
    generator: torch.Generator,
    progress: Callable[[float], None],
) -> _Answer:
    """The smallest mixture that loses nothing to the best, and its modes."""
    split = _Split(split.train, split.validation[:_VALIDATION_ROWS], split.test[:_TEST_ROWS])
    replay.rows = split.train
    done, fits = 0.0, {}
    costs = {size: 10 + size for size in components}
    for size in components:

        def advance(share: float, before: float = done, cost: int = costs[size]) -> None:
            progress((before + share * cost) / sum(costs.values()))

        fits[size] = _fit(replay, split, size, seeds, steps, hidden_dims, advance)
        done += costs[size]
    episodes = columns.episode[split.test.numpy()]
    best = min(fits, key=lambda size: float(fits[size].nll.mean()))
    chosen = next(size for size in fits if _loses_nothing(fits[size].nll - fits[best].nll, episodes))
    return _counted(replay, fits, chosen, split.test, generator)


def _counted(
    replay: DeviceReplay, fits: dict[int, _Fit], chosen: int, test: Tensor, generator: torch.Generator
) -> _Answer:
    masses, filling = _modes(fits[chosen].mixture, replay.actions[test[:_STATES]], generator)
    return _Answer(fits, chosen, (masses > 0).sum(-1).numpy(), masses, filling)


def _fit(
    replay: DeviceReplay,
    split: _Split,
    size: int,
    seeds: int,
    steps: int,
    hidden_dims: tuple[int, ...],
    progress: Callable[[float], None],
) -> _Fit:
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
        learner.train(steps // _STRETCHES)
        for seat in range(seeds):
            weights = learner.acting_weights(seat)
            loss = float(_nll(replay, config, weights, split.validation)[0].mean())
            best[seat] = min(best[seat], (loss, weights), key=lambda each: each[0])
        progress((stretch + 1) / _STRETCHES)
    loss, weights = min(best, key=lambda each: each[0])
    if not math.isfinite(loss):
        raise UsageError(
            f"no mixture of {size} could be fitted to data set {replay.spec.name}, training diverged; look for outliers"
            " with `raymix data info`"
        )
    return _tested(replay, configs[0], weights, [loss for loss, _ in best], split.test)


def _tested(
    replay: DeviceReplay, config: AlgorithmConfig, weights: dict[str, Tensor], validation: list[float], test: Tensor
) -> _Fit:
    nll, _ = _nll(replay, config, weights, test[:_TEST_ROWS])
    _, mixture = _nll(replay, config, weights, test[:_STATES])
    return _Fit(config, weights, validation, nll.double().numpy(), mixture)


def _falling_rates() -> list[float]:
    """Half a cosine, one rate per stretch of training."""
    return [_LEARNING_RATE * 0.5 * (1.0 + math.cos(math.pi * done / _STRETCHES)) for done in range(_STRETCHES)]


@torch.no_grad()
def _nll(
    replay: DeviceReplay, config: AlgorithmConfig, weights: dict[str, Tensor], rows: Tensor
) -> tuple[Tensor, Mixture]:
    """(n,) negative log-likelihood of the actions at some rows, and the mixture there."""
    network = fresh_networks(_CensoredMixture(), replay.spec, config, seed=0)["mdn"]
    parameters = {path.removeprefix("mdn/"): value for path, value in weights.items()}
    mixture = torch.func.functional_call(network, parameters, (replay.observations[rows],))
    return -_censored_log_prob(mixture, replay.actions[rows]), mixture


class _CensoredMixture(mdn.MDN):
    """`mdn` of actions before the box cut them."""

    def networks(self, spec: Spec, config: Any) -> dict[str, nn.Module]:
        standardise = Standardise.noisy(spec)
        return {"mdn": _FreeMixture(standardise, config.hidden_dims, spec.action_dim, config.num_components)}

    def mdn_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        return -_censored_log_prob(nets.mdn(batch.observations), batch.actions).mean(), {}


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


def _censored_log_prob(mixture: Mixture, actions: Tensor) -> Tensor:
    """(B,): of actions (B, A) cut at EDGE: in a dimension at the edge, of all that lies beyond it (Tobin, 1958)."""
    actions = actions[..., None, :]
    inside = normal_log_prob(actions[..., None], mixture.means[..., None], mixture.log_stds[..., None])
    distance = (actions - mixture.means) * torch.exp(-mixture.log_stds)
    each = torch.where(actions.abs() >= EDGE, _log_normal_cdf(-actions.sign() * distance), inside)
    return torch.logsumexp(each.sum(-1) + torch.log_softmax(mixture.logits, -1), -1)


def _log_normal_cdf(values: Tensor) -> Tensor:
    """`torch.special.log_ndtr`, for which torch has no batching rule."""
    scaled = values / math.sqrt(2.0)
    below = torch.log(0.5 * torch.special.erfcx(-scaled.clamp(max=0.0))) - scaled.square()
    return torch.where(values < 0.0, below, torch.log1p(-0.5 * torch.erfc(scaled.clamp(min=0.0))))


# Modes of a mixture


def _modes(mixture: Mixture, actions: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
    """(B, M): the shares of the modes of B mixtures, each at its heaviest component, 0 elsewhere; and the filling.

    `actions` (B, A) are the data's at these states.
    """
    weights, (means, stds) = mixture.logits.softmax(-1), _in_box(mixture)
    blocks = zip(*(part.split(_BLOCK) for part in (weights, means, stds)), strict=True)
    parts = [_profiles(*block) for block in blocks]
    profiles = _Profiles(*(torch.cat(column) for column in zip(*parts, strict=True)))
    found = _shares(weights, profiles)
    filling = _filling(found > 0, profiles.lowest, mixture, actions, generator)
    return _shares(weights, profiles, filling), filling


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


def _profiles(weights: Tensor, means: Tensor, stds: Tensor) -> _Profiles:
    """Of mixtures (B, M), (B, M, A), (B, M, A) whose means are in reach of the box (`_in_box`).

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


def _in_box(mixture: Mixture) -> tuple[Tensor, Tensor]:
    """(B, M, A) means and standard deviations: means at most one of the latter beyond the box, since how far they are
    is hardly known."""
    stds = mixture.log_stds.exp()
    return torch.maximum(torch.minimum(mixture.means, EDGE + stds), -EDGE - stds), stds


def _shares(weights: Tensor, profiles: _Profiles, filling: float = 1.0) -> Tensor:
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
    means, stds = _in_box(mixture)
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


# Statistics over episodes


def interval(values: np.ndarray, episodes: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of the mean of values (n,), from resampling the episodes (n,) they are from; None below three."""
    _, index = np.unique(episodes, return_inverse=True)
    sizes, sums = np.bincount(index), np.bincount(index, weights=values)
    if len(sizes) < 3:
        return None, None
    random = np.random.default_rng(0)
    drawn = [random.integers(len(sizes), size=len(sizes)) for _ in range(_RESAMPLES)]
    low, high = np.quantile([sums[each].sum() / sizes[each].sum() for each in drawn], (0.025, 0.975))
    return float(low), float(high)


def _loses_nothing(losses: np.ndarray, episodes: np.ndarray) -> bool:
    """Whether losses against the best mixture could, for all that the data says, be below what counts."""
    low, _ = interval(losses, episodes)
    return (float(losses.mean()) if low is None else low) <= NO_GAIN


def _share(several: np.ndarray, episodes: np.ndarray) -> dict[str, float | None]:
    low, high = interval(several, episodes)
    return {"share": float(several.mean()), "low": low, "high": high}


def _typical(counts: np.ndarray) -> int:
    """The most frequent number of modes among states with more than one; 1 where there are none."""
    return int(np.bincount(counts[counts > 1]).argmax()) if (counts > 1).any() else 1


# For people


def verdict(result: dict[str, Any]) -> str:
    """The answer in a sentence: what the data shows, not what a method would earn."""
    chosen = next(row for row in result["likelihood"] if row["components"] == result["chosen"])
    share, typical = result["multimodal"]["share"], result["typical"]
    start = result["start"]
    if start and start["later"] < FEW_STATES and start["share"] > 0.5:
        return (
            f"{start['typical']} modes where episodes start, at {start['share']:.0%} of the starts, and one at"
            f" {1 - start['later']:.0%} of the states after: a mixture gains {start['gain']:.2f} nats per action over"
            " one Gaussian at the starts; mixture or latent methods have something to model in what is decided there."
        )
    if result["chosen"] == 1:
        return "One Gaussian is enough: no mixture makes held-out actions more likely."
    gain = f"{chosen['gain']:.2f} nats per held-out action over one Gaussian"
    if NO_STATES <= share < FEW_STATES:
        return (
            f"One mode at {1 - share:.0%} of the states, more at {share:.1%}: a mixture gains {gain}; look by step and"
            " source whether behaviours part there, since so few may also be the limit of the fit."
        )
    if share < FEW_STATES:
        edges = result["saturated"]
        pile = f", of which actions piled up at the box's edges ({edges:.0%}) are part," if edges >= FEW_STATES else ""
        return (
            f"One mode is enough, at {1 - share:.0%} of the states: a mixture gains {gain}, but through the shape of"
            f" the noise{pile}; further modes were not seen."
        )
    numbers = {int(count): part for count, part in result["histogram"].items() if int(count) > 1}
    words = f"{typical} modes"
    if numbers[typical] < 0.8 * sum(numbers.values()):
        words = f"{min(numbers)} to {max(numbers)} modes, most often {typical},"
    return (
        f"{words} at {share:.0%} of the states: a mixture gains {gain}; mixture or latent methods have something to"
        " model there."
    )


def text(result: dict[str, Any]) -> str:
    """What `find_modes` found, for people."""

    def within(row: dict[str, Any], low: str, high: str, form: str) -> str:
        return f"{row[low]:{form}} to {row[high]:{form}}" if row[low] is not None else "-"

    lines = [
        result["verdict"],
        "",
        f"Held out: {result['held_out_episodes']:,} episodes, {result['held_out_transitions']:,} transitions."
        " Negative log-likelihood, nats per action:",
        f"{'components':>10} {'mean':>9} {'95 % interval':>18} {'gain over one':>14} {'95 % interval':>16}",
    ]
    for row in result["likelihood"]:
        mark = "  <- modes counted" if row["components"] == result["chosen"] else ""
        lines.append(
            f"{row['components']:10} {row['nll']:9.3f} {within(row, 'low', 'high', '.3f'):>18} {row['gain']:14.3f}"
            f" {within(row, 'gain_low', 'gain_high', '.3f'):>16}{mark}"
        )
    lines += ["", f"Modes at {result['states']:,} held-out states (effective number {result['effective']:.2f}):"]
    lines += [f"{count:>10} {share:6.1%} {'#' * round(50 * share)}" for count, share in result["histogram"].items()]
    lines += ["", f"{'States with more than one mode':40} {'share':>6} {'95 % interval':>18} {'modes':>6} {'gain':>8}"]
    rows = result["by_source"] if len(result["by_source"]) > 1 else []
    chosen = next(row for row in result["likelihood"] if row["components"] == result["chosen"])
    everything = {"source": "all", **result["multimodal"], "typical": result["typical"], "gain": chosen["gain"]}
    lines += [
        f"{row['source']:40} {row['share']:6.1%} {within(row, 'low', 'high', '.1%'):>18} {row['typical']:6}"
        f" {row['gain']:8.3f}"
        for row in [*rows, everything]
    ]
    if len(result["by_step"]) > 1:
        lines += ["", f"{'By steps since the episode began':40} {'share':>6} {'':18} {'modes':>6} {'states':>8}"]
        for row in result["by_step"]:
            last = "and later" if row["to"] is None else f"to {row['to']}"
            name = f"step {row['from']} {last}" if row["to"] != 0 else "step 0"
            lines.append(f"{name:40} {row['share']:6.1%} {'':18} {row['typical']:6} {row['states']:8,}")
    return "\n".join(lines)

"""Fits the mixtures, chooses one, and gathers what its modes say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from raymix.data.describe import AT_EDGE
from raymix.learner.replay import DeviceReplay
from raymix.modes.counting import modes_of
from raymix.modes.mixtures import EDGE, RESOLUTION, STATES, STRETCHES, TEST_ROWS, Fit, Split, fitted, tested
from raymix.modes.words import verdict
from raymix.types import Columns, Dataset, UsageError

COMPONENTS = (1, 2, 5, 10, 20)
FEWEST_EPISODES = 10
NO_GAIN = 0.02
"""Nats per action: what a larger mixture must gain, with 95 % confidence, to be taken."""
_TEST, _VALIDATION = 0.2, 0.1
_VALIDATION_ROWS = 4_000
_FEWEST_STARTS = 20
"""Held-out episodes without which their starts are not looked at on their own."""
_STEPS = (0, 1, 5, 20, 100)
"""Where parts of an episode begin, to say in which of them the modes are."""
_RESAMPLES = 1_000


class _Answer(NamedTuple):
    """Mixtures of all sizes, and the modes of the one that was chosen."""

    fits: dict[int, Fit]
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
            max(STRETCHES, steps // 3),
            hidden_dims,
            generator,
            lambda share: progress(most + (1.0 - most) * share),
        )
        fits_there = {size: tested(replay, *fit[:3], at_starts.test) for size, fit in fits.items()}
        general = _counted(replay, fits_there, chosen, at_starts.test, generator)
        gains = general.fits[chosen].nll - own.fits[own.chosen].nll
        surely, _ = interval(gains, columns.episode[at_starts.test[:TEST_ROWS].numpy()])
        starting = own if surely is not None and surely > NO_GAIN else general
    test = split.test[:TEST_ROWS]
    episodes, states = columns.episode[test.numpy()], test[:STATES]
    of_state = episodes[: len(states)]
    steps_in = states.numpy() - firsts[of_state]
    effective = torch.exp(-torch.xlogy(masses, masses).sum(-1)).numpy()
    if starting is not None and (first := steps_in == 0).any():
        rows = states[torch.from_numpy(first)]
        fits_there = {starting.chosen: tested(replay, *starting.fits[starting.chosen][:3], rows)}
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
    if seeds < 1 or steps < STRETCHES:
        raise UsageError(f"seeds are {seeds} and steps {steps}; at least 1 and {STRETCHES} are needed")
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


def _split(columns: Columns, generator: torch.Generator) -> Split:
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

    return Split(rows[purpose == 0], some(1, len(rows)), some(2, len(rows)))


def _answer(
    replay: DeviceReplay,
    columns: Columns,
    split: Split,
    components: Sequence[int],
    seeds: int,
    steps: int,
    hidden_dims: tuple[int, ...],
    generator: torch.Generator,
    progress: Callable[[float], None],
) -> _Answer:
    """The smallest mixture that loses nothing to the best, and its modes."""
    split = Split(split.train, split.validation[:_VALIDATION_ROWS], split.test[:TEST_ROWS])
    replay.rows = split.train
    done, fits = 0.0, {}
    costs = {size: 10 + size for size in components}
    for size in components:

        def advance(share: float, before: float = done, cost: int = costs[size]) -> None:
            progress((before + share * cost) / sum(costs.values()))

        fits[size] = fitted(replay, split, size, seeds, steps, hidden_dims, advance)
        done += costs[size]
    episodes = columns.episode[split.test.numpy()]
    best = min(fits, key=lambda size: float(fits[size].nll.mean()))
    chosen = next(size for size in fits if _loses_nothing(fits[size].nll - fits[best].nll, episodes))
    return _counted(replay, fits, chosen, split.test, generator)


def _counted(
    replay: DeviceReplay, fits: dict[int, Fit], chosen: int, test: Tensor, generator: torch.Generator
) -> _Answer:
    masses, filling = modes_of(fits[chosen].mixture, replay.actions[test[:STATES]], generator)
    return _Answer(fits, chosen, (masses > 0).sum(-1).numpy(), masses, filling)


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

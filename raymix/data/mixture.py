"""Rows of a recipe: parts of data sets, changed rewards, mixtures. All by whole episodes."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Sequence

import numpy as np

from raymix.data.columns import make_dataset
from raymix.data.recipe import Options
from raymix.data.rewards import ENVIRONMENTS, changed
from raymix.types import Columns, Dataset, UsageError


def take(dataset: Dataset, options: Options, name: str) -> Dataset:
    """The episodes that `options` keep, in their order, with the rewards that they ask for; sources without an episode
    are dropped.

    Raises:
        UsageError: nothing is left, or an option that does not fit the data.
    """
    columns, spec = dataset.columns, dataset.spec
    lengths = np.bincount(columns.episode) - 1
    source_of = columns.source[columns.last_rows]
    kept = np.arange(len(lengths))
    if options.source:
        if unknown := [wanted for wanted in options.source if wanted not in spec.sources]:
            raise UsageError(f"{spec.name} has no source {unknown[0]!r}; it has: {', '.join(spec.sources)}")
        kept = kept[np.isin(np.array(spec.sources)[source_of], options.source)]  # a mixture may repeat a name
    if options.returns is not None:
        returns = columns.episode_returns()[kept]
        low, high = np.quantile(returns, options.returns) if len(returns) else (0.0, 0.0)
        kept = kept[(returns >= low) & (returns <= high)]
    if options.per_source is not None:
        drawn = []
        for source in np.unique(source_of[kept]):
            own = kept[source_of[kept] == source]
            drawn.append(_up_to(own, lengths, options.per_source, _order(options, len(lengths))))
            if not len(drawn[-1]):
                raise UsageError(
                    f"per_source={options.per_source} in {name!r} leaves nothing of {spec.sources[source]}, whose"
                    f" episodes have {lengths[own].min()} to {lengths[own].max()} transitions; ask for more"
                )
        kept = np.sort(np.concatenate([kept[:0], *drawn]))
    if options.episodes is not None:
        order = _order(options, len(lengths))
        kept = np.sort(kept[np.argsort(order[kept], kind="stable")[: options.episodes]])
    if options.transitions is not None:
        kept = _up_to(kept, lengths, options.transitions, _order(options, len(lengths)))
    if not len(kept):
        raise UsageError(
            f"nothing of {spec.name} is left in {name!r}: its {spec.num_episodes} episodes have"
            f" {lengths.min()} to {lengths.max()} transitions; ask for more"
        )
    environment = spec.environment
    references = spec.reference_min, spec.reference_max
    if (options.reward, options.reward_scale, options.reward_shift) != (None, None, None):
        rewards = changed(columns, spec, options.reward, options.reward_scale, options.reward_shift)
        columns = dataclasses.replace(columns, rewards=rewards)
        if options.reward in ENVIRONMENTS:
            limit = json.loads(environment or "{}").get("max_episode_steps")
            environment = json.dumps({"id": ENVIRONMENTS[options.reward], "kwargs": {}, "max_episode_steps": limit})
            references = None, None  # another task
    if len(kept) < len(lengths):
        columns = _episodes(columns, kept)
    columns, sources = _without_unused(columns, spec.sources)
    return make_dataset(
        columns,
        name,
        action_low=spec.action_low,
        action_high=spec.action_high,
        environment=environment,
        reference_min=references[0],
        reference_max=references[1],
        sources=sources,
    )


def weighed(parts: Sequence[Dataset], weights: Sequence[float], seed: int) -> list[Dataset]:
    """Parts of data sets, by whole episodes drawn at random, whose transitions are in the proportion of `weights`: the
    largest such parts that there are.

    The shares are kept up to one episode per part.
    """
    sizes = np.array([part.spec.num_transitions for part in parts], dtype=np.float64)
    total = (sizes / np.asarray(weights)).min()
    drawn = []
    for index, (part, weight) in enumerate(zip(parts, weights)):
        wanted = max(1, round(total * weight))
        drawn.append(part if wanted >= part.spec.num_transitions else _nearest(part, wanted, [seed, index]))
    return drawn


def mix(parts: Sequence[Dataset], name: str) -> Dataset:
    """The episodes of all parts, one after the other; their source names are kept in that order.

    Raises:
        UsageError: they differ in shapes, action bounds or environment.
    """
    first = parts[0].spec
    for part in parts[1:]:
        for what, mine, other in (
            ("observation sizes", part.spec.observation_dim, first.observation_dim),
            ("action sizes", part.spec.action_dim, first.action_dim),
            ("action lower bounds", part.spec.action_low, first.action_low),
            ("action upper bounds", part.spec.action_high, first.action_high),
            ("environments", _environment_key(part.spec.environment), _environment_key(first.environment)),
        ):
            if mine != other:
                raise UsageError(
                    f"The data sets {first.name} and {part.spec.name} cannot be mixed, their {what} differ"
                    f" ({other} and {mine}); mix data sets of one environment."
                )
    references = {(part.spec.reference_min, part.spec.reference_max) for part in parts}
    if len(references) > 1:
        warnings.warn(
            f"The parts of {name} have different reference scores, so the mixture has none and its scores are not"
            " normalized.",
            stacklevel=3,
        )
        references = {(None, None)}
    reference_min, reference_max = references.pop()
    episode_starts = np.cumsum([0, *(part.spec.num_episodes for part in parts)])
    source_starts = np.cumsum([0, *(len(part.spec.sources) for part in parts)])

    def joined(column: str, starts: np.ndarray | None = None) -> np.ndarray:
        arrays = [getattr(part.columns, column) for part in parts]
        if starts is not None:
            arrays = [array + array.dtype.type(start) for array, start in zip(arrays, starts, strict=False)]
        return np.concatenate(arrays)

    columns = Columns(
        observations=joined("observations"),
        actions=joined("actions"),
        rewards=joined("rewards"),
        terminals=joined("terminals"),
        timeouts=joined("timeouts"),
        episode=joined("episode", episode_starts),
        source=joined("source", source_starts),
    )
    return make_dataset(
        columns,
        name,
        action_low=first.action_low,
        action_high=first.action_high,
        environment=first.environment,
        reference_min=reference_min,
        reference_max=reference_max,
        sources=[source for part in parts for source in part.spec.sources],
    )


def _environment_key(environment: str | None) -> str | None:
    """What must agree: not the whole `EnvSpec`, whose other fields differ between versions of Gymnasium."""
    if environment is None:
        return None
    values = json.loads(environment)
    return json.dumps([values.get(key) for key in ("id", "kwargs", "max_episode_steps", "observations")])


def _order(options: Options, episodes: int) -> np.ndarray:
    return _ranks([options.seed or 0], episodes)


def _ranks(seed: Sequence[int], episodes: int) -> np.ndarray:
    """(E,) uint64: a random number per episode. NumPy promises the stream of a bit generator, but not `permutation`."""
    return np.random.PCG64(list(seed)).random_raw(episodes)


def _up_to(kept: np.ndarray, lengths: np.ndarray, transitions: int, order: np.ndarray) -> np.ndarray:
    """Those of the episodes `kept`, in the given random order, that fit into so many transitions; sorted."""
    drawn = kept[np.argsort(order[kept], kind="stable")]
    return np.sort(drawn[np.cumsum(lengths[drawn]) <= transitions])


def _nearest(dataset: Dataset, transitions: int, seed: Sequence[int]) -> Dataset:
    """Random episodes with as nearly so many transitions as the order in which they are drawn allows."""
    columns = dataset.columns
    lengths = np.bincount(columns.episode) - 1
    drawn = np.argsort(_ranks(seed, len(lengths)), kind="stable")
    sums = np.cumsum(lengths[drawn])
    count = 1 + int(np.abs(sums - transitions).argmin())
    spec = dataclasses.replace(dataset.spec, num_episodes=count, num_transitions=int(sums[count - 1]))
    return Dataset(spec, _episodes(columns, np.sort(drawn[:count])))


def _episodes(columns: Columns, kept: np.ndarray) -> Columns:
    """Only the episodes of these numbers (sorted), numbered anew."""
    numbers = np.full(int(columns.episode[-1]) + 1, -1, dtype=np.int32)
    numbers[kept] = np.arange(len(kept), dtype=np.int32)
    rows = np.flatnonzero(numbers[columns.episode] >= 0)
    chosen = {field.name: getattr(columns, field.name)[rows] for field in dataclasses.fields(Columns)}
    return Columns(**{**chosen, "episode": numbers[chosen["episode"]]})


def _without_unused(columns: Columns, sources: Sequence[str]) -> tuple[Columns, tuple[str, ...]]:
    used = np.unique(columns.source)
    if len(used) == len(sources):
        return columns, tuple(sources)
    numbers = np.zeros(len(sources), dtype=np.int16)
    numbers[used] = np.arange(len(used), dtype=np.int16)
    return dataclasses.replace(columns, source=numbers[columns.source]), tuple(sources[number] for number in used)

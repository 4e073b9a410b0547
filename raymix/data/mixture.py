"""Rows of a recipe: parts of data sets, changed rewards, mixtures. All by whole episodes.

What a recipe takes is a table of episodes (`Episodes`), in which there is no row: it says where those of each episode
are. The rows are gathered at the end, a block at a time, from data sets that are mapped from their files, so a mixture
may be larger than memory.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from raymix.data import scratch
from raymix.data.columns import make_dataset
from raymix.data.recipe import Options
from raymix.data.rewards import ENVIRONMENTS, changed
from raymix.types import BLOCK_ROWS, Columns, Dataset, Spec, UsageError, groups_of

_OF_STATISTICS = ("by-maximum", "by-returns")
"""Changes of rewards that look at those of all episodes."""


@dataclass(frozen=True)
class _Change:
    """One change of rewards, as `raymix.data.rewards.changed` takes it."""

    reward: str | None
    scale: float | None
    shift: float | None
    spec: Spec
    """Of what was changed, whole."""


@dataclass(frozen=True)
class _Piece:
    """A data set that episodes are taken of, with the changes of its rewards, in order."""

    columns: Columns
    changes: tuple[_Change, ...] = ()


@dataclass(frozen=True)
class Episodes:
    """E whole episodes, in order, whose rows are gathered when they are asked for."""

    spec: Spec
    """Name, widths, bounds, environment, references and names of the sources. Its hash, its numbers and its statistics
    are those of the data set that the first episode is of."""
    pieces: tuple[_Piece, ...]
    piece: np.ndarray
    """(E,) which piece each episode is of, ascending."""
    first: np.ndarray
    """(E,) its first row there."""
    rows: np.ndarray
    """(E,) how many it has: one more than transitions."""
    source: np.ndarray
    """(E,) which behaviour policy acted; index into `spec.sources`."""

    @classmethod
    def of(cls, dataset: Dataset) -> Episodes:
        """All of a data set."""
        last = dataset.columns.last_rows
        rows = np.diff(last, prepend=-1)
        piece = np.zeros(len(last), dtype=np.int64)
        return cls(dataset.spec, (_Piece(dataset.columns),), piece, last + 1 - rows, rows, dataset.columns.source[last])

    @property
    def transitions(self) -> np.ndarray:
        """(E,) how many each has."""
        return self.rows - 1

    @property
    def nbytes(self) -> int:
        """Of the rows, once they are gathered."""
        return int(self.rows.sum()) * (4 * (self.spec.observation_dim + self.spec.action_dim) + 12)

    def chosen(self, kept: np.ndarray) -> Episodes:
        """Only the episodes of these numbers (sorted)."""
        columns = {name: getattr(self, name)[kept] for name in ("piece", "first", "rows", "source")}
        return dataclasses.replace(self, **columns)

    def returns(self) -> np.ndarray:
        """(E,) float64: undiscounted return of each."""
        if not any(piece.changes for piece in self.pieces):
            of_pieces = [piece.columns.episode_returns() for piece in self.pieces]
            returns = np.empty(len(self.rows))
            for index, (piece, own) in enumerate(zip(self.pieces, of_pieces)):
                here = self.piece == index
                returns[here] = own[piece.columns.episode[self.first[here]]]
            return returns
        returns = np.zeros(len(self.rows))
        for block in self.blocks():
            np.add.at(returns, block.episode, block.rewards.astype(np.float64))
        return returns

    def blocks(self) -> Iterator[Columns]:
        """The rows in order, at most `BLOCK_ROWS` at a time; a block may begin and end within an episode."""
        ends = np.cumsum(self.rows)
        edges = ends[np.searchsorted(self.piece, np.arange(len(self.pieces)), side="right") - 1]
        # A block is of one piece.
        starts = np.union1d(np.arange(0, ends[-1], BLOCK_ROWS), edges[edges < ends[-1]])
        for start, stop in zip(starts, np.append(starts[1:], ends[-1])):
            episode = groups_of(ends, start, stop)
            inside = np.arange(start, stop) - (ends - self.rows)[episode]
            rows = self.first[episode] + inside
            piece = self.pieces[self.piece[episode[0]]]
            # Rewards may look at the next row.
            if inside[-1] < self.rows[episode[-1]] - 1:  # a change of rewards may look at the next row
                rows, episode = np.append(rows, rows[-1] + 1), np.append(episode, episode[-1])
            columns = piece.columns
            block = Columns(
                observations=columns.observations[rows],
                actions=columns.actions[rows],
                rewards=columns.rewards[rows],
                terminals=columns.terminals[rows],
                timeouts=columns.timeouts[rows],
                episode=episode.astype(np.int32),
                source=self.source[episode].astype(np.int16),
            )
            for change in piece.changes:
                rewards = changed(block, change.spec, change.reward, change.scale, change.shift)
                block = dataclasses.replace(block, rewards=rewards)
            yield Columns(**{name: values[: stop - start] for name, values in vars(block).items()})

    def gather(self, progress: Callable[[int, int], None] | None = None, copies: int = 1) -> Dataset:
        """The data set, in memory or, where it is large, mapped from a file (`raymix.data.scratch`).

        Args:
            progress: called with (done, in all).
            copies: how many times there must be room on the disk for such a file.

        Raises:
            UsageError: there is no room on the disk, or rewards are not finite.
        """

        def told() -> Iterator[Columns]:
            for block in self.blocks():
                yield block
                if progress is not None:
                    progress(int(block.episode[-1]) + 1, 2 * len(self.rows))  # the other half is to look through them

        spec = self.spec
        columns, file = scratch.filled(
            int(self.rows.sum()), spec.observation_dim, spec.action_dim, told(), spec.name, copies
        )
        dataset = make_dataset(
            columns,
            spec.name,
            action_low=spec.action_low,
            action_high=spec.action_high,
            environment=spec.environment,
            reference_min=spec.reference_min,
            reference_max=spec.reference_max,
            sources=spec.sources,
        )
        return dataclasses.replace(dataset, file=file)


def take(episodes: Episodes, options: Options, name: str) -> Episodes:
    """The episodes that `options` keep, in their order, with the rewards that they ask for; sources without an episode
    are dropped.

    Raises:
        UsageError: nothing is left, or an option that does not fit the data.
    """
    spec, lengths, source_of = episodes.spec, episodes.transitions, episodes.source
    kept = np.arange(len(lengths))
    if options.source:
        if unknown := [wanted for wanted in options.source if wanted not in spec.sources]:
            raise UsageError(f"{spec.name} has no source {unknown[0]!r}; it has: {', '.join(spec.sources)}")
        kept = kept[np.isin(np.array(spec.sources)[source_of], options.source)]  # a mixture may repeat a name
    if options.returns is not None:
        returns = episodes.returns()[kept]
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
            f"nothing of {spec.name} is left in {name!r}: its {len(lengths)} episodes have"
            f" {lengths.min()} to {lengths.max()} transitions; ask for more"
        )
    pieces = episodes.pieces
    new = dataclasses.replace(spec, name=name)
    if (options.reward, options.reward_scale, options.reward_shift) != (None, None, None):
        facts = _rewards_of(episodes) if options.reward in _OF_STATISTICS else spec
        change = _Change(options.reward, options.reward_scale, options.reward_shift, facts)
        # Tells a name that is none, or rewards that it does not fit, before any row is gathered.
        probe = {name: values[:1] for name, values in vars(pieces[0].columns).items()}
        changed(Columns(**probe), change.spec, change.reward, change.scale, change.shift)
        pieces = tuple(dataclasses.replace(piece, changes=(*piece.changes, change)) for piece in pieces)
        if options.reward in ENVIRONMENTS:
            limit = json.loads(spec.environment or "{}").get("max_episode_steps")
            environment = json.dumps({"id": ENVIRONMENTS[options.reward], "kwargs": {}, "max_episode_steps": limit})
            new = dataclasses.replace(new, environment=environment, reference_min=None, reference_max=None)
    return _without_unused(dataclasses.replace(episodes, spec=new, pieces=pieces).chosen(kept))


def weighed(parts: Sequence[Episodes], weights: Sequence[float], seed: int) -> list[Episodes]:
    """Parts of data sets, by whole episodes drawn at random, whose transitions are in the proportion of `weights`: the
    largest such parts that there are.

    The shares are kept up to one episode per part.
    """
    sizes = np.array([part.transitions.sum() for part in parts], dtype=np.float64)
    total = (sizes / np.asarray(weights)).min()
    drawn = []
    for index, (part, weight) in enumerate(zip(parts, weights)):
        wanted = max(1, round(total * weight))
        drawn.append(part if wanted >= part.transitions.sum() else _nearest(part, wanted, [seed, index]))
    return drawn


def mix(parts: Sequence[Episodes], name: str) -> Episodes:
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
    piece_starts = np.cumsum([0, *(len(part.pieces) for part in parts)])
    source_starts = np.cumsum([0, *(len(part.spec.sources) for part in parts)])
    spec = dataclasses.replace(
        first,
        name=name,
        reference_min=reference_min,
        reference_max=reference_max,
        sources=tuple(source for part in parts for source in part.spec.sources),
    )
    return Episodes(
        spec,
        tuple(piece for part in parts for piece in part.pieces),
        piece=np.concatenate([part.piece + start for part, start in zip(parts, piece_starts)]),
        first=np.concatenate([part.first for part in parts]),
        rows=np.concatenate([part.rows for part in parts]),
        source=np.concatenate([part.source.astype(np.int64) + start for part, start in zip(parts, source_starts)]),
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


def _nearest(part: Episodes, transitions: int, seed: Sequence[int]) -> Episodes:
    """Random episodes with as nearly so many transitions as the order in which they are drawn allows."""
    lengths = part.transitions
    drawn = np.argsort(_ranks(seed, len(lengths)), kind="stable")
    sums = np.cumsum(lengths[drawn])
    count = 1 + int(np.abs(sums - transitions).argmin())
    return part.chosen(np.sort(drawn[:count]))


def _rewards_of(episodes: Episodes) -> Spec:
    """The facts of episodes, those about rewards among them."""
    piece, *others = episodes.pieces
    if not others and not piece.changes and len(episodes.rows) == episodes.spec.num_episodes:
        return episodes.spec  # a whole data set
    last = np.cumsum(episodes.rows) - 1
    returns, low, high, start = np.zeros(len(last)), np.inf, -np.inf, 0
    for block in episodes.blocks():
        np.add.at(returns, block.episode, block.rewards.astype(np.float64))
        stop = start + len(block.rewards)
        rewards = np.delete(block.rewards, last[(start <= last) & (last < stop)] - start)
        low, high, start = min(low, rewards.min(initial=low)), max(high, rewards.max(initial=high)), stop
    return dataclasses.replace(
        episodes.spec,
        reward_min=float(low),
        reward_max=float(high),
        returns_min=float(returns.min()),
        returns_max=float(returns.max()),
    )


def _without_unused(episodes: Episodes) -> Episodes:
    used = np.unique(episodes.source)
    if len(used) == len(episodes.spec.sources):
        return episodes
    numbers = np.zeros(len(episodes.spec.sources), dtype=np.int64)
    numbers[used] = np.arange(len(used))
    spec = dataclasses.replace(episodes.spec, sources=tuple(episodes.spec.sources[number] for number in used))
    return dataclasses.replace(episodes, spec=spec, source=numbers[episodes.source])

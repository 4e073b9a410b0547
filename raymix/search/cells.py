"""The studies of a sweep that Optuna searches: one for each cell of its grid, on each data set, by each algorithm.

Imports neither ray, torch nor optuna.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from raymix.search.optuna import Dimension, Space
from raymix.types import UsageError

if TYPE_CHECKING:
    from raymix.plan import SweepSpec


@dataclass(frozen=True)
class Cell:
    """What the trials of one study have in common, and what it searches. Plain data, as `sweep.json` holds it."""

    algorithm: str
    dataset: str
    """Canonical name."""
    config: dict[str, Any]
    """All hyperparameters; the searched ones are the first example's."""
    grid: dict[str, Any]
    """Those that the grid varies, which is where in it this cell is."""
    space: Space
    seed: list[int]
    """Whole numbers that no other study of the sweep has: of these, and of the trials, its suggestions are made."""
    trials: int
    """How many it has in the end."""
    points: list[dict[str, Any]]
    """What is tried first."""
    evaluate_every: int
    name: str | None = None
    """`SweepSpec.label`."""
    warm: list[list[Any]] = field(default_factory=list)
    """Results of earlier runs: [searched hyperparameters, value, folder of the run, agent-seconds per seed]; the
    last where that is an objective."""

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**{**plain, "space": {name: Dimension(**each) for name, each in plain["space"].items()}})

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @property
    def label(self) -> str:
        """Which study it is, for people."""
        grid = ", ".join(f"{name}={value}" for name, value in self.grid.items())
        return ": ".join(filter(None, (self.dataset, self.algorithm, self.name, grid)))

    def config_of(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """All hyperparameters of the trial with these searched ones. Raises `UsageError` for values out of range."""
        from raymix.algorithms import base

        return base.find(self.algorithm).configure({**self.config, **params}).to_dict()

    def params_of(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The searched hyperparameters of a trial."""
        return {name: config[name] for name in self.space}

    def examples(self) -> list[dict[str, Any]]:
        """Every end of every range and every choice at least once, the others as in the first example."""
        first = {name: dimension.ends()[0] for name, dimension in self.space.items()}
        more = [first | {name: value} for name, each in self.space.items() for value in each.ends()[1:]]
        return [first, *more]


def cells_of(spec: SweepSpec) -> list[Cell]:
    """The studies of a specification with a searcher, in order; everything that they may try is checked.

    Raises:
        UsageError: nothing is left to search, or a value of a range, a choice or a point cannot be used.
    """
    from ray.tune.search.sample import Float

    from raymix.algorithms import base
    from raymix.config import kind_of
    from raymix.data.catalog import canonical_name

    searcher = spec.searcher
    assert searcher is not None
    algorithm = base.find(spec.algorithm)
    fixed = {**spec.settings, **({"steps": spec.steps} if spec.steps is not None else {})}
    fields = {each.name: each for each in dataclasses.fields(algorithm.Config)}
    grids = {name: domain["grid_search"] for name, domain in spec.search.items() if isinstance(domain, Mapping)}
    space: Space = {}
    for name, domain in spec.search.items():
        if name in grids:
            continue
        dimension = Dimension.of(name, domain)
        if name in fields and kind_of(fields[name]) != "structure":
            whole = type(fields[name].default) is int
            if whole and isinstance(domain, Float) and (dimension.step is None or dimension.step % 1):
                raise UsageError(
                    f"{name} takes whole numbers, which a range of fractions has not; search it with tune.randint or"
                    " tune.lograndint"
                )
        space[name] = dimension
    if not space:
        raise UsageError(
            "there is nothing for Optuna to search: give search a range or a choice, such as"
            " {'beta': tune.loguniform(0.1, 10)}, or leave out the searcher"
        )
    found: dict[str, Cell] = {}
    for values in itertools.product(*grids.values()):
        given = {**fixed, **dict(zip(grids, values))}
        plain = _plain_space(space, lambda params, given=given: algorithm.configure({**given, **params}, spec.preset))
        first = {name: dimension.ends()[0] for name, dimension in plain.items()}
        config = algorithm.configure({**given, **first}, spec.preset).to_dict()
        size = math.prod(dimension.size for dimension in plain.values())
        for dataset in spec.datasets:
            name = canonical_name(dataset)
            cell = Cell(
                algorithm=spec.algorithm,
                dataset=name,
                config=config,
                grid={key: config[key] for key in grids},
                space=plain,
                seed=[spec.search_seed, len(found)],
                trials=int(min(searcher.trials, size)),
                points=[_checked_point(point, plain) for point in searcher.points],
                evaluate_every=spec.evaluate_every,
                name=spec.label,
            )
            for params in cell.examples():
                cell.config_of(params)
            found.setdefault(json.dumps([name, config]), cell)
    return list(found.values())


def all_cells(specs: Sequence[SweepSpec]) -> list[Cell]:
    """The studies of all specifications of a sweep, in order.

    Raises:
        UsageError: as `cells_of`; or two of them could try the same configuration.
    """
    cells: list[Cell] = []
    for spec in specs:
        before = list(cells)
        for cell in cells_of(spec):
            for other in before:
                searched = cell.space.keys() | other.space.keys()
                one, two = ({n: v for n, v in each.config.items() if n not in searched} for each in (cell, other))
                if (cell.algorithm, cell.dataset, one) == (other.algorithm, other.dataset, two):
                    raise UsageError(
                        f"two studies of {cell.algorithm} on {cell.dataset} search {', '.join(sorted(searched))} alike;"
                        " leave one of the specifications out, or fix in them what tells them apart"
                    )
            cells.append(dataclasses.replace(cell, seed=[cell.seed[0], len(cells)]))
    return cells


def _plain_space(space: Space, configure: Any) -> Space:
    """The space with its choices as the algorithm has them (256 for 256.0), each once."""
    plain = {}
    first = {name: dimension.ends()[0] for name, dimension in space.items()}
    for name, dimension in space.items():
        if dimension.kind == "choice":
            values = [configure(first | {name: value}).to_dict()[name] for value in dimension.values]
            dimension = dataclasses.replace(dimension, values=[v for i, v in enumerate(values) if v not in values[:i]])
        plain[name] = dimension
    return plain


def _checked_point(point: Mapping[str, Any], space: Space) -> dict[str, Any]:
    point = {name: list(value) if isinstance(value, tuple) else value for name, value in point.items()}
    for name, value in point.items():
        if name not in space:
            raise UsageError(
                f"the point {point!r} to try first names {name!r}, which is not searched; it may name"
                f" {', '.join(space)}"
            )
        if not space[name].holds(value):
            raise UsageError(
                f"the point {point!r} to try first is outside of what is searched: {name} is {space[name].in_words()}"
            )
    return point

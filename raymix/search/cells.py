"""The studies of a sweep that Optuna searches: one for each cell of its grid, on each data set, by each algorithm.

Imports neither ray, torch nor optuna.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from raymix.search.conditions import (
    applies,
    applying,
    bare,
    conditions_of,
    grids_of,
    in_words,
    listed,
    number_of_points,
    points,
    with_fixed,
)
from raymix.search.optuna import Dimension, Space, conditions_in, example_with
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
    """All hyperparameters; the searched ones are the first example's, and conditional ones as where they do not
    apply."""
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
    left_out: list[str] = field(default_factory=list)
    """What other cells of the grid search, and this one does not, by conditions on the grid (`raymix.when`)."""

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
        """The searched hyperparameters of a trial that apply in it."""
        return applying(conditions_in(self.space), {name: config[name] for name in self.space})

    def examples(self) -> list[dict[str, Any]]:
        """Every end of every range and every choice at least once, the others as in the first example."""
        first = {name: dimension.ends()[0] for name, dimension in self.space.items()}
        found = [applying(conditions_in(self.space), first)]
        for name, dimension in self.space.items():
            for example in (example_with(self.space, name, value) for value in dimension.ends()):
                if example not in found:
                    found.append(example)
        return found


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
    grids, conditions = grids_of(spec.search), conditions_of(spec.search)
    unsearched = algorithm.configure(fixed, spec.preset).to_dict()
    space: Space = {}
    for name, domain in spec.search.items():
        if name in grids:
            continue
        domain = bare(domain)
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
    for values in points(grids, {name: own for name, own in conditions.items() if name in grids}):
        given = {**fixed, **values}
        searched = with_fixed(spec.search, values)
        still = conditions_of(searched)
        here = {
            n: dataclasses.replace(space[n], when={o: list(v) for o, v in still.get(n, {}).items()}) for n in searched
        }
        plain = _plain_space(here, lambda params, given=given: algorithm.configure({**given, **params}, spec.preset))
        first = applying(conditions_in(plain), {name: dimension.ends()[0] for name, dimension in plain.items()})
        config = algorithm.configure({**given, **first}, spec.preset).to_dict()
        config |= {name: unsearched[name] for name in conditions if name not in values}
        size = number_of_points(
            {name: dimension.size for name, dimension in plain.items()},
            {name: dimension.values for name, dimension in plain.items()},
            conditions_in(plain),
        )
        for dataset in spec.datasets:
            name = canonical_name(dataset)
            cell = Cell(
                algorithm=spec.algorithm,
                dataset=name,
                config=config,
                grid={key: config[key] for key in values},
                space=plain,
                seed=[spec.search_seed, len(found)],
                trials=int(min(searcher.trials, size)),
                points=[_checked_point(point, plain, space.keys() - plain.keys()) for point in searcher.points],
                evaluate_every=spec.evaluate_every,
                name=spec.label,
                left_out=[key for key in spec.search if key not in values and key not in plain],
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
    plain: dict[str, list[Any]] = {}
    for name, dimension in space.items():
        examples = [example_with(space, name, value) for value in dimension.values]
        plain[name] = [configure(example).to_dict()[name] for example in examples]
    return {
        name: dataclasses.replace(
            dimension,
            values=[value for i, value in enumerate(plain[name]) if value not in plain[name][:i]],
            when={
                other: [to for of, to in zip(space[other].values, plain[other]) if listed(of) in allowed]
                for other, allowed in dimension.when.items()
            },
        )
        for name, dimension in space.items()
    }


def _checked_point(point: Mapping[str, Any], space: Space, elsewhere: Collection[str]) -> dict[str, Any]:
    """A point as the study has it: without the fields that only others search."""
    point = {name: listed(value) for name, value in point.items() if name not in elsewhere}
    for name, value in point.items():
        if name not in space:
            raise UsageError(
                f"the point {point!r} to try first names {name!r}, which is not searched; it may name"
                f" {', '.join(space)}"
            )
        if not applies(name, conditions_in(space), point):
            raise UsageError(
                f"the point {point!r} to try first names {name!r}, which is searched where"
                f" {in_words(space[name].when)}; say so in the point, or leave {name} out of it"
            )
        if not space[name].holds(value):
            raise UsageError(
                f"the point {point!r} to try first is outside of what is searched: {name} is {space[name].in_words()}"
            )
    return point

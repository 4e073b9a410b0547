"""Conditional search spaces: hyperparameters that are searched only where others have certain values.

Where a field does not apply it is no part of the trial's search: it has the value of the sweep's settings, else the
preset's, else the algorithm's. Imports neither ray, torch nor optuna.
"""

from __future__ import annotations

import graphlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raymix.types import UsageError

Conditions = Mapping[str, Mapping[str, Sequence[Any]]]
"""By conditional field: other fields, and the values of each with which it applies."""


@dataclass(frozen=True)
class When:
    """A search space with conditions, as `when` makes it; what makes no sense is refused by `check_conditions`."""

    domain: Any
    """One of Tune's search spaces."""
    conditions: Mapping[str, Sequence[Any]]
    """Other searched fields, and the values of each with which this one is searched."""


def when(domain: Any, /, **conditions: Any) -> When:
    """Search a hyperparameter only in trials in which others have certain values.

        search={
            "weight_mode": tune.choice(["exp", "two_valued"]),
            "beta": when(tune.loguniform(0.1, 10), weight_mode="exp"),
            "positive_weight": when(tune.uniform(0.5, 1.0), weight_mode="two_valued"),
        }

    In all other trials it is left out: it has the value of the sweep's settings, else the preset's, else the
    algorithm's, and reports show none. Several conditions must all hold; a list or tuple means any of its values, so
    that widths are written [(256, 256)]. Conditions name fields of `tune.choice` or `tune.grid_search` in the same
    search, those of a grid other grids only. A condition on a conditional field holds only where that one applies.
    Without a searcher `tune.sample_from` sees a drawn value also of fields that do not apply.
    """
    several = {name: value if isinstance(value, list | tuple) else [value] for name, value in conditions.items()}
    return When(domain, {name: [listed(each) for each in values] for name, values in several.items()})


def bare(domain: Any) -> Any:
    """One of Tune's search spaces without its conditions."""
    return domain.domain if isinstance(domain, When) else domain


def conditions_of(search: Mapping[str, Any]) -> dict[str, Mapping[str, Sequence[Any]]]:
    """The conditions of a sweep's search."""
    return {name: domain.conditions for name, domain in search.items() if isinstance(domain, When)}


def grids_of(search: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The values of a search's grids, conditional ones too."""
    return {name: list(bare(each)["grid_search"]) for name, each in search.items() if isinstance(bare(each), Mapping)}


def in_words(own: Mapping[str, Sequence[Any]]) -> str:
    """The conditions of one field, for people."""
    return " and ".join(f"{name} is {' or '.join(map(str, allowed))}" for name, allowed in own.items())


def applies(name: str, conditions: Conditions, values: Mapping[str, Any]) -> bool:
    """Whether a field applies where others have these values."""
    return all(
        other in values and listed(values[other]) in allowed and applies(other, conditions, values)
        for other, allowed in conditions.get(name, {}).items()
    )


def applying(conditions: Conditions, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values whose fields apply, in their order."""
    return {name: value for name, value in values.items() if applies(name, conditions, values)}


def ordered(names: Iterable[str], conditions: Conditions) -> list[str]:
    """Each field after those that its conditions name, else in the given order."""

    def depth(name: str) -> int:
        return 1 + max(map(depth, conditions[name]), default=0) if name in conditions else 0

    return sorted(names, key=depth)


def points(values: Mapping[str, Sequence[Any]], conditions: Conditions) -> Iterator[dict[str, Any]]:
    """All points of a grid, without the fields that do not apply there; the last field varies fastest."""
    names = ordered(values, conditions)

    def beyond(number: int, point: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if number == len(names):
            yield {name: point[name] for name in values if name in point}
        elif applies(name := names[number], conditions, point):
            for value in values[name]:
                yield from beyond(number + 1, {**point, name: value})
        else:
            yield from beyond(number + 1, point)

    return beyond(0, {})


def number_of_points(sizes: Mapping[str, float], values: Mapping[str, Sequence[Any]], conditions: Conditions) -> float:
    """How many points a space has; only the fields that conditions name are spelt out, by their `values`."""
    forks = {name: values[name] for name in sizes if any(name in own for own in conditions.values())}
    others = {name: size for name, size in sizes.items() if name not in forks}
    return sum(
        math.prod(size for name, size in others.items() if applies(name, conditions, point))
        for point in points(forks, conditions)
    )


def applied_by(name: str, values: Mapping[str, Sequence[Any]], conditions: Conditions) -> dict[str, Any] | None:
    """The first values, of all fields that its conditions depend on, with which a field applies; None: never."""
    above: dict[str, Sequence[Any]] = {}
    waiting = list(conditions.get(name, ()))
    while waiting:
        if (other := waiting.pop()) not in above:
            above[other] = values[other]
            waiting += conditions.get(other, ())
    return next((point for point in points(above, conditions) if applies(name, conditions, point)), None)


def with_fixed(search: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """A search once some hyperparameters are fixed for all trials: without these, and with conditions on them decided.

    One that does not hold takes its field out of the search, and with it the fields that depend on that.
    """
    out: set[str] = set()

    def fails(other: str, allowed: Sequence[Any]) -> bool:
        return listed(fixed[other]) not in allowed if other in fixed else other in out

    while more := {
        name
        for name, own in conditions_of(search).items()
        if name not in fixed and name not in out and any(fails(*each) for each in own.items())
    }:
        out |= more
    left = {name: domain for name, domain in search.items() if name not in fixed and name not in out}
    for name, own in conditions_of(left).items():
        rest = {other: allowed for other, allowed in own.items() if other not in fixed}
        # One without conditions from the beginning is a slip, and refused.
        left[name] = When(bare(left[name]), rest) if rest or not own else bare(left[name])
    return left


def check_conditions(search: Mapping[str, Any], check_domain: Callable[[str, Any], None]) -> None:
    """Raise `UsageError` for a search space that is none (by `check_domain`), and for conditions that make no sense."""
    for name, domain in search.items():
        if isinstance(bare(domain), When):
            raise UsageError(f"search[{name!r}] has one when(...) inside of another; give one of them all conditions")
        check_domain(name, bare(domain))
    conditions, values = conditions_of(search), {name: _values(bare(domain)) for name, domain in search.items()}
    for name, own in conditions.items():
        if not own:
            raise UsageError(
                f"when(...) of {name!r} takes at least one condition, such as weight_mode='exp'; or search it without"
                " when"
            )
        for other, allowed in own.items():
            _check_condition(name, other, allowed, search, values.get(other))
    try:
        graphlib.TopologicalSorter(conditions).prepare()
    except graphlib.CycleError as problem:
        cycle = " on ".join(map(repr, reversed(problem.args[1])))
        raise UsageError(f"conditions go round in a circle: {cycle}; leave one of them out") from problem
    spelt_out = {name: own for name, own in values.items() if own is not None}
    for name in conditions:
        if applied_by(name, spelt_out, conditions) is None:
            raise UsageError(
                f"{name!r} would be searched nowhere: it applies where {in_words(conditions[name])}, and the conditions"
                " of those fields rule that out; change one of them"
            )


def _check_condition(
    name: str, other: str, allowed: Sequence[Any], search: Mapping[str, Any], values: Sequence[Any] | None
) -> None:
    """One condition, on a field that takes `values` (None: a range)."""
    remedy = "with tune.choice or tune.grid_search, or leave the condition out"
    if other == name:
        raise UsageError(f"{name!r} has a condition on itself; give it one on another searched field, or none")
    if other not in search:
        known = ", ".join(each for each in search if each != name) or "nothing else"
        raise UsageError(
            f"{name!r} has a condition on {other!r}, which is not searched (searched: {known}); search it {remedy}"
        )
    if values is None:
        kind = type(bare(search[other])).__name__
        raise UsageError(
            f"{name!r} has a condition on {other!r}, which is searched by {kind} and not value by value; search it"
            f" {remedy}"
        )
    if isinstance(bare(search[name]), Mapping) and not isinstance(bare(search[other]), Mapping):
        raise UsageError(
            f"the grid of {name!r} has a condition on {other!r}, which is drawn, so that nobody could say how large the"
            f" grid is; search {other!r} with tune.grid_search, or {name!r} with tune.choice"
        )
    taken = ", ".join(map(repr, values))
    if not allowed:
        raise UsageError(f"{name!r} has a condition on {other!r} without a value; it takes one or more of {taken}")
    for value in allowed:
        if value not in values:
            raise UsageError(
                f"{name!r} is to be searched where {other!r} is {value!r}, a value that it never takes: those are"
                f" {taken} (a list or tuple means any of its values); add it to them, or leave it out"
            )


def _values(domain: Any) -> list[Any] | None:
    """What a search space has value by value; None for others."""
    from ray.tune.search.sample import Categorical

    if isinstance(domain, Mapping):
        return [listed(value) for value in domain["grid_search"]]
    return [listed(value) for value in domain.categories] if isinstance(domain, Categorical) else None


def listed(value: Any) -> Any:
    """A value that can be compared: widths are written (256, 256) or [256, 256]."""
    return list(value) if isinstance(value, tuple) else value

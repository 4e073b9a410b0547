"""Searches by Optuna: what a sweep says of one, its space, and the next point to try.

A point is a function of what is known, and of nothing else: `suggest` builds a study in memory from the trials so far,
asks a fresh sampler with a seed of its own, and forgets both. So a resumed search goes on as an undisturbed one would,
and nothing that a killed process leaves behind can be wrong. Importing this module imports neither optuna nor ray.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from raymix.search.conditions import Conditions, applied_by, applies, applying, in_words, ordered
from raymix.types import UsageError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

SAMPLERS = {
    "tpe": "tree-structured Parzen estimators; also learns from trials that were stopped early",
    "gp": "a Gaussian process; learns only from trials that were trained to the end; random before there are 10",
    "qmc": "a scrambled Sobol sequence: covers the space evenly, whatever the results",
    "random": "independent draws",
}
"""How points are chosen. The first two are Optuna's, as are their settings."""

OBJECTIVES = {
    "score": "the sweep's metric",
    "agent_seconds": "seconds of the device that training took, per seed; less is better",
}
"""What a search may ask for."""

COMPLETE, PRUNED, DIVERGED, RUNNING, LOST = "COMPLETE", "PRUNED", "DIVERGED", "RUNNING", "LOST"
"""States of a trial: trained to the end, stopped early, without a finite value, at work or waiting, without a result
since its process failed. Optuna calls the third and the last FAIL."""


@dataclass(frozen=True)
class Optuna:
    """Let Optuna decide the trials of a sweep one by one, from the results so far.

    Fields of `SweepSpec.search` that are `tune.grid_search` span a grid; each cell of that grid, on each data set, is
    a study of its own, which learns nothing from the others. All other fields are what a study searches; conditional
    ones (`raymix.when`) are in it where their conditions hold.
    """

    trials: int = 24
    """Of each study; fewer where its space has fewer points, since none is tried twice."""
    sampler: str = "tpe"
    """A key of `SAMPLERS`."""
    points: tuple[Mapping[str, Any], ...] = ()
    """What each study tries first, such as ({"beta": 2.0},); the sampler adds the fields that a point leaves out. A
    conditional field (`raymix.when`) goes with the values that it depends on."""
    warm_start: tuple[str, ...] = ()
    """Folders of earlier runs. Each study is told of those of their finished configurations that could be its own
    trials: the same algorithm, data, and hyperparameters apart from the searched ones. It may try these again."""
    at_once: int | None = None
    """The most trials that train at once; None: as many as there is room for. With one at a time, each decision knows
    all results before it, and the same sweep decides alike every time."""
    cohort: int | None = None
    """With `Halving`: so many trials of a study that follow one another are compared with each other. None: as many as
    leave one at the last rung."""
    objectives: tuple[str, ...] = ("score",)
    """Keys of `OBJECTIVES`. With ("score", "agent_seconds") there is no best trial, but a Pareto front: those that no
    other one beats in both, which reports mark. `tpe` and `gp` then learn from both. (Optuna's NSGA-II is none of the
    samplers, since its generations are more than the trials and their results.) Does not go with `Halving`."""

    def __post_init__(self) -> None:
        # What one person writes for another's tuple; what makes no sense waits for `check`.
        for name, one in (("points", Mapping), ("warm_start", str), ("objectives", str)):
            given = getattr(self, name)
            given = (given,) if isinstance(given, one) else given
            if isinstance(given, list | tuple):
                object.__setattr__(self, name, tuple(dict(e) if isinstance(e, Mapping) else e for e in given))

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense. (Not while a sweep's file is read: that is a traceback.)"""
        for name, none in (("trials", False), ("at_once", True), ("cohort", True)):
            value = getattr(self, name)
            if not (none and value is None) and (type(value) is not int or value < 1):
                allowed = "a whole number of at least 1" + (", or None" if none else "")
                raise UsageError(f"{name} of Optuna takes {allowed}, not {value!r}")
        if self.sampler not in list(SAMPLERS):
            raise UsageError(f"sampler of Optuna is one of {', '.join(SAMPLERS)}, not {self.sampler!r}")
        points = self.points
        if not isinstance(points, tuple) or not all(isinstance(point, Mapping) and point for point in points):
            raise UsageError(f"points of Optuna takes dictionaries such as ({{'beta': 2.0}},), not {self.points!r}")
        if len(points) > self.trials:
            raise UsageError(
                f"points of Optuna takes at most as many as there are trials ({self.trials}), not {len(points)}; raise"
                " trials, or leave some out"
            )
        folders = self.warm_start
        if not isinstance(folders, tuple) or not all(isinstance(folder, str) for folder in folders):
            raise UsageError(f"warm_start of Optuna takes folders of runs, not {self.warm_start!r}")
        names = list(OBJECTIVES)
        if self.objectives not in (tuple(names[:1]), tuple(names)):
            raise UsageError(f"objectives of Optuna is {(names[0],)} or {tuple(names)}, not {self.objectives!r}")


@dataclass(frozen=True)
class Dimension:
    """The values that one hyperparameter may take."""

    kind: str
    """'float', 'int' or 'choice'."""
    low: float = 0
    high: float = 0
    """Both included."""
    step: float | None = None
    log: bool = False
    values: list[Any] = field(default_factory=list)
    """Of a choice."""
    when: dict[str, list[Any]] = field(default_factory=dict)
    """Other dimensions of the space, and the values of each with which this one applies (`raymix.when`)."""

    @classmethod
    def of(cls, name: str, domain: Any) -> Self:
        """One of Tune's search spaces, other than a grid. Raises `UsageError` for one that a study cannot have."""
        from ray.tune.search.sample import Categorical, Float, Integer, LogUniform, Quantized, Uniform

        sampler = domain.get_sampler()
        step = None
        if isinstance(sampler, Quantized):
            step, sampler = sampler.q, sampler.sampler
        log = isinstance(sampler, LogUniform)
        if isinstance(domain, Categorical) and isinstance(sampler, Uniform):
            return cls("choice", values=list(domain.categories))
        if isinstance(domain, Float | Integer) and isinstance(sampler, Uniform | LogUniform):
            low, high = domain.lower, domain.upper
            if not (math.isfinite(low) and math.isfinite(high)):
                raise UsageError(f"the range of {name!r} needs two ends for Optuna, not {low} to {high}")
            if log and step is not None:
                raise UsageError(
                    f"Optuna does not round values from a logarithmic range, as {name!r} asks for; search it without"
                    " rounding, or with tune.choice"
                )
            if isinstance(domain, Float):
                return cls("float", float(low), float(high), step, log)
            # Tune's own ranges of whole numbers leave out their upper end, those with a step include it.
            return cls("int", int(low), int(high) - (step is None), int(step or 1), log)
        raise UsageError(
            f"Optuna cannot search {name!r} by {type(domain).__name__} drawn by {type(sampler).__name__.strip('_')};"
            " search it with tune.uniform, loguniform, quniform, randint, lograndint, qrandint or choice, or by"
            " tune.grid_search"
        )

    @property
    def size(self) -> float:
        """How many values there are; infinite for a range."""
        if self.kind == "choice":
            return len(self.values)
        return math.inf if self.step is None else math.floor((self.high - self.low) / self.step + 1e-9) + 1

    def ends(self) -> list[Any]:
        """The ends of a range, or all values of a choice: where a limit would be broken, it is there."""
        return self.values if self.kind == "choice" else list(dict.fromkeys([self.at(0.0), self.at(1.0)]))

    def at(self, share: float) -> Any:
        """The value below which this share (0 to 1) of all lies."""
        if self.kind == "choice":
            return self.values[min(int(share * len(self.values)), len(self.values) - 1)]
        if self.step is None:
            low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
            value = low + share * (high - low)
            return self._short(math.exp(value) if self.log else value)
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high + 1) - math.log(self.low)))
            return int(min(value, self.high))
        number = min(int(share * self.size), int(self.size) - 1)
        return self.low + number * self.step

    def holds(self, value: Any) -> bool:
        """Whether this is one of the values."""
        if self.kind == "choice":
            return value in self.values
        if type(value) not in (int, float) or not self.low <= value <= self.high:
            return False
        number = 0.0 if self.step is None else (value - self.low) / self.step
        return math.isclose(number, round(number), abs_tol=1e-6)

    def in_words(self) -> str:
        """For people."""
        where = f" where {in_words(self.when)}" if self.when else ""
        if self.kind == "choice":
            return f"one of {', '.join(map(str, self.values))}{where}"
        steps = f" in steps of {self.step:g}" if self.step is not None and (self.kind, self.step) != ("int", 1) else ""
        return f"{self.low:g} to {self.high:g}{' (logarithmic)' if self.log else ''}{steps}{where}"

    def distribution(self) -> BaseDistribution:
        """As Optuna knows it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.kind == "choice":
            return CategoricalDistribution([self.encoded(value) for value in self.values])
        if self.kind == "float":
            return FloatDistribution(self.low, self.high, log=self.log, step=self.step)
        return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))

    def asked(self, trial: Trial, name: str) -> Any:
        """The value that the sampler of an open trial of Optuna's suggests."""
        if self.kind == "choice":
            found = trial.suggest_categorical(name, [self.encoded(value) for value in self.values])
        elif self.kind == "float":
            found = trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step)
        else:
            found = trial.suggest_int(name, int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return self.decoded(found)

    def encoded(self, value: Any) -> Any:
        """A value as Optuna takes it: widths such as [256, 256] become text."""
        if self.kind == "choice":
            return json.dumps(value) if isinstance(value, list) else value
        return float(value) if self.kind == "float" else int(value)

    def decoded(self, value: Any) -> Any:
        """The value of a hyperparameter that Optuna means."""
        if self.kind == "choice":
            return next(each for each in self.values if self.encoded(each) == value)
        if self.kind == "int":
            return value
        if self.step is not None:  # as `at` makes it, so that it can be told from others
            return self.low + round((value - self.low) / self.step) * self.step
        return self._short(value)

    def _short(self, value: float) -> float:
        """A value that people can read and type."""
        return min(max(float(f"{value:.5g}"), self.low), self.high)


Space = dict[str, Dimension]
"""What a study searches, by hyperparameter."""


def conditions_in(space: Space) -> Conditions:
    """The conditions of a space's dimensions."""
    return {name: dimension.when for name, dimension in space.items() if dimension.when}


def example_with(space: Space, name: str, value: Any) -> dict[str, Any]:
    """A point with this value, everything else as it comes first where that lets the value's field apply."""
    conditions = conditions_in(space)
    above = applied_by(name, {other: each.values for other, each in space.items()}, conditions)
    assert above is not None, name  # `check_conditions`
    first = {other: dimension.ends()[0] for other, dimension in space.items()}
    return applying(conditions, {**first, **above, name: value})


@dataclass(frozen=True)
class Told:
    """What a study knows of a trial."""

    params: Mapping[str, Any]
    """The searched hyperparameters that apply in it."""
    state: str
    value: float | None = None
    """Of a complete trial: finite, in the units of the metric."""
    reports: Mapping[int, float] = field(default_factory=dict)
    """Finite values by gradient step of the last phase."""
    cost: float | None = None
    """Agent-seconds per seed of a complete trial, where they are an objective."""


def suggest(
    space: Space,
    sampler: str,
    minimize: bool,
    told: Sequence[Told],
    seed: Sequence[int],
    number: int,
    attempt: int = 0,
    point: Mapping[str, Any] | None = None,
    costs: bool = False,
) -> dict[str, Any]:
    """The hyperparameters of the next trial that apply in it.

    Args:
        told: all that is known, in the order of the trials.
        seed: whole numbers from 0 on that name the study.
        number: of the trial in its study, from 0 on.
        attempt: counts the suggestions for this trial that had been made before; after some it is drawn at random.
        point: hyperparameters that are decided already.
        costs: whether the cost of a trial is a second objective.
    """
    point = point or {}
    conditions = conditions_in(space)
    if all(name in point or not applies(name, conditions, point) for name in space):
        return applying(conditions, {name: point[name] for name in space if name in point})
    own = np.random.SeedSequence([*seed, number, attempt])
    if sampler in ("tpe", "gp") and attempt < _PATIENCE:
        if sampler == "gp":
            told = [replace(each, params=_filled(space, each.params)) for each in told]
        grouped = bool(conditions) and not costs
        asking = study_of(space, minimize, told, _sampler(sampler, int(own.generate_state(1)[0]), grouped), costs).ask()
        asked: dict[str, Any] = {}
        for name in ordered(space, conditions):
            if sampler == "gp" or applies(name, conditions, asked):
                suggested = space[name].asked(asking, name)
                asked[name] = point.get(name, suggested)
        return applying(conditions, {name: asked[name] for name in space if name in asked})
    if sampler == "qmc" and attempt == 0:
        from scipy.stats.qmc import Sobol

        sequence = Sobol(len(space), scramble=True, rng=np.random.default_rng(np.random.SeedSequence(list(seed))))
        shares = sequence.fast_forward(number).random(1)[0] if number else sequence.random(1)[0]
    else:
        shares = np.random.default_rng(own).random(len(space))
    drawn = {name: dimension.at(float(share)) for (name, dimension), share in zip(space.items(), shares)}
    return applying(conditions, {**drawn, **point})


def _filled(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """A point of the whole space for a Gaussian process, which Optuna's would otherwise model over the fields alone
    that are in all trials, and draw the others at random: what does not apply is in the middle of its range."""
    return {name: params[name] if name in params else dimension.at(0.5) for name, dimension in space.items()}


_PATIENCE = 10
"""So often a sampler may suggest what was tried already."""


def _sampler(name: str, seed: int, grouped: bool) -> BaseSampler:
    """`grouped`: for a conditional space, of which Optuna then learns each group of fields that apply together, from
    the trials that have them. (For several objectives it learns field by field in any case.)"""
    import optuna

    if name == "tpe" and grouped:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True, multivariate=True, group=True)
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return optuna.samplers.GPSampler(seed=seed)


def study_of(
    space: Space, minimize: bool, told: Sequence[Told], sampler: BaseSampler | None = None, costs: bool = False
) -> Study:
    """A study in memory that knows these trials, as far as they say something about the space.

    To Optuna a failed trial says nothing, so a sampler would come back to where agents diverge, again and again; here
    such a trial is one of the worst possible value.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=directions(minimize, costs), sampler=sampler)
    distributions = {name: dimension.distribution() for name, dimension in space.items()}
    worst = math.inf if minimize else -math.inf
    most = None
    if costs:  # volumes of infinite boxes tell nobody from another
        complete = [each for each in told if each.state == COMPLETE]
        worst = (max if minimize else min)((each.value for each in complete if each.value is not None), default=0.0)
        most = max((each.cost for each in complete if each.cost is not None), default=0.0)
    for each in told:
        if each.state == DIVERGED:
            study.add_trial(frozen(space, distributions, Told(each.params, COMPLETE, worst, cost=most)))
        elif each.state != LOST:
            study.add_trial(frozen(space, distributions, each))
    return study


def directions(minimize: bool, costs: bool) -> list[Literal["minimize", "maximize"]]:
    """Of a study's objectives, in Optuna's words."""
    score: Literal["minimize", "maximize"] = "minimize" if minimize else "maximize"
    return [score, "minimize"] if costs else [score]


def frozen(
    space: Space, distributions: dict[str, Any], told: Told, attributes: Mapping[str, Any] | None = None
) -> FrozenTrial:
    """A trial as Optuna keeps it."""
    import optuna

    return optuna.trial.create_trial(
        state=optuna.trial.TrialState["FAIL" if told.state in (DIVERGED, LOST) else told.state],
        values=None if told.value is None else [told.value, *([] if told.cost is None else [told.cost])],
        params={name: space[name].encoded(value) for name, value in told.params.items()},
        distributions={name: distributions[name] for name in told.params},
        intermediate_values=dict(told.reports),
        user_attrs=dict(attributes or {}),
    )

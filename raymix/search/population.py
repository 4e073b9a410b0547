"""Population-based training: whoever is worst takes the networks of one of the best and goes on with other values.

Some steps of the last phase are generations: `every`, 2 * `every`, ... below the last step. All samples of one
specification on one data set are a population. A member that comes to a generation leaves its state there and waits,
out of its seats, until all others have come; one that ended before (its process failed for good, or all its seeds
diverged) counts as worst. Then each member of the worst `quantile` that is still there copies, seed by seed, networks
and optimisers of a member that is drawn from the best `quantile`, and goes on with other hyperparameters. A member
keeps its name, its seeds and with them its minibatches and noise.

These hyperparameters are the parent's, each of them moved (`explore="perturb"`): drawn anew with probability
`resample`, else multiplied by 0.8 or by 1.2 within its range (a choice moves to the value before or after it). Or they
are chosen anywhere in the ranges (`explore="pb2"`) by a Gaussian process of how much the score grew from one generation
to the next with the values of then (`raymix.search.bandit`); choices are chosen with them, as unordered values. A
child grows from its parent's score. A member that ended, or lost a seed so that its statistic is -inf, has grown as
little as any that is known; one that began so tells nothing. There is no score to grow from before the first
generation, so there, and as long as fewer than `FEWEST` such growths are known, PB2 moves values as PBT does.

What is decided is a function of the members' ranks and values at the generations so far, of the sweep's `search_seed`
and of nothing else: neither of the order in which they came nor of how often the sweep was killed. Ranks are those of
`Halving`. A decision is a line of the run's `generations.jsonl` (`raymix.search.decided`) before anybody hears of it,
and what a member leaves at a generation stays until all who copy from it are two generations further.

Sources: Jaderberg et al., "Population Based Training of Neural Networks" (2017, arXiv 1711.09846), with truncation
selection; Parker-Holder et al. (2020, arXiv 2002.02518) for PB2. That members wait for each other is raymix's. Imports
neither ray nor torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from raymix.search.conditions import conditions_of, in_words
from raymix.search.halving import LOST, STATISTICS, Rank, rank_of
from raymix.search.optuna import Dimension, Space
from raymix.types import UsageError

if TYPE_CHECKING:
    from raymix.ledger import Row
    from raymix.plan import SweepSpec, Trial
    from raymix.search.bandit import Bandit

NAME = "generations.jsonl"
"""The file of a run that holds its decisions."""
FACTORS = (0.8, 1.2)
EXPLORE = {
    "perturb": "its parent's, each moved a little or drawn anew (PBT)",
    "pb2": "those by which the score should grow the most, or of which the least is known, by a Gaussian process (PB2)",
}
"""Which values a member that copies goes on with."""
FEWEST = 4
"""Growths from one generation to the next that have to be known before PB2's Gaussian process is asked."""


@dataclass(frozen=True)
class Population:
    """Train all samples as one population, in which the worst copy the best and explore. See the module."""

    every: int
    """Gradient steps of the last phase between two generations; a multiple of `evaluate_every`."""
    quantile: float = 0.25
    """So large a part of the members copies, and so large a part is copied; rounded up, and at most a half."""
    resample: float = 0.25
    """With this probability a hyperparameter is drawn anew from its range, rather than moved a little. (With "pb2" only
    as long as too little is known.)"""
    statistic: str = "mean"
    """What members are compared by: a key of `raymix.search.halving.STATISTICS`, over the metric of the seeds."""
    explore: str = "perturb"
    """Which values those who copy go on with: a key of `EXPLORE`."""

    def check_values(self) -> None:
        """Raise `UsageError` for values that make no sense. (Not while a sweep's file is read: that is a traceback.)"""
        if type(self.every) is not int or self.every < 1:
            raise UsageError(
                f"every of Population takes a whole number of at least 1, such as 1000, not {self.every!r}"
            )
        for name, low, high, allowed in (
            ("quantile", 1e-9, 0.5, "above 0 to 0.5, such as 0.25"),
            ("resample", 0.0, 1.0, "from 0 to 1, such as 0.25"),
        ):
            value = getattr(self, name)
            if type(value) not in (int, float) or not low <= value <= high:
                raise UsageError(f"{name} of Population takes a number {allowed}, not {value!r}")
        if self.statistic not in list(STATISTICS):
            raise UsageError(f"statistic of Population is one of {', '.join(STATISTICS)}, not {self.statistic!r}")
        if self.explore not in list(EXPLORE):
            raise UsageError(f"explore of Population is one of {', '.join(EXPLORE)}, not {self.explore!r}")

    def check(self, seeds: int, evaluate_every: int, steps: int) -> None:
        """Raise `UsageError` where members with so many seeds and `steps` cannot be compared at the generations."""
        if seeds < (fewest := STATISTICS[self.statistic].fewest_seeds):
            raise UsageError(
                f"statistic {self.statistic!r} of Population needs at least {fewest} seeds, not {seeds}; set"
                f" seeds={fewest} or statistic='mean'"
            )
        if self.every % evaluate_every:
            raise UsageError(
                f"every of Population takes a multiple of evaluate_every ({evaluate_every}), at which there are scores,"
                f" not {self.every}"
            )
        if self.every >= steps:
            raise UsageError(f"every of Population takes fewer than the trials' {steps} steps, not {self.every}")

    def generations(self, steps: int) -> list[int]:
        """The generations of members whose last phase has `steps` gradient steps."""
        return list(range(self.every, steps, self.every))

    def exchanged(self, members: int) -> int:
        """How many of so many members may copy, and how many may be copied."""
        return min(math.ceil(self.quantile * members), members // 2)


@dataclass(frozen=True)
class Copy:
    """What a member does at a generation: whose state it takes, and which values it goes on with."""

    parent: str
    values: dict[str, Any]
    """All searched hyperparameters."""


@dataclass(frozen=True)
class Decision:
    """What becomes of a population at a generation. Plain data, as `generations.jsonl` holds it."""

    population: str
    step: int
    ranked: list[str]
    """All members, the best first; those that had ended come last."""
    copies: dict[str, Copy]
    """By the name of who copies; all others go on as they are."""

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**plain, "copies": {name: Copy(**copy) for name, copy in plain["copies"].items()}})


class Generations:
    """Who of one population has come to which generation, and what was decided there. No clock, no order."""

    def __init__(
        self,
        name: str,
        members: Mapping[str, Mapping[str, Any]],
        population: Population,
        steps: Sequence[int],
        space: Space,
        seed: Sequence[int],
        decided: Iterable[Decision] = (),
    ) -> None:
        """`members` by name, with their first hyperparameters, in the order that decides between equals; `steps` are
        the generations; `seed` are whole numbers that no other population of the sweep has."""
        self.name, self._population, self._steps, self._space = name, population, list(steps), space
        self._seed = list(seed)
        self._position = {member: position for position, member in enumerate(members)}
        self._values = {member: {key: config[key] for key in space} for member, config in members.items()}
        self._ranks: dict[int, dict[str, Rank]] = {step: {} for step in steps}
        self._ended: set[str] = set()
        self._values_since: list[dict[str, dict[str, Any]]] = []
        """What all members went on with, by decision."""
        self.decisions: list[Decision] = []
        for decision in decided:
            self._take(decision)

    def reach(self, member: str, step: int, found: Rank) -> None:
        """A member has come to a step, with this rank there; the first word at a generation counts."""
        if step in self._ranks:
            self._ranks[step].setdefault(member, found)

    def end(self, member: str) -> None:
        """A member comes no further."""
        self._ended.add(member)

    def go_on(self, member: str) -> None:
        """A member that had ended is tried again."""
        self._ended.discard(member)

    def may_go_on(self, member: str) -> bool:
        """Whether the last generation that a member has reached is decided (before the first: yes)."""
        reached = [step for step, ranks in self._ranks.items() if member in ranks]
        return not reached or reached[-1] in {decision.step for decision in self.decisions}

    def decide(self) -> list[Decision]:
        """What can be decided now and was not before."""
        new = []
        while (decision := self._next()) is not None:
            self._take(decision)
            new.append(decision)
        return new

    def no_longer_needed(self) -> list[int]:
        """Generations at which no member takes a state any more: who copied there is two generations further."""
        over = []
        for decision, later in zip(self.decisions, self._steps[2:]):
            if decision.copies.keys() <= self._ranks[later].keys():
                over.append(decision.step)
        return over

    def _take(self, decision: Decision) -> None:
        self.decisions.append(decision)
        for member, copy in decision.copies.items():
            self._values[member] = dict(copy.values)
        self._values_since.append(dict(self._values))

    def _next(self) -> Decision | None:
        if len(self.decisions) == len(self._steps):
            return None
        step = self._steps[len(self.decisions)]
        ranks, members = self._ranks[step], list(self._position)
        if not ranks or any(member not in ranks and member not in self._ended for member in members):
            return None
        # Sorting is stable, so equals stay in the plan's order.
        ranked = sorted(members, key=lambda member: ranks.get(member, LOST), reverse=True)
        number = self._population.exchanged(len(members))
        best = [member for member in ranked[:number] if member in ranks]
        worst = [member for member in ranked[len(ranked) - number :] if member in ranks]
        copies: dict[str, Copy] = {}
        bandit = self._bandit([member for member in ranks if member not in worst])
        for member in sorted(worst, key=self._position.__getitem__):
            random = np.random.default_rng([*self._seed, step, self._position[member]])
            parent = best[random.integers(len(best))]
            before = self._values[parent]
            if bandit is None:
                found = {name: self._moved(each, before[name], random) for name, each in self._space.items()}
            else:
                found = bandit.choose(score := ranks[parent][0], random)
                bandit.add(score, found)
            copies[member] = Copy(parent, {name: type(before[name])(value) for name, value in found.items()})
        return Decision(self.name, step, ranked, copies)

    def _moved(self, dimension: Dimension, value: Any, random: np.random.Generator) -> Any:
        # Both are drawn always: what one hyperparameter does moves no other's draws.
        anew, share, up = random.random() < self._population.resample, random.random(), random.random() < 0.5
        return dimension.at(share) if anew else moved(dimension, value, up)

    def _bandit(self, stay: Iterable[str]) -> Bandit | None:
        """What chooses values at the next generation, at which these members go on as they are; None: too little is
        known, or nobody asks."""
        if self._population.explore != "pb2":
            return None
        from raymix.search.bandit import Bandit, Observation

        observations = []
        for time, (decision, after) in enumerate(zip(self.decisions, self._steps[1:])):
            for member in self._position:
                copy = decision.copies.get(member)
                score = self._ranks[decision.step].get(copy.parent if copy else member, LOST)[0]
                growth = self._ranks[after].get(member, LOST)[0] - score
                if math.isfinite(score):
                    observations.append(Observation(time, score, self._values_since[time][member], growth))
        if sum(math.isfinite(each.growth) for each in observations) < FEWEST:
            return None
        time = len(self.decisions)
        bandit = Bandit(self._space, observations, time)
        for member in sorted(stay, key=self._position.__getitem__):
            bandit.add(self._ranks[self._steps[time]][member][0], self._values[member])
        return bandit


def moved(dimension: Dimension, value: Any, up: bool) -> Any:
    """A value a little above or below another one, within the range; whole numbers move by one at least."""
    if dimension.kind == "choice":
        place = dimension.values.index(value) + (1 if up else -1)
        return dimension.values[min(max(place, 0), len(dimension.values) - 1)]
    found = min(max(value * FACTORS[up], dimension.low), dimension.high)
    step = dimension.step
    if step is None:
        return min(max(float(f"{found:.5g}"), dimension.low), dimension.high)
    number, before = (round((each - dimension.low) / step) for each in (found, value))
    if number == before:
        number += 1 if up else -1
    # The range need not be a multiple of the step.
    return dimension.low + min(max(number, 0), int(dimension.size) - 1) * step


def standing(decisions: Iterable[Decision], member: str, step: int) -> tuple[Copy, int] | None:
    """What a member that has trained to a step goes on with, and since which generation; None: as it began."""
    found = [decision for decision in decisions if decision.step <= step and member in decision.copies]
    last = max(found, key=lambda decision: decision.step, default=None)
    return (last.copies[member], last.step) if last else None


# What a plan says


def check_population(spec: SweepSpec) -> Space:
    """What the members of a specification's populations search.

    Raises:
        UsageError: they cannot be populations.
    """
    from raymix.algorithms import base
    from raymix.config import kind_of

    algorithm = base.find(spec.algorithm)
    fields = {field.name: field for field in dataclasses.fields(algorithm.Config)}
    if spec.samples < 2:
        raise UsageError(
            f"a population needs at least 2 members, and 8 or more to learn much: set samples=8, not {spec.samples}"
        )
    if not spec.search:
        raise UsageError(
            "a population has nothing to explore: give search a range or a choice, such as"
            " {'beta': tune.loguniform(0.1, 10)}, or leave out the scheduler"
        )
    if conditions := conditions_of(spec.search):
        name, own = next(iter(conditions.items()))
        raise UsageError(
            f"a population moves every searched value of every member, so {name!r} cannot be searched only where"
            f" {in_words(own)}: give each of these cases a specification of its own, or search it without when"
        )
    space: Space = {}
    for name, domain in spec.search.items():
        if isinstance(domain, Mapping):
            raise UsageError(
                f"a population moves every searched value, so it has no grid of {name!r}: search it with tune.choice,"
                " or give each value a specification of its own with that value in settings"
            )
        kind = kind_of(fields[name]) if name in fields else "scalar"  # an unknown name is refused with the known ones
        if kind == "structure":
            raise UsageError(
                f"a population exchanges states of networks of one shape, which {name} changes: put it into settings,"
                " and give each value a specification of its own"
            )
        if kind == "schedule":
            raise UsageError(
                f"a population meets at the same steps, which {name} changes: put it into settings or leave it out"
            )
        try:
            space[name] = Dimension.of(name, domain)
        except UsageError as problem:
            raise UsageError(
                f"a population cannot move {name!r} in a {type(domain).__name__} of that kind: search it with"
                " tune.uniform, loguniform, quniform, randint, lograndint, qrandint or choice, with two finite ends"
            ) from problem
        step = space[name].step
        whole = name in fields and type(fields[name].default) is int
        if whole and space[name].kind == "float" and (step is None or step % 1):
            raise UsageError(
                f"{name} takes whole numbers, which a range of fractions has not; search it with tune.randint or"
                " tune.lograndint"
            )
    fixed = {**spec.settings, **({"steps": spec.steps} if spec.steps is not None else {})}
    first = {name: dimension.ends()[0] for name, dimension in space.items()}
    for name, dimension in space.items():
        for value in dimension.ends():
            algorithm.configure({**fixed, **first, name: value}, spec.preset)
    return space


def check_members(population: Population, trials: Sequence[Trial], seeds: int) -> None:
    """Raise `UsageError` where a population of the trials has one member, or cannot meet."""
    from raymix.algorithms import base

    for name, number in Counter(trial.population for trial in trials).items():
        if number < 2:
            raise UsageError(
                f"all samples on {name.partition('/')[2]} are alike or another specification's, so that a population"
                " has one member; search wider ranges, or another search_seed"
            )
    for trial in trials:
        population.check(seeds, trial.evaluate_every, trial.config[base.find(trial.algorithm).phases[-1].steps])


def name_of(number: int, dataset: str) -> str:
    """The population of the specification with this number on a data set."""
    return f"{number}/{dataset}"


def described_populations(specs: Sequence[SweepSpec], trials: Sequence[Trial]) -> dict[str, Any]:
    """What `sweep.json` says of each population, by name."""
    found = {}
    for number, name in enumerate(dict.fromkeys(trial.population for trial in trials)):
        spec = specs[int(name.partition("/")[0])]
        space = {key: dataclasses.asdict(dimension) for key, dimension in check_population(spec).items()}
        found[name] = {"space": space, "seed": [spec.search_seed, number]}
    return found


def generations_of(plan: Mapping[str, Any], trial: Mapping[str, Any]) -> list[int]:
    """The generations of one of a plan's trials; none where it belongs to no population."""
    stated = plan.get("population")  # runs from before there was one
    if not stated:
        return []
    return Population(**stated).generations(trial["config"][plan["phases"][trial["algorithm"]][-1][1]])


def populations_of(
    plan: dict[str, Any], rows: Iterable[Row], decided: Sequence[Mapping[str, Any]]
) -> dict[str, Generations]:
    """All populations by name, as the ledger's rows and the decisions have it; empty where there are none."""
    if not plan.get("population"):
        return {}
    decisions = [Decision.of(each) for each in decided]
    found = {}
    for name, stated in plan["populations"].items():
        members = {trial["config_id"]: trial for trial in plan["trials"] if trial["population"] == name}
        found[name] = Generations(
            name,
            {member: trial["config"] for member, trial in members.items()},
            Population(**plan["population"]),
            generations_of(plan, next(iter(members.values()))),
            {key: Dimension(**each) for key, each in stated["space"].items()},
            stated["seed"],
            [decision for decision in decisions if decision.population == name],
        )
    planned = {trial["config_id"]: trial for trial in plan["trials"]}
    reports: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in rows:
        if row.config_id in planned:
            reports[row.config_id, row.phase, row.step].append(row)
    for (config_id, phase, step), own in reports.items():
        if {row.seed for row in own} < set(plan["seeds"]):
            continue
        trial = planned[config_id]
        if all(row.diverged for row in own):
            found[trial["population"]].end(config_id)
        elif phase == plan["phases"][trial["algorithm"]][-1][0]:
            found[trial["population"]].reach(config_id, step, rank_of(plan, own))
    return found

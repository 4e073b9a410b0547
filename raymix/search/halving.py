"""Early stopping by successive halving, with decisions that do not depend on the order in which results arrive.

Some steps of the last phase are rungs: `first`, `first * reduction`, `first * reduction ** 2`, ... below the last step.
All trials on one data set climb one ladder; those that a searcher decides one by one, in cohorts: a study's first
`cohort` trials one ladder, the next ones another, so that nobody waits for trials of a distant future, and who is
compared with whom does not depend on who was fast. Of the n trials at a rung the best n / `reduction` (rounded up) go
on, and the others are stopped. A trial that arrives waits, out of its seats, until no result that is still to come can
change what happens to it:

- it is stopped once as many have beaten it as may go on;
- it goes on once it has beaten as many as are to be stopped;
- a trial that ended before a rung (its process failed, or all its seeds diverged) has lost there against all others.

So the survivors are the best ones, as if everybody had arrived at once, while clear cases are decided early. (Tune's
ASHA compares a trial with those that came before it: the same 48 scores stop 0 trials from worst to best and 47 from
best to worst.) Nobody waits for ever: the missing are running, or will be, since those who wait hold no seats.

Trials are compared by a statistic over their seeds, in which a diverged seed is worse than any other; of equal trials
the one with more live seeds is better, then the one whose live seeds are, then the one that the plan lists first.

Seeds may be added on promotion (`Halving.seeds`): a trial then begins with its first seeds, and others of its seeds
begin when it has passed a rung. At a rung it is compared by the seeds that are due there, once all of them have come;
those that began later have trained as far by then as the first ones. A seed that diverged before has come, and all of
a trial's seeds have diverged if all that are due have.

The ladder is a function of the ledger, so a resumed sweep has it back by reading. There alone one rule more counts: a
trial that has trained beyond a rung stays past it, since it may have gone on because another had failed that is now
tried again.

Source: Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization" (2016), with
one bracket; early decisions are raymix's. Imports neither ray nor torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from raymix.types import UsageError

if TYPE_CHECKING:
    from raymix.ledger import Row

GO, STOP, WAIT = "go", "stop", "wait"


def _mean(scores: list[float]) -> float:
    return math.fsum(scores) / len(scores)


def _iqm(scores: list[float]) -> float:
    from raymix.report.statistics import interquartile_mean

    return interquartile_mean(scores)


def _lower_bound(scores: list[float]) -> float:
    from raymix.report.statistics import interval

    bounds = interval(scores) if all(map(math.isfinite, scores)) else None
    return bounds[0] if bounds else -math.inf


@dataclass(frozen=True)
class _Statistic:
    of: Callable[[list[float]], float]
    fewest_seeds: int


STATISTICS = {
    "mean": _Statistic(_mean, 1),
    "iqm": _Statistic(_iqm, 4),
    "min": _Statistic(min, 1),
    "lower_bound": _Statistic(_lower_bound, 3),
}
"""Over a trial's seeds: the mean, the mean of the middle half, the worst seed, the lower end of the mean's 95 %
interval; and for how many seeds they first differ from the mean, or exist."""


@dataclass(frozen=True)
class Halving:
    """Stop the worst trials early: of those that reach a rung, the best 1 / `reduction` go on. See the module."""

    first: int
    """Gradient steps of the last phase at the first rung; a multiple of `evaluate_every`."""
    reduction: int = 3
    """Each rung lets one in so many past, and lies so many times as far as the one before."""
    statistic: str = "mean"
    """What trials are compared by: a key of `STATISTICS`, over the metric of the seeds."""
    seeds: tuple[int, ...] | None = None
    """How many of the sweep's seeds train up to each rung, such as (1, 2): one up to the first rung, two up to the
    second; beyond the last rung all do. A seed that is added trains from step 0. None: all train from the beginning."""

    def __post_init__(self) -> None:
        if isinstance(self.seeds, list):  # of JSON
            object.__setattr__(self, "seeds", tuple(self.seeds))

    def check_values(self) -> None:
        """Raise `UsageError` for values that make no sense. (Not while a sweep's file is read: that is a traceback.)"""
        for name, low, example in (("first", 1, 1_000), ("reduction", 2, 3)):
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise UsageError(
                    f"{name} of Halving takes a whole number of at least {low}, such as {example}, not {value!r}"
                )
        if self.statistic not in list(STATISTICS):
            raise UsageError(f"statistic of Halving is one of {', '.join(STATISTICS)}, not {self.statistic!r}")
        if self.seeds is None:
            return
        given: Any = self.seeds
        numbers = given if isinstance(given, tuple) else ()
        if not numbers or not all(type(n) is int and n >= 1 for n in numbers) or list(numbers) != sorted(numbers):
            raise UsageError(
                "seeds of Halving takes a whole number of at least 1 for each rung, none smaller than the one before,"
                f" such as (1, 2), or None, not {given!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; those that say nothing are left out."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def seeds_in_words(self, seeds: int) -> str:
        """How many of so many seeds a trial trains."""
        return str(seeds) if self.seeds is None or self.seeds[0] == seeds else f"{self.seeds[0]} to {seeds}"

    def check(self, seeds: int, evaluate_every: int, steps: int) -> None:
        """Raise `UsageError` where trials of `steps` with so many seeds cannot be compared at the rungs."""
        fewest = STATISTICS[self.statistic].fewest_seeds
        if self.seeds is None and seeds < fewest:
            raise UsageError(
                f"statistic {self.statistic!r} of Halving needs at least {fewest} seeds, not {seeds}; set"
                f" seeds={fewest} or statistic='mean'"
            )
        if self.first % evaluate_every:
            raise UsageError(
                f"first of Halving takes a multiple of evaluate_every ({evaluate_every}), at which there are scores,"
                f" not {self.first}"
            )
        if self.first >= steps:
            raise UsageError(f"first of Halving takes fewer than the trial's {steps} steps, not {self.first}")
        if self.seeds is None:
            return
        rungs = self.rungs(steps)
        if len(self.seeds) != len(rungs):
            raise UsageError(
                f"seeds of Halving takes one number for each of the {len(rungs)} rungs of {steps} steps"
                f" ({', '.join(map(str, rungs))}), not {self.seeds!r}"
            )
        if self.seeds[-1] > seeds:
            raise UsageError(
                f"seeds of Halving takes at most the sweep's number of seeds, {seeds}, for a rung, not {self.seeds!r};"
                " give the sweep more seeds or the rungs fewer"
            )
        if self.seeds[0] < fewest:
            raise UsageError(
                f"statistic {self.statistic!r} of Halving needs at least {fewest} seeds at every rung, not"
                f" {self.seeds[0]} at the first; begin with {fewest} instead of seeds={self.seeds!r}, or set"
                " statistic='mean'"
            )

    def rungs(self, steps: int) -> list[int]:
        """The rungs of trials whose last phase has `steps` gradient steps."""
        found = [self.first]
        while found[-1] * self.reduction < steps:
            found.append(found[-1] * self.reduction)
        return found


Rank = tuple[float, int, float]
"""Sorts trials at a rung, better ones higher: the statistic, the live seeds, the statistic over those."""


def rank(scores: Sequence[float], statistic: str) -> Rank:
    """Of a trial whose seeds have these scores, more being better; those that are not finite are of diverged seeds."""
    live = [score for score in scores if math.isfinite(score)]
    of = STATISTICS[statistic].of
    all_scores = [score if math.isfinite(score) else -math.inf for score in scores]
    return of(all_scores), len(live), of(live) if live else -math.inf


LOST: Rank = (-math.inf, -1, -math.inf)
"""Of a trial that ended before the rung."""


class Ladder:
    """Who stands where on the rungs of one data set, and what becomes of them. Plain data, no clock, no chance."""

    def __init__(self, trials: Sequence[str], rungs: Sequence[int], reduction: int, size: int | None = None) -> None:
        """`trials` by name, in the order that decides between equals; `size` is how many there will be, if more."""
        self._position = {trial: position for position, trial in enumerate(trials)}
        self._rungs = list(rungs)
        self._sizes = [len(trials) if size is None else size]
        """How many come to each rung, and past the last one."""
        for _ in rungs:
            self._sizes.append(math.ceil(self._sizes[-1] / reduction))
        self._ranks: list[dict[str, Rank]] = [{} for _ in rungs]
        self._steps = dict.fromkeys(trials, 0)
        self._ended: set[str] = set()
        self._standings: dict[str, str] | None = None
        self._passed: dict[str, int] = {}
        """How many rungs each trial has passed, as of the standings."""

    @property
    def rungs(self) -> list[int]:
        """Steps, in order."""
        return list(self._rungs)

    def enter(self, trial: str) -> None:
        """A trial that was not known before, after all others."""
        if trial not in self._position:
            self._position[trial] = len(self._position)
            self._steps[trial] = 0
            self._standings = None

    def reach(self, trial: str, step: int, found: Rank) -> None:
        """A trial has come to a step, with this rank there; the first word at a rung counts."""
        self._steps[trial] = max(step, self._steps[trial])
        if step in self._rungs:
            self._ranks[self._rungs.index(step)].setdefault(trial, found)
        self._standings = None

    def let_past(self, trial: str, step: int) -> None:
        """Some of a trial's seeds have come to a step: it stays past the rungs before it."""
        if step <= self._steps[trial]:
            return
        self._steps[trial] = max(step, self._steps[trial])
        self._standings = None

    def end(self, trial: str) -> None:
        """A trial comes no further."""
        self._ended.add(trial)
        self._standings = None

    def go_on(self, trial: str) -> None:
        """A trial that had ended is tried again."""
        self._ended.discard(trial)
        self._standings = None

    def standing(self, trial: str) -> str:
        """GO, STOP or WAIT: what becomes of a trial at the last rung that it has reached (before the first: GO)."""
        if self._standings is None:
            self._standings = self._decide()
        return self._standings[trial]

    def standing_at(self, trial: str, rung: int) -> str:
        """GO, STOP or WAIT: what becomes at a rung of those of a trial's seeds that are there, which may be before the
        trial has reached it with all that are due."""
        standing = self.standing(trial)
        if self._passed[trial] > self._rungs.index(rung):
            return GO
        return STOP if standing == STOP or trial in self._ended else WAIT

    def stopped(self) -> list[str]:
        """Those that are not to go on beyond a rung which they have reached."""
        return [trial for trial in self._position if self.standing(trial) == STOP]

    def _decide(self) -> dict[str, str]:
        standings = dict.fromkeys(self._position, GO)
        self._passed = dict.fromkeys(self._position, 0)
        entered = list(self._position)
        for rung, ranks, size, kept in zip(self._rungs, self._ranks, self._sizes, self._sizes[1:]):
            here = [trial for trial in entered if trial in ranks or trial in self._ended]
            past = {trial for trial in here if self._steps[trial] > rung}
            # The best first; sorting is stable, so equals stay in the plan's order.
            here.sort(key=lambda trial: (trial in past, ranks.get(trial, LOST)), reverse=True)
            verdicts = {}
            for beaten_by, trial in enumerate(here):
                has_beaten = len(here) - 1 - beaten_by
                if trial in past or has_beaten >= size - kept:
                    verdicts[trial] = GO
                else:
                    verdicts[trial] = STOP if beaten_by >= kept else WAIT
            standings |= {trial: verdict for trial, verdict in verdicts.items() if trial in ranks}
            entered = [trial for trial in entered if verdicts.get(trial) == GO]
            self._passed |= {trial: self._passed[trial] + 1 for trial in entered if trial in ranks}
        return standings


def halving_of(plan: dict[str, Any]) -> Halving | None:
    """What a run's `sweep.json` says of early stopping."""
    found = plan.get("scheduler")  # runs from before there was one
    return Halving(**found) if found else None


def adds_seeds(plan: Mapping[str, Any]) -> bool:
    """Whether a run adds seeds to the trials that it promotes."""
    return bool((plan.get("scheduler") or {}).get("seeds"))


def rungs_of(plan: dict[str, Any], trial: dict[str, Any]) -> list[int]:
    """The rungs of one of a plan's trials; none without early stopping."""
    halving = halving_of(plan)
    steps = plan["phases"][trial["algorithm"]][-1][1]
    return halving.rungs(trial["config"][steps]) if halving else []


class Part(NamedTuple):
    """Those of a trial's seeds that begin together."""

    seeds: list[int]
    gate: int
    """The rung that the trial has to pass before they begin; 0: they begin at once."""
    rungs: list[int]
    """At which they have to be told whether to go on."""


def parts_of(plan: dict[str, Any], trial: dict[str, Any]) -> list[Part]:
    """The seeds of one of a plan's trials in the order in which they begin; one part if no seeds are added."""
    halving, rungs, seeds = halving_of(plan), rungs_of(plan, trial), list(plan["seeds"])
    if halving is None or halving.seeds is None:
        return [Part(seeds, 0, rungs)]
    parts, before = [], 0
    for index, number in enumerate([*halving.seeds, len(seeds)]):
        if number > before:
            parts.append(Part(seeds[before:number], rungs[index - 1] if index else 0, rungs[index:]))
        before = number
    return parts


def rank_at(plan: dict[str, Any], trial: dict[str, Any], rung: int, rows: Iterable[Row]) -> Rank | None:
    """The rank at a rung of one of a plan's trials, by its rows, over the seeds that are due there.

    None while not all of these have come; LOST if all of them have diverged.
    """
    due = [seed for part in parts_of(plan, trial) if part.gate < rung for seed in part.seeds]
    phase = plan["phases"][trial["algorithm"]][-1][0]
    here: dict[int, Row | None] = {}
    for row in rows:
        if row.diverged and (row.phase != phase or row.step <= rung):
            here[row.seed] = None  # it may have ended there
        elif (row.phase, row.step) == (phase, rung):
            here.setdefault(row.seed, row)
    if not here.keys() >= set(due):
        return None
    found = [here[seed] for seed in due]
    return rank_of(plan, found) if any(row is not None for row in found) else LOST


def rank_of(plan: dict[str, Any], rows: Iterable[Row | None]) -> Rank:
    """The rank of a trial by its rows at one step, None being that of a seed that diverged before.

    Raises:
        UsageError: they lack the metric.
    """
    from raymix.report import HELD_OUT
    from raymix.report.evaluations import mean_score

    metric = plan["metric"]
    scores: list[float] = []
    for row in rows:
        if row is None or row.diverged:
            scores.append(math.nan)
            continue
        score = mean_score(row, metric)
        if score is None:
            known = ", ".join(sorted(name for name in row.metrics if name.startswith(HELD_OUT))) or "none held out"
            raise UsageError(f"{row.algorithm} reports no {metric} to compare trials by; it reports {known}")
        scores.append(-score if metric.startswith(HELD_OUT) else score)
    return rank(scores, (plan.get("population") or plan["scheduler"])["statistic"])


def cohort_of(plan: dict[str, Any], trial: dict[str, Any]) -> str:
    """The name of those with whom a trial is compared: its data set, or its cohort of its study."""
    if not plan.get("searcher"):
        return trial["dataset"]
    return f"{trial['study']}/{trial['number'] // _cohort_size(plan, trial)}"


def _cohort_size(plan: dict[str, Any], trial: dict[str, Any]) -> int:
    """How many trials of a study climb one ladder: as many as leave one at the last rung, if the searcher says nothing.

    (`trial` may be a study.)
    """
    halving = halving_of(plan)
    return plan["searcher"]["cohort"] or (halving.reduction ** len(rungs_of(plan, trial)) if halving else 1)


def ladders_of(plan: dict[str, Any], rows: Iterable[Row]) -> dict[str, Ladder]:
    """All ladders by the names of those who climb them (`cohort_of`), as the ledger's rows have it; empty without early
    stopping."""
    halving = halving_of(plan)
    if halving is None:
        return {}
    ladders: dict[str, Ladder] = {}
    for index, study in enumerate(plan.get("studies", ())):
        size = _cohort_size(plan, study)
        for first in range(0, study["trials"], size):
            name = cohort_of(plan, {**study, "study": index, "number": first})
            comers = min(size, study["trials"] - first)
            ladders[name] = Ladder([], rungs_of(plan, study), halving.reduction, comers)
    if not plan.get("searcher"):
        for dataset in plan["dataset_hashes"]:
            trials = [trial for trial in plan["trials"] if trial["dataset"] == dataset]
            ladders[dataset] = Ladder([], rungs_of(plan, trials[0]), halving.reduction, len(trials))
    for trial in plan["trials"]:
        ladders[cohort_of(plan, trial)].enter(trial["config_id"])
    planned = {trial["config_id"]: trial for trial in plan["trials"]}
    if halving.seeds is not None:
        of_trials: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            of_trials[row.config_id].append(row)
        for config_id, trial in planned.items():
            _climb(plan, trial, ladders[cohort_of(plan, trial)], of_trials[config_id])
        return ladders
    reports: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in rows:
        if row.config_id in planned:
            reports[row.config_id, row.phase, row.step].append(row)
    for (config_id, phase, step), found in reports.items():
        if {row.seed for row in found} < set(plan["seeds"]):
            continue
        trial, ladder = planned[config_id], ladders[cohort_of(plan, planned[config_id])]
        if phase == plan["phases"][trial["algorithm"]][-1][0]:
            ladder.reach(config_id, step, rank_of(plan, found))
        if all(row.diverged for row in found):
            ladder.end(config_id)
    return ladders


def _climb(plan: dict[str, Any], trial: dict[str, Any], ladder: Ladder, rows: Sequence[Row]) -> None:
    """Put a trial whose seeds begin one after another where its rows have it."""
    name, phase = trial["config_id"], plan["phases"][trial["algorithm"]][-1][0]
    begun = {row.seed for row in rows}
    # Whoever has trained beyond a rung, or with seeds that had to wait for it, was let past it.
    beyond = [part.gate + 1 for part in parts_of(plan, trial) if part.gate and begun & set(part.seeds)]
    for rung in ladder.rungs:
        found = rank_at(plan, trial, rung, rows)
        if found == LOST:
            ladder.end(name)
        if found is None or found == LOST:
            break
        ladder.reach(name, rung, found)
    ladder.let_past(name, max([*beyond, *(row.step for row in rows if row.phase == phase)], default=0))


def stopped_trials(plan: dict[str, Any], rows: Iterable[Row]) -> Collection[str]:
    """Configuration ids of the trials that were stopped early, or would be now."""
    return {trial for ladder in ladders_of(plan, rows).values() for trial in ladder.stopped()}

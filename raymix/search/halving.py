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

The ladder is a function of the ledger, so a resumed sweep has it back by reading. There alone one rule more counts: a
trial that has trained beyond a rung stays past it, since it may have gone on because another had failed that is now
tried again.

Source: Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization" (2016), with
one bracket; early decisions are raymix's. Imports neither ray nor torch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    """Stop the worst trials early: of those that reach a rung, the best 1 / `reduction` go on. See the module.

    Raises:
        UsageError: a value makes no sense.
    """

    first: int
    """Gradient steps of the last phase at the first rung; a multiple of `evaluate_every`."""
    reduction: int = 3
    """Each rung lets one in so many past, and lies so many times as far as the one before."""
    statistic: str = "mean"
    """What trials are compared by: a key of `STATISTICS`, over the metric of the seeds."""

    def __post_init__(self) -> None:
        for name, low, example in (("first", 1, 1_000), ("reduction", 2, 3)):
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise UsageError(
                    f"{name} of Halving takes a whole number of at least {low}, such as {example}, not {value!r}"
                )
        if self.statistic not in list(STATISTICS):
            raise UsageError(f"statistic of Halving is one of {', '.join(STATISTICS)}, not {self.statistic!r}")

    def check(self, seeds: int, evaluate_every: int, steps: int) -> None:
        """Raise `UsageError` where trials of `steps` with so many seeds cannot be compared at the rungs."""
        if seeds < (fewest := STATISTICS[self.statistic].fewest_seeds):
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

    def stopped(self) -> list[str]:
        """Those that are not to go on beyond a rung which they have reached."""
        return [trial for trial in self._position if self.standing(trial) == STOP]

    def _decide(self) -> dict[str, str]:
        standings = dict.fromkeys(self._position, GO)
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
        return standings


def halving_of(plan: dict[str, Any]) -> Halving | None:
    """What a run's `sweep.json` says of early stopping."""
    found = plan.get("scheduler")  # runs from before there was one
    return Halving(**found) if found else None


def rungs_of(plan: dict[str, Any], trial: dict[str, Any]) -> list[int]:
    """The rungs of one of a plan's trials; none without early stopping."""
    halving = halving_of(plan)
    steps = plan["phases"][trial["algorithm"]][-1][1]
    return halving.rungs(trial["config"][steps]) if halving else []


def rank_of(plan: dict[str, Any], rows: Iterable[Row]) -> Rank:
    """The rank of a trial by its rows at one step.

    Raises:
        UsageError: they lack the metric.
    """
    from raymix.report import HELD_OUT
    from raymix.report.evaluations import mean_score

    metric, scores = plan["metric"], []
    for row in rows:
        score = math.nan if row.diverged else mean_score(row, metric)
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


def stopped_trials(plan: dict[str, Any], rows: Iterable[Row]) -> Collection[str]:
    """Configuration ids of the trials that were stopped early, or would be now."""
    return {trial for ladder in ladders_of(plan, rows).values() for trial in ladder.stopped()}

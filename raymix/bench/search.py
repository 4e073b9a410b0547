"""`raymix bench search`: searchers and schedulers on a response surface whose best point is known; trains nothing.

The decisions are those of the real code (`raymix.search.optuna.suggest`, `StudySearcher`, `HalvingScheduler`, and
Tune's own `AsyncHyperBandScheduler` beside it), asked as Tune's controller asks them. Only the trials are simulated:
workers that report a chunk of training per tick, all at once, in an order that is given.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raymix.report.statistics import summarize
from raymix.search.halving import STOP, Ladder, rank
from raymix.search.optuna import COMPLETE, PRUNED, RUNNING, Dimension, Space, Told, suggest
from raymix.search.scheduler import HalvingScheduler
from raymix.search.searcher import StudySearcher

SCHEDULERS = {
    "none": "every trial is trained to the end",
    "halving": "raymix's, order-free",
    "asha": "Tune's AsyncHyperBandScheduler, one bracket",
}
ORDERS = {
    "best first": "better configurations start earlier, and report first of those that report at once",
    "worst first": "the reverse",
    "shuffled": "by chance",
}
SAMPLED = ("random", "qmc", "tpe", "gp")
"""Samplers in the order of the table."""
SEEDS = 3
CHUNK, CHUNKS = 100, 27
"""Steps between reports, and reports of a whole trial."""
REDUCTION = 3
RUNGS = (1, 3, 9)
"""In chunks; Tune's ASHA makes the same ones of grace_period=1, reduction_factor=3, max_t=27."""
COHORT = 27
"""Trials that climb one of Halving's ladders, and configurations of the comparison by order."""
WHOLE = CHUNK * CHUNKS * SEEDS
"""Agent-steps of a trial that is trained to the end."""
BEST = {"beta": 2.0, "learning_rate": 1e-3, "num_components": 10}
"""Where the surface has its maximum, 100."""
_COMPONENTS = {1: 2.0, 5: 0.5, 10: 0.0, 15: 0.2, 20: 0.6}
"""Squared distances of the choices from the best one."""


def space() -> Space:
    """Two numbers over decades, whose effects depend on each other, and a choice."""
    domains = {
        "beta": tune.loguniform(0.05, 20.0),
        "learning_rate": tune.loguniform(1e-5, 1e-2),
        "num_components": tune.choice(list(_COMPONENTS)),
    }
    return {name: Dimension.of(name, domain) for name, domain in domains.items()}


def final_score(params: Mapping[str, Any]) -> float:
    """What a configuration is worth: its expected score at the last step, 0 to 100."""
    x, y = (
        math.log(params["beta"] / BEST["beta"]) / 1.5,
        math.log(params["learning_rate"] / BEST["learning_rate"]) / 1.5,
    )
    return 100.0 * math.exp(-0.5 * (x * x + y * y + x * y + _COMPONENTS[params["num_components"]]))


@dataclass(frozen=True)
class Curves:
    """How scores come about on the way there."""

    crossing: bool = True
    """Whether low learning rates learn more slowly, so that early scores mislead; else all learn at one pace."""
    seed_noise: float = 5.0
    """Standard deviation of a seed's scores from the expected ones, the same at all steps."""
    report_noise: float = 3.0
    """Of each report besides."""

    def scores(self, params: Mapping[str, Any], seed: Sequence[int]) -> np.ndarray:
        """The mean score over `SEEDS` seeds at each report, (CHUNKS,); `seed` names the trial."""
        steps = CHUNK * np.arange(1, CHUNKS + 1)
        pace = 400.0 * (math.sqrt(BEST["learning_rate"] / params["learning_rate"]) if self.crossing else 1.0)
        expected = final_score(params) * np.expm1(-steps / pace) / np.expm1(-steps[-1] / pace)
        chance = np.random.default_rng(list(seed))
        of_seeds = self.seed_noise * chance.normal(size=(SEEDS, 1))
        return expected + np.mean(of_seeds + self.report_noise * chance.normal(size=(SEEDS, CHUNKS)), axis=0)


class _Studies:
    """One study in memory, as `StudySearcher` asks it (`raymix.search.searcher.Studies` without a run's files)."""

    def __init__(self, sampler: str | None, seed: int, ladders: dict[str, Ladder]) -> None:
        """`sampler` None: decides nothing."""
        self._space, self._sampler, self._seed, self._ladders = space(), sampler, seed, ladders
        self.told: list[Told] = []
        self.reports: dict[str, dict[int, float]] = {}
        """Scores by step, by trial."""

    def next(self) -> dict[str, Any] | None:
        if self._sampler is None:
            return None
        number = len(self.told)
        for each in range(number):
            if self.standing({"config_id": str(each)}) == STOP:
                self.over(str(each))
        params = suggest(self._space, self._sampler, False, self.told, [self._seed, 0], number)
        return self.enter(params)

    def enter(self, params: dict[str, Any]) -> dict[str, Any]:
        """The next trial, with these hyperparameters."""
        number = len(self.told)
        self.told.append(Told(params, RUNNING))
        self.reports[str(number)] = {}
        return {"config_id": str(number), "params": params}

    def over(self, config_id: str) -> None:
        number, reports = int(config_id), self.reports[config_id]
        params, last = self.told[number].params, CHUNK * CHUNKS
        if last in reports:
            self.told[number] = Told(params, COMPLETE, reports[last], dict(reports))
        else:
            self.told[number] = Told(params, PRUNED, None, dict(reports))

    def standing(self, trial: dict[str, Any]) -> str | None:
        ladder = self._ladders.get(cohort_of(trial["config_id"]))
        return ladder.standing(trial["config_id"]) if ladder else None


def cohort_of(config_id: str) -> str:
    """The name of the ladder that a trial climbs."""
    return str(int(config_id) // COHORT)


class Simulation:
    """Workers that train what a searcher and a scheduler decide, until a budget of agent-steps is spent.

    It is to the two what Tune's controller is: it calls the same names, in the same order.
    """

    def __init__(
        self,
        sampler: str | None,
        scheduler: str,
        seed: int,
        workers: int,
        curves: Curves | None = None,
        order: str = "shuffled",
        first: Sequence[dict[str, Any]] = (),
    ) -> None:
        """`first` are hyperparameters of trials that come before those which the sampler (None: no others) decides."""
        self._seed, self._workers, self._curves, self._order = seed, workers, curves or Curves(), order
        self._chance = np.random.default_rng([seed, 1])
        self._ladders: dict[str, Ladder] = {}
        self._studies = _Studies(sampler, seed, self._ladders if scheduler == "halving" else {})
        unfinished = [self._studies.enter(params) for params in first]
        self._searcher = StudySearcher(self._studies, unfinished, self._config_of, workers)  # type: ignore[arg-type]
        self._scheduler: TrialScheduler = FIFOScheduler()
        if scheduler == "halving":
            self._scheduler = HalvingScheduler(self._ladders, self._rank_at, workers)  # type: ignore[arg-type]
        elif scheduler == "asha":
            self._scheduler = AsyncHyperBandScheduler(
                metric="score", mode="max", max_t=CHUNKS, grace_period=RUNGS[0], reduction_factor=REDUCTION
            )
        self._trials: dict[str, Trial] = {}
        self._scores: dict[str, np.ndarray] = {}
        self._done: dict[str, int] = {}
        self._events: list[tuple[int, float, str]] = []
        self._now, self._over = 0, False
        self.spent = 0
        """Agent-steps."""
        self.found: list[tuple[int, float]] = []
        """(agent-steps, true final score of the configuration that scored best at the last step), as it changes."""
        self.finished: set[str] = set()
        self._best_seen = -math.inf

    @property
    def decided(self) -> int:
        """How many trials were begun."""
        return len(self._trials)

    def run(self, budget: float = math.inf) -> None:
        """Until the budget is spent, or nothing is left to do."""
        while self.spent < budget:
            self._fill()
            if not self._events:
                break
            self._now, _, name = heapq.heappop(self._events)
            self._report(self._trials[name])

    # What searcher and scheduler ask of Tune's controller

    def get_trials(self) -> list[Trial]:
        """Those that are not over."""
        return [trial for trial in self._trials.values() if trial.status != Trial.TERMINATED]

    def stop_trial(self, trial: Trial) -> None:
        if trial.status == Trial.PAUSED:
            self._scheduler.on_trial_remove(self, trial)  # type: ignore[arg-type]
        else:
            self._scheduler.on_trial_complete(self, trial, self._result(trial))  # type: ignore[arg-type]
        trial.status = Trial.TERMINATED
        self._searcher.on_trial_complete(trial.trial_id, {})

    def _config_of(self, trial: dict[str, Any]) -> dict[str, Any]:
        name = trial["config_id"]
        cohort = cohort_of(name)
        ladder = self._ladders.setdefault(cohort, Ladder([], [CHUNK * rung for rung in RUNGS], REDUCTION, COHORT))
        ladder.enter(name)
        self._scores[name] = self._curves.scores(trial["params"], [self._seed, int(name)])
        self._done[name] = 0
        return {"job": {"config_id": name, "cohort": cohort}, "params": trial["params"]}

    def _rank_at(self, job: dict[str, Any], step: int) -> Any:
        return rank([self._studies.reports[job["config_id"]][step]], "mean")

    def _fill(self) -> None:
        """Give free workers something to do."""
        while len(self._events) < self._workers:
            pending = [trial for trial in self.get_trials() if trial.status == Trial.PENDING]
            if not pending and not self._over:
                asked = self._searcher.suggest(str(len(self._trials)))
                self._over = asked == Searcher.FINISHED
                if asked and not self._over:
                    trial = Trial("fake", stub=True, trial_id=str(len(self._trials)), config=asked)
                    self._trials[asked["job"]["config_id"]] = trial
                    self._scheduler.on_trial_add(self, trial)  # type: ignore[arg-type]
            chosen = self._scheduler.choose_trial_to_run(self)  # type: ignore[arg-type]
            if chosen is None:
                return
            chosen.status = Trial.RUNNING
            self._train(chosen)

    def _train(self, trial: Trial) -> None:
        """The next chunk of a trial, which ends with the next tick; of those that end at once `order` decides."""
        worth = final_score(trial.config["params"])
        place = {"best first": -worth, "worst first": worth, "shuffled": self._chance.random()}[self._order]
        heapq.heappush(self._events, (self._now + 1, place, _name(trial)))

    def _result(self, trial: Trial) -> dict[str, Any]:
        done = self._done[_name(trial)]
        rung = {"rung": CHUNK * done} if done in RUNGS else {}
        return {"training_iteration": done, "score": float(self._scores[_name(trial)][done - 1]), **rung}

    def _report(self, trial: Trial) -> None:
        name = _name(trial)
        self._done[name] += 1
        self.spent += CHUNK * SEEDS
        result = self._result(trial)
        self._studies.reports[name][CHUNK * self._done[name]] = result["score"]
        if self._done[name] == CHUNKS:
            self.finished.add(name)
            if result["score"] > self._best_seen:
                self._best_seen = result["score"]
                self.found.append((self.spent, final_score(trial.config["params"])))
            return self.stop_trial(trial)
        action = self._scheduler.on_trial_result(self, trial, result)  # type: ignore[arg-type]
        if action == TrialScheduler.STOP:
            self.stop_trial(trial)
        elif action == TrialScheduler.PAUSE:
            trial.status = Trial.PAUSED
        else:
            self._train(trial)


def _name(trial: Trial) -> str:
    return trial.config["job"]["config_id"]


def measure(
    repeats: int = 20,
    slow_repeats: int = 5,
    trials: int = 24,
    workers: int = 4,
    order_repeats: int = 200,
    samplers: Sequence[str] = SAMPLED,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Searches by every sampler under every scheduler, and what early stopping loses by order of arrival.

    Args:
        repeats: of each search, each with a seed of its own; `slow_repeats` those of `gp`.
        trials: the budget, in trials that are trained to the end.
        workers: trials that train at once.
        samplers: of `SAMPLED`.
        order_repeats: of the comparison by order: `COHORT` random configurations each, three workers per rung.

    Returns:
        What was run; `searches`, one per sampler and scheduler: `best` (per repeat, the true score of the configuration
        that the search would give, after 1, 2, ... `trials` whole trials' worth of agent-steps; None before one is
        trained to the end), `mean`, `low`, `high` (95 %, over repeats; None where one has none yet), `begun` and
        `finished` (trials, means); `orders`, one per kind of curves, order and scheduler: how often (of
        `order_repeats`) the truly best configuration was trained to the end within what Halving spends (`kept`, with
        `low` and `high`), how often at any cost (`kept_at_any_cost`), and `whole_trials` (the cost of that, mean).
    """
    searches = []
    for sampler, scheduler in itertools.product(samplers, SCHEDULERS):
        many = slow_repeats if sampler == "gp" else repeats
        searches.append(_search(sampler, scheduler, many, trials, workers))
        progress(f"{sampler}, {scheduler}: {_cell(*(searches[-1][name][-1] for name in ('mean', 'low', 'high')))}")
    orders: list[dict[str, Any]] = []
    for kind, curves in KINDS.items():
        for order in ORDERS:
            orders += _by_order(kind, curves, order, order_repeats)
            progress(f"{kind}, {order} done")
    return {
        "trials": trials,
        "agent_steps": trials * WHOLE,
        "workers": workers,
        "cohort": COHORT,
        "order_repeats": order_repeats,
        "searches": searches,
        "orders": orders,
    }


KINDS = {
    "clear": Curves(crossing=False, seed_noise=0.0, report_noise=0.0),
    "noisy": Curves(crossing=False),
    "noisy, crossing": Curves(),
}
"""Of curves: the order of scores is that of the worth from the first report on; with noise over seeds and reports; and
where slow learners end higher besides. The searches have the last."""


def _search(sampler: str, scheduler: str, repeats: int, trials: int, workers: int) -> dict[str, Any]:
    best, begun, finished = [], [], []
    for seed in range(repeats):
        simulation = Simulation(sampler, scheduler, seed, workers)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls its Gaussian process experimental, at every suggestion
            simulation.run(trials * WHOLE)
        best.append([_at(simulation.found, whole * WHOLE) for whole in range(1, trials + 1)])
        begun.append(simulation.decided)
        finished.append(len(simulation.finished))
    columns = [_summary(column) for column in zip(*best)]
    return {
        "sampler": sampler,
        "scheduler": scheduler,
        "repeats": repeats,
        "best": best,
        "mean": [column[0] for column in columns],
        "low": [column[1] for column in columns],
        "high": [column[2] for column in columns],
        "begun": sum(begun) / repeats,
        "finished": sum(finished) / repeats,
    }


def _at(found: Sequence[tuple[int, float]], spent: int) -> float | None:
    known = [score for when, score in found if when <= spent]
    return known[-1] if known else None


def _summary(values: Sequence[float | None]) -> tuple[float | None, float | None, float | None]:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None, None, None
    summary = summarize(known)
    low, high = summary.interval or (None, None)
    return summary.mean, low, high


def _by_order(kind: str, curves: Curves, order: str, repeats: int) -> Iterator[dict[str, Any]]:
    from scipy.stats import binomtest

    kept, at_any_cost, cost = (dict.fromkeys(("halving", "asha"), 0) for _ in range(3))
    for seed in range(repeats):
        drawn = [suggest(space(), "random", False, [], [seed, 2], number) for number in range(COHORT)]
        worth = [final_score(params) for params in drawn]
        if order != "shuffled":
            drawn.sort(key=final_score, reverse=order == "best first")
            worth.sort(reverse=order == "best first")
        best, budget = str(worth.index(max(worth))), math.inf
        for scheduler in kept:  # Halving first: what it spends is the other's budget
            simulation = Simulation(None, scheduler, seed, COHORT // REDUCTION, curves, order, drawn)
            simulation.run(budget)
            kept[scheduler] += best in simulation.finished
            budget = simulation.spent if scheduler == "halving" else budget
            simulation.run()
            at_any_cost[scheduler] += best in simulation.finished
            cost[scheduler] += simulation.spent
    for scheduler, times in kept.items():
        share = binomtest(times, repeats).proportion_ci(0.95, method="wilson")
        yield {
            "curves": kind,
            "order": order,
            "scheduler": scheduler,
            "kept": times / repeats,
            "low": float(share.low),
            "high": float(share.high),
            "kept_at_any_cost": at_any_cost[scheduler] / repeats,
            "whole_trials": cost[scheduler] / repeats / WHOLE,
        }


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    trials = result["trials"]
    stops = sorted({max(1, trials // 3), max(1, 2 * trials // 3), trials})
    words = [f"after {stop} whole trials" for stop in stops]
    lines = [
        f"Best configuration found, of 100 (mean and 95 % interval over repeats), {result['workers']} trials at once",
        "",
        " | ".join(["sampler", "scheduler", "repeats", *(f"{word:>22}" for word in words), "begun", "finished"]),
        "-+-".join(["-" * 7, "-" * 9, "-" * 7, *("-" * 22 for _ in words), "-" * 5, "-" * 8]),
    ]
    for row in result["searches"]:
        cells = [_cell(*(row[name][stop - 1] for name in ("mean", "low", "high"))) for stop in stops]
        lines.append(
            " | ".join(
                [
                    f"{row['sampler']:7}",
                    f"{row['scheduler']:9}",
                    f"{row['repeats']:7}",
                    *(f"{cell:>22}" for cell in cells),
                    f"{row['begun']:5.0f}",
                    f"{row['finished']:8.0f}",
                ]
            )
        )
    lines += [
        "",
        f"How often the truly best of {result['cohort']} random configurations is trained to the end"
        f" ({result['order_repeats']} repeats)",
        "",
        "curves          | order       | scheduler | for what halving spends | at any cost | whole trials spent",
        "----------------+-------------+-----------+-------------------------+-------------+-------------------",
    ]
    for row in result["orders"]:
        share = f"{row['kept']:.0%} ({row['low']:.0%} to {row['high']:.0%})"
        lines.append(
            f"{row['curves']:15} | {row['order']:11} | {row['scheduler']:9} | {share:>23} |"
            f" {row['kept_at_any_cost']:>11.0%} | {row['whole_trials']:>18.1f}"
        )
    return "\n".join(line.rstrip() for line in lines)


def _cell(mean: float | None, low: float | None, high: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.1f}" if low is None else f"{mean:.1f} ({low:.1f} to {high:.1f})"


def figure(result: dict[str, Any], path: str) -> None:
    """A PNG: best found against the budget, a panel per scheduler, and what is kept by order of arrival."""
    from raymix.reproduce.figures import BLUE, GREEN, ORANGE, PURPLE, new_figure, save, small_print

    colours = dict(zip(SAMPLED, (ORANGE, PURPLE, BLUE, GREEN)))
    drawn = new_figure(7.2, 5.0)
    panels = drawn.subplots(2, 3)
    budgets = list(range(1, result["trials"] + 1))
    number = functools.partial(np.array, dtype=float)
    known = [value for row in result["searches"] for value in row["low"] if value is not None]
    for panel, scheduler in zip(panels[0], SCHEDULERS):
        for row in result["searches"]:
            if row["scheduler"] != scheduler:
                continue
            colour = colours[row["sampler"]]
            panel.plot(budgets, number(row["mean"]), color=colour, linewidth=1.2, label=row["sampler"])
            panel.fill_between(budgets, number(row["low"]), number(row["high"]), color=colour, alpha=0.15, linewidth=0)
        small_print(panel, f"scheduler: {scheduler}")
        panel.set_xlim(0, result["trials"])
        panel.set_ylim(min(known, default=0.0) - 2, 101)
        panel.set_xlabel("agent-steps, in whole trials", fontsize=7)
    panels[0][0].set_ylabel("best found, of 100", fontsize=7)
    panels[0][0].legend(fontsize=7, frameon=False, loc="lower right")
    for panel, kind in zip(panels[1], KINDS):
        for place, (scheduler, colour) in enumerate((("halving", BLUE), ("asha", ORANGE))):
            rows = [row for row in result["orders"] if (row["curves"], row["scheduler"]) == (kind, scheduler)]
            kept = number([row["kept"] for row in rows])
            spread = [kept - number([row["low"] for row in rows]), number([row["high"] for row in rows]) - kept]
            places = np.arange(len(rows)) + 0.38 * place
            panel.bar(places, kept, 0.36, yerr=np.maximum(spread, 0), color=colour, ecolor="0.3", label=scheduler)
        panel.set_xticks(np.arange(len(ORDERS)) + 0.19, [order.replace(" ", "\n") for order in ORDERS])
        panel.set_ylim(0, 1.25)
        small_print(panel, f"curves: {kind}")
    panels[1][0].set_ylabel("best one is trained to the end,\nfor what halving spends", fontsize=7)
    panels[1][0].legend(fontsize=7, frameon=False, loc="upper right", ncols=2)
    note = "line: mean over repeats; band, whisker: 95 % interval"
    drawn.supxlabel(note, fontsize=6, color="0.35", x=0.99, ha="right")
    save(drawn, path)

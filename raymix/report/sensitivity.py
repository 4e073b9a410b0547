"""Which swept hyperparameters matter, and where: paired differences of neighbouring values."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raymix import ledger
from raymix.report import evaluations
from raymix.report.evaluations import Configuration
from raymix.report.runs import Runs
from raymix.report.statistics import interval
from raymix.report.tables import natural, phases_of, shown, text

MOST_VALUES = 12
"""Of a hyperparameter that is compared value by value."""


def sentences(runs: Runs) -> list[str]:
    """One sentence per data set, algorithm and swept hyperparameter.

    Configurations that differ in that hyperparameter alone are paired, seed by seed; the differences of one seed are
    averaged over the pairs, so that the interval is over seeds. "Matters" is said where the 95 % interval of the
    difference between neighbouring values leaves out 0; each is at its own 95 %, uncorrected for their number.
    Configurations that were stopped early, and members of populations, are left out (`Runs.to_the_end`).
    """
    phases = phases_of(runs.configurations, runs.phases)
    groups: dict[tuple[str, str], list[Configuration]] = defaultdict(list)
    for one in runs.to_the_end:
        groups[one.dataset, one.algorithm].append(one)
    lines = []
    for (dataset, algorithm), members in sorted(groups.items()):
        last = phases[algorithm][-1][0]
        for name in evaluations.swept_fields(members):
            steps = _steps(members, name, last, runs.select, runs.metric)
            lines.append(f"{algorithm} on {dataset}: {_sentence(name, steps)}")
    return lines


Step = tuple[Any, Any, list[float]]
"""Two neighbouring values, and the difference of each seed that both have."""


def _steps(members: Sequence[Configuration], name: str, phase: str, select: str, metric: str) -> list[Step]:
    alike: dict[str, dict[Any, Mapping[int, float]]] = defaultdict(dict)
    for one in members:
        if name in one.left_out:
            continue
        others = ledger.encode({field: value for field, value in one.applied.items() if field != name})
        scores = {seed: evaluations.score(reports, phase, select, metric) for seed, reports in one.seeds.items()}
        finite = {seed: score for seed, score in scores.items() if score is not None and math.isfinite(score)}
        alike[others][shown(one.applied.get(name))] = finite
    values = sorted({value for group in alike.values() for value in group}, key=natural)
    steps = []
    for low, high in itertools.pairwise(values):
        gaps: dict[int, list[float]] = defaultdict(list)
        for group in alike.values():
            if low in group and high in group:
                for seed in group[low].keys() & group[high].keys():
                    gaps[seed].append(group[high][seed] - group[low][seed])
        steps.append((low, high, [float(np.mean(gaps[seed])) for seed in sorted(gaps)]))
    return steps


def _sentence(name: str, steps: Sequence[Step]) -> str:
    if len(steps) >= MOST_VALUES:
        # At 95 % each, one of twenty differences that are none would be called certain.
        return f"{name} took {len(steps) + 1} values, too many to compare neighbours; `raymix report --html` draws it"
    told = [step for step in steps if step[2]]
    if not told:
        return f"nothing can be said of {name}: no two configurations with neighbouring values differ in it alone"
    certain: list[str] = []
    open_ones: list[str] = []
    for low, high, gaps in told:
        ends = interval(gaps)
        where = f"between {text(low)} and {text(high)}"
        if ends is None:
            open_ones.append(f"{where} ({np.mean(gaps):+.3g}; an interval needs 3 seeds)")
        else:
            words = f"{where} ({np.mean(gaps):+.3g}, 95 % {ends[0]:.3g} to {ends[1]:.3g})"
            # Equal differences of all seeds have no width, which is no certainty.
            (certain if (ends[0] > 0 or ends[1] < 0) and ends[0] < ends[1] else open_ones).append(words)
    parts = [f"{name} matters {', '.join(certain)}"] if certain else []
    if open_ones:
        parts.append(f"{'' if certain else name + ': '}no difference is certain {', '.join(open_ones)}")
    return "; ".join(parts)

"""Results of earlier runs, told to the studies of a new one before it begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raymix.report import find_run
from raymix.search.cells import Cell
from raymix.search.optuna import COMPLETE, DIVERGED
from raymix.search.truth import found_in, told_of
from raymix.types import UsageError

if TYPE_CHECKING:
    from raymix.report.evaluations import Configuration


def warm_started(plan: dict[str, Any]) -> dict[str, Any]:
    """The plan with the results that the searcher's `warm_start` names in it: a resumed run needs the folders no more.

    Raises:
        UsageError: a folder is no run, or has no result that belongs to one of the studies.
    """
    folders = plan["searcher"]["warm_start"] if plan["searcher"] else []
    cells = [Cell.of(study) for study in plan["studies"]]
    for folder in folders:
        run_dir = find_run(folder)
        found = found_in(plan, run_dir)
        used = 0
        for cell in cells:
            for one in found.values():
                if one.dataset_hash != plan["dataset_hashes"][cell.dataset] or not _belongs(cell, one):
                    continue
                # By its own seeds, whichever those were.
                own = {**plan, "seeds": list(one.seeds)}
                told = told_of(own, cell, {"algorithm": one.algorithm, "config": one.config}, one, stopped=False)
                if told.state in (COMPLETE, DIVERGED):
                    cell.warm.append([dict(told.params), told.value, run_dir.name, told.cost])
                    used += 1
        if not used:
            raise UsageError(
                f"none of the {len(found)} configurations of {run_dir} belongs to this search: they must have been"
                f" trained to the end with {plan['metric']}, by the same algorithm, on the same data, with the same"
                " hyperparameters apart from the searched ones, and these within what is searched; leave the folder out"
            )
    return {**plan, "studies": [cell.to_dict() for cell in cells]}


def _belongs(cell: Cell, one: Configuration) -> bool:
    """Whether a configuration could be a trial of the study."""
    if one.algorithm != cell.algorithm:
        return False
    known: Mapping[str, Any] = one.config
    if not cell.space.keys() <= known.keys():
        return False
    if not all(cell.space[name].holds(value) for name, value in cell.params_of(known).items()):
        return False
    try:
        return dict(known) == cell.config_of(cell.params_of(known))
    except UsageError:
        return False

"""The studies of a search as a journal that Optuna's own tools read (`optuna-dashboard FILE`).

It is an export, made from the decided trials and the ledger whenever it is asked for, also while the run goes on. A
journal that a run kept itself would be a second truth: it would have to be brought back into line after each kill, its
lock may outlive the process, and an error in it could end the search.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from raymix import ledger
from raymix.files import write_atomically
from raymix.plan import read_description
from raymix.report import find_run
from raymix.search.cells import Cell
from raymix.search.halving import stopped_trials
from raymix.search.optuna import directions, frozen
from raymix.search.truth import costs, minimizes, told_by, warm
from raymix.types import UsageError


def write_journal(folder: str, target: str) -> list[str]:
    """Write all studies of a run (or of the newest one in a storage root) to one file; returns their names.

    A trial's number, label and `config_id` are among its user attributes; one that an earlier run gave has that run's
    name there. An existing file is replaced.

    Raises:
        UsageError: no such run, one that was not searched, damage, or a file that cannot be written.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    run_dir = find_run(folder)
    plan = read_description(run_dir)
    if not plan.get("searcher"):
        raise UsageError(f"{run_dir} has no studies: its trials were spelt out before it began; give a run of a search")
    rows = ledger.rows(ledger.read(run_dir / "ledger")) if (run_dir / "ledger").is_dir() else []
    told = told_by(plan, run_dir, stopped_trials(plan, rows))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = []
    with tempfile.TemporaryDirectory() as scratch:
        journal = Path(scratch, "journal")
        storage = JournalStorage(JournalFileBackend(str(journal)))
        for index, cell in enumerate(map(Cell.of, plan["studies"])):
            study = optuna.create_study(
                storage=storage, study_name=cell.label, directions=directions(minimizes(plan), costs(plan))
            )
            names.append(cell.label)
            distributions = {name: dimension.distribution() for name, dimension in cell.space.items()}
            for earlier, (_, _, run, *_) in zip(warm(cell), cell.warm):
                study.add_trial(frozen(cell.space, distributions, earlier, {"run": run}))
            own = [trial for trial in plan["trials"] if trial["study"] == index]
            for trial, one in zip(own, told[index]):
                known = {name: trial[name] for name in ("config_id", "number", "label")}
                study.add_trial(frozen(cell.space, distributions, one, known))
        content = journal.read_bytes()
    try:
        write_atomically(target, content)
    except OSError as problem:
        raise UsageError(f"cannot write {target}: {problem.strerror or problem}; give another file") from problem
    return names

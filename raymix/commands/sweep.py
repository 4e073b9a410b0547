"""The command line of every file in `sweeps/`: `main(SPEC)`, or `main(SPEC, ANOTHER)` to run several as one sweep."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raymix import ledger
from raymix.commands.shared import DEFAULT_STORAGE, refuse_beside_resume, show
from raymix.files import AnyPath, matching, path_of
from raymix.plan import SweepSpec, Trial, check, expand, setting, studies, trial_of
from raymix.remote import StoreError
from raymix.report import find_run
from raymix.search.conditions import conditions_of, grids_of, number_of_points, with_fixed
from raymix.search.halving import Halving
from raymix.search.optuna import SAMPLERS
from raymix.sweep import Options, resume, run
from raymix.types import Interrupted, SweepFailed, UsageError
from raymix.watching import TRACKERS


def main(*specs: SweepSpec, arguments: list[str] | None = None) -> None:
    """Parse the command line, run the sweep, print its table. Exits with 0, 1 (failed, stopped) or 2 (bad usage)."""
    started = time.monotonic()
    module = sys.modules["__main__"]
    name = Path(getattr(module, "__file__", None) or "sweep").stem
    options = parser(specs, name, module.__doc__).parse_args(arguments)
    try:
        if options.storage == "":  # a shell's unset variable
            raise UsageError(f"--storage takes a folder, such as {DEFAULT_STORAGE}, not ''")
        if options.resume:
            refuse_beside_resume(
                options, "dataset", "seeds", "steps", "set", "storage", "smoke", "dry_run", "metric", "held_out", "yes"
            )
        specs = tuple(adjusted(spec, options) for spec in selected(specs, options))
        if not options.resume:
            check_number(specs, options.yes)
        if options.dry_run:
            print(dry_run(specs, path_of(options.storage or DEFAULT_STORAGE), options.json))
            return
        how = Options(
            storage=options.storage or DEFAULT_STORAGE,
            address=options.address,
            quiet=options.json,
            dashboard=not options.no_dashboard,
            capture="eager" if options.eager else "auto",
            environment_patience_s=options.environment_patience,
            log_to=tuple(options.log_to),
            deadline=None if options.time_budget is None else started + options.time_budget,
        )
        if options.resume:
            report = resume(options.resume, name, how)
        else:
            report = run(specs, f"{name}-smoke" if options.smoke else name, how)
    except UsageError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    except StoreError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(1)
    except (SweepFailed, Interrupted) as problem:
        print(problem, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("Stopped before the run began; nothing was written.", file=sys.stderr)
        sys.exit(1)
    show(report, options.json)
    if not options.json:
        print(f"this table again: {shlex.join(['raymix', 'report', report.run_dir])}")


def parser(specs: Sequence[SweepSpec], name: str, description: str | None) -> argparse.ArgumentParser:
    """The options that every sweep takes."""
    algorithms = list(dict.fromkeys(spec.algorithm for spec in specs))
    datasets = dict.fromkeys(dataset for spec in specs for dataset in spec.datasets)
    commands = " or ".join(f"raymix algorithms {algorithm}" for algorithm in algorithms)
    result = argparse.ArgumentParser(
        prog=f"{name}.py",
        description=description,
        epilog=f"Hyperparameters of {', '.join(algorithms)} and what they mean: {commands}",
    )
    add = result.add_argument
    what = "run only the rows on this data set" if has_rows(specs) else "data set"
    add("--dataset", action="append", metavar="NAME", help=f"{what}, may be repeated; here {', '.join(datasets)}")
    add("--seeds", type=int, metavar="N", help=f"seeds per configuration; here {len(specs[0].seed_list)}")
    add("--steps", type=int, metavar="N", help="gradient steps of the last phase")
    add("--metric", help="return, normalized_score, or a held-out loss such as held_out/action_error")
    add("--held-out", type=float, metavar="SHARE", help="of the episodes: not trained on, held-out losses are theirs")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="fix a hyperparameter, such as beta=5")
    add(
        "--storage",
        metavar="DIR",
        help=f"folder of the runs, or s3://bucket/runs (default: {DEFAULT_STORAGE})",
    )
    add("--address", metavar="ADDRESS", help="run on a Ray cluster: auto, or HOST:PORT")
    add("--resume", metavar="DIR", help="go on with the run in this folder")
    add(
        "--time-budget",
        type=seconds,
        metavar="TIME",
        help="end after so long, such as 90s, 45m or 8h, with a report of what there is and how to go on",
    )
    add(
        "--environment-patience",
        type=seconds,
        default=Options.environment_patience_s,
        metavar="TIME",
        help="an environment that makes no step for so long is taken to hang, and started anew (default:"
        f" {Options.environment_patience_s:g}s)",
    )
    add(
        "--log-to",
        action="append",
        default=[],
        choices=TRACKERS,
        help="tell TensorBoard, MLflow or Weights & Biases of every trial, as a run with its hyperparameters;"
        " may be repeated. TensorBoard's files are kept with the run; so is MLflow's database, unless"
        " $MLFLOW_TRACKING_URI names a server; W&B takes $WANDB_PROJECT and $WANDB_MODE. With --resume the same runs"
        " go on, and are told all that they miss",
    )
    add("--dry-run", action="store_true", help="print the trials and their expected cost, and stop")
    add("--yes", action="store_true", help=f"run more than {MOST_TRIALS:,} trials")
    add("--smoke", action="store_true", help="the same path in a minute or two: few configurations, few steps")
    add("--eager", action="store_true", help="do not compile the training step (slower; for debugging)")
    add("--no-dashboard", action="store_true", help="do not start Ray's dashboard")
    add("--json", action="store_true", help="print the result as JSON and nothing else")
    return result


def seconds(text: str) -> float:
    """`90s`, `45m`, `1.5h` in seconds; for `argparse`."""
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)([smh])", text)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"takes a time such as 90s, 45m or 8h, not {text!r}")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def has_rows(specs: Sequence[SweepSpec]) -> bool:
    """Whether specifications are on different data sets, as the rows of a table are, each with settings of its own."""
    return len({spec.datasets for spec in specs}) > 1


def selected(specs: Sequence[SweepSpec], options: argparse.Namespace) -> Sequence[SweepSpec]:
    """The specifications to run. Where they are rows (`has_rows`), `--dataset` selects among them, as the settings of
    one data set are not meant for another; elsewhere it replaces (`adjusted`)."""
    if not options.dataset or not has_rows(specs):
        return specs
    here = list(dict.fromkeys(dataset for spec in specs for dataset in spec.datasets))
    for name in options.dataset:
        if name not in here:
            raise UsageError(
                f"--dataset selects rows of this sweep, each with settings of its own, and none is on {name!r}; there"
                f" are: {', '.join(here)}"
            )
    chosen = []
    for spec in specs:
        if datasets := tuple(name for name in spec.datasets if name in options.dataset):
            chosen.append(spec.replace(datasets=datasets))
    options.dataset = None
    return chosen


def adjusted(spec: SweepSpec, options: argparse.Namespace) -> SweepSpec:
    """The specification with what the command line says on top."""
    if options.smoke:
        if not spec.smoke:
            raise UsageError(
                "this sweep says no smoke=..., so that --smoke would be all of it; add one to its SweepSpec, such as"
                " smoke={'steps': 200, 'seeds': 1}, or try --steps 200 --seeds 1"
            )
        spec = spec.replace(**spec.smoke)
    changes: dict[str, Any] = {}
    if options.dataset:
        changes["datasets"] = tuple(options.dataset)
    if options.seeds is not None:
        changes["seeds"] = options.seeds
    if options.steps is not None:
        changes["steps"] = options.steps
    for name in ("metric", "held_out"):
        if getattr(options, name) is not None:
            changes[name] = getattr(options, name)
    fixed = dict(setting(text) for text in options.set)
    changes["settings"] = {**spec.settings, **fixed}
    # Fixing a hyperparameter that the sweep varies takes it out of the search.
    changes["search"] = with_fixed(spec.search, fixed)
    if spec.searcher is not None and fixed:
        check(spec.replace(**changes))  # the points may be no points
        gone = fixed.keys() | (spec.search.keys() - changes["search"].keys())
        points = ({name: value for name, value in point.items() if name not in gone} for point in spec.searcher.points)
        changes["searcher"] = dataclasses.replace(spec.searcher, points=tuple(filter(None, points)))
    return spec.replace(**changes)


MOST_TRIALS = 1_000
"""Trials that a sweep has without being asked twice: more are a slip as often as a plan."""


def check_number(specs: Sequence[SweepSpec], confirmed: bool) -> None:
    """Raise `UsageError` for a sweep of very many trials, unless they are confirmed. Counts without spelling them out,
    which takes a specification whose types are right: others are refused too."""
    number = 0
    for spec in specs:
        check(spec)
        grids = grids_of(spec.search)
        conditions = {name: own for name, own in conditions_of(spec.search).items() if name in grids}
        cells = len(spec.datasets) * int(number_of_points({n: len(v) for n, v in grids.items()}, grids, conditions))
        number += cells * (spec.samples if spec.searcher is None else spec.searcher.trials)
    if number > MOST_TRIALS and not confirmed:
        raise UsageError(
            f"this sweep has {number:,} trials of {len(specs[0].seed_list)} seeds each, more than {MOST_TRIALS:,}; add"
            " --yes if that is meant, or search a smaller space"
        )


def dry_run(specs: Sequence[SweepSpec], root: AnyPath, as_json: bool) -> str:
    """What the sweep would do, and what it would cost going by earlier runs in `root`."""
    trials, cells = expand(*specs), studies(*specs)
    for folder in specs[0].searcher.warm_start if specs[0].searcher else ():
        find_run(folder)  # refuses what is no run; whether its results fit is known with the data
    programs = {
        json.dumps([trial.algorithm, trial.dataset, structure_of(trial)], sort_keys=True, default=list)
        for trial in trials
    }
    seeds = specs[0].seed_list
    # Of a search only examples are known; all trials of a study are taken to cost as much as one of them.
    planned = [trial for cell in cells for trial in [trial_of(cell, cell.examples()[0])] * cell.trials] or trials
    hours, why = expected_hours(planned, len(seeds), root)
    facts = {
        "studies": [{"label": cell.label, **cell.to_dict()} for cell in cells],
        "trials": [
            {"algorithm": trial.algorithm, "dataset": trial.dataset, "label": trial.label, "config": trial.config}
            for trial in ([] if cells else trials)
        ],
        "seeds": seeds,
        "programs": len(programs),
        "expected_device_hours": hours,
        "basis": why,
    }
    if as_json:
        return json.dumps(facts)
    if cells:
        sampler = specs[0].searcher.sampler if specs[0].searcher else ""
        spaces = [", ".join(f"{name} {each.in_words()}" for name, each in cell.space.items()) for cell in cells]
        lines = [
            f"{cell.label}: " + (f"a study of {cell.trials} trials by {sampler} over {s}" if s else "one trial")
            for cell, s in zip(cells, spaces)
        ]
        if sampler == "gp" and specs[0].scheduler is not None:
            lines.append(f"gp is {SAMPLERS['gp']}; beside Halving, which stops most trials, tpe learns more")
    else:
        lines = [f"{trial.algorithm}  {trial.dataset}  {trial.label}" for trial in trials]
    halving = specs[0].scheduler if isinstance(specs[0].scheduler, Halving) else None
    bound = "about" if halving is None else "at most about"
    cost = f"{bound} {hours:.2f} device hours ({why})" if hours is not None else f"device hours: {why}"
    at_least = "at least " if cells else ""
    number = halving.seeds_in_words(len(seeds)) if halving else len(seeds)
    total = f"{len(planned)} trials x {number} seeds, {at_least}{len(programs)} different programs, {cost}"
    return "\n".join([*lines, total])


def structure_of(trial: Trial) -> dict[str, Any]:
    """The fields that decide which program a trial needs."""
    from raymix.algorithms import base

    return base.find(trial.algorithm).configure(trial.config).of_kind("structure")


def expected_hours(trials: Sequence[Trial], seeds: int, root: AnyPath) -> tuple[float | None, str]:
    """Device hours at the mean cost per agent-step of each algorithm's finished seeds in earlier runs."""
    from raymix.algorithms import base

    phases = {name: base.find(name).phases for name in dict.fromkeys(trial.algorithm for trial in trials)}

    def total_steps(algorithm: str, config: Any) -> int:
        return sum(config[phase.steps] for phase in phases[algorithm])

    costs: dict[str, list[float]] = {name: [] for name in phases}
    for folder in matching(root, "*/ledger"):
        for row in ledger.rows(ledger.read(folder)):
            last = phases[row.algorithm][-1] if row.algorithm in phases else None
            if last and row.phase == last.name and row.step == row.config[last.steps] and not row.diverged:
                costs[row.algorithm].append(row.agent_seconds / total_steps(row.algorithm, row.config))
    if without := [name for name, found in costs.items() if not found]:
        return None, f"unknown, {root} holds no finished run of {', '.join(without)} to go by"
    means = {name: sum(found) / len(found) for name, found in costs.items()}
    hours = sum(total_steps(trial.algorithm, trial.config) * means[trial.algorithm] for trial in trials) * seeds / 3600
    return hours, f"{sum(map(len, costs.values()))} finished seeds in {root} took as much per step"

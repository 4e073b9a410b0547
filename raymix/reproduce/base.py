"""What rebuilding a table or a figure of a paper takes: methods beside published numbers, and their trained networks.

A module beside this one (and `figures`) is a reproduction; `lom_table2.py` is `raymix reproduce lom-table2`. Its
docstring's first line is its title, and it defines

    def reproduce(options: Options) -> Outcome

A table whose methods are trained by raymix runs them as one sweep (`run_methods`), with its ledger and its resume.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import math
import pkgutil
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import raymix.reproduce
from raymix.files import AnyPath, path_of, write_atomically
from raymix.plan import SweepSpec, read_description
from raymix.report.statistics import summarize
from raymix.run_folder import writable_folder
from raymix.types import Dataset, Spec, UsageError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from raymix.evaluation.policy import Policy, PolicyWeights
    from raymix.learner.networks import Networks


@dataclass(frozen=True)
class Options:
    """How a reproduction is run, as far as the user decides."""

    storage: str = "runs"
    address: str | None = None
    resume: str | None = None
    """Folder of a run of the same reproduction that was stopped."""
    variant: str | None = None
    """One of the module's `VARIANTS`, where it has some; None: the first."""
    quiet: bool = False
    capture: str = "auto"
    """'auto' compiles where there is a compiler; 'eager' never does."""


@dataclass(frozen=True)
class Outcome:
    """What a reproduction gives back."""

    text: str
    """Its table, with the published numbers."""
    files: tuple[str, ...]
    """Figures and tables that it wrote."""


@dataclass(frozen=True)
class Method:
    """One row of a published table."""

    spec: SweepSpec
    """One configuration; its `label` is the row's name."""
    published: float | None = None
    """The paper's mean; None where the paper has no such row."""
    spread: float | None = None
    """The paper's +- number, where it prints one."""


@dataclass(frozen=True)
class Row:
    """A row of a table beside the paper's."""

    label: str
    scores: list[float]
    """One per seed; NaN for one that diverged."""
    published: float | None = None
    spread: float | None = None


@dataclass(frozen=True)
class Member:
    """One trained seed of a method."""

    seed: int
    networks: Networks
    """All networks and target networks at the last report."""
    weights: PolicyWeights

    def policy(self, **changes: Any) -> Policy:
        """How it acts, with other values of hyperparameters that only acting reads."""
        from raymix.evaluation.policy import Policy

        return Policy(dataclasses.replace(self.weights, config={**self.weights.config, **changes}))


def names() -> list[str]:
    """Names of all reproductions."""
    modules = pkgutil.iter_modules(raymix.reproduce.__path__)
    stems = [module.name.rpartition("_") for module in modules if module.name not in ("base", "figures")]
    return sorted(f"{paper}-{part}" for paper, _, part in stems)


def find(name: str) -> ModuleType:
    """The module of a reproduction; a `UsageError` lists the known ones."""
    if name not in names():
        raise UsageError(f"there is no reproduction {name!r}; there are: {', '.join(names()) or 'none'}")
    return importlib.import_module(f"raymix.reproduce.{name.replace('-', '_')}")


def chosen_variant(options: Options, variants: Sequence[str], name: str) -> str:
    """The variant asked for; a `UsageError` lists those there are."""
    if options.variant is not None and options.variant not in variants:
        raise UsageError(f"{name} has the variants {', '.join(variants)}, not {options.variant!r}")
    return options.variant or variants[0]


class Run:
    """A finished sweep of methods."""

    def __init__(self, run_dir: str, frame: pd.DataFrame) -> None:
        self.folder = path_of(run_dir)
        self.frame = frame
        """See `raymix.report.tables.score_table`."""
        self._plan = read_description(self.folder)

    @property
    def figures(self) -> AnyPath:
        """The folder for figures and tables."""
        return self.folder / "report"

    def row(self, label: str) -> Any:
        """The method's row of `frame`."""
        return self.frame.set_index("config_id").loc[self._trial(label)["config_id"]]

    def dataset(self, label: str) -> Dataset:
        """The data set that the method was trained on."""
        from raymix.data import catalog

        return catalog.load(self._trial(label)["dataset"])

    def members(self, label: str) -> list[Member]:
        """The method's seeds that did not diverge, as they were at their last report."""
        import torch

        from raymix import checkpoint
        from raymix.job import checkpoint_folders, job_of, reported

        trial = self._trial(label)
        job = job_of(self._plan, trial, self.folder, device="cpu", capture="auto")
        found, problems = checkpoint.newest(checkpoint_folders(job), limit=reported(job)[0])
        if found is None:
            raise UsageError(f"{self.folder} has no whole checkpoint of {label} ({'; '.join(problems)}); run it again")
        spec, seeds = self.dataset(label).spec, zip(found.state["seeds"], found.state["diverged"], found.members)
        return [
            member_of(job.algorithm, job.config, spec, seed, {n: torch.from_numpy(a) for n, a in arrays.items()})
            for seed, diverged, arrays in seeds
            if not diverged
        ]

    def rows(self, methods: Sequence[Method]) -> list[Row]:
        """The methods' rows, all seeds."""
        rows = []
        for method in methods:
            label = str(method.spec.label)
            rows.append(Row(label, list(self.row(label)["scores"]), method.published, method.spread))
        return rows

    def _trial(self, label: str) -> dict[str, Any]:
        return next(trial for trial in self._plan["trials"] if trial["label"] == label)


def run_methods(name: str, methods: Sequence[Method], options: Options, variant: str | None = None) -> Run:
    """Run the methods as one sweep (or go on with one) and return its results. Raises as `raymix.sweep.run`.

    The variant is part of the run's name: one variant's run is never gone on with, and reported, as another's.
    """
    from raymix import sweep

    command = ("raymix", "reproduce", name, *(("--variant", variant) if variant else ()))
    name = f"{name}-{re.sub(r'[^a-zA-Z0-9]+', '-', variant)}" if variant else name
    how = sweep.Options(options.storage, options.address, options.quiet, capture=options.capture, command=command)
    if options.resume:
        report = sweep.resume(options.resume, name, how)
    else:
        report = sweep.run([method.spec for method in methods], name, how)
    return Run(report.run_dir, report.frame)


def member_of(algorithm: str, config: dict[str, Any], spec: Spec, seed: int, tensors: dict[str, Tensor]) -> Member:
    """A trained agent from its state's tensors (`raymix.learner.state.MemberState`)."""
    from raymix.algorithms import base
    from raymix.evaluation.policy import PolicyWeights
    from raymix.learner.networks import Networks, fresh_networks
    from raymix.learner.state import acting_of, unflatten

    found = base.find(algorithm)
    modules = fresh_networks(found, spec, found.configure(config), seed=0)
    for module in modules.values():
        module.requires_grad_(False)
    tree = unflatten(tensors)
    acting = {path: value.numpy() for path, value in acting_of(found, tensors).items()}
    networks = Networks(modules, tree["parameters"], tree["targets"])
    return Member(seed, networks, PolicyWeights(algorithm, config, spec.to_dict(), seed, acting))


def train_here(
    algorithm: str,
    settings: dict[str, Any],
    dataset: Dataset,
    seeds: int,
    progress: Callable[[str], None],
    capture: str = "auto",
) -> list[Member]:
    """Train seeds 0, 1, ... in this process, for data without an environment to evaluate in."""
    import torch

    from raymix.algorithms import base
    from raymix.packing.local import LocalPack

    config = base.find(algorithm).configure(settings)
    pack = LocalPack(algorithm, config, list(range(seeds)), dataset, report_every=1_000, capture=capture)
    while not pack.finished:
        boundary = pack.advance()
        progress(f"{algorithm}: {boundary.phase} {boundary.step:,} ({boundary.progress:.0%} done)")
    return [
        member_of(
            algorithm, config.to_dict(), dataset.spec, seed, {name: torch.from_numpy(a) for name, a in arrays.items()}
        )
        for seed, arrays in zip(boundary.seeds, boundary.states)
    ]


def new_folder(options: Options, name: str) -> AnyPath:
    """A folder for a reproduction that is no sweep. Raises `UsageError` for options that only sweeps have."""
    if options.resume or options.address:
        raise UsageError(f"{name} takes minutes in this process: run it again, without --resume and --address")
    folder = writable_folder(options.storage) / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def beside_paper(folder: AnyPath, rows: Sequence[Row], title: str) -> str:
    """The table of all seeds beside the published numbers; also written to `beside_paper.txt` in the folder."""
    cells = []
    for row in rows:
        summary = summarize(row.scores)
        scores = " ".join("diverged" if math.isnan(score) else f"{score:.2f}" for score in row.scores)
        interval = f"{summary.interval[0]:.2f} to {summary.interval[1]:.2f}" if summary.interval else "-"
        cells.append((row.label, _published(row), f"{summary.mean:.2f}", interval, scores))
    lines = [("method", "paper", "here", "95 % interval", "per seed"), *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    shown = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    rule = "-+-".join("-" * width for width in widths)
    text = "\n".join([title, "", shown[0], rule, *shown[1:], "", _order(rows)])
    write_atomically(folder / "beside_paper.txt", text + "\n")
    return text


def _published(row: Row) -> str:
    if row.published is None:
        return "-"
    return f"{row.published:g}" + (f" +- {row.spread:g}" if row.spread is not None else "")


def _order(rows: Sequence[Row]) -> str:
    """Whether the methods that the paper has come out in its order."""
    theirs = {row.label: float(row.published) for row in rows if row.published is not None}
    ours = {row.label: round(summarize(row.scores).mean, 2) for row in rows if row.label in theirs}

    def told(means: dict[str, float]) -> str:
        # Equal means stand in the published order.
        order = sorted(sorted(theirs, key=lambda label: -theirs[label]), key=lambda label: -means[label])
        signs = ["=" if means[one] == means[other] else ">" for one, other in itertools.pairwise(order)]
        return " ".join(word for pair in zip(order, [*signs, ""]) for word in pair).strip()

    if told(ours) == told(theirs):
        return f"The means come in the published order: {told(ours)}."
    return f"The means do not come in the published order.\n  paper: {told(theirs)}\n  here:  {told(ours)}"

"""What rebuilding a table or a figure of a paper takes: methods beside published numbers, and their trained networks.

A module beside this one (and `figures`) is a reproduction; `lom_table2.py` is `raymix reproduce lom-table2`. Its
docstring's first line is its title, and it defines

    def reproduce(options: Options) -> Outcome

A table whose methods are trained by raymix runs them as one sweep (`run_methods`), with its ledger and its resume.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import raymix.reproduce
from raymix.files import write_atomically
from raymix.plan import SweepSpec, read_description
from raymix.types import Dataset, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from raymix.evaluation.policy import Policy
    from raymix.learner.networks import Networks


@dataclass(frozen=True)
class Options:
    """How a reproduction is run, as far as the user decides."""

    storage: str = "runs"
    address: str | None = None
    resume: str | None = None
    """Folder of a run of the same reproduction that was stopped."""
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
class Member:
    """One trained seed of a method."""

    seed: int
    networks: Networks
    """All networks and target networks at the last report."""
    policy: Policy


def names() -> list[str]:
    """Names of all reproductions."""
    modules = pkgutil.iter_modules(raymix.reproduce.__path__)
    return sorted(module.name.replace("_", "-") for module in modules if module.name not in ("base", "figures"))


def find(name: str) -> ModuleType:
    """The module of a reproduction; a `UsageError` lists the known ones."""
    if name not in names():
        raise UsageError(f"there is no reproduction {name!r}; there are: {', '.join(names()) or 'none'}")
    return importlib.import_module(f"raymix.reproduce.{name.replace('-', '_')}")


class Run:
    """A finished sweep of methods."""

    def __init__(self, run_dir: str, frame: pd.DataFrame) -> None:
        self.folder = Path(run_dir)
        self.frame = frame
        """See `raymix.report.tables.score_table`."""
        self._plan = read_description(self.folder)

    @property
    def figures(self) -> Path:
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
        from raymix.algorithms import base
        from raymix.evaluation.policy import Policy, PolicyWeights
        from raymix.job import checkpoint_folders, job_of, reported
        from raymix.learner.networks import Networks, fresh_networks
        from raymix.learner.state import unflatten

        trial = self._trial(label)
        job = job_of(self._plan, trial, self.folder, device="cpu", capture="auto")
        found, problems = checkpoint.newest(checkpoint_folders(job), limit=reported(job)[0])
        if found is None:
            raise UsageError(f"{self.folder} has no whole checkpoint of {label} ({'; '.join(problems)}); run it again")
        algorithm, spec = base.find(job.algorithm), self.dataset(label).spec
        config = algorithm.configure(job.config)
        members = []
        for seed, diverged, arrays in zip(found.state["seeds"], found.state["diverged"], found.members, strict=True):
            if diverged:
                continue
            modules = fresh_networks(algorithm, spec, config, seed=0)
            for module in modules.values():
                module.requires_grad_(False)
            tree = unflatten({name: torch.from_numpy(value) for name, value in arrays.items()})
            acting = {
                path.removeprefix("parameters/"): value
                for path, value in arrays.items()
                if path.startswith("parameters/") and path.split("/")[1] in algorithm.acting
            }
            policy = Policy(PolicyWeights(job.algorithm, job.config, spec.to_dict(), seed, acting))
            members.append(Member(seed, Networks(modules, tree["parameters"], tree["targets"]), policy))
        return members

    def _trial(self, label: str) -> dict[str, Any]:
        return next(trial for trial in self._plan["trials"] if trial["label"] == label)


def run_methods(name: str, methods: Sequence[Method], options: Options) -> Run:
    """Run the methods as one sweep (or go on with one) and return its results. Raises as `raymix.sweep.run`."""
    from raymix import sweep

    how = sweep.Options(
        options.storage, options.address, options.quiet, capture=options.capture, command=("raymix", "reproduce", name)
    )
    if options.resume:
        report = sweep.resume(options.resume, name, how)
    else:
        report = sweep.run([method.spec for method in methods], name, how)
    return Run(report.run_dir, report.frame)


def beside_paper(run: Run, methods: Sequence[Method], title: str) -> str:
    """The table of all seeds beside the published numbers; also written to the run's `report/beside_paper.txt`."""
    rows = []
    for method in methods:
        label = str(method.spec.label)
        row = run.row(label)
        scores = " ".join("diverged" if math.isnan(score) else f"{score:.2f}" for score in row["scores"])
        interval = f"{row['low']:.2f} to {row['high']:.2f}" if math.isfinite(row["low"]) else "-"
        rows.append((label, _published(method), f"{row['mean']:.2f}", interval, scores))
    lines = [("method", "paper", "here", "95 % interval", "per seed"), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    shown = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    text = "\n".join(
        [title, "", shown[0], "-+-".join("-" * width for width in widths), *shown[1:], "", _order(run, methods)]
    )
    write_atomically(run.figures / "beside_paper.txt", text + "\n")
    return text


def _published(method: Method) -> str:
    if method.published is None:
        return "-"
    return f"{method.published:g}" + (f" +- {method.spread:g}" if method.spread is not None else "")


def _order(run: Run, methods: Sequence[Method]) -> str:
    """Whether the methods that the paper has come out in its order."""
    known = [method for method in methods if method.published is not None]
    theirs = sorted(known, key=lambda method: -float(method.published or 0.0))
    ours = sorted(known, key=lambda method: -run.row(str(method.spec.label))["mean"])

    def told(order: Sequence[Method]) -> str:
        return " > ".join(str(method.spec.label) for method in order)

    if ours == theirs:
        return f"The means come in the published order: {told(ours)}."
    return f"The means come in another order than published.\n  paper: {told(theirs)}\n  here:  {told(ours)}"

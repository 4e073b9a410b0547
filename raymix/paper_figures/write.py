"""All figures that runs can give, and a sentence for each that they cannot."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raymix.files import AnyPath, path_of
from raymix.paper_figures.material import Lacking, Material
from raymix.report.embeddings import write_embedding_figures
from raymix.report.runs import read_runs
from raymix.report.tables import table_of
from raymix.types import UsageError

DRAW_ACTIONS = ("lom", "mdn", "lapo", "plas", "awac", "mix_awac", "bc", "dmpo")
"""Whose actions at one state the papers draw, and those of their kin."""
_OF_ACTIONS = {"lom": "LOM 2 and 4", "lapo": "LAPO 2"}


@dataclass(frozen=True)
class Figures:
    """What came of it."""

    written: list[tuple[str, str]]
    """Path, and the figures of the papers that it stands for."""
    lacking: list[str]
    """Why the others could not be drawn, or not for all configurations, and what to run."""
    notices: list[str]
    """What was left out of damaged ledgers."""


def write_figures(
    folders: Sequence[str],
    target: str,
    select: str | None = None,
    metric: str | None = None,
    keep_going: bool = False,
    progress: Callable[[str], None] = lambda name: None,
) -> Figures:
    """Write into the folder `target`, which is made; `folders`, `select`, `metric` and `keep_going` as in `read_runs`.

    Raises:
        UsageError: as `read_runs`, and for a folder that cannot be written.
    """
    runs = read_runs(folders, select, metric, keep_going)
    material = Material(runs, keep_going)
    folder = path_of(target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written, lacking = _write(material, folder, progress)
    except OSError as error:
        raise UsageError(
            f"cannot write figures to {folder} ({error.strerror or error}); choose another folder"
        ) from error
    return Figures(written, lacking, list(runs.notices))


def _write(material: Material, folder: AnyPath, progress: Callable[[str], None]) -> tuple[list, list[str]]:
    written: list[tuple[str, str]] = []
    lacking: list[str] = []

    def draw(name: str, stands_for: str, make: Callable[[str], None]) -> None:
        progress(name)
        path = str(folder / name)
        try:
            make(path)
        except UsageError as problem:
            lacking.append(f"{name} ({stands_for}): {problem}")
        else:
            written.append((path, stands_for))
        lacking.extend(f"in {name} ({stands_for}): {why}" for why in material.left_out)
        material.left_out.clear()

    there = material.algorithms
    draw("scores.png", "LOM 3", lambda path: _scores(material, path))
    draw("curves.png", "DMPO 3, LAPO 4 and 5", lambda path: _curves(material, path))
    if "lbrac_v" in there or any("heterogeneous-" in one.dataset for one in material.runs.configurations):
        draw("lbrac_v-fig4.png", "LBRAC-v 4", lambda path: _relative(material, path))
    if "lbrac_v" in there:
        draw("lbrac_v-fig5-6.png", "LBRAC-v 5 and 6", lambda path: _embeddings(material, path))
        for run in dict.fromkeys(material.folder(one) for one in material.of("lbrac_v")):
            with contextlib.suppress(UsageError):  # said of the figure before
                written += [(path, "LBRAC-v 5 to 7, over training") for path in write_embedding_figures(run, folder)]
    for dataset in sorted({one.dataset for one in material.of(*_OF_ACTIONS)}):
        _actions(material, dataset, draw)
    if "td3_rkl" in there:
        draw("td3_rkl-fig4.png", "TD3+RKL 4", lambda path: _weights(material, path))
    if "dmpo" in there:
        draw("dmpo-fig4.png", "DMPO 4", lambda path: _bellman(material, path))
        draw("dmpo-fig5.png", "DMPO 5", lambda path: _sub_policies(material, path))
    return written, lacking


def _scores(material: Material, path: str) -> None:
    from raymix.report.figures import score_figure

    if not material.swept and len(material.algorithms) == 1:
        raise Lacking("nothing was swept; sweep a hyperparameter, such as num_components=tune.grid_search([1, 5, 10])")
    runs = material.runs
    frame = table_of(runs.configurations, runs.select, runs.metric, material.phases, runs.stopped)
    score_figure(frame, path)


def _curves(material: Material, path: str) -> None:
    from raymix.paper_figures.curves import learning_curves

    learning_curves(material, path)


def _relative(material: Material, path: str) -> None:
    from raymix.paper_figures.relative import relative_return_figure

    runs = material.runs
    if runs.metric != "return":
        folders = [str(folder) for folder in runs.folders]
        material = Material(read_runs(folders, runs.select, "return", material.keep_going), material.keep_going)
    relative_return_figure(material, path)


def _embeddings(material: Material, path: str) -> None:
    from raymix.paper_figures.embeddings import compared_embeddings

    compared_embeddings(material, path)


def _actions(material: Material, dataset: str, draw: Callable[[str, str, Callable[[str], None]], None]) -> None:
    here = [one for one in material.of(*DRAW_ACTIONS) if one.dataset == dataset]
    stands_for = ", ".join(words for name, words in _OF_ACTIONS.items() if any(one.algorithm == name for one in here))

    def make(path: str) -> None:
        from raymix.paper_figures.actions import actions_figure

        actions_figure(material, here, path)

    draw(f"actions-{re.sub(r'[^a-zA-Z0-9]+', '-', dataset).strip('-')}.png", stands_for, make)


def _weights(material: Material, path: str) -> None:
    from raymix.paper_figures.weights import weights_figure

    weights_figure(material, path)


def _bellman(material: Material, path: str) -> None:
    from raymix.paper_figures.dmpo import bellman_figure

    bellman_figure(material, path)


def _sub_policies(material: Material, path: str) -> None:
    from raymix.paper_figures.dmpo import sub_policies_figure

    sub_policies_figure(material, path)

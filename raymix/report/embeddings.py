"""Figures of trajectory embeddings and codes, from the snapshots of a run (LBRAC-v's figures 5 to 7)."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from raymix import snapshots
from raymix.files import AnyPath, write_atomically
from raymix.plan import read_description
from raymix.report import find_run
from raymix.run_folder import load_dataset
from raymix.snapshots import Snapshot
from raymix.types import UsageError, return_percentiles

TRAJECTORIES, CODES, POLICY = "trajectories/weight", "codes/weight", "policy_code/weight"
_MOST_PANELS = 4
_PANEL = 2.6
"""Inches, both ways."""
_STAR, _TRIANGLE = "#D55E00", "#CC79A7"


class Panel(NamedTuple):
    """One snapshot of one seed."""

    title: str
    arrays: Mapping[str, np.ndarray]
    """Of the snapshot, by `network/parameter`."""
    percentiles: np.ndarray
    """(M,) return percentile of each trajectory, 1 to 100."""


def write_embedding_figures(folder: str | AnyPath, target: AnyPath | None = None) -> list[str]:
    """Write `embeddings-CONFIG-PHASE-seedN.png` for each configuration and phase of a run, for its first seed.

    `folder` is a run, or a storage root (its newest run); `target` is where to write, `report` in the run if None.
    Returns the paths. Raises `UsageError` for a run that keeps no such embeddings, for one whose data set is gone or
    another now, and for a folder that cannot be written.
    """
    run_dir = find_run(folder)
    found = snapshots.find(run_dir)
    # A run has one algorithm, so its snapshots hold the same names.
    if not found or not found[0].read().keys() >= {TRAJECTORIES, CODES, POLICY}:
        raise UsageError(
            f"{run_dir} has no snapshots of trajectory embeddings; they come with the reports of an algorithm that"
            " learns some (lbrac_v)"
        )
    plan = read_description(run_dir)
    trials = {trial["config_id"]: trial for trial in plan["trials"]}
    percentiles = {
        name: return_percentiles(load_dataset(name, True, plan["dataset_hashes"]).columns.episode_returns())
        for name in sorted({trials[each.config_id]["dataset"] for each in found})
    }
    orders = {config: [name for name, _ in plan["phases"][trial["algorithm"]]] for config, trial in trials.items()}
    found.sort(key=lambda each: (each.config_id, orders[each.config_id].index(each.phase), each.seed, each.step))
    target = target or run_dir / "report"
    paths = []
    try:
        target.mkdir(exist_ok=True)
        for (config, phase), group in itertools.groupby(found, key=lambda each: (each.config_id, each.phase)):
            reports = list(group)
            trial, seed = trials[config], reports[0].seed
            kept = _spread([each for each in reports if each.seed == seed])
            words = f"{trial['algorithm']} on {trial['dataset']}" + (f", {trial['label']}" if len(trials) > 1 else "")
            title = f"{words}; phase {phase}, seed {seed}"
            own = percentiles[trial["dataset"]]
            panels = [Panel(f"{each.step:,} steps", each.read(), own) for each in kept]
            path = str(target / f"embeddings-{config}-{phase}-seed{seed}.png")
            embedding_figure(panels, title, path, with_policy=phase == orders[config][-1])
            paths.append(path)
    except OSError as error:
        raise UsageError(f"cannot write the figures to {target}: {error}; make the folder writable") from error
    return paths


def embedding_figure(
    panels: Sequence[Panel], title: str, path: str, with_policy: bool, one_training: bool = True
) -> None:
    """Write a PNG with a panel per snapshot, four in a row.

    Trajectories are points, coloured by their return percentile; codes are stars with the number of trajectories
    assigned to them, hollow where that is none; the policy's own embedding is a triangle. All are scaled to length 1,
    and projected to the plane of most variance of the trajectories. Panels differ in plane; of `one_training`, whose
    snapshots are in its order, axes point alike.
    """
    style: Any = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    columns = min(len(panels), _MOST_PANELS)
    rows = math.ceil(len(panels) / columns)
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(_PANEL * columns + 0.9, _PANEL * rows + 0.6), dpi=200, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for unused in axes[len(panels) :]:
            unused.set_axis_off()
        basis = None
        # Backwards: what is learnt gives the axes their direction, not the noise at the start.
        for panel, each in reversed(list(zip(axes, panels, strict=False))):
            panel.set_title(each.title, fontsize=8)
            if all(np.isfinite(value).all() for value in each.arrays.values()):
                like = basis if one_training else None
                basis = _panel(panel, each.arrays, each.percentiles, like, with_policy)
            else:
                panel.text(0.5, 0.5, "diverged", ha="center", transform=panel.transAxes)
        scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(1, 100), "viridis")
        bar = figure.colorbar(scale, ax=axes.tolist(), ticks=[1, 25, 50, 75, 100], aspect=30, pad=0.01)
        bar.set_label("return percentile of the trajectory", fontsize=7)
        figure.suptitle(title, fontsize=8)
        handles = [
            _mark("o", "0.5", "trajectory", 3),
            _mark("*", _STAR, "code, and how many trajectories it has (hollow: none)", 9),
        ]
        handles += [_mark("^", _TRIANGLE, "policy", 6)] if with_policy else []
        figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False, fontsize=7)
        image = io.BytesIO()
        figure.savefig(image, format="png")
    write_atomically(path, image.getvalue())


def _panel(
    axes: Axes, arrays: Mapping[str, np.ndarray], percentiles: np.ndarray, like: np.ndarray | None, with_policy: bool
) -> np.ndarray:
    """Draw one snapshot; returns the two directions (2, D) of its plane, turned to point as those of `like`."""
    trajectories, codes, policy = (_unit(arrays[name]) for name in (TRAJECTORIES, CODES, POLICY))
    basis, shares = principal_plane(trajectories)
    if like is not None:
        basis *= np.where((basis * like).sum(1, keepdims=True) < 0, -1.0, 1.0)
    centre = trajectories.mean(0)
    points, stars, triangle = ((each - centre) @ basis.T for each in (trajectories, codes, policy))
    # In mixed order, so that no percentile lies on top of the others.
    mixed = np.random.default_rng(0).permutation(len(points))
    axes.scatter(
        points[mixed, 0],
        points[mixed, 1],
        c=percentiles[mixed],
        cmap="viridis",
        vmin=1,
        vmax=100,
        s=5,
        alpha=0.7,
        linewidths=0,
    )
    counts = np.bincount((trajectories @ codes.T).argmax(1), minlength=len(codes))
    for used, face in ((counts == 0, "white"), (counts > 0, _STAR)):
        style: dict[str, Any] = {"s": 90, "facecolors": face, "edgecolors": _STAR if face == "white" else "white"}
        axes.scatter(stars[used, 0], stars[used, 1], marker="*", linewidths=0.7, zorder=3, **style)
    for number in np.flatnonzero(counts):
        # Above its star, or below where the nearest other star is above.
        others = np.delete(stars, number, 0) - stars[number]
        below = len(others) > 0 and others[np.abs(others).sum(1).argmin(), 1] > 0
        axes.annotate(
            f"{counts[number]:,}",
            stars[number],
            (0, -11 if below else 6),
            textcoords="offset points",
            ha="center",
            fontsize=6,
            zorder=4,
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
        )
    if with_policy:
        axes.scatter(
            triangle[0, 0],
            triangle[0, 1],
            marker="^",
            s=45,
            color=_TRIANGLE,
            edgecolors="black",
            linewidths=0.8,
            zorder=3,
        )
    axes.set_xlabel(f"{shares[0]:.0%} of the variance", fontsize=7)
    axes.set_ylabel(f"{shares[1]:.0%}", fontsize=7)
    axes.set_aspect("equal", adjustable="datalim")
    axes.tick_params(labelsize=6)
    return basis


def principal_plane(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two directions (2, D) in which rows (M, D) vary most, and their shares (2,) of the variance.

    The largest coordinate of a direction is positive; with D = 1 the second direction is zero.
    """
    centred = (rows - rows.mean(0)).astype(np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    basis = np.zeros((2, rows.shape[1]))
    basis[: min(2, rows.shape[1])] = vectors.T[::-1][:2]
    largest = np.take_along_axis(basis, np.abs(basis).argmax(1)[:, None], 1)
    shares = np.append(values[::-1], 0.0)[:2].clip(min=0) / max(values.clip(min=0).sum(), 1e-300)
    return basis * np.where(largest < 0, -1.0, 1.0), shares


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _mark(marker: str, colour: str, label: str, size: float) -> Line2D:
    return Line2D([], [], marker=marker, color=colour, label=label, markersize=size, linestyle="none")


def _spread(kept: Sequence[Snapshot]) -> list[Snapshot]:
    """At most four of them, evenly over the phase, the first and the last included."""
    places = np.linspace(0, len(kept) - 1, min(len(kept), _MOST_PANELS)).round().astype(int)
    return [kept[place] for place in places]

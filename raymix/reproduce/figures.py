"""What figures of reproductions share."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from raymix.files import write_atomically

BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY, BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
"""Okabe and Ito's colours, told apart by people with any colour vision."""


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, in small print; not through pyplot: nothing global is touched."""
    figure = Figure(figsize=(width, height), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def small_print(axes: Any, title: str) -> None:
    """Title and ticks of a panel in the size of a paper's figure."""
    axes.set_title(title, fontsize=8)
    axes.tick_params(labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def save(figure: Figure, path: str) -> None:
    """Write a PNG, whole or not at all."""
    image = io.BytesIO()
    figure.savefig(image, format="png")
    write_atomically(path, image.getvalue())

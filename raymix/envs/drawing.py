"""Pictures of raymix's toy environments, drawn by Pillow: neither a display nor OpenGL is needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 320
"""Pixels, both ways."""
_FINER = 2
"""Drawn larger by this, and then averaged: smooth edges."""
_WORLD = 1.15
"""Half the side of the plane that is seen; the world is [-1, 1]^2."""
# Okabe and Ito's colours, told apart by people with any colour vision.
_BLUE, _ORANGE, _GREEN, _GREY, _BLACK = "#0072B2", "#D55E00", "#009E73", "#BBBBBB", "#000000"


def plane(
    path: Sequence[np.ndarray], goals: np.ndarray, radius: float, obstacles: np.ndarray, radii: np.ndarray
) -> np.ndarray:
    """The plane from above, y upwards: goals (G, 2) green, obstacles (O, 2) grey, and the way of a point, a dot at
    each of its positions (2,). Returns (SIZE, SIZE, 3) uint8."""
    image, draw = _canvas()
    scale = SIZE * _FINER / (2 * _WORLD)

    def disc(centre: np.ndarray, size: float, colour: str, outline: str | None = None) -> None:
        x, y = (_WORLD + centre[0]) * scale, (_WORLD - centre[1]) * scale
        half = size * scale
        draw.ellipse((x - half, y - half, x + half, y + half), fill=colour, outline=outline, width=2)

    low, high = (_WORLD - 1.0) * scale, (_WORLD + 1.0) * scale
    draw.rectangle((low, low, high, high), outline=_GREY, width=2)
    for goal in goals:
        disc(goal, radius, _GREEN)
    for obstacle, size in zip(obstacles, radii, strict=True):
        disc(obstacle, size, _GREY, _BLACK)
    places = [((_WORLD + each[0]) * scale, (_WORLD - each[1]) * scale) for each in path]
    if len(places) > 1:
        draw.line(places, fill=_BLUE, width=3)
    for each in path[:-1]:
        disc(each, 0.015, _BLUE)
    disc(path[-1], 0.04, _ORANGE, _BLACK)
    return _averaged(image)


def actions_on_a_line(
    low: float, high: float, paying: Sequence[tuple[float, float, float]], action: float | None
) -> np.ndarray:
    """A decision of one number: the interval of actions, a green bar from a to b for each (a, b, reward) that pays,
    and the action as an orange triangle, where one was taken. Returns (SIZE, SIZE, 3) uint8."""
    image, draw = _canvas()
    side, font = SIZE * _FINER, ImageFont.load_default(14 * _FINER)
    margin, height = side * 0.1, side * 0.6

    def place(value: float) -> float:
        return margin + (value - low) / (high - low) * (side - 2 * margin)

    tallest = max(reward for *_, reward in paying)
    for start, end, reward in paying:
        top = height - side * 0.4 * reward / tallest
        draw.rectangle((place(start), top, place(end), height), fill=_GREEN)
        draw.text((place((start + end) / 2), top - 6), f"pays {reward:g}", fill=_BLACK, font=font, anchor="md")
    draw.line((margin, height, side - margin, height), fill=_BLACK, width=3)
    for end in (low, high):
        draw.text((place(end), height + 12), f"{end:g}", fill=_BLACK, font=font, anchor="mt")
    if action is None:
        draw.text((side / 2, side * 0.85), "no action yet", fill=_BLACK, font=font, anchor="mm")
    else:
        x, half = place(action), side * 0.03
        draw.line((x, side * 0.12, x, height), fill=_ORANGE, width=5)
        draw.polygon(((x, height), (x - half, height + 2 * half), (x + half, height + 2 * half)), fill=_ORANGE)
        draw.text((side / 2, side * 0.85), f"action {action:+.2f}", fill=_BLACK, font=font, anchor="mm")
    return _averaged(image)


def _canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (SIZE * _FINER, SIZE * _FINER), "white")
    return image, ImageDraw.Draw(image)


def _averaged(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX))

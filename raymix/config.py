"""Hyperparameters: declared once per algorithm, typed, and split by what they may do.

A *scalar* may differ between the members of a pack: losses see it as a tensor. A *structure* field changes shapes
or control flow, so all members of one program share it. A *schedule* field counts steps: the training loop reads
it, losses never do.

    @dataclass(frozen=True)
    class Config(AlgorithmConfig):
        beta: float = scalar(5.0, low=0, help="multiplies the advantage")
        num_components: int = structure(5, low=1, help="M, mixture components")
        mdn_steps: int = schedule(200_000, help="gradient steps of the mixture phase")
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from raymix.types import UsageError


def scalar(default: float, *, low: float = -math.inf, high: float = math.inf, help: str = "") -> Any:
    """A number that may differ between members of a pack; low <= value <= high."""
    return _field("scalar", default, help, low=low, high=high)


def structure(
    default: Any, *, low: float = -math.inf, high: float = math.inf, choices: tuple[Any, ...] = (), help: str = ""
) -> Any:
    """A value that changes shapes or control flow: part of the pack key."""
    return _field("structure", default, help, low=low, high=high, choices=choices)


def schedule(default: int, *, low: int = 0, help: str = "") -> Any:
    """A number of gradient steps, read by the training loop only."""
    return _field("schedule", default, help, low=low)


def _field(kind: str, default: Any, help: str, **limits: Any) -> Any:
    return dataclasses.field(default=default, metadata={"kind": kind, "help": help, **limits})


def kind_of(field: dataclasses.Field) -> str:
    """'scalar', 'structure' or 'schedule'."""
    return field.metadata["kind"]


@dataclass(frozen=True)
class AlgorithmConfig:
    """Base of every algorithm's hyperparameters. Values are checked on construction (`UsageError`)."""

    steps: int = schedule(1_000_000, low=1, help="gradient steps of the last phase")
    draw_block: int = structure(
        1,
        low=1,
        help="minibatches are drawn in runs of so many consecutive transitions: faster where data is larger than"
        " memory, and noisier, as neighbours are alike; every transition is as likely as ever",
    )
    precision: str = structure(
        "fp32",
        choices=("fp32", "fp32_onednn", "bf16"),
        help="of matrix products in training; fp32_onednn is faster on many CPUs with AVX-512, bf16 needs AMX or a GPU",
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))

    @classmethod
    def create(cls, values: Mapping[str, Any]) -> Self:
        """Build from a mapping; unknown names are refused with the valid ones and their defaults."""
        known = {field.name for field in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                valid = ", ".join(f"{field.name}={field.default!r}" for field in dataclasses.fields(cls))
                raise UsageError(f"unknown hyperparameter {name!r}{hint}; valid ones with their defaults: {valid}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; `create(config.to_dict())` equals `config`."""
        return {
            field.name: list(value) if isinstance(value := getattr(self, field.name), tuple) else value
            for field in dataclasses.fields(self)
        }

    def of_kind(self, kind: str) -> dict[str, Any]:
        """The values of all fields of one kind, by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if kind_of(f) == kind}

    @classmethod
    def describe(cls) -> list[dict[str, Any]]:
        """One dictionary per field: name, kind, type, default, help, and the limits that apply."""
        rows = []
        for field in dataclasses.fields(cls):
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            row: dict[str, Any] = {"name": field.name, "kind": kind_of(field), "type": type(field.default).__name__}
            row |= {"default": default, "help": field.metadata["help"]}
            for limit in ("low", "high"):
                if math.isfinite(value := field.metadata.get(limit, math.inf)):
                    row[limit] = value
            if field.metadata.get("choices"):
                row["choices"] = list(field.metadata["choices"])
            rows.append(row)
        return rows


def _checked(field: dataclasses.Field, value: Any) -> Any:
    """`value` in the field's type, or a `UsageError` that says what is allowed."""
    kind: Any = type(field.default)
    wanted = f"{field.name} (default {field.default!r})"
    given = value
    value = value.item() if isinstance(value, np.generic) else value  # Search spaces draw NumPy's numbers.
    if kind is tuple:
        # A lone number is one layer: 256 is written more naturally than (256,).
        widths = value if isinstance(value, (list, tuple)) else (value,)
        value = tuple(_whole(width) for width in widths)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is int:
        value = _whole(value)
    if type(value) is not kind:
        raise UsageError(f"{wanted} takes {_article(kind.__name__)}, not {value!r}")
    if kind is tuple:
        if not value or not all(type(width) is int and width >= 1 for width in value):
            raise UsageError(f"{wanted} takes positive whole numbers such as 256,256, not {given!r}")
        return value
    choices = field.metadata.get("choices", ())
    if choices and value not in choices:
        raise UsageError(f"{wanted} is one of {', '.join(map(repr, choices))}, not {value!r}")
    low, high = field.metadata.get("low", -math.inf), field.metadata.get("high", math.inf)
    if kind in (int, float) and not (low <= value <= high and math.isfinite(value)):
        limits = f"at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
        limits = "a finite number" if math.isinf(low) and math.isinf(high) else limits
        raise UsageError(f"{wanted} must be {limits}, not {value!r}")
    return value


def _whole(value: Any) -> Any:
    """`value` as an int where it is a whole number written as a float."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _article(name: str) -> str:
    return {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a word"}[name]

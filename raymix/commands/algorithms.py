"""The command `raymix algorithms`: the hyperparameters and what they mean."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any


def add_to(commands: Any) -> None:
    """Add the command to those of `raymix`."""
    command = commands.add_parser("algorithms", help="the algorithms and their hyperparameters")
    command.add_argument("name", nargs="?", help="show this one's hyperparameters, presets and paper")
    command.add_argument("--json", action="store_true", help="print JSON: a list of name, paper, fields")
    command.set_defaults(run=algorithms)


def algorithms(options: argparse.Namespace) -> None:
    """`raymix algorithms [NAME]`."""
    from raymix.algorithms import base

    names = [options.name] if options.name else base.names()
    found = [(name, base.find(name)) for name in names]
    if options.json:
        rows = [
            {
                "name": name,
                "paper": algorithm.paper,
                "summary": summary_of(algorithm),
                "phases": [phase.name for phase in algorithm.phases],
                "presets": {preset: dict(values) for preset, values in algorithm.presets.items()},
                "fields": algorithm.Config.describe(),
            }
            for name, algorithm in found
        ]
        print(json.dumps(rows))
        return
    if not options.name:
        width = max(map(len, names))
        for name, algorithm in found:
            print(f"{name:{width}}  {summary_of(algorithm)}\n{'':{width}}  {algorithm.paper}")
        print("\nHyperparameters of one: raymix algorithms NAME")
        return
    ((name, algorithm),) = found
    print(f"{name}: {summary_of(algorithm)}\n{algorithm.paper}\n")
    for line in preset_lines(algorithm.presets):
        print(line)
    print()
    fields = algorithm.Config.describe()
    width = max(len(f"{field['name']}={shown(field['default'])}") for field in fields)
    for field in fields:
        setting = f"{field['name']}={shown(field['default'])}"
        print(f"{setting:{width}}  {field['kind']:9}  {field['help']}")


def summary_of(algorithm: Any) -> str:
    """The first line of its docstring."""
    return (type(algorithm).__doc__ or "").strip().splitlines()[0]


def shown(value: Any) -> str:
    """A value as `--set` takes it."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


FEWEST_IN_TABLE = 4
"""Presets of the same fields that share a table instead of taking a line each."""


def preset_lines(presets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line per preset; many that set the same fields are a table of those in which they differ."""
    groups: dict[frozenset[str], list[str]] = {}
    for preset, values in presets.items():
        groups.setdefault(frozenset(values), []).append(preset)
    lines, tables = [], []
    for group in groups.values():
        if len(group) < FEWEST_IN_TABLE:
            lines += [f"preset {preset}: {_assignments(presets[preset])}" for preset in group]
            continue
        first = presets[group[0]]
        shared = {name: value for name, value in first.items() if all(presets[one][name] == value for one in group)}
        fields = [name for name in first if name not in shared]
        rows = [["preset", *fields], *([one, *(shown(presets[one][name]) for name in fields)] for one in group)]
        widths = [max(map(len, column)) for column in zip(*rows)]
        tables += ["", *("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)]
        tables += [f"all of these with {_assignments(shared)}"] if shared else []
    return lines + tables


def _assignments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={shown(value)}" for name, value in values.items())

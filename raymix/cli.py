"""The command `raymix`: thin, everything it does can be called from Python."""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import raymix
from raymix.commands import algorithms, bench, compare, data, export, jobs, play, report, reproduce, train, watch
from raymix.remote import StoreError
from raymix.types import Interrupted, SweepFailed, UsageError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. Exits with 0, 1 (failed) or 2 (bad usage)."""
    options = parser().parse_args(arguments)
    try:
        with _notes():
            options.run(options)
    except UsageError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    except StoreError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(1)
    except (Interrupted, SweepFailed, KeyboardInterrupt) as stop:
        print(str(stop) or "Stopped.", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stderr.close()
        sys.exit(1)


@contextlib.contextmanager
def _notes() -> Iterator[None]:
    """Show raymix's warnings as sentences: the line of code that gave them tells a user nothing."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message: Any, category: Any, *place: Any, **more: Any) -> None:
            if category is UserWarning:
                print(f"note: {message}", file=sys.stderr)
            else:
                show(message, category, *place, **more)

        warnings.showwarning = note  # type: ignore[assignment]
        yield


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    result = argparse.ArgumentParser(prog="raymix", description=raymix.__doc__)
    result.add_argument("--version", action="version", version=f"raymix {raymix.__version__}")
    commands = result.add_subparsers(required=True, metavar="COMMAND")
    for each in (algorithms, data, train, reproduce, bench, report, watch, compare, export, play, jobs):
        each.add_to(commands)
    return result

"""What a person sees, on stderr, of work that takes a while: a bar on a terminal, lines that can be searched elsewhere.

Imports nothing slow, so that something is seen while what is slow is imported.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Protocol

EVERY_S = 10.0
"""How often a line is printed where there is no terminal."""


class Tell(Protocol):
    """Says how far the work is; `total` is None where that is not known, `label` where it is what it was."""

    def __call__(self, done: float, total: float | None, label: str | None = None) -> None: ...


@contextlib.contextmanager
def shown(label: str, quiet: bool = False, at_once: bool = True) -> Iterator[Tell]:
    """Show `label`, how much is done and the time, for as long as the context lasts; nothing if `quiet`.

    A bar on a terminal, gone when done. Elsewhere a line now, unless `at_once` is False, and one every 10 seconds.
    """
    if quiet:
        yield lambda done, total, label=None: None
    elif sys.stderr.isatty():
        with _bar(label) as tell:
            yield tell
    else:
        with _lines(label, at_once) as tell:
            yield tell


@contextlib.contextmanager
def _bar(label: str) -> Iterator[Tell]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    # Names may hold brackets, which are no markup.
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)

        def tell(done: float, total: float | None, label: str | None = None) -> None:
            bar.update(task, completed=done, total=total, description=label)

        yield tell


@contextlib.contextmanager
def _lines(label: str, at_once: bool) -> Iterator[Tell]:
    started, over = time.monotonic(), threading.Event()
    state: tuple[str, float, float | None] = (label, 0.0, None)

    def tell(done: float, total: float | None, label: str | None = None) -> None:
        nonlocal state
        state = label or state[0], done, total

    def report() -> None:
        while not over.wait(EVERY_S):
            said, done, total = state
            share, elapsed = done / total if total else 0.0, time.monotonic() - started
            parts = [
                *([f"{share:.0%} done"] if total else []),
                f"{duration(elapsed)} so far",
                *([f"about {duration(elapsed * (1 - share) / share)} left"] if share else []),
            ]
            print(f"{said}: {', '.join(parts)}", file=sys.stderr, flush=True)

    if at_once:
        print(f"{label} ...", file=sys.stderr, flush=True)
    reporter = threading.Thread(target=report, name="waiting", daemon=True)
    reporter.start()
    try:
        yield tell
    finally:
        over.set()
        reporter.join()


def duration(seconds: float) -> str:
    """Such as 45 s, 3 min 20 s, or 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"

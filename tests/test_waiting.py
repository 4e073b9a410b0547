"""What is shown of work that takes a while: from its beginning on, on a terminal and elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

import raymix
from raymix import waiting
from raymix.cli import main
from raymix.waiting import duration, shown


def test_lines_come_at_once_and_then_by_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(waiting, "EVERY_S", 0.02)
    with shown("making [a] + b") as tell:
        assert capsys.readouterr().err == "making [a] + b ...\n"
        time.sleep(0.1)
        assert "making [a] + b: 0 s so far\n" in capsys.readouterr().err  # though nothing was told
        tell(1, 4)
        time.sleep(0.1)
        assert "making [a] + b: 25% done, 0 s so far, about " in capsys.readouterr().err
        tell(2, 4, "other work")
        time.sleep(0.1)
        assert "other work: 50% done" in capsys.readouterr().err
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_what_is_over_soon_or_quiet_prints_nothing(capsys: pytest.CaptureFixture) -> None:
    for told in ({"at_once": False}, {"quiet": True}):
        with shown("making", **told) as tell:
            tell(1, 2)
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_a_bar_at_once_and_no_trace_of_it_at_the_end() -> None:
    """As a process of its own on a pseudo-terminal, on which rich draws as on any."""
    code = (
        "import time\nfrom raymix.waiting import shown\n"
        "with shown('fitting [x]') as tell:\n    time.sleep(0.5)\n    tell(1, 2)\n    time.sleep(0.5)\n"
    )
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen([sys.executable, "-c", code], stderr=slave, stdin=slave, env=environment) as process:
        os.close(slave)
        drawn = b""
        while b"left" not in drawn:
            drawn += os.read(master, 4096)
        assert process.poll() is None and b"fitting [x]" in drawn
        try:
            while more := os.read(master, 4096):
                drawn += more
        except OSError:  # the other end is closed
            pass
    os.close(master)
    assert process.returncode == 0 and drawn.endswith(b"\x1b[2K")  # the line is cleared


def test_fitting_modes_shows_itself_before_torch_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAYMIX_DATASETS_PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "raymix.modes", None)  # its import fails,
    monkeypatch.delattr(raymix, "modes", raising=False)  # also where another test has imported it before
    with pytest.raises(ImportError):
        main(["data", "modes", "two-modes"])
    assert capsys.readouterr().err.startswith("fitting mixtures ...\n")


@pytest.mark.parametrize(("seconds", "told"), [(45.4, "45 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_durations(seconds: float, told: str) -> None:
    assert duration(seconds) == told

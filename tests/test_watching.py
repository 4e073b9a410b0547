"""A running sweep as Ray's dashboard and Prometheus see it: the names of its processes, and its gauges."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families
from test_packed_sweep import PACKED

from raymix import ledger
from raymix.plan import SweepSpec, read_description
from raymix.sweep import Options, run
from raymix.watching.gauges import GAUGES, Pace, best_before, better

STEPS = 900
# In a process of its own: what asks Ray for its actors keeps a connection, and Ray ends a process that has one to a Ray
# that is gone.
ACTORS = """
import json, sys
from ray.util.state import list_actors
found = list_actors(address=sys.argv[1], detail=True)
print(json.dumps([[one.actor_id, one.class_name, one.repr_name or one.name] for one in found]))
"""


def specification(folder: Path) -> SweepSpec:
    """Five trials of two seeds, two to a pack of four seats."""
    path = folder / "small_sweep.py"
    path.write_text(PACKED)
    module = importlib.util.module_from_spec(found := importlib.util.spec_from_file_location("small_sweep", path))  # type: ignore[arg-type]
    found.loader.exec_module(module)  # type: ignore[union-attr]
    return module.SPEC.replace(steps=STEPS)


class Looks:
    """What Ray shows of a sweep in this process, looked at every second in a thread of its own."""

    def __init__(self) -> None:
        self.scrapes: list[tuple[float, dict[str, tuple[dict[str, str], float]]]] = []
        """Unix seconds; labels and value by name."""
        self.actors: dict[str, tuple[str, str]] = {}
        """Class and name."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Looks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(1.0):
            try:
                (node,) = ray.nodes()
                url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
                text = urllib.request.urlopen(url, timeout=5).read().decode()
                asked = [sys.executable, "-c", ACTORS, ray.get_runtime_context().gcs_address]
                found = json.loads(subprocess.run(asked, check=True, capture_output=True, timeout=30).stdout)
            except Exception:  # before Ray has started, and when it ends
                continue
            self.actors.update((actor_id, (kind, name)) for actor_id, kind, name in found)
            families = [family for family in text_string_to_metric_families(text) if "raymix" in family.name]
            samples = [sample for family in families for sample in family.samples]
            assert len({sample.name for sample in samples}) == len(samples), "one series per gauge"
            self.scrapes.append((time.time(), {sample.name: (sample.labels, sample.value) for sample in samples}))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Looks]:
    """A whole sweep on a Ray of its own: its run, and what was seen of it meanwhile."""
    folder = tmp_path_factory.mktemp("watched")
    with Looks() as looks:
        report = run([specification(folder)], "small", Options(str(folder / "runs"), quiet=True, capture="eager"))
    return Path(report.run_dir), looks


def series(looks: Looks, name: str) -> list[float]:
    return [values[f"ray_{name}"][1] for _, values in looks.scrapes if f"ray_{name}" in values]


def test_every_gauge_is_exported_with_two_tags_of_ours(watched: tuple[Path, Looks]) -> None:
    run_dir, looks = watched
    _, last = looks.scrapes[-1]
    assert last.keys() == {f"ray_{name}" for name in GAUGES}
    for labels, _ in last.values():
        assert (labels["sweep"], labels["run"]) == ("small", run_dir.name)
        ours = {name for name in labels if not name.startswith("otel_")}
        assert ours <= {"sweep", "run", "Component", "NodeAddress", "SessionName", "Version", "WorkerId", "JobId"}


def test_the_gauges_are_right(watched: tuple[Path, Looks]) -> None:
    """Catches scores of the wrong phase or seeds, and trials, seats and waits that were miscounted."""
    run_dir, looks = watched
    assert set(series(looks, "raymix_trials")) == {5.0} and set(series(looks, "raymix_trials_failed")) == {0.0}
    assert set(series(looks, "raymix_seats")) <= {0.0, 4.0, 8.0} and 0 < max(series(looks, "raymix_seats_used")) <= 8
    done, running = series(looks, "raymix_trials_done"), series(looks, "raymix_trials_running")
    assert done == sorted(done) and 0 < max(running) <= 4 and all(map(lambda *of: sum(of) <= 5, done, running))

    rows = [row for row in ledger.rows(ledger.read(str(run_dir / "ledger"))) if row.phase == "main"]
    scores = defaultdict(list)
    for row in rows:
        scores[row.config_id, row.step].append((row.wall_time, float(np.mean(row.returns))))
    means = dict(tuple(np.mean(found, axis=0)) for found in scores.values())
    for taken, values in looks.scrapes:
        if "ray_raymix_best_score" in values:
            best = values["ray_raymix_best_score"][1]
            assert any(math.isclose(best, score) for moment, score in means.items() if moment < taken)
    assert best <= max(means.values()) and math.isclose(
        max(means.values()), best_before(read_description(run_dir), run_dir)
    )

    assert any(speed > 0 for speed in series(looks, "raymix_agent_steps_per_second"))
    waits = series(looks, "raymix_evaluation_wait_seconds")
    assert waits and all(0 < wait < 30 for wait in waits)


def test_actors_say_what_they_do(watched: tuple[Path, Looks]) -> None:
    run_dir, looks = watched
    trials = read_description(run_dir)["trials"]
    what = f"{trials[0]['algorithm']} on {trials[0]['dataset']}"
    named = defaultdict(set)
    for kind, name in looks.actors.values():
        named[kind].add(name)
    assert named["Pack"] - {""} == {f"{run_dir.name}: pack of 4 seats, {what}"}
    labels = {f"{run_dir.name}: began with {what}, {trial['label']}" for trial in trials}
    assert named["Trial"] - {""} <= labels and len(named["Trial"] - {""}) > 1
    assert named["Broker"] == {f"{run_dir.name}, attempt 1: broker of seats"}
    assert f"{run_dir.name}, attempt 1: policies are played 1 of" in min(named["RolloutActor"])


def test_a_pace_goes_by_whole_steps_and_falls_where_one_is_overdue() -> None:
    pace = Pace(0, 10.0)
    assert pace.seen(0, 11.0) == 0.0
    assert pace.seen(60, 16.0) == 10.0
    assert pace.seen(60, 21.0) == 10.0
    assert pace.seen(60, 28.0) == 5.0
    assert pace.seen(240, 28.0) == 15.0


def test_the_better_score_is_never_nan() -> None:
    assert better(math.nan, 1.0, less=False) == better(1.0, math.nan, less=True) == 1.0
    assert (better(1.0, 2.0, less=False), better(1.0, 2.0, less=True)) == (2.0, 1.0)

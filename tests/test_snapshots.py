"""Parameters kept at each report, and the figures of trajectory embeddings made from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from raymix import snapshots
from raymix.algorithms import base
from raymix.cli import main
from raymix.job import checkpoint_folders, job_of
from raymix.plan import read_description
from raymix.report.embeddings import CODES, POLICY, TRAJECTORIES, Panel, embedding_figure, principal_plane

POINTS = [("behavior", 5), ("behavior", 10), ("behavior", 12), ("main", 5), ("main", 10)]
PNG = b"\x89PNG\r\n"


def train(capsys: pytest.CaptureFixture, *arguments: str) -> Path:
    """`raymix train`; the run's folder."""
    capsys.readouterr()
    main(["train", *arguments, "--eager", "--json"])
    return Path(json.loads(capsys.readouterr().out)["run"])


@pytest.fixture
def run(capsys: pytest.CaptureFixture, tmp_path: Path) -> Path:
    settings = {"policy_hidden_dims": "8,", "critic_hidden_dims": "8,", "batch_size": "16", "behavior_steps": "12"}
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    words += ["--steps", "10", "--seeds", "2", "--evaluate-every", "5", "--episodes", "1", "--storage", str(tmp_path)]
    return train(capsys, "lbrac_v", "--dataset", "two-modes", *words)


def test_each_report_keeps_each_seed_once(run: Path) -> None:
    """Catches a report without its snapshot, one seed's parameters under another's name, and those of a later step."""
    found = snapshots.find(run)
    assert sorted((each.phase, each.step, each.seed) for each in found) == sorted(
        (phase, step, seed) for phase, step in POINTS for seed in (0, 1)
    )
    assert len(list(Path(run, "snapshots").rglob("*"))) == 1 + len(found), "something else lies there"
    plan = read_description(run)
    newest = checkpoint_folders(job_of(plan, plan["trials"][0], run, "cpu", "eager"))[-1]
    for each in found:
        assert set(each.read()) == set(base.find("lbrac_v").snapshots)
        if (each.phase, each.step) == POINTS[-1]:
            with np.load(newest / f"member-{each.seed}.npz") as member:
                for name, value in each.read().items():
                    np.testing.assert_array_equal(value, member[f"parameters/{name}"])
    by_report = [each.read()[TRAJECTORIES] for each in found]
    assert all(not np.array_equal(a, b) for i, a in enumerate(by_report) for b in by_report[:i])


def test_a_resumed_run_writes_lost_snapshots_again(run: Path, capsys: pytest.CaptureFixture) -> None:
    """Catches a resume that skips them, doubles them, or writes other numbers.

    A power cut before the last report's ledger rows: its snapshot may be there, be gone, or be that of nobody.
    """
    before = {each.path: each.read() for each in snapshots.find(run)}
    last = [each for each in snapshots.find(run) if (each.phase, each.step) == POINTS[-1]]
    last[0].path.unlink()
    last[1].path.write_bytes(b"half")
    max(run.glob("ledger/*.parquet"), key=lambda path: path.stat().st_mtime_ns).unlink()
    train(capsys, "lbrac_v", "--resume", str(run))
    after = {each.path: each.read() for each in snapshots.find(run)}
    assert after.keys() == before.keys()
    for path, arrays in before.items():
        for name, value in arrays.items():
            np.testing.assert_array_equal(after[path][name], value)


def test_report_draws_each_phase_of_the_first_seed(run: Path, capsys: pytest.CaptureFixture) -> None:
    """Catches a figure that is not written, a name that says the wrong seed, and figures made without being asked."""
    assert not list(run.glob("report/embeddings*"))
    main(["report", str(run), "--embeddings", "--json"])
    (config,) = {each.config_id for each in snapshots.find(run)}
    expected = [str(run / "report" / f"embeddings-{config}-{phase}-seed0.png") for phase in ("behavior", "main")]
    assert json.loads(capsys.readouterr().out)["figures"] == expected
    assert all(Path(path).read_bytes().startswith(PNG) for path in expected)


@pytest.mark.parametrize("options", [[], ["--metric", "return"]])
def test_a_run_without_embeddings_is_refused(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Catches a traceback, an empty figure, and an option that is ignored."""
    run = train(capsys, "bc", "--dataset", "two-modes", "--steps", "5", "--storage", str(tmp_path))
    assert not Path(run, "snapshots").exists()
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(run), "--embeddings", *options])
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    assert ("leave out" if options else "lbrac_v") in message
    assert not list(run.glob("report/embeddings*"))


def test_the_plane_is_that_of_most_variance() -> None:
    """Catches rows that are not centred, directions in the wrong order, and a sign that changes from run to run."""
    generator = np.random.default_rng(0)
    directions = np.linalg.qr(generator.standard_normal((5, 5)))[0]
    spread = np.array([0.1, 3.0, 0.2, 1.0, 0.0])
    rows = 7.0 + (generator.standard_normal((4000, 5)) * spread) @ directions.T
    basis, shares = principal_plane(rows)
    for found, expected in zip(basis, (directions[:, 1], directions[:, 3]), strict=True):
        assert abs(found @ expected) > 0.999
        assert found[np.abs(found).argmax()] > 0
    assert shares == pytest.approx(spread[[1, 3]] ** 2 / (spread**2).sum(), rel=0.1)


@pytest.mark.parametrize(("trajectories", "codes", "size"), [(1, 1, 1), (1, 3, 8), (6, 20, 2)])
def test_a_figure_of_little_data_and_of_a_diverged_report(
    trajectories: int, codes: int, size: int, tmp_path: Path
) -> None:
    """Catches a plane that does not exist (one trajectory, one dimension), and NaN in a snapshot."""
    generator = np.random.default_rng(0)
    shapes = {TRAJECTORIES: trajectories, CODES: codes, POLICY: 1}
    arrays = {name: generator.standard_normal((number, size)) for name, number in shapes.items()}
    broken = {name: np.full_like(value, np.nan) for name, value in arrays.items()}
    path = tmp_path / "figure.png"
    percentiles = np.full(trajectories, 50.0)
    panels = [Panel("10 steps", arrays, percentiles), Panel("20 steps", broken, percentiles)]
    embedding_figure(panels, "title", str(path), with_policy=True)
    assert path.read_bytes().startswith(PNG)
    assert base.find("lbrac_v").snapshots == (TRAJECTORIES, CODES, POLICY)

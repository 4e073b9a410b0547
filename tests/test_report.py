"""Reports from a synthetic ledger: the numbers, the table, the figure, the files."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from raymix import ledger, plan
from raymix.ledger import LedgerWriter, Row
from raymix.report import find_run, write_report
from raymix.report.figures import folded_fields, series_of
from raymix.report.statistics import interquartile_mean, interval, summarize
from raymix.report.tables import records, render, score_table, swept_fields
from raymix.types import UsageError

DATASET = "raymix/toy-v0"
OFFSETS = (-1.0, 0.0, 1.0)
"""What the three seeds of `add` add to a score."""


def add(
    run: Path,
    config: dict[str, Any],
    score: float,
    *,
    algorithm: str = "lom",
    dataset: str = DATASET,
    seeds: int = 3,
    steps: tuple[int, ...] = (100, 200, 300),
    diverged: tuple[int, ...] = (),
    references: tuple[float | None, float | None] = (0.0, 50.0),
) -> None:
    """One configuration as a sweep writes it: a phase `mixture` that is not evaluated, then `main`.

    At step n seed s scores `score * n / 300 + OFFSETS[s % 3]`.
    """
    config = {"steps": 300, "lr": 3e-4} | config
    identifier = ledger.config_id(algorithm, dataset, "abc", config)
    writer = LedgerWriter(str(run / "ledger"), identifier, ledger.next_attempt(str(run / "ledger"), identifier))
    (run / "sweep.json").write_text("{}")
    for phase, step in [("mixture", 500), *(("main", step) for step in steps)]:
        chunk = []
        for seed in range(seeds):
            mean = score * step / 300 + OFFSETS[seed % 3]
            returns = (mean - 2, mean + 2) if phase == "main" else ()
            chunk.append(
                Row(
                    run=run.name,
                    seed=seed,
                    phase=phase,
                    step=step,
                    dataset=dataset,
                    dataset_hash="abc",
                    algorithm=algorithm,
                    config=config,
                    returns=returns,
                    lengths=(50,) * len(returns),
                    diverged=phase == "main" and seed in diverged,
                    agent_seconds=1.0,
                    wall_time=1.7e9,
                    version="0.1.0",
                    reference_min=references[0],
                    reference_max=references[1],
                )
            )
        writer.append(chunk)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "lom_M-1"
    folder.mkdir()
    return folder


def frame_of(run: Path, **choices: Any) -> Any:
    return score_table(ledger.read(str(run / "ledger")), **choices)


def test_few_values_have_a_student_interval() -> None:
    # By hand: mean 94, standard error 2 / sqrt(3), t(0.975, 2) = 4.302653.
    low, high = interval([92.0, 94.0, 96.0]) or (0.0, 0.0)
    assert (low, high) == pytest.approx((94 - 4.968276, 94 + 4.968276), abs=1e-5)
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0]
    expected = stats.t.interval(0.9, 8, np.mean(values), stats.sem(values))
    assert interval(values, confidence=0.9) == pytest.approx(expected)


def test_many_values_have_the_same_bootstrap_interval_every_time() -> None:
    values = np.random.default_rng(1).normal(50.0, 10.0, size=40)
    low, high = interval(list(values)) or (0.0, 0.0)
    assert (low, high) == interval(list(values))
    half = 1.96 * stats.sem(values)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.2 * half)


def test_intervals_at_the_edges() -> None:
    assert interval([]) is None and interval([1.0, 2.0]) is None
    assert interval([7.0] * 3) == (7.0, 7.0) and interval([7.0] * 12) == (7.0, 7.0)
    with pytest.raises(UsageError, match="finite"):
        interval([1.0, 2.0, math.nan])
    with pytest.raises(UsageError, match="between 0 and 1"):
        interval([1.0, 2.0, 3.0], confidence=95)


def test_a_summary_counts_diverged_seeds_and_leaves_them_out() -> None:
    summary = summarize([1.0, math.nan, 3.0, math.inf])
    assert (summary.mean, summary.seeds, summary.diverged, summary.interval) == (2.0, 4, 2, None)
    assert summary.std == pytest.approx(math.sqrt(2))
    nothing = summarize([math.nan])
    assert math.isnan(nothing.mean) and math.isnan(nothing.std) and math.isnan(nothing.iqm)
    # A quarter of eight is cut from each end: the mean of 3, 4, 5, 6.
    assert interquartile_mean([100.0, 1, 2, 3, 4, 5, 6, -100.0]) == pytest.approx(np.mean([2, 3, 4, 5]))


def test_the_table_shows_swept_fields_in_natural_order(run: Path) -> None:
    for components in (10, 5, 1):
        add(run, {"num_components": components}, 90.0 + components)
    frame = frame_of(run)
    assert swept_fields(frame) == ["num_components"]
    assert list(frame["num_components"]) == [1, 5, 10]
    assert frame["scores"][1] == pytest.approx([94.0, 95.0, 96.0])
    assert frame["mean"][1] == pytest.approx(95.0) and frame["std"][1] == pytest.approx(1.0)
    assert (frame["low"][1], frame["high"][1]) == pytest.approx(interval([94.0, 95.0, 96.0]))
    assert list(frame["seeds"]) == [3, 3, 3] and list(frame["step"]) == [300, 300, 300] and all(frame["finished"])
    assert render(frame) == (
        "lom: undiscounted return on raymix/toy-v0, at the last evaluation\n\n"
        "num_components | return per seed     |  mean | 95 % interval | step\n"
        "---------------+---------------------+-------+---------------+-----\n"
        "             1 |  90.0   91.0   92.0 |  91.0 |  88.5 to 93.5 |  300\n"
        "             5 |  94.0   95.0   96.0 |  95.0 |  92.5 to 97.5 |  300\n"
        "            10 |  99.0  100.0  101.0 | 100.0 | 97.5 to 102.5 |  300"
    )


def test_scores_by_other_rules_and_metrics(run: Path) -> None:
    add(run, {}, 30.0, steps=(75, 150, 300, 225))
    add(run, {"lr": 1e-3}, 60.0)
    assert list(frame_of(run)["mean"]) == pytest.approx([30.0, 60.0])
    assert list(frame_of(run, select="mean_last_3")["mean"]) == pytest.approx([22.5, 40.0])
    assert list(frame_of(run, select="best")["mean"]) == pytest.approx([30.0, 60.0])
    assert "oracle" in render(frame_of(run, select="best"))
    normalized = frame_of(run, metric="normalized_score")
    assert list(normalized["mean"]) == pytest.approx([60.0, 120.0])
    assert "score per seed" in render(normalized)
    for wrong in ({"select": "first"}, {"metric": "loss"}):
        with pytest.raises(UsageError, match="is one of"):
            frame_of(run, **wrong)
    add(run, {"lr": 1e-2}, 60.0, references=(None, None))
    with pytest.raises(UsageError, match="no reference scores"):
        frame_of(run, metric="normalized_score")


def test_diverged_seeds_are_shown(run: Path) -> None:
    add(run, {"num_components": 1}, 50.0, diverged=(0, 2))
    add(run, {"num_components": 5}, 50.0, diverged=(0, 1, 2))
    frame = frame_of(run)
    assert list(frame["diverged"]) == [2, 3]
    assert frame["mean"][0] == pytest.approx(50.0) and math.isnan(frame["mean"][1])
    text = render(frame)
    assert "2 of 3 seeds diverged" in text and "3 of 3 seeds diverged" in text and "needs 3 seeds" in text
    assert "diverged      50.0  diverged" in text and "diverged  diverged  diverged" in text
    assert records(frame)[0]["scores"] == ["diverged", pytest.approx(50.0), "diverged"]
    assert records(frame)[1]["mean"] is None


def test_unfinished_configurations_say_where_they_are(run: Path) -> None:
    add(run, {"num_components": 1}, 50.0)
    add(run, {"num_components": 5}, 50.0, steps=(100, 200))
    add(run, {"num_components": 10}, 50.0, steps=())
    frame = frame_of(run)
    assert list(frame["finished"]) == [True, False, False]
    assert list(frame["phase"]) == ["main", "main", "mixture"] and list(frame["step"]) == [300, 200, 500]
    lines = render(frame).splitlines()
    assert "unfinished, in phase main" in lines[-2]
    assert lines[-1].split(" | ")[1].split() == ["...", "...", "..."]
    assert "unfinished, in phase mixture" in lines[-1]
    json.dumps(records(frame), allow_nan=False)


PHASES = {"lom": [["mixture", "mixture_steps"], ["main", "steps"]]}


def describe_run(run: Path, configs: list[dict[str, Any]], **facts: Any) -> None:
    """A `sweep.json` as `raymix.plan.describe` writes it, as far as reports read it."""
    ids = [ledger.config_id("lom", DATASET, "abc", {"steps": 300, "lr": 3e-4} | config) for config in configs]
    description = {"phases": PHASES, "trials": [{"config_id": name} for name in ids]}
    plan.write_description(run, description | facts)


def test_a_first_phase_is_not_taken_for_the_last(run: Path) -> None:
    """The ledger alone cannot know that another phase follows; its step is past `steps` by chance."""
    add(run, {"mixture_steps": 800}, 50.0, steps=())
    assert frame_of(run)["finished"][0]
    assert not frame_of(run, phases=PHASES)["finished"][0]
    describe_run(run, [{"mixture_steps": 800}])
    assert "unfinished, in phase mixture" in write_report(str(run)).text


def test_a_phase_ends_at_its_own_number_of_steps(run: Path) -> None:
    add(run, {"main_steps": 200}, 50.0, steps=(100, 200))
    phases = {"lom": [["mixture", "mixture_steps"], ["main", "main_steps"]]}
    assert frame_of(run, phases=phases)["finished"][0] and not frame_of(run)["finished"][0]
    # Rows of a phase that the plan does not know: shown, not an error.
    assert not frame_of(run, phases={"lom": [["other", "other_steps"]]})["finished"][0]


def test_planned_configurations_without_rows_are_counted(run: Path) -> None:
    configs = [{"num_components": components} for components in (1, 5, 10)]
    add(run, configs[0], 50.0)
    describe_run(run, configs)
    report = write_report(str(run))
    assert report.text.endswith("\n\n2 of 3 configurations have no results yet") and len(report.frame) == 1
    add(run, configs[1], 50.0)
    describe_run(run, configs)
    assert write_report(str(run)).text.endswith("\n\n1 of 3 configurations has no results yet")
    add(run, configs[2], 50.0)
    describe_run(run, configs)
    assert "no results yet" not in write_report(str(run)).text


def test_a_report_follows_the_plan_unless_it_is_told(run: Path) -> None:
    add(run, {}, 30.0, steps=(75, 150, 300, 225))
    describe_run(run, [{}], select="mean_last_3", metric="normalized_score")
    frame = write_report(str(run)).frame
    assert (frame["select"][0], frame["metric"][0], frame["mean"][0]) == (
        "mean_last_3",
        "normalized_score",
        pytest.approx(45.0),
    )
    frame = write_report(str(run), select="last", metric="return").frame
    assert (frame["select"][0], frame["metric"][0], frame["mean"][0]) == ("last", "return", pytest.approx(30.0))
    damaged = (run / "sweep.json").read_text().replace("mean_last_3", "best")
    for content in (damaged, "", None):
        (run / "sweep.json").unlink()
        if content is not None:
            (run / "sweep.json").write_text(content)
        frame = write_report(str(run)).frame
        assert (frame["select"][0], frame["metric"][0]) == ("last", "return")


def test_equal_seeds_do_not_pass_for_certainty(run: Path) -> None:
    add(run, {}, 50.0, seeds=7, diverged=(1, 2, 4, 5))  # seeds 0, 3 and 6 score alike
    text = render(frame_of(run))
    assert "seeds equal" in text and "49.0 to 49.0" not in text


def test_several_algorithms_and_data_sets_share_a_report(run: Path) -> None:
    for dataset in (DATASET, "mujoco/hopper/medium-v0"):
        for components in (1, 5):
            add(run, {"num_components": components, "hidden_dims": [8, 8]}, 80.0, dataset=dataset)
        add(run, {"hidden_dims": [8, 8]}, 60.0, dataset=dataset, algorithm="bc")
    frame = frame_of(run)
    assert list(frame["algorithm"]) == ["bc", "lom", "lom"] * 2
    assert list(frame["num_components"]) == [None, 1, 5] * 2
    blocks = render(frame).split("\n\nundiscounted")
    assert len(blocks) == 2 and "bc        |              - |" in blocks[0]


def read_png(path: str) -> np.ndarray:
    import matplotlib.image

    return np.asarray(matplotlib.image.imread(path))


def test_a_report_writes_its_files_whole(run: Path) -> None:
    for components in (1, 5, 20):
        add(run, {"num_components": components}, 80.0, diverged=(1,) if components == 20 else ())
    report = write_report(str(run))
    assert sorted(os.listdir(run / "report")) == ["scores.csv", "scores.png", "scores.txt"]
    assert Path(report.txt).read_text() == report.text + "\n" and report.run_dir == str(run)
    with open(report.csv, newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["num_components"] for line in lines] == ["1", "5", "20"]
    assert float(lines[0]["mean"]) == pytest.approx(80.0) and lines[2]["low"] == ""
    assert lines[2]["scores"].split()[1] == "diverged"
    image = read_png(report.png)
    assert image.shape[:2] == (520, 700) and image[..., :3].std() > 0.05
    again = write_report(str(run))
    assert again.text == report.text and np.array_equal(read_png(again.png), image)


def drawn(number: int) -> dict[str, Any]:
    """A configuration as a search draws it: no two have a value in common."""
    rates = {f"{network}_learning_rate": 1.2345e-5 * 1.9**number for network in ("critic", "policy")}
    return {"beta": 0.12345 * 1.7**number, "num_components": 5 + 15 * (number % 2), **rates}


@pytest.mark.parametrize(
    ("configs", "width"),
    [
        ([("lom", {}), ("bc", {}), ("mdn", {})], 700),
        ([("lom", {"num_components": 1}), ("lom", {"num_components": 5}), ("bc", {})], 700),
        ([("lom", {"mode": "argmax"}), ("lom", {"mode": "sample"})], 700),
        ([("lom", {"lr": lr, "beta": beta}) for lr in (1e-4, 1e-2) for beta in (1.0, 5.0)], 700),
        ([("lom", drawn(number)) for number in range(6)], 700),
        ([("lom", {"hidden_dims": [8]}), ("lom", {"hidden_dims": [8, 8]})], 1400),
    ],
    ids=["algorithms", "with-level", "words", "two-fields", "searched", "two-data-sets"],
)
@pytest.mark.filterwarnings("error")  # matplotlib's, where a legend leaves no room for the axes
def test_every_kind_of_sweep_has_a_figure(run: Path, configs: list[tuple[str, dict[str, Any]]], width: int) -> None:
    for dataset in (DATASET, "raymix/other-v0")[: width // 700]:
        for algorithm, config in configs:
            add(run, config, 50.0, algorithm=algorithm, dataset=dataset, seeds=2)
    assert read_png(write_report(str(run)).png).shape[:2] == (520, width)


def test_another_rule_leaves_the_runs_own_report_as_it_was(run: Path) -> None:
    add(run, {}, 60.0)
    own = Path(write_report(str(run)).csv)
    before = own.read_bytes()
    other = write_report(str(run), select="mean_last_3")
    assert (Path(other.csv).name, other.frame["mean"][0]) == ("scores-mean_last_3.csv", pytest.approx(40.0))
    assert own.read_bytes() == before


def test_what_a_search_draws_has_no_colours_beside_another_algorithm_either(run: Path) -> None:
    for number in range(4):
        add(run, drawn(number), 50.0)
    add(run, {}, 50.0, algorithm="bc")
    frame = write_report(str(run)).frame
    rates = ["beta", "critic_learning_rate", "policy_learning_rate"]
    assert folded_fields(frame, "num_components") == rates
    (one, other) = series_of(frame, "num_components", rates)
    assert (one.name, other.name) == ("bc", "lom")


def test_the_legend_has_values_by_size() -> None:
    """A search's configurations are in the order of the first field, so that others come in any."""
    rows = [{"algorithm": "lom", "beta": beta, "num_components": m} for beta, m in ((0.1, 20), (0.2, 5), (0.3, 10))]
    found = series_of(pd.DataFrame(rows), "beta", [])
    assert [one.name for one in found] == ["num_components=5", "num_components=10", "num_components=20"]


def test_the_newest_run_of_a_root_is_reported(tmp_path: Path) -> None:
    for age, name in enumerate(["b", "c", "a"]):
        (tmp_path / name).mkdir()
        add(tmp_path / name, {}, 10.0)
        os.utime(tmp_path / name / "sweep.json", (1e9 - age, 1e9 - age))
    (tmp_path / "no run").mkdir()
    assert find_run(str(tmp_path)) == tmp_path / "b"
    assert find_run(str(tmp_path / "a")) == tmp_path / "a"
    assert write_report(str(tmp_path)).run_dir == str(tmp_path / "b")


def test_a_run_without_results_is_no_newest_run(tmp_path: Path) -> None:
    for name in ("old", "started"):
        (tmp_path / name).mkdir()
    add(tmp_path / "old", {}, 10.0)
    os.utime(tmp_path / "old" / "sweep.json", (1e9, 1e9))
    (tmp_path / "started" / "sweep.json").write_text("{}")
    (tmp_path / "started" / "ledger").mkdir()
    (tmp_path / "started" / "ledger" / ".0123.tmp").write_text("half a segment")
    assert find_run(str(tmp_path)) == tmp_path / "old"
    add(tmp_path / "started", {}, 10.0)
    assert find_run(str(tmp_path)) == tmp_path / "started"


def test_folders_without_results_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        write_report(str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="is no run and holds none"):
        write_report(str(tmp_path))
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(UsageError, match="has no ledger yet"):
        write_report(str(tmp_path))
    (tmp_path / "ledger").mkdir()
    with pytest.raises(UsageError, match="no results yet"):
        write_report(str(tmp_path))


def test_a_report_folder_that_cannot_be_written_is_named(run: Path) -> None:
    add(run, {}, 10.0)
    (run / "report").write_text("in the way")
    with pytest.raises(UsageError, match="cannot write the report to"):
        write_report(str(run))


def test_reports_import_neither_torch_nor_ray() -> None:
    modules = "raymix.ledger, raymix.report.figures, raymix.report.beside_papers"
    code = f"import sys, {modules}; print({{'torch', 'ray'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"

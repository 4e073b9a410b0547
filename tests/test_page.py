"""The interactive page from synthetic ledgers: its numbers are those of the tables, and no data in it is code."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from test_comparison import make
from test_report import PHASES, add, describe_run

from raymix import ledger
from raymix.cli import main
from raymix.ledger import LedgerWriter, Row
from raymix.report import page_facts as facts_module
from raymix.report.comparison import aggregate_table, online_table, wide_table
from raymix.report.page import page
from raymix.report.page_facts import bands, curve, page_facts
from raymix.report.runs import read_runs
from raymix.report.sensitivity import sentences
from raymix.report.statistics import interval

OTHER = "raymix/other-v0"


def facts_in(path: Path) -> dict[str, Any]:
    """The facts inside of a page, as a browser reads them."""
    (text,) = re.findall(r'<script type="application/json" id="facts">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(text)


def put(run: Path, config: dict[str, Any], scores: list[float], metric: str = "return", **changes: Any) -> str:
    """One configuration with these scores of its seeds at step 300; returns its id."""
    identifier = ledger.config_id("lom", "raymix/toy-v0", "abc", {"steps": 300} | config)
    writer = LedgerWriter(str(run / "ledger"), identifier, ledger.next_attempt(str(run / "ledger"), identifier))
    (run / "sweep.json").touch()
    facts: dict[str, Any] = {"step": 300, "agent_seconds": 1.0, "wall_time": 1.7e9} | changes
    writer.append(
        Row(
            run=run.name,
            seed=seed,
            phase="main",
            dataset="raymix/toy-v0",
            dataset_hash="abc",
            algorithm="lom",
            config={"steps": 300} | config,
            returns=(score,) if metric == "return" else (),
            lengths=(50,) if metric == "return" else (),
            metrics={} if metric == "return" else {metric: score},
            version="0.1.0",
            **facts,
        )
        for seed, score in enumerate(scores)
    )
    return identifier


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """M = 1, 5, 10 by two learning rates on two data sets, and bc on the first; a seed of one diverged."""
    run = make(tmp_path, "grid")
    for dataset, more in (("raymix/toy-v0", 0.0), (OTHER, 5.0)):
        for components, score in ((1, 50.0), (5, 70.0), (10, 60.0)):
            for lr in (1e-3, 1e-4):
                gone = (1,) if (components, lr, dataset) == (10, 1e-3, OTHER) else ()
                add(
                    run,
                    {"num_components": components, "lr": lr},
                    score + more + 1e3 * lr,
                    dataset=dataset,
                    diverged=gone,
                )
    add(run, {}, 40.0, algorithm="bc")
    return run


def test_every_number_of_the_page_is_that_of_the_tables(grid: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    main(["report", str(grid), "--html", str(path), "--baseline", "bc"])
    facts, runs = facts_in(path), read_runs([str(grid)])
    frame = wide_table(runs, "bc").set_index("config_id")
    assert len(facts["rows"]) == len(frame) == 13
    for row in facts["rows"]:
        line = frame.loc[row["id"]]
        for name, column in (("mean", "last"), ("std", "std"), ("iqm", "iqm"), ("low", "low"), ("high", "high")):
            assert row[name] == pytest.approx(line[column]) if row[name] is not None else math.isnan(line[column])
        assert (row["seeds"], row["diverged"]) == (line["seeds"], line["diverged"])
        if line["dataset"] == OTHER:
            assert row["difference"] is None and row["improvement"] is None
        else:
            assert row["difference"][0] == pytest.approx(line["difference"])
            assert row["improvement"] == pytest.approx(line["probability_of_improvement"])
        # Two phases of `add`, of which each row says one second: what was spent at the end, over three seeds.
        assert row["hours"] == pytest.approx(3 / 3600)
    assert facts["sentences"] == sentences(runs)
    told = online_table(runs).to_dict("records")
    assert [one["score"] for one in facts["online"]] == [
        pytest.approx([own[f"n={n}"] for n in one["n"]]) for one, own in zip(facts["online"], told, strict=True)
    ]


def test_the_decision_comes_with_its_doubt(grid: Path) -> None:
    other, toy = page_facts(read_runs([str(grid)]))["decisions"]
    assert (toy["dataset"], toy["configurations"], toy["unfinished"]) == ("raymix/toy-v0", 7, 0)
    assert toy["hours"] == pytest.approx(7 * 3 / 3600)
    rows = {row["id"]: row for row in page_facts(read_runs([str(grid)]))["rows"]}
    assert rows[toy["best"]]["label"] == "lom, lr=0.001, num_components=5"
    assert rows[toy["second"]]["label"] == "lom, lr=0.0001, num_components=5"
    # All seeds differ by the same, so there is no spread to be sure of.
    assert toy["gap"] == pytest.approx(0.9) and toy["gap_low"] == toy["gap_high"] and not toy["certain"]
    assert rows[other["best"]]["dataset"] == OTHER


def test_a_best_that_is_sure_is_called_sure(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    add(run, {"num_components": 1}, 90.0, seeds=6)
    add(run, {"num_components": 5}, 60.0, steps=(100, 200), seeds=6)
    add(run, {"num_components": 10}, 50.0, seeds=5)
    add(run, {"num_components": 20}, 95.0, diverged=(0,), seeds=3)
    rows = {row["id"]: row for row in page_facts(read_runs([str(run)]))["rows"]}
    (decision,) = page_facts(read_runs([str(run)]))["decisions"]
    # 95.5 with a diverged seed is no best: configurations without come first.
    assert rows[decision["best"]]["mean"] == pytest.approx(90.0)
    assert decision["unfinished"] == 1 and decision["certain"] is False
    order = page_facts(read_runs([str(run)]))["best"]
    assert [rows[name]["status"] for name in order][-1] == "unfinished"
    other = make(tmp_path, "other")
    ids = [put(other, {"lr": lr}, scores) for lr, scores in ((1.0, [90.0, 91.0, 95.0]), (2.0, [50.0, 52.0, 53.0]))]
    (decision,) = page_facts(read_runs([str(other)]))["decisions"]
    assert decision["best"] == ids[0] and decision["certain"] and decision["gap_low"] > 0
    low, high = interval([40.0, 39.0, 42.0]) or (0.0, 0.0)
    assert (decision["gap_low"], decision["gap_high"]) == pytest.approx((low, high))


def test_speed_time_left_and_starts_come_from_the_rows(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    for step, seconds in ((100, 10.0), (200, 14.0)):
        put(run, {}, [1.0, 2.0], step=step, wall_time=1.7e9 + seconds, agent_seconds=seconds)
    (row,) = page_facts(read_runs([str(run)]))["rows"]
    # `put` starts anew for each report, and a speed is of one start: what lies between is not known.
    assert row["speed"] is None and row["attempts"] == 2 and row["hours"] == pytest.approx(28 / 3600)
    whole = make(tmp_path, "whole")
    add(whole, {}, 60.0, steps=(100, 200))
    (row,) = page_facts(read_runs([str(whole)]))["rows"]
    assert row["speed"] is None  # all reports of `add` are of one moment
    (template, *_) = ledger.rows(ledger.read(str(whole / "ledger")))
    writer = LedgerWriter(str(whole / "ledger"), template.config_id, 2)
    # Two reports handed out together, and 10 s later two more: 100 steps of three seeds in that time.
    for step, at in ((100, 0.0), (150, 0.001), (200, 10.0), (250, 10.001)):
        rows = [replace(template, seed=seed, phase="main", step=step, wall_time=1.7e9 + at) for seed in range(3)]
        writer.append(replace(one, returns=(1.0,), lengths=(50,)) for one in rows)
    (row,) = page_facts(read_runs([str(whole)]))["rows"]
    assert row["speed"] == pytest.approx(100 * 3 / 10, rel=1e-3) and row["attempts"] == 2
    assert row["left"] == pytest.approx(50 * 3 / 30, rel=1e-3) and row["patience"] == pytest.approx(90, rel=1e-3)


def test_unfinished_and_waiting_configurations_are_said_as_such(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    configs = [{"num_components": components, "mixture_steps": 800} for components in (1, 5, 10, 20)]
    add(run, configs[0], 50.0)
    add(run, configs[1], 60.0, steps=(100, 200), seeds=2)
    add(run, configs[2], 60.0, diverged=(0, 1, 2))
    describe_run(run, configs, seeds=[0, 1, 2])
    plan = json.loads((run / "sweep.json").read_text())
    plan.pop("digest")
    for trial, config in zip(plan["trials"], configs, strict=True):
        trial |= {"algorithm": "lom", "dataset": "raymix/toy-v0", "config": {"steps": 300, "lr": 3e-4} | config}
        trial |= {"label": "planned"}
    from raymix.plan import write_description

    write_description(run, plan)
    runs = read_runs([str(run)])
    facts = page_facts(runs)
    by_value = {row["fields"][0]: row for row in facts["rows"]}
    assert [by_value[m]["status"] for m in (1, 5, 10, 20)] == ["done", "unfinished", "diverged", "no results yet"]
    assert by_value[5]["lacking"] == [2] and by_value[5]["step"] == 200 and by_value[5]["phase"] == "main"
    # 800 steps of the mixture and 200 of 300 are done.
    assert PHASES["lom"][0][1] == "mixture_steps" and by_value[5]["progress"] == pytest.approx(1000 / 1100)
    assert by_value[10]["mean"] is None and by_value[10]["scores"] == ["diverged"] * 3
    assert any("1 of 4 planned configurations has no results yet" in line for line in facts["notices"])


def test_curves_have_bands_of_the_seeds_that_live(grid: Path) -> None:
    runs = read_runs([str(grid)])
    (one,) = [c for c in runs.configurations if any(e.diverged for reports in c.seeds.values() for e in reports)]
    drawn = curve(one, runs)
    # 66 at the end, a third of it per 100 steps; seeds -1 and 1 live, of which there is no interval.
    assert drawn["x"] == [100, 200, 300] and drawn["mean"] == pytest.approx([22.0, 44.0, 66.0])
    assert drawn["low"] == [None] * 3 and drawn["seeds"][1] == [None] * 3
    assert drawn["seeds"][0] == pytest.approx([21.0, 43.0, 65.0])


def test_bands_are_student_intervals_of_whole_and_of_broken_rows() -> None:
    table = np.random.default_rng(0).normal(size=(4, 5))
    table[1, 0] = table[2, :4] = table[3] = np.nan
    mean, low, high = bands(table)
    for row in (0, 1):
        values = list(table[row][np.isfinite(table[row])])
        assert (low[row], high[row]) == pytest.approx(interval(values))
        assert mean[row] == pytest.approx(np.mean(values))
    assert mean[2] == table[2, 4] and np.isnan(low[2:]).all() and np.isnan(mean[3])


def test_what_a_hyperparameter_does_is_averaged_per_seed_first(grid: Path) -> None:
    facts = page_facts(read_runs([str(grid)]))
    (effect,) = [e for e in facts["effects"] if (e["dataset"], e["field"]) == ("raymix/toy-v0", "num_components")]
    assert effect["values"] == [1, 5, 10] and effect["counts"] == [2, 2, 2] and effect["numeric"]
    # By hand: 50 + 1 and 50 + 0.1; seeds -1, 0, 1 beside the mean.
    assert effect["mean"] == pytest.approx([50.55, 70.55, 60.55])
    half = stats.t.ppf(0.975, 2) / math.sqrt(3)
    assert effect["low"][0] == pytest.approx(50.55 - half, abs=0.01)
    (cells,) = [m for m in facts["maps"] if m["dataset"] == "raymix/toy-v0"]
    assert cells["fields"] == ["lr", "num_components"] and cells["rows"] == [1e-4, 1e-3]
    assert cells["mean"] == [pytest.approx([50.1, 70.1, 60.1]), pytest.approx([51.0, 71.0, 61.0])]


def test_many_values_are_binned_and_words_are_places(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    for number in range(16):
        add(run, {"beta": 0.1 * (1 + number), "mode": "argmax" if number % 2 else "sample"}, 10.0 * number)
    facts = page_facts(read_runs([str(run)]))
    beta, mode = facts["effects"]
    assert beta["binned"] and beta["counts"] == [2] * 8 and len(beta["points"]) == 16
    assert beta["values"][0] == pytest.approx(0.15) and beta["mean"][0] == pytest.approx(5.0)
    assert mode["values"] == ["argmax", "sample"] and not mode["numeric"] and not mode["binned"]
    (told,) = facts["importance"]
    assert told["configurations"] == 16 and told["shares"]["beta"] > 0.9 > told["shares"]["mode"]
    assert sum(told["shares"].values()) <= 1.0  # the rest is what they explain together


@pytest.mark.parametrize(
    ("configs", "why"),
    [
        ([{"num_components": m} for m in range(9)], "1 hyperparameter was swept"),
        ([{}], "no hyperparameter was swept"),
        ([{"num_components": m, "lr": lr} for m in (1, 5) for lr in (1e-4, 1e-3)], "4 configurations are finished"),
        (
            [{"num_components": m, "lr": lr} for m in range(5) for lr in (1e-4, 1e-3)],
            "all configurations score the same",
        ),
    ],
)
def test_importance_says_why_it_is_silent(tmp_path: Path, configs: list[dict[str, Any]], why: str) -> None:
    run = make(tmp_path, "run")
    for config in configs:
        add(run, config, 50.0)
    (told,) = page_facts(read_runs([str(run)]))["importance"]
    assert told["shares"] is None and why in told["why"]


def test_the_best_found_never_falls_and_costs_what_all_cost(grid: Path) -> None:
    facts = page_facts(read_runs([str(grid)]))
    for line in facts["cost"]:
        assert line["best"] == sorted(line["best"]) and len(line["best"]) == (7 if line["dataset"] != OTHER else 6)
        (decision,) = [d for d in facts["decisions"] if d["dataset"] == line["dataset"]]
        assert line["hours"][-1] == pytest.approx(decision["hours"], rel=1e-3)
        (best,) = [row for row in facts["rows"] if row["id"] == decision["best"]]
        assert line["best"][-1] == pytest.approx(best["mean"], rel=1e-3)


def test_profiles_are_shares_above_thresholds(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    for task in range(2):
        add(run, {}, 60.0 + task, dataset=f"raymix/task-v{task}")
        add(run, {}, 40.0 + task, dataset=f"raymix/task-v{task}", algorithm="bc")
    facts = page_facts(read_runs([str(run)], metric="normalized_score"))
    assert [(one["dataset"], one["over"]) for one in facts["profiles"]] == [
        ("raymix/task-v0", None),
        ("raymix/task-v1", None),
        (None, 2),
    ]
    for profile in facts["profiles"]:
        shares = {line["label"]: line["y"] for line in profile["lines"]}
        assert shares["lom"][0] == 1.0 and shares["bc"][-1] == shares["lom"][-1] == 0.0
        middle = len(profile["x"]) // 2
        assert (shares["lom"][middle], shares["bc"][middle]) == (1.0, 0.0)
        assert all(np.diff(shares["bc"]) <= 0)


def test_aggregates_are_those_of_the_table_and_the_best_comes_first(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    for task in range(5):
        for lr, score in ((1.0, 10.0), (2.0, 20.0)):
            add(run, {"lr": lr}, score + task, dataset=f"raymix/task-v{task}", seeds=6)
    runs = read_runs([str(run)], metric="normalized_score")
    best, second = page_facts(runs)["aggregate"]
    table = aggregate_table(runs).set_index("lr")
    assert (best["fields"], second["fields"]) == ([2.0], [1.0]) and best["tasks"] == 5 and best["runs"] == 30
    for row in (best, second):
        line = table.loc[row["fields"][0]]
        assert [row[name] for name in ("iqm", "low", "high")] == pytest.approx([line["iqm"], line["low"], line["high"]])
    assert page_facts(runs, live=True)["aggregate"] == []


def test_less_is_better_turns_the_page_around(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    put(run, {"lr": 1e-4}, [0.2, 0.3, 0.25], metric="held_out/action_error")
    put(run, {"lr": 1e-3}, [0.5, 0.7, 0.6], metric="held_out/action_error")
    facts = page_facts(read_runs([str(run)], metric="held_out/action_error"))
    (decision,) = facts["decisions"]
    best, second = (next(row for row in facts["rows"] if row["id"] == decision[n]) for n in ("best", "second"))
    assert (best["mean"], second["mean"]) == (pytest.approx(0.25), pytest.approx(0.6)) and decision["certain"]
    assert decision["gap"] == pytest.approx(-0.35) and not facts["higher"] and not facts["fixed"]
    (profile,) = facts["profiles"]
    assert profile["lines"][0]["label"] == "lr=0.0001" and profile["lines"][0]["y"][-1] == 1.0


def test_nothing_from_the_data_becomes_code(tmp_path: Path) -> None:
    bad = "</script><script>alert(1)</script><!--"
    run = make(tmp_path, "<b>run")
    for mode in (bad, "plain"):
        add(run, {"mode": mode, bad: 1 if mode == bad else 2}, 50.0, dataset=f"raymix/{bad}")
    path = tmp_path / "page.html"
    main(["report", str(run), "--html", str(path)])
    text = path.read_text()
    assert "alert(1)" in text and "<script>alert(1)" not in text and "<b>run" not in text
    assert text.count("<script") == text.count("</script>") == 2 and "<!--" not in text.split("<script>")[0]
    facts = facts_in(path)
    assert {row["dataset"] for row in facts["rows"]} == {f"raymix/{bad}"} and bad in facts["swept"]


def test_the_page_holds_all_that_it_needs(grid: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    main(["report", str(grid), "--html", str(path)])
    text = path.read_text()
    policy = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', text)[0]
    assert policy.startswith("default-src 'none'") and "connect-src 'none'" in policy and "unsafe" not in policy
    # Neither script nor style loads anything: what remains of addresses is the library's own name.
    assert set(re.findall(r"https?://[^\s\"'`)]+", text)) == {"https://github.com/leeoniya/uPlot"}
    assert "src=" not in text.split("<style>")[0] and "@import" not in text
    # A page without facts may ask the server that it came from, and nobody else.
    assert "connect-src 'self'" in page(None, "live")


def test_curves_are_thinned_to_what_a_page_holds(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts_module, "CURVE_POINTS", 20)
    monkeypatch.setattr(facts_module, "SEED_POINTS", 13)
    curves = page_facts(read_runs([str(grid)]))["curves"]
    # 13 configurations of 3 evaluations: every second one, and the last is kept.
    assert curves["every"] == 2 and all(own["x"] == [100, 300] for own in curves["of"].values())
    assert curves["with_seeds"] == 2 and sum("seeds" in own for own in curves["of"].values()) == 2


def test_bad_input_is_refused_in_words(grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for arguments, said in (
        ([str(tmp_path / "nowhere"), "--html", "x"], "there is no folder"),
        ([str(grid), "--html", f"{tmp_path}/no/page.html"], "cannot write"),
        ([str(grid), "--html", str(tmp_path)], "cannot write"),
        ([str(grid), "--html", f"{tmp_path}/x", "--baseline", "lom"], "several configurations"),
        ([str(grid), "--html", f"{tmp_path}/x", "--select", "first"], "select is one of"),
        ([str(grid), "--html", f"{tmp_path}/x", "--embeddings"], "and no --csv, --latex, --html"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["report", *arguments])
        assert said in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert not (tmp_path / "x").exists() and not list(tmp_path.glob(".*.tmp"))

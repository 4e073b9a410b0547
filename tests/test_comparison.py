"""Several runs in one report, and two runs side by side."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from test_report import add, describe_run

from raymix import ledger
from raymix.cli import main
from raymix.report.comparison import aggregate_table, compare, online_table, to_latex, wide_table
from raymix.report.page_facts import page_facts
from raymix.report.runs import missing, read_runs
from raymix.report.sensitivity import sentences
from raymix.types import UsageError


def make(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_several_runs_share_a_table_with_every_choice_of_checkpoint(tmp_path: Path) -> None:
    one, other = make(tmp_path, "one"), make(tmp_path, "other")
    add(one, {}, 60.0, algorithm="bc")
    add(other, {"num_components": 5}, 90.0, diverged=(2,))
    frame = wide_table(read_runs([str(one), str(other), str(one)]), baseline="bc")
    assert list(frame["algorithm"]) == ["bc", "lom"] and list(frame["diverged"]) == [0, 1]
    # Steps 100, 200 and 300 score 1/3, 2/3 and 3/3; seeds -1, 0 and 1 more.
    assert list(frame.loc[0, ["last", "mean_last_3", "best (oracle)"]]) == pytest.approx([60.0, 40.0, 60.0])
    assert frame.loc[1, "last"] == pytest.approx(89.5)
    assert (frame.loc[1, "difference"], frame.loc[1, "pairs"]) == (pytest.approx(30.0), 2)
    assert math.isnan(frame.loc[1, "difference_low"])
    # Two of three seeds win against all of three; the diverged one loses.
    assert frame.loc[1, "probability_of_improvement"] == pytest.approx(2 / 3)


def test_the_same_results_in_two_ledgers_count_once_and_others_are_refused(tmp_path: Path) -> None:
    runs = [make(tmp_path, name) for name in ("one", "copy", "unlike")]
    for run, score in zip(runs, (60.0, 60.0, 61.0), strict=True):
        add(run, {}, score)
    frame = wide_table(read_runs([str(runs[0]), str(runs[1])]))
    assert len(frame) == 1 and frame["seeds"][0] == 3
    with pytest.raises(UsageError, match=r"one and .*unlike have other results .* seed 0, phase main, step 100"):
        read_runs([str(runs[0]), str(runs[2])])


def test_damage_is_named_and_left_out_only_when_asked(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    add(run, {}, 60.0)
    last = sorted((run / "ledger").glob("*.parquet"))[-1]
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(UsageError, match=f"{last.name} is damaged"):
        read_runs([str(run)])
    runs = read_runs([str(run)], keep_going=True)
    assert last.name in runs.notices[0] and wide_table(runs)["last"][0] == pytest.approx(40.0)


def test_runs_with_other_metrics_or_a_wrong_baseline_are_refused(tmp_path: Path) -> None:
    one, other = make(tmp_path, "one"), make(tmp_path, "other")
    for components in (1, 5):
        add(one, {"num_components": components}, 60.0)
    add(other, {"num_components": 10}, 60.0)
    describe_run(other, [{"num_components": 10}], metric="normalized_score")
    folders = [str(one), str(other)]
    with pytest.raises(UsageError, match=r"no common metric .* choose one with --metric"):
        read_runs(folders)
    runs = read_runs(folders, metric="normalized_score")
    assert list(wide_table(runs)["last"]) == pytest.approx([120.0] * 3)
    with pytest.raises(UsageError, match=r"no baseline 'bc'; give an algorithm \(lom\)"):
        wide_table(runs, baseline="bc")
    with pytest.raises(UsageError, match="lom has several configurations on a data set"):
        wide_table(runs, baseline="lom")


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    add(run, {"num_components": 1}, 60.0, seeds=2)
    describe_run(run, [{"num_components": 1}, {"num_components": 5}], seeds=[0, 1, 2])
    first, second = missing(read_runs([str(run)]))
    assert "1 of 2 planned configurations has no results yet" in first and second.endswith("lacks seeds 2")


def test_two_runs_are_compared_pair_by_pair(tmp_path: Path) -> None:
    one, other = make(tmp_path, "one"), make(tmp_path, "other")
    for components in (1, 5, 20):
        add(one, {"num_components": components}, 60.0 + components)
    for components in (1, 5):
        # A hyperparameter that the first run's version did not have: the ids differ.
        add(other, {"num_components": components, "dropout": 0.0}, 70.0 + components)
    frame, words = compare(read_runs([str(one)]), read_runs([str(other)]))
    assert list(frame["num_components"]) == [1, 5] and list(frame["difference"]) == pytest.approx([10.0, 10.0])
    assert list(frame["low"]) == pytest.approx([10.0, 10.0]) and list(frame["pairs"]) == [3, 3]
    assert any("only one side knows dropout" in line for line in words)
    assert "1 configurations of the first run have no counterpart" in words
    third = make(tmp_path, "third")
    add(third, {}, 1.0, algorithm="bc")
    with pytest.raises(UsageError, match="share no configuration"):
        compare(read_runs([str(one)]), read_runs([str(third)]))


def test_a_search_is_judged_by_what_it_deploys(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    for components, score in ((1, 20.0), (5, 40.0), (10, 90.0)):
        add(run, {"num_components": components}, score)
    add(run, {"num_components": 20}, 99.0, diverged=(0, 1))
    frame = online_table(read_runs([str(run)]))
    assert frame["configurations"][0] == 3 and list(frame.columns[3:]) == ["n=1", "n=2"]
    # The offsets of seeds cancel; of two out of three the best is 40, 90 or 90.
    assert list(frame.loc[0, ["n=1", "n=2"]].astype(float)) == pytest.approx([50.0, 220 / 3])


def test_a_hyperparameter_matters_where_its_interval_leaves_out_zero(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    for lr in (1e-3, 1e-4):
        for components, score in ((1, 50.0), (5, 60.0 + 1e4 * lr), (10, 60.0 + 1e4 * lr)):
            # Without this seed's divergence all differences would be equal, and equal is not certain.
            add(run, {"num_components": components, "lr": lr}, score, diverged=(0,) if lr == 1e-3 else ())
    lines = sentences(read_runs([str(run)]))
    # By hand: lr=1e-4 gives +11 to every seed, lr=1e-3 +20 to two of three: 11, 15.5, 15.5; half 1.5 * 4.302653.
    assert (
        "lom on raymix/toy-v0: num_components matters between 1 and 5 (+14, 95 % 7.55 to 20.5); no difference is"
        " certain between 5 and 10 (+0, 95 % 0 to 0)" in lines
    )
    assert any(
        "lr: no difference is certain between 0.0001 and 0.001 (+6; an interval needs 3 seeds)" in x for x in lines
    )
    other = make(tmp_path, "other")
    add(other, {"lr": 1e-3, "beta": 1.0}, 50.0)
    add(other, {"lr": 1e-4, "beta": 2.0}, 50.0)
    assert all("nothing can be said of" in line for line in sentences(read_runs([str(other)])))
    many = make(tmp_path, "many")
    for number in range(13):
        add(many, {"beta": 1.0 + number}, 50.0)
    (line,) = sentences(read_runs([str(many)]))
    assert "beta took 13 values, too many to compare neighbours" in line


def test_what_was_stopped_early_is_no_evidence_against_it(tmp_path: Path) -> None:
    """At step 100 everything scores a third of what it does at step 300, whatever its hyperparameters."""
    run = make(tmp_path, "run")
    add(run, {"num_components": 1}, 90.0, steps=(100,))
    add(run, {"num_components": 5}, 90.0)
    add(run, {"num_components": 10}, 80.0)
    every = read_runs([str(run)])
    assert any("num_components" in line and "between 1 and 5" in line for line in sentences(every))
    ids = {one.config["num_components"]: one.config_id for one in every.configurations}
    runs = replace(every, stopped={ids[1]})
    (line,) = sentences(runs)
    assert "between 5 and 10" in line and " 1 " not in line.partition("(")[0]
    frame = wide_table(runs, baseline=ids[5]).set_index("num_components")
    assert list(frame["stopped"]) == [True, False, False] and list(frame["step"]) == [100, 300, 300]
    assert math.isnan(frame.loc[1, "difference"]) and frame.loc[10, "difference"] == pytest.approx(-10.0)
    assert len(online_table(every)) == 1 and online_table(runs).empty
    facts = page_facts(runs)
    ((decision,), (effect,)) = facts["decisions"], facts["effects"]
    assert (decision["best"], decision["second"]) == (ids[5], ids[10])
    assert (effect["values"], effect["counts"], effect["mean"][0]) == ([1, 5, 10], [0, 1, 1], None)
    assert len(effect["points"]) == 3, "it is drawn nevertheless"
    assert len(facts["profiles"][0]["lines"]) == 2
    alone = page_facts(replace(every, configurations=[one for one in every.configurations if one.config_id != ids[10]]))
    assert alone["decisions"][0]["second"] is None, "compared with what was trained for a third as long"
    add(run, {"steps": 200}, 60.0, algorithm="bc", steps=(100, 200))
    both = replace(read_runs([str(run)]), stopped={ids[1]})
    both = replace(both, configurations=[one for one in both.configurations if one.config_id != ids[10]])
    assert page_facts(both)["decisions"][0]["second"] not in (None, ids[1]), "algorithms have steps of their own"
    assert wide_table(both, baseline="bc").set_index("step").loc[300, "difference"] == pytest.approx(50.0)


def test_members_of_populations_are_paired_by_their_ids(tmp_path: Path) -> None:
    """Two of them may end with the same values."""
    run = make(tmp_path, "run")
    for beta, score in ((1.0, 50.0), (2.0, 60.0)):
        add(run, {"beta": beta}, score)
    runs = read_runs([str(run)])
    same = [replace(one, config={**one.config, "beta": 1.0}) for one in runs.configurations]
    plan = {"population": {"every": 100}, "trials": [{"config_id": one.config_id} for one in same]}
    evolved = replace(runs, configurations=same, plans=[plan])
    frame, _ = compare(evolved, evolved)
    assert sorted(frame["a"]) == pytest.approx([50.0, 60.0]) and list(frame["difference"]) == [0.0, 0.0]
    assert sentences(evolved) == [] and online_table(evolved).empty


def test_tasks_are_aggregated_when_their_scores_are_comparable(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    for task in range(5):
        add(run, {}, 10.0 * task, dataset=f"raymix/task-v{task}", seeds=6)
    add(run, {"lr": 1.0}, 10.0, dataset="raymix/task-v0")
    assert aggregate_table(read_runs([str(run)])).empty
    (row,) = aggregate_table(read_runs([str(run)], metric="normalized_score")).to_dict("records")
    assert (row["tasks"], row["runs"], row["lr"]) == (5, 30, 3e-4)
    # By hand: 100 / 50 times the scores; a quarter of 30, rounded down, is cut from each end.
    scores = sorted(2 * (10.0 * task + offset) for task in range(5) for offset in (-1, 0, 1) * 2)
    assert row["iqm"] == pytest.approx(sum(scores[7:23]) / 16) and row["low"] < row["iqm"] < row["high"]


def test_the_commands_print_and_write_tables(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    one, other = make(tmp_path, "one"), make(tmp_path, "other")
    add(one, {}, 60.0)
    add(other, {}, 50.0, algorithm="bc")
    main(["report", str(one), str(other), "--baseline", "bc", "--csv", f"{tmp_path}/t.csv", "--latex", f"{tmp_path}/t"])
    assert "probability_of_improvement" in capsys.readouterr().out
    written = pd.read_csv(io.StringIO((tmp_path / "t.csv").read_text()))
    assert list(written["last"]) == pytest.approx([50.0, 60.0])
    latex = (tmp_path / "t").read_text()
    assert r"\begin{tabular}" in latex and "mean\\_last\\_3" in latex and latex.count(r"\\") == 3
    main(["compare", str(one), str(one), "--json"])
    assert json.loads(capsys.readouterr().out)[0]["difference"] == 0
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(one), str(other), "--csv", f"{tmp_path}/nowhere/t.csv"])
    assert "cannot write" in capsys.readouterr().err


def test_latex_is_escaped() -> None:
    text = to_latex(pd.DataFrame({"a_b": ["50 % & more", None], "config_id": ["x", "y"]}))
    assert r"a\_b \\" in text and r"50 \% \& more \\" in text and "-- \\\\" in text and "config" not in text


def test_an_empty_ledger_reads_as_no_rows(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    assert ledger.read(str(tmp_path / "ledger"), columns=["returns"]).num_rows == 0

"""Our scores next to the published ones: the published numbers themselves, what matches them, and what is said."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_comparison import make
from test_report import add, describe_run

import raymix.report
from raymix.cli import main
from raymix.plan import write_description
from raymix.report.beside_papers import paper_table, render, unmatched
from raymix.report.published import METHODS, PAPERS, SCORES, STANDARD_DEVIATION, counterpart, published
from raymix.report.runs import read_runs
from raymix.report.statistics import difference, difference_from_summary
from raymix.types import UsageError

FILE = Path(raymix.report.__file__).with_name("published.csv")
TOTALS = {
    ("lom", "Table 1"): (135, "11275.9", 75, "191.0"),
    ("lom", "Table 2"): (18, "507.2", 18, "42.9"),
    ("lapo", "Table 1"): (6, "23.09", 0, "0"),
    ("lapo", "Table 2"): (96, "2749.00", 0, "0"),
    ("lapo", "Table 3"): (63, "3441.94", 0, "0"),
    ("lbrac_v", "Table 1"): (108, "4880.03", 48, "269.23"),
    ("td3_rkl", "Table II"): (115, "4950.0", 81, "423.5"),
    ("dmpo", "Table 2"): (4, "1.83", 4, "1.44"),
    ("dmpo", "Table 3"): (84, "4474.1", 84, "322.3"),
    ("dmpo", "Table 4"): (112, "14083.9", 105, "564.1"),
    ("dmpo", "Table 5"): (42, "1989.5", 42, "498.9"),
    ("dmpo", "Table 6"): (56, "647.5", 56, "346.8"),
    ("dmpo", "Table 7"): (6, "780.8", 0, "0"),
    ("dmpo", "Table 8"): (20, "1825.3", 20, "191.7"),
    ("dmpo", "Table 9"): (36, "2645.3", 36, "143.9"),
}
"""Of each table: how many numbers, their sum; how many spreads, their sum."""
BY_HAND = [
    ("lom", "Table 1", "hopper-medium", "v2", "LOM", 100.8, 1.4, 4),
    ("lom", "Table 1", "walker2d-full-replay", "v2", "WCGAN", 53.0, 5.4, 4),
    ("lom", "Table 1", "walker2d-medium-expert", "v2", "TD3BC", 110.1, None, None),
    ("lom", "Table 2", "FetchReach-multigoal", "", "LOM", 47.2, 3.1, None),
    ("lapo", "Table 2", "maze2d-large", "v1", "LAPO", 200.56, None, 3),
    ("lapo", "Table 2", "walker2d-mix-backward", "v1", "BC", -84.56, None, 3),
    ("lapo", "Table 3", "hopper-expert", "v2", "AWAC", 109.32, None, 3),
    ("lbrac_v", "Table 1", "hopper-medium-replay", "v2", "LBRAC-v", 81.89, 12.77, 5),
    ("lbrac_v", "Table 1", "walker2d-medium", "v0", "BRAC-v", 81.1, None, None),
    ("td3_rkl", "Table II", "hopper-medium-expert", "", "TD3+RKL", 112.0, 0.6, 5),
    ("dmpo", "Table 2", "toy-pointmass-two-goals", "", "TD3+BC", -0.2, 0.4, None),
    ("dmpo", "Table 3", "halfcheetah-expert", "v2", "mixAWAC", 94.0, 0.5, 5),
    ("dmpo", "Table 5", "antmaze-large-diverse", "v0", "DMPO-ant", 56.6, 4.5, 5),
    ("dmpo", "Table 6", "pen-human", "v0", "infoDMPO", 94.8, 16.5, 5),
    ("dmpo", "Table 8", "walker2d-medium-replay", "v2", "infoDMPO-Z16", 85.4, 3.7, None),
    ("dmpo", "Table 9", "halfcheetah-medium-expert", "v2", "MAPLE", 63.5, 6.5, None),
]
"""Read from the papers' tables."""


def rows(frame: pd.DataFrame, **wanted: Any) -> list[dict[str, Any]]:
    for name, value in wanted.items():
        frame = frame[frame[name] == value]
    return frame.to_dict("records")


def compared(frame: pd.DataFrame, **wanted: Any) -> list[dict[str, Any]]:
    return rows(frame, status="compared", **wanted)


def read(*runs: Path) -> Any:
    return read_runs([str(run) for run in runs], metric="return")


def test_all_published_numbers_are_there_as_printed() -> None:
    """Sums of the decimals as printed: a digit changed, a row lost or doubled shows."""
    text = pd.read_csv(FILE, dtype=str, keep_default_na=False)
    assert len(text) == len(published()) == 901
    found = {
        key: (
            len(own),
            str(sum(map(Decimal, own["mean"]))),
            int((own["spread"] != "").sum()),
            str(sum(map(Decimal, filter(None, own["spread"])))),
        )
        for key, own in text.groupby(["paper", "place"], sort=False)
    }
    assert found == TOTALS


@pytest.mark.parametrize("row", BY_HAND, ids=lambda row: "-".join(map(str, row[:5])))
def test_numbers_read_from_the_papers(row: tuple[Any, ...]) -> None:
    paper, place, dataset, version, method, mean, spread, seeds = row
    (found,) = (
        each for each in published(paper) if (each.place, each.dataset, each.method) == (place, dataset, method)
    )
    assert (found.version, found.mean, found.spread, found.seeds) == (version, mean, spread, seeds)


def test_every_published_row_is_well_formed() -> None:
    from raymix.algorithms import base

    keys = Counter((p.paper, p.place, p.dataset, p.version, p.method, p.preset, p.unit) for p in published())
    assert set(keys.values()) == {1}
    for each in published():
        assert each.paper in PAPERS and each.place and each.dataset and each.method and math.isfinite(each.mean)
        assert each.version in ("", "v0", "v1", "v2")
        assert each.unit in (*SCORES, "sum of normalized scores", "mean of normalized scores", "minutes", "ms")
        assert (each.spread is None) == (each.spread_is == "")
        assert each.spread_is in ("", "not stated", STANDARD_DEVIATION)
        assert each.spread_is != STANDARD_DEVIATION or each.seeds
        assert each.seeds in (None, 3, 4, 5) and each.steps in (None, 500_000, 1_000_000)
        if each.preset:
            algorithm, fields = METHODS[each.method]
            assert each.preset in base.find(algorithm).presets
            config = base.find(algorithm).configure({}, each.preset)
            assert each.steps in (None, config.to_dict()["steps"])
            # infoDMPO on Adroit and in mazes, and its other sizes, are a preset with one field more.
            fixed = fields.keys() - {"information", "num_latents"}
            assert all(getattr(config, name) == fields[name] for name in fixed)


def test_every_method_of_the_correspondence_is_there_with_its_fields() -> None:
    from raymix.algorithms import base

    assert METHODS.keys() <= {each.method for each in published()}
    for algorithm, fields in METHODS.values():
        base.find(algorithm).configure(dict(fields))


@pytest.mark.parametrize(
    ("ours", "task", "version", "comparable"),
    [
        ("d4rl/hopper-medium-v2", "hopper-medium", "v2", True),
        ("/data/walker2d_medium_replay-v2.hdf5", "walker2d-medium-replay", "v2", True),
        ("/data/walker_mixed.hdf5", "walker2d-medium-replay", "", True),
        ("mujoco/hopper/medium-v0", "hopper-medium", "", True),
        ("hopper/medium", "hopper-medium", "", True),
        ("D4RL/pointmaze/umaze-v2", "maze2d-umaze", "", False),
        ("d4rl/maze2d-umaze-v1", "maze2d-umaze", "v1", False),
        ("D4RL/antmaze/large-diverse-v1", "antmaze-large-diverse", "", False),
        ("D4RL/pen/human-v2", "pen-human", "", True),
        ("D4RL/kitchen/mixed-v2", "kitchen-mixed", "", True),
        ("raymix/fetchreach-multigoal-8-v0", "FetchReach-multigoal", "", False),
        ("toy/two-goals-v0", "toy-pointmass-two-goals", "", True),
        ("walker2d-mix-jump", "walker2d-mix-jump", "", False),
        ("d4rl/hopper-expert-v0 + d4rl/hopper-random-v0", "hopper-random-expert", "v0", True),
        ("hopper/random + hopper/medium-replay", "hopper-random-medium-replay", "", True),
    ],
)
def test_data_sets_and_the_tasks_of_the_papers(ours: str, task: str, version: str, comparable: bool) -> None:
    found = counterpart(ours)
    assert found is not None and (found.dataset, found.version, found.comparable) == (task, version, comparable)
    assert found.caveats, "none of them is quite what the papers have"
    assert any(each.dataset == task for each in published())


@pytest.mark.parametrize(
    "ours",
    [
        "toy/chain-v0",
        "hopper/random + walker2d/expert",
        "hopper/expert + hopper/medium",
        "0.3*hopper/random + 0.7*hopper/expert",
        "hopper/random + hopper/expert[episodes=10]",
        "d4rl/unheard-of-v2",
    ],
)
def test_other_data_sets_stand_beside_nothing(ours: str) -> None:
    assert counterpart(ours) is None


def test_the_interval_is_that_of_the_scores_themselves() -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.normal(50, 3, 5), random.normal(48, 6, 4)
    whole = difference(dict(enumerate(ours)), {10 + i: value for i, value in enumerate(theirs)})
    found = difference_from_summary([*ours, math.nan], theirs.mean(), theirs.std(ddof=1), 4)
    assert found.mean == pytest.approx(whole.mean, abs=1e-9)
    assert found.interval == pytest.approx(whole.interval, abs=1e-9)
    assert stats.ttest_ind(ours, theirs, equal_var=False).pvalue > 0.05 and found.interval[0] < 0 < found.interval[1]
    assert difference_from_summary(ours, 48.0, None, None).interval is None
    assert difference_from_summary(ours[:2], 48.0, 6.0, 4).interval is None
    assert difference_from_summary([5.0] * 3, 4.0, 0.0, 5).interval == (1.0, 1.0)
    assert math.isnan(difference_from_summary([math.nan], 4.0, 1.0, 5).mean)


def test_a_finished_run_stands_beside_its_number(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    # Scores 39, 40 and 41 of references 0 and 50 are 78, 80 and 82.
    add(run, {}, 40.0, dataset="d4rl/hopper-medium-v2")
    frame = paper_table(read(run), "lom")
    (row,) = compared(frame)
    assert (row["dataset"], row["method"], row["published"], row["ours"]) == ("hopper-medium", "LOM", 100.8, 80.0)
    assert (row["seeds"], row["steps"], row["preset"]) == (3, 300, "hopper-medium")
    # By hand: 78, 80, 82 have sd 2; published sd 1.4 of 4 seeds.
    error = math.sqrt(4 / 3 + 1.96 / 4)
    freedom = error**4 / ((4 / 3) ** 2 / 2 + 0.49**2 / 3)
    half = stats.t.ppf(0.975, freedom) * error
    assert row["difference"] == pytest.approx(-20.8)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((-20.8 - half, -20.8 + half))
    assert "played in Hopper-v5 (by default), not in Hopper-v2" in row["caveat"]
    assert "v2 data" not in row["caveat"] and "unfinished" not in row["caveat"]
    assert Counter(frame["status"]) == {"compared": 1, "not run": 137, "not in raymix": 15}


def test_rows_on_other_data_or_versions_say_so(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    for dataset in ("d4rl/hopper-expert-v0", "mujoco/hopper/expert-v0"):
        add(run, {"latent": "bounded"}, 40.0, algorithm="lapo", dataset=dataset)
    old, minari = compared(paper_table(read(run), "lapo"))
    assert old["our_dataset"] == "d4rl/hopper-expert-v0"
    assert "published on v2 data, ours are v0" in old["caveat"]
    assert "published on v2 data; ours is Minari's, collected anew, not D4RL's" in minari["caveat"]
    assert "ours trains 300 steps, published 1,000,000" in minari["caveat"]
    assert "published: mean of the last 10 evaluations" in minari["caveat"]
    assert minari["difference"] == pytest.approx(80 - 106.76) and math.isnan(minari["difference_low"])
    add(run, {"bandwidth": 0.0}, 40.0, algorithm="td3_rkl", dataset="d4rl/hopper-random-v2 + d4rl/hopper-expert-v2")
    (mixed,) = compared(paper_table(read(run), "td3_rkl"))
    assert mixed["dataset"] == "hopper-random-expert" and "version of the data not stated" in mixed["caveat"]


def test_scores_on_another_scale_have_no_difference(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    add(run, {}, 90.0, dataset="raymix/fetchreach-multigoal-v0", references=(None, None))
    (row,) = compared(paper_table(read(run)))
    assert (row["published"], row["ours"], row["unit"]) == (47.2, 90.0, "return")
    assert math.isnan(row["difference"]) and "compare the order only" in row["caveat"]
    assert "\nFetchReach-multigoal | LOM " in render(paper_table(read(run)), "last")


def test_scores_that_cannot_be_normalized_are_missing_and_said_to_be(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    add(run, {}, 90.0, dataset="hopper/medium", references=(None, None))
    (row,) = compared(paper_table(read(run), "lom"))
    assert math.isnan(row["ours"]) and math.isnan(row["difference"])
    assert "no reference returns" in row["caveat"] and "no score" in render(paper_table(read(run), "lom"), "last")


def test_variants_stand_beside_their_own_rows(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    dataset = "d4rl/walker2d-expert-v2"
    for information, latents, value in ((False, 8, False), (True, 8, False), (True, 32, False), (True, 8, True)):
        config = {"information": information, "num_latents": latents, "value_network": value}
        add(run, config, 40.0, algorithm="dmpo", dataset=dataset)
    for latent, score in (("bounded", 10.0), ("prior", 4.0), ("unbounded", 3.0)):
        add(run, {"latent": latent}, score, algorithm="lapo", dataset="toy/navigation-v0")
    add(run, {}, 40.0, algorithm="dmpo", dataset="hopper/expert")  # an old ledger without these fields: which is it?
    runs = read(run)
    frame = paper_table(runs)
    dmpo = [(row["place"], row["method"], row["settings"]) for row in compared(frame, paper="dmpo")]
    assert [method for place, method, _ in dmpo if place == "Table 4"] == ["DMPO", "infoDMPO"]
    assert [method for place, method, _ in dmpo if place == "Table 8"] == ["infoDMPO-Z8", "infoDMPO-Z32"]
    assert all("num_latents=" in settings for *_, settings in dmpo)
    toy = {row["method"]: row["ours"] for row in compared(frame, paper="lapo", place="Table 1")}
    assert toy == {"LAPO-VAE": 4.0, "LAPO-latent_policy": 10.0}
    (words,) = unmatched(runs, frame)
    assert words.endswith(
        "variant of it): dmpo on d4rl/walker2d-expert-v2; dmpo on hopper/expert; lapo on toy/navigation-v0"
    )


def test_unfinished_and_diverged_runs_say_so(tmp_path: Path) -> None:
    run, waiting = make(tmp_path, "run"), make(tmp_path, "waiting")
    add(run, {"steps": 900}, 40.0, dataset="d4rl/hopper-medium-v2", diverged=(0,))
    add(waiting, {}, 40.0, dataset="d4rl/hopper-expert-v2", steps=())
    describe_run(waiting, [])
    frame = paper_table(read(run, waiting), "lom")
    (begun,) = compared(frame, dataset="hopper-medium")
    assert "ours is unfinished, at step 300 of phase main; 1 of our 3 seeds diverged" in begun["caveat"]
    assert begun["ours"] == pytest.approx(81.0) and math.isnan(begun["difference_low"])
    assert "81.0 (interval needs 3 seeds), 2 of 3 seeds, 300 steps" in render(frame, "last")
    (first,) = compared(frame, dataset="hopper-expert")
    assert math.isnan(first["ours"]) and "ours is unfinished, at step 500 of phase mixture" in first["caveat"]


def test_seeds_that_were_planned_and_are_missing_are_named(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    add(run, {}, 40.0, dataset="d4rl/hopper-medium-v2")
    name = read(run).configurations[0].config_id
    write_description(run, {"trials": [{"config_id": name}], "seeds": [0, 1, 2, 7, 9]})
    (row,) = compared(paper_table(read(run), "lom"))
    assert row["caveat"].endswith("our seeds 7, 9 are missing")


def test_the_command_prints_writes_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, csv = make(tmp_path, "run"), tmp_path / "beside.csv"
    add(run, {}, 40.0, dataset="d4rl/hopper-medium-v2")
    add(run, {}, 40.0, algorithm="bc", dataset="toy/chain-v0")
    main(["report", str(run), "--paper", "lom", "--csv", str(csv)])
    text = capsys.readouterr().out
    assert "LOM, Table 1" in text and "100.8 sd 1.4, 4 seeds" in text and "80.0 (75.0 to 85.0), 3 seeds" in text
    assert "not run on hopper-medium: OneStep, AWAC, TD3BC, LAPO, DMPO, WCGAN, WCVAE" in text
    assert "not in raymix: CQL" in text and "bc on toy/chain-v0" in text
    assert "nothing run of: LOM, Table 2 (3 tasks)" in text and "nan" not in text
    assert len(pd.read_csv(csv)) == 153
    main(["report", str(run), "--paper", "all", "--json"])
    output = capsys.readouterr()
    records = json.loads(output.out)
    assert len(records) == 901 and sum(record["status"] == "compared" for record in records) == 1
    assert records[0]["ours"] is None and "bc on toy/chain-v0" in output.err
    assert list(pd.read_json(io.StringIO(output.out)).columns) == list(pd.read_csv(csv).columns)
    for arguments, words in (
        (["--paper", "lmo"], "there is no paper 'lmo'; there are: lom, lapo, lbrac_v, td3_rkl, dmpo, or all"),
        (["--paper", "lom", "--html", "page.html"], "--html does not go with --paper"),
        (["--paper", "lom", "--metric", "return"], "--metric does not go with --paper"),
        (["--paper", "lom", "--csv", str(tmp_path)], "give another file"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["report", str(run), *arguments])
        assert words in capsys.readouterr().err
    with pytest.raises(UsageError, match="no paper ''"):
        published("")

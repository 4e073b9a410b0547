"""The benchmark of searchers and schedulers, tiny: its surface, its simulation, and what it must show."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from raymix.bench import search
from raymix.bench.search import BEST, CHUNK, COHORT, RUNGS, SEEDS, WHOLE, Curves, Simulation
from raymix.cli import main
from raymix.search.halving import STOP
from raymix.search.optuna import COMPLETE, PRUNED, suggest

DRAWN = [suggest(search.space(), "random", False, [], [0], number) for number in range(COHORT)]


def test_the_best_point_is_known() -> None:
    assert search.final_score(BEST) == 100.0
    assert all(search.final_score(params) < 100.0 for params in DRAWN)
    for name, value in (("beta", 2.1), ("learning_rate", 9e-4), ("num_components", 15)):
        assert search.final_score({**BEST, name: value}) < 100.0


def test_curves_end_at_what_a_configuration_is_worth() -> None:
    """On average; those that do not cross are ordered alike at every report, those that cross are not."""
    ends = [Curves().scores(BEST, [0, number])[-1] for number in range(400)]
    assert np.mean(ends) == pytest.approx(100.0, abs=1.0) and np.std(ends) == pytest.approx(
        math.sqrt((5.0**2 + 3.0**2) / SEEDS), rel=0.15
    )
    for crossing, alike in ((False, True), (True, False)):
        curves = Curves(crossing=crossing, seed_noise=0.0, report_noise=0.0)
        scores = np.array([curves.scores(params, [0]) for params in DRAWN])
        orders = {tuple(np.argsort(column)) for column in scores.T}
        assert (len(orders) == 1) is alike


@pytest.mark.parametrize("order", search.ORDERS)
def test_halving_trains_what_its_rungs_say_and_keeps_the_best(order: str) -> None:
    """Catches a trial that trains on while it waits, or goes on although it was stopped; steps are counted once."""
    curves = search.KINDS["clear"]
    simulation = Simulation(None, "halving", 0, 4, curves, order, DRAWN)
    simulation.run()
    assert simulation.spent == CHUNK * SEEDS * (27 * 1 + 9 * 2 + 3 * 6 + 1 * 18) == 3 * WHOLE
    worth = [search.final_score(params) for params in DRAWN]
    assert simulation.finished == {str(worth.index(max(worth)))}
    assert simulation.found == [(simulation.spent, max(worth))]


@pytest.mark.parametrize("scheduler", search.SCHEDULERS)
def test_a_budget_ends_a_search(scheduler: str) -> None:
    simulation = Simulation("random", scheduler, 0, 4)
    simulation.run(4 * WHOLE)
    assert simulation.spent == 4 * WHOLE
    told = simulation._studies.told
    done = sum(each.state == COMPLETE for each in told)
    assert done == len(simulation.finished)
    assert (PRUNED in {each.state for each in told}) is (scheduler != "none")
    # Without early stopping the first four trials are the whole budget; others begin as those end one by one.
    assert simulation.decided == len(told) and (done, len(told) <= 7) == (4, True) if scheduler == "none" else done < 4
    for name, ladder in simulation._ladders.items() if scheduler == "halving" else ():
        climbed = [each for each in simulation._trials if search.cohort_of(each) == name]
        assert len(climbed) <= COHORT
        for each in climbed:
            if ladder.standing(each) == STOP:
                assert simulation._done[each] in RUNGS


def test_halving_keeps_the_best_at_least_as_often_as_asha_where_curves_are_clear() -> None:
    for order in search.ORDERS:
        halving, asha = search._by_order("clear", search.KINDS["clear"], order, 3)
        assert (halving["scheduler"], halving["kept"], halving["kept_at_any_cost"]) == ("halving", 1.0, 1.0)
        assert asha["kept"] <= 1.0 and halving["whole_trials"] == 3.0


def test_a_tiny_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    picture = tmp_path / "search.png"
    tiny = ["--repeats", "3", "--slow-repeats", "1", "--order-repeats", "1", "--trials", "2", "--workers", "2"]
    main(["bench", "search", *tiny, "--json", "--figure", str(picture)])
    result = json.loads(capsys.readouterr().out)
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = {(row["sampler"], row["scheduler"]): row for row in result["searches"]}
    assert len(rows) == 4 * 3 and len(result["orders"]) == 3 * 3 * 2
    for (sampler, _), row in rows.items():
        assert len(row["best"]) == row["repeats"] == (1 if sampler == "gp" else 3)
        assert all(len(best) == 2 for best in row["best"])
    random = rows["random", "none"]
    ends = [best[-1] for best in random["best"]]
    assert random["mean"][-1] == pytest.approx(sum(ends) / 3) and random["low"][-1] < random["mean"][-1]
    assert random["mean"][0] is None, "nothing is trained to the end while two trials share the first half"
    text = search.table(result)
    assert "random  | none" in text and f"{random['mean'][-1]:.1f} (" in text
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "search", "--trials", "0"])
    assert "--trials takes a positive whole number, not 0" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "search", "--samplers", "random,cmaes"])
    assert "--samplers takes some of random,qmc,tpe,gp, not 'random,cmaes'" in capsys.readouterr().err

"""Populations: decisions in every order and after every kill, copied states, lineage, and real sweeps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray import tune
from test_halving import Loop
from test_sweep import SWEEP, Driver, results

from raymix import Population, SweepSpec, checkpoint, ledger
from raymix.job import Job, checkpoint_of, exchange_folder, in_population, job_of, leave_for_others, open_pack
from raymix.plan import describe, expand, read_description, seat
from raymix.report.lineage import ancestry
from raymix.search.decided import DecidedWriter
from raymix.search.exchange import Exchange, PopulationScheduler
from raymix.search.halving import rank
from raymix.search.optuna import Dimension
from raymix.search.population import EXPLORE, NAME, Copy, Decision, Generations, moved, populations_of, standing
from raymix.types import UsageError

NAN = math.nan
STEPS = [2, 4, 6]
SPACE = {"beta": Dimension("float", 0.1, 10.0, log=True), "depth": Dimension("choice", values=[1, 2, 4])}


def generations(number: int, decided: list[Decision] | None = None, quantile: float = 0.25) -> Generations:
    members = {f"trial-{index}": {"beta": 0.5 + index, "depth": 2, "tau": 0.1} for index in range(number)}
    return Generations("data", members, Population(every=2, quantile=quantile), STEPS, SPACE, [7, 0], decided or [])


def scheduler_of(population: Generations, score: Callable[[str, int], float], written: list[Decision]) -> Any:
    return PopulationScheduler(
        {"data": population}, lambda job, step: rank([score(job["config_id"], step)], "mean"), bool, written.append
    )


class PopulationLoop(Loop):
    """A member's score is of the state that it has: that of its parent, once it has copied."""

    def __init__(self, *rest: Any, **named: Any) -> None:
        super().__init__(*rest, **named)
        for trial in self.trials.values():
            trial.config["job"]["population"] = "data"


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_decisions_are_the_same_whatever_the_order(data: st.DataObject) -> None:
    """Any number of members and of seats, any order, NaN scores, members that fail; nobody waits for ever."""
    number = data.draw(st.integers(2, 10))
    names = [f"trial-{index}" for index in range(number)]
    scores = {step: data.draw(st.lists(st.sampled_from([NAN, 0.0, 1.0, 2.0, 3.0]), min_size=number)) for step in STEPS}
    failing = data.draw(st.dictionaries(st.sampled_from(names), st.integers(1, 7), max_size=2))
    chance = data.draw(st.randoms(use_true_random=False))

    def score(name: str, step: int) -> float:
        return scores[step][names.index(name)]

    written: list[list[Decision]] = []
    for next_of, seats in ((chance.choice, data.draw(st.integers(1, number))), (lambda running: running[0], number)):
        written.append([])
        scheduler = scheduler_of(generations(number), score, written[-1])
        done = PopulationLoop(scheduler, names, STEPS, 7, lambda *_: 0.0, next_of, seats, failing).run()
        assert done == {name: failing.get(name, 8) - 1 for name in names}
    assert written[0] == written[1]
    left = [name for name in names if failing.get(name, 9) > STEPS[-1]]
    assert [decision.step for decision in written[0]] == (
        STEPS if left else [s for s in STEPS if any(failing.get(name, 9) > s for name in names)]
    )
    for decision in written[0]:
        ended = {name for name in names if failing.get(name, 9) <= decision.step}
        exchanged = min(math.ceil(number / 4), number // 2)
        assert decision.copies.keys() == set(decision.ranked[-exchanged:]) - ended
        assert {copy.parent for copy in decision.copies.values()} <= set(decision.ranked[:exchanged]) - ended
        live = [name for name in decision.ranked if name not in ended]
        values = [score(name, decision.step) for name in live]
        assert values == sorted(values, key=lambda value: -math.inf if math.isnan(value) else value, reverse=True)
        assert decision.ranked == live + [name for name in decision.ranked if name in ended]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_population_that_is_read_again_at_any_point_decides_alike(data: st.DataObject) -> None:
    number = data.draw(st.integers(2, 8))
    names = [f"trial-{index}" for index in range(number)]
    scores = {step: data.draw(st.permutations(range(number))) for step in STEPS}
    whole = generations(number)
    for step in STEPS:
        for index, name in enumerate(names):
            whole.reach(name, step, rank([float(scores[step][index])], "mean"))
    decided = whole.decide()
    assert [decision.step for decision in decided] == STEPS
    # Killed when so many were decided and some had come to the next one.
    known = data.draw(st.integers(0, len(STEPS)))
    again = generations(number, [Decision.of(dataclasses.asdict(decision)) for decision in decided[:known]])
    for step in STEPS:
        for name in data.draw(st.permutations(names)):
            again.reach(name, step, rank([float(scores[step][names.index(name)])], "mean"))
    again.decide()
    assert again.decisions == decided


def test_everybody_waits_until_all_have_come() -> None:
    population = generations(4)
    for index in range(3):
        population.reach(f"trial-{index}", 2, rank([float(index)], "mean"))
        assert not population.decide() and not population.may_go_on(f"trial-{index}")
    population.end("trial-3")
    population.go_on("trial-3")  # it failed, and is tried again
    assert not population.decide() and population.may_go_on("trial-3")
    population.reach("trial-3", 2, rank([NAN], "mean"))
    (decision,) = population.decide()
    assert decision.ranked == ["trial-2", "trial-1", "trial-0", "trial-3"]
    assert decision.copies.keys() == {"trial-3"} and decision.copies["trial-3"].parent == "trial-2"
    assert all(population.may_go_on(f"trial-{index}") for index in range(4))


def test_a_child_goes_on_near_its_parents_values_and_a_grandchild_near_those() -> None:
    """Catches values that are moved from where the parent began, or from the child's own."""
    population = generations(2)
    for step, best in ((2, 0), (4, 1), (6, 0)):
        for index in range(2):
            population.reach(f"trial-{index}", step, rank([float(index == best)], "mean"))
    decisions = population.decide()
    beta = 0.5  # of trial-0, which is best first
    for decision, child in zip(decisions, ("trial-1", "trial-0", "trial-1")):
        assert list(decision.copies) == [child]
        now = decision.copies[child].values["beta"]
        drawn = np.random.default_rng([7, 0, decision.step, int(child[-1])])
        drawn.integers(1)
        if drawn.random() >= 0.25:
            assert now == pytest.approx(beta * 0.8, rel=1e-4) or now == pytest.approx(beta * 1.2, rel=1e-4)
        beta = now
    assert standing(decisions, "trial-1", 1) is None
    assert standing(decisions, "trial-1", 5) == (decisions[0].copies["trial-1"], 2)
    assert standing(decisions, "trial-1", 6) == (decisions[2].copies["trial-1"], 6)


@pytest.mark.parametrize(
    ("dimension", "value", "down", "up"),
    [
        (Dimension("float", 0.0, 10.0), 5.0, 4.0, 6.0),
        (Dimension("float", 4.5, 5.5), 5.0, 4.5, 5.5),
        (Dimension("float", 1.0, 3.0, step=0.5), 2.0, 1.5, 2.5),
        (Dimension("int", 1, 9, step=1), 2, 1, 3),  # 0.8 * 2 and 1.2 * 2 are 2 again
        (Dimension("int", 1, 100, step=1, log=True), 50, 40, 60),
        (Dimension("int", 1, 2, step=1), 2, 1, 2),
        (Dimension("choice", values=[0.1, 1.0, 3.0]), 1.0, 0.1, 3.0),
        (Dimension("choice", values=[0.1, 1.0, 3.0]), 3.0, 1.0, 3.0),
    ],
)
def test_values_move_within_their_range(dimension: Dimension, value: float, down: float, up: float) -> None:
    assert (moved(dimension, value, up=False), moved(dimension, value, up=True)) == (down, up)


@settings(max_examples=100, deadline=None)
@given(value=st.floats(0.1, 10.0), number=st.integers(0, 10_000))
def test_what_is_explored_can_be_used(value: float, number: int) -> None:
    population = Generations(
        "data", {"a": {"beta": value, "depth": 4}, "b": {"beta": 1.0, "depth": 1}}, Population(every=2), [2], SPACE,
        [number],
    )  # fmt: skip
    for name, score in (("a", 1.0), ("b", 0.0)):
        population.reach(name, 2, rank([score], "mean"))
    values = population.decide()[0].copies["b"].values
    assert all(SPACE[name].holds(found) for name, found in values.items()) and type(values["depth"]) is int


# What a member takes

SETTINGS = {
    "hidden_dims": (8,),
    "mdn_hidden_dims": (8,),
    "mdn_steps": 4,
    "mdn_batch_size": 8,
    "critic_batch_size": 8,
    "hyper_critic_batch_size": 8,
    "policy_batch_size": 8,
}
SMALL = SweepSpec(
    algorithm="lom",
    datasets=("two-modes",),
    search={"beta": tune.loguniform(0.1, 10.0), "discount": tune.choice([0.9, 0.99])},
    settings=SETTINGS,
    samples=4,
    seeds=2,
    steps=12,
    evaluate_every=4,
    metric="return",
    held_out=0.0,
    scheduler=Population(every=4),
)


def plan_of_small() -> dict[str, Any]:
    return seat(describe([SMALL], "small", {"toy/two-modes-v0": "0" * 64}, "0"), "cpu")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Job], list[checkpoint.Checkpoint]]:
    """A data set, two members of a population, and what they have at its first generation."""
    from raymix.data.catalog import load

    dataset = load("two-modes")
    folder = tmp_path_factory.mktemp("run")
    plan = plan_of_small()
    jobs = [job_of(plan, trial, folder, "cpu", "eager") for trial in plan["trials"][:2]]
    found = []
    for job in jobs:
        pack = open_pack(job, dataset)
        boundary = pack.advance()
        while boundary.phase != "main":
            boundary = pack.advance()
        found.append(checkpoint_of(job, boundary))
    assert [job.rungs for job in jobs] == [[4, 8]] * 2 and found[0].state["step"] == 4
    return dataset, jobs, found


def run_of(two: Any, folder: Path) -> tuple[Any, Job, Job, checkpoint.Checkpoint, checkpoint.Checkpoint]:
    """The parent has left its state in a new run, and the child is to take it."""
    dataset, jobs, (of_parent, of_child) = two
    parent, child = (dataclasses.replace(job, run_dir=str(folder)) for job in jobs)
    copies = {child.config_id: Copy(parent.config_id, {"beta": 3.25, "discount": 0.9})}
    decision = Decision(parent.population, 4, [parent.config_id, child.config_id], copies)
    DecidedWriter(folder, NAME).append(dataclasses.asdict(decision))
    leave_for_others(parent, of_parent)
    return dataset, parent, child, of_parent, of_child


def test_a_child_takes_networks_and_optimisers_and_nothing_else(two: Any, tmp_path: Path) -> None:
    """Catches the parent's hyperparameters, cost or seeds in the child, and a copy that differs in a bit."""
    dataset, parent, child, of_parent, of_child = run_of(two, tmp_path)
    assert any(not np.array_equal(a, b) for a, b in zip(of_parent.members[0].values(), of_child.members[0].values()))
    job, start = in_population(child, of_child)
    for ours, theirs in zip(start.members, of_parent.members, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert job.config == {**child.config, "beta": 3.25, "discount": 0.9}
    assert (job.config_id, job.parent, job.parent_step) == (child.config_id, parent.config_id, 4)
    assert start.state == of_child.state  # none of the two has a diverged seed
    assert in_population(parent, of_parent) == (parent, of_parent)
    # It trains as the parent would with these values and the child's seeds, which are the parent's own.
    after = []
    for config in (job, dataclasses.replace(parent, config=job.config)):
        pack = open_pack(config, dataset)
        pack.restore(start)
        after.append(pack.advance())
    assert after[0].step == 8
    for ours, theirs in zip(after[0].states, after[1].states, strict=True):
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    # Later it keeps the values, and takes no state again.
    later = checkpoint_of(job, after[0])
    again, start = in_population(child, later)
    assert again == job and start is later and later.state["config_id"] == child.config_id


def test_other_values_change_what_follows(two: Any, tmp_path: Path) -> None:
    """Catches a child that trains on with its parent's values: they would give the parent's numbers."""
    dataset, parent, child, _, of_child = run_of(two, tmp_path)
    job, start = in_population(child, of_child)
    states = []
    for config in (job, parent):
        pack = open_pack(config, dataset)
        pack.restore(start)
        states.append(pack.advance().states[0])
    assert any(not np.array_equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("harm", ["gone", "cut"])
def test_a_parents_state_that_is_lost_is_a_sentence(two: Any, tmp_path: Path, harm: str) -> None:
    """Catches a child that silently starts anew, or goes on with its own networks."""
    _, parent, child, _, of_child = run_of(two, tmp_path)
    folder = exchange_folder(parent, 4, parent.config_id)
    file = folder / "member-1.npz"
    file.unlink() if harm == "gone" else file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(RuntimeError, match="no whole copy of that is left") as caught:
        in_population(child, of_child)
    assert "member-1.npz" in str(caught.value) and "restore the folder from a copy" in str(caught.value)


def test_the_parents_own_checkpoint_does_as_well(two: Any, tmp_path: Path) -> None:
    _, parent, child, of_parent, of_child = run_of(two, tmp_path)
    (exchange_folder(parent, 4, parent.config_id) / checkpoint.MANIFEST).unlink()
    folder = tmp_path / "trials" / "attempt-1" / parent.config_id / "checkpoint_000001"
    folder.mkdir(parents=True)
    checkpoint.write(folder, of_parent)
    _, start = in_population(child, of_child)
    assert all(np.array_equal(start.members[1][name], of_parent.members[1][name]) for name in start.members[1])


def test_states_are_kept_until_nobody_takes_them(two: Any, tmp_path: Path) -> None:
    """Of a generation that is decided the parents' states stay, until who copies is two generations further."""
    _, jobs, (state, _) = two
    plan = plan_of_small()
    exchange = Exchange(plan, tmp_path)
    (population,) = exchange.populations.values()
    names = [trial["config_id"] for trial in plan["trials"]]
    for step in (4, 8):
        for index, name in enumerate(names):
            job = dataclasses.replace(jobs[0], config_id=name, run_dir=str(tmp_path))
            moved_on = checkpoint.Checkpoint({**state.state, "step": step}, state.members)
            leave_for_others(job, moved_on)
            population.reach(name, step, rank([float(index)], "mean"))
        for decision in population.decide():
            exchange.write(decision)
        left = {path.name for path in (tmp_path / "generations" / str(step)).iterdir()}
        assert left == {names[-1]}
    assert (tmp_path / "generations" / "4" / names[-1]).is_dir()
    assert Exchange(plan, tmp_path).populations.popitem()[1].decisions == population.decisions


# What the ledger tells


def row(step: int, beta: float, parent: str | None = None, at: int | None = None, **more: Any) -> ledger.Row:
    return ledger.Row(
        **{
            "run": "run", "seed": 0, "phase": "main", "step": step, "dataset": "d", "dataset_hash": "0",
            "algorithm": "lom", "config": {"beta": beta}, "agent_seconds": 1.0, "wall_time": 1.0, "version": "0",
            "parent": parent, "parent_step": at, **more,
        }
    )  # fmt: skip


def test_lineage_follows_networks_not_names(tmp_path: Path) -> None:
    a, b, c = "a" * 12, "b" * 12, "c" * 12
    rows = {
        a: [row(10, 1.0), row(20, 1.0), row(30, 2.4, c, 20), row(40, 2.4, c, 20)],
        b: [row(10, 2.0), row(20, 2.0), row(30, 2.0), row(40, 2.0)],
        c: [row(10, 3.0), row(20, 2.2, b, 10), row(30, 2.2, b, 10), row(40, 1.9, a, 30)],
    }
    for config_id, own in rows.items():
        ledger.LedgerWriter(tmp_path, config_id, 1).append(own)
    table = ledger.read(tmp_path)
    found = ancestry(ledger.rows(table), c)
    assert [(each.config_id, each.since, each.config["beta"]) for each in found] == [
        (b, 0, 2.0), (c, 10, 2.2), (a, 20, 2.4), (c, 30, 1.9),
    ]  # fmt: skip
    assert [each.config_id for each in ancestry(ledger.rows(table), b)] == [b]


def test_the_best_so_far_is_one_of_those_that_have_come_furthest(tmp_path: Path) -> None:
    from raymix.report.lineage import lineages_in_words
    from raymix.report.tables import score_table

    a, b = "a" * 12, "b" * 12
    for name, steps, score in ((a, (10,), 50.0), (b, (10, 20), 5.0)):
        scored = [row(step, 1.0, returns=(score,), lengths=(1,)) for step in steps]
        ledger.LedgerWriter(tmp_path, name, 1).append(scored)
    trials = [{"config_id": name, "population": "0/d", "algorithm": "lom", "dataset": "d"} for name in (a, b)]
    plan = {
        "population": {"every": 10}, "populations": {"0/d": {"space": {"beta": {}}}}, "trials": trials,
        "phases": {"lom": [["main", "steps"]]},
    }  # fmt: skip
    table = ledger.read(tmp_path)
    told = lineages_in_words(plan, table, score_table(table, phases={"lom": [["main", "steps"]]}))
    assert told == [f"Best of the population of 2 on d: {b}, mean 5", f"  began as {b}: beta=1"]


def test_a_seed_that_took_a_sound_state_has_a_score(tmp_path: Path) -> None:
    from raymix.report.tables import score_table

    rows = [row(10, 1.0, diverged=True), row(20, 2.0, "b" * 12, 10, returns=(5.0,), lengths=(1,))]
    ledger.LedgerWriter(tmp_path, "a" * 12, 1).append(rows)
    (record,) = score_table(ledger.read(tmp_path)).to_dict("records")
    assert record["scores"] == [5.0] and record["diverged"] == 0


def test_ledgers_from_before_there_were_populations_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "SCHEMA", ledger._OLDER)
        patch.setattr(
            ledger.LedgerWriter, "_record", lambda self, given, record=ledger.LedgerWriter._record: {
                name: value for name, value in record(self, given).items() if name in ledger._OLDER.names
            },
        )  # fmt: skip
        ledger.LedgerWriter(tmp_path, "a" * 12, 1).append([row(10, 1.0)])
    ledger.LedgerWriter(tmp_path, "a" * 12, 2).append([row(20, 2.0, "b" * 12, 10)])
    read = ledger.rows(ledger.read(tmp_path))
    assert [(each.step, each.parent, each.parent_step) for each in read] == [(10, None, None), (20, "b" * 12, 10)]
    assert ledger.read(tmp_path, None, ["parent"])["parent"].to_pylist() == [None, "b" * 12]


# Bad input


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Population(every=0).check_values(), ("every of Population", "at least 1", "not 0")),
        (lambda: Population(every=10, quantile=0.7).check_values(), ("quantile of Population", "0.5", "not 0.7")),
        (lambda: Population(every=10, resample=-1).check_values(), ("resample of Population", "from 0 to 1", "not -1")),
        (lambda: Population(every=10, statistic="median").check_values(), ("mean, iqm, min, lower_bound", "'median'")),
        (lambda: expand(SMALL.replace(scheduler=Population(every=6))), ("multiple of evaluate_every (4)", "not 6")),
        (lambda: expand(SMALL.replace(scheduler=Population(every=12))), ("fewer than the trials' 12", "not 12")),
        (
            lambda: expand(SMALL.replace(scheduler=Population(every=4, statistic="iqm"))),
            ("'iqm'", "at least 4 seeds", "seeds=4"),
        ),
        (lambda: expand(SMALL.replace(samples=1)), ("at least 2 members", "samples=8", "not 1")),
        (lambda: expand(SMALL.replace(search={})), ("nothing to explore",)),
        (
            lambda: expand(SMALL.replace(search={"num_components": tune.choice([1, 2])})),
            ("a population exchanges states of networks of one shape", "num_components", "settings"),
        ),
        (lambda: expand(SMALL.replace(search={"steps": tune.choice([8, 12])}, steps=None)), ("same steps", "steps")),
        (lambda: expand(SMALL.replace(search={"beta": tune.grid_search([1.0, 2.0])})), ("grid of 'beta'", "choice")),
        (lambda: expand(SMALL.replace(search={"beta": tune.randn()})), ("'beta'", "loguniform")),
        (lambda: expand(SMALL.replace(search={"beta": tune.choice([1.0])})), ("one member", "two-modes-v0")),
        (lambda: expand(SMALL.replace(search={"bata": tune.uniform(0, 1)})), ("'bata'", "did you mean beta")),
        (lambda: expand(SMALL.replace(search={"discount": tune.uniform(0.5, 2)})), ("discount", "from 0 to 1")),
        (lambda: expand(SMALL.replace(searcher=_optuna())), ("leave out the searcher",)),
        (lambda: expand(SMALL.replace(scheduler="pbt")), ("Population(every=...)", "'pbt'")),
    ],
)
def test_what_cannot_be_a_population_is_one_sentence(make: Callable[[], Any], words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert all(word in str(caught.value) for word in words), caught.value


def _optuna() -> Any:
    from raymix import Optuna

    return Optuna(trials=4)


def test_each_data_set_and_specification_has_a_population_of_its_own() -> None:
    specs = [SMALL.replace(settings={**SETTINGS, "num_components": number}) for number in (1, 2)]
    both = [spec.replace(datasets=("two-modes", "two-goals")) for spec in specs]
    plan = describe(both, "small", {"toy/two-modes-v0": "0", "toy/two-goals-v0": "1"}, "0")
    members: dict[str, set[tuple]] = {}
    for trial in plan["trials"]:
        members.setdefault(trial["population"], set()).add((trial["dataset"], trial["config"]["num_components"]))
    assert len(members) == 4 and all(len(kinds) == 1 for kinds in members.values())
    assert members.keys() == populations_of(plan, [], []).keys()
    assert len({tuple(stated["seed"]) for stated in plan["populations"].values()}) == 4


# Real sweeps: four members of two seeds, two to a pack, with three generations.

EVOLVED = (
    SWEEP.replace("import SweepSpec", "import Population, SweepSpec")
    .replace(
        'search={"num_components": tune.grid_search([1, 2, 3])}',
        'search={"beta": tune.loguniform(0.1, 10.0), "policy_learning_rate": tune.loguniform(1e-5, 1e-2)}, samples=4,'
        ' seats=4, metric="held_out/action_error", scheduler=Population(every=90)',
    )
    .replace("evaluate_every=30", "evaluate_every=90")
)
PATIENCE_S = 600


@pytest.fixture(scope="module", params=EXPLORE)
def evolved(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[Path, str, str]:
    """An undisturbed run: its folder, what it printed, and its sweep. PB2 chooses at the second generation."""
    folder = tmp_path_factory.mktemp("evolved")
    sweep = EVOLVED.replace("Population(every=90", f"Population(every=90, explore={request.param!r}")
    status, output, errors = Driver(folder, sweep=sweep).finish(PATIENCE_S)
    assert status == 0, errors
    (run,) = (folder / "runs").iterdir()
    return run, output, sweep


def lineage_of(run: Path) -> dict[tuple, tuple]:
    return {
        (row.config_id, row.seed, row.phase, row.step): (dict(row.config), row.parent, row.parent_step)
        for row in ledger.rows(ledger.read(run / "ledger"))
    }


def test_the_worst_go_on_from_the_best_with_other_values(evolved: tuple[Path, str, str]) -> None:
    """Catches decisions by other scores, rows that do not tell of them, and a report without the lineage."""
    run, output, sweep = evolved
    plan = read_description(run)
    names = [trial["config_id"] for trial in plan["trials"]]
    assert [trial["widths"][-1] for trial in plan["trials"]] == [4] * 4
    rows, found = lineage_of(run), results(run)
    assert {(name, seed, "main", step) for name in names for seed in (0, 1) for step in (90, 180, 270, 300)} == {
        key for key in found if key[2] == "main"
    }
    config = {trial["config_id"]: trial["config"] for trial in plan["trials"]}
    came_from: dict[str, tuple] = dict.fromkeys(names, (None, None))
    for step, following in ((90, 180), (180, 270), (270, 300)):
        error = {
            name: sum(dict(found[name, seed, "main", step][2])["held_out/action_error"] for seed in (0, 1))
            for name in names
        }
        best, worst = min(error, key=error.__getitem__), max(error, key=error.__getitem__)
        came_from[worst] = (best, step)
        for name in names:
            for seed in (0, 1):
                before, after = rows[name, seed, "main", step][0], rows[name, seed, "main", following]
                assert before == config[name] and after[1:] == came_from[name]
                changed = {key for key in after[0] if after[0][key] != (config[best] if name == worst else before)[key]}
                assert (changed <= {"beta", "policy_learning_rate"} and changed) if name == worst else not changed
        config[worst] = rows[worst, 0, "main", following][0]
    assert "Best of the population of 4 on toy/two-modes-v0" in output and "began as" in output
    assert ("values by PB2" in output) == ("pb2" in sweep)


def test_a_killed_driver_changes_no_decision(evolved: tuple[Path, str, str], tmp_path: Path) -> None:
    undisturbed, _, sweep = evolved
    driver = Driver(tmp_path, sweep=sweep)
    driver.wait_for_segments(11, PATIENCE_S)  # of 20: all are beyond the first generation, and wait at the second
    driver.process.kill()
    driver.finish()
    (run,) = (tmp_path / "runs").iterdir()
    assert len(results(run)) < len(results(undisturbed)), "the driver was killed too late to test anything"
    status, output, errors = Driver(tmp_path, "--resume", str(run), sweep=sweep).finish(PATIENCE_S)
    assert status == 0, errors
    assert results(run) == results(undisturbed)
    assert lineage_of(run) == lineage_of(undisturbed)
    assert (run / NAME).read_bytes() == (undisturbed / NAME).read_bytes()
    assert "Best of the population" in output

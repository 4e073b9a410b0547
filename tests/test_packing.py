"""Seats, groups and shared phases, without Ray: what a member learns must not depend on its company."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from helpers import small_config, tiny_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from raymix.algorithms import base
from raymix.checkpoint import Checkpoint
from raymix.config import AlgorithmConfig
from raymix.data import toy
from raymix.job import Job
from raymix.packing.boundary import Boundary
from raymix.packing.pack import Pack, PackFailed, Place
from raymix.packing.seating import Seating
from raymix.packing.sharing import share_phases
from raymix.plan import SweepSpec, describe, seat

WIDTH = 6
NAMES = ("lom", "td3_bc", "onestep")  # two phases, an update in every second step, three phases


def lom(**values: Any) -> AlgorithmConfig:
    return small_config(base.find("lom"), **{"steps": 20, "mdn_steps": 10, **values})


def config_of(name: str, **values: Any) -> AlgorithmConfig:
    algorithm = base.find(name)
    return small_config(algorithm, **{phase.steps: 14 for phase in algorithm.phases}, **values)


def seating_for(config: AlgorithmConfig, name: str = "lom", width: int = WIDTH) -> Seating:
    phases = base.find(name).phases
    return Seating(name, config, tiny_dataset(), [width] * len(phases), capture="eager")


def play(seating: Seating, trials: list[str], rounds: int = 10_000) -> dict[str, list[Boundary]]:
    """Take reports as they come until all trials are over, or for so many rounds."""
    told: dict[str, list[Boundary]] = {trial: [] for trial in trials}
    for _ in range(rounds):
        for trial in trials:
            if (boundary := seating.take(trial)) is not None:
                told[trial] += [*boundary.earlier, boundary]
        if all(own and own[-1].over for own in told.values()) or not seating.can_advance():
            break
        seating.advance()
    return told


def what_counts(boundary: Boundary) -> tuple:
    """A report without what it cost."""
    timings = ("steps_per_second", "compile_seconds")
    losses = [{name: value for name, value in own.items() if name not in timings} for own in boundary.metrics]
    return boundary.phase, boundary.step, losses, boundary.diverged, boundary.seeds


def same_reports(one: list[Boundary], other: list[Boundary]) -> bool:
    return [what_counts(boundary) for boundary in one] == [what_counts(boundary) for boundary in other]


def same_states(one: Boundary, other: Boundary) -> bool:
    return all(
        own.keys() == others.keys() and all(np.array_equal(own[name], others[name]) for name in own)
        for own, others in zip(one.states, other.states, strict=True)
    )


def as_checkpoint(boundary: Boundary) -> Checkpoint:
    state = {"phase": boundary.phase, "step": boundary.step, "seeds": boundary.seeds}
    return Checkpoint({**state, "diverged": boundary.diverged, "agent_seconds": 0.0}, boundary.states)


@pytest.fixture(scope="module", params=NAMES)
def alone(request: pytest.FixtureRequest) -> tuple[str, AlgorithmConfig, list[Boundary]]:
    """An algorithm, a configuration, and what its trial reports with the pack to itself."""
    config = config_of(request.param)
    seating = seating_for(config, request.param)
    seating.join("one", config, [3, 4], report_every=5)
    return request.param, config, play(seating, ["one"])["one"]


def test_a_trial_reports_the_same_whoever_sits_beside_it(alone: tuple[str, AlgorithmConfig, list[Boundary]]) -> None:
    """Catches numbers that depend on a neighbour, a seat, the time of arrival, or how steps were cut into pieces."""
    name, config, expected = alone
    seating = seating_for(config, name)
    steps = {base.find(name).phases[0].steps: 7}  # ends, and comes to the next phase, in the midst of others' chunks
    seating.join("odd", small_config(base.find(name), **{**config.to_dict(), **steps}), [8], report_every=5)
    seating.join("other", config, [9], report_every=4)
    seating.advance()
    seating.join("one", config, [3, 4], report_every=5)
    told = play(seating, ["other", "odd", "one"])
    assert same_reports(told["one"], expected) and same_states(told["one"][-1], expected[-1])
    assert told["odd"][-1].finished and told["other"][-1].finished


def test_every_agent_step_is_counted_once() -> None:
    """Three members of two trials, over both phases."""
    config = lom()
    seating = Seating("lom", config, tiny_dataset(), [2, WIDTH], capture="eager")
    counted, members = 0, {"one": [3, 4], "other": [5]}
    for trial, seeds in members.items():
        seating.join(trial, config, seeds, report_every=5)
    while seating.can_advance():
        counted += seating.advance()
        for trial in members:
            seating.take(trial)
    each = sum(config.to_dict()[phase.steps] for phase in base.find("lom").phases)
    assert counted == 3 * each


def test_a_parked_trial_goes_on_where_it_was(alone: tuple[str, AlgorithmConfig, list[Boundary]]) -> None:
    """Catches a vanished trial that stalls the others, and one that comes back to another state."""
    name, config, expected = alone
    seating = seating_for(config, name)
    seating.join("one", config, [3, 4], report_every=5)
    seating.join("other", config, [9], report_every=5)
    seating.advance()
    assert seating.take("other") is not None and not seating.can_advance()
    assert seating.unclaimed() == ["one"]
    seating.park("one")
    told = play(seating, ["other"])
    assert told["other"][-1].finished and seating.unclaimed() == []
    told = play(seating, ["one"])
    assert same_reports(told["one"], expected) and same_states(told["one"][-1], expected[-1])


def test_a_trial_goes_on_from_any_report(alone: tuple[str, AlgorithmConfig, list[Boundary]]) -> None:
    """Catches a state that is not whole, after a pack was killed or a run resumed."""
    name, config, expected = alone
    for index, boundary in enumerate(expected[:-1]):
        seating = seating_for(config, name)
        seating.join("other", config, [7], report_every=5)
        seating.join("again", config, [3, 4], report_every=5, start=as_checkpoint(boundary))
        told = play(seating, ["again", "other"])
        assert same_reports(told["again"], expected[index + 1 :])
        assert same_states(told["again"][-1], expected[-1])


def test_training_is_one_chunk_ahead_and_no_more() -> None:
    config = lom()
    seating = seating_for(config)
    seating.join("one", config, [0], report_every=5)
    seating.join("two", config, [1], report_every=5)
    seating.advance()
    assert seating.has_report("one") and seating.has_report("two") and not seating.can_advance()
    assert seating.take("one") is not None and seating.take("one") is None
    assert not seating.can_advance()
    assert seating.take("two") is not None and seating.can_advance()


def test_a_diverged_trial_ends_and_its_neighbour_goes_on() -> None:
    config, wild = lom(), lom(critic_learning_rate=1e30, mdn_learning_rate=1e30)
    alone = seating_for(config)
    alone.join("one", config, [0, 1], report_every=5)
    expected = play(alone, ["one"])["one"]
    seating = seating_for(config)
    seating.join("wild", wild, [0, 1], report_every=5)
    seating.join("one", config, [0, 1], report_every=5)
    told = play(seating, ["wild", "one"])
    assert all(told["wild"][-1].diverged) and not told["wild"][-1].finished
    assert same_reports(told["one"], expected)


@settings(max_examples=20, deadline=None)
@given(stops=st.lists(st.integers(1, 4), min_size=48, max_size=48), order=st.randoms(use_true_random=False))
def test_many_trials_over_few_seats(stops: list[int], order: Any) -> None:
    """48 trials over 8 seats, ended early at random: every trial is served, and no seat is lost."""
    config = config_of("bc")
    seating = Seating("bc", config, tiny_dataset(), [8], capture="eager")
    waiting = [f"trial-{index}" for index in range(48)]
    ends = dict(zip(waiting, stops))
    order.shuffle(waiting)
    seated: dict[str, int] = {}
    served = 0
    while waiting or seated:
        while waiting and len(seated) < 4:
            trial = waiting.pop()
            seating.join(trial, config, [0, 1], report_every=5)
            seated[trial] = 0
        seating.advance()
        for trial in order.sample(list(seated), len(seated)):
            if (boundary := seating.take(trial)) is not None:
                seated[trial] += 1
                if boundary.over or seated[trial] == ends[trial]:
                    seating.leave(trial)
                    del seated[trial]
                    served += 1
    assert served == 48
    assert len(seating._program(0).free()) == 8 and not seating._program(0).waiting


def test_trials_that_agree_share_their_first_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a phase trained twice, a late trial that misses a report, and a shared state that is not its own."""
    configs = {f"beta-{beta}": lom(beta=beta) for beta in (1.0, 2.0, 3.0, 4.0)}
    expected = {}
    for name, config in configs.items():
        single = Seating("lom", config, tiny_dataset(), [2, WIDTH], capture="eager")
        single.join(name, config, [0, 1], report_every=3)
        expected[name] = play(single, [name])[name]
    seating = Seating("lom", configs["beta-1.0"], tiny_dataset(), [2, WIDTH], capture="eager")
    trained: list[int] = []
    train = seating.learner(0).train

    def counted(steps: int) -> None:
        trained.append(steps)
        train(steps)

    monkeypatch.setattr(seating.learner(0), "train", counted)

    def join(name: str) -> None:
        seating.join(name, configs[name], [0, 1], report_every=3, shared=["the same"])

    join("beta-1.0")
    join("beta-2.0")
    told = {"beta-1.0": [], "beta-2.0": []}  # type: dict[str, list[Boundary]]
    for _ in range(2):
        seating.advance()
        for name, own in told.items():
            own.append(seating.take(name))
    join("beta-3.0")  # in the midst
    seating.leave("beta-1.0")
    told = {name: [*told.get(name, []), *own] for name, own in play(seating, ["beta-2.0", "beta-3.0"]).items()}
    for name in ("beta-2.0", "beta-3.0"):
        seating.leave(name)
    join("beta-4.0")  # when all is done
    told |= play(seating, ["beta-4.0"])
    assert sum(trained) == 10
    for name, own in told.items():
        assert same_reports(own, expected[name]), name
        assert same_states(own[-1], expected[name][-1])
    assert [own[-1].agent_seconds > 0 for own in told.values()] == [True] * 3


def test_the_plan_shares_what_agrees_in_all_that_the_phase_reads() -> None:
    """Catches a shared mixture for trials whose mixtures differ, and one that is trained for nothing."""
    from ray import tune

    search = {
        "beta": tune.grid_search([1.0, 5.0]),
        "mdn_learning_rate": tune.grid_search([1e-3, 1e-4]),
        "num_components": tune.grid_search([1, 5]),
    }
    data = {"toy/two-modes-v0": toy.two_modes()}
    spec = SweepSpec(algorithm="lom", datasets=("two-modes",), preset="small", search=search, seeds=2, seats=6)
    plan = share_phases(seat(describe([spec], "s", dict.fromkeys(data, "x"), "0"), "cpu"), data)
    by_shared: dict[str, list[dict]] = {}
    for trial in plan["trials"]:
        by_shared.setdefault(*trial["shared"], []).append(trial["config"])
        # Three trials fit into six seats; a structure has four, with two different mixtures.
        assert trial["widths"] == [4, 6]
    assert len(by_shared) == 4 and None not in by_shared
    for configs in by_shared.values():
        assert {config["beta"] for config in configs} == {1.0, 5.0}
        assert len({(config["mdn_learning_rate"], config["num_components"]) for config in configs}) == 1
    whole = SweepSpec(algorithm="bc", datasets=("two-modes",), seeds=2)
    (trial,) = share_phases(seat(describe([whole], "s", dict.fromkeys(data, "x"), "0"), "cpu"), data)["trials"]
    assert trial["shared"] == [] and trial["widths"] == [2]


def test_phases_in_the_middle_are_shared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """OneStep's critic does not know the temperature that its policy is found with. Trials join at every stage."""
    config = small_config(base.find("onestep"), behavior_steps=5, critic_steps=7, steps=4)
    configs = {f"t-{value}": dataclasses.replace(config, temperature=value) for value in (1.0, 2.0, 3.0, 4.0, 5.0)}
    expected = {}
    for name, own in configs.items():
        single = Seating("onestep", own, tiny_dataset(), [2, 2, WIDTH], capture="eager")
        single.join(name, own, [0, 1], report_every=3)
        expected[name] = play(single, [name])[name]
    seating = Seating("onestep", config, tiny_dataset(), [2, 2, WIDTH], capture="eager")
    trained = [0, 0, 0]
    for phase in range(3):
        train = seating.learner(phase).train

        def counted(steps: int, phase: int = phase, train: Any = train) -> None:
            trained[phase] += steps
            train(steps)

        monkeypatch.setattr(seating.learner(phase), "train", counted)

    def join(name: str) -> None:
        seating.join(name, configs[name], [0, 1], report_every=3, shared=["behaviour", "critic"])

    told: dict[str, list[Boundary]] = {name: [] for name in configs}

    def go(names: list[str], boundaries: int) -> None:
        for _ in range(boundaries):
            seating.advance()
            for name in names:
                if (found := seating.take(name)) is not None:
                    told[name] += [*found.earlier, found]

    join("t-1.0")
    go(["t-1.0"], 1)
    join("t-2.0")  # in the midst of the first phase
    go(["t-1.0", "t-2.0"], 2)
    assert told["t-1.0"][-1].phase == "critic"
    join("t-3.0")  # in the midst of the second
    for name, own in play(seating, ["t-1.0", "t-2.0", "t-3.0"]).items():
        told[name] += own
    for name in ("t-1.0", "t-2.0", "t-3.0"):
        seating.leave(name)
    join("t-4.0")  # when all is done
    for name, own in play(seating, ["t-4.0"]).items():
        told[name] += own
    assert trained == [5, 7, 4 * 2]  # the last phase: once beside each other, once for the late one
    for name in ("t-1.0", "t-2.0", "t-3.0", "t-4.0"):
        assert [(own.phase, own.step) for own in told[name]] == [(own.phase, own.step) for own in expected[name]]
        assert same_reports(told[name], expected[name]), name
        assert same_states(told[name][-1], expected[name][-1])


@pytest.mark.parametrize(
    ("name", "phase"), [(name, phase) for name in base.names() for phase in range(len(base.find(name).phases))]
)
def test_a_phase_depends_on_the_scalars_that_it_is_said_to_read(name: str, phase: int) -> None:
    """Catches a field that moves the phase's members although nobody noticed that it is read."""
    algorithm = base.find(name)
    config = small_config(algorithm)
    seating = Seating(name, config, tiny_dataset(), [2] * len(algorithm.phases), capture="eager")
    learner = seating.learner(phase)
    unread = config.of_kind("scalar").keys() - learner.scalars_read()
    moved = small_config(algorithm, **{field: 0.5 * getattr(config, field) + 0.25 for field in unread})
    for number, own in enumerate((config, moved)):
        before = seating.learner(phase - 1).fresh(config, seed=5) if phase else None
        learner.load(number, learner.entering(before, own) if before else learner.fresh(own, seed=5), own)
    learner.train(6)
    one, other = learner.states([0, 1])
    assert all(bool((one.tensors[path] == other.tensors[path]).all()) for path in one.tensors)


def test_more_seeds_than_seats_are_refused() -> None:
    config = lom()
    with pytest.raises(ValueError, match="3 seeds do not fit into 2 seats"):
        seating_for(config, width=2).join("one", config, [0, 1, 2], report_every=5)
    with pytest.raises(ValueError, match="another structure"):
        seating_for(config).join("one", lom(num_components=3), [0], report_every=5)


def test_a_pack_tells_whose_failure_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a trial that waits for ever for a pack that has failed, and one trial's fault that ends all."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    pack = Pack(Place(node="", gpus="", threads=1))
    job = Job("run", ".", "id", "no-such-algorithm", {}, "two-modes", [0], 5, 1, [("main", 5)], "key", [1])
    pack.join("faulty", dataclasses.asdict(job), "no-such-store", None)
    with pytest.raises(RuntimeError, match="unknown algorithm 'no-such-algorithm'") as problem:
        pack.take("faulty", patience_s=60)
    assert not isinstance(problem.value, PackFailed)
    assert pack.take("other", patience_s=0) is None

    def fail() -> None:
        raise MemoryError("no room")

    pack._order(fail)
    with pytest.raises(PackFailed, match="MemoryError: no room"):
        pack.take("other", patience_s=60)

"""The learner's parts: drawn transitions, seats and chunks, phases' pace, and capture."""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    ACTION_DIM,
    OBSERVATION_DIM,
    difference,
    identical,
    learner_for,
    replay_for,
    small_config,
    tiny_dataset,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from raymix.algorithms.base import Algorithm, Phase, Update, find
from raymix.config import AlgorithmConfig, scalar, structure
from raymix.learner.capture import Program, compiler_problem
from raymix.learner.learner import Learner
from raymix.learner.networks import Networks
from raymix.learner.replay import DeviceReplay, DrawnBatch
from raymix.random import Key
from raymix.types import Columns, Dataset, UsageError


def numbered(lengths: list[int], terminal: list[bool]) -> Dataset:
    """A data set whose observations are (episode, step, 0) and whose actions are (step + 1, episode)."""
    dataset = tiny_dataset(lengths, terminal)
    columns = dataset.columns
    first = np.searchsorted(columns.episode, columns.episode)
    step = np.arange(len(columns.episode)) - first
    observations = np.stack([columns.episode, step, 0 * step], 1).astype(np.float32)
    actions = np.stack([step + 1, columns.episode], 1).astype(np.float32)
    actions[columns.last_rows] = 0
    return Dataset(dataset.spec, dataclasses.replace(columns, observations=observations, actions=actions))


@settings(max_examples=60, deadline=None)
@given(episodes=st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=8), with_next=st.booleans())
def test_transitions_never_cross_episodes(episodes, with_next):
    """Catches a next row of the following episode, a lost terminal, and a next action that was never taken."""
    lengths, terminal = (list(part) for part in zip(*episodes))
    dropped = sum(not ended for ended in terminal) if with_next else 0
    if dropped == sum(lengths):
        with pytest.raises(UsageError, match="tests/tiny-v0 has a next action"):
            DeviceReplay(numbered(lengths, terminal), with_next_action=with_next)
        return
    replay = DeviceReplay(numbered(lengths, terminal), with_next_action=with_next)
    batch = DrawnBatch(replay, replay.rows)
    episode, step = batch.observations[:, 0].long(), batch.observations[:, 1].long()
    lengths_, terminal_ = torch.tensor(lengths)[episode], torch.tensor(terminal)[episode]

    assert len(replay.rows) == sum(lengths) - dropped
    assert len(torch.unique(batch.observations, dim=0)) == len(replay.rows)
    assert torch.equal(batch.next_observations[:, 0].long(), episode)
    assert torch.equal(batch.next_observations[:, 1].long(), step + 1)
    assert torch.equal(batch.actions[:, 0].long(), step + 1)
    last = step + 1 == lengths_
    assert torch.equal(batch.terminals, (last & terminal_).float())
    assert int(batch.terminals.sum()) == sum(terminal)
    assert not with_next or not bool((last & ~terminal_).any())
    expected = torch.where(last[:, None], 0, torch.stack((step + 2, episode), 1))
    assert torch.equal(batch.next_actions.long(), expected)


def test_actions_are_scaled_to_the_unit_box():
    """Catches actions left in the environment's units, and padding that is scaled to an action outside the box."""
    low, high = np.array([-2.0, 5.0]), np.array([4.0, 5.5])
    dataset = tiny_dataset(low=low, high=high)
    replay = DeviceReplay(dataset, dtype=torch.float64)
    batch = DrawnBatch(replay, replay.rows)
    taken = dataset.columns.actions[dataset.columns.transition_rows()]
    np.testing.assert_allclose((batch.actions.numpy() + 1) / 2 * (high - low) + low, taken, rtol=1e-6)
    assert float(batch.actions.abs().max()) <= 1.0 + 1e-6
    assert not bool(batch.next_actions[batch.terminals == 1].any())


def test_shared_columns_are_neither_copied_nor_written(recwarn):
    """Catches a copy of the data per trial, and writing through a view that every process of the node shares."""
    dataset = tiny_dataset()
    for field in dataclasses.fields(Columns):
        getattr(dataset.columns, field.name).flags.writeable = False
    digest = dataset.columns.digest()
    algorithm = find("lom")
    config = small_config(algorithm)
    learner = Learner(algorithm, config, "main", replay_for(algorithm, dataset=dataset), 1, "eager")
    learner.run(2)
    for name in ("observations", "actions", "rewards"):
        assert getattr(learner.replay, name).data_ptr() == getattr(dataset.columns, name).ctypes.data
    assert dataset.columns.digest() == digest
    assert not [warning for warning in recwarn if "writable" in str(warning.message)]


@dataclass(frozen=True)
class PacedConfig(AlgorithmConfig):
    learning_rate: float = scalar(0.1, low=0)
    tau: float = scalar(0.5, low=0, high=1)
    batch_size: int = structure(4, low=1)


class Paced(Algorithm):
    """Two updates of different pace; one trains two networks of one shape, listed in another order."""

    Config = PacedConfig
    acting = ("first",)
    phases = (
        Phase(
            "main",
            (Update("rare_loss", ("second", "first"), every=3), Update("common_loss", "third")),
            targets=("third",),
            targets_every=2,
        ),
    )

    def networks(self, spec: Any, config: Any) -> dict[str, nn.Module]:
        return {name: nn.Linear(spec.observation_dim, 1) for name in ("first", "second", "third")}

    def rare_loss(self, nets: Any, batch: Any, config: Any, key: Any) -> tuple[Tensor, dict[str, Tensor]]:
        first, second = nets.first(batch.observations).mean(), nets.second(batch.observations).mean()
        return 1e4 * (first - 3).square() + (second + 3).square(), {"rare": torch.ones(())}

    def common_loss(self, nets: Any, batch: Any, config: Any, key: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return (nets.third(batch.observations) - batch.rewards).square().mean(), {"common": torch.ones(()) * 2}


def test_updates_of_different_pace():
    """Catches a rare update that spoils the metrics of the others, is done in the wrong steps, or miscounts Adam."""
    learner = learner_for(Paced(), "main", [(PacedConfig(), 0), (PacedConfig(learning_rate=0.01), 1)])
    assert learner.period == 3
    moved = []
    for _ in range(7):
        before = learner.state(0).tensors["parameters/first/weight"]
        learner.run(1)
        moved.append(not torch.equal(before, learner.state(0).tensors["parameters/first/weight"]))
    assert moved == [True, False, False, True, False, False, True]
    metrics = learner.run(5).metrics  # Steps 7 to 11: the rare update is done in step 9 only.
    assert metrics["rare"] == [1.0, 1.0] and metrics["common"] == [2.0, 2.0]
    assert metrics["rare_loss"][0] > 100 > metrics["common_loss"][0]
    tensors = learner.state(0).tensors
    assert int(tensors["adam/rare_loss/count"]) == 4 and int(tensors["adam/common_loss/count"]) == 12


def test_moments_belong_to_their_own_network():
    """Catches moments paired by position: with gradients 1e4 apart, the swapped ones would stop one network."""
    learner = learner_for(Paced(), "main", [(PacedConfig(), 0)])
    learner.run(1)
    tensors = learner.state(0).tensors
    large, small = (float(tensors[f"adam/rare_loss/means/{name}/bias"].abs()) for name in ("first", "second"))
    assert large > 1e3 * small > 0


@dataclass(frozen=True)
class ScheduledConfig(AlgorithmConfig):
    learning_rate: float = scalar(0.1, low=0)
    batch_size: int = structure(4, low=1)


class Scheduled(Algorithm):
    """A warm-up, then two updates: one with a falling rate, one later by a step that borrows its rows."""

    Config = ScheduledConfig
    acting = ("first",)
    phases = (
        Phase("before", (Update("warm_up_loss", "first"),)),
        Phase(
            "main",
            (
                Update("lending_loss", "first", schedule="cosine"),
                Update("borrowing_loss", "second", every=2, first=1, batch_of="lending_loss"),
            ),
        ),
    )

    def networks(self, spec: Any, config: Any) -> dict[str, nn.Module]:
        return {"first": nn.Linear(1, 1), "second": nn.Linear(1, 1), "constant": nn.Identity()}

    def warm_up_loss(self, nets: Any, batch: Any, config: Any, key: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return nets.first(batch.rewards[:, None]).mean(), {}

    def lending_loss(self, nets: Any, batch: Any, config: Any, key: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return nets.first(torch.ones(1, 1)).mean(), {"lent": nets.constant(batch.rewards).sum()}

    def borrowing_loss(self, nets: Any, batch: Any, config: Any, key: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return nets.second(torch.ones(1, 1)).mean(), {"borrowed": batch.rewards.sum()}

    def enter_phase(self, phase: Phase, tensors: Any, data: Any, config: Any) -> dict[str, Tensor]:
        returns = torch.zeros(data.spec.num_episodes).index_add(0, data.episodes, data.rewards)
        return {"parameters/second/bias": returns.amax()[None]}


def test_a_scheduled_rate_falls_to_nothing_over_the_phase():
    """Catches a cosine that counts another number of steps, or Adam steps of the unscheduled size (0.1 each)."""
    learner = learner_for(Scheduled(), "main", [(ScheduledConfig(steps=4), 0), (ScheduledConfig(steps=8), 1)])
    moves = []
    for _ in range(5):
        before = [learner.state(seat).tensors["parameters/first/bias"] for seat in (0, 1)]
        learner.run(1)
        after = [learner.state(seat).tensors["parameters/first/bias"] for seat in (0, 1)]
        moves.append([float(old - new) for old, new in zip(before, after)])
    for seat, total in enumerate((4, 8)):
        expected = [0.05 * (1 + math.cos(math.pi * min(step / total, 1))) for step in range(5)]
        np.testing.assert_allclose([move[seat] for move in moves], expected, atol=1e-5)


def test_an_update_may_start_late_and_borrow_rows():
    """Catches rows drawn anew, and an update done in the wrong steps."""
    learner = learner_for(Scheduled(), "main", [(ScheduledConfig(), 0), (ScheduledConfig(), 1)])
    assert "borrowed" not in learner.run(1).metrics
    metrics = learner.run(1).metrics
    assert metrics["borrowed"] == metrics["lent"] and metrics["lent"][0] != metrics["lent"][1]
    with pytest.raises(ValueError, match="not below every=2"):
        Update("late_loss", "first", every=2, first=2)


@dataclass(frozen=True)
class OptionalConfig(AlgorithmConfig):
    learning_rate: float = scalar(0.1, low=0)
    tau: float = scalar(0.5, low=0, high=1)
    batch_size: int = structure(4, low=1)
    policy_every: int = structure(3, low=1)
    with_second: bool = structure(False)


class Optional(Algorithm):
    """An update that may be left out, one in every step, and one at a configured pace and with a falling rate."""

    Config = OptionalConfig
    acting = ("first",)
    phases = (
        Phase(
            "main",
            (
                Update("second_loss", "second", when="with_second"),
                Update("third_loss", "third"),
                Update("first_loss", "first", pace="policy_every", schedule="cosine"),
            ),
            targets=("first",),
            targets_pace="policy_every",
        ),
    )

    def networks(self, spec: Any, config: Any) -> dict[str, nn.Module]:
        return {name: nn.Linear(1, 1) for name in ("first", "second", "third")}

    def third_loss(self, nets: Any, batch: Any, config: Any, key: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return nets.third(torch.ones(1, 1)).mean(), {}

    def first_loss(self, nets: Any, batch: Any, config: Any, key: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return nets.first(torch.ones(1, 1)).mean(), {}

    def second_loss(self, nets: Any, batch: Any, config: Any, key: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return nets.second(torch.ones(1, 1)).mean(), {}


def test_pace_and_presence_of_updates_are_hyperparameters():
    """Catches updates or targets in other steps than the last of each stretch, and an update that is not left out.

    The scheduled rate counts the update's own steps: its first has the full 0.1, the second of two 0.05.
    """
    learner = learner_for(Optional(), "main", [(OptionalConfig(steps=6), 0)])
    assert learner.period == 3
    moves, followed = [], []
    for _ in range(6):
        before = learner.state(0).tensors
        assert "second_loss" not in learner.run(1).metrics
        after = learner.state(0).tensors
        moves.append(float(before["parameters/first/bias"] - after["parameters/first/bias"]))
        followed.append(not torch.equal(before["targets/first/bias"], after["targets/first/bias"]))
        assert torch.equal(before["parameters/second/bias"], after["parameters/second/bias"])
    np.testing.assert_allclose(moves, [0, 0, 0.1, 0, 0, 0.05], atol=1e-5)
    assert followed == [False, False, True] * 2
    assert not any("second_loss" in name for name in learner.state(0).tensors)
    whole = learner_for(Optional(), "main", [(OptionalConfig(with_second=True, policy_every=1), 0)])
    assert whole.run(1).metrics.keys() == {"first_loss", "second_loss", "third_loss"} and whole.period == 1


def test_entering_a_phase_may_change_networks():
    """Catches a hook that is not called, that changes more than it says, or that invents a network."""
    learner = learner_for(Scheduled(), "main", [(ScheduledConfig(), 0)])
    before = learner_for(Scheduled(), "before", [(ScheduledConfig(), 0)])
    before.run(2)
    finished = before.state(0)
    entered = learner.entering(finished, ScheduledConfig())
    bias = entered.tensors.pop("parameters/second/bias")
    assert float(bias) == pytest.approx(tiny_dataset().columns.episode_returns().max(), rel=1e-5)
    kept = {path for path in finished.tensors if path.startswith("parameters/")} - {"parameters/second/bias"}
    assert identical({p: finished.tensors[p] for p in kept}, {p: entered.tensors[p] for p in kept})
    learner.algorithm.enter_phase = lambda *_: {"parameters/third/bias": bias}  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="third"):
        learner.entering(finished, ScheduledConfig())


def test_a_network_that_is_not_acting_cannot_be_called_by_a_policy():
    """Catches a policy that plays the untrained weights of a network it was not given."""
    nets = Networks({"given": nn.Linear(1, 1), "missing": nn.Linear(1, 1), "constant": nn.Identity()}, {"given": {}})
    assert nets.constant(torch.ones(1)) == 1.0
    with pytest.raises(AttributeError, match="missing"):
        nets.missing(torch.ones(1, 1))


def test_chunks_do_not_matter():
    """Catches anything that depends on where a chunk starts: the random place, the pace of targets, a lost step."""
    algorithm = find("lom")
    member = (small_config(algorithm), 5)
    whole, parts = (learner_for(algorithm, "main", [member]) for _ in range(2))
    expected = whole.run(11).metrics
    sizes = (1, 3, 2, 5)
    metrics = [parts.run(size).metrics for size in sizes]
    assert identical(whole.state(0).tensors, parts.state(0).tensors)
    for name, (value,) in expected.items():
        mean = sum(size * chunk[name][0] for size, chunk in zip(sizes, metrics)) / 11
        assert mean == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_seats_may_differ_in_step():
    """Catches a late member whose targets move with its neighbour's pace, beside it by an odd number of steps."""
    algorithm = find("lom")
    config = small_config(algorithm)
    learner, alone = (learner_for(algorithm, "main", [(config, 5), (config, 6)]) for _ in range(2))
    alone.run(5)
    learner.load(1, alone.state(1), config)
    learner.run(3)
    alone.run(3)
    assert (learner.state(0).step, learner.state(1).step) == (3, 8)
    assert identical(learner.state(1).tensors, alone.state(1).tensors)


def test_seats_differ_by_whole_periods_where_updates_are_paced():
    """Catches a rare update that is done for one seat in the steps of another."""
    config = PacedConfig()
    learner, other = (learner_for(Paced(), "main", [(config, 5), (config, 6)]) for _ in range(2))
    other.run(3)
    learner.load(1, other.state(1), config)
    learner.run(3)
    other.run(1)
    learner.load(1, other.state(1), config)
    with pytest.raises(ValueError, match=r"\[3, 4\], which differ modulo 3"):
        learner.run(1)


def test_a_state_of_other_shapes_is_refused_whole():
    """Catches weights of one mode broadcast into a program of five, and a seat half written before the refusal."""
    algorithm = find("lom")
    learner = learner_for(algorithm, "main", [(small_config(algorithm), 5)])
    before = learner.state(0).tensors
    other = small_config(algorithm, num_components=1)
    with pytest.raises(ValueError, match="parameters/mdn"):
        learner.load(0, learner.fresh(other, 1), other)
    more = small_config(algorithm, hidden_dims=(8, 8, 8))
    with pytest.raises(ValueError, match="not this program's"):
        learner.load(0, learner.fresh(more, 1), more)
    assert identical(before, learner.state(0).tensors)


def test_scalars_can_be_changed_in_place():
    """Catches hyperparameters baked into the program (population-based training would change nothing)."""
    algorithm = find("bc")
    config = small_config(algorithm)
    learner = learner_for(algorithm, "main", [(config, 5)] * 2)
    learner.run(3)
    learner.set_scalars(1, small_config(algorithm, learning_rate=0.0))
    before = learner.acting_weights(1)
    learner.run(3)
    assert identical(before, learner.acting_weights(1))
    assert not identical(before, learner.acting_weights(0))


def test_members_start_from_their_seed_alone():
    """Catches initial weights that depend on the seat, on what was drawn before, or that disturb the caller's draws."""
    algorithm = find("lom")
    config = small_config(algorithm)
    learner = Learner(algorithm, config, "mdn", replay_for(algorithm), 1, "eager")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    states = [learner.fresh(config, seed).tensors for seed in (1, 2, 1)]
    assert torch.equal(torch.rand(3), expected)
    assert identical(states[0], states[2]) and not identical(states[0], states[1])
    for path, value in states[0].items():
        if path.startswith("targets/"):
            assert torch.equal(value, states[0][path.replace("targets/", "parameters/")])


@pytest.fixture
def no_compiler(monkeypatch):
    """A machine whose C++ compiler is missing."""
    monkeypatch.setenv("CXX", "/no/such/compiler")
    compiler_problem.cache_clear()
    yield
    compiler_problem.cache_clear()


def test_without_a_compiler_training_says_so_and_works(no_compiler, caplog):
    """Catches a crash, or a silent slow run, on a machine without a C++ compiler."""
    algorithm = find("bc")
    members = [(small_config(algorithm), 5)]
    with caplog.at_level(logging.WARNING):
        fallen = learner_for(algorithm, "main", members, capture="auto")
    assert "/no/such/compiler" in str(fallen.program.eager_reason)
    assert [record for record in caplog.records if "/no/such/compiler" in record.message]
    eager = learner_for(algorithm, "main", members)
    assert fallen.run(3).metrics == eager.run(3).metrics
    assert identical(fallen.state(0).tensors, eager.state(0).tensors)
    assert fallen.program.compile_seconds == 0.0


def test_a_step_that_does_not_compile_falls_back_once_and_untouched(caplog):
    """Catches a state that is stepped twice, or left half stepped, when the compiler gives up."""

    def step(state: Tensor) -> Tensor:
        state += 1
        if state.sum() > 1e9:  # A branch on data: refused in one graph.
            return -state
        return state

    state = torch.zeros(2)
    program = Program(step, torch.device("cpu"), "auto")
    if program.eager_reason is None:
        with caplog.at_level(logging.WARNING):
            program(state)
        assert state.tolist() == [1.0, 1.0]
        assert program.eager_reason is not None and "the compiler failed" in program.eager_reason
        assert [record for record in caplog.records if "uncompiled" in record.message]
        program(state)
        assert state.tolist() == [2.0, 2.0]
    with pytest.raises(torch._dynamo.exc.Unsupported):
        Program(step, torch.device("cpu"), "compile")(state)
    with pytest.raises(ValueError, match="'auto', 'compile', 'eager'"):
        Program(step, torch.device("cpu"), "fast")


@pytest.mark.skipif(compiler_problem() is not None, reason="needs a C++ compiler")
def test_the_compiled_program_equals_eager_and_itself():
    """Catches a miscompiled step; numbers that change between runs; and members that feel each other once fused."""
    algorithm = find("mdn")
    config = small_config(algorithm)
    first, second = (config, 5), (small_config(algorithm, learning_rate=3e-3), 6)
    compiled = learner_for(algorithm, "main", [first, second], capture="compile")
    eager = learner_for(algorithm, "main", [first, second])
    losses = [learner.run(20).metrics["mdn_loss"] for learner in (compiled, eager)]
    assert compiled.program.eager_reason is None and compiled.program.compile_seconds > 0
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    states = [compiled.state(seat).tensors for seat in (0, 1)]
    worst = max(difference(states[seat], eager.state(seat).tensors) for seat in (0, 1))
    print(
        f"compiled and eager differ by {worst:.1e} after 20 steps; compiled in {compiled.program.compile_seconds:.1f} s"
    )
    assert worst < 1e-5

    def again(seating: list[tuple[AlgorithmConfig, int]], spoilt: int | None = None) -> list[dict[str, Tensor]]:
        for seat, (member, seed) in enumerate(seating):
            fresh = compiled.fresh(member, seed)
            if seat == spoilt:
                fresh.tensors["parameters/mdn/trunk.0.weight"].fill_(math.nan)
            compiled.load(seat, fresh, member)
        compiled.run(20)
        return [compiled.state(seat).tensors for seat in (0, 1)]

    assert all(map(identical, again([first, second]), states))
    assert all(map(identical, again([second, first]), reversed(states)))
    assert identical(again([first, second], spoilt=1)[0], states[0])


def test_shapes_of_a_batch():
    """Catches a missing or an extra axis in what losses read."""
    replay = replay_for(find("lom"))
    batch = DrawnBatch(replay, replay.rows[:5])
    for name, shape in {
        "observations": (5, OBSERVATION_DIM),
        "next_observations": (5, OBSERVATION_DIM),
        "actions": (5, ACTION_DIM),
        "next_actions": (5, ACTION_DIM),
        "rewards": (5,),
        "terminals": (5,),
    }.items():
        value = getattr(batch, name)
        assert value.shape == shape and value.dtype == torch.float32
    assert batch.episodes.shape == (5,) and batch.episodes.dtype == torch.int64


def test_minibatches_in_runs_hold_every_transition_as_often():
    """Runs of neighbours, from the last row on to the first, and no row more likely than another."""
    algorithm = find("bc")
    config = small_config(algorithm, draw_block=4, batch_size=10)
    replay = replay_for(algorithm)
    learner = Learner(algorithm, config, "main", replay, 1, "eager")
    rows = replay.rows.tolist()
    counts = np.zeros(len(rows))
    for step in range(4000):
        drawn = learner._drawn(Key.of(0, step), 10).tolist()
        places = [rows.index(row) for row in drawn]
        assert len(places) == 10
        for start in (0, 4, 8):
            run = places[start : start + 4]
            assert run == [(run[0] + offset) % len(rows) for offset in range(len(run))]
        counts += np.bincount(places, minlength=len(rows))
    # 40,000 draws over 54 rows: 741 each; runs make the spread wider than independent draws would.
    assert counts.sum() == 40_000 and counts.min() > 600 and counts.max() < 880
    one = learner_for(algorithm, "main", [(small_config(algorithm, draw_block=1), 3)]).run(2)
    assert one.metrics == learner_for(algorithm, "main", [(small_config(algorithm), 3)]).run(2).metrics

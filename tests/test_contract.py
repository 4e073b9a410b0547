"""What every algorithm owes, found by its module name: a new file in `raymix/algorithms` is tested by existing."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import ACTION_DIM, OBSERVATION_DIM, difference, identical, learner_for, replay_for, small_config

from raymix.algorithms.base import Algorithm, Phase, Update, find, names
from raymix.config import AlgorithmConfig, kind_of
from raymix.learner.learner import Learner
from raymix.learner.networks import LiftedConfig, Networks, fresh_networks
from raymix.learner.precision import can_choose_onednn, can_reduce
from raymix.learner.replay import DrawnBatch
from raymix.learner.state import flatten, unflatten
from raymix.random import Key, streams

ALGORITHMS = names()
PHASES = [(name, phase.name) for name in ALGORITHMS for phase in find(name).phases]
UPDATES = [
    (name, phase.name, update.loss) for name in ALGORITHMS for phase in find(name).phases for update in phase.updates
]
FIELDS = [(name, field.name) for name in ALGORITHMS for field in dataclasses.fields(find(name).Config)]


def phase_of(algorithm: Algorithm, name: str) -> Phase:
    return next(phase for phase in algorithm.phases if phase.name == name)


def with_phase(algorithm: Algorithm, phase: Phase, **changes: Any) -> Algorithm:
    """The algorithm with one phase only, changed."""
    return type(type(algorithm).__name__, (type(algorithm),), {"phases": (dataclasses.replace(phase, **changes),)})()


def members_of(algorithm: Algorithm) -> list[tuple[AlgorithmConfig, int]]:
    """Three configurations that differ in every scalar, and three seeds."""
    base = small_config(algorithm)
    scalars = base.of_kind("scalar")
    factors = (1.0, 0.8, 0.5)
    return [
        (dataclasses.replace(base, **{name: value * factor for name, value in scalars.items()}), 11 + seat)
        for seat, factor in enumerate(factors)
    ]


def networks_of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in tensors.items() if not name.startswith("adam/")}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_configuration_round_trip(name):
    """Catches a field whose value is not JSON-ready or does not come back."""
    config = small_config(find(name))
    assert type(config).create(config.to_dict()) == config


@pytest.mark.parametrize(("name", "phase"), PHASES)
def test_losses_and_metrics_are_finite_and_per_member(name, phase):
    """Catches NaN at the start of training, a metric that is not one number per member, and two with one name."""
    algorithm = find(name)
    learner = learner_for(algorithm, phase, members_of(algorithm))
    chunk = learner.run(4)
    assert chunk.steps == 4
    assert {update.loss for update in learner.phase.updates} <= chunk.metrics.keys()
    for metric, values in chunk.metrics.items():
        assert len(values) == 3 and all(map(math.isfinite, values)), metric
    expected = [len(details_of(learner, index)) + 1 for index in range(len(learner.phase.updates))]
    assert len(chunk.metrics) == sum(expected), "two updates share the name of a metric"


def details_of(learner: Learner, index: int) -> dict[str, torch.Tensor]:
    state = learner._state
    starts = streams(learner._seeds, learner._steps, len(learner.phase.updates), learner.phase_index)
    return learner._summed_loss({}, state["parameters"], state["targets"], learner._scalars, starts, index)[1][1]


@pytest.mark.parametrize(("name", "phase", "loss"), UPDATES)
def test_an_update_trains_exactly_its_networks(name, phase, loss):
    """Catches gradient that leaks into another network, and a parameter that its own loss never moves."""
    algorithm = find(name)
    optional = next(update.when for update in phase_of(algorithm, phase).updates if update.loss == loss)
    config = small_config(algorithm, **({optional: True} if optional else {}))
    stated = phase_of(algorithm, phase).under(config)
    update = next(update for update in stated.updates if update.loss == loss)
    alone = dataclasses.replace(update, batch_of=None, schedule="constant")
    only = with_phase(algorithm, stated, updates=(alone,))
    learner = learner_for(only, phase, [(config, 3)])
    before = learner.state(0).tensors
    learner.run(2 * max(update.every, stated.targets_every))
    after = learner.state(0).tensors
    for path in networks_of(before):
        kind, network, *_ = path.split("/")
        moves = network in update.networks and (kind == "parameters" or network in stated.targets)
        assert torch.equal(before[path], after[path]) != moves, f"{path} {'stood still' if moves else 'moved'}"


@pytest.mark.parametrize(("name", "phase"), PHASES)
def test_targets_follow_as_stated(name, phase):
    """Catches targets that move in the wrong steps, by the wrong share, or before the step's updates."""
    algorithm = find(name)
    learner = learner_for(algorithm, phase, [(small_config(algorithm), 3)])
    stated = learner.phase
    for step in range(2 * stated.targets_every + 1):
        before = learner.state(0).tensors
        learner.run(1)
        after = learner.state(0).tensors
        for path, old in before.items():
            kind, network, parameter = path.split("/", 2) if path.startswith("targets/") else ("", "", "")
            if not kind:
                continue
            if network in stated.targets and (step - stated.targets_first) % stated.targets_every == 0:
                tau = learner._scalars["tau"][0]
                old = old + tau * (after[f"parameters/{network}/{parameter}"] - old)
            torch.testing.assert_close(after[path], old, rtol=1e-6, atol=1e-8)


def plain_training(learner: Learner, config: AlgorithmConfig, seed: int, steps: int) -> dict[str, torch.Tensor]:
    """The loop everyone writes, for one agent: autograd, `torch.optim.Adam`, no vmap, no member axis."""
    algorithm, phase, replay = learner.algorithm, learner.phase, learner.replay
    modules = {
        name: module.to(learner.dtype) for name, module in fresh_networks(algorithm, replay.spec, config, seed).items()
    }
    parameters = {name: dict(module.named_parameters()) for name, module in modules.items()}
    followed = {name for each in algorithm.phases for name in each.targets}
    targets = {name: {key: value.detach().clone() for key, value in parameters[name].items()} for name in followed}
    nets = Networks(modules, parameters, targets)
    scalars = {name: torch.tensor(value, dtype=learner.dtype) for name, value in config.of_kind("scalar").items()}
    lifted = LiftedConfig(config.of_kind("structure"), scalars)

    def trained(update: Update) -> list[torch.Tensor]:
        return [value for name in update.networks for value in parameters[name].values()]

    adams = [torch.optim.Adam(trained(update), getattr(config, update.learning_rate)) for update in phase.updates]
    total = getattr(config, phase.steps)
    for step in range(steps):
        for index, (update, adam) in enumerate(zip(phase.updates, adams)):
            if step % update.every != update.first:
                continue
            starts = streams(torch.tensor(seed), torch.tensor(step), len(phase.updates), learner.phase_index)
            key = Key(starts[index], learner.dtype)
            lenders = [other for other, each in enumerate(phase.updates) if each.loss == update.batch_of]
            rows_key = Key(starts[lenders[0]], learner.dtype) if lenders else key
            rows = replay.rows[rows_key.integers(len(replay.rows), getattr(config, update.batch_size))]
            loss, _ = getattr(algorithm, update.loss)(nets, DrawnBatch(replay, rows), lifted, key)
            for parameter, gradient in zip(trained(update), torch.autograd.grad(loss, trained(update))):
                parameter.grad = gradient
            if update.schedule == "cosine":
                share = 0.5 * (1 + math.cos(math.pi * min((step - update.first) / total, 1)))
                adam.param_groups[0]["lr"] = share * getattr(config, update.learning_rate)
            adam.step()
        if step % phase.targets_every == phase.targets_first:
            for name in phase.targets:
                for key_, value in targets[name].items():
                    value.lerp_(parameters[name][key_].detach(), float(scalars["tau"]))
    return flatten({"parameters": parameters, "targets": targets})


@pytest.mark.parametrize(("name", "phase"), PHASES)
def test_a_packed_member_equals_the_plain_loop(name, phase):
    """Catches what lifting may break: gradients paired with the wrong parameters, shared optimisers, wrong order."""
    algorithm = find(name)
    members = members_of(algorithm)
    learner = learner_for(algorithm, phase, members, torch.float64)
    learner.run(20)
    for seat, (config, seed) in enumerate(members):
        packed = networks_of(learner.state(seat).tensors)
        assert difference(packed, plain_training(learner, config, seed, 20)) < 1e-9


@pytest.mark.parametrize(("name", "phase"), PHASES)
def test_a_member_is_the_same_in_every_seat_and_company(name, phase):
    """Catches dependence on the seat or on the neighbours: bitwise at one width, even beside a NaN."""
    algorithm = find(name)
    first, second, third = members_of(algorithm)
    stranger = (first[0], 99)
    reference = learner_for(algorithm, phase, [first, second, third])
    moved = learner_for(algorithm, phase, [third, stranger, first])
    spoilt = learner_for(algorithm, phase, [first, stranger, third])
    broken = spoilt.fresh(*stranger)
    poisoned = {path: torch.full_like(value, torch.nan) if value.is_floating_point() else value
                for path, value in broken.tensors.items()}  # fmt: skip
    spoilt.load(1, dataclasses.replace(broken, tensors=poisoned), stranger[0])
    metrics = [learner.run(10).metrics for learner in (reference, moved, spoilt)]
    for seat, new_seat in ((0, 2), (2, 0)):
        expected = reference.state(seat).tensors
        assert identical(expected, moved.state(new_seat).tensors)
        assert identical(expected, spoilt.state(seat).tensors)
        for metric, values in metrics[0].items():
            assert values[seat] == metrics[1][metric][new_seat] == metrics[2][metric][seat], metric
    assert any(math.isnan(metrics[2][update.loss][1]) for update in reference.phase.updates)
    assert not identical(reference.state(0).tensors, reference.state(1).tensors)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("name", "phase"), PHASES)
def test_a_packed_member_equals_itself_alone(name, phase, dtype, tolerance):
    """Catches anything shared between members; widths differ, so the matrix products round differently."""
    algorithm = find(name)
    members = members_of(algorithm)
    packed = learner_for(algorithm, phase, members, dtype)
    packed.run(50)
    worst = 0.0
    for seat, member in enumerate(members):
        alone = learner_for(algorithm, phase, [member], dtype)
        alone.run(50)
        worst = max(worst, difference(packed.state(seat).tensors, alone.state(0).tensors))
    print(f"{name}/{phase} {dtype}: widths 3 and 1 differ by {worst:.1e} after 50 steps")
    assert worst < tolerance


@pytest.mark.parametrize(("name", "phase"), PHASES)
def test_saved_and_seated_elsewhere_a_member_continues(name, phase):
    """Catches anything that a step reads and a state does not hold (moments, counts, targets, the random place)."""
    algorithm = find(name)
    first, second, third = members_of(algorithm)
    whole = learner_for(algorithm, phase, [first, second, third])
    half = learner_for(algorithm, phase, [first, second, third])
    whole.run(12)
    half.run(6)
    saved = half.state(1)
    assert (saved.phase, saved.step, saved.seed) == (phase, 6, second[1])
    half.run(2)  # What is saved must be a copy.
    resumed = learner_for(algorithm, phase, [third, first, first])
    resumed.run(2)
    for seat in range(3):
        resumed.load(seat, saved, second[0])
    resumed.run(6)
    for seat in range(3):
        assert resumed.state(seat).step == 12
        assert identical(whole.state(1).tensors, resumed.state(seat).tensors)


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if len(find(name).phases) > 1])
def test_the_next_phase_keeps_networks_and_rests_optimisers(name):
    """Catches weights lost at the boundary of two phases, and moments carried over it."""
    algorithm = find(name)
    config = small_config(algorithm)
    for before, after in zip(algorithm.phases, algorithm.phases[1:]):
        earlier = learner_for(algorithm, before.name, [(config, 5)])
        earlier.run(4)
        finished = earlier.state(0)
        learner = Learner(algorithm, config, after.name, replay_for(algorithm), 1, "eager")
        entered = learner.entering(finished, config)
        changed = algorithm.enter_phase(after, networks_of(finished.tensors), learner.replay, config)
        assert (entered.phase, entered.step, entered.seed) == (after.name, 0, 5)
        assert identical(networks_of(entered.tensors), {**networks_of(finished.tensors), **changed})
        rest = {path: value for path, value in entered.tensors.items() if path.startswith("adam/")}
        assert rest.keys() == {path for path in learner.fresh(config, 5).tensors if path.startswith("adam/")}
        assert not any(bool(value.any()) for value in rest.values())
        with pytest.raises(ValueError, match=before.name):
            learner.load(0, finished, config)
        learner.load(0, entered, config)
        assert identical(learner.state(0).tensors, entered.tensors)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_actions_are_bounded_and_deterministic_without_a_key(name):
    """Catches actions outside the box or of a wrong shape, hidden randomness, and a key that is not the only source."""
    algorithm = find(name)
    config = small_config(algorithm)
    learner = learner_for(algorithm, algorithm.phases[-1].name, [(config, 1)])
    weights = unflatten({f"parameters/{path}": 20.0 * value for path, value in learner.acting_weights(0).items()})
    nets = Networks(learner._modules, weights["parameters"])
    scalars = {name: torch.tensor(value) for name, value in config.of_kind("scalar").items()}
    lifted = LiftedConfig(config.of_kind("structure"), scalars)
    observations = 10.0 * torch.randn(40, OBSERVATION_DIM, generator=torch.Generator().manual_seed(0))
    for key in (lambda: None, lambda: Key.of(3, 4)):
        actions = algorithm.sample_actions(nets, observations, lifted, key())
        assert actions.shape == (40, ACTION_DIM)
        assert float(actions.abs().max()) <= 1.0
        assert torch.equal(actions, algorithm.sample_actions(nets, observations, lifted, key()))
        one = algorithm.sample_actions(nets, observations[:1], lifted, key())
        assert one.shape == (1, ACTION_DIM)


@pytest.mark.parametrize(("name", "phase"), PHASES)
def test_a_step_is_one_graph(name, phase):
    """Catches Python branches on tensors and other breaks that the compiler refuses, without paying for compilation."""
    algorithm = find(name)
    learner = learner_for(algorithm, phase, members_of(algorithm)[:2])
    eager = learner_for(algorithm, phase, members_of(algorithm)[:2])
    torch._dynamo.reset()
    learner.program = torch.compile(learner._step, backend="eager", fullgraph=True, dynamic=False)  # type: ignore
    for each in (learner, eager):
        each.run(learner.period + 1)
    for seat in range(2):
        expected = eager.state(seat).tensors
        for path, value in learner.state(seat).tensors.items():  # Moments may be in the hundreds: relative.
            torch.testing.assert_close(value, expected[path], rtol=1e-6, atol=1e-6)


def other_values(field: dataclasses.Field, value: Any) -> Iterator[Any]:
    """Sensible values other than `value`, far enough away to matter; a small and a large one for numbers."""
    limits = field.metadata
    if limits.get("choices"):
        yield from (choice for choice in limits["choices"] if choice != value)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
    elif isinstance(value, tuple):
        yield (*value, 8)
    elif isinstance(value, float):
        yield max(limits["low"], 0.01 * value)
        yield min(limits["high"], 30.0 * value if value else 0.3)
        yield max(limits["low"], 1e-4 * value)


def trained(algorithm: Algorithm, config: AlgorithmConfig, size: float = 1.0) -> dict[str, torch.Tensor]:
    """The networks after all phases, from initial weights `size` times as large, and how the policy acts."""
    state = None
    for phase in algorithm.phases:
        learner = Learner(algorithm, config, phase.name, replay_for(algorithm), 1, "eager")
        if state is None:
            start = learner.fresh(config, 1)
            state = dataclasses.replace(start, tensors={path: v * size if v.is_floating_point() else v
                                                        for path, v in start.tensors.items()})  # fmt: skip
        else:
            state = learner.entering(state, config)
        learner.load(0, state, config)
        learner.run(getattr(config, phase.steps))
        state = learner.state(0)
    assert state is not None
    parameters = {path: value for path, value in state.tensors.items() if path.startswith("parameters/")}
    nets = Networks(learner._modules, unflatten(parameters)["parameters"])
    observations = torch.randn(8, OBSERVATION_DIM, generator=torch.Generator().manual_seed(0))
    return {**parameters, "actions": algorithm.sample_actions(nets, observations, config, Key.of(0, 0))}


@pytest.fixture(scope="module")
def references() -> dict[tuple[str, str, float], dict[str, torch.Tensor]]:
    """What has been trained so far, by algorithm, configuration and size of the initial weights."""
    return {}


def starts(algorithm: Algorithm, field: str) -> Iterator[tuple[AlgorithmConfig, float]]:
    """Configurations under which the field may matter, and sizes of the initial weights; the likeliest first."""
    for size, preset in itertools.product((1.0, 5.0), (None, *algorithm.presets)):
        yield small_config(algorithm, preset), size
    config = small_config(algorithm)
    for other in sorted(dataclasses.fields(config), key=lambda each: not each.metadata.get("choices")):
        if other.name not in (field, "precision") and kind_of(other) != "schedule":
            for value in other_values(other, getattr(config, other.name)):
                yield dataclasses.replace(config, **{other.name: value}), 1.0


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_every_field_matters(name, field, references):
    """Catches a dead field: declared, swept over by somebody, and never read, by default or under any preset.

    Where small networks never get to a clip or a cap, larger ones must; some fields need one choice of another.
    """
    algorithm = find(name)
    if field == "precision":
        cpu = torch.device("cpu")
        offered = "bf16" if can_reduce(cpu) else "fp32_onednn" if can_choose_onednn(cpu) else None
        if offered is None:
            pytest.skip("this CPU multiplies in one way only")
        # Products of narrow networks are left to the default library.
        wide = {f.name: (256, 256) for f in dataclasses.fields(algorithm.Config) if isinstance(f.default, tuple)}
        one, other = (small_config(algorithm, **wide, precision=value) for value in ("fp32", offered))
        assert not identical(trained(algorithm, one), trained(algorithm, other))
        return
    for config, size in starts(algorithm, field):
        (declared,) = (each for each in dataclasses.fields(config) if each.name == field)
        if kind_of(declared) == "schedule":
            assert field in {phase.steps for phase in algorithm.phases}, "no phase reads this number of steps"
        key = (name, str(config), size)
        if key not in references:
            references[key] = trained(algorithm, config, size)
        for value in other_values(declared, getattr(config, field)):
            moved = trained(algorithm, dataclasses.replace(config, **{field: value}), size)
            if not identical(references[key], moved):
                return
    pytest.fail(f"{field} changes nothing")

"""Benchmarks give the rows that they promise, and the plain loop learns what the learner learns; no time is tested."""

from __future__ import annotations

import json
import statistics

import pytest
import torch
from helpers import learner_for, replay_for, small_config, tiny_dataset

from raymix.algorithms import base
from raymix.bench import learner as bench
from raymix.bench.plain import PlainLoop, flops_per_step
from raymix.cli import main
from raymix.types import UsageError

SMALL = {"hidden_dims": (8,), "mdn_hidden_dims": (8,), "hyper_critic_batch_size": 8, "critic_batch_size": 8}


def test_rows_compare_every_width_with_the_plain_loop() -> None:
    """Catches a ratio to something else, and steps that count once for a whole pack."""
    result = bench.measure("lom", [1, 3], settings=SMALL, repeats=2, seconds=0.01, capture="eager")
    json.dumps(result, allow_nan=False)
    plain, *packs = result["rows"]
    assert [row["members"] for row in result["rows"]] == [0, 1, 3] and plain["ratio"] == 1.0
    for row in result["rows"]:
        assert len(row["runs"]) == 2 and row["steps_per_second"] == statistics.median(row["runs"]) > 0
        assert row["ratio"] == pytest.approx(row["steps_per_second"] / plain["steps_per_second"])
        assert row["share_of_peak"] > 0 and not row["compiled"]
    table = bench.table(result)
    assert "plain" in table and "uncompiled" in table and result["machine"]["torch"] in table
    assert len(packs) == 2


def test_floating_point_operations_are_counted() -> None:
    """Forward 2 * B * (3 * 8 + 8 * 8 + 8 * 2), the weights' gradient the same, the inputs' but for the first layer."""
    algorithm = base.find("bc")
    config = small_config(algorithm)
    loop = PlainLoop(algorithm, config, "main", tiny_dataset(), torch.device("cpu"))
    products, first = 3 * 8 + 8 * 8 + 8 * 2, 3 * 8
    assert flops_per_step(loop) == 2 * 16 * (3 * products - first)


@pytest.mark.parametrize("name", base.names())
def test_the_plain_loop_trains_every_algorithm(name: str) -> None:
    """Catches an update or a target that the plain loop leaves out: the comparison would flatter it."""
    algorithm = base.find(name)
    config = small_config(algorithm)
    for phase in algorithm.phases:
        loop = PlainLoop(algorithm, config, phase.name, tiny_dataset(), torch.device("cpu"))
        before = {name: [p.detach().clone() for p in net.parameters()] for name, net in loop.modules.items()}
        slow = {name: [p.detach().clone() for p in loop.targets[name].parameters()] for name in loop.phase.targets}
        loop.run(2 * learner_for(algorithm, phase.name, [(config, 0)]).period)
        trained = {network for update in loop.phase.updates for network in update.networks}
        for network, parameters in before.items():
            moved = [not torch.equal(old, new) for old, new in zip(parameters, loop.modules[network].parameters())]
            assert all(moved) if network in trained else not any(moved), (phase.name, network)
        for network, parameters in slow.items():
            pairs = zip(parameters, loop.targets[network].parameters())
            assert not any(torch.equal(old, new) for old, new in pairs), (phase.name, network)


def test_the_plain_loop_reaches_the_learners_loss() -> None:
    """Catches a plain loop that trains something else: on one batch of everything both fit alike."""
    algorithm = base.find("bc")
    config = small_config(algorithm, learning_rate=3e-3)
    loop = PlainLoop(algorithm, config, "main", tiny_dataset(), torch.device("cpu"))
    learner = learner_for(algorithm, "main", [(config, 0)])
    loop.run(600)
    learner.run(600)
    replay, policy = replay_for(algorithm), loop.modules["policy"].requires_grad_(False)

    def error() -> float:
        means = policy(replay.observations[replay.rows]).mean
        return float((means - replay.actions[replay.rows]).square().mean())

    plain = error()
    for name, value in policy.named_parameters():
        value.copy_(learner.acting_weights(0)[f"policy/{name}"])
    assert plain == pytest.approx(error(), rel=0.35)
    for name, value in learner.fresh(config, 0).tensors.items():
        if name.startswith("parameters/policy/"):
            policy.get_parameter(name.removeprefix("parameters/policy/")).copy_(value)
    assert plain < 0.8 * error(), "600 steps should have moved it"


def test_bad_usage(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(UsageError, match="phase 'second'; it has: main"):
        bench.measure("bc", [1], phase="second")
    for members in ("0", "1,x", ""):
        with pytest.raises(SystemExit, match="2"):
            main(["bench", "learner", "--members", members])
        assert "--members takes" in capsys.readouterr().err

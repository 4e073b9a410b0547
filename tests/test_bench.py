"""Benchmarks give the rows that they promise, and the plain loop learns what the learner learns; no time is tested."""

from __future__ import annotations

import json
import os
import statistics

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Loopback only; Ray reads it when imported.

import pytest
import torch
from helpers import learner_for, replay_for, small_config, tiny_dataset

from raymix.algorithms import base
from raymix.bench import evaluation, machine, store, sweep
from raymix.bench import learner as bench
from raymix.bench.plain import PlainLoop, flops_per_step
from raymix.cli import main
from raymix.learner.precision import can_reduce
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


def test_precisions_are_rows_of_their_own_or_refused() -> None:
    """Catches rows of one precision under the name of another, and a peak that is not that precision's."""
    settings = {"hidden_dims": (8,), "batch_size": 8}

    def measure() -> dict:
        return bench.measure("bc", [1], None, "cpu", settings, 2, 0.01, "eager", precisions=["fp32", "bf16"])

    if not can_reduce(torch.device("cpu")):
        with pytest.raises(UsageError, match="precision=bf16"):
            measure()
        return
    result = measure()
    assert [(row["members"], row["precision"]) for row in result["rows"]] == [(0, "fp32"), (1, "fp32"), (1, "bf16")]
    assert result["matmul_peak"].keys() == {"fp32", "bf16"}


def test_shared_pages_count_once() -> None:
    """Catches a process tree without its children: a forked child adds its own pages and not its parent's."""
    block = torch.ones(64 * 2**20, dtype=torch.uint8)
    before = machine.total_pss(os.getpid())
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        own = bytearray(b"x") * (32 * 2**20)
        os.write(writing, bytes([own[0]]))
        os.read(reading, 0)
        os.kill(os.getpid(), 19)  # stopped, it keeps its pages until it is measured
        os._exit(0)
    try:
        assert os.read(reading, 1) == b"x"
        grown = machine.total_pss(os.getpid()) - before
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert 30 * 2**20 < grown < 56 * 2**20, "the parent's block of 64 MiB is counted twice"
    assert len(block)


def test_store_rows() -> None:
    """Growth per process is far below the data set, which it would be if every process had a copy."""
    result = store.measure(megabytes=60, processes=2, repeats=1)
    json.dumps(result, allow_nan=False)
    growth, *times = result["rows"]
    assert growth["unit"] == "MB" and growth["ratio"] == pytest.approx(growth["value"] / 60) and growth["ratio"] < 0.5
    assert [row["what"] for row in times] == ["put", "get", "random batches of 256"]
    assert all(row["value"] > 0 and row["ratio"] > 0 for row in times)
    assert store.table(result).count("\n") == 7


def test_evaluation_rows() -> None:
    """Catches a ratio to something else."""
    result = evaluation.measure(
        "bc", 2, 1, 1, 0.01, 1, {"hidden_dims": (8,), "batch_size": 8}, "eager", progress=lambda line: None
    )
    json.dumps(result, allow_nan=False)
    played, alone, beside = result["rows"]
    assert played["ratio"] == alone["ratio"] == 1.0 and played["steps_per_second"] > 0
    assert beside["ratio"] == pytest.approx(beside["steps_per_second"] / alone["steps_per_second"])
    assert evaluation.table(result).count("\n") == 6


def test_sweep_rows() -> None:
    """Both ways run to their end and are watched."""
    settings = {"hidden_dims": (8,), "batch_size": 8}
    result = sweep.measure(2, 1, 4, 1, settings, "eager")
    json.dumps(result, allow_nan=False)
    plain, ours = result["rows"]
    assert (plain["way"], ours["way"], plain["ratio"]) == ("plain", "raymix", 1.0)
    assert ours["ratio"] == pytest.approx(plain["seconds"] / ours["seconds"])
    assert min(plain["peak_pss"], ours["peak_pss"]) > 100 and ours["core_hours"] > 0
    assert "raymix" in sweep.table(result)


def test_bad_usage(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(UsageError, match="phase 'second'; it has: main"):
        bench.measure("bc", [1], phase="second")
    for members in ("0", "1,x", ""):
        with pytest.raises(SystemExit, match="2"):
            main(["bench", "learner", "--members", members])
        assert "--members takes" in capsys.readouterr().err
    for command in (["store", "--megabytes", "0"], ["evaluation", "--threads", "0"], ["sweep", "--seeds", "-1"]):
        with pytest.raises(SystemExit, match="2"):
            main(["bench", *command])
        assert f"{command[1]} takes a positive whole number" in capsys.readouterr().err

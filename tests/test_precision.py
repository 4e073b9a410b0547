"""Reduced precision is asked for by name, refused where it would be full, and gone when the program has run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import identical, learner_for, replay_for, small_config

from raymix.algorithms.base import find
from raymix.cli import main
from raymix.learner.capture import Program
from raymix.learner.learner import Learner
from raymix.learner.precision import can_choose_onednn, can_reduce, products, require
from raymix.types import UsageError

CPU = torch.device("cpu")
MATMUL = torch.backends.mkldnn.matmul
needs_bf16 = pytest.mark.skipif(not can_reduce(CPU), reason="this CPU multiplies in full precision only")
needs_onednn = pytest.mark.skipif(not can_choose_onednn(CPU), reason="this CPU has no AVX-512, or it has AMX")
needs_full = pytest.mark.skipif(can_reduce(CPU), reason="this CPU multiplies in reduced precision")


def test_the_setting_ends_with_its_block() -> None:
    """Catches a setting that leaks into acting, evaluation or another learner, also when a step fails."""
    before = MATMUL.fp32_precision
    with pytest.raises(ZeroDivisionError), products("bf16", CPU):
        assert MATMUL.fp32_precision == "bf16"
        _ = 1 / 0
    assert MATMUL.fp32_precision == before != "bf16"


@pytest.mark.parametrize("capture", ["eager", "compile"])
def test_full_precision_touches_nothing(capture: str) -> None:
    """A program in full precision runs under whatever the process has set, as before there was a choice."""
    seen: list[str] = []

    def step(values: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            seen.append(MATMUL.fp32_precision)
        return values + 1

    program = Program(step, CPU, capture)
    with products("bf16", CPU):
        assert program(torch.ones(2)).tolist() == [2.0, 2.0]
    assert seen == (["bf16"] if capture == "eager" else [])


@needs_full
def test_a_machine_without_it_refuses_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches bf16 that is fp32 in silence: torch and oneDNN fall back without a word."""
    algorithm = find("bc")
    config = small_config(algorithm, precision="bf16")
    with pytest.raises(UsageError, match=r"precision=bf16 asks for .* but cpu multiplies in full precision only"):
        Learner(algorithm, config, "main", replay_for(algorithm), 1, "eager")
    command = ["train", "bc", "--dataset", "two-modes", "--set", "precision=bf16", "--storage", str(tmp_path)]
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert "take precision=fp32, or another machine" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@needs_bf16
@pytest.mark.parametrize("capture", ["eager", "compile"])
def test_learners_of_different_precision_share_a_process(capture: str) -> None:
    """Each member is what it is alone, whoever steps in between; and the two precisions differ."""
    algorithm = find("bc")
    configs = [small_config(algorithm, hidden_dims=(64, 64), precision=value) for value in ("fp32", "bf16")]
    apart = [learner_for(algorithm, "main", [(config, 1)], capture=capture) for config in configs]
    for learner in apart:
        learner.run(6)
    mixed = [learner_for(algorithm, "main", [(config, 1)], capture=capture) for config in configs]
    for _ in range(6):
        for learner in mixed:
            learner.run(1)
    for one, other in zip(apart, mixed, strict=True):
        assert identical(one.state(0).tensors, other.state(0).tensors)
    assert not identical(apart[0].state(0).tensors, apart[1].state(0).tensors)


@needs_onednn
def test_products_by_onednn_are_full_precision_and_others() -> None:
    """Catches a setting that reduces precision, and one that torch ignores: the two libraries add in another order."""
    torch.manual_seed(0)
    left, right = torch.randn(8, 256, 256), torch.randn(8, 256, 256)
    default = left @ right
    with products("fp32_onednn", CPU):
        found = left @ right
    exact = left.double() @ right.double()
    assert (found - exact).abs().max() < 2 * (default - exact).abs().max() + 1e-6
    assert not torch.equal(found, default)


@needs_onednn
def test_by_onednn_a_member_is_the_same_beside_others() -> None:
    """Bitwise, as in fp32: whoever sits beside it, and in which seat."""
    algorithm = find("td3_bc")
    config = small_config(algorithm, hidden_dims=(64, 64), precision="fp32_onednn")
    one = learner_for(algorithm, "main", [(config, 1), (config, 2)])
    other = learner_for(algorithm, "main", [(config, 3), (config, 1)])
    for learner in (one, other):
        learner.run(6)
    assert identical(one.state(0).tensors, other.state(1).tensors)


def test_on_cuda_onednn_is_refused() -> None:
    with pytest.raises(UsageError, match=r"precision=fp32_onednn .* which cuda cannot be told to use"):
        require("fp32_onednn", "cuda")


def test_the_choice_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    main(["algorithms", "lom", "--json"])
    ((shown,),) = [
        [f for f in row["fields"] if f["name"] == "precision"] for row in json.loads(capsys.readouterr().out)
    ]
    assert (
        shown["choices"] == ["fp32", "fp32_onednn", "bf16"]
        and shown["default"] == "fp32"
        and shown["kind"] == "structure"
    )

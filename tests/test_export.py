"""Exported policies: the file acts as the policy that was scored, without raymix, and the card says what it is."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import small_config, tiny_dataset

from raymix.algorithms.base import find, names
from raymix.cli import main
from raymix.evaluation.policy import Policy
from raymix.export import export, scripted
from raymix.packing.local import LocalPack
from raymix.types import UsageError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of TD3+BC on a toy."""
    storage = tmp_path_factory.mktemp("runs")
    command = ["train", "td3_bc", "--dataset", "two-modes", "--seeds", "3", "--steps", "12", "--evaluate-every", "6"]
    command += ["--set", "hidden_dims=8,8", "--set", "batch_size=16", "--eager", "--json", "--episodes", "4"]
    main([*command, "--storage", str(storage)])
    (folder,) = storage.iterdir()
    return folder


@pytest.mark.parametrize("name", names())
def test_every_algorithm_is_exported_as_it_acts(name: str) -> None:
    algorithm = find(name)
    pack = LocalPack(name, small_config(algorithm), [3], tiny_dataset(low=-0.5, high=2.0), 100, capture="eager")
    while not pack.finished:
        policies = pack.advance().policies
    policy, module = Policy(policies[0]), torch.jit.load(io.BytesIO(scripted(policies[0])))
    observations = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32) * 3
    for step in (0, 41):
        for row in observations:
            found = module(torch.from_numpy(row[None]), torch.tensor(step)).numpy()
            assert np.allclose(found, policy.act(row[None], step), rtol=1e-5, atol=1e-6)
    batch = module(torch.from_numpy(observations), torch.tensor(41)).numpy()
    assert batch.shape == (5, 2) and (batch >= -0.5).all() and (batch <= 2.0).all()
    # The first row of a batch acts as it does alone; a stochastic policy's rows are drawn independently.
    same = module(torch.from_numpy(observations[:1].repeat(5, 0)), torch.tensor(41)).numpy()
    assert np.allclose(same[0], policy.act(observations[:1], 41)[0], rtol=1e-5, atol=1e-6)
    stochastic = not np.array_equal(policy.act(observations[:1], 1), policy.act(observations[:1], 2))
    assert (np.ptp(same, axis=0).max() > 1e-4) == stochastic


def test_the_best_seed_is_written_with_a_card_and_needs_no_raymix(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    main(["export", str(run.parent)])
    told = capsys.readouterr().out
    assert "td3_bc on toy/two-modes-v0" in told and "chosen from 3 agents of 1 configurations" in told
    card = json.loads((run / "exported" / "best.json").read_text())
    scores = card["scores_of_its_configuration"]
    assert card["score"] == scores[str(card["seed"])] == max(scores.values())
    assert (card["step"], card["evaluated_at_step"], card["finished"]) == (12, 12, True)
    code = f"""
import sys, torch
module = torch.jit.load({str(run / "exported" / "best.pt")!r})
print(module(torch.zeros(2, {card["observation_dim"]}), torch.tensor(0)).shape, "raymix" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == f"torch.Size([2, {card['action_dim']}]) False", done.stderr


def test_one_seed_of_one_configuration_is_written_where_it_is_asked_for(run: Path, tmp_path: Path) -> None:
    first = export(str(run)).facts["config_id"]
    done = export(str(run), str(tmp_path / "deep" / "mine.pt"), first[:5], 1)
    assert done.facts["seed"] == 1 and Path(done.card).name == "mine.json"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--seed", "7"], "has the seeds 0, 1, 2, not 7"),
        (["--config", "zzz"], "0 configurations of .* begin with 'zzz'"),
        (["--out", "policy.onnx"], "files end in .pt, not 'policy.onnx'"),
    ],
)
def test_what_is_not_there_is_told(
    run: Path, options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(run), *options])
    assert re.search(told, capsys.readouterr().err)


def test_a_run_without_a_policy_is_told(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    for folder in copy.glob("trials/*/*/checkpoint_*"):
        shutil.rmtree(folder)
    with pytest.raises(UsageError, match="has no whole checkpoint of its phase main"):
        export(str(copy))

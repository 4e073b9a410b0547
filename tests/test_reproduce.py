"""Reproductions: methods run as one sweep, their table beside the paper, their trained networks."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from raymix.cli import main
from raymix.plan import SweepSpec
from raymix.reproduce import base
from raymix.types import UsageError

SMALL = {"steps": 40, "batch_size": 16, "hidden_dims": (8,)}
COMMON = {"datasets": ("two-modes",), "seeds": 2, "episodes": 4, "evaluate_every": 20}
METHODS = (
    base.Method(SweepSpec("bc", label="cloning", settings=SMALL, **COMMON), published=0.4, spread=0.1),
    base.Method(SweepSpec("mdn", label="mixture", settings={**SMALL, "num_components": 2}, **COMMON), published=0.9),
    base.Method(SweepSpec("bc", label="wide", settings={**SMALL, "hidden_dims": (9,)}, **COMMON)),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[base.Run]:
    options = base.Options(str(tmp_path_factory.mktemp("runs")), quiet=True, capture="eager")
    yield base.run_methods("tiny-table", METHODS, options)


def test_methods_are_listed_beside_the_paper(run: base.Run) -> None:
    """Catches a method under another's name or number, and a row that the paper has not."""
    text = base.beside_paper(run, METHODS, "Tiny table")
    lines = {line.split(" | ")[0].strip(): line.split(" | ") for line in text.splitlines() if " | " in line}
    assert [lines[name][1].strip() for name in ("cloning", "mixture", "wide")] == ["0.4 +- 0.1", "0.9", "-"]
    for method in METHODS:
        label = str(method.spec.label)
        row = run.row(label)
        assert row["algorithm"] == method.spec.algorithm and row["step"] == 40 and row["finished"]
        assert lines[label][4].split() == [f"{score:.2f}" for score in row["scores"]]
    means = {label: run.row(label)["mean"] for label in ("cloning", "mixture")}
    assert ("published order" in text) == (means["mixture"] >= means["cloning"])
    assert (run.figures / "beside_paper.txt").read_text() == text + "\n"


def test_trained_members_act_as_they_were_evaluated(run: base.Run) -> None:
    """Catches weights of another seed or step: playing the episodes again must give the ledger's scores."""
    from raymix.evaluation.rollout import evaluate

    for label in ("cloning", "mixture"):
        members = run.members(label)
        assert [member.seed for member in members] == [0, 1]
        for member, score in zip(members, run.row(label)["scores"], strict=True):
            assert np.mean(evaluate(member.policy, 4).returns) == pytest.approx(score)
    (first, _) = run.members("cloning")
    observations = torch.zeros(3, 2)
    expected = first.networks.policy(observations).mean.numpy()
    np.testing.assert_allclose(first.policy.act(observations.numpy(), 0), expected, atol=1e-6)


def test_a_finished_reproduction_resumes_to_its_results(run: base.Run) -> None:
    again = base.run_methods("tiny-table", METHODS, base.Options(resume=str(run.folder), quiet=True))
    assert again.folder == run.folder and list(again.frame["mean"]) == list(run.frame["mean"])
    with pytest.raises(UsageError, match="started by tiny-table"):
        base.run_methods("other-table", METHODS, base.Options(resume=str(run.folder), quiet=True))


def test_every_reproduction_has_a_title_and_an_entry(capsys: pytest.CaptureFixture) -> None:
    main(["reproduce", "--list", "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed] == base.names()
    for entry in listed:
        assert len(entry["title"]) > 10 and callable(base.find(entry["name"]).reproduce)
    main(["reproduce", "--list"])
    assert all(name in capsys.readouterr().out for name in base.names())


@pytest.mark.parametrize("arguments", [["reproduce"], ["reproduce", "no-such-table"]])
def test_an_unknown_reproduction_is_refused_with_the_known_ones(
    arguments: list[str], capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    message = capsys.readouterr().err
    assert message.startswith("error: ") and all(name in message for name in base.names())

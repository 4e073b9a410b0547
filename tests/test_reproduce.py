"""Reproductions: methods run as one sweep, their table beside the paper, their trained networks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from raymix.cli import main
from raymix.data import toy
from raymix.plan import SweepSpec
from raymix.reproduce import base
from raymix.types import UsageError

SMALL = {"steps": 40, "batch_size": 16, "hidden_dims": (8,)}
COMMON = {"datasets": ("two-modes",), "seeds": 2, "episodes": 4, "evaluate_every": 20}
METHODS = (
    base.Method(SweepSpec("bc", label="cloning", settings=SMALL, **COMMON), published=0.4, spread=0.1),
    base.Method(SweepSpec("mdn", label="mixture", settings={**SMALL, "num_components": 2}, **COMMON), published=0.9),
    base.Method(
        SweepSpec("lapo", label="slow decoder", settings={**SMALL, "hidden_dims": (8, 8)}, **COMMON),
    ),
    base.Method(SweepSpec("bc", label="wide", settings={**SMALL, "hidden_dims": (9,)}, **COMMON)),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[base.Run]:
    options = base.Options(str(tmp_path_factory.mktemp("runs")), quiet=True, capture="eager")
    yield base.run_methods("tiny-table", METHODS, options)


def test_methods_are_listed_beside_the_paper(run: base.Run) -> None:
    """Catches a method under another's name or number, and a row that the paper has not."""
    text = base.beside_paper(run.figures, run.rows(METHODS), "Tiny table")
    lines = {line.split(" | ")[0].strip(): line.split(" | ") for line in text.splitlines() if " | " in line}
    assert [lines[name][1].strip() for name in ("cloning", "mixture", "wide")] == ["0.4 +- 0.1", "0.9", "-"]
    for method in METHODS:
        label = str(method.spec.label)
        row = run.row(label)
        assert row["algorithm"] == method.spec.algorithm and row["step"] == 40 and row["finished"]
        assert lines[label][4].split() == [f"{score:.2f}" for score in row["scores"]]
    means = {label: run.row(label)["mean"] for label in ("cloning", "mixture")}
    assert ("The means come in the published order" in text) == (means["mixture"] > means["cloning"])
    assert (run.figures / "beside_paper.txt").read_text() == text + "\n"


def test_trained_members_act_as_they_were_evaluated(run: base.Run) -> None:
    """Catches weights of another seed or step: playing the episodes again must give the ledger's scores."""
    from raymix.evaluation.rollout import evaluate

    for label in ("cloning", "mixture", "slow decoder"):
        members = run.members(label)
        assert [member.seed for member in members] == [0, 1]
        for member, score in zip(members, run.row(label)["scores"], strict=True):
            assert np.mean(evaluate(member.policy(), 4).returns) == pytest.approx(score)
    (first, _) = run.members("cloning")
    observations = torch.zeros(3, 2)
    expected = first.networks.policy(observations).mean.numpy()
    np.testing.assert_allclose(first.policy().act(observations.numpy(), 0), expected, atol=1e-6)


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
    shown = capsys.readouterr().out
    assert all(name in shown for name in base.names())


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        ((3.0, 2.0, 1.0), "The means come in the published order: a > b > c."),
        ((3.0, 1.0, 1.001), "here:  a > b = c"),
        ((1.0, 2.0, 3.0), "here:  c > b > a"),
    ],
)
def test_the_order_is_told_as_it_is(ours: tuple[float, ...], said: str, tmp_path: Path) -> None:
    """Catches equal means that pass for an order, and a row without a published number that takes part."""
    rows = [base.Row(label, [mean] * 3, published) for label, mean, published in zip("abc", ours, (9.0, 8.0, 7.0))]
    text = base.beside_paper(tmp_path, [*rows, base.Row("d", [99.0] * 3)], "Order")
    assert said in text and "d >" not in text


def test_members_trained_here_act_and_are_the_seeds_asked_for() -> None:
    """For data without an environment, which no sweep takes."""
    told: list[str] = []
    members = base.train_here("bc", {**SMALL, "steps": 30}, toy.chain(), 2, told.append, "eager")
    assert [member.seed for member in members] == [0, 1] and told == ["bc: main 30 (100% done)"]
    actions = [member.policy().act(np.zeros((1, toy.CHAIN_LENGTH)), 0) for member in members]
    assert actions[0].shape == (1, 1) and actions[0] != actions[1]


def test_bellman_errors_are_read_out_of_the_loss(tmp_path: Path) -> None:
    """Catches a wrong sign or factor: in one-step episodes the target is the reward."""
    from raymix.reproduce.dmpo_fig4 import bellman_errors

    settings = {"hidden_dims": (8,), "batch_size": 16, "steps": 5, "policy_every": 1}
    (member,) = base.train_here("awac", settings, toy.readable(), 1, lambda line: None, "eager")
    errors = bellman_errors(member, toy.readable())
    columns = toy.readable().columns
    rows = columns.transition_rows()
    observations, actions = (torch.from_numpy(array[rows]) for array in (columns.observations, columns.actions))
    expected = columns.rewards[rows] - member.networks.critic(observations, actions)[0].numpy()
    assert len(errors) == 4_000
    assert np.isclose(errors[:50, None], expected[None], atol=1e-4).any(1).all()


def test_a_variant_is_never_resumed_as_another(run: base.Run) -> None:
    """Catches one task's scores beside the published numbers of another."""
    with pytest.raises(UsageError, match="started by tiny-table, not by tiny-table-push"):
        base.run_methods("tiny-table", METHODS, base.Options(resume=str(run.folder), quiet=True), "push")


def test_a_data_set_as_variant_names_a_folder(run: base.Run) -> None:
    """Catches a run in folders inside each other: names of data sets hold slashes and blanks."""
    with pytest.raises(UsageError, match="not by tiny-table-a-b-v0-c-v0;"):
        base.run_methods("tiny-table", METHODS, base.Options(resume=str(run.folder), quiet=True), "a/b-v0 + c-v0")


def test_bellman_errors_of_another_data_set_are_of_the_same_methods() -> None:
    """Catches the two-goal task's settings on MuJoCo, and a control that controls nothing."""
    from raymix.reproduce import dmpo_fig4

    toy_rows, rows = (dmpo_fig4.methods(name) for name in (dmpo_fig4.TOY, "mujoco/halfcheetah/medium-v0"))
    assert [row.spec.label for row in rows] == [row.spec.label for row in toy_rows]
    for row in rows:
        control = {"clip_target_actions": True} if str(row.spec.label).endswith(dmpo_fig4.CLIPPED) else {}
        assert row.spec.settings == {"steps": dmpo_fig4.STEPS, **control}
        assert row.spec.datasets == ("mujoco/halfcheetah/medium-v0",)


@pytest.mark.parametrize(
    ("name", "variant", "said"),
    [
        ("lom-table2", "slide", "variants"),
        ("lapo-table1", "reach", "variants"),
        ("dmpo-fig4", "two-gaols", "toy/two-goals-v0"),
    ],
)
def test_an_unknown_variant_is_refused(
    name: str, variant: str, said: str, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["reproduce", name, "--variant", variant, "--storage", str(tmp_path)])
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["reproduce"], ["reproduce", "no-such-table"]])
def test_an_unknown_reproduction_is_refused_with_the_known_ones(
    arguments: list[str], capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    message = capsys.readouterr().err
    assert message.startswith("error: ") and all(name in message for name in base.names())

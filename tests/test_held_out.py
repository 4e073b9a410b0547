"""Episodes that training does not see, and judging a data set without an environment by them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import identical, small_config, tiny_dataset

from raymix import ledger
from raymix.algorithms.base import find, names
from raymix.cli import main
from raymix.data.held_out import held_out_episodes
from raymix.evaluation.policy import Policy
from raymix.evaluation.weights import PolicyWeights
from raymix.job import score_in_words
from raymix.learner.learner import Learner
from raymix.learner.replay import DeviceReplay
from raymix.learner.state import acting_of
from raymix.packing.local import LocalPack
from raymix.packing.seating import to_numpy
from raymix.types import Dataset, UsageError

PHASES = [(name, phase.name) for name in names() for phase in find(name).phases]
SHARE = 0.3


def learner_of(name: str, phase: str, dataset: Dataset, held_out: float = SHARE, seeds: tuple = (1, 2)) -> Learner:
    algorithm = find(name)
    config = small_config(algorithm)
    replay = DeviceReplay(dataset, with_next_action=algorithm.uses_next_actions, held_out=held_out)
    learner = Learner(algorithm, config, phase, replay, len(seeds), "eager")
    for seat, seed in enumerate(seeds):
        learner.load(seat, learner.fresh(config, seed), config)
    return learner


def held_out_of(dataset: Dataset) -> np.ndarray:
    return held_out_episodes(dataset.columns, dataset.spec, SHARE)


@pytest.mark.parametrize(("episodes", "share", "expected"), [(10, 0.1, 1), (10, 0.25, 2), (3, 0.01, 1), (2, 0.99, 1)])
def test_at_least_one_episode_is_held_out_and_one_is_left(episodes: int, share: float, expected: int) -> None:
    dataset = tiny_dataset([3] * episodes)
    chosen = held_out_episodes(dataset.columns, dataset.spec, share)
    assert len(chosen) == len(set(chosen.tolist())) == expected
    assert np.array_equal(chosen, held_out_episodes(dataset.columns, dataset.spec, share))
    assert not len(held_out_episodes(dataset.columns, dataset.spec, 0.0))


def test_a_single_episode_is_refused() -> None:
    dataset = tiny_dataset([9])
    with pytest.raises(UsageError, match=r"has one episode, so none can be held out .* cut it into several"):
        held_out_episodes(dataset.columns, dataset.spec, 0.1)


def changed(dataset: Dataset, episodes: np.ndarray) -> Dataset:
    """The same facts, and other numbers in these episodes."""
    columns, inside = dataset.columns, np.isin(dataset.columns.episode, episodes)
    new = {
        name: np.where(inside.reshape(-1, *[1] * (array.ndim - 1)), array * 0.5, array)
        for name in ("observations", "actions", "rewards")
        for array in [getattr(columns, name)]
    }
    return Dataset(dataset.spec, dataclasses.replace(columns, **new))


@pytest.mark.parametrize(("name", "phase"), PHASES)
def test_training_does_not_see_them_and_looking_changes_nothing(name: str, phase: str) -> None:
    """Bitwise: other numbers in the held-out episodes train the same members; looking at them trains nobody."""
    dataset = tiny_dataset()
    learners = [learner_of(name, phase, each) for each in (dataset, changed(dataset, held_out_of(dataset)))]
    for learner in learners:
        learner.run(3)
    before = [learner.state(0).tensors for learner in learners]
    found = [learner.held_out([0, 1]) for learner in learners]
    assert identical(before[0], before[1])
    for learner, state in zip(learners, before):
        assert identical(state, learner.state(0).tensors)
    if found[0][0]:  # some losses depend on what is learnt of an episode
        assert found[0] != found[1]
    assert all(np.isfinite(value) for seat in found[0] for value in seat.values())
    last = phase == find(name).phases[-1].name
    assert all(("action_error" in seat) == last for seat in found[0])
    # The first seat's alone are those of the first seat among others.
    assert learners[0].held_out([0]) == found[0][:1]


def test_what_is_learnt_of_an_episode_is_not_asked_of_others() -> None:
    """LBRAC-v fits a vector per trajectory; those of held-out trajectories were never trained."""
    learner = learner_of("lbrac_v", find("lbrac_v").phases[0].name, tiny_dataset())
    read = {update.loss for update in learner.phase.updates} & learner.held_out([0])[0].keys()
    assert not read


def test_they_are_means_over_the_held_out_transitions() -> None:
    """Against torch's own mixture, and the policy's own actions, row by row."""
    dataset = tiny_dataset()
    columns = dataset.columns
    rows = columns.transition_rows()
    rows = rows[np.isin(columns.episode[rows], held_out_of(dataset))]
    assert 0 < len(rows) <= 16  # one batch
    learner = learner_of("mdn", "main", dataset)
    learner.run(5)
    state = learner.state(1)
    nets = learner._modules["mdn"]
    parameters = {key.split("/", 2)[2]: value for key, value in state.tensors.items() if key.startswith("parameters/")}
    mixture = torch.func.functional_call(nets, parameters, (torch.from_numpy(columns.observations[rows]),))
    density = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=mixture.logits),
        torch.distributions.Independent(
            torch.distributions.Normal(mixture.means, mixture.log_stds.clamp(-15, 0).exp()), 1
        ),
    )
    expected = -density.log_prob(torch.from_numpy(columns.actions[rows])).mean()
    assert learner.held_out([1])[0]["mdn_loss"] == pytest.approx(float(expected), rel=1e-4)

    learner = learner_of("td3_bc", "main", dataset)
    learner.run(5)
    state = learner.state(0)
    weights = PolicyWeights(
        "td3_bc",
        learner.config.to_dict(),
        dataset.spec.to_dict(),
        1,
        to_numpy(acting_of(learner.algorithm, state.tensors)),
    )
    actions = Policy(weights).act(columns.observations[rows], 0)
    expected_error = np.square(actions - columns.actions[rows]).mean()
    assert learner.held_out([0])[0]["action_error"] == pytest.approx(expected_error, rel=1e-4)


def test_large_sets_are_looked_at_by_evenly_spread_batches() -> None:
    dataset = tiny_dataset([40] * 60)
    learner = learner_of("bc", "main", dataset, held_out=0.5)
    assert len(learner.replay.held_out_rows) == 1200
    first = learner.held_out([0])[0]
    assert first == learner.held_out([0])[0]
    exact = learner_of("bc", "main", dataset, held_out=0.5)
    exact._structure = {**exact._structure, "batch_size": 1200}  # all rows at once
    # 16 batches of 16 rows see 256 of 1,200.
    assert exact.held_out([0])[0]["policy_loss"] == pytest.approx(first["policy_loss"], rel=0.1)


def test_without_a_share_there_is_nothing_to_look_at() -> None:
    assert learner_of("bc", "main", tiny_dataset(), held_out=0.0).held_out([0, 1]) == [{}, {}]


def test_reports_of_packs_have_them() -> None:
    algorithm = find("lom")
    pack = LocalPack("lom", small_config(algorithm), [0, 1], tiny_dataset(), 3, capture="eager", held_out=SHARE)
    metrics = pack.advance().metrics
    assert all(np.isfinite(each["held_out/mdn_loss"]) for each in metrics)
    assert all("held_out/action_error" not in each for each in metrics)  # nobody acts before the last phase
    while not pack.finished:
        metrics = pack.advance().metrics
    assert {"held_out/critic_loss", "held_out/action_error"} <= metrics[1].keys()


def test_a_log_without_an_environment_trains_and_is_judged_by_its_held_out_episodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "td3_bc", "--dataset", "chain", "--seeds", "3", "--steps", "20", "--evaluate-every", "10"]
    command += ["--set", "hidden_dims=8,8", "--set", "batch_size=16", "--eager", "--storage", str(tmp_path)]
    main(command)
    table = capsys.readouterr().out
    assert "held-out action_error (less is better) on toy/chain-v0" in table and "score per seed" in table
    assert table.count("main 10, held-out action_error 0.") == 1, "the line of a report tells what it is judged by"
    (run,) = tmp_path.glob("train-*")
    plan = json.loads((run / "sweep.json").read_text())
    assert (plan["metric"], plan["held_out"]) == ("held_out/action_error", 0.1)
    rows = list(ledger.rows(ledger.read(str(run / "ledger"))))
    assert len(rows) == 6 and all(row.returns == () and "held_out/critic_loss" in row.metrics for row in rows)
    before = (run / "report/scores.csv").read_bytes()
    for more in ([], ["--csv", str(tmp_path / "wide.csv")]):
        with pytest.raises(SystemExit):
            main(["report", str(run), "--metric", "held_out/nope", *more])
        told = capsys.readouterr().err
        assert "no result has the metric 'held_out/nope'; there are: held_out/action_error, held_out/" in told
    assert (run / "report/scores.csv").read_bytes() == before and not (tmp_path / "wide.csv").exists()
    main(["report", str(run), "--metric", "held_out/critic_loss", "--select", "best", "--json"])
    (shown,) = json.loads(capsys.readouterr().out)["rows"]
    for seed, score in enumerate(shown["scores"]):
        assert score == min(row.metrics["held_out/critic_loss"] for row in rows if row.seed == seed)
    for options, told in (
        (["--metric", "return"], "has no environment to play in, so there is no return; choose"),
        (["--held-out", "0"], "needs episodes that training does not see"),
        (["--held-out", "1"], "held_out takes a share of the episodes from 0 to below 1"),
        (["--metric", "held_out/loss"], "td3_bc reports no held_out/loss; it reports held_out/action_error, held_out/"),
        (["--metric", "loss"], "metric is one of return, normalized_score, held_out/action_error"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([*command, *options])
        assert told in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_shown_while_training_is_what_decides() -> None:
    told = {"evaluation/returns": [1.0, float("nan")], "held_out/action_error": 0.25}
    assert score_in_words(told, "return") == score_in_words(told, "normalized_score") == "return 1.0 diverged"
    assert score_in_words(told, "held_out/action_error") == "held-out action_error 0.25"
    assert score_in_words(told, "held_out/critic_loss") == score_in_words({}, "return") == ""

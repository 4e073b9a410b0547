"""The papers' figures from small real runs: each is drawn, shows what it says, or says what to run instead."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raymix.algorithms.lom import LOM
from raymix.cli import main
from raymix.data import library, toy
from raymix.data.columns import Episode, from_episodes, make_dataset
from raymix.evaluation.rollout import evaluate
from raymix.nn.losses import component_std
from raymix.paper_figures import actions, dmpo, relative, weights
from raymix.paper_figures.material import Lacking, Material
from raymix.paper_figures.write import write_figures
from raymix.report.runs import read_runs

NETS = {
    "lom": ["mdn_hidden_dims=8,8", "hidden_dims=8,8", "num_components=3", "mdn_steps=6"],
    "mdn": ["hidden_dims=8,8"],
    "awac": ["hidden_dims=8,8"],
    "lapo": ["hidden_dims=8,8"],
    "dmpo": ["hidden_dims=8,8", "num_latents=3"],
    "td3_rkl": ["hidden_dims=8,8", "behavior_hidden_dims=8,8", "behavior_steps=6"],
    "lbrac_v": ["policy_hidden_dims=8,", "critic_hidden_dims=8,", "behavior_steps=6", "batch_size=16"],
}


def train(storage: Path, algorithm: str, dataset: str, *settings: str, seeds: int = 2, steps: int = 8) -> Path:
    """One small run; its folder."""
    command = ["train", algorithm, "--dataset", dataset, "--seeds", str(seeds), "--steps", str(steps)]
    for setting in (*NETS[algorithm], *settings):
        command += ["--set", setting]
    before = set(storage.glob("*"))
    main([*command, "--evaluate-every", "4", "--episodes", "2", "--eager", "--json", "--storage", str(storage)])
    (folder,) = set(storage.glob("*")) - before
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Every algorithm whose figures there are, on the two-goal task; LOM and LBRAC-v with two settings."""
    storage = tmp_path_factory.mktemp("runs")
    found = [train(storage, algorithm, "two-goals") for algorithm in NETS]
    return [
        *found,
        train(storage, "lom", "two-goals", "num_components=1"),
        train(storage, "lbrac_v", "two-goals", "num_codes=2"),
    ]


def material_of(folders: list[Path]) -> Material:
    return Material(read_runs([str(folder) for folder in folders]))


@pytest.mark.timeout(900)  # every algorithm is trained and every figure drawn here
def test_all_figures_that_runs_can_give_are_written_and_the_others_are_named(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    main(["report", *map(str, runs), "--figures", str(tmp_path / "figures"), "--json"])
    told = json.loads(capsys.readouterr().out)
    names = {Path(each["path"]).name: each["stands_for"] for each in told["figures"]}
    embeddings = {name for name in names if name.startswith("embeddings-")}
    assert names.keys() - embeddings == {
        "scores.png",
        "curves.png",
        "lbrac_v-fig5-6.png",
        "actions-toy-two-goals-v0.png",
        "td3_rkl-fig4.png",
        "dmpo-fig4.png",
        "dmpo-fig5.png",
    }
    assert len(embeddings) == 4  # two configurations in two phases
    assert names["actions-toy-two-goals-v0.png"] == "LOM 2 and 4, LAPO 2"
    for name in names:
        with Image.open(tmp_path / "figures" / name) as image:
            assert image.format == "PNG" and image.width >= 600
            assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 20, name
    (lacking,) = told["lacking"]
    assert lacking.startswith("lbrac_v-fig4.png (LBRAC-v 4): ") and "`raymix data train-sources" in lacking
    assert not list(runs[0].glob("report/*fig*")), "something was written into a run"


def test_what_one_short_run_lacks_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train(tmp_path, "mdn", "two-modes", seeds=1, steps=4)
    capsys.readouterr()
    main(["report", str(folder), "--figures", str(tmp_path / "figures")])
    out = capsys.readouterr().out
    assert "scores.png (LOM 3): nothing was swept; sweep a hyperparameter" in out
    assert "curves.png (DMPO 3, LAPO 4 and 5): learning curves need two evaluations" in out
    assert list((tmp_path / "figures").iterdir()) == []


def test_a_run_whose_checkpoints_are_gone_gives_what_its_ledger_can(runs: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs[list(NETS).index("dmpo")], copy)
    shutil.rmtree(copy / "trials")
    done = write_figures([str(copy)], str(tmp_path / "figures"))
    assert [Path(path).name for path, _ in done.written] == ["curves.png"]
    assert any(
        each.startswith("dmpo-fig5.png") and "no whole checkpoint of its phase main; resume" in each
        for each in done.lacking
    )


def test_a_configuration_without_a_checkpoint_hides_no_other(runs: list[Path], tmp_path: Path) -> None:
    whole = [runs[list(NETS).index(name)] for name in ("dmpo", "td3_rkl")]
    copies = [tmp_path / name for name in ("awac", "td3_rkl")]
    shutil.copytree(runs[list(NETS).index("awac")], copies[0])
    train(copies[1], "td3_rkl", "two-goals", "zeta1=0.5")
    (copies[1],) = copies[1].iterdir()
    for copy in copies:
        shutil.rmtree(copy / "trials")
    done = write_figures([str(each) for each in (*whole, *copies)], str(tmp_path / "figures"))
    assert {"dmpo-fig4.png", "td3_rkl-fig4.png"} <= {Path(path).name for path, _ in done.written}
    told = "\n".join(done.lacking)
    assert "in dmpo-fig4.png (DMPO 4): awac" in told and "in td3_rkl-fig4.png (TD3+RKL 4): td3_rkl, zeta1=0.5" in told


@pytest.mark.parametrize("option", [["--embeddings"], ["--optuna", "x"], ["--csv", "x"], ["--baseline", "bc"]])
def test_figures_go_with_nothing_else(option: list[str], runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(runs[0]), "--figures", "figures", *option])
    assert "--figures" in capsys.readouterr().err and not Path("figures").exists()


def test_a_start_is_where_episodes_start_and_the_data_are_their_first_actions() -> None:
    dataset = toy.two_goals()
    probe, taken = actions.near_a_start(dataset)
    columns = dataset.columns
    firsts = np.append(0, columns.last_rows[:-1] + 1)
    assert any(np.array_equal(probe, columns.observations[row]) for row in firsts)
    assert np.linalg.norm(probe - columns.observations[firsts].mean(0)) < 0.01
    # Of the 400 episodes the 100 that start farthest away are left out.
    assert taken.shape == (actions.ACTIONS, 2)
    assert {tuple(row) for row in taken} <= {tuple(row) for row in columns.actions[firsts]}


def test_what_lom_chose_is_drawn_from_the_mode_with_the_highest_value(runs: list[Path]) -> None:
    material = material_of([runs[0]])
    (one,) = material.of("lom")
    member, probe = material.member(one), np.array([0.0, -0.8], dtype=np.float32)
    acted = actions.acted_at(probe, member)
    mixture = member.networks.mdn(torch.from_numpy(probe[None]))
    values = member.networks.hyper_critic(torch.from_numpy(probe[None]))
    mode = int(LOM().select_mode(values, mixture, member.policy().config))
    std = component_std(mixture)[0, mode].numpy()
    assert acted.model is not None and acted.chosen is not None
    inside = np.abs(acted.chosen) < 1.0
    off = np.abs(acted.chosen - mixture.means[0, mode].numpy()) / std
    assert acted.chosen.shape == (actions.ACTIONS, 2) and np.mean(off[inside] < 3) > 0.95
    assert np.ptp(acted.policy, axis=0).max() < 1e-6, "LOM acts without chance"


def test_weights_are_those_that_training_used(runs: list[Path]) -> None:
    material = material_of([runs[list(NETS).index("td3_rkl")]])
    (one,) = material.of("td3_rkl")
    states = toy.two_goals().columns.observations[:50]
    member = material.member(one)
    found = weights.weights_at(member, states)
    std = member.networks.behavior(torch.from_numpy(states)).log_std.exp().mean(-1).numpy()
    assert found == pytest.approx(1 / (1 + np.exp(10.0 * std - 5.0)), rel=1e-5)


def test_an_episode_of_dmpo_is_played_by_the_sub_policy_of_the_highest_value(runs: list[Path]) -> None:
    material = material_of([runs[list(NETS).index("dmpo")]])
    (one,) = material.of("dmpo")
    member = material.member(one)
    told = dmpo.play(member, str(member.weights.spec["environment"]))
    assert told.values.shape == (len(told.chosen), 3)
    assert np.array_equal(told.values.argmax(1), told.chosen)
    lengths = evaluate(member.policy(), 8).lengths
    assert min(lengths) - 30 <= len(told.chosen) <= 60


def heterogeneous(k: int, references: tuple[float, float] | None) -> None:
    """A data set of k sources in the library; the i-th (from 0) earns 2 i + 3 in each of its i + 1 episodes."""
    episodes = []
    for source in range(k):
        for _ in range(source + 1):
            length = 2 * source + 3
            episodes.append(
                Episode(
                    observations=np.zeros((length + 1, 2), np.float32),
                    actions=np.zeros((length, 2), np.float32),
                    rewards=np.ones(length, np.float32),
                    terminations=np.arange(length) == length - 1,
                    truncations=np.zeros(length, bool),
                    source=source,
                )
            )
    low, high = references or (None, None)
    dataset = make_dataset(
        from_episodes(episodes),
        f"dots/heterogeneous-{k}",
        action_low=[-1.0] * 2,
        action_high=[1.0] * 2,
        environment=toy.two_goals().spec.environment,
        reference_min=low,
        reference_max=high,
        sources=[f"policy-{source}" for source in range(k)],
    )
    library.save(dataset, {})


def test_relative_return_is_to_the_mean_of_the_datas_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMIX_DATASETS_PATH", str(tmp_path / "library"))
    for k in (1, 2):
        heterogeneous(k, (1.0, 9.0))
    (tmp_path / "runs").mkdir()
    folders = [train(tmp_path / "runs", "mdn", f"dots/heterogeneous-{k}") for k in (1, 2)]
    material = material_of(folders)
    one, two = sorted(material.runs.configurations, key=lambda each: each.dataset)
    # The policies earn 3, and 3 and 5, each of which counts the same though the second has two of three episodes.
    assert relative._baseline(one, material.dataset(one)) == (1.0, 2.0)
    assert relative._baseline(two, material.dataset(two)) == (1.0, 3.0)
    done = write_figures([str(folder) for folder in folders], str(tmp_path / "figures"))
    assert "LBRAC-v 4" in dict(map(reversed, done.written)), done.lacking
    frame = relative.relative_table(material)
    assert list(frame["dataset"]) == ["dots", "dots"] and list(frame["k"]) == [1, 2]
    for row, each, above in zip(frame.to_dict("records"), (one, two), (2.0, 3.0)):
        expected = [(seed[-1].score - 1.0) / above for seed in each.seeds.values()]
        assert row["scores"] == pytest.approx(expected) and row["mean"] == pytest.approx(np.mean(expected))


def test_returns_are_relative_to_nothing_without_references_or_with_worthless_policies() -> None:
    configuration = dataclasses.make_dataclass("Configuration", ["dataset", "references"])
    dataset = toy.two_goals()
    with pytest.raises(Lacking, match=r"no reference scores, .* --reference-scores"):
        relative._baseline(configuration("x", None), dataset)  # type: ignore[arg-type]
    with pytest.raises(Lacking, match="earn 1, no more than the reference 2"):
        relative._baseline(configuration("x", (2.0, 3.0)), dataset)  # type: ignore[arg-type]

"""`raymix play`: returns of an exported policy beside its card, films that can be read back, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from raymix import video
from raymix.cli import main
from raymix.envs import rendering
from raymix.envs.build import build_environment
from raymix.evaluation.rollout import FIRST_SEED
from raymix.play import play, summary
from raymix.types import UsageError

EPISODES = 8


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy of a behaviour-cloning run on the two-goal task: its file."""
    storage = tmp_path_factory.mktemp("runs")
    command = ["train", "bc", "--dataset", "two-goals", "--seeds", "2", "--steps", "150", "--evaluate-every", "150"]
    command += ["--set", "hidden_dims=16,16", "--set", "batch_size=64", "--eager", "--json"]
    main([*command, "--episodes", str(EPISODES), "--storage", str(storage)])
    main(["export", str(storage), "--out", str(storage / "best.pt")])
    return storage / "best.pt"


class _Still(nn.Module):
    """Does the same whatever it sees."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, observations: Tensor, step: Tensor) -> Tensor:
        return torch.zeros(observations.shape[0], self.size)


def still(folder: Path, environment: str | None, observations: int, actions: int, **changes: object) -> Path:
    """A policy with a card, as an export writes them."""
    file = folder / "still.pt"
    torch.jit.save(torch.jit.script(_Still(actions)), str(file))
    card = {
        "algorithm": "bc",
        "dataset": "some/data",
        "seed": 0,
        "environment": None if environment is None else {"id": environment},
        "observation_dim": observations,
        "action_dim": actions,
        "action_low": [-1.0] * actions,
        "action_high": [1.0] * actions,
        "metric": "return",
        "select": "last",
        "score": 5.0,
        "chosen_from": "1 agents of 1 configurations",
        "reference_returns": None,
        "versions": {"torch": torch.__version__},
        "policy_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    file.with_suffix(".json").write_text(json.dumps({**card, **changes}))
    return file


def test_it_plays_what_training_evaluated(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = json.loads(exported.with_suffix(".json").read_text())
    assert card["episodes_per_evaluation"] == EPISODES and "is code" in card["needs"]
    main(["play", str(exported), "--seed", str(FIRST_SEED), "--episodes", str(EPISODES), "--json"])
    again = json.loads(capsys.readouterr().out)
    assert np.mean(again["returns"]) == pytest.approx(card["score"]) and again["promised"] == card["score"]
    main(["play", str(exported)])
    told = capsys.readouterr().out
    assert [int(line.split("|")[1]) for line in told.splitlines() if re.match(r" +\d+ \|", line)] == list(range(10))
    fresh = play(str(exported))
    assert fresh.returns == play(str(exported), episodes=10).returns
    assert f"mean   {np.mean(fresh.returns):.4g}" in told and f"card   {card['score']:.4g}, undiscounted" in told
    assert "chosen from 2 agents of 1 configurations" in told and "in raymix/TwoGoals-v0" in told


def test_a_gif_shows_every_step_of_every_episode(exported: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "film.gif"
    played = play(str(exported), episodes=2, video=str(target))
    assert played.returns == play(str(exported), episodes=2).returns
    with Image.open(target) as image:
        assert image.n_frames == played.pictures == sum(played.lengths) + 2
        assert (image.size, image.info["duration"], image.info["loop"]) == ((320, 320), 100, 0)
        first = np.asarray(image.convert("RGB"), dtype=int)
        image.seek(played.lengths[0])
        way = np.abs(np.asarray(image.convert("RGB"), dtype=int) - first).sum(-1) > 60
    # The point's way is drawn: from its start, the picture's middle, low.
    assert way.sum() > 50 and way[:, 140:180].any()
    assert [each.name for each in target.parent.iterdir()] == ["film.gif"]


def test_an_mp4_is_at_the_environments_speed(exported: Path, tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    target = tmp_path / "film.mp4"
    played = play(str(exported), episodes=1, video=str(target))
    assert ffmpeg.count_frames_and_secs(str(target)) == (
        played.pictures,
        pytest.approx(played.pictures / 10, abs=0.05),
    )


def test_mujoco_is_drawn_without_a_display(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(rendering.GL, raising=False)
    file, target = still(tmp_path, "Hopper-v5", 11, 3), tmp_path / "hopper.gif"
    try:
        rendering.prepare_drawing('{"id": "Hopper-v5"}', "Hopper-v5")
    except UsageError as problem:
        pytest.skip(str(problem))
    main(["play", str(file), "--video", str(target), "--episodes", "1", "--json"])
    told = json.loads(capsys.readouterr().out)
    with Image.open(target) as image:
        # 125 steps a second, of which every fifth is shown, and the first and the last situation.
        assert image.n_frames == told["pictures"] == 2 + (told["steps"][0] - 1) // 5
        assert image.info["duration"] == 40 and len(np.unique(np.asarray(image.convert("RGB")))) > 30


@pytest.mark.skipif(
    sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")),
    reason="glfw works where there is a display",
)
def test_a_renderer_that_does_not_work_is_told_before_anything_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(rendering.GL, "glfw")
    file = still(tmp_path, "Hopper-v5", 11, 3)
    with pytest.raises(SystemExit, match="2"):
        main(["play", str(file), "--video", str(tmp_path / "no.gif")])
    told = capsys.readouterr()
    assert "cannot be drawn here (MUJOCO_GL=glfw: " in told.err and "apt-get install libegl1 libosmesa6" in told.err
    assert told.out == "" and not (tmp_path / "no.gif").exists()


MODULE = """
import os
import gymnasium
import numpy

class Blind(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (2,))

    def __init__(self, render_mode=None):
        pass

    def reset(self, seed=None, options=None):
        return numpy.zeros(2, numpy.float32), {}

    def step(self, action):
        return numpy.zeros(2, numpy.float32), 0.0, True, False, {}

class Aborts(Blind):
    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def render(self):
        os.abort()

class Broken(Blind):
    def step(self, action):
        return numpy.zeros(2, numpy.float32), float("nan"), True, False, {}

gymnasium.register("Blind-v0", Blind)
gymnasium.register("Aborts-v0", Aborts)
gymnasium.register("BrokenReward-v0", Broken)
"""


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--env", "Blind-v0", "--video", "film.gif"], r"Blind-v0 has no pictures .*; leave out --video"),
        (["--env", "Aborts-v0", "--video", "film.gif"], r"Aborts-v0 cannot be drawn here \(ended by SIGABRT"),
        (["--env", "BrokenReward-v0"], "BrokenReward-v0 returned .* the reward nan, in step 1 of episode 1"),
        (["--env", "Hopper-v5"], r"Hopper-v5 has the observations Box.*, but still.pt has 2 numbers"),
        (["--env", "Hopper-v99"], "'Hopper-v99' is not registered"),
        (["--video", "film.avi"], "ends in .gif or .mp4, not 'film.avi'"),
        (["--episodes", "0"], "--episodes takes a positive whole number, not 0"),
        (["--seed", "-1"], "--seed takes a whole number from 0 to 2,147,483,647, not -1"),
    ],
)
def test_what_cannot_be_played_is_told(
    options: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "my_environments.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("RAYMIX_ENVIRONMENTS", "my_environments")
    monkeypatch.chdir(tmp_path)
    still(tmp_path, "Blind-v0", 2, 2)
    with pytest.raises(SystemExit, match="2"):
        main(["play", "still.pt", *options])
    # Gymnasium's own warnings may stand before it.
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and re.search(told, error)
    assert not list(tmp_path.glob("film*"))


def test_a_card_has_to_be_there_and_of_this_file(exported: Path, tmp_path: Path) -> None:
    shutil.copy(exported, tmp_path / "mine.pt")
    with pytest.raises(UsageError, match=r"mine.pt has no card that could be read, mine.json beside it"):
        play(str(tmp_path / "mine.pt"))
    other = still(tmp_path, "raymix/TwoGoals-v0", 2, 2)
    shutil.copy(other.with_suffix(".json"), tmp_path / "mine.json")
    with pytest.raises(UsageError, match=r"mine.json is the card of another file than mine.pt"):
        play(str(tmp_path / "mine.pt"))
    (tmp_path / "mine.json").write_text('{"algorithm": "bc"}')
    with pytest.raises(UsageError, match=r"is no card of a policy: it lacks dataset, seed"):
        play(str(tmp_path / "mine.pt"))
    (tmp_path / "mine.json").write_text("{")
    with pytest.raises(UsageError, match=r"mine.json is no JSON"):
        play(str(tmp_path / "mine.pt"))
    with pytest.raises(UsageError, match=r"policy.onnx is no exported policy: .* a .pt file"):
        play(str(tmp_path / "policy.onnx"))
    with pytest.raises(UsageError, match=r"cannot read .*gone.pt"):
        play(str(tmp_path / "gone.pt"))
    with pytest.raises(UsageError, match=r"trained on data without an environment; name one with --env"):
        play(str(still(tmp_path, None, 2, 2)))
    file = tmp_path / "broken.pt"
    file.write_bytes(b"no TorchScript")
    digest = hashlib.sha256(b"no TorchScript").hexdigest()
    card = json.loads(other.with_suffix(".json").read_text()) | {
        "policy_sha256": digest,
        "environment": {"id": "raymix/TwoGoals-v0"},
    }
    file.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(UsageError, match=r"PyTorch .* cannot load broken.pt"):
        play(str(file))


def test_without_ffmpeg_an_mp4_is_refused(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UsageError, match=r"needs ffmpeg, which `pip install 'raymix\[video\]'` brings"):
        play(str(exported), video=str(tmp_path / "film.mp4"))


def test_a_film_that_fails_leaves_the_old_one(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MOST_IN_GIF", 5)
    (tmp_path / "film.gif").write_bytes(b"old")
    with pytest.raises(UsageError, match=r"more than 5 pictures is too large; write a .mp4"):
        play(str(exported), video=str(tmp_path / "film.gif"))
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("film.gif", b"old")]


def test_normalized_scores_stand_beside_the_card_and_another_environment_has_no_promise(tmp_path: Path) -> None:
    changes = {"metric": "normalized_score", "score": 60.0, "reference_returns": [-10.0, 10.0]}
    file = still(tmp_path, "raymix/TwoGoals-v0", 2, 2, **changes)
    played = play(str(file), episodes=3)
    # It never moves, so it earns nothing: half of the way from -10 to 10.
    assert (played.returns, played.lengths, played.scores) == ([0.0] * 3, [60] * 3, [50.0] * 3)
    told = "\n".join(summary(played))
    assert "50 (all alike), normalized score" in told and "the mean here differs by -10" in told
    elsewhere = play(str(still(tmp_path, "raymix/Other-v0", 2, 2)), "raymix/TwoGoals-v0", episodes=1)
    assert "promises nothing of this environment" in "\n".join(summary(elsewhere))
    assert elsewhere.to_dict()["promised"] is None


@pytest.mark.parametrize(
    ("environment", "action"),
    [("raymix/TwoModes-v0", [0.5]), ("raymix/OneStepNavigation-v0", [-1.0]), ("raymix/TwoGoals-v0", [0.5, 1.0])],
)
def test_toy_environments_draw_what_was_done(environment: str, action: list[float]) -> None:
    simulation = build_environment(json.dumps({"id": environment}), "rgb_array")
    simulation.reset(seed=0)
    before = np.asarray(simulation.render())
    simulation.step(np.array(action, dtype=np.float32))
    after = np.asarray(simulation.render())
    assert before.shape == after.shape == (320, 320, 3) and before.dtype == np.uint8
    assert 20 < (before != after).any(-1).sum() < 20_000
    simulation.reset(seed=0)
    assert np.array_equal(simulation.render(), before)

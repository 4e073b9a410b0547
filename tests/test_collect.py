"""Collecting data: behaviour policies of every kind, and episodes that do not depend on who played them."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Loopback only; Ray reads it when imported.

import gymnasium
import numpy as np
import pytest
import ray
import torch

from raymix import cli
from raymix.data import library, policies
from raymix.data.collect import Player, collect
from raymix.data.policies import Behavior, Source, parse
from raymix.data.train_sources import train_sources
from raymix.evaluation.rollout import check_environment
from raymix.types import UsageError

LOW, HIGH = np.array([-2.0], dtype=np.float32), np.array([2.0], dtype=np.float32)
PUBLISHED = os.environ.get("RAYMIX_TEST_POLICIES")
NOISY = "noisy=behaviors:drawn,noise=0.3,random=0.2"


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYMIX_DATASETS_PATH", str(tmp_path / "library"))
    return tmp_path / "library"


def acts(source: Source, observations: np.ndarray, seed: int = 0) -> np.ndarray:
    behavior = Behavior(source, observations.shape[1], LOW, HIGH)
    return behavior.act(observations, 0, np.random.default_rng(seed))


def seen(rows: int = 64, size: int = 3) -> np.ndarray:
    return 3 * np.random.default_rng(5).standard_normal((rows, size), np.float32)


# ---------------------------------------------------------------- what a source is


def test_a_source_is_read_with_its_options(tmp_path: Path):
    (tmp_path / "sac.zip").touch()
    (tmp_path / "v.pkl").touch()
    assert parse("random") == Source("random", "random")
    assert parse(f"{tmp_path}/sac.zip").name == "sac"
    text = f"expert={tmp_path}/sac.zip,noise=0.1,random=0.25,deterministic,normalize={tmp_path}/v.pkl"
    path, pickled = str(tmp_path / "sac.zip"), str(tmp_path / "v.pkl")
    assert parse(text) == Source("expert", path, 0.1, 0.25, deterministic=True, normalize=pickled)
    assert parse("a.b:make,path=x=y,noise=1") == Source("make", "a.b:make", 1.0, arguments=(("path", "x=y"),))


def test_a_ladder_is_a_source_for_each_rung():
    sources = policies.ladder("r=random,noise=0|0.5,random=0.1|0.2")
    assert [source.name for source in sources] == [
        f"r-random-{chance}-noise-{noise}" for noise in ("0", "0.5") for chance in ("0.1", "0.2")
    ]
    assert [(source.noise, source.random) for source in sources] == [(0, 0.1), (0, 0.2), (0.5, 0.1), (0.5, 0.2)]
    assert policies.ladder("random,noise=0.5") == [parse("random,noise=0.5")]
    with pytest.raises(UsageError, match="noise=x; give a finite"):
        policies.ladder("random,noise=0|x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not of the form"),
        ("random,,noise=1", "not of the form"),
        ("hopper", "names no policy"),
        ("missing.zip", "there is no file 'missing.zip'"),
        ("random,noise=-1", "noise=-1; give a finite standard deviation of at least 0"),
        ("random,noise=inf", "noise=inf; give a finite"),
        ("random,random=1.5", "random=1.5; give a probability from 0 to 1"),
        ("random,random=often", "random=often; give a probability"),
        ("random,deterministic", "has the option 'deterministic'"),
        ("random,sigma=1", "has the option 'sigma=1'"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused(text: str, message: str):
    with pytest.raises(UsageError, match=message):
        parse(text)


# ---------------------------------------------------------------- how each kind acts


def test_random_fills_the_box_and_noise_is_added_and_cut():
    observations = seen(20_000)
    uniform = acts(parse("random"), observations)
    assert uniform.dtype == np.float32 and uniform.shape == (20_000, 1)
    assert abs(uniform.mean()) < 0.05 and abs(uniform.std() - 4 / 12**0.5) < 0.02 and np.abs(uniform).max() <= 2
    still = Source("still", "behaviors:spoiled", arguments=(("how", "nan"), ("step", "9")))
    noisy = acts(Source(**{**vars(still), "noise": 0.5}), observations)
    assert abs(noisy.std() - 0.5) < 0.02
    often = acts(Source(**{**vars(still), "random": 0.25}), observations)
    assert abs(np.mean(often != 0) - 0.25) < 0.02
    assert np.abs(acts(Source(**{**vars(still), "noise": 9.0}), observations)).max() == 2


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("shape", r"'bad' gave actions of shape \(64,\) and type float64 .* of shape \(64, 1\)"),
        ("whole", "'bad' gave actions of shape .* and type int64"),
        ("text", "'bad' gave actions of shape .* and type <U4"),
        ("nan", r"'bad' gave the action \[nan\] at step 0"),
        ("raise", "'bad' failed on observations of shape .*ZeroDivisionError"),
    ],
)
def test_a_policy_that_acts_wrongly_is_named(how: str, message: str):
    with pytest.raises(UsageError, match=message):
        acts(parse(f"bad=behaviors:spoiled,how={how}"), seen())


@pytest.mark.parametrize("text", ["behaviors:missing", "no_such_module:act", "behaviors:drawn,typo=1", "os:getcwd"])
def test_a_function_that_gives_no_policy_is_refused(text: str):
    with pytest.raises(UsageError, match="cannot be made by"):
        acts(parse(text), seen())


class _Sampler(torch.nn.Module):
    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return observations[:, :1] + torch.randn(len(observations), 1)


def test_torchscript_draws_from_the_seed(tmp_path: Path):
    torch.jit.script(_Sampler()).save(str(tmp_path / "sampler.pt"))
    source = parse(f"{tmp_path}/sampler.pt")
    one, again, other = (acts(source, seen() / 9, seed) for seed in (0, 0, 1))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    (tmp_path / "broken.pt").write_bytes(b"no archive")
    with pytest.raises(UsageError, match=r"broken\.pt is no TorchScript file"):
        acts(parse(f"{tmp_path}/broken.pt"), seen())


def agent(kind: str, path: Path, **settings: object):
    """An agent for Pendulum with larger weights than fresh ones, so that tanh and clipping show."""
    zoo = pytest.importorskip("stable_baselines3")
    made = getattr(zoo, kind)("MlpPolicy", "Pendulum-v1", seed=0, device="cpu", **settings)
    with torch.no_grad():
        for weight in made.policy.parameters():
            weight.mul_(1.3)
    made.save(path)
    return made


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("SAC", {}),
        ("SAC", {"policy_kwargs": {"activation_fn": torch.nn.ELU, "net_arch": [32, 16]}}),
        ("TD3", {}),
        ("PPO", {}),
        ("PPO", {"policy_kwargs": {"activation_fn": torch.nn.ReLU, "log_std_init": -1.0}}),
        ("A2C", {}),
    ],
)
def test_an_agent_of_stable_baselines3_acts_as_there(tmp_path: Path, kind: str, settings: dict):
    made = agent(kind, tmp_path / "agent.zip", **settings)
    modes = acts(parse(f"{tmp_path}/agent.zip,deterministic"), seen())
    assert np.allclose(modes, made.predict(seen(), deterministic=True)[0], atol=2e-6)
    assert len(np.unique(modes)) > 30
    same = np.repeat(seen(2), 20_000, axis=0)
    ours, theirs = acts(parse(f"{tmp_path}/agent.zip"), same), made.predict(same, deterministic=False)[0]
    for state in (slice(0, 20_000), slice(20_000, 40_000)):
        # Standard errors are below 0.015.
        assert np.allclose(
            np.quantile(ours[state], (0.1, 0.5, 0.9)), np.quantile(theirs[state], (0.1, 0.5, 0.9)), atol=0.08
        )


def test_an_agent_that_cannot_be_rebuilt_is_refused(tmp_path: Path):
    agent("PPO", tmp_path / "sde.zip", use_sde=True)
    agent("SAC", tmp_path / "sac-sde.zip", use_sde=True)
    agent("SAC", tmp_path / "sac.zip")
    for name in ("sde", "sac-sde"):
        with pytest.raises(UsageError, match="holds no policy that can be rebuilt from its weights"):
            acts(parse(f"{tmp_path}/{name}.zip"), seen())
    with pytest.raises(UsageError, match="maps 3 numbers to 1, but the environment has 4"):
        acts(parse(f"{tmp_path}/sac.zip"), seen(size=4))


class _Trap:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


def test_nothing_in_an_agents_file_is_run(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "trap.zip", "w") as archive:
        archive.writestr("data", json.dumps({"policy_kwargs": {}}))
        with archive.open("policy.pth", "w") as file:
            torch.save({"weight": _Trap(tmp_path / "witness")}, file)
    with pytest.raises(UsageError, match=r"trap\.zip is no agent that Stable-Baselines3 saved"):
        acts(parse(f"{tmp_path}/trap.zip"), seen())
    (tmp_path / "trap.pkl").write_bytes(pickle.dumps(_Trap(tmp_path / "witness")))
    with pytest.raises(UsageError, match=r"trap\.pkl holds no observation statistics .* names posix\.mkdir"):
        policies._read_normalization(str(tmp_path / "trap.pkl"), 3)
    assert not (tmp_path / "witness").exists()


def test_observations_are_normalized_as_in_training(tmp_path: Path):
    zoo = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    normalizing = VecNormalize(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")]), clip_obs=2.0)
    made = zoo.PPO("MlpPolicy", normalizing, n_steps=64, device="cpu")
    made.learn(128)
    made.save(tmp_path / "agent.zip")
    normalizing.save(str(tmp_path / "vecnormalize.pkl"))
    plain = acts(parse(f"{tmp_path}/agent.zip,deterministic"), seen())
    ours = acts(parse(f"{tmp_path}/agent.zip,deterministic,normalize={tmp_path}/vecnormalize.pkl"), seen())
    theirs = made.predict(normalizing.normalize_obs(seen()), deterministic=True)[0]
    assert np.allclose(ours, theirs, atol=1e-6) and not np.allclose(ours, plain, atol=1e-3)
    with pytest.raises(UsageError, match=r"shape \(3,\) for observations of 4"):
        policies._read_normalization(str(tmp_path / "vecnormalize.pkl"), 4)


# ---------------------------------------------------------------- collections


def pendulum(transitions: int = 2_500, workers: int = 2, **changes: object):
    sources = [parse(NOISY), parse("random")]
    return collect("Pendulum-v1", sources, transitions, "pendulum/test", workers=workers, **changes)


def test_rows_are_those_of_the_environment(ray_here: None):
    told: list[tuple[int, int]] = []
    dataset, origin = pendulum(2_501, progress=lambda done, total: told.append((done, total)))
    columns, spec = dataset.columns, dataset.spec
    rows = columns.transition_rows()
    assert np.bincount(columns.source[rows]).tolist() == [1_251, 1_250] and spec.sources == ("noisy", "random")
    assert told[-1] == (2_501, 2_501)
    # 200 steps each, cut by the time limit; the last of each source where its share is full.
    assert np.bincount(columns.episode[rows]).tolist() == [*[200] * 6, 51, *[200] * 6, 50]
    assert not columns.terminals.any() and columns.timeouts[columns.last_rows - 1].all()
    # What Pendulum pays and where it goes, from what was seen and done.
    cosine, sine, speed = columns.observations[rows].T.astype(float)
    action, angle = columns.actions[rows, 0].astype(float), np.arctan2(sine, cosine)
    assert np.allclose(columns.rewards[rows], -(angle**2 + 0.1 * speed**2 + 0.001 * action**2), atol=1e-4)
    next_speed = np.clip(speed + (15 * sine + 3 * action) * 0.05, -8, 8)
    assert np.allclose(columns.observations[rows + 1, 2], next_speed, atol=1e-4)
    starts = columns.observations[np.append(0, columns.last_rows[:-1] + 1)]
    assert len(np.unique(starts, axis=0)) == spec.num_episodes
    returns = columns.episode_returns()
    for source, whole in zip(origin["sources"], (returns[:6], returns[7:13])):
        assert (source["episodes"], source["return_mean"]) == (6, pytest.approx(whole.mean(), rel=1e-5))
        assert source["return_std"] == pytest.approx(whole.std(), rel=1e-4)
    assert [(s["name"], s["noise"], s["random"]) for s in origin["sources"]] == [("noisy", 0.3, 0.2), ("random", 0, 0)]
    assert json.loads(spec.environment)["id"] == "Pendulum-v1"


def test_the_data_do_not_depend_on_the_workers(ray_here: None):
    one, two = pendulum(workers=1)[0], pendulum(workers=2)[0]
    assert one.spec == two.spec  # with the hash of all rows
    assert one.spec.hash != pendulum(seed=1)[0].spec.hash


def test_a_worker_that_dies_changes_nothing(ray_here: None, tmp_path: Path):
    crashing = Source("drawn", "behaviors:drawn", arguments=(("crash", str(tmp_path / "crashed")),))
    one, _ = collect("Pendulum-v1", [crashing], 1_000, "test", workers=2)
    two, _ = collect("Pendulum-v1", [parse("drawn=behaviors:drawn")], 1_000, "test", workers=2)
    assert (tmp_path / "crashed").exists() and one.spec.hash == two.spec.hash


def test_ends_are_terminals_and_cuts_are_timeouts(ray_here: None):
    dataset, origin = collect("Hopper-v5", [parse("random")], 501, "hopper/random")
    columns = dataset.columns
    last = columns.last_rows - 1
    assert len(last) > 10 and dataset.spec.num_transitions == 501
    fell = ~(
        (columns.observations[columns.last_rows, 0] > 0.7) & (np.abs(columns.observations[columns.last_rows, 1]) < 0.2)
    )
    assert np.array_equal(columns.terminals[last][:-1], fell[:-1]) and fell[:-1].all()
    assert origin["sources"][0]["episodes"] == columns.terminals.sum()


@pytest.mark.parametrize(
    ("environment", "texts", "changes", "message"),
    [
        ("Nowhere-v1", ["random"], {}, "'Nowhere-v1' is not registered"),
        ("CartPole-v1", ["random"], {}, "has the actions Discrete"),
        ("Pendulum-v1", [], {}, "there is no policy to collect with"),
        ("Pendulum-v1", ["random", "random,noise=1"], {}, "two policies are named 'random'"),
        ("Pendulum-v1", ["random"], {"transitions": 0}, "--transitions 0 is too few for 1 policies"),
        ("Pendulum-v1", ["random"], {"workers": 3}, "--workers 3 is more than the 2 cores"),
        ("Pendulum-v1", ["random"], {"workers": 0}, "--workers 0 must be at least 1"),
        ("Pendulum-v1", ["random"], {"seed": -1}, "--seed -1 must be at least 0"),
        ("Pendulum-v1", ["bad=behaviors:spoiled,how=nan"], {}, r"'bad' gave the action \[nan\] at step 0"),
        ("Pendulum-v1", ["bad=behaviors:spoiled,how=nan,step=90"], {}, r"'bad' gave the action \[nan\] at step 90"),
        pytest.param(
            *("Pendulum-v1", ["behaviors:spoiled,how=exit,step=1"], {"workers": 1}, "played Pendulum-v1 died 4 times"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_cannot_be_collected_is_refused_in_a_sentence(
    ray_here: None, environment: str, texts: list[str], changes: dict, message: str
):
    with pytest.raises(UsageError, match=message) as refused:
        collect(environment, [parse(text) for text in texts], **{"transitions": 500, "name": "test", **changes})
    assert "\n" not in str(refused.value)


def test_a_refused_collection_leaves_no_folder(root: Path, capsys: pytest.CaptureFixture[str]):
    for arguments in (["Nowhere-v1"], ["Pendulum-v1", "--transitions", "0", "--name", "no name"]):
        with pytest.raises(SystemExit):
            cli.main(["data", "collect", "--policy", "random", "--transitions", "5", *arguments])
    told = capsys.readouterr().err
    assert "'Nowhere-v1' is not registered" in told and "--transitions 0 is too few" in told
    assert not list(root.rglob("*"))


class _Broken(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,))

    def __init__(self, how: str) -> None:
        self._how = how

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        if self._how == "raise":
            raise ArithmeticError("the solver\ndiverged")
        return np.zeros(1, np.float32), float("nan"), False, False, {}


gymnasium.register("tests/Broken-v0", _Broken, max_episode_steps=5)


@pytest.mark.parametrize(
    ("how", "message"),
    [("raise", "failed in step 0 of an episode .ArithmeticError: the solver diverged"), ("nan", "gave the reward nan")],
)
def test_an_environment_that_fails_is_named(how: str, message: str):
    description = json.dumps({"id": "tests/Broken-v0", "kwargs": {"how": how}})
    with pytest.raises(UsageError, match=f"the environment tests/Broken-v0 {message}"):
        # Not through Ray, whose processes do not know this class.
        Player(description, [parse("random")], 0, LOW, HIGH).play(0, 0, 2)


# ---------------------------------------------------------------- the command


def test_the_command_keeps_the_data_and_what_made_it(ray_here: None, root: Path, capsys: pytest.CaptureFixture[str]):
    command = [
        "data",
        "collect",
        "Pendulum-v1",
        "--policy",
        "random",
        "--transitions",
        "400",
        "--workers",
        "1",
        "--json",
    ]
    cli.main(command)
    printed = json.loads(capsys.readouterr().out)
    assert printed["name"] == "pendulum/random" and library.names() == ["pendulum/random"]
    assert library.load("pendulum/random").spec.num_transitions == 400
    assert library.origin("pendulum/random") == {k: v for k, v in printed.items() if k not in ("name", "path")}
    with pytest.raises(SystemExit):
        cli.main(command)
    assert "there is a data set 'pendulum/random' already" in capsys.readouterr().err
    cli.main([*command[:-1], "--overwrite", "--reference-scores", "-1500", "-150"])
    assert "400 transitions, 2 whole episodes with return -" in capsys.readouterr().out
    assert library.load("pendulum/random").spec.reference_max == -150


def test_dictionaries_are_collected_by_a_rule_and_references_are_those_of_d4rl(ray_here: None):
    sources = [parse("random")]
    with pytest.raises(UsageError, match=r"of dictionaries, choose what is observed with --observations all\|no-goal"):
        collect("PointMaze_UMaze-v3", sources, 40, "maze/random")
    dataset, _ = collect("PointMaze_UMaze-v3", sources, 40, "maze/random", observations="observation")
    assert dataset.spec.observation_dim == 4 and dataset.spec.reference_max == 161.86
    check_environment(dataset.spec)
    hopper, _ = collect("Hopper-v5", sources, 20, "hopper/random")
    assert (hopper.spec.reference_min, hopper.spec.reference_max) == (-20.272305, 3234.3)


def test_an_interrupt_leaves_nothing(tmp_path: Path):
    """From the user's side: a process of its own with a Ray of its own, stopped while it plays."""
    (tmp_path / "mine.py").write_text(
        "import pathlib, numpy\n"
        "def make(sign):\n"
        "    def act(observations, step, generator):\n"
        "        if step == 150: pathlib.Path(sign).touch()\n"
        "        return numpy.zeros((len(observations), 1))\n"
        "    return act\n"
    )
    # A shell starts what it puts in the background with SIGINT ignored, and children inherit that.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    run = f"{heard}; import sys; from raymix.cli import main; sys.path.remove(''); main(sys.argv[1:])"
    sign = tmp_path / "playing"
    policy = f"mine:make,sign={sign}"
    environment = {**os.environ, "RAYMIX_DATASETS_PATH": str(tmp_path / "library")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", run, *f"data collect Pendulum-v1 --transitions 100000000 --policy {policy}".split()],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not sign.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert sign.exists(), err
    assert process.returncode == 1 and out == "" and "Traceback" not in err
    assert not [path for path in (tmp_path / "library").rglob("*") if path.is_file()]


# ---------------------------------------------------------------- trained sources


def test_sources_are_trained_once_and_collected(ray_here: None, root: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("stable_baselines3")
    command = ["data", "train-sources", "Pendulum-v1", "--steps", "110", "--transitions", "1000", "--json"]
    cli.main([*command, "-k", "2"])
    first = json.loads(capsys.readouterr().out)
    assert list(first) == library.names() == ["pendulum/source-1", "pendulum/source-2"]
    assert [library.load(name).spec.num_transitions for name in first] == [1000, 500]
    agents = [root / f"pendulum/policies/Pendulum-v1-sac-110-steps-seed-{seed}.zip" for seed in (0, 1, 2)]
    kept = {path: path.stat().st_mtime_ns for path in [*agents[:2], library.path_of("pendulum/source-1")]}
    hashes = {name: library.load(name).spec.hash for name in first}
    assert len(set(hashes.values())) == 2 and not np.array_equal(*(acts(parse(str(a)), seen()) for a in agents[:2]))

    library.path_of("pendulum/source-2").unlink()
    cli.main([*command, "-k", "3"])
    second = json.loads(capsys.readouterr().out)
    assert {name: second[name] for name in first} == first and agents[2].exists()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert {name: library.load(name).spec.hash for name in first} == hashes
    assert library.load("pendulum/source-3").spec.num_transitions == 334

    with pytest.raises(SystemExit):
        cli.main([*command, "--steps", "120"])
    assert "there is another data set 'pendulum/source-1' already" in capsys.readouterr().err


def test_training_needs_what_it_needs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"run `pip install 'raymix\[sb3\]'`"):
        train_sources("Pendulum-v1", 1, steps=1, transitions=1)


# ---------------------------------------------------------------- real policies


@pytest.mark.skipif(PUBLISHED is None, reason="RAYMIX_TEST_POLICIES names no folder of policies")
def test_published_policies_earn_what_was_published(ray_here: None):
    scores = {"tqc": (3342, 390), "ppo": (2321, 678), "trpo": (2494, 1210)}  # mean and sd over 10 episodes, sampled
    sources = [parse(f"{name}=behaviors:published,path={PUBLISHED}/hopper-{name}.npz") for name in scores]
    _, origin = collect("Hopper-v5", sources, 45_000, "hopper/three")
    for source in origin["sources"]:
        mean, std = scores[source["name"]]
        error = (std**2 / 10 + source["return_std"] ** 2 / source["episodes"]) ** 0.5
        assert abs(source["return_mean"] - mean) < 3.5 * error, source

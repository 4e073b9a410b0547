"""Episodes are what they claim to be: safe to build, sure to end, and the same however many are played."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import gymnasium
import numpy as np
import pytest

from raymix import run_folder
from raymix.algorithms import base
from raymix.data import toy
from raymix.envs import build
from raymix.envs.build import build_environment
from raymix.evaluation import rollout
from raymix.evaluation.policy import Policy
from raymix.evaluation.rollout import Evaluation, check_environment, evaluate
from raymix.evaluation.weights import PolicyWeights
from raymix.packing.local import LocalPack
from raymix.types import Spec, UsageError


class Walk(gymnasium.Env[np.ndarray, np.ndarray]):
    """Earns what is done, for `length` steps (None: for ever); nearly as long as the seed says where it varies."""

    open_ones = 0

    def __init__(self, length: int | None = None, low: float = -1.0, broken: bool = False) -> None:
        if broken:
            raise RuntimeError("no display")
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(low, -low, (1,), np.float32)
        self.length = length
        Walk.open_ones += 1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = None if self.length is None else self.length + int(self.np_random.integers(3))
        return self.np_random.standard_normal(2).astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self.left is not None:
            self.left -= 1
        observation = self.np_random.standard_normal(2).astype(np.float32)
        return observation, float(action[0]), self.left == 0, False, {}

    def close(self) -> None:
        Walk.open_ones -= 1


@pytest.fixture(autouse=True)
def walk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`test/Walk-v0`, and no environment left from one test to the next."""
    monkeypatch.setattr(build, "_kept", {})
    Walk.open_ones = 0
    gymnasium.register(id="test/Walk-v0", entry_point=Walk)
    yield
    del gymnasium.registry["test/Walk-v0"]


def description(**changes: Any) -> str:
    return json.dumps({"id": "test/Walk-v0", "kwargs": {}, **changes})


def spec(environment: str | None) -> Spec:
    return dataclasses.replace(toy.two_modes().spec, environment=environment)


@pytest.fixture(scope="module")
def stochastic() -> PolicyWeights:
    """Barely trained: two components of a noisy policy."""
    config = base.find("mdn").configure({"steps": 1, "batch_size": 8, "hidden_dims": (8,), "num_components": 2})
    pack = LocalPack("mdn", config, [0], toy.two_modes(), report_every=1, capture="eager")
    while not pack.finished:
        pack.advance()
    (policy,) = pack.policies()
    return policy


def in_environment(policy: PolicyWeights, environment: str) -> PolicyWeights:
    return dataclasses.replace(policy, spec={**policy.spec, "environment": environment})


class Witness(Policy):
    """Keeps what the policy saw and did."""

    def __init__(self, plain: PolicyWeights) -> None:
        super().__init__(plain)
        self.seen: list[np.ndarray] = []
        self.done: list[np.ndarray] = []

    def act(self, observations: np.ndarray, step: int) -> np.ndarray:
        actions = super().act(observations, step)
        self.seen.append(observations.copy())
        self.done.append(actions)
        return actions


# ---------------------------------------------------------------- building


def test_no_code_named_by_a_data_set_is_run(tmp_path: Path) -> None:
    """The registered maker gets the plain keywords; an entry point of the data set is not looked at."""
    mark = tmp_path / "ran"
    for name in ("made-up-v0", "os:made-up-v0"):
        evil = json.dumps({"id": name, "entry_point": "os:system", "kwargs": {"command": f"touch {mark}"}})
        with pytest.raises(UsageError, match=r"is not registered; .* and what the modules register that"):
            build_environment(evil)
    environment = build_environment(description(entry_point="os:system", kwargs={"length": 4, "render_mode": "human"}))
    assert isinstance(environment.unwrapped, Walk) and environment.unwrapped.length == 4
    with pytest.raises(UsageError, match=r"is wrapped in Sneaky, .*choose another data set"):
        build_environment(description(additional_wrappers=[{"name": "Sneaky", "entry_point": "os:system"}]))
    assert not mark.exists()


def test_the_users_own_modules_register_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_robot.py").write_text(
        "import gymnasium\ngymnasium.register('Robot-v0', entry_point='gymnasium.envs.classic_control:PendulumEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    robot = json.dumps({"id": "Robot-v0", "kwargs": {}, "max_episode_steps": 7})
    monkeypatch.setenv("RAYMIX_ENVIRONMENTS", "no_such_module")
    with pytest.raises(UsageError, match=r"'no_such_module' of \$RAYMIX_ENVIRONMENTS cannot be imported .* PYTHONPATH"):
        build_environment(robot)
    with pytest.raises(UsageError, match=r"'no_such_module'"):  # Also where it is not needed.
        build_environment(description())
    monkeypatch.setenv("RAYMIX_ENVIRONMENTS", "my_robot")
    assert build_environment(robot).spec.max_episode_steps == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no Gymnasium EnvSpec in JSON"),
        ("[]", "is no Gymnasium EnvSpec in JSON"),
        ("{}", "is no Gymnasium EnvSpec in JSON"),
        (description(id=3), "has the id 3"),
        (description(kwargs=[1]), r"kwargs \[1\]"),
        (description(max_episode_steps=-1), "max_episode_steps -1"),
        (description(additional_wrappers=3), "is no Gymnasium EnvSpec in JSON"),
        (description(kwargs={"colour": 1}), "cannot be built with {'colour': 1} .*unexpected keyword"),
        (description(kwargs={"broken": True}), "cannot be built .*RuntimeError: no display"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refusal:
        check_environment(spec(text))
    assert "\n" not in str(refusal.value)


def test_environments_of_gymnasium_robotics_are_found() -> None:
    environment = build_environment(json.dumps({"id": "FetchReach-v4", "max_episode_steps": 7}))
    assert environment.spec is not None and environment.spec.max_episode_steps == 7
    environment.close()


def test_the_registered_limit_holds_where_the_data_set_has_none() -> None:
    registered = build_environment(json.dumps({"id": "raymix/FetchReachMultiGoal-v0", "max_episode_steps": None}))
    assert registered.spec is not None and registered.spec.max_episode_steps == 50
    registered.close()


def test_a_data_set_fits_its_own_environment() -> None:
    check_environment(toy.two_modes().spec)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"environment": None}, "has no environment to evaluate in"),
        ({"observation_dim": 3}, r"has the observations Box\(.*, but the data have 3 numbers"),
        ({"action_dim": 2}, r"has the actions Box\(.*, but the data have 2 numbers"),
        ({"action_high": (0.5,)}, r"action bounds high \[1.0\], but the data have \[0.5\]"),
    ],
)
def test_another_environment_than_the_datas_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_environment(dataclasses.replace(spec(description()), **changes))
    assert Walk.open_ones == 0


def test_an_unbounded_environment_takes_the_datas_bounds() -> None:
    check_environment(spec(description(kwargs={"low": -np.inf})))


def test_environments_are_kept_and_the_oldest_closed() -> None:
    texts = [description(max_episode_steps=number) for number in range(1, 6)]
    first = build.environments(texts[0], 2)
    assert build.environments(texts[0], 3)[:2] == first
    for text in texts[1:4]:
        build.environments(text, 1)
    assert build.environments(texts[0], 1) == first[:1] and Walk.open_ones == 6
    build.environments(texts[4], 1)
    assert texts[1] not in build._kept and Walk.open_ones == 6


# ---------------------------------------------------------------- playing


@pytest.mark.parametrize("environment", [toy.two_modes().spec.environment, description(kwargs={"length": 3})])
@pytest.mark.parametrize(("few", "many"), [(3, 11), (8, 11), (9, 20), (1, 2)])
def test_the_first_episodes_do_not_depend_on_how_many_are_played(
    stochastic: PolicyWeights, environment: str, few: int, many: int
) -> None:
    policies = [Witness(in_environment(stochastic, environment)) for _ in range(2)]
    short, long = (evaluate(policy, number) for policy, number in zip(policies, (few, many), strict=True))
    assert Evaluation(long.returns[:few], long.lengths[:few]) == short
    for lane in range(min(few, rollout.LANES)):
        assert np.array_equal(policies[0].done[0][lane], policies[1].done[0][lane])


def test_every_episode_has_its_own_start_and_its_own_noise(stochastic: PolicyWeights) -> None:
    policy = Witness(stochastic)
    evaluate(policy, 11)
    starts = np.concatenate([policy.seen[0], policy.seen[1][:3]])
    assert len(np.unique(starts, axis=0)) == 11
    # Alike observations, so that only noise tells lanes and rounds apart.
    alike = np.zeros((rollout.LANES, 2), dtype=np.float32)
    actions = np.concatenate([policy.act(alike, step=round_ * rollout.LANES << 20) for round_ in range(2)])
    unclipped = actions[np.abs(actions) < 1.0]
    assert len(np.unique(unclipped)) == len(unclipped) > rollout.LANES


@pytest.mark.parametrize("limit", [None, 1_000])
def test_an_episode_without_an_end_is_given_up(
    stochastic: PolicyWeights, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    monkeypatch.setattr(rollout, "MAX_STEPS", 20)
    with pytest.raises(RuntimeError, match="environment test/Walk-v0 did not end episode 0 within 20 steps"):
        evaluate(Policy(in_environment(stochastic, description(max_episode_steps=limit))), 2)
    assert evaluate(Policy(in_environment(stochastic, description(max_episode_steps=20))), 2).lengths == [20, 20]


# ---------------------------------------------------------------- the folder of a run


def test_the_lock_of_a_run_is_free_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locks = []

    class Recorded(filelock.FileLock):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            locks.append(self)

    monkeypatch.setattr(run_folder, "FileLock", Recorded)
    with run_folder.locked(tmp_path), pytest.raises(UsageError, match="another process"), run_folder.locked(tmp_path):
        pass
    assert not any(lock.is_locked for lock in locks)
    with run_folder.locked(tmp_path):
        pass

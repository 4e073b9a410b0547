"""D4RL's tasks by the names of its data sets and files, and what each needs to be played and scored today.

D4RL's own environments need mujoco-py and cannot be installed any more. Each task is played in Gymnasium's (or
gymnasium-robotics') newer environment, which is not quite the same: `Task.caveat` says how. Reference scores are those
of D4RL's `infos.py`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Task:
    """A task of D4RL."""

    pattern: str
    """Regular expression of what follows `d4rl/` or begins a file's name, in lower case with `_` as `-`."""
    environment: str
    """Gymnasium id."""
    max_episode_steps: int
    observation_dim: int
    action_dim: int
    """All actions lie in [-1, 1]."""
    reference_min: float
    reference_max: float
    caveat: str
    """How scores in `{environment}` differ from D4RL's, in one sentence."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    observations: str | None = None
    """The rule by which the environment's dictionaries are the data's vectors (`raymix.envs.flatten`); None where it
    has vectors."""

    def specification(self, environment: str | None = None) -> str:
        """The environment as a Gymnasium `EnvSpec` in JSON; `environment` names another version of it."""
        values = {
            "id": environment or self.environment,
            "kwargs": self.kwargs if environment in (None, self.environment) else {},
            "max_episode_steps": self.max_episode_steps,
        }
        return json.dumps({**values, **({"observations": self.observations} if self.observations else {})})

    def same_task(self, environment: str) -> bool:
        """Whether a Gymnasium id names this task's environment in some version."""
        return _without_version(environment) == _without_version(self.environment)


def _without_version(name: str) -> str:
    return re.sub(r"-v\d+$", "", name)


_LEVELS = "(random|medium|expert|medium-replay|mixed|full-replay|medium-expert|random-expert|simple)"
_OTHER_VERSION = (
    "the data were recorded in {old}, so scores in {{environment}} compare with each other but only roughly with those"
    " of papers on D4RL"
)
_MAZE = "(play|diverse|noisy-multistart-(true|false)-multigoal-(true|false)-sparse(-fixed)?)"
_OTHER_GOAL = (
    "{environment} may draw another goal in each episode, and the data's observation does not hold it, so scores do not"
    " compare with those of papers on D4RL"
)


def _locomotion(name: str, task: str, observations: int, actions: int, references: tuple[float, float]) -> Task:
    caveat = _OTHER_VERSION.format(old=f"{task}-v2")
    if task == "Walker2d":
        caveat += " (v5 has another friction at one foot than v4 and before: --env Walker2d-v4)"
    if task == "Hopper":
        caveat += " (v5 does not pay the step on which it falls, v4 and before do: --env Hopper-v4)"
    return Task(f"{name}-{_LEVELS}", f"{task}-v5", 1000, observations, actions, *references, caveat)


def _point_maze(
    size: str, title: str, steps: int, sparse: tuple[float, float], dense: tuple[float, float]
) -> list[Task]:
    return [
        Task(
            f"maze2d-(eval-)?{size}{pattern}",
            f"PointMaze_{title}{suffix}-v3",
            steps,
            4,
            2,
            *references,
            _OTHER_GOAL,
            observations="observation",
        )
        for pattern, suffix, references in (("(-sparse)?", "", sparse), ("-dense", "Dense", dense))
    ]


def _ant_maze(pattern: str, title: str, steps: int) -> Task:
    environment = f"AntMaze_{title}-v4"
    return Task(
        pattern,
        environment,
        steps,
        29,
        8,
        0.0,
        1.0,
        _OTHER_GOAL,
        observations="no-goal",
    )


def _adroit(name: str, title: str, steps: int, observations: int, actions: int, low: float, high: float) -> Task:
    environment = f"AdroitHand{title}-v1"
    caveat = _OTHER_VERSION.format(old=f"D4RL's {name}")
    return Task(
        f"{name}-(human|cloned|expert|v\\d-demos-clipped|v\\d-expert-clipped|demos-v\\d-bc-combined)",
        environment,
        steps,
        observations,
        actions,
        low,
        high,
        caveat,
    )


TASKS = (
    _locomotion("hopper", "Hopper", 11, 3, (-20.272305, 3234.3)),
    _locomotion("walker(2d)?", "Walker2d", 17, 6, (1.629008, 4592.3)),
    _locomotion("halfcheetah", "HalfCheetah", 17, 6, (-280.178953, 12135.0)),
    Task(
        f"ant-{_LEVELS}",
        "Ant-v4",
        1000,
        111,
        8,
        -325.6,
        3879.7,
        _OTHER_VERSION.format(old="Ant-v2"),
        {"use_contact_forces": True},
    ),
    *_point_maze("umaze", "UMaze", 300, (23.85, 161.86), (68.537689, 193.66285642381482)),
    *_point_maze("medium", "Medium", 600, (13.13, 277.39), (44.264742, 297.4552547777125)),
    *_point_maze("large", "Large", 800, (6.7, 273.99), (30.569041, 303.4857382709002)),
    _ant_maze(f"(antmaze-umaze(-diverse)?|ant-maze-u-maze-{_MAZE})", "UMaze", 700),
    _ant_maze(f"(antmaze-medium|ant-maze-big-maze)-{_MAZE}", "Medium", 1000),
    _ant_maze(f"(antmaze-large|ant-maze-hardest-maze)-{_MAZE}", "Large", 1000),
    _adroit("pen", "Pen", 100, 45, 24, 96.262799, 3076.8331017826877),
    _adroit("hammer", "Hammer", 200, 46, 26, -274.856578, 12794.134825156867),
    _adroit("door", "Door", 200, 39, 28, -56.512833, 2880.5693087298737),
    _adroit("relocate", "Relocate", 200, 39, 30, -6.425911, 4233.877797728884),
)
"""Kitchen is not among them: D4RL's observation has 60 numbers (with its goal), FrankaKitchen-v1's another 59."""


def find(name: str) -> Task | None:
    """The task of a data set's or a file's name, such as `hopper-medium-v2` or `hopper_medium-v2`; None if unknown."""
    plain = name.lower().replace("_", "-")
    for task in TASKS:
        if re.fullmatch(rf"{task.pattern}(-v\d+)?", plain):
            return task
    return None


def references(environment: str) -> tuple[float, float] | None:
    """D4RL's mean returns of a random and of an expert policy in the task of a Gymnasium id; None where it has none.

    Sparse and dense mazes are different environments, but all of one robot's data sets share a task.
    """
    for task in TASKS:
        if task.same_task(environment):
            return task.reference_min, task.reference_max
    return None

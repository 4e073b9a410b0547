"""Environments from the descriptions that data sets carry."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import os
from typing import Any

import gymnasium

import raymix.envs  # noqa: F401  (registers raymix's environments)
from raymix.envs.flatten import Flattened
from raymix.types import UsageError

MAX_STEPS = 100_000
"""An episode longer than this is an environment that never ends; it would stop a whole sweep without a word."""

OWN = "RAYMIX_ENVIRONMENTS"
"""Names, separated by commas, of modules that register environments when they are imported."""

_MOST_KEPT = 4
_kept: dict[str, list[gymnasium.Env]] = {}
"""Environments by their `EnvSpec`, the last used ones last: building a simulation takes longer than an episode."""


def build_environment(description: str, render_mode: str | None = None) -> gymnasium.Env:
    """The environment of a Gymnasium `EnvSpec` in JSON, made by its registered id only.

    The description comes with a data set, from anywhere, and its `entry_point` could name any code. So only `id`,
    `kwargs` (plain data, for the registered maker) and `max_episode_steps` are read from it (the registered time limit
    holds where it has none), and raymix's own `observations`: the rule that makes vectors of dictionaries.
    Its `render_mode` is left out: whoever looks says so here. `additional_wrappers` are refused: they name code too,
    and without them the task would be another one.

    Raises:
        UsageError: not such a description, an id that nothing registers, wrappers, or a maker that fails.
    """
    name, kwargs, limit, rule = _parse(description)
    _import_own()
    if name not in gymnasium.registry:
        # gymnasium-robotics prints a notice about the unrelated Adroit environments to stderr when imported.
        with contextlib.redirect_stderr(io.StringIO()):
            import gymnasium_robotics  # noqa: F401  (registers its environments)
    if name not in gymnasium.registry:
        raise UsageError(
            f"the environment {name!r} is not registered; raymix plays those of Gymnasium, of gymnasium-robotics, its"
            f" own, and what the modules register that ${OWN} names: {OWN}=my_robot.environments"
        )
    registered = copy.deepcopy(gymnasium.registry[name])
    registered.kwargs.update({key: value for key, value in kwargs.items() if key != "render_mode"})
    registered.max_episode_steps = limit or registered.max_episode_steps
    try:
        # Not all makers know the word.
        looked_at: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
        environment = gymnasium.make(registered, **looked_at)
        return environment if rule is None else Flattened(environment, rule)
    except UsageError:
        raise
    except Exception as error:  # Whatever a third party's constructor raises: a missing package, an unknown keyword.
        raise UsageError(
            f"the environment {name!r} cannot be built with {kwargs} ({_one_line(error)}); install what it needs, or"
            " choose another data set"
        ) from error


def _import_own() -> None:
    """Import the user's modules that register environments; the user names them, never a data set.

    Whatever environment is asked for: a misspelt module is then told at once, and a module may register one that is
    already known anew, such as with a wrapper.
    """
    for module in filter(None, os.environ.get(OWN, "").split(",")):
        try:
            importlib.import_module(module.strip())
        except Exception as error:  # whatever somebody's module raises
            raise UsageError(
                f"the module {module.strip()!r} of ${OWN} cannot be imported ({_one_line(error)}); install it, or put"
                " its folder into PYTHONPATH"
            ) from error


def _parse(description: str) -> tuple[str, dict[str, Any], int | None, str | None]:
    """The id, the keywords, the time limit, and the rule for observations that are dictionaries."""
    try:
        values = json.loads(description)
        name, kwargs, limit = values["id"], values.get("kwargs") or {}, values.get("max_episode_steps")
        rule = values.get("observations")
        wrappers = [wrapper["name"] for wrapper in values.get("additional_wrappers") or []]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"the data set's environment is no Gymnasium EnvSpec in JSON ({_one_line(error)}); mend its metadata, or"
            " choose another data set"
        ) from error
    whole = limit is None or (isinstance(limit, int) and limit > 0)
    if not (isinstance(name, str) and isinstance(kwargs, dict) and whole and isinstance(rule, str | None)):
        raise UsageError(
            f"the data set's environment has the id {name!r}, kwargs {kwargs!r} and max_episode_steps {limit!r}, which"
            " must be a text, an object and a positive number or null; mend its metadata, or choose another data set"
        )
    if wrappers:
        raise UsageError(
            f"the data set's environment {name!r} is wrapped in {', '.join(map(str, wrappers))}, which raymix does not"
            " build; choose another data set, or empty additional_wrappers in its metadata if scores without them count"
        )
    return name, kwargs, limit, rule


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def environments(description: str, count: int) -> list[gymnasium.Env]:
    """`count` environments, kept for the next evaluation; those unused for longest are closed."""
    lanes = _kept.pop(description, [])
    _kept[description] = lanes
    while len(_kept) > _MOST_KEPT:
        for environment in _kept.pop(next(iter(_kept))):
            environment.close()
    while len(lanes) < count:
        lanes.append(build_environment(description))
    return lanes[:count]

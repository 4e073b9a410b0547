"""Behaviour policies from files, from functions, and at random, all behind one call on a batch of observations.

A source is written `[NAME=]POLICY[,OPTION...]`, such as `expert=sac.zip,noise=0.1`. Options:

    noise=SIGMA        add N(0, SIGMA) to every number of every action, in the environment's units
    random=P           with probability P take a uniform action instead
    deterministic      the policy's mode instead of a sample of it (Stable-Baselines3 only)
    normalize=FILE     the vecnormalize.pkl that the agent was trained with (Stable-Baselines3 only)
    KEY=TEXT           an argument of FUNCTION (MODULE:FUNCTION only)

A ladder such as `noise=0|0.1|0.3` stands for a source per value (`ladder`).

Actions are cut to the environment's box at the end, as they are executed and stored.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import io
import json
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raymix.types import UsageError

if TYPE_CHECKING:
    import torch

Act = Callable[[np.ndarray, int, np.random.Generator], Any]
"""`act(observations, step, generator) -> actions`: (B, S) float32 to (B, A) in the environment's units, at time `step`
of B episodes side by side. All that is random in it must come from the generator."""

RANDOM = "random"
_FORM = re.compile(r"(?:(?P<name>[\w.-]+)=)?(?P<policy>[^,]+)(?P<options>(?:,[^,]+)*)")
_FUNCTION = re.compile(r"[\w.]+:\w+")
_LOG_STD_RANGE = (-20.0, 2.0)
"""Stable-Baselines3's limits of SAC's and TQC's state-dependent log standard deviation."""
_CRITIC = re.compile(r"critic|actor_target\.|value_net\.|mlp_extractor\.value_net\.")
"""Names of weights that do not act."""
_ACTIVATIONS = ("ReLU", "Tanh", "ELU", "LeakyReLU", "SiLU", "GELU", "Sigmoid", "Softplus")


@dataclass(frozen=True)
class Source:
    """One behaviour policy of a data set, and what is done to its actions."""

    name: str
    policy: str
    """`random`, the absolute path of a .zip or .pt file, or MODULE:FUNCTION."""
    noise: float = 0.0
    """Standard deviation of the noise added to each number of an action, in the environment's units."""
    random: float = 0.0
    """Probability of a uniform action instead."""
    deterministic: bool = False
    normalize: str | None = None
    """Absolute path of a vecnormalize.pkl."""
    arguments: tuple[tuple[str, str], ...] = ()
    """Keywords of FUNCTION."""

    @property
    def kind(self) -> str:
        """`random`, `zip`, `pt` or `function`."""
        if self.policy == RANDOM:
            return RANDOM
        suffix = Path(self.policy).suffix
        return suffix[1:] if suffix in (".zip", ".pt") else "function"

    def facts(self) -> dict[str, Any]:
        """Everything that decides how it acts, JSON-ready; files with their SHA-256."""
        files = [path for path in (self.policy, self.normalize) if path and os.path.isfile(path)]
        hashes = {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in files}
        return {**dataclasses.asdict(self), "arguments": dict(self.arguments), "sha256": hashes}


def parse(text: str) -> Source:
    """A `Source` from `[NAME=]POLICY[,OPTION...]`; see this module's docstring.

    Raises:
        UsageError: not of this form, a file that is not there, or an option that this kind of policy does not have.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--policy {text!r} is not of the form [NAME=]POLICY[,OPTION...]; write expert=sac.zip,noise=0.1"
        )
    policy = match["policy"]
    own_name = re.sub(r"[^\w.-]", "-", Path(policy.rsplit(":", 1)[-1]).stem)
    source = Source(match["name"] or own_name, policy)
    if source.kind in ("zip", "pt"):
        source = dataclasses.replace(source, policy=_existing(policy, text))
    elif source.kind == "function" and not _FUNCTION.fullmatch(policy):
        raise UsageError(
            f"--policy {text!r} names no policy; give 'random', a Stable-Baselines3 PATH.zip, a TorchScript PATH.pt, or"
            " MODULE:FUNCTION"
        )
    values: dict[str, Any] = {}
    arguments = {}
    for option in match["options"].split(",")[1:]:
        key, equals, value = option.partition("=")
        if key in ("noise", "random") and equals:
            values[key] = _number(key, value, text)
        elif option == "deterministic" and source.kind == "zip":
            values[key] = True
        elif key == "normalize" and equals and source.kind == "zip":
            values[key] = _existing(value, text)
        elif source.kind == "function" and equals and key.isidentifier():
            arguments[key] = value
        else:
            raise UsageError(
                f"--policy {text!r} has the option {option!r}; there are noise=SIGMA and random=P for all,"
                " deterministic and normalize=FILE for a PATH.zip, and KEY=TEXT for the arguments of a MODULE:FUNCTION"
            )
    return dataclasses.replace(source, **values, arguments=tuple(arguments.items()))


def ladder(text: str) -> list[Source]:
    """The sources of a text in which noise or random has several values, such as `sac.zip,noise=0|0.1|0.3`.

    They are named after the value: `sac-noise-0.1`. A text without `|` is one source. Raises as `parse`.
    """
    match = re.search(r",(noise|random)=([^,]*\|[^,]*)", text)
    if match is None:
        return [parse(text)]
    key, rungs = match[1], match[2].split("|")
    sources = []
    for rung in rungs:
        for source in ladder(f"{text[: match.start()]},{key}={rung}{text[match.end() :]}"):
            sources.append(dataclasses.replace(source, name=f"{source.name}-{key}-{rung}"))
    return sources


def _existing(path: str, text: str) -> str:
    if not os.path.isfile(path):
        raise UsageError(f"--policy {text!r}: there is no file {path!r} here; give the path of one that is")
    return os.path.abspath(path)


def _number(key: str, value: str, text: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = np.nan
    if not 0 <= number <= (1 if key == "random" else sys.float_info.max):
        allowed = "a probability from 0 to 1" if key == "random" else "a finite standard deviation of at least 0"
        raise UsageError(f"--policy {text!r} has {key}={value}; give {allowed}")
    return number


class Behavior:
    """A source that acts in one environment's action box."""

    def __init__(self, source: Source, observation_dim: int, low: np.ndarray, high: np.ndarray) -> None:
        """Load it; `low` and `high` (A,) float32 are the box.

        Raises:
            UsageError: it cannot be loaded, or does not fit the environment.
        """
        self.source, self._low, self._high = source, low, high
        self._act = _LOADERS[source.kind](source, observation_dim, low, high)

    def act(self, observations: np.ndarray, step: int, generator: np.random.Generator) -> np.ndarray:
        """(B, S) float32 -> (B, A) float32 inside the box, at time `step` of B episodes side by side.

        Raises:
            UsageError: the policy raised, or gave no finite numbers of shape (B, A).
        """
        name, shape = self.source.name, (len(observations), len(self._low))
        try:
            actions = np.asarray(self._act(observations, step, generator))
        except Exception as error:  # Whatever a user's function or a TorchScript file raises.
            raise UsageError(
                f"the policy {name!r} failed on observations of shape {observations.shape} ({_one_line(error)});"
                " mend it, or take one made for this environment"
            ) from error
        if actions.shape != shape or actions.dtype.kind != "f":
            raise UsageError(
                f"the policy {name!r} gave actions of shape {actions.shape} and type {actions.dtype} for observations"
                f" of shape {observations.shape}; it must give floating-point numbers of shape {shape}"
            )
        if not np.isfinite(actions).all():
            row = int(np.argwhere(~np.isfinite(actions))[0][0])
            raise UsageError(
                f"the policy {name!r} gave the action {actions[row].tolist()} at step {step}; all of its"
                " numbers must be finite"
            )
        if self.source.noise:
            actions = actions + self.source.noise * generator.standard_normal(shape)
        if self.source.random:
            replaced = generator.random(len(actions)) < self.source.random
            actions = np.where(replaced[:, None], generator.uniform(self._low, self._high, shape), actions)
        return np.clip(actions.astype(np.float32), self._low, self._high)


def _load_random(source: Source, observation_dim: int, low: np.ndarray, high: np.ndarray) -> Act:
    return lambda observations, step, generator: generator.uniform(low, high, (len(observations), len(low)))


def _load_function(source: Source, observation_dim: int, low: np.ndarray, high: np.ndarray) -> Act:
    """FUNCTION is a factory: called once in each worker, it gives an `Act`."""
    module, function = source.policy.split(":")
    if os.getcwd() not in sys.path:  # The command `raymix`, unlike `python -m`, does not look in the current folder.
        sys.path.append(os.getcwd())
    try:
        factory = getattr(importlib.import_module(module), function)
        act = factory(**dict(source.arguments))
        inspect.signature(act).bind(None, 0, None)
    except Exception as error:  # Whatever the user's module raises.
        raise UsageError(
            f"the policy {source.name!r} cannot be made by {source.policy} ({_one_line(error)}); FUNCTION takes the"
            " arguments KEY=TEXT of --policy and gives a function (observations, step, generator) -> actions"
        ) from error
    return act


def _load_torchscript(source: Source, observation_dim: int, low: np.ndarray, high: np.ndarray) -> Act:
    """Tensors (B, S) float32 to (B, A). What it draws comes from torch's generator, seeded here by each call's."""
    import torch

    try:
        module = torch.jit.load(source.policy, map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"{source.policy} is no TorchScript file ({_one_line(error)}); write it with torch.jit.save"
        ) from error

    def act(observations: np.ndarray, step: int, generator: np.random.Generator) -> np.ndarray:
        torch.manual_seed(int(generator.integers(1 << 63)))
        with torch.inference_mode():
            return module(torch.from_numpy(observations)).numpy()

    return act


def _load_stable_baselines3(source: Source, observation_dim: int, low: np.ndarray, high: np.ndarray) -> Act:
    """The actor of SAC, TQC, TD3, DDPG, PPO, A2C, TRPO or ARS, rebuilt from its weights alone."""
    import torch

    actor = _read_actor(source.policy)
    sizes = (actor.hidden[0] if actor.hidden else actor.mean).in_features, actor.mean.out_features
    if sizes != (observation_dim, len(low)):
        raise UsageError(
            f"the policy {source.name!r} ({source.policy}) maps {sizes[0]} numbers to {sizes[1]}, but the environment"
            f" has {observation_dim} to observe and {len(low)} to act with; take an agent that was trained in it (what"
            " wrappers add to observations is not known here: write a MODULE:FUNCTION)"
        )
    normalize = _read_normalization(source.normalize, observation_dim) if source.normalize else lambda seen: seen
    centre, half = (low + high) / 2, (high - low) / 2

    @torch.inference_mode()
    def act(observations: np.ndarray, step: int, generator: np.random.Generator) -> np.ndarray:
        hidden = torch.from_numpy(normalize(observations))
        for layer in actor.hidden:
            hidden = actor.activate(layer(hidden))
        actions = actor.mean(hidden).numpy()
        log_std = actor.log_std
        if log_std is not None and not source.deterministic:
            if isinstance(log_std, torch.nn.Linear):
                log_std = log_std(hidden).clamp(*_LOG_STD_RANGE)
            actions = actions + np.exp(log_std.numpy()) * generator.standard_normal(actions.shape, np.float32)
        return centre + half * np.tanh(actions) if actor.squashed else actions

    return act


@dataclass(frozen=True)
class _Actor:
    hidden: list[torch.nn.Linear]
    activate: Callable[[torch.Tensor], torch.Tensor]
    mean: torch.nn.Linear
    log_std: torch.nn.Linear | torch.Tensor | None
    """On the last hidden layer, or the same everywhere, (A,); None where the policy is deterministic."""
    squashed: bool
    """Whether actions go through tanh and are scaled to the box."""


def _read_actor(path: str) -> _Actor:
    """Stable-Baselines3's own `load` unpickles what the file says, which may be any code. Here torch reads the weights
    with `weights_only`, their names and shapes tell the network, and what is not understood is refused."""
    import torch

    weights, settings = _read_zip(path)
    weights = {name: value for name, value in weights.items() if not _CRITIC.match(name)}

    def linear(name: str) -> torch.nn.Linear:
        weight, bias = weights.pop(f"{name}.weight"), weights.pop(f"{name}.bias", None)
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
        return layer

    def linears(prefix: str) -> list[torch.nn.Linear]:
        """`prefix.0`, `prefix.2`, ...: activations, which have no weights, stand between."""
        found = [re.fullmatch(rf"{prefix}\.(\d+)\.weight", name) for name in weights]
        return [linear(f"{prefix}.{index}") for index in sorted(int(match[1]) for match in found if match)]

    log_std: torch.nn.Linear | torch.Tensor | None = None
    try:
        if "actor.log_std.weight" in weights:  # SAC, TQC
            hidden, mean, squashed, default = linears("actor.latent_pi"), linear("actor.mu"), True, "ReLU"
            log_std = linear("actor.log_std")
        elif "log_std" in weights:  # PPO, A2C, TRPO
            hidden, mean, squashed, default = linears("mlp_extractor.policy_net"), linear("action_net"), False, "Tanh"
            log_std = weights.pop("log_std").reshape(mean.out_features)  # (A,); otherwise gSDE's, and refused
        else:  # TD3, DDPG, ARS
            *hidden, mean = linears("actor.mu") or linears("action_net")
            squashed, default = mean.bias is not None, "ReLU"  # ARS's linear policy, the one without biases, is not
        activation = re.findall(r"\w+", str(settings.get("activation_fn", default)))[-1]
        if weights or activation not in _ACTIVATIONS:
            raise ValueError(f"it holds {', '.join(weights) or activation}")
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"{path} holds no policy that can be rebuilt from its weights ({_one_line(error)}); those of SAC, TQC, TD3,"
            " DDPG, PPO, A2C, TRPO and ARS with plain layers and without gSDE can, others need a MODULE:FUNCTION"
        ) from error
    return _Actor(hidden, getattr(torch.nn, activation)(), mean, log_std, squashed)


def _read_zip(path: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights of all networks, and the readable part of `policy_kwargs`."""
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            settings = json.loads(archive.read("data")).get("policy_kwargs") or {}
            weights = torch.load(io.BytesIO(archive.read("policy.pth")), map_location="cpu", weights_only=True)
        return dict(weights), dict(settings)
    except Exception as error:  # A damaged or foreign file may raise nearly anything.
        raise UsageError(
            f"{path} is no agent that Stable-Baselines3 saved ({_one_line(error)}); give the file that"
            " `model.save` wrote"
        ) from error


def _read_normalization(path: str, observation_dim: int) -> Callable[[np.ndarray], np.ndarray]:
    """What `VecNormalize` does to observations: (x - mean) / sqrt(var + epsilon), clipped."""
    try:
        with open(path, "rb") as file:
            state = _NumbersOnly(file).load().state
        statistics = state["obs_rms"].state
        mean, variance = np.asarray(statistics["mean"]), np.asarray(statistics["var"])
        epsilon, limit = float(state["epsilon"]), float(state["clip_obs"])
        if mean.shape != (observation_dim,) or variance.shape != (observation_dim,):
            raise ValueError(f"statistics of shape {mean.shape} for observations of {observation_dim} numbers")
    except Exception as error:  # as above
        raise UsageError(
            f"{path} holds no observation statistics for this environment ({_one_line(error)}); give the"
            " vecnormalize.pkl that `VecNormalize.save` wrote for it"
        ) from error
    scale = np.sqrt(variance + epsilon)
    return lambda seen: np.clip((seen - mean) / scale, -limit, limit).astype(np.float32)


class _Inert:
    """Stands for an object of which only the state is read."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _NumbersOnly(pickle.Unpickler):
    """Reads arrays and plain containers; a pickle could name any function, so all but these are refused."""

    _INERT = ("stable_baselines3", "gym", "gymnasium", "numpy.random")
    _PLAIN = re.compile(
        r"numpy\.(dtype|ndarray)|numpy\._?core\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)"
        r"|collections\.OrderedDict|builtins\.set"
    )

    def find_class(self, module: str, name: str) -> Any:
        if any(module == package or module.startswith(f"{package}.") for package in self._INERT):
            return _Inert
        if self._PLAIN.fullmatch(f"{module}.{name}"):
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no number")


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


_LOADERS: dict[str, Callable[[Source, int, np.ndarray, np.ndarray], Act]] = {
    RANDOM: _load_random,
    "zip": _load_stable_baselines3,
    "pt": _load_torchscript,
    "function": _load_function,
}

"""A policy that was exported, in its environment: returns beside what its card promises, and a film.

The file is TorchScript, which is code: it is loaded only where its card belongs to it, but a card is no signature.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch

from raymix.envs.build import MAX_STEPS, build_environment
from raymix.envs.rendering import prepare_drawing
from raymix.evaluation.rollout import misfit
from raymix.files import AnyPath, path_of, write_atomically
from raymix.report import SELECT, metric_in_words
from raymix.report.statistics import FEWEST_SEEDS, interval
from raymix.types import UsageError
from raymix.video import MOST_PER_SECOND, Film, check_film

EPISODES, FILMED_EPISODES = 10, 3
"""Played where nobody says how many: without a film, and with one."""
_DEFAULT_PER_SECOND = 30
_ABOUT = (
    "algorithm",
    "dataset",
    "seed",
    "environment",
    "observation_dim",
    "action_dim",
    "action_low",
    "action_high",
    "metric",
    "select",
    "score",
    "chosen_from",
    "reference_returns",
    "policy_sha256",
    "versions",
)
"""What is read from a card."""


@dataclass(frozen=True)
class Played:
    """What came of it."""

    card: dict[str, Any]
    environment: str
    """Its id."""
    own: bool
    """Whether it is the one that the card names."""
    first_seed: int
    """Reset seed of the first episode; each further one has the next."""
    returns: list[float]
    """Undiscounted."""
    lengths: list[int]
    """Steps."""
    video: str | None
    pictures: int
    """In the film; 0 without one."""
    drawn_by: str | None
    """What MUJOCO_GL was set to, where that was needed."""

    @property
    def scores(self) -> list[float] | None:
        """The returns in the card's metric; None where they say nothing of it."""
        if self.card["metric"] == "return":
            return self.returns
        if self.card["metric"] != "normalized_score" or self.card["reference_returns"] is None:
            return None
        low, high = self.card["reference_returns"]
        return [100.0 * (each - low) / (high - low) for each in self.returns]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        ends = interval(self.returns)
        return {
            "environment": self.environment,
            "first_seed": self.first_seed,
            "returns": self.returns,
            "steps": self.lengths,
            "mean": float(np.mean(self.returns)),
            "interval": None if ends is None else list(ends),
            "scores": self.scores,
            "metric": self.card["metric"],
            "promised": self.card["score"] if self.own else None,
            "video": self.video,
            "pictures": self.pictures,
        }


def play(
    file: str,
    environment: str | None = None,
    episodes: int | None = None,
    seed: int = 0,
    video: str | None = None,
    on_episode: Callable[[int, int, float, int], None] = lambda *_: None,
    on_step: Callable[[int, int, int], None] = lambda *_: None,
) -> Played:
    """Play what `raymix.export.export` wrote.

    Args:
        file: the policy; its card is beside it.
        environment: id of another environment than the card's; the card's rule for dictionaries of observations holds.
        episodes: how many; None: `EPISODES`, or `FILMED_EPISODES` of which there is a film.
        seed: the first episode's reset seed. Training's evaluations begin at `rollout.FIRST_SEED`, so those below make
            a fresh evaluation.
        video: a film to write, .gif or .mp4; it is there whole or not at all.
        on_episode: called after every episode with its number (from 0), reset seed, return and steps.
        on_step: called after every step with the episode's number, its steps, and the film's pictures so far.

    Raises:
        UsageError: no such file, no card or another file's, an environment that is not there or that the policy does
            not fit, one that cannot be drawn here, or one that breaks its own rules.
    """
    path = path_of(file)
    card, contents = _read(path)
    target = check_film(video) if video is not None else None
    if episodes is None:
        episodes = EPISODES if video is None else FILMED_EPISODES
    description = _description(card, environment, path)
    name = json.loads(description)["id"]
    simulation = build_environment(description)
    try:
        problem = misfit(
            simulation, card["observation_dim"], card["action_dim"], card["action_low"], card["action_high"]
        )
        drawable = "rgb_array" in (simulation.metadata.get("render_modes") or ())
    finally:
        simulation.close()
    if problem is not None:
        has, needs = problem
        raise UsageError(
            f"{name} has the {has}, but {path.name} has {needs}; choose an environment like the one it was trained for"
        )
    policy = _load(contents, path, card)
    drawn_by, film, pause = None, None, 1
    if target is not None:
        if not drawable:
            raise UsageError(f"{name} has no pictures (no render mode rgb_array); leave out --video")
        drawn_by = prepare_drawing(description, name)
        own_pace = simulation.metadata.get("render_fps") or _DEFAULT_PER_SECOND
        pause = math.ceil(own_pace / MOST_PER_SECOND)
        film = Film(target.suffix, own_pace / pause)
    returns, lengths = [], []
    simulation = build_environment(description, None if film is None else "rgb_array")
    try:
        for number in range(episodes):
            total, steps = _episode(simulation, name, policy, number, seed + number, film, pause, on_step)
            returns.append(total)
            lengths.append(steps)
            on_episode(number, seed + number, total, steps)
    finally:
        simulation.close()
    if target is not None and film is not None:
        try:
            write_atomically(target, film.finish())
        except OSError as error:
            raise UsageError(f"cannot write {target} ({error.strerror or error}); choose another --video") from error
    return Played(
        card=card,
        environment=name,
        own=environment is None or name == (card["environment"] or {}).get("id"),
        first_seed=seed,
        returns=returns,
        lengths=lengths,
        video=None if target is None else str(target),
        pictures=0 if film is None else film.pictures,
        drawn_by=drawn_by,
    )


def _episode(
    simulation: gymnasium.Env,
    name: str,
    policy: torch.jit.ScriptModule,
    number: int,
    seed: int,
    film: Film | None,
    pause: int,
    on_step: Callable[[int, int, int], None],
) -> tuple[float, int]:
    """Return and steps of one episode; every `pause`-th of them is filmed, and the first and the last situation."""
    observation, _ = simulation.reset(seed=seed)
    total, steps, over = 0.0, 0, False
    _film(film, simulation)
    while not over:
        if steps == MAX_STEPS:
            raise UsageError(
                f"{name} did not end episode {number + 1} within {MAX_STEPS:,} steps; register it with a time limit"
                " (max_episode_steps)"
            )
        inputs = torch.from_numpy(np.asarray(observation, dtype=np.float32)[None])
        # Episodes draw from different times, so a stochastic policy never repeats its noise. Unoptimised: TorchScript
        # spends seconds on making fast what takes microseconds.
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            action = policy(inputs, torch.tensor((number << 20) + steps)).numpy()[0]
        observation, reward, terminated, truncated, _ = simulation.step(action.astype(simulation.action_space.dtype))
        if not (math.isfinite(float(reward)) and np.isfinite(observation).all()):
            raise UsageError(
                f"{name} returned a non-finite observation, or the reward {reward}, in step {steps + 1} of episode"
                f" {number + 1}; it cannot be played"
            )
        total, steps, over = total + float(reward), steps + 1, bool(terminated or truncated)
        if over or steps % pause == 0:
            _film(film, simulation)
        on_step(number, steps, 0 if film is None else film.pictures)
    return total, steps


def _film(film: Film | None, simulation: gymnasium.Env) -> None:
    if film is not None:
        film.add(np.asarray(simulation.render()))


def _read(path: AnyPath) -> tuple[dict[str, Any], bytes]:
    """The card, and the contents of the file to which it belongs."""
    if path.suffix != ".pt":
        raise UsageError(f"{path.name} is no exported policy: `raymix export` writes TorchScript, a .pt file")
    beside = path.with_suffix(".json")
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror or error}); `raymix export` writes policies") from error
    try:
        card = json.loads(beside.read_bytes())
    except OSError as error:
        raise UsageError(
            f"{path.name} has no card that could be read, {beside.name} beside it ({error.strerror or error}); without"
            " it nobody can say what the file is: copy both, or export the policy anew"
        ) from error
    except ValueError as error:
        raise UsageError(f"{beside} is no JSON ({error}); copy it again, or export the policy anew") from error
    lacking = [name for name in _ABOUT if name not in card] if isinstance(card, dict) else list(_ABOUT)
    if lacking:
        raise UsageError(f"{beside} is no card of a policy: it lacks {', '.join(lacking)}; export the policy anew")
    if card["policy_sha256"] != hashlib.sha256(contents).hexdigest():
        raise UsageError(f"{beside} is the card of another file than {path.name}; copy both again, or export anew")
    return card, contents


def _load(contents: bytes, path: AnyPath, card: dict[str, Any]) -> torch.jit.ScriptModule:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TorchScript is no longer developed
            return torch.jit.load(io.BytesIO(contents), map_location="cpu")
    except RuntimeError as error:
        raise UsageError(
            f"PyTorch {torch.__version__} cannot load {path.name}, which {card['versions'].get('torch')} wrote"
            f" ({str(error).splitlines()[0]}); install that version, or export the policy anew"
        ) from error


def _description(card: dict[str, Any], environment: str | None, path: AnyPath) -> str:
    """The environment as `build_environment` takes it."""
    own = card["environment"]
    if not isinstance(own, dict | None):
        raise UsageError(f"the card of {path.name} has the environment {own!r}, which is no object; export it anew")
    if environment is None:
        if own is None:
            raise UsageError(f"{path.name} was trained on data without an environment; name one with --env")
        return json.dumps(own)
    if own is not None and environment == own.get("id"):
        return json.dumps(own)
    return json.dumps({"id": environment, "observations": own.get("observations") if own else None})


def summary(played: Played) -> list[str]:
    """What came of it, for people, line by line."""
    card = played.card
    metric = metric_in_words(card["metric"])
    lines = ["", f"{card['algorithm']} on {card['dataset']}, seed {card['seed']}, in {played.environment}"]
    lines.append(f"mean   {_mean(played.returns)}, undiscounted return")
    if card["metric"] == "normalized_score" and played.scores is not None:
        lines.append(f"       {_mean(played.scores)}, {metric}")
    if not played.own:
        lines.append(f"card   promises nothing of this environment: its score is of {_id(card)}")
    elif played.scores is None:
        lines.append(f"card   {card['score']:.4g}, {metric}, of which returns say nothing")
    else:
        lines.append(f"card   {card['score']:.4g}, {metric}, {SELECT[card['select']]}; {_verdict(played)}")
        lines.append(f"       chosen from {card['chosen_from']}")
    if played.video is not None:
        by = f", drawn with MUJOCO_GL={played.drawn_by}" if played.drawn_by else ""
        lines.append(f"film   {played.video}, {played.pictures:,} pictures{by}")
    return lines


def _id(card: dict) -> str:
    return card["environment"]["id"] if card["environment"] else "no environment"


def _mean(values: list[float]) -> str:
    ends = interval(values)
    if ends is None:
        return f"{np.mean(values):.4g} (an interval needs {FEWEST_SEEDS} episodes)"
    if ends[0] == ends[1]:
        return f"{np.mean(values):.4g} (all alike)"
    return f"{np.mean(values):.4g}, 95 % interval {ends[0]:.4g} to {ends[1]:.4g}"


def _verdict(played: Played) -> str:
    """Where the card's score lies; equal episodes have an interval of no width, which is no certainty."""
    assert played.scores is not None
    ends, score = interval(played.scores), played.card["score"]
    if ends is None or ends[0] == ends[1]:
        return f"the mean here differs by {float(np.mean(played.scores)) - score:+.4g}"
    where = "within" if ends[0] <= score <= ends[1] else "above" if score > ends[1] else "below"
    return f"{where} that interval"

"""Data sets of one's own: episodes of behaviour policies, played in parallel Ray actors.

Episodes are played in groups of up to 16 side by side, so that a policy acts for all of them in one call. What a group
holds follows from the environment, the source, the seed and the group's number alone, and a source's rows are those of
its groups 0, 1, 2, ... up to its share: neither the number of workers nor which of them finishes first can be seen in
the data, and short episodes are no likelier to be in it than long ones.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.metadata
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raymix.data import d4rl_names
from raymix.data.columns import Episode, from_episodes, make_dataset
from raymix.data.policies import Behavior, Source
from raymix.envs.flatten import RULES
from raymix.types import Dataset, UsageError

if TYPE_CHECKING:
    import gymnasium

Progress = Callable[[int, int], None]
"""Called with (transitions collected, transitions in all)."""

_MOST_TOGETHER = 16
"""Episodes of a group: enough to make the policy's call cheap beside the simulation."""
_FEWEST_GROUPS = 4
"""Of a source: what its last group makes beyond its share is lost, so groups are smaller where little is asked."""
_ASSUMED_STEPS = 1_000
"""Of an episode without a time limit, until some have been seen; only how soon groups are started depends on it."""
_RETRIES = 3


def collect(
    environment: str,
    sources: Sequence[Source],
    transitions: int,
    name: str,
    *,
    seed: int = 0,
    workers: int | None = None,
    address: str | None = None,
    observations: str | None = None,
    reference: tuple[float, float] | None = None,
    progress: Progress | None = None,
) -> tuple[Dataset, dict[str, Any]]:
    """Play the sources' policies in an environment until they have made `transitions` in all, equal parts each.

    Whole episodes, source after source; only the last of each source is cut, where its share is full, and the cut is a
    timeout. The same arguments give bit-identical rows for any `workers`, on one version of the simulator
    and one kind of processor.

    Args:
        environment: Gymnasium id; observations and actions must be vectors, actions with finite bounds.
        sources: the behaviour policies, with different names; see `raymix.data.policies.parse`.
        transitions: in all; what does not divide goes to the first sources, one each.
        name: of the data set.
        seed: of everything, at least 0.
        workers: processes of one core each; all cores if None.
        address: of a Ray cluster, on whose nodes the policies' files and modules must be at the same place; None
            for a Ray of its own on this machine, or for one that this process has started already.
        observations: the rule by which observations that are dictionaries become vectors (`raymix.envs.flatten`).
        reference: mean returns that score 0 and 100; None for those of D4RL's task of that name, if there is one.
        progress: called as groups arrive.

    Returns:
        The data set, and how it was made, JSON-ready. Keys: `environment`, `seed`, `transitions`, `versions`, and
        `sources`, for each what `Source.facts` tells and `transitions`, `episodes`, `return_mean`, `return_std`
        (population) over its whole episodes; None where it has none.

    Raises:
        UsageError: an unknown or unfit environment, a policy that cannot be loaded or acts wrongly, or an environment
            that raises.
    """
    check_request(sources, transitions, seed, workers)
    description, low, high, limit = inspect_environment(environment, sources, observations)
    reference = reference or d4rl_names.references(environment)
    shares = [transitions // len(sources) + (index < transitions % len(sources)) for index in range(len(sources))]
    size = min(_MOST_TOGETHER, math.ceil(shares[0] / limit / _FEWEST_GROUPS))
    with running_ray(address) as ray:
        cores = int(ray.cluster_resources().get("CPU", 0))
        workers = workers or max(cores, 1)
        if workers > cores:
            raise UsageError(f"--workers {workers} is more than the {cores} cores that Ray has; give at most {cores}")
        kind = ray.remote(num_cpus=1, max_restarts=_RETRIES, max_task_retries=_RETRIES)(Player)
        players = [kind.remote(description, list(sources), seed, low, high, sys.path) for _ in range(workers)]
        try:
            rolled = _gather(ray, players, shares, size, size * limit, progress)
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, UsageError) else error) from None
        except ray.exceptions.RayActorError as error:
            raise UsageError(
                f"a process that played {environment} died {_RETRIES + 1} times ({str(error).splitlines()[0]}); look"
                " for a crash of the policy or the environment, or take fewer --workers if memory ran out"
            ) from error
    parts = [_cut(episodes, share) for episodes, share in zip(rolled, shares, strict=True)]
    dataset = make_dataset(
        from_episodes(episode for part in parts for episode in part),
        name,
        action_low=low,
        action_high=high,
        environment=description,
        reference_min=reference and reference[0],
        reference_max=reference and reference[1],
        sources=[source.name for source in sources],
    )
    origin = {
        "environment": environment,
        "seed": seed,
        "transitions": transitions,
        "versions": {package: importlib.metadata.version(package) for package in ("raymix", "gymnasium", "mujoco")},
        "sources": [
            {**source.facts(), "transitions": share, **_realised(part)}
            for source, share, part in zip(sources, shares, parts, strict=True)
        ],
    }
    return dataset, origin


def task_of(environment: str) -> str:
    """The first part of library names: `hopper` for Hopper-v5."""
    return re.sub(r"-v\d+$", "", environment.rsplit("/", 1)[-1]).lower()


def default_name(environment: str, sources: Sequence[Source]) -> str:
    """Such as `hopper/expert-random`."""
    return f"{task_of(environment)}/{'-'.join(source.name for source in sources)}"


def check_request(sources: Sequence[Source], transitions: int, seed: int, workers: int | None) -> None:
    """Raise `UsageError` for what `collect` could not do in any environment."""
    names = [source.name for source in sources]
    twice = next((name for name in names if names.count(name) > 1), None)
    if not names:
        raise UsageError("there is no policy to collect with; give at least one --policy")
    if twice is not None:
        raise UsageError(f"two policies are named {twice!r}; name them with --policy NAME=...")
    if transitions < len(names):
        raise UsageError(f"--transitions {transitions} is too few for {len(names)} policies; give at least one each")
    if seed < 0:
        raise UsageError(f"--seed {seed} must be at least 0")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers} must be at least 1")


def inspect_environment(
    environment: str, sources: Sequence[Source] = (), observations: str | None = None
) -> tuple[str, np.ndarray, np.ndarray, int]:
    """The `EnvSpec` as JSON, the action box in float32 and the most steps of an episode; each policy acts once.

    Raises:
        UsageError: as `collect`, of what can be known before it starts.
    """
    import gymnasium

    from raymix.envs.build import build_environment

    described = json.dumps({"id": environment, **({"observations": observations} if observations else {})})
    built = build_environment(described)
    try:
        for what, space in (("observations", built.observation_space), ("actions", built.action_space)):
            if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
                told = " ".join(str(space).split())
                raise UsageError(
                    f"the environment {environment!r} has the {what} {told}; both must be vectors of numbers (Box);"
                    f" of dictionaries, choose what is observed with --observations {'|'.join(RULES)}"
                )
        assert isinstance(built.action_space, gymnasium.spaces.Box)
        low, high = built.action_space.low.astype(np.float32), built.action_space.high.astype(np.float32)
        if not np.isfinite([low, high]).all():
            raise UsageError(f"the environment {environment!r} has no finite bounds of its actions; choose another")
        observation, _ = built.reset(seed=0)
        for source in sources:
            seen = np.asarray(observation, dtype=np.float32)[None]
            Behavior(source, seen.shape[1], low, high).act(seen, 0, np.random.default_rng(0))
    finally:
        built.close()
    registered = gymnasium.spec(environment)
    described = json.dumps({**json.loads(registered.to_json()), **json.loads(described)})
    return described, low, high, registered.max_episode_steps or _ASSUMED_STEPS


@contextlib.contextmanager
def running_ray(address: str | None) -> Iterator[Any]:
    """The module `ray`, connected: to what this process is connected to already, or as `raymix.cluster.connected`."""
    import ray

    from raymix.cluster import connected

    with contextlib.nullcontext() if ray.is_initialized() else connected(address, dashboard=False):
        yield ray


def _gather(
    ray: Any, players: list[Any], shares: list[int], size: int, most: int, progress: Progress | None
) -> list[list[Episode]]:
    """Each source's episodes in order, at least its share of transitions; `most` is what a group can hold."""
    arrived: list[dict[int, list[Episode]]] = [{} for _ in shares]
    counts, started = [0] * len(shares), [0] * len(shares)

    def next_source() -> int | None:
        """One that needs another group beside those that are being played, if these hold as much as others did."""
        for source, share in enumerate(shares):
            groups = len(arrived[source])
            expected = counts[source] / groups if groups else most
            if counts[source] + expected * (started[source] - groups) < share:
                return source
        return None

    playing: dict[Any, tuple[Any, int, int]] = {}
    idle = list(players)
    while True:
        while idle and (source := next_source()) is not None:
            player, group = idle.pop(), started[source]
            playing[player.play.remote(source, group, size)] = player, source, group
            started[source] += 1
        if not playing:
            return [[episode for group in sorted(groups) for episode in groups[group]] for groups in arrived]
        (reference, *_), _ = ray.wait(list(playing), num_returns=1)
        player, source, group = playing.pop(reference)
        # Copied, as what Ray returns stays in its shared memory for as long as it is looked at.
        arrived[source][group] = copy.deepcopy(ray.get(reference))
        counts[source] += sum(len(episode.actions) for episode in arrived[source][group])
        idle.append(player)
        if progress is not None:
            progress(sum(map(min, counts, shares)), sum(shares))


class Player:
    """Plays groups of episodes in one process; an actor of `collect`."""

    def __init__(
        self,
        description: str,
        sources: list[Source],
        seed: int,
        low: np.ndarray,
        high: np.ndarray,
        module_folders: Sequence[str] = (),
    ) -> None:
        """`description` is the environment's `EnvSpec` as JSON, `low` and `high` are its action box.

        `module_folders` are looked through for the modules of policies, too: Ray gives its processes the driver's
        current folder only.
        """
        sys.path.extend(folder for folder in module_folders if folder not in sys.path)
        self._description, self._sources, self._seed, self._box = description, sources, seed, (low, high)
        self._behaviors: dict[int, Behavior] = {}

    def play(self, source: int, group: int, size: int) -> list[Episode]:
        """The `size` episodes of one group of a source, whole.

        Raises:
            UsageError: the policy or the environment does what it must not.
        """
        import torch

        from raymix.envs.build import MAX_STEPS, environments

        torch.set_num_threads(1)  # one core each
        built = environments(self._description, size)
        if source not in self._behaviors:
            observation_dim = built[0].observation_space.shape[0]  # type: ignore[index]  # as `collect` checked
            self._behaviors[source] = Behavior(self._sources[source], observation_dim, *self._box)
        behavior = self._behaviors[source]
        sequence = np.random.SeedSequence([self._seed, source, group])
        generator = np.random.default_rng(sequence)

        name = built[0].spec.id if built[0].spec else "?"
        seeds = sequence.generate_state(size).tolist()
        lanes = [_Lane(name, environment, seed) for environment, seed in zip(built, seeds, strict=True)]
        playing, step = lanes, 0
        while playing:
            if step == MAX_STEPS:
                raise UsageError(
                    f"the environment {name} did not end an episode of {behavior.source.name!r} within {MAX_STEPS:,}"
                    " steps; register it with a time limit (max_episode_steps)"
                )
            actions = behavior.act(np.stack([lane.observations[-1] for lane in playing]), step, generator)
            for lane, action in zip(playing, actions, strict=True):
                lane.step(action)
            playing = [lane for lane in playing if not lane.ended]
            step += 1
        return [lane.episode(source) for lane in lanes]


class _Lane:
    """One episode while it is played."""

    def __init__(self, name: str, environment: gymnasium.Env, seed: int) -> None:
        self._name, self._environment = name, environment
        with self._blamed():
            observation, _ = environment.reset(seed=seed)
        # Copies, here and below: an environment may go on writing to the array that it returned.
        self.observations = [np.array(observation, dtype=np.float32)]
        self._actions: list[np.ndarray] = []
        self._rewards: list[float] = []
        self._terminated = self.ended = False

    def step(self, action: np.ndarray) -> None:
        with self._blamed():
            observation, reward, self._terminated, truncated, _ = self._environment.step(
                action.astype(self._environment.action_space.dtype)
            )
        self.ended = self._terminated or truncated
        self.observations.append(np.array(observation, dtype=np.float32))
        self._actions.append(action)
        self._rewards.append(float(reward))
        if not (np.isfinite(self._rewards[-1]) and np.isfinite(self.observations[-1]).all()):
            raise UsageError(
                f"the environment {self._name} gave the reward {reward} and the observation"
                f" {self.observations[-1].tolist()} after the action {action.tolist()} in step"
                f" {len(self._actions) - 1}; they must be finite: mend it, or tame the policy"
            )

    def episode(self, source: int) -> Episode:
        last = np.arange(len(self._actions)) == len(self._actions) - 1
        return Episode(
            observations=np.stack(self.observations),
            actions=np.stack(self._actions),
            rewards=np.array(self._rewards, dtype=np.float32),
            terminations=last & self._terminated,
            truncations=last & (not self._terminated),
            source=source,
        )

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Whatever a third party's simulator raises.
            told = " ".join(f"{type(error).__name__}: {error}".split())
            raise UsageError(
                f"the environment {self._name} failed in step {len(self._actions)} of an episode ({told}); mend it, or"
                " choose another"
            ) from error


def _cut(episodes: Sequence[Episode], transitions: int) -> list[Episode]:
    """The first `transitions` of the episodes; the last one ends there, neither terminated nor truncated."""
    kept, left = [], transitions
    for episode in episodes:
        steps = min(left, len(episode.actions))
        if steps:
            kept.append(
                dataclasses.replace(
                    episode,
                    observations=episode.observations[: steps + 1],
                    actions=episode.actions[:steps],
                    rewards=episode.rewards[:steps],
                    terminations=episode.terminations[:steps],
                    truncations=episode.truncations[:steps],
                )
            )
        left -= steps
    return kept


def _realised(episodes: Sequence[Episode]) -> dict[str, Any]:
    """What whole episodes earned: a cut one's sum is no return."""
    returns = [float(episode.rewards.sum(dtype=np.float64)) for episode in episodes if _whole(episode)]
    return {
        "episodes": len(returns),
        "return_mean": float(np.mean(returns)) if returns else None,
        "return_std": float(np.std(returns)) if returns else None,
    }


def _whole(episode: Episode) -> bool:
    return bool(episode.terminations[-1] or episode.truncations[-1])

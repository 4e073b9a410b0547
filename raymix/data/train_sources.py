"""Behaviour policies of one's own: SAC agents that differ in their seed only, and a data set from each (LBRAC-v)."""

from __future__ import annotations

import functools
import importlib.util
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raymix.data import library, policies
from raymix.data.collect import collect, inspect_environment, running_ray, task_of
from raymix.files import write_atomically
from raymix.types import UsageError

Progress = Callable[[str, int, int], None]
"""Called with (what is being made, steps or transitions done, in all)."""

_REPORT_EVERY = 1_000
_RETRIES = 3


def train_sources(
    environment: str,
    number: int,
    *,
    steps: int,
    transitions: int,
    overwrite: bool = False,
    address: str | None = None,
    reference: tuple[float, float] | None = None,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Train `number` SAC agents with the seeds 0, 1, ... in parallel Ray tasks, and collect `<task>/source-1`, ....

    Source i has `transitions` / i transitions, rounded up: its share of a mixture of the first i. The agents sample
    their actions, as they did while they were trained. Agents and data sets that are there already are kept.

    Args:
        environment: Gymnasium id; observations and actions must be vectors, actions with finite bounds.
        number: agents, at least 1.
        steps: of each agent in its environment.
        transitions: of each mixture.
        overwrite: replace data sets of these names that were made otherwise.
        address: of a Ray cluster that sees the library at the same place; see `raymix.data.collect.collect`.
        reference: mean returns that score 0 and 100.
        progress: called as the work goes on.

    Returns:
        Name of each data set -> how it was made, as from `collect`.

    Raises:
        UsageError: Stable-Baselines3 is not installed, an unknown or unfit environment, other data sets of these names.
    """
    if importlib.util.find_spec("stable_baselines3") is None:
        raise UsageError("training agents needs Stable-Baselines3; run `pip install 'raymix[sb3]'`")
    for option, value in (("-k", number), ("--steps", steps), ("--transitions", transitions)):
        if value < 1:
            raise UsageError(f"{option} {value} must be at least 1")
    description, *_ = inspect_environment(environment)
    wanted = [_Wanted.of(environment, steps, transitions, seed) for seed in range(number)]
    missing = [each for each in wanted if not each.is_made()]
    for each in missing:
        if library.holds(each.name) and not overwrite:
            raise UsageError(
                f"there is another data set {each.name!r} already, {library.path_of(each.name)}; move it away, or"
                " --overwrite it"
            )
    with running_ray(address) as ray:
        _train(
            ray, description, steps, {each.seed: each.agent for each in missing if not each.agent.exists()}, progress
        )
        for each in missing:
            label = f"collecting {each.name}"
            dataset, origin = collect(
                environment,
                [policies.Source(each.name.rsplit("/", 1)[-1], str(each.agent))],
                each.transitions,
                each.name,
                seed=each.seed,
                reference=reference,
                progress=functools.partial(progress, label) if progress else None,
            )
            library.save(dataset, origin)
    return {each.name: library.origin(each.name) or {} for each in wanted}


@dataclass(frozen=True)
class _Wanted:
    """A data set, and the agent that makes it."""

    name: str
    seed: int
    """Of the agent, and of the episodes."""
    agent: Path
    """Its file; the name says all that decides what it is."""
    transitions: int

    @classmethod
    def of(cls, environment: str, steps: int, transitions: int, seed: int) -> _Wanted:
        task, file = task_of(environment), f"{environment.replace('/', '-')}-sac-{steps}-steps-seed-{seed}.zip"
        agent = library.root().resolve() / task / "policies" / file
        return cls(f"{task}/source-{seed + 1}", seed, agent, math.ceil(transitions / (seed + 1)))

    def is_made(self) -> bool:
        """Whether the library has it, from this agent."""
        origin = (library.origin(self.name) if library.holds(self.name) else None) or {}
        agents = [Path(source["policy"]).name for source in origin.get("sources", [])]
        return agents == [self.agent.name] and (origin["seed"], origin["transitions"]) == (self.seed, self.transitions)


def _train(ray: Any, description: str, steps: int, agents: dict[int, Path], progress: Progress | None) -> None:
    """Train the agents of these seeds, and write each when it is ready."""
    # A generator, whose results arrive while it runs: steps done, and in the end the file.
    task = ray.remote(num_cpus=1, max_retries=_RETRIES, num_returns="streaming")(_agent)
    training = {task.remote(description, steps, seed): seed for seed in agents}
    done = dict.fromkeys(agents, 0)
    while training:
        (arriving, *_), _ = ray.wait(list(training), num_returns=1)
        seed = training[arriving]
        try:
            result = ray.get(next(arriving))
        except StopIteration:
            del training[arriving]
            continue
        except ray.exceptions.RayTaskError as error:
            told = " ".join(f"{type(error.cause).__name__}: {error.cause}".split())
            raise UsageError(f"training the agent of seed {seed} failed ({told}); mend the environment") from error
        if isinstance(result, bytes):
            agents[seed].parent.mkdir(parents=True, exist_ok=True)
            write_atomically(agents[seed], result)
        else:
            done[seed] = result
        if progress is not None:
            progress(f"training {len(agents)} agents", sum(done.values()), steps * len(agents))


def _agent(description: str, steps: int, seed: int) -> Iterator[int | bytes]:
    """Train one agent; yields the steps done now and then, and in the end the file that Stable-Baselines3 writes."""
    import torch
    from stable_baselines3 import SAC

    from raymix.envs.build import build_environment

    torch.set_num_threads(1)  # one core each
    agent = SAC("MlpPolicy", build_environment(description), seed=seed, device="cpu")
    while agent.num_timesteps < steps:
        # In parts: the environment and the training go on where the last part ended.
        agent.learn(min(_REPORT_EVERY, steps - agent.num_timesteps), reset_num_timesteps=False)
        yield agent.num_timesteps
    file = io.BytesIO()
    agent.save(file)
    yield file.getvalue()

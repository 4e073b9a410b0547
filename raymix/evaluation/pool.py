"""CPU actors that play policies while training goes on.

An environment is somebody else's code: it may crash its process, or hang. A crashed actor restarts and plays again what
it was at; one whose episodes have not gone on for a while is ended, so that it restarts too. Whatever fails again and
again is said in a sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

RETRIES = 3
"""So often is an evaluation made again whose process died."""


class RolloutActor:
    """One process that plays episodes; imports the environment stack when it is first used."""

    def __init__(self) -> None:
        self._steps = 0
        self._died = ray.get_runtime_context().was_current_actor_reconstructed

    def evaluate(self, policy: Any, episodes: int) -> tuple[Any, bool]:
        """A `PolicyWeights` -> an `Evaluation` of `episodes` episodes, and whether a process died before this one."""
        import torch

        from raymix.evaluation.policy import Policy
        from raymix.evaluation.rollout import evaluate

        torch.set_num_threads(1)  # batches of a few rows: a second thread only costs
        evaluation = evaluate(Policy(policy), episodes, self._count)
        died, self._died = self._died, False
        return evaluation, died

    def _count(self) -> None:
        self._steps += 1

    @ray.method(concurrency_group="watching")
    def steps(self) -> int:
        """Steps so far; answered while it plays, unless the environment holds the interpreter."""
        return self._steps


class RolloutPool:
    """A fixed number of `RolloutActor`s, made by the driver and found by name."""

    def __init__(self, name: str, actors: list[Any]) -> None:
        """Use `create` or `connect`."""
        self.name, self._actors = name, actors

    @classmethod
    def create(cls, name: str, size: int) -> RolloutPool:
        """Start `size` actors that die with the driver. They restart after a crash, and redo what they were at."""
        # num_cpus=0: a trial holds its core while it waits, so actors that asked for one could never start.
        remote: Any = ray.remote  # its type does not know concurrency groups
        kind = remote(num_cpus=0, max_restarts=-1, max_task_retries=RETRIES, concurrency_groups={"watching": 1})
        actor = kind(RolloutActor)
        return cls(name, [actor.options(name=each, max_concurrency=1).remote() for each in _names(name, size)])

    @classmethod
    def connect(cls, name: str, size: int) -> RolloutPool:
        """The actors that the driver made."""
        return cls(name, [ray.get_actor(each) for each in _names(name, size)])

    @property
    def size(self) -> int:
        """How many actors there are."""
        return len(self._actors)

    def submit(self, policies: Sequence[Any], episodes: int, offset: int = 0) -> list[ray.ObjectRef]:
        """Start one evaluation per policy (`PolicyWeights`), spread over the actors from number `offset` on."""
        return [self._actor(offset + index).evaluate.remote(policy, episodes) for index, policy in enumerate(policies)]

    def play(
        self, policies: Sequence[Any], episodes: int, offset: int, patience_s: float
    ) -> tuple[list[Any], list[str]]:
        """The `Evaluation` of each policy, by `submit`, and sentences for the user about what happened meanwhile.

        Actors that hang are made to restart.

        Raises:
            RuntimeError: the environment crashed or hung its process `RETRIES` + 1 times, or broke its own rules
                (`raymix.evaluation.rollout.evaluate`).
        """
        pending = self.submit(policies, episodes, offset)
        seen: dict[int, int] = {}
        hung = False
        while waiting := ray.wait(pending, num_returns=len(pending), timeout=patience_s)[1]:
            for number in {(offset + pending.index(each)) % self.size for each in waiting}:
                try:
                    steps = _steps(self._actor(number), patience_s)
                except RayActorError:  # it is being made anew; it cannot hang before it plays
                    seen.pop(number, None)
                    continue
                if steps is None or steps == seen.pop(number, None):
                    hung = True
                    ray.kill(self._actor(number), no_restart=False)
                else:
                    seen[number] = steps
        try:
            played = ray.get(pending)
        except RayActorError as problem:
            how = f"made no step within {patience_s:g} s" if hung else "crashed"
            raise RuntimeError(
                f"the environment {how} in each of {RETRIES + 1} tries, which ended the process that plays it; run it"
                " by itself to find out why"
            ) from problem
        why = f" (no step within {patience_s:g} s)" if hung else ""
        told = f"A process that plays policies ended{why}; another one played again what it was at."
        died = hung or any(died for _, died in played)
        return [evaluation for evaluation, _ in played], [told] if died else []

    def _actor(self, number: int) -> Any:
        return self._actors[number % self.size]


def _names(pool: str, size: int) -> list[str]:
    return [f"{pool} {index} of {size}" for index in range(1, size + 1)]


def _steps(actor: Any, patience_s: float) -> int | None:
    """How many steps an actor has made; None where it does not answer."""
    try:
        return ray.get(actor.steps.remote(), timeout=patience_s)
    except GetTimeoutError:
        return None

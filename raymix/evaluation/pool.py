"""CPU actors that play policies while training goes on."""

from __future__ import annotations

from typing import Any

import ray


class RolloutActor:
    """One process that plays episodes; imports the environment stack when it is first used."""

    def evaluate(self, policy: Any, episodes: int) -> Any:
        """A `PolicyWeights` -> an `Evaluation` of `episodes` episodes."""
        import torch

        from raymix.evaluation.policy import Policy
        from raymix.evaluation.rollout import evaluate

        torch.set_num_threads(1)  # batches of a few rows: a second thread only costs
        return evaluate(Policy(policy), episodes)


class RolloutPool:
    """A fixed number of `RolloutActor`s, made by the driver and found by name."""

    def __init__(self, name: str, actors: list[Any]) -> None:
        """Use `create` or `connect`."""
        self.name, self._actors = name, actors

    @classmethod
    def create(cls, name: str, size: int) -> RolloutPool:
        """Start `size` actors that die with the driver. They restart after a crash, and redo what they were at."""
        # num_cpus=0: a trial holds its core while it waits, so actors that asked for one could never start.
        kind = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3)(RolloutActor)
        return cls(name, [kind.options(name=f"{name}-{index}").remote() for index in range(size)])

    @classmethod
    def connect(cls, name: str, size: int) -> RolloutPool:
        """The actors that the driver made."""
        return cls(name, [ray.get_actor(f"{name}-{index}") for index in range(size)])

    @property
    def size(self) -> int:
        """How many actors there are."""
        return len(self._actors)

    def submit(self, policies: list[Any], episodes: int, offset: int = 0) -> list[ray.ObjectRef]:
        """Start one evaluation per policy, spread over the actors from number `offset` on."""
        return [
            self._actors[(offset + index) % len(self._actors)].evaluate.remote(policy, episodes)
            for index, policy in enumerate(policies)
        ]

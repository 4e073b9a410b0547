"""`raymix bench evaluation`: how fast policies are played, and what that costs the training beside it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import torch

from raymix.algorithms import base
from raymix.bench import machine
from raymix.bench.learner import noise
from raymix.data.columns import make_dataset
from raymix.evaluation.policy import Policy
from raymix.evaluation.rollout import evaluate
from raymix.evaluation.weights import PolicyWeights
from raymix.learner.learner import Learner
from raymix.learner.replay import DeviceReplay

ENVIRONMENT = "HalfCheetah-v5"


def measure(
    algorithm: str = "td3_bc",
    members: int = 4,
    episodes: int = 8,
    repeats: int = 5,
    seconds: float = 5.0,
    threads: int | None = None,
    settings: dict[str, Any] | None = None,
    capture: str = "auto",
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Play an untrained policy in HalfCheetah and train on noise of its shape; medians of `repeats`, by turns.

    Args:
        algorithm: its name.
        members: that train; an actor plays their policies meanwhile.
        episodes: per evaluation.
        repeats: how often each is measured.
        seconds: about how long each stretch of training lasts.
        threads: of training; by default one less than the cores, so that the actor finds one free.
        settings: hyperparameters other than the defaults.
        capture: 'auto' compiles where there is a compiler; 'eager' never does.
        progress: called with a line for people, now and then.

    Returns:
        `machine`, `algorithm`, and `rows`: each with `what`, `steps_per_second` (of the environment, or agent-steps),
        `ratio` (to training alone; 1 for the environment's) and `runs`.
    """
    found = base.find(algorithm)
    config = found.configure(settings or {})
    columns, plain = noise().columns, noise().spec
    environment = gymnasium.spec(ENVIRONMENT).to_json()
    dataset = make_dataset(
        columns, plain.name, action_low=plain.action_low, action_high=plain.action_high, environment=environment
    )
    replay = DeviceReplay(dataset, with_next_action=found.uses_next_actions)
    before = torch.get_num_threads()
    facts = machine.facts(torch.device("cpu"))
    threads = threads or max(1, facts["cores"] - 1)
    try:
        torch.set_num_threads(threads)
        learner = Learner(found, config, found.phases[-1].name, replay, members, capture)
        for seat in range(members):
            learner.load(seat, learner.fresh(config, seat), config)
        learner.run(2 * learner.period)
        weights = [
            PolicyWeights(
                algorithm,
                config.to_dict(),
                dataset.spec.to_dict(),
                seat,
                {path: value.numpy() for path, value in learner.acting_weights(seat).items()},
            )
            for seat in range(members)
        ]
        rates = _playing(Policy(weights[0]), episodes, repeats, progress)
        rates |= _training(learner, weights, episodes, repeats, seconds, progress)
    finally:
        torch.set_num_threads(before)
    medians = {what: statistics.median(runs) for what, runs in rates.items()}
    played, alone, beside = medians
    references = {played: played, alone: alone, beside: alone}
    rows = [
        {"what": what, "steps_per_second": rate, "ratio": rate / medians[references[what]], "runs": rates[what]}
        for what, rate in medians.items()
    ]
    return {
        "machine": {**facts, "threads": threads},
        "algorithm": algorithm,
        "environment": ENVIRONMENT,
        "members": members,
        "episodes": episodes,
        "rows": rows,
    }


def _playing(policy: Policy, episodes: int, repeats: int, progress: Callable[[str], None]) -> dict[str, list[float]]:
    """Environment steps per second, acting with one thread as the actors do."""
    kept = torch.get_num_threads()
    torch.set_num_threads(1)
    evaluate(policy, episodes)  # builds the environments
    runs = []
    for _ in range(repeats):
        started = time.perf_counter()
        runs.append(sum(evaluate(policy, episodes).lengths) / (time.perf_counter() - started))
    torch.set_num_threads(kept)
    progress(f"environment steps: {statistics.median(runs):,.0f} per s")
    return {"environment steps": runs}


def _training(
    learner: Learner,
    weights: list[PolicyWeights],
    episodes: int,
    repeats: int,
    seconds: float,
    progress: Callable[[str], None],
) -> dict[str, list[float]]:
    """Agent-steps per second alone, and while an actor plays the policies without a pause."""
    import ray

    from raymix.cluster import connected
    from raymix.evaluation.pool import RolloutPool

    chunk = 5 * learner.period
    rates: dict[str, list[float]] = {"agent-steps, training alone": [], "agent-steps, evaluation beside it": []}
    with connected(dashboard=False):
        pool = RolloutPool.create("bench-rollouts", 1)
        ray.get(pool.submit(weights[:1], 1))  # its process has started and knows the environment
        for repeat in range(repeats):
            for what, playing in zip(rates, (False, True), strict=True):
                running = pool.submit(weights, episodes) if playing else []
                started, steps = time.perf_counter(), 0
                while not steps or time.perf_counter() - started < seconds:
                    learner.run(chunk)
                    steps += chunk
                    if running and not ray.wait(running, num_returns=len(running), timeout=0)[1]:
                        running = pool.submit(weights, episodes)
                rates[what].append(learner.width * steps / (time.perf_counter() - started))
                ray.get(running)
            progress(f"training, run {repeat + 1} of {repeats} done")
    return rates


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    facts = result["machine"]
    lines = [
        f"{result['algorithm']}, {result['members']} policies, {result['episodes']} episodes each of"
        f" {result['environment']}, on {facts['device']} ({facts['cores']} cores, {facts['threads']} threads to train)",
        "",
        "                                     |  per second | ratio | from run to run",
        "-------------------------------------+-------------+-------+----------------",
    ]
    lines += [
        f"{row['what']:36} | {row['steps_per_second']:>11,.0f} | {row['ratio']:>5.2f} |"
        f" {min(row['runs']):,.0f} to {max(row['runs']):,.0f}"
        for row in result["rows"]
    ]
    return "\n".join(lines)

"""A trained policy as one file that needs no raymix: TorchScript, and a card that says what it is.

    best.pt      forward(observations (B, S) float32, step int64) -> actions (B, A) float32, in the environment's units
    best.json    algorithm, configuration, data set and its hash, seed, scores, what it was chosen from, versions,
                 what it needs, and the hash of the policy's file

Normalisation of observations, the action box and the random numbers of stochastic policies are inside; a stochastic
one draws anew at every `step`, and for every row of a batch.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import raymix
from raymix import checkpoint, ledger
from raymix.algorithms import base
from raymix.evaluation.policy import Policy
from raymix.evaluation.weights import PolicyWeights
from raymix.files import AnyPath, path_of, write_atomically
from raymix.job import find_newest, is_over, jobs_of
from raymix.learner.networks import fresh_networks
from raymix.learner.state import acting_of
from raymix.plan import read_description
from raymix.random import Key
from raymix.report import HELD_OUT, find_run, metric_in_words
from raymix.types import Spec, UsageError

_PROBES = 64
"""Random observations on which the file must act as the policy does."""


@dataclass(frozen=True)
class Exported:
    """The two files, and what the card says."""

    policy: str
    card: str
    facts: dict[str, Any]


def export(folder: str, target: str | None = None, config_id: str | None = None, seed: int | None = None) -> Exported:
    """Write one policy of a run, by default the best one's by the run's own metric and selection rule.

    Args:
        folder: a run, or a storage root (its newest run).
        target: the file to write, `best.pt` in the run's folder `exported` if None; the card is beside it, `.json`.
        config_id: of the configuration (its first letters are enough); the one of the best mean if None.
        seed: whose policy; the one of the best score if None.

    Raises:
        UsageError: no run, no such configuration or seed, no checkpoint of its last phase, or an unwritable target.
    """
    run_dir = find_run(folder)
    plan = read_description(run_dir)
    row = _chosen(run_dir, plan, config_id)
    trial = next(trial for trial in plan["trials"] if trial["config_id"] == row["config_id"])
    seeds = ledger.read(run_dir / "ledger", row["config_id"], [])["seed"].to_pylist()
    scores = dict(zip(sorted(set(seeds)), row["scores"], strict=True))
    seed = _best_seed(scores, plan["metric"]) if seed is None else seed
    if seed not in scores:
        had = ", ".join(map(str, scores))
        raise UsageError(f"configuration {row['config_id']} has the seeds {had}, not {seed}; choose one of them")
    job = next(job for job in jobs_of(plan, trial, run_dir, "cpu", "auto") if seed in job.seeds)
    found, _ = find_newest(job)
    if found is None or found.state["phase"] != job.phases[-1][0]:
        raise UsageError(
            f"configuration {job.config_id} of {run_dir} has no whole checkpoint of its phase {job.phases[-1][0]}, in"
            " which it learns to act; resume the run first"
        )
    weights = _weights_of(found, seed)
    spec = Spec.from_dict(weights.spec)
    path = path_of(target) if target else run_dir / "exported" / "best.pt"
    if path.suffix != ".pt":
        raise UsageError(f"a policy is written as TorchScript, whose files end in .pt, not {path.name!r}")
    module = scripted(weights)
    step = found.state["step"]
    facts = {
        "algorithm": job.algorithm,
        "config": found.state["config"],  # of a population's member: those that it ended with
        "config_id": job.config_id,
        "dataset": spec.name,
        "dataset_hash": spec.hash,
        "environment": json.loads(spec.environment) if spec.environment else None,
        "observation_dim": spec.observation_dim,
        "action_dim": spec.action_dim,
        "action_low": list(spec.action_low),
        "action_high": list(spec.action_high),
        "seed": seed,
        "phase": found.state["phase"],
        "step": step,
        "finished": is_over(job, found),
        "metric": plan["metric"],
        "metric_in_words": metric_in_words(plan["metric"]),
        "select": plan["select"],
        "score": scores[seed],
        "scores_of_its_configuration": {str(each): score for each, score in scores.items()},
        "episodes_per_evaluation": plan["episodes"],
        "evaluated_at_step": _evaluated_at(run_dir, job.config_id, seed, step),
        "chosen_from": f"{_agents(run_dir)} by that score, which is therefore higher than a fresh evaluation's"
        " is likely to be"
        if plan["metric"] in ("return", "normalized_score")
        else f"{_agents(run_dir)} by that score",
        "reference_returns": None if spec.reference_min is None else [spec.reference_min, spec.reference_max],
        "run": run_dir.name,
        "policy_sha256": hashlib.sha256(module).hexdigest(),
        "versions": {"raymix": raymix.__version__, "torch": torch.__version__, "numpy": np.__version__},
        "needs": f"PyTorch, {torch.__version__} or newer to be sure; to play, the environment's package too. The file"
        " is code: load only those of people whom you trust",
        "usage": "torch.jit.load(FILE)(observations, torch.tensor(step)) -> actions in the environment's units",
    }
    card = path.with_suffix(".json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, module)
        write_atomically(card, json.dumps(facts, indent=1))
    except OSError as error:
        raise UsageError(f"cannot write {path} ({error.strerror or error}); choose another --out") from error
    return Exported(str(path), str(card), facts)


def _agents(run_dir: AnyPath) -> str:
    """What a run has trained, for people."""
    table = ledger.read(run_dir / "ledger", None, [])
    ids, seeds = table["config_id"].to_pylist(), table["seed"].to_pylist()
    return f"{len(set(zip(ids, seeds)))} agents of {len(set(ids))} configurations"


def _chosen(run_dir: AnyPath, plan: dict[str, Any], config_id: str | None) -> dict[str, Any]:
    """The row of the score table."""
    from raymix.report import tables

    frame = tables.score_table(
        ledger.read(run_dir / "ledger"), select=plan["select"], metric=plan["metric"], phases=plan["phases"]
    )
    rows = tables.records(frame)
    if config_id is not None:
        rows = [row for row in rows if row["config_id"].startswith(config_id)]
        if len(rows) != 1:
            known = ", ".join(trial["config_id"] for trial in plan["trials"])
            raise UsageError(f"{len(rows)} configurations of {run_dir} begin with {config_id!r}; there are: {known}")
        return rows[0]
    rows = [row for row in rows if row["mean"] is not None]
    if not rows:
        raise UsageError(f"{run_dir} has no scores yet, so no policy is the best; name a configuration, or resume it")
    if len(datasets := {row["dataset"] for row in rows}) > 1:
        raise UsageError(
            f"{run_dir} has policies of {len(datasets)} data sets ({', '.join(sorted(datasets))}), and their scores do"
            " not compare; name a configuration with --config"
        )
    # Fewer seeds are no match for all (`raymix.search.halving`).
    most = max(row["seeds"] for row in rows)
    best = min if plan["metric"].startswith(HELD_OUT) else max
    return best((row for row in rows if row["seeds"] == most), key=lambda row: row["mean"])


def _best_seed(scores: dict[int, Any], metric: str) -> int:
    finite = {seed: score for seed, score in scores.items() if isinstance(score, float)}
    if not finite:
        raise UsageError("no seed of that configuration has a score (diverged, or not evaluated yet); name one")
    best = min if metric.startswith(HELD_OUT) else max
    return best(finite, key=lambda seed: finite[seed])


def _evaluated_at(run_dir: AnyPath, config_id: str, seed: int, step: int) -> int | None:
    """The last step at which the policy in the checkpoint was evaluated; it may be older than the checkpoint."""
    rows = ledger.rows(ledger.read(run_dir / "ledger", config_id))
    return max((row.step for row in rows if row.seed == seed and row.returns and row.step <= step), default=None)


def _weights_of(found: checkpoint.Checkpoint, seed: int) -> PolicyWeights:
    state = found.state
    if "spec" not in state:
        raise UsageError("the run is older than exports: its checkpoints do not hold the data set's facts; train anew")
    if state["diverged"][(seat := state["seeds"].index(seed))]:
        raise UsageError(f"seed {seed} diverged, so it has no policy; choose another")
    weights = acting_of(base.find(state["algorithm"]), found.members[seat])
    return PolicyWeights(state["algorithm"], state["config"], state["spec"], seed, weights)


class _Acting(nn.Module):
    """A policy as a module of its own, with its weights in it: functional calls cannot be traced."""

    _centre: Tensor
    _half: Tensor

    def __init__(self, plain: PolicyWeights) -> None:
        super().__init__()
        self._algorithm, spec = base.find(plain.algorithm), Spec.from_dict(plain.spec)
        self._config, self._seed = self._algorithm.configure(plain.config), plain.seed
        networks = fresh_networks(self._algorithm, spec, self._config, seed=0)
        for path, value in plain.weights.items():
            network, _, name = path.partition("/")
            networks[network].get_parameter(name).data.copy_(torch.from_numpy(value))
        self._networks = nn.ModuleDict(networks).requires_grad_(False)
        low, high = torch.tensor(spec.action_low).double(), torch.tensor(spec.action_high).double()
        self.register_buffer("_centre", (low + high) / 2)
        self.register_buffer("_half", (high - low) / 2)

    def forward(self, observations: Tensor, step: Tensor) -> Tensor:
        nets, key = SimpleNamespace(**self._networks), Key.of(self._seed, step)
        actions = self._algorithm.sample_actions(nets, observations, self._config, key)
        self.draws = key.draws
        return (self._centre + self._half * actions.double().clamp(-1.0, 1.0)).float()


class _RowByRow(nn.Module):
    """A stochastic policy on a batch: each row draws numbers of its own, the first those of a single observation."""

    def __init__(self, single: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.single = single

    def forward(self, observations: Tensor, step: Tensor) -> Tensor:
        rows = [self.single(observations[i : i + 1], step + i * 1099511627776) for i in range(observations.shape[0])]
        return torch.cat(rows)


def scripted(plain: PolicyWeights) -> bytes:
    """The policy as TorchScript, compared with itself at times, and batch sizes, that it was not recorded at."""
    policy = Policy(plain)
    generator = torch.Generator().manual_seed(0)
    mean, std = (torch.tensor(each) for each in (policy.spec.observation_mean, policy.spec.observation_std))
    probes = mean + std * torch.randn(_PROBES, policy.spec.observation_dim, generator=generator)
    acting = _Acting(plain)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # The tracer warns of every shape that is read; the outcome is checked.
        acting(probes[:1], torch.tensor(0))
        stochastic = acting.draws > 0
        recorded = probes[: 1 if stochastic else 2]
        module = torch.jit.trace(acting, (recorded, torch.tensor(3)), check_trace=False)
        if stochastic:  # a recording holds how many numbers are drawn, and so the batch size
            module = torch.jit.script(_RowByRow(module))
        for row, step in ((0, 3), (5, 17), (9, 0)):
            chosen = slice(row, row + 1) if stochastic else slice(row, None)
            expected = policy.act(probes[chosen].numpy(), step)
            found = module(probes[chosen], torch.tensor(step)).numpy()
            if not np.allclose(expected, found, rtol=1e-5, atol=1e-6):
                raise RuntimeError(f"the exported policy does not act as the trained one does ({policy.algorithm})")
    return module.save_to_buffer()

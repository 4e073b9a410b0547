"""What is in a data set: sizes, returns, ends, actions at the edge of their box, duplicates, constant columns.

`describe` computes it, `text` prints it; `raymix.report.dataset_page` draws it. One pass per question over the columns,
in blocks, so that a mapped file larger than memory can be described.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from raymix.types import Columns, Dataset

AT_EDGE = 1e-3
"""An action entry within this share of its box's width from an edge counts as saturated: policies that squash by tanh
come close to the edge and never reach it."""
SPARSE = 0.9
"""Rewards are called sparse where one value has at least this share of the transitions."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BLOCK_ROWS = 1 << 16


def describe(dataset: Dataset) -> dict[str, Any]:
    """The facts of a data set, JSON-ready: those of its `Spec`, and these.

    `episode_lengths` (min, median, max), `terminals` and `timeouts` (episodes that end so), `returns` (mean, sd with
    ddof 1, min, max and `quantiles` by their share, over episodes), `by_source` (a list in the order of
    `Spec.sources`: name, episodes, transitions and the same returns; an episode belongs to the source of its first
    row, and a source without episodes has no returns), `action_columns` (per dimension: mean, std, min, max, `at_low`
    and `at_high`, the shares within 0.1 % of the box's width from its edges), `saturated` (the share of all action
    entries there), `observation_min` and `observation_max`, `constant_observations` and `constant_actions` (indices of
    columns that never change), `duplicates` (transitions that repeat an earlier one in observation, action, reward,
    next observation and terminal), `rewards` (min, max, mean, sd, `zeros`, `distinct`, `most_common` and its share,
    `sparse`), and `megabytes` of the columns.
    """
    columns, spec = dataset.columns, dataset.spec
    rows, last = columns.transition_rows(), columns.last_rows
    first = np.append(0, last[:-1] + 1)
    lengths = last - first
    returns, sources = columns.episode_returns(), columns.source[first]
    transitions = np.bincount(columns.source[rows], minlength=len(spec.sources))
    observation_min, observation_max = columns.observations.min(0), columns.observations.max(0)
    actions = columns.actions[rows]
    action_min, action_max = actions.min(0), actions.max(0)
    low, high = np.array(spec.action_low, np.float32), np.array(spec.action_high, np.float32)
    margin = AT_EDGE * (high - low)
    at_low, at_high = (actions <= low + margin).mean(0), (actions >= high - margin).mean(0)
    duplicates = len(rows) - len(np.unique(_transition_hashes(columns, rows)))
    return {
        **spec.to_dict(),
        "megabytes": sum(array.nbytes for array in vars(columns).values()) / 2**20,
        "episode_lengths": {"min": int(lengths.min()), "median": float(np.median(lengths)), "max": int(lengths.max())},
        "terminals": int(columns.terminals.sum()),
        "timeouts": int(columns.timeouts.sum()),
        "returns": _distribution(returns),
        "by_source": [
            {
                "source": name,
                "episodes": int((sources == index).sum()),
                "transitions": int(transitions[index]),
                "returns": _distribution(returns[sources == index]),
            }
            for index, name in enumerate(spec.sources)
        ],
        "action_columns": [
            {
                "mean": spec.action_mean[index],
                "std": spec.action_std[index],
                "min": float(action_min[index]),
                "max": float(action_max[index]),
                "at_low": float(at_low[index]),
                "at_high": float(at_high[index]),
            }
            for index in range(spec.action_dim)
        ],
        "saturated": float((at_low + at_high).mean()),
        "observation_min": observation_min.tolist(),
        "observation_max": observation_max.tolist(),
        "constant_observations": np.flatnonzero(observation_min == observation_max).tolist(),
        "constant_actions": np.flatnonzero(action_min == action_max).tolist(),
        "duplicates": duplicates,
        "rewards": _rewards(columns.rewards[rows]),
    }


def _distribution(returns: np.ndarray) -> dict[str, Any] | None:
    """Of returns (E,); None of none. The sd of one is 0."""
    if not len(returns):
        return None
    return {
        "mean": float(returns.mean()),
        "sd": float(returns.std(ddof=1)) if len(returns) > 1 else 0.0,
        "min": float(returns.min()),
        "max": float(returns.max()),
        "quantiles": {f"{share:g}": float(np.quantile(returns, share)) for share in QUANTILES},
    }


def _rewards(rewards: np.ndarray) -> dict[str, Any]:
    values, counts = np.unique(rewards, return_counts=True)
    share = float(counts.max() / len(rewards))
    return {
        "min": float(values[0]),
        "max": float(values[-1]),
        "mean": float(rewards.mean(dtype=np.float64)),
        "sd": float(rewards.std(dtype=np.float64)),
        "zeros": float((rewards == 0).mean()),
        "distinct": len(values),
        "most_common": float(values[counts.argmax()]),
        "most_common_share": share,
        "sparse": share >= SPARSE and len(values) > 1,
    }


def _transition_hashes(columns: Columns, rows: np.ndarray) -> np.ndarray:
    """(N,) uint64, equal for equal transitions; among n different ones two agree with probability about n^2 / 2^65."""
    observations, outcomes = np.empty((2, len(columns.episode)), np.uint64)
    for block in _blocks(len(columns.episode)):
        observations[block] = _hash(columns.observations[block])
        outcome = (columns.actions[block], columns.rewards[block, None], columns.terminals[block, None])
        outcomes[block] = _hash(np.concatenate(outcome, axis=1, dtype=np.float32))
    return _mix(_mix(observations[rows]) + observations[rows + 1]) + outcomes[rows]


def _hash(values: np.ndarray) -> np.ndarray:
    """(B, K) float32 -> (B,) uint64. -0 and 0 are alike."""
    words = (values + np.float32(0)).view(np.uint32).astype(np.uint64)
    places = np.arange(1, values.shape[1] + 1, dtype=np.uint64) << np.uint64(32)
    return _mix(words + places).sum(axis=1, dtype=np.uint64)


def _mix(words: np.ndarray) -> np.ndarray:
    """SplitMix64's output for each state: a bijection of 64-bit words, without which a sum would cancel too often."""
    words = words * np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK_ROWS) for start in range(0, rows, _BLOCK_ROWS))


# For people


def text(facts: dict[str, Any]) -> str:
    """What `describe` found, aligned, in at most 100 columns but for long names."""
    return "\n".join((*_summary(facts), "", *_returns_table(facts), "", *_actions_table(facts), "", *_remarks(facts)))


def environment_id(facts: dict[str, Any]) -> str:
    """The name of the environment that the data set is evaluated in, in words where there is none."""
    return json.loads(facts["environment"])["id"] if facts["environment"] else "none: a log without an environment"


def _summary(facts: dict[str, Any]) -> Iterator[str]:
    lengths = facts["episode_lengths"]
    bounds = sorted({*zip(facts["action_low"], facts["action_high"], strict=True)})
    box = f"in [{bounds[0][0]:g}, {bounds[0][1]:g}]" if len(bounds) == 1 else "in boxes of their own, see below"
    rewards = facts["rewards"]
    kind = f"{rewards['distinct']:,} values" + (", sparse" if rewards["sparse"] else "")
    references = (
        f"0 is a return of {facts['reference_min']:g}, 100 of {facts['reference_max']:g}"
        if facts["reference_min"] is not None
        else "none: scores cannot be normalized"
    )
    lines = {
        "data set": facts["name"],
        "hash": facts["hash"],
        "environment": environment_id(facts),
        "references": references,
        "size": f"{facts['num_transitions']:,} transitions in {facts['num_episodes']:,} episodes,"
        f" {facts['megabytes']:,.1f} MB",
        "observations": f"{facts['observation_dim']} numbers",
        "actions": f"{facts['action_dim']} numbers {box}",
        "lengths": f"{lengths['min']:,} to {lengths['max']:,} transitions per episode, median {lengths['median']:,g}",
        "ends": f"{facts['terminals']:,} episodes end in a terminal state, {facts['timeouts']:,} are cut (timeout)",
        "rewards": f"{rewards['min']:.4g} to {rewards['max']:.4g}, mean {rewards['mean']:.4g}, sd {rewards['sd']:.4g};"
        f" {kind}",
        "": f"{rewards['zeros']:.1%} are zero",
    }
    if rewards["most_common"] != 0 and rewards["distinct"] > 1 and rewards["most_common_share"] >= 0.01:
        lines[""] += f", {rewards['most_common_share']:.1%} are {rewards['most_common']:.4g}"
    return (f"{name:13} {value}" for name, value in lines.items())


def _returns_table(facts: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{'returns by source':24} {'episodes':>8} {'transitions':>11} {'mean':>9} {'sd':>8}  {'5 %':>8} {'median':>8}"
        f" {'95 %':>8}"
    )
    rows = facts["by_source"]
    if len(rows) > 1:
        sizes = {"episodes": facts["num_episodes"], "transitions": facts["num_transitions"]}
        rows = [*rows, {"source": "all", **sizes, "returns": facts["returns"]}]
    for row in rows:
        line = f"{row['source']:24} {row['episodes']:8,} {row['transitions']:11,}"
        if found := row["returns"]:
            low, middle, high = (found["quantiles"][share] for share in ("0.05", "0.5", "0.95"))
            line += f" {found['mean']:9.4g} {found['sd']:8.3g}  {low:8.4g} {middle:8.4g} {high:8.4g}"
        yield line


def _actions_table(facts: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{'action':>6}  {'box':18} {'mean':>8} {'std':>8}  {'min':>8} {'max':>8}  {'at low edge':>11}"
        f" {'at high edge':>12}"
    )
    bounds = zip(facts["action_low"], facts["action_high"], strict=True)
    for index, (row, (low, high)) in enumerate(zip(facts["action_columns"], bounds, strict=True)):
        yield (
            f"{index:6}  {f'[{low:.4g}, {high:.4g}]':18} {row['mean']:8.4f} {row['std']:8.4f}  {row['min']:8.4f}"
            f" {row['max']:8.4f}  {row['at_low']:11.1%} {row['at_high']:12.1%}"
        )


def _remarks(facts: dict[str, Any]) -> Iterator[str]:
    yield f"{facts['saturated']:.1%} of the action entries are within {AT_EDGE:.1%} of their box's edges."
    share = facts["duplicates"] / facts["num_transitions"]
    yield f"{facts['duplicates']:,} transitions ({share:.1%}) repeat an earlier one in every number."
    for kind in ("observations", "actions"):
        constant = facts[f"constant_{kind}"]
        named = f"{len(constant)} ({', '.join(map(str, constant))})" if constant else "none"
        yield f"Columns of the {kind} that never change: {named}."
    yield "No number is NaN or infinite: a data set with one is refused when it is loaded."

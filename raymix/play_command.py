"""The command `raymix play`: what it prints."""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np

from raymix.play import Played, play
from raymix.report import SELECT, metric_in_words
from raymix.report.statistics import FEWEST_SEEDS, interval
from raymix.types import UsageError

_LONGEST_SEED = 2**31
"""Gymnasium takes larger ones too, but whoever gives one has slipped."""


def run(options: argparse.Namespace) -> None:
    """Play, a line per episode as they end, and the sum of it."""
    if options.episodes is not None and options.episodes < 1:
        raise UsageError(f"--episodes takes a positive whole number, not {options.episodes}")
    if not 0 <= options.seed < _LONGEST_SEED:
        raise UsageError(f"--seed takes a whole number from 0 to {_LONGEST_SEED - 1:,}, not {options.seed}")
    watched = sys.stderr.isatty() and not options.json

    def on_episode(number: int, seed: int, total: float, steps: int) -> None:
        if options.json:
            return
        if watched:
            print(end="\r\x1b[K", file=sys.stderr, flush=True)
        if number == 0:
            print("episode | reset seed |    return |  steps")
            print("--------+------------+-----------+-------")
        print(f"{number + 1:>7} | {seed:>10} | {total:>9.4g} | {steps:>6,}", flush=True)

    def on_step(number: int, steps: int, pictures: int) -> None:
        if watched and steps % 10 == 0:
            filmed = f", {pictures:,} pictures" if options.video else ""
            print(f"\r\x1b[Kepisode {number + 1}, step {steps:,}{filmed}", end="", file=sys.stderr, flush=True)

    played = play(options.file, options.env, options.episodes, options.seed, options.video, on_episode, on_step)
    print(json.dumps(played.to_dict()) if options.json else "\n".join(summary(played)))


def summary(played: Played) -> list[str]:
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

"""The command `raymix play`: an exported policy in its environment."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from raymix.types import UsageError

_LONGEST_SEED = 2**31
"""Gymnasium takes larger ones too, but whoever gives one has slipped."""


def add_to(commands: Any) -> None:
    """Add the command to those of `raymix`."""
    command = commands.add_parser(
        "play",
        help="an exported policy in its environment: returns, and a film",
        description="Play what `raymix export` wrote in the environment that its card names, and print the returns"
        " beside what the card promises. The seeds of the default are none of those that training evaluated with, so"
        " the returns are a fresh evaluation. A policy's file is TorchScript, which is code, and a card is no"
        " signature: play only files of people whom you trust.",
        epilog="A film shows the environment at its own speed, at most 30 pictures a second. GIF needs nothing more,"
        " MP4 `pip install 'raymix[video]'`. MuJoCo draws without a display where libegl1 or libosmesa6 is installed;"
        " MUJOCO_GL=egl or osmesa chooses, and where it is not set the one that works is found.",
    )
    command.add_argument("file", metavar="FILE.pt", help="the policy; its card, FILE.json, is beside it")
    command.add_argument("--env", metavar="ID", help="another environment of the same observations and actions")
    command.add_argument("--episodes", type=int, metavar="N", help="default: 10, with --video 3")
    command.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="resets the first episode, N + 1 the next ... (default: 0; training evaluates from 1000000 on)",
    )
    command.add_argument("--video", metavar="FILE", help="write a film of them, .gif or .mp4")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Play, a line per episode as they end, and the sum of it."""
    from raymix.play import play, summary

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

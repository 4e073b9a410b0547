"""The command `raymix train`: one configuration, without Ray."""

from __future__ import annotations

import argparse
from typing import Any

from raymix.commands.shared import DEFAULT_STORAGE, refuse_beside_resume, show
from raymix.types import UsageError


def add_to(commands: Any) -> None:
    """Add the command to those of `raymix`."""
    command = commands.add_parser(
        "train",
        help="train one configuration in this process, without Ray",
        description="Train one configuration, all seeds as one program, in this process and without Ray.",
    )
    command.add_argument("algorithm", help="such as lom; `raymix algorithms` lists them")
    command.add_argument("--dataset", metavar="NAME", help="such as fetchreach-multigoal; needed but with --resume")
    command.add_argument(
        "--preset", metavar="NAME", help="a preset underneath --set; `raymix algorithms NAME` lists them"
    )
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a hyperparameter")
    command.add_argument("--seeds", type=int, metavar="N", help="default: 1")
    command.add_argument("--steps", type=int, metavar="N", help="gradient steps of the last phase")
    command.add_argument("--evaluate-every", type=int, metavar="N", help="default: 1000 steps")
    command.add_argument("--episodes", type=int, metavar="N", help="per evaluation; default: 10")
    command.add_argument("--metric", help="return, normalized_score, or a held-out loss such as held_out/action_error")
    command.add_argument(
        "--held-out",
        type=float,
        metavar="SHARE",
        help="of the episodes: not trained on, judged by (default: 0.1 for data without an environment, else 0)",
    )
    command.add_argument("--storage", metavar="DIR", help="folder of the runs, or s3://bucket/runs (default: runs)")
    command.add_argument("--resume", metavar="DIR", help="go on with the run in this folder")
    command.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    command.add_argument("--eager", action="store_true", help="do not compile the training step")
    command.add_argument("--json", action="store_true", help="print the result as JSON and nothing else")
    command.set_defaults(run=train)


def train(options: argparse.Namespace) -> None:
    """`raymix train ALGORITHM`."""
    from raymix.plan import SweepSpec, setting
    from raymix.train import Options, resume
    from raymix.train import train as train_locally

    if not options.dataset and not options.resume:
        raise UsageError("give a data set with --dataset; `raymix data list` names those at hand")
    how = Options(options.device, "eager" if options.eager else "auto", quiet=options.json)
    if options.resume:
        refuse_beside_resume(
            options,
            "dataset",
            "preset",
            "set",
            "seeds",
            "steps",
            "evaluate_every",
            "episodes",
            "storage",
            "metric",
            "held_out",
        )
        show(resume(options.resume, options.algorithm, how), options.json)
        return
    spec = SweepSpec(
        algorithm=options.algorithm,
        datasets=(options.dataset,),
        settings=dict(setting(text) for text in options.set),
        preset=options.preset,
        seeds=1 if options.seeds is None else options.seeds,
        steps=options.steps,
        evaluate_every=1_000 if options.evaluate_every is None else options.evaluate_every,
        episodes=10 if options.episodes is None else options.episodes,
        metric=options.metric,
        held_out=options.held_out,
    )
    show(train_locally(spec, options.storage or DEFAULT_STORAGE, how), options.json)

"""The commands `raymix bench learner | store | evaluation | sweep | search`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from raymix.types import UsageError


def add_to(commands: Any) -> None:
    """Add the commands to those of `raymix`."""
    bench = commands.add_parser("bench", help="measure how fast this machine trains").add_subparsers(
        required=True, metavar="WHAT"
    )
    command = bench.add_parser(
        "learner",
        help="agents trained as one program, beside the plain loop",
        description="Agent-steps per second of packs of several widths, beside one agent in a plain PyTorch loop.",
    )
    command.add_argument("--algorithm", default="lom", help="such as td3_bc (default: %(default)s)")
    command.add_argument("--members", default="1,4,8", metavar="N,N", help="widths (default: %(default)s)")
    command.add_argument(
        "--precision",
        default="fp32",
        metavar="P,P",
        help="of matrix products: fp32, fp32_onednn, bf16 (default: %(default)s)",
    )
    command.add_argument("--phase", help="phase that trains; default: the last")
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a hyperparameter")
    command.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    _measured(command, runs=5)
    command.set_defaults(run=bench_learner)
    command = bench.add_parser(
        "store",
        help="memory and time of reading a shared data set",
        description="Growth of all processes' memory per process that reads a data set from the replay store (shared"
        " pages counted once), times of put and get, and random batches beside those of a private array. Linux only.",
    )
    command.add_argument("--megabytes", type=int, default=400, metavar="N", help="size (default: %(default)s)")
    command.add_argument("--processes", type=int, default=4, metavar="N", help="readers (default: %(default)s)")
    _measured(command, runs=5)
    command.set_defaults(run=bench_store)
    command = bench.add_parser(
        "evaluation",
        help="how fast policies are played, and what it costs the training beside it",
        description="Environment steps per second of HalfCheetah, and the speed of training with and without an actor"
        " that evaluates beside it.",
    )
    command.add_argument("--algorithm", default="td3_bc", help="such as lom (default: %(default)s)")
    command.add_argument("--members", type=int, default=4, metavar="N", help="policies, and members that train")
    command.add_argument("--episodes", type=int, default=8, metavar="N", help="per evaluation (default: 8)")
    command.add_argument("--threads", type=int, metavar="N", help="of training (default: all cores but one)")
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a hyperparameter")
    _measured(command, runs=5)
    command.set_defaults(run=bench_evaluation)
    command = bench.add_parser(
        "sweep",
        help="a whole sweep, beside one process per run",
        description="The same runs of TD3+BC on a toy data set as one Tune trial each with the plain loop, and as"
        " raymix's own sweep: wall-clock with all that belongs to it, memory and core-hours. Memory on Linux only.",
    )
    command.add_argument("--configurations", type=int, default=16, metavar="N", help="default: %(default)s")
    command.add_argument("--seeds", type=int, default=4, metavar="N", help="of each (default: %(default)s)")
    command.add_argument("--steps", type=int, default=1_000, metavar="N", help="of each (default: %(default)s)")
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a hyperparameter")
    _measured(command, runs=3)
    command.set_defaults(run=bench_sweep)
    command = bench.add_parser(
        "search",
        help="searchers and schedulers on a surface whose best point is known; trains nothing",
        description="Random search, Sobol points, TPE and a Gaussian process, each without early stopping, with"
        " raymix's halving and with Tune's ASHA, on simulated learning curves with noise: the best configuration found"
        " against the agent-steps spent. And how often the truly best of 27 configurations is trained to the end, where"
        " better ones arrive first, last or by chance. The decisions are the real code's; takes minutes.",
    )
    command.add_argument(
        "--samplers", default="random,qmc,tpe,gp", metavar="S,S", help="which (default: %(default)s; gp is the slowest)"
    )
    command.add_argument("--repeats", type=int, default=20, metavar="N", help="of each search (default: %(default)s)")
    command.add_argument(
        "--slow-repeats", type=int, default=5, metavar="N", help="of those by the Gaussian process (default: 5)"
    )
    command.add_argument(
        "--order-repeats", type=int, default=200, metavar="N", help="of the 27 configurations (default: %(default)s)"
    )
    command.add_argument(
        "--trials", type=int, default=24, metavar="N", help="budget, in whole trials (default: %(default)s)"
    )
    command.add_argument("--workers", type=int, default=4, metavar="N", help="trials at once (default: %(default)s)")
    command.add_argument("--figure", metavar="FILE.png", help="draw the result")
    command.add_argument("--json", action="store_true", help="print JSON and nothing else")
    command.set_defaults(run=bench_search)


def _measured(command: argparse.ArgumentParser, runs: int) -> None:
    """The options that every benchmark takes."""
    command.add_argument(
        "--runs", type=int, default=runs, metavar="N", help="to take medians of (default: %(default)s)"
    )
    command.add_argument("--json", action="store_true", help="print JSON and nothing else")


def bench_learner(options: argparse.Namespace) -> None:
    """`raymix bench learner`."""
    from raymix.bench import learner
    from raymix.plan import setting
    from raymix.train import require_device

    require_device(options.device)
    widths = options.members.split(",")
    if not all(width.strip().isdigit() and int(width) > 0 for width in widths) or options.runs < 1:
        raise UsageError(
            f"--members takes positive whole numbers such as 1,4,8 and --runs one, not {options.members!r} and"
            f" {options.runs}"
        )
    result = learner.measure(
        options.algorithm,
        sorted({int(width) for width in widths}),
        options.phase,
        options.device,
        dict(setting(text) for text in options.set),
        options.runs,
        precisions=[precision.strip() for precision in options.precision.split(",")],
        progress=to_stderr,
    )
    print(json.dumps(result) if options.json else learner.table(result))


def bench_store(options: argparse.Namespace) -> None:
    """`raymix bench store`."""
    from raymix.bench import store

    require_positive(options, "megabytes", "processes", "runs")
    result = store.measure(options.megabytes, options.processes, options.runs, to_stderr)
    print(json.dumps(result) if options.json else store.table(result))


def bench_evaluation(options: argparse.Namespace) -> None:
    """`raymix bench evaluation`."""
    from raymix.bench import evaluation
    from raymix.plan import setting

    require_positive(options, "members", "episodes", "runs", *(["threads"] if options.threads is not None else []))
    result = evaluation.measure(
        options.algorithm,
        options.members,
        options.episodes,
        options.runs,
        threads=options.threads,
        settings=dict(setting(text) for text in options.set),
        progress=to_stderr,
    )
    print(json.dumps(result) if options.json else evaluation.table(result))


def bench_sweep(options: argparse.Namespace) -> None:
    """`raymix bench sweep`."""
    from raymix.bench import sweep
    from raymix.plan import setting

    require_positive(options, "configurations", "seeds", "steps", "runs")
    result = sweep.measure(
        options.configurations,
        options.seeds,
        options.steps,
        options.runs,
        dict(setting(text) for text in options.set),
        progress=to_stderr,
    )
    print(json.dumps(result) if options.json else sweep.table(result))


def bench_search(options: argparse.Namespace) -> None:
    """`raymix bench search`."""
    from raymix.bench import search

    require_positive(options, "repeats", "slow_repeats", "order_repeats", "trials", "workers")
    samplers = [name.strip() for name in options.samplers.split(",")]
    if not set(samplers) <= set(search.SAMPLED):
        raise UsageError(f"--samplers takes some of {','.join(search.SAMPLED)}, not {options.samplers!r}")
    result = search.measure(
        options.repeats,
        options.slow_repeats,
        options.trials,
        options.workers,
        options.order_repeats,
        list(dict.fromkeys(samplers)),
        to_stderr,
    )
    if options.figure:
        try:
            search.figure(result, options.figure)
        except OSError as problem:
            raise UsageError(
                f"cannot write {options.figure}: {problem.strerror or problem}; give another file"
            ) from problem
    print(json.dumps(result) if options.json else search.table(result))


def require_positive(options: argparse.Namespace, *names: str) -> None:
    """Refuse options that are numbers below 1."""
    for name in names:
        if getattr(options, name) < 1:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} takes a positive whole number, not {getattr(options, name)}")


def to_stderr(line: str) -> None:
    """Progress of a benchmark, for people."""
    print(line, file=sys.stderr)

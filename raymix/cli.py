"""The command `raymix`: thin, everything it does can be called from Python."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import raymix
from raymix import data_command, jobs_command
from raymix.dash import DEFAULT_PORT
from raymix.files import write_atomically
from raymix.remote import StoreError
from raymix.types import Interrupted, SweepFailed, UsageError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. Exits with 0, 1 (failed) or 2 (bad usage)."""
    options = parser().parse_args(arguments)
    try:
        with _notes():
            options.run(options)
    except UsageError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    except StoreError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(1)
    except (Interrupted, SweepFailed, KeyboardInterrupt) as stop:
        print(str(stop) or "Stopped.", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stderr.close()
        sys.exit(1)


@contextlib.contextmanager
def _notes() -> Iterator[None]:
    """Show raymix's warnings as sentences: the line of code that gave them tells a user nothing."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message: Any, category: Any, *place: Any, **more: Any) -> None:
            if category is UserWarning:
                print(f"note: {message}", file=sys.stderr)
            else:
                show(message, category, *place, **more)

        warnings.showwarning = note  # type: ignore[assignment]
        yield


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    result = argparse.ArgumentParser(prog="raymix", description=raymix.__doc__)
    result.add_argument("--version", action="version", version=f"raymix {raymix.__version__}")
    commands = result.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("algorithms", help="the algorithms and their hyperparameters")
    command.add_argument("name", nargs="?", help="show this one's hyperparameters, presets and paper")
    command.add_argument("--json", action="store_true", help="print JSON: a list of name, paper, fields")
    command.set_defaults(run=algorithms)

    data_command.add_to(commands)

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

    command = commands.add_parser(
        "reproduce",
        help="rebuild a table or figure of a paper",
        description="Run what a table or figure of a paper needs, and print it beside the published numbers.",
    )
    command.add_argument("name", nargs="?", help="such as lom-table2; --list names them all")
    command.add_argument("--list", action="store_true", help="name all reproductions, with what they show")
    command.add_argument("--storage", metavar="DIR", help="folder of the runs, or s3://bucket/runs (default: runs)")
    command.add_argument(
        "--variant", help="another task of the same table (lom-table2: push, pick; dmpo-fig4: a data set)"
    )
    command.add_argument("--resume", metavar="DIR", help="go on with the run in this folder")
    command.add_argument("--address", metavar="ADDRESS", help="run on a Ray cluster: auto, or HOST:PORT")
    command.add_argument("--eager", action="store_true", help="do not compile the training step")
    command.add_argument("--json", action="store_true", help="print JSON and nothing else")
    command.set_defaults(run=reproduce)

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

    command = commands.add_parser("report", help="the table and figure of a run, from its ledger alone")
    command.add_argument(
        "folder", nargs="+", help="a run, or the storage folder of runs (then the newest); several share one table"
    )
    command.add_argument("--csv", metavar="FILE", help="write the wide table: each choice of checkpoint, differences")
    command.add_argument("--latex", metavar="FILE", help="the same as LaTeX")
    command.add_argument(
        "--html",
        metavar="FILE",
        help="write one interactive page: decision, curves, hyperparameters, cost; opens offline",
    )
    command.add_argument("--baseline", metavar="NAME", help="differences from this algorithm or config_id")
    command.add_argument(
        "--paper",
        metavar="NAME",
        help="instead, our numbers next to the published ones of lom, lapo, lbrac_v, td3_rkl, dmpo or all",
    )
    command.add_argument("--keep-going", action="store_true", help="leave out damaged parts of ledgers, and name them")
    command.add_argument(
        "--select", help="last, mean_last_3, or best (an oracle); default: what the run was started with"
    )
    command.add_argument(
        "--metric", help="return, normalized_score or held_out/NAME; default: what the run was started with"
    )
    command.add_argument(
        "--embeddings", action="store_true", help="instead, figures of learned trajectory embeddings (lbrac_v)"
    )
    command.add_argument(
        "--figures",
        metavar="FOLDER",
        help="instead, write there the papers' figures that these runs can give: scores and curves from ledgers, the"
        " rest (modes, weights, Bellman errors, sub-policies, embeddings) from checkpoints too",
    )
    command.add_argument(
        "--optuna", metavar="FILE", help="instead, a search's studies as a journal that optuna-dashboard opens"
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=report)

    command = commands.add_parser(
        "dash",
        help="watch runs live in a browser",
        description="A page of the runs in a storage folder, from their ledgers alone: while they train, after, and of"
        " a copied folder. Beyond loopback it needs Ray's token, and what it sends is not encrypted: where the network"
        " is not trusted, use `ssh -L` instead.",
    )
    command.add_argument("folder", nargs="?", help="the storage folder of runs, or a run (default: runs)")
    command.add_argument(
        "--port", type=int, default=DEFAULT_PORT, metavar="N", help="0: any free one (default: %(default)s)"
    )
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    command.set_defaults(run=dash)

    command = commands.add_parser(
        "grafana",
        help="the Grafana board of a running sweep",
        description="Print a Grafana board of raymix's gauges, for Dashboards > New > Import; or write it into the"
        " folder from which Grafana takes its boards. For a Grafana that was set up as Ray's manual says, that is"
        " /tmp/ray/session_latest/metrics/grafana/dashboards, or $RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR as it was"
        " when Ray started. Prometheus collects the gauges from Ray's nodes with the rest of Ray's metrics (`ray"
        " metrics launch-prometheus` starts one).",
    )
    command.add_argument("folder", nargs="?", metavar="DIR", help="write raymix_grafana_dashboard.json there")
    command.set_defaults(run=grafana)

    command = commands.add_parser(
        "compare",
        help="two runs, configuration by configuration",
        description="Differences (B - A) with 95 % intervals between configurations of the same algorithm, data set and"
        " hyperparameters; seeds are paired where both runs have them.",
    )
    command.add_argument("a", metavar="A", help="a run, or the storage folder of runs (then the newest)")
    command.add_argument("b", metavar="B", help="the other run")
    command.add_argument("--select", help="last, mean_last_3, or best (an oracle); default: as the runs were started")
    command.add_argument("--metric", help="return, normalized_score or held_out/NAME; default: as they were started")
    command.add_argument("--keep-going", action="store_true", help="leave out damaged parts of ledgers, and name them")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=compare)

    command = commands.add_parser(
        "export",
        help="a trained policy as one file that needs no raymix",
        description="Write a run's policy as TorchScript, with its normalisation and the action box inside, and a JSON"
        " card that says what it is: data set and hash, configuration, scores, versions.",
    )
    command.add_argument("folder", help="a run, or the storage folder of runs (then the newest)")
    command.add_argument("--config", metavar="ID", help="of the configuration (default: that of the best mean score)")
    command.add_argument("--seed", type=int, metavar="N", help="whose policy (default: that of the best score)")
    command.add_argument("--out", metavar="FILE.pt", help="default: exported/best.pt in the run's folder")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=export)

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
    command.set_defaults(run=play)

    jobs_command.add_to(commands)
    return result


def export(options: argparse.Namespace) -> None:
    """`raymix export DIR`."""
    from raymix.export import export as write_policy

    done = write_policy(options.folder, options.out, options.config, options.seed)
    if options.json:
        print(json.dumps({"policy": done.policy, "card": done.card, **done.facts}))
        return
    facts = done.facts
    score = f"{facts['metric_in_words']} {facts['score']:.4g}"
    print(f"{facts['algorithm']} on {facts['dataset']}, seed {facts['seed']}, {score}")
    print(f"chosen from {facts['chosen_from']}\npolicy  {done.policy}\ncard    {done.card}\nuse     {facts['usage']}")


def play(options: argparse.Namespace) -> None:
    """`raymix play FILE`."""
    from raymix import play_command

    play_command.run(options)


def _measured(command: argparse.ArgumentParser, runs: int) -> None:
    """The options that every benchmark takes."""
    command.add_argument(
        "--runs", type=int, default=runs, metavar="N", help="to take medians of (default: %(default)s)"
    )
    command.add_argument("--json", action="store_true", help="print JSON and nothing else")


def algorithms(options: argparse.Namespace) -> None:
    """`raymix algorithms [NAME]`."""
    from raymix.algorithms import base

    names = [options.name] if options.name else base.names()
    found = [(name, base.find(name)) for name in names]
    if options.json:
        rows = [
            {
                "name": name,
                "paper": algorithm.paper,
                "summary": summary_of(algorithm),
                "phases": [phase.name for phase in algorithm.phases],
                "presets": {preset: dict(values) for preset, values in algorithm.presets.items()},
                "fields": algorithm.Config.describe(),
            }
            for name, algorithm in found
        ]
        print(json.dumps(rows))
        return
    if not options.name:
        width = max(map(len, names))
        for name, algorithm in found:
            print(f"{name:{width}}  {summary_of(algorithm)}\n{'':{width}}  {algorithm.paper}")
        print("\nHyperparameters of one: raymix algorithms NAME")
        return
    ((name, algorithm),) = found
    print(f"{name}: {summary_of(algorithm)}\n{algorithm.paper}\n")
    for line in preset_lines(algorithm.presets):
        print(line)
    print()
    fields = algorithm.Config.describe()
    width = max(len(f"{field['name']}={shown(field['default'])}") for field in fields)
    for field in fields:
        setting = f"{field['name']}={shown(field['default'])}"
        print(f"{setting:{width}}  {field['kind']:9}  {field['help']}")


def summary_of(algorithm: Any) -> str:
    """The first line of its docstring."""
    return (type(algorithm).__doc__ or "").strip().splitlines()[0]


def shown(value: Any) -> str:
    """A value as `--set` takes it."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


FEWEST_IN_TABLE = 4
"""Presets of the same fields that share a table instead of taking a line each."""


def preset_lines(presets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line per preset; many that set the same fields are a table of those in which they differ."""
    groups: dict[frozenset[str], list[str]] = {}
    for preset, values in presets.items():
        groups.setdefault(frozenset(values), []).append(preset)
    lines, tables = [], []
    for group in groups.values():
        if len(group) < FEWEST_IN_TABLE:
            lines += [f"preset {preset}: {_assignments(presets[preset])}" for preset in group]
            continue
        first = presets[group[0]]
        shared = {name: value for name, value in first.items() if all(presets[one][name] == value for one in group)}
        fields = [name for name in first if name not in shared]
        rows = [["preset", *fields], *([one, *(shown(presets[one][name]) for name in fields)] for one in group)]
        widths = [max(map(len, column)) for column in zip(*rows)]
        tables += ["", *("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)]
        tables += [f"all of these with {_assignments(shared)}"] if shared else []
    return lines + tables


def _assignments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={shown(value)}" for name, value in values.items())


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


def reproduce(options: argparse.Namespace) -> None:
    """`raymix reproduce NAME` and `raymix reproduce --list`."""
    from raymix.reproduce import base

    if options.list:
        titles = {name: (base.find(name).__doc__ or "").splitlines()[0] for name in base.names()}
        if options.json:
            print(json.dumps([{"name": name, "title": title} for name, title in titles.items()]))
            return
        for name, title in titles.items():
            print(f"{name:{max(map(len, titles))}}  {title}")
        return
    if not options.name:
        raise UsageError(f"name a reproduction; there are: {', '.join(base.names())}")
    if options.resume:
        refuse_beside_resume(options, "storage")
    capture = "eager" if options.eager else "auto"
    found = base.find(options.name)
    if options.variant and not hasattr(found, "VARIANTS"):
        raise UsageError(f"{options.name} has no variants; leave out --variant")
    how = base.Options(
        options.storage or DEFAULT_STORAGE, options.address, options.resume, options.variant, options.json, capture
    )
    outcome = found.reproduce(how)
    if options.json:
        print(json.dumps({"text": outcome.text, "files": list(outcome.files)}))
        return
    print(f"\n{outcome.text}\n")
    for file in outcome.files:
        print(file)


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


DEFAULT_STORAGE = "runs"


def refuse_beside_resume(options: argparse.Namespace, *names: str) -> None:
    """A resumed run keeps what it was started with: anything else asked for is refused, not ignored."""
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name)]
    if given:
        raise UsageError(
            f"a resumed run keeps the settings it was started with; leave out {' '.join(given)}, or start a new run"
        )


def report(options: argparse.Namespace) -> None:
    """`raymix report DIR`."""
    if options.paper is not None:
        paper_report(options)
        return
    if sum(map(bool, (options.embeddings, options.figures, options.optuna))) > 1:
        raise UsageError("--embeddings, --figures and --optuna each write something else; ask for one of them")
    if options.figures:
        paper_figures(options)
        return
    if options.embeddings:
        embeddings(options)
        return
    if options.optuna:
        studies(options)
        return
    if any((len(options.folder) > 1, *(getattr(options, name) for name in WIDE))):
        wide_report(options)
        return
    from raymix.report import write_report

    show(write_report(options.folder[0], select=options.select, metric=options.metric), options.json)


def grafana(options: argparse.Namespace) -> None:
    """`raymix grafana [DIR]`."""
    from importlib import resources

    board = resources.files("raymix.watching").joinpath("grafana.json").read_text()
    if options.folder is None:
        print(board, end="")
        return
    path = os.path.join(options.folder, "raymix_grafana_dashboard.json")
    try:
        write_atomically(path, board)
    except OSError as problem:
        raise UsageError(
            f"cannot write {path} ({problem.strerror}); give a folder that is there, or none to print the board"
        ) from problem
    print(path)


def dash(options: argparse.Namespace) -> None:
    """`raymix dash [DIR]`."""
    from raymix.dash.server import serve

    serve(options.folder or DEFAULT_STORAGE, options.host, options.port)


WIDE = ("csv", "latex", "html", "baseline", "keep_going")
"""Options of `raymix report` that ask for the report of several runs."""


def wide_report(options: argparse.Namespace) -> None:
    """`raymix report DIR... [--csv FILE] [--latex FILE] [--html FILE] [--baseline NAME] [--keep-going]`."""
    from raymix.report import SELECT, comparison, metric_in_words, sensitivity
    from raymix.report.runs import missing, read_runs

    runs = read_runs(options.folder, options.select, options.metric, options.keep_going)
    frame = comparison.wide_table(runs, options.baseline)
    if options.csv:
        _write(options.csv, frame.to_csv(index=False))
    if options.latex:
        _write(options.latex, comparison.to_latex(frame))
    if options.html:
        from raymix.report.page import write_page

        write_page(runs, options.html, options.baseline)
    notes = [*runs.notices, *missing(runs)]
    if options.json:
        print(frame.to_json(orient="records"))
        print("\n".join(notes), end="\n" if notes else "", file=sys.stderr)
        return
    print(f"{metric_in_words(runs.metric)}; intervals and differences {SELECT[runs.select]}\n")
    print("\n".join([comparison.render(frame), *([""] if notes else []), *notes]))
    for title, more in (
        ("interquartile mean over all data sets", comparison.aggregate_table(runs)),
        (
            "expected score of what is deployed after n evaluations (the best by one seed, scored by the others)",
            comparison.online_table(runs),
        ),
    ):
        if len(more):
            print(f"\n{title}\n\n{comparison.render(more)}")
    if lines := sensitivity.sentences(runs):
        print("\n" + "\n".join(lines))
    if options.html:
        print(f"\npage    {options.html}")


def paper_report(options: argparse.Namespace) -> None:
    """`raymix report DIR... --paper NAME [--csv FILE] [--json] [--select RULE] [--keep-going]`."""
    from raymix.report import beside_papers
    from raymix.report.published import published
    from raymix.report.runs import missing, read_runs

    published(options.paper)  # a wrong name is told before ledgers are read
    for name in ("latex", "html", "baseline", "metric", "embeddings", "figures", "optuna"):
        if getattr(options, name):
            raise UsageError(
                f"--{name} does not go with --paper, which takes --csv, --json, --select and --keep-going; leave one"
                " of them out"
            )
    runs = read_runs(options.folder, options.select, "return", options.keep_going)
    frame = beside_papers.paper_table(runs, options.paper)
    if options.csv:
        _write(options.csv, frame.to_csv(index=False))
    notes = [*runs.notices, *missing(runs), *beside_papers.unmatched(runs, frame)]
    if options.json:
        print(frame.to_json(orient="records"))
        print("\n".join(notes), end="\n" if notes else "", file=sys.stderr)
        return
    print("\n".join([beside_papers.render(frame, runs.select), *([""] if notes else []), *notes]))


def _write(path: str, text: str) -> None:
    from raymix.files import write_atomically

    try:
        write_atomically(path, text)
    except OSError as problem:
        raise UsageError(f"cannot write {path}: {problem.strerror or problem}; give another file") from problem


def compare(options: argparse.Namespace) -> None:
    """`raymix compare A B`."""
    from raymix.report import SELECT, comparison, metric_in_words
    from raymix.report.runs import read_runs

    one, other = (
        read_runs([folder], options.select, options.metric, options.keep_going) for folder in (options.a, options.b)
    )
    frame, words = comparison.compare(one, other)
    words = [*one.notices, *other.notices, *words]
    if options.json:
        print(frame.to_json(orient="records"))
        print("\n".join(words), end="\n" if words else "", file=sys.stderr)
        return
    print(f"{metric_in_words(one.metric)}, {SELECT[one.select]}\na  {one.folders[0]}\nb  {other.folders[0]}\n")
    print("\n".join([comparison.render(frame), *([""] if words else []), *words]))


def embeddings(options: argparse.Namespace) -> None:
    """`raymix report DIR --embeddings`."""
    from raymix.report.embeddings import write_embedding_figures

    if options.select or options.metric:
        raise UsageError("embeddings have no scores to choose from; leave out --select and --metric")
    if any((len(options.folder) > 1, *(getattr(options, name) for name in WIDE))):
        named = ", ".join(f"--{name.replace('_', '-')}" for name in WIDE)
        raise UsageError(f"embeddings are those of one run; give one folder, and no {named}")
    paths = write_embedding_figures(options.folder[0])
    print(json.dumps({"figures": paths}) if options.json else "\n".join(f"figure  {path}" for path in paths))


def paper_figures(options: argparse.Namespace) -> None:
    """`raymix report DIR... --figures FOLDER [--select RULE] [--metric NAME] [--keep-going]`."""
    from raymix.paper_figures.write import write_figures

    others = [name for name in WIDE if name != "keep_going"]
    if any(getattr(options, name) for name in others):
        raise UsageError(
            f"--figures goes with --select, --metric, --keep-going and --json, not with"
            f" {', '.join(f'--{name}' for name in others)}; leave one out"
        )
    done = write_figures(
        options.folder, options.figures, options.select, options.metric, options.keep_going, progress=_drawing
    )
    if options.json:
        written = [{"path": path, "stands_for": words} for path, words in done.written]
        print(json.dumps({"figures": written, "lacking": done.lacking, "notices": done.notices}))
        return
    widest = max((len(path) for path, _ in done.written), default=0)
    print("\n".join(f"figure  {path:{widest}}  {words}" for path, words in done.written))
    for line in (*done.lacking, *done.notices):
        print(f"missing {line}")


def _drawing(name: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[Kdrawing {name}", end="\r", file=sys.stderr, flush=True)


def studies(options: argparse.Namespace) -> None:
    """`raymix report DIR --optuna FILE`."""
    from raymix.report.journal import write_journal

    others = ("select", "metric", *WIDE)
    if len(options.folder) > 1 or any(getattr(options, name) for name in others):
        raise UsageError(
            "studies are those of one run, by its own metric; give one folder, and beside --optuna only --json"
        )
    names = write_journal(options.folder[0], options.optuna)
    told = {"journal": options.optuna, "studies": names}
    print(json.dumps(told) if options.json else "\n".join(["studies", *names, f"journal  {options.optuna}"]))


def show(result: Any, as_json: bool) -> None:
    """Print a `raymix.report.Report`."""
    if as_json:
        from raymix.report.tables import records

        print(json.dumps({"run": result.run_dir, "rows": records(result.frame)}))
        return
    print(f"\n{result.text}\n")
    print(f"table   {result.csv}\nfigure  {result.png}\nledger  {result.run_dir}/ledger")

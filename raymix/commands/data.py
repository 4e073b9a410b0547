"""The commands `raymix data ...`: thin, everything they do can be called from Python."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from raymix.files import write_atomically
from raymix.types import Dataset, UsageError
from raymix.waiting import shown


def add_to(commands: Any) -> None:
    """Add `data` and its actions to the commands of `raymix`."""
    data = commands.add_parser("data", help="list, make or describe data sets").add_subparsers(
        required=True, metavar="ACTION"
    )
    command = data.add_parser("list", help="data sets that can be named here")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=list_known)
    command = data.add_parser(
        "make",
        help="make a data set of raymix's own, once, or keep a mixture as a data set",
        description="Make a data set of raymix's own and keep it as a Minari data set, as its first use would. With"
        " --keep, build any data set, such as a mixture, and keep its rows in raymix's library: from then on they are"
        " read from their file, which nothing copies, also where they are too many for Ray's object store. They may be"
        " more than fit into memory; while they are made, the disk needs room for them twice.",
    )
    command.add_argument("name", help="such as fetchreach-multigoal, or a mixture such as 'a + b'")
    command.add_argument("--keep", metavar="NAME", help="keep it in the library under this name, such as hopper/mixed")
    command.add_argument("--overwrite", action="store_true", help="replace a data set of that name")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=make, html=None)
    command = data.add_parser(
        "info",
        help="what is in a data set: sizes, returns, ends, saturated actions, duplicates",
        description="What is in a data set: sizes and spaces, lengths of episodes and how they end, returns of each"
        " source, rewards, the share of action entries at their box's edges, transitions that repeat another, and"
        " columns that never change.",
    )
    command.add_argument("name", help="a short name, a Minari id, or a mixture such as 'a + b'")
    command.add_argument("--html", metavar="FILE", help="also write a page with figures; it needs no other file")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=info)
    command = data.add_parser(
        "modes",
        help="is a data set multi-modal, and at which share of its states?",
        description="Fits mixtures of 1, 2, 5, 10 and 20 Gaussians to the actions of most episodes, asks held-out"
        " episodes how likely each makes their actions, and counts the separate modes of the smallest one that loses"
        " nothing. A mode here is of one state: where each source visits states of its own, two sources are one mode"
        " each. Actions nearer than about a tenth of their box are one. What the box cuts off is taken for what it"
        " would have been without: a policy that saturates at the box's edge is one mode, and so is one that spreads"
        " over both edges and all between. Modes at a few steps in hundreds are seen at the starts of episodes only."
        " Needs 10 episodes.",
    )
    command.add_argument("name", help="a short name, a Minari id, or a mixture such as 'a + b'")
    command.add_argument("--seeds", type=int, default=3, metavar="N", help="networks per size (default: %(default)s)")
    command.add_argument("--steps", type=int, default=3_000, metavar="N", help="of training (default: %(default)s)")
    command.add_argument("--html", metavar="FILE", help="also write a page with figures; it needs no other file")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=modes)
    _add_files_to(data)
    _add_collect(data)
    _add_train_sources(data)


def _add_collect(data: Any) -> None:
    command = data.add_parser(
        "collect",
        help="play policies in an environment and keep what they did as a data set",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Play behaviour policies in an environment, on all cores, and keep their episodes in raymix's library.

  raymix data collect Hopper-v5 --policy random --transitions 100000
  raymix data collect Hopper-v5 --name hopper/mixed --transitions 1000000 \\
      --policy expert=sac.zip,noise=0.1 --policy half=sac.zip,random=0.3 --policy random

A policy is [NAME=]POLICY[,OPTION...], where POLICY is one of

  random           uniform in the action box
  PATH.zip         an agent of Stable-Baselines3 (SAC, TQC, TD3, DDPG, PPO, A2C, TRPO, ARS). Only its weights are read
                   and no code in it is run, so Stable-Baselines3 need not be installed. It samples its actions;
                   option deterministic: its modes. An agent that was trained with VecNormalize needs the option
                   normalize=vecnormalize.pkl, of which the numbers alone are read.
  PATH.pt          a TorchScript file that maps (B, S) float32 to (B, A). Such a file holds code, which is run: take it
                   only from people whom you trust. Its random numbers are torch's, seeded by raymix.
  MODULE:FUNCTION  your code: FUNCTION is called once in each worker, with the options KEY=TEXT as its arguments, and
                   gives a function (observations, step, generator) -> actions; observations (B, S) float32, step the
                   time in B episodes side by side, generator NumPy's, for all that is random in it.

and the options for all are noise=SIGMA (N(0, SIGMA) on every number of an action, in the environment's units) and
random=P (with probability P a uniform action instead); noise=0|0.1|0.3 is a ladder, a source for each value. Actions
are cut to the environment's box.

Each policy makes an equal part of the transitions, in whole episodes; only its last is cut, where its part is full,
which counts as a timeout. The data set follows from the environment, the policies, the number and the seed: it is the
same for any number of workers. What each policy was and earned is kept with it.""",
    )
    command.add_argument("environment", metavar="ENV", help="Gymnasium id, such as Hopper-v5")
    command.add_argument(
        "--policy", action="append", required=True, metavar="POLICY", help="see above; may be repeated"
    )
    command.add_argument("--transitions", type=int, required=True, metavar="N", help="in all, equal parts per policy")
    command.add_argument("--name", help="of the data set (default: such as hopper/expert-random)")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="of everything (default: %(default)s)")
    command.add_argument(
        "--observations", metavar="RULE", help="of dictionaries: all, no-goal, no-achieved or observation"
    )
    command.add_argument("--workers", type=int, metavar="W", help="processes of one core each (default: all cores)")
    _played(command)
    command.set_defaults(run=collect)


def _add_train_sources(data: Any) -> None:
    command = data.add_parser(
        "train-sources",
        help="train k SAC agents and collect a data set from each, for the mixtures heterogeneous-1..k",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Train k agents by SAC (Stable-Baselines3, its defaults) that differ in their seeds 0..k-1 only, and collect a data set
from each: the sources of LBRAC-v's heterogeneous-k, which is the first k of them in equal shares.

  raymix data train-sources Hopper-v5 -k 5

writes into raymix's library

  hopper/source-1 ... hopper/source-5    the data; source-i has N/i transitions, its share of heterogeneous-i
  hopper/policies/*.zip                  the agents, one for each environment, number of steps and seed

Needs `pip install 'raymix[sb3]'`. An agent takes one core and makes about 80 steps a second on it (Hopper-v5 on a
server's core), so that 500,000 steps last 1.7 hours, and those of five agents on two cores 5 hours. What is there
already, agents and data, is not made again: repeat the command after an interrupt (an agent that was in training
starts over), or with a larger k.""",
    )
    command.add_argument("environment", metavar="ENV", help="Gymnasium id, such as Hopper-v5")
    command.add_argument("-k", type=int, default=5, metavar="K", help="agents (default: %(default)s)")
    command.add_argument(
        "--steps",
        type=int,
        default=500_000,
        metavar="N",
        help="of each agent in its environment (default: %(default)s)",
    )
    command.add_argument(
        "--transitions", type=int, default=1_000_000, metavar="N", help="of each heterogeneous-i (default: %(default)s)"
    )
    _played(command)
    command.set_defaults(run=train_sources)


def _played(command: Any) -> None:
    """The options of what plays in an environment and keeps it."""
    command.add_argument("--overwrite", action="store_true", help="replace other data sets of these names")
    command.add_argument(
        "--address",
        metavar="ADDRESS",
        help="run on a Ray cluster: auto, or HOST:PORT; the policies' files must be at the same place on its nodes",
    )
    command.add_argument(
        "--reference-scores",
        type=float,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="mean returns that score 0 and 100 (default: D4RL's of that task, if it has one)",
    )
    command.add_argument("--json", action="store_true", help="print JSON and nothing else")


def list_known(options: argparse.Namespace) -> None:
    """`raymix data list`."""
    from raymix.data import catalog

    rows = catalog.known()
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        size = f"{row['transitions']:,} transitions" if row["transitions"] else "made on first use"
        short = f" ({row['short_name']})" if row["short_name"] else ""
        print(f"{row['name']}{short}\n    {size}; {row['description']}")


def make(options: argparse.Namespace) -> None:
    """`raymix data make NAME`."""
    import dataclasses

    from raymix.data import library
    from raymix.run_folder import load_dataset

    if options.keep is None:
        info(options)
        return
    path = _require_free(options.keep, options.overwrite, "--keep")
    # On the disk it is in the file that it is made in and in the one that it is kept in.
    made = load_dataset(options.name, quiet=options.json, copies=2)
    dataset = dataclasses.replace(made, spec=dataclasses.replace(made.spec, name=options.keep))
    origin = {"recipe": made.spec.name}
    library.save(dataset, origin)
    if options.json:
        print(json.dumps({**dataset.spec.to_dict(), "path": str(path), "origin": origin}))
        return
    print(f"{_kept(dataset, path)}\nMade of {origin['recipe']}.")


def info(options: argparse.Namespace) -> None:
    """`raymix data info NAME`, and what `raymix data make NAME` shows."""
    from raymix.data import describe, library
    from raymix.run_folder import load_dataset

    if options.html:
        check_page(options.html)
    dataset = load_dataset(options.name, quiet=options.json)
    facts = describe.describe(dataset)
    if options.html:
        from raymix.report import dataset_page

        write_atomically(options.html, dataset_page.info_page(dataset, facts))
    made = library.origin(options.name) if library.holds(options.name) else None
    if options.json:
        print(json.dumps({**facts, "origin": made}))
        return
    print(describe.text(facts))
    if made and "recipe" in made:
        print(f"Made of {made['recipe']}.")
    for source in made.get("sources", ()) if made else ():
        shown = [f"{key} {source[key]}" for key in ("noise", "random", "deterministic") if source[key]]
        print(f"{source['name']}: {', '.join([os.path.basename(source['policy']), *shown])}; {earned(source)}")


def modes(options: argparse.Namespace) -> None:
    """`raymix data modes NAME`."""
    from raymix.run_folder import load_dataset

    if options.html:
        check_page(options.html)
    dataset = load_dataset(options.name, quiet=options.json)
    with shown("fitting mixtures", options.json) as tell:
        from raymix import modes  # loads torch, which may take seconds

        result = modes.find_modes(
            dataset, seeds=options.seeds, steps=options.steps, progress=lambda share: tell(share, 1.0)
        )
    if options.html:
        from raymix.report import dataset_page

        write_atomically(options.html, dataset_page.modes_page(result, modes.text(result)))
    print(json.dumps(result) if options.json else modes.text(result))


def _require_free(name: str, overwrite: bool, option: str = "--name") -> Path:
    """Where a data set of that name will be kept; refuses one that is there, and a folder that cannot be written."""
    from raymix.data import library

    path = library.path_of(name)
    if library.holds(name) and not overwrite:
        raise UsageError(f"there is a data set {name!r} already, {path}; give another {option}, or --overwrite it")
    library.require_writable(name)
    return path


def _kept(dataset: Dataset, path: Path) -> str:
    spec = dataset.spec
    return f"{spec.name}: {spec.num_transitions:,} transitions in {spec.num_episodes:,} episodes, in {path}"


def check_page(path: str) -> None:
    """Refuse a page that could not be written, before any work is done for it."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.access(folder, os.W_OK):
        raise UsageError(f"the page {path} cannot be written; name a file in a folder that is there and writable")


_IMPORT = """\
Import files as one data set, which is then known by its name. D4RL's HDF5 files are read as D4RL's qlearning_dataset
reads them; the name of the file tells the task (hopper-medium-v2.hdf5 is played in Hopper-v5). Logs of your own are
Parquet, Arrow IPC or .npz, with one row per transition in the order of time and these columns:

  observations       numbers, seen before acting: lists of one length, an array (N, S), or columns observations.NAME
  actions            numbers, likewise
  rewards            numbers; or give --rewards
  terminals          true where the task ended for good (a time limit is no such end); none if there is no column
  timeouts           optional: true where an episode was cut by a limit
  episode            optional: a number or a text; an episode ends where it changes
  source             optional: a number or a text, who acted in the episode
  next_observations  optional: numbers, seen after acting

One of terminals, timeouts and episode must be there. Without next_observations, the last row of an episode that no
terminal ends gives the last observation and is no transition.
"""
_IMPORT_EXAMPLES = """
examples:
  raymix data import hopper-medium-v2.hdf5
  raymix data import hopper-medium-v2.hdf5 --env Hopper-v4 --name hopper/medium
  raymix data import day1.parquet day2.parquet --name arm/pick --env none --rewards terminal \\
      --column observations=joints,gripper --column episode=run --action-low -1 --action-high 1
"""


def _add_files_to(data: Any) -> None:
    """Add `import`, `export` and `check`."""
    command = data.add_parser(
        "import",
        help="import files: D4RL's HDF5, or logs in Parquet, Arrow IPC or .npz",
        description=_IMPORT,
        epilog=_IMPORT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("file", nargs="+", help="one or more, in order; an episode ends where a file does")
    command.add_argument("--name", help="of the data set; default: the first file's name without its ending")
    command.add_argument("--overwrite", action="store_true", help="replace a data set of that name")
    _add_reading_options(command)
    command.add_argument("--json", action="store_true", help="print the data set's facts as JSON")
    command.set_defaults(run=import_files)

    command = data.add_parser(
        "export",
        help="write a data set as a Minari data set",
        description="Write a data set as a local Minari data set, with its sources, environment and references.",
    )
    command.add_argument("name", help="a data set, such as one that was imported")
    command.add_argument("--minari", required=True, metavar="ID", help="Minari id to write, such as arm/pick-v0")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=export)

    command = data.add_parser(
        "check",
        help="every problem of files or data sets, with its place; exits with 1 if there are any",
        description="Show every problem of files or data sets with file, column and first row. Exits with 0 when they"
        " are clean, with 1 when they are not. Notes, such as constant columns, are no problems.",
    )
    command.add_argument("name", nargs="+", help="files to import, such as logs/*.parquet, or names of data sets")
    _add_reading_options(command)
    command.add_argument("--json", action="store_true", help="print JSON: problems and notes")
    command.set_defaults(run=check)


def _add_reading_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--env",
        metavar="ID",
        help="Gymnasium id to evaluate in, or none; default: what a D4RL file's name tells, else none",
    )
    command.add_argument(
        "--observations",
        metavar="RULE",
        help="of an environment whose observations are dictionaries, the parts that the data hold: all, no-goal,"
        " no-achieved or observation",
    )
    bound = "one number, or one per dimension; default: the environment's, else the data's own range"
    command.add_argument("--action-low", type=float, nargs="+", default=(), metavar="X", help=bound)
    command.add_argument("--action-high", type=float, nargs="+", default=(), metavar="X", help="likewise")
    command.add_argument("--time-limit", type=int, metavar="N", help="steps after which the task is cut")
    command.add_argument(
        "--terminals-at-limit",
        choices=("terminals", "timeouts"),
        help="what terminals at the time limit are: real ends, or cuts by the limit; default: they are refused",
    )
    command.add_argument(
        "--rewards",
        choices=("zero", "terminal"),
        help="instead of the log's own: 0 everywhere, or 1 at terminals and 0 elsewhere (for demonstrations)",
    )
    command.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="NAME=FILE'S,...",
        help="which of a log's columns make up NAME, such as observations=joints,gripper; may be repeated",
    )
    command.add_argument("--ignore-extra", action="store_true", help="leave out columns of other names")


def _reading_options(options: argparse.Namespace) -> Any:
    from raymix.data import files

    return files.Options(
        environment=options.env,
        observations=options.observations,
        action_low=options.action_low,
        action_high=options.action_high,
        time_limit=options.time_limit,
        terminals_at_limit=options.terminals_at_limit,
        rewards=options.rewards,
        columns=files.parse_columns(options.column),
        ignore_extra=options.ignore_extra,
    )


def import_files(options: argparse.Namespace) -> None:
    """`raymix data import FILE...`."""
    from raymix.data import files, library

    reading = _reading_options(options)
    name = options.name or files.default_name(options.file[0])
    path = _require_free(name, options.overwrite)
    with shown(f"reading {name}", options.json, at_once=False) as tell, warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        dataset = files.read(options.file, name, reading, tell)
        library.save(dataset)
    for note in notes:
        print(f"note: {note.message}", file=sys.stderr)
    print(json.dumps({**dataset.spec.to_dict(), "path": str(path)}) if options.json else _kept(dataset, path))


def export(options: argparse.Namespace) -> None:
    """`raymix data export NAME --minari ID`."""
    from raymix.data.export import to_minari
    from raymix.run_folder import load_dataset

    dataset = load_dataset(options.name, quiet=options.json)
    folder = to_minari(dataset, options.minari)
    print(json.dumps({"id": options.minari, "path": str(folder)}) if options.json else f"{options.minari}, in {folder}")


def check(options: argparse.Namespace) -> None:
    """`raymix data check FILE_OR_NAME...`."""
    import dataclasses

    from raymix.data import files, library
    from raymix.data.check import Findings, Problem, find_in_dataset
    from raymix.run_folder import load_dataset

    reading = _reading_options(options)
    rows: dict[str, list[dict[str, Any]]] = {"problems": [], "notes": []}
    for name in options.name:
        if library.holds(name):
            found = files.check_file(library.path_of(name))
        elif files.is_file(name):
            found = files.check_file(name, reading)
        else:
            try:
                found = find_in_dataset(load_dataset(name, quiet=options.json))
            except UsageError as refusal:  # the others are looked at all the same
                found = Findings([Problem(name, str(refusal))])
        rows["problems"] += [dataclasses.asdict(each) for each in found.problems]
        rows["notes"] += [dataclasses.asdict(each) for each in found.notes]
        if options.json:
            continue
        for problem in found.problems:
            print(problem)
        for note in found.notes:
            print(f"note: {note}")
        if not found.problems:
            print(f"{name}: no problems")
    if options.json:
        print(json.dumps(rows))
    if rows["problems"]:
        sys.exit(1)


def collect(options: argparse.Namespace) -> None:
    """`raymix data collect ENV`."""
    from raymix.data import library, policies
    from raymix.data.collect import check_request, default_name
    from raymix.data.collect import collect as play

    sources = [source for text in options.policy for source in policies.ladder(text)]
    check_request(sources, options.transitions, options.seed, options.workers)
    name = options.name or default_name(options.environment, sources)
    path = _require_free(name, options.overwrite)
    with shown(f"collecting {name}", options.json) as tell:
        dataset, origin = play(
            options.environment,
            sources,
            options.transitions,
            name,
            seed=options.seed,
            workers=options.workers,
            address=options.address,
            observations=options.observations,
            reference=options.reference_scores,
            progress=tell,
        )
    library.save(dataset, origin)
    if options.json:
        print(json.dumps({"name": name, "path": str(path), **origin}))
        return
    print(f"{name}: {dataset.spec.num_transitions:,} transitions in {path}")
    for source in origin["sources"]:
        print(f"    {source['name']:16} {earned(source)}")


def train_sources(options: argparse.Namespace) -> None:
    """`raymix data train-sources ENV`."""
    from raymix.data import train_sources as sources

    with shown("training sources", options.json) as tell:
        made = sources.train_sources(
            options.environment,
            options.k,
            steps=options.steps,
            transitions=options.transitions,
            overwrite=options.overwrite,
            address=options.address,
            reference=options.reference_scores,
            progress=lambda label, done, total: tell(done, total, label),
        )
    if options.json:
        print(json.dumps(made))
        return
    for name, origin in made.items():
        print(f"{name:24} {earned(origin['sources'][0])}")


def earned(source: dict[str, Any]) -> str:
    """What a source of a collection made and earned, in words."""
    if not source["episodes"]:
        return f"{source['transitions']:,} transitions of one unfinished episode"
    return (
        f"{source['transitions']:,} transitions, {source['episodes']:,} whole episodes with return"
        f" {source['return_mean']:.1f} ± {source['return_std']:.1f}"
    )

"""The command `raymix report`: tables, figures and pages of runs."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from raymix.commands.shared import show, write
from raymix.types import UsageError


def add_to(commands: Any) -> None:
    """Add the command to those of `raymix`."""
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


WIDE = ("csv", "latex", "html", "baseline", "keep_going")
"""Options of `raymix report` that ask for the report of several runs."""


def wide_report(options: argparse.Namespace) -> None:
    """`raymix report DIR... [--csv FILE] [--latex FILE] [--html FILE] [--baseline NAME] [--keep-going]`."""
    from raymix.report import SELECT, comparison, metric_in_words, sensitivity
    from raymix.report.runs import missing, read_runs

    runs = read_runs(options.folder, options.select, options.metric, options.keep_going)
    frame = comparison.wide_table(runs, options.baseline)
    if options.csv:
        write(options.csv, frame.to_csv(index=False))
    if options.latex:
        write(options.latex, comparison.to_latex(frame))
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
        write(options.csv, frame.to_csv(index=False))
    notes = [*runs.notices, *missing(runs), *beside_papers.unmatched(runs, frame)]
    if options.json:
        print(frame.to_json(orient="records"))
        print("\n".join(notes), end="\n" if notes else "", file=sys.stderr)
        return
    print("\n".join([beside_papers.render(frame, runs.select), *([""] if notes else []), *notes]))


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
    print("\n".join([*(f"missing {line}" for line in done.lacking), *done.notices]))


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

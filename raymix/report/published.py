"""The papers' tables as data, and the one table of correspondence between their names and raymix's.

`published.csv` holds every number of the tables of the five papers. A key is paper, place, dataset, version, method,
preset and unit:

    place       the table of the paper
    dataset     the task, in D4RL's name where it has one
    version     of the data set as the paper says or its authors' code has it; empty where neither does
    method      the paper's name
    preset      raymix's preset with the settings of that row; empty where the paper only compares with the method
    unit        "return", "normalized score", or that of a number which is no score of a run
    mean        as printed
    spread      the number after ±, as printed; `spread_is` says of what, or "not stated"
    seeds       empty where the paper does not say, or quotes the number
    steps       gradient steps of the last phase; empty likewise
    note        what else one should know of the row
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from raymix.data import d4rl_names
from raymix.types import UsageError

PAPERS = {"lom": "LOM", "lapo": "LAPO", "lbrac_v": "LBRAC-v", "td3_rkl": "TD3+RKL", "dmpo": "DMPO"}
"""By the names that the command takes."""
STANDARD_DEVIATION = "standard deviation over seeds"
SCORES = ("return", "normalized score")
"""The units of scores of a run; other numbers have no counterpart in a ledger."""


@dataclass(frozen=True)
class Published:
    """One number of a paper; see the module."""

    paper: str
    place: str
    dataset: str
    version: str
    method: str
    preset: str
    unit: str
    mean: float
    spread: float | None
    spread_is: str
    seeds: int | None
    steps: int | None
    note: str


def published(paper: str = "all") -> list[Published]:
    """The numbers of one paper, or of all, in the order of the tables; a `UsageError` lists the papers there are."""
    if paper != "all" and paper not in PAPERS:
        raise UsageError(f"there is no paper {paper!r}; there are: {', '.join(PAPERS)}, or all")
    return [row for row in _rows() if paper in ("all", row.paper)]


@cache
def _rows() -> tuple[Published, ...]:
    text = resources.files("raymix.report").joinpath("published.csv").read_text(encoding="utf-8")
    cells = csv.DictReader(text.splitlines())
    return tuple(Published(**{name: _read(name, cell) for name, cell in row.items()}) for row in cells)


def _read(name: str, cell: str) -> Any:
    if name in ("mean", "spread"):
        return float(cell) if cell else None
    if name in ("seeds", "steps"):
        return int(cell) if cell else None
    return cell


def _dmpo(information: bool, value_network: bool = False, num_latents: int = 8) -> tuple[str, Mapping[str, Any]]:
    return "dmpo", {"information": information, "value_network": value_network, "num_latents": num_latents}


_LATENT_POLICY = {"latent": "bounded"}
_PRIOR = {"latent": "prior"}
METHODS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "AWAC": ("awac", {}),
    "AWAC-GMM": ("mix_awac", {}),
    "AWAC-Gaussian": ("awac", {}),
    "BC": ("bc", {}),
    "BRAC": ("brac_v", {}),
    "BRAC-v": ("brac_v", {"value_penalty": True}),
    "DMPO": _dmpo(information=False),
    "DMPO-ant": _dmpo(information=False, value_network=True),
    "IQL": ("iql", {}),
    "LAPO": ("lapo", _LATENT_POLICY),
    "LAPO-VAE": ("lapo", _PRIOR),
    "LAPO-latent_policy": ("lapo", _LATENT_POLICY),
    "LBRAC-v": ("lbrac_v", {}),
    "LOM": ("lom", {}),
    "LP-AWAC": ("lp_awac", {}),
    "MDN": ("mdn", {}),
    "OneStep": ("onestep", {}),
    "PLAS": ("plas", _LATENT_POLICY),
    "PLAS-VAE": ("plas", _PRIOR),
    "PLAS-policy": ("plas", _LATENT_POLICY),
    "TD3+BC": ("td3_bc", {}),
    "TD3+RKL": ("td3_rkl", {"bandwidth": 0.0}),
    "TD3BC": ("td3_bc", {}),
    "WCGAN": ("wcgan", {}),
    "WCVAE": ("wcvae", {}),
    "infoDMPO": _dmpo(information=True),
    "infoDMPO-ant": _dmpo(information=True, value_network=True),
    **{f"infoDMPO-Z{count}": _dmpo(information=True, num_latents=count) for count in (4, 8, 16, 32)},
    "mixAWAC": ("mix_awac", {}),
}
"""A paper's method -> raymix's algorithm, and the hyperparameters that make it this method and no variant of it."""


@dataclass(frozen=True)
class Counterpart:
    """The task of a paper that a data set of raymix belongs to."""

    dataset: str
    """`Published.dataset`."""
    version: str
    """Of D4RL's data set, where ours is one and its name says so."""
    caveats: tuple[str, ...]
    comparable: bool
    """Scores are on the paper's scale, so that differences mean something."""


_ORDER_ONLY = "not the paper's goals, episode length and scale: compare the order only"
_OWN = "ours was collected or imported here and need not be D4RL's"
_MINARI = "ours is Minari's, collected anew, not D4RL's"
_MINARI_ENVIRONMENT = "ours is Minari's, for a newer environment than D4RL's"
_REBUILT = "ours is rebuilt, for the paper does not give {}"
DATASETS: tuple[tuple[str, str, str, bool], ...] = (
    (r"mujoco/(hopper|walker2d|halfcheetah)/([\w-]+)-v\d+", r"\1-\2", _MINARI, True),
    (r"D4RL/pointmaze/(\w+)-v\d+", r"maze2d-\1", _MINARI, False),
    (r"D4RL/antmaze/([\w-]+)-v\d+", r"antmaze-\1", _MINARI, False),
    (r"D4RL/kitchen/(\w+)-v\d+", r"kitchen-\1", _MINARI_ENVIRONMENT, True),
    (r"D4RL/(pen|door|hammer|relocate)/(\w+)-v\d+", r"\1-\2", _MINARI_ENVIRONMENT, True),
    (r"raymix/fetchreach-multigoal(?:-\d+)?-v0", "FetchReach-multigoal", _ORDER_ONLY, False),
    (r"raymix/fetchpush-multigoal(?:-\d+)?-v0", "FetchPush-multigoal", _ORDER_ONLY, False),
    (r"raymix/fetchpickandplace-multigoal(?:-\d+)?-v0", "FetchPick-multigoal", _ORDER_ONLY, False),
    (r"toy/navigation-v0", "toy-navigation", _REBUILT.format("its proportions and widths"), True),
    (r"toy/two-goals-v0", "toy-pointmass-two-goals", _REBUILT.format("its geometry and demonstrations"), True),
    (r"(walker2d-mix-\w+)", r"\1", "the paper does not give the returns that it normalizes by", False),
    (r"(hopper|walker2d|halfcheetah)/([\w-]+?)(?:-v\d+)?", r"\1-\2", _OWN, True),
)
"""Our data sets -> the papers': pattern, the task that it stands for, how ours differs, whether scores compare.

Files and data sets under D4RL's own names (`d4rl/hopper-medium-v2`, `hopper_medium-v2.hdf5`), and unweighted mixtures
`hopper-random + hopper-expert` of any of these, are understood by `counterpart`.
"""


def counterpart(dataset: str) -> Counterpart | None:
    """The published task of a data set by our name for it; None where there is none by any known name."""
    if " + " in dataset:
        return _mixture([counterpart(part) for part in dataset.split(" + ")])
    for pattern, task, caveat, comparable in DATASETS:
        if match := re.fullmatch(pattern, dataset):
            return _played(match.expand(task), "", (caveat,), comparable)
    plain = re.sub(r"\.(hdf5|h5)$", "", dataset.rpartition("/")[2].lower().replace("_", "-"))
    if d4rl_names.find(plain) is None:
        return None
    task, version = re.fullmatch(r"(.+?)(?:-(v\d+))?", plain).groups(default="")  # type: ignore[union-attr]
    # Other names of D4RL for the same: its first files said walker and mixed.
    task = re.sub(r"^walker-", "walker2d-", re.sub(r"-mixed$", "-medium-replay", task))
    return _played(task.removesuffix("-sparse"), version, (), True)


def _played(task: str, version: str, caveats: tuple[str, ...], comparable: bool) -> Counterpart:
    """With what is said of the environment."""
    known = d4rl_names.find(task)
    if known is None:
        return Counterpart(task, version, caveats, comparable)
    if "Maze" in known.environment:
        words, comparable = f"{known.environment} may draw another goal in each episode", False
    else:
        name = re.sub(r"-v\d+$", "", known.environment)
        old = "D4RL's own" if name.startswith("Adroit") else f"{name}-v2"
        words = f"played in {known.environment} (by default), not in {old}"
    return Counterpart(task, version, (*caveats, words), comparable)


def _mixture(parts: list[Counterpart | None]) -> Counterpart | None:
    """TD3+RKL's mixtures: all of a task's random data, and all of another of its data sets."""
    if len(parts) != 2 or parts[0] is None or parts[1] is None:
        return None
    one, other = sorted((part for part in parts if part), key=lambda part: not part.dataset.endswith("-random"))
    task = one.dataset.removesuffix("-random")
    if task == one.dataset or not other.dataset.startswith(f"{task}-"):
        return None
    version = one.version if one.version == other.version else ""
    caveats = tuple(dict.fromkeys([*one.caveats, *other.caveats]))
    comparable = one.comparable and other.comparable
    return Counterpart(f"{one.dataset}{other.dataset.removeprefix(task)}", version, caveats, comparable)

"""Data sets whose number of modes is known, and what `raymix data modes` says of them.

    python tests/known_modes.py --seeds 5        # the table of sweeps/results/modes.txt
    python tests/known_modes.py --only steep,corners

Each has 6,000 independent transitions in episodes of 20; states are uniform in a square, and at every state the number
of modes is the same. The table shows the share of held-out states at which that number was counted, for each seed of
the data. Mixtures are smaller than the command's, so that a data set takes a quarter of a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from raymix.data.columns import Episode, from_episodes, make_dataset
from raymix.types import Dataset

ROWS, LENGTH = 6_000, 20
CORNERS = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
SETTINGS: dict[str, Any] = {"components": (1, 2, 5, 10), "seeds": 2, "steps": 1_000, "hidden_dims": (64, 64)}
Make = Callable[[np.random.Generator, np.ndarray], np.ndarray]
"""Actions from a generator and states (ROWS, 2), before they are cut to [-1, 1]."""


def dataset_of(actions: np.ndarray, states: np.ndarray, length: int = LENGTH) -> Dataset:
    """Episodes of independent transitions; the source says whether the episode is in the first half."""
    box = [1.0] * actions.shape[1]
    actions = np.clip(actions, -1, 1).reshape(-1, length, actions.shape[1])
    states = states.reshape(len(actions), length, -1)
    still = np.zeros(length, bool)
    episodes = [
        Episode(np.concatenate([seen, seen[-1:]]), done, np.zeros(length), still, still, int(index >= len(actions) / 2))
        for index, (seen, done) in enumerate(zip(states, actions, strict=True))
    ]
    columns = from_episodes(episodes)
    return make_dataset(
        columns, "test/known-v0", action_low=np.negative(box), action_high=box, sources=("early", "late")
    )


def known(make: Make, seed: int = 0) -> Dataset:
    random = np.random.default_rng(seed)
    states = random.uniform(-1, 1, (ROWS, 2))
    return dataset_of(make(random, states), states)


def smooth(states: np.ndarray) -> np.ndarray:
    return 0.3 * np.sin(2 * states)


def normal(random: np.random.Generator, width: int = 2) -> np.ndarray:
    return random.standard_normal((ROWS, width))


# ---------------------------------------------------------------- one mode


def one(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    return smooth(states) + 0.1 * normal(random)


def uneven_noise(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    return smooth(states) + (0.25 - 0.2 * states[:, :1]) * normal(random)


def oblique_noise(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    """Four dimensions that move together."""
    return smooth(states)[:, :1] + 0.4 * normal(random, 1) + 0.05 * normal(random, 4)


def saturated(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    return smooth(states) + normal(random)


def at_one_edge(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    return 0.9 + smooth(states) + 0.3 * normal(random)


def steep(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    """From one edge to the other within a tenth of the states."""
    return 5 * np.sin(3 * states) + 0.1 * normal(random)


def steep_and_noisy(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    return 3 * np.sin(3 * states + states[:, ::-1]) + 0.5 * normal(random)


def squashed(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    """By tanh, as SAC's policies are."""
    return np.tanh(1.5 * np.sin(2 * states) + normal(random))


def squashed_and_steep(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    return np.tanh(6 * np.sin(3 * states) + 0.5 * normal(random))


def squashed_in_six_dimensions(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    means = [4 * np.sin(3 * states), 4 * np.cos(3 * states), 3 * states * states - 1]
    return np.tanh(np.concatenate(means, 1) + 0.8 * normal(random, 6))


def uniform(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    return random.uniform(-1, 1, (ROWS, 2))


def heavy_tails(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    return smooth(states) + random.laplace(0, 0.15, (ROWS, 2))


def skewed(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    return smooth(states) - 0.5 + 0.2 * random.gamma(1.5, 1.0, (ROWS, 2))


def ring(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    """All around, at one distance."""
    angle = random.uniform(0, 2 * np.pi, ROWS)
    return 0.7 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.05 * normal(random)


# ---------------------------------------------------------------- several


def two(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    return smooth(states) + random.choice([-0.5, 0.5], (ROWS, 1)) + 0.1 * normal(random)


def both_edges(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    return random.choice([-1.0, 1.0], (ROWS, 1)) + 0.1 * normal(random)


def edge_and_middle(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    return np.where(random.random((ROWS, 1)) < 0.5, 0.1 + smooth(states), 1.1) + 0.12 * normal(random)


def two_squashed(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    return np.tanh(random.choice([-1.2, 1.2], (ROWS, 1)) + np.sin(states) + 0.4 * normal(random))


def rare_second(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    """A tenth of the actions."""
    return smooth(states) + np.where(random.random((ROWS, 1)) < 0.1, 0.8, -0.3) + 0.1 * normal(random)


def four(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    return smooth(states) + 0.5 * random.choice(CORNERS, ROWS) + 0.1 * normal(random)


def corners(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    """As of the four goals at the start of FetchReach: half of the numbers are cut, and two dimensions idle."""
    return np.concatenate([random.choice(CORNERS, ROWS) + 0.2 * normal(random), 0.2 * normal(random)], 1)


def eight(random: np.random.Generator, states: np.ndarray) -> np.ndarray:
    angle = 2 * np.pi * random.integers(0, 8, ROWS) / 8
    return 0.75 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.07 * normal(random)


ONE = (
    *(one, uneven_noise, oblique_noise, saturated, at_one_edge, steep, steep_and_noisy, squashed, squashed_and_steep),
    *(squashed_in_six_dimensions, uniform, heavy_tails, skewed, ring),
)
TWO = (two, both_edges, edge_and_middle, two_squashed, rare_second)
KNOWN: dict[str, tuple[Make, int]] = {
    **{make.__name__: (make, 1) for make in ONE},
    **{make.__name__: (make, 2) for make in TWO},
    **{make.__name__: (make, 4) for make in (four, corners)},
    "eight": (eight, 8),
}
"""Name -> how actions are made, and how many modes they have."""


def main() -> None:
    import torch

    from raymix.modes import find_modes

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="of the data (default: %(default)s)")
    parser.add_argument("--only", default=",".join(KNOWN), help="names, separated by commas (default: all)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'data':28} {'modes':>5}  share of states at which so many were counted, seed by seed")
    for name in options.only.split(","):
        make, number = KNOWN[name]
        found = [find_modes(known(make, seed), **SETTINGS)["histogram"] for seed in range(options.seeds)]
        print(f"{name:28} {number:5}  {'  '.join(f'{each.get(str(number), 0.0):4.0%}' for each in found)}", flush=True)


if __name__ == "__main__":
    main()

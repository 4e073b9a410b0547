"""Episodes that training does not see: what a data set without an environment is judged by."""

from __future__ import annotations

import numpy as np

from raymix.types import Columns, Spec, UsageError

SHARE = 0.1
"""Of the episodes, where a data set has no environment and nothing else is said."""


def held_out_episodes(columns: Columns, spec: Spec, share: float) -> np.ndarray:
    """Numbers of the episodes to hold out, sorted: the same ones for a data set everywhere; none where `share` is 0.

    Raises:
        UsageError: the data set has one episode only.
    """
    if share == 0:
        return np.zeros(0, dtype=np.int64)
    if spec.num_episodes < 2:
        raise UsageError(
            f"data set {spec.name} has one episode, so none can be held out to judge policies by; cut it into several,"
            " or give an environment"
        )
    count = min(max(1, round(share * spec.num_episodes)), spec.num_episodes - 1)
    # A bit generator's stream is the same in every version of NumPy, unlike what is drawn from it.
    order = np.argsort(np.random.PCG64([0]).random_raw(spec.num_episodes), kind="stable")
    return np.sort(order[:count])

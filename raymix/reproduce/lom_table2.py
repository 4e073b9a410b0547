"""LOM, table 2: six ways to imitate demonstrators who go to four goals, of which one pays double (FetchReach).

The paper's data are 4,000,000 transitions per task of an expert that is not described, and neither are the goals'
distances nor the radius of success; the data set here is `raymix/fetchreach-multigoal-v0` (100,000 transitions). So
the scores cannot be compared with the paper's, only their order can. Going to the best goal earns about 95 here, to
any other 48, and so does a policy that goes to a random one of the four on average 60.

All methods train on the same data with networks of 256-256, batches of 256, discount 0.9 and their preset `small`.
"""

from __future__ import annotations

from typing import Any

from raymix.plan import SweepSpec
from raymix.reproduce.base import Method, Options, Outcome, beside_paper, run_methods

NAME = "lom-table2"
PUBLISHED = {
    "bc": (14.3, 3.4),
    "mdn": (17.1, 2.3),
    "awac": (32.4, 0.2),
    "wcgan": (42.3, 3.1),
    "wcvae": (40.8, 2.1),
    "lom": (47.2, 3.1),
}
"""FetchReach, return: mean and +- of the paper's table."""
SAME: dict[str, dict[str, Any]] = {
    "awac": {"hidden_dims": (256, 256), "batch_size": 256, "discount": 0.9, "steps": 3_000},
}
"""What a preset `small` has otherwise."""
METHODS = tuple(
    Method(
        SweepSpec(
            algorithm=algorithm,
            datasets=("fetchreach-multigoal",),
            preset="small",
            settings=SAME.get(algorithm, {}),
            seeds=3,
            evaluate_every=1_000,
            episodes=20,
            label=algorithm,
        ),
        published=mean,
        spread=spread,
    )
    for algorithm, (mean, spread) in PUBLISHED.items()
)


def reproduce(options: Options) -> Outcome:
    """Train all methods; the table, and the report's figure."""
    run = run_methods(NAME, METHODS, options)
    text = beside_paper(
        run.figures, run.rows(METHODS), "LOM, table 2, FetchReach: undiscounted return (scales differ, see the order)"
    )
    return Outcome(text, (str(run.figures / "scores.png"), str(run.figures / "scores.csv")))

"""How does LBRAC-v score on D4RL's locomotion data, and with how many codes?  (LBRAC-v, table 1, its own column)

12 data sets, each with K in {1, 5, 10, 15, 20}, 5 seeds, 500,000 steps for the behaviours and 500,000 for the policy,
evaluated every 5,000 steps on 20 episodes. The paper's number is that of the best K of each data set, chosen by the
score that it reports. Beside the published numbers: `raymix report RUN --paper lbrac_v`.

Data: D4RL's files, one `raymix data import hopper-medium-v2.hdf5` each. Rows whose data are there are run by
`--dataset hopper-medium-v2`, which may be repeated.

Not as in the paper: policies are played in Gymnasium's HalfCheetah-v5, Hopper-v5 and Walker2d-v5, not in the v2 of the
data.
"""

from ray import tune

from raymix import SweepSpec, main

SPECS = [
    SweepSpec(
        algorithm="lbrac_v",
        datasets=(f"{robot}-{level}-v2",),
        preset="paper",
        search={"num_codes": tune.grid_search([1, 5, 10, 15, 20])},
        seeds=5,
        evaluate_every=5_000,
        episodes=20,
        metric="normalized_score",
        smoke={
            "datasets": ("two-goals",),
            "preset": "small",
            "search": {"num_codes": tune.grid_search([1, 5])},
            "settings": {"behavior_steps": 100},
            "steps": 100,
            "seeds": 1,
            "evaluate_every": 100,
            "episodes": 4,
            "metric": "return",
        },
    )
    for robot in ("halfcheetah", "hopper", "walker2d")
    for level in ("random", "medium", "medium-replay", "medium-expert")
]

if __name__ == "__main__":
    main(*SPECS)

"""How many behaviours does LBRAC-v want to tell apart?  (LBRAC-v, K in {1, 5, 10, 15, 20})

FetchReach demonstrations to four goals: with K = 1 every trajectory has the same behaviour, and the penalty keeps the
policy near their average; with K = 4 or more each goal can have its own.
"""

from ray import tune

from raymix import SweepSpec, main

SPEC = SweepSpec(
    algorithm="lbrac_v",
    datasets=("fetchreach-multigoal",),
    preset="small",
    search={"num_codes": tune.grid_search([1, 5, 10, 15, 20])},
    seeds=3,
    smoke={
        "datasets": ("fetchreach-multigoal-8",),
        "search": {"num_codes": tune.grid_search([1, 5])},
        "settings": {"behavior_steps": 200},
        "steps": 200,
        "seeds": 1,
        "evaluate_every": 100,
        "episodes": 4,
    },
)

if __name__ == "__main__":
    main(SPEC)

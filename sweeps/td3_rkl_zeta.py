"""Where should TD3+RKL switch between cloning the data and moving away from it?  (zeta1, zeta2 of lambda(s))

lambda(s) is 0.5 where the data's spread is zeta2 / zeta1 and rises with slope zeta1 / 4 there. FetchReach
demonstrations to four goals spread widely at the start and narrowly on the way.
"""

from ray import tune

from raymix import SweepSpec, main

SPEC = SweepSpec(
    algorithm="td3_rkl",
    datasets=("fetchreach-multigoal",),
    preset="small",
    search={"zeta1": tune.grid_search([5.0, 10.0, 20.0]), "zeta2": tune.grid_search([2.5, 5.0, 10.0])},
    seeds=3,
    smoke={
        "datasets": ("fetchreach-multigoal-8",),
        "search": {"zeta1": tune.grid_search([10.0]), "zeta2": tune.grid_search([2.5, 5.0])},
        "settings": {"behavior_steps": 200},
        "steps": 200,
        "seeds": 1,
        "evaluate_every": 100,
        "episodes": 4,
    },
)

if __name__ == "__main__":
    main(SPEC)

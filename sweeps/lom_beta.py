"""How strongly should LOM weigh the data of the mode that it chose?  (beta, which multiplies the advantage)

All values fit the same mixtures, so these are trained once; FetchReach demonstrations to four goals.
"""

from ray import tune

from raymix import SweepSpec, main

SPEC = SweepSpec(
    algorithm="lom",
    datasets=("fetchreach-multigoal",),
    preset="small",
    search={"beta": tune.grid_search([0.1, 0.3, 1.0, 3.0, 10.0])},
    seeds=3,
    smoke={
        "datasets": ("fetchreach-multigoal-8",),
        "search": {"beta": tune.grid_search([0.3, 3.0])},
        "settings": {"mdn_steps": 200},
        "steps": 200,
        "seeds": 1,
        "evaluate_every": 100,
        "episodes": 4,
    },
)

if __name__ == "__main__":
    main(SPEC)

"""How many mixture components does LOM want?  (LOM, figure 3)

M in {1, 5, 10, 15, 20} on FetchReach demonstrations to four goals, of which one pays double.
"""

from ray import tune

from raymix import SweepSpec, main

SPEC = SweepSpec(
    algorithm="lom",
    datasets=("fetchreach-multigoal",),
    preset="small",
    search={"num_components": tune.grid_search([1, 5, 10, 15, 20])},
    seeds=3,
    evaluate_every=1_000,
    episodes=10,
    smoke={
        "datasets": ("fetchreach-multigoal-8",),
        "search": {"num_components": tune.grid_search([1, 5])},
        "settings": {"mdn_steps": 200},
        "steps": 200,
        "seeds": 1,
        "evaluate_every": 100,
        "episodes": 4,
    },
)

if __name__ == "__main__":
    main(SPEC)

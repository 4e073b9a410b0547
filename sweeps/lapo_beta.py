"""How sharply should LAPO's autoencoder prefer good actions?  (beta, with weights exp(beta * advantage))

LAPO weighs the data by its advantage before the latent policy is found; with beta near 0 it keeps every mode, with a
large one the best only. FetchReach demonstrations to four goals, of which one pays double.
"""

from ray import tune

from raymix import SweepSpec, main

SPEC = SweepSpec(
    algorithm="lapo",
    datasets=("fetchreach-multigoal",),
    preset="small",
    settings={"weight_mode": "exp"},
    search={"beta": tune.grid_search([0.1, 0.3, 1.0, 3.0, 10.0])},
    seeds=3,
    smoke={
        "datasets": ("fetchreach-multigoal-8",),
        "search": {"beta": tune.grid_search([0.3, 3.0])},
        "steps": 200,
        "seeds": 1,
        "evaluate_every": 100,
        "episodes": 4,
    },
)

if __name__ == "__main__":
    main(SPEC)

"""How many sub-policies does DMPO want?  (DMPO, |Z| in {4, 8, 16, 32}, and |Z| = 1, which has no mixture)

Two goals with an obstacle between the two ways: a single deterministic policy that clones drives at the obstacle.
"""

from ray import tune

from raymix import SweepSpec, main

SPEC = SweepSpec(
    algorithm="dmpo",
    datasets=("two-goals",),
    preset="small",
    search={"num_latents": tune.grid_search([1, 4, 8, 16, 32])},
    seeds=5,
    smoke={
        "search": {"num_latents": tune.grid_search([1, 4])},
        "steps": 200,
        "seeds": 1,
        "evaluate_every": 100,
        "episodes": 4,
    },
)

if __name__ == "__main__":
    main(SPEC)

"""What does a plain grid find in as many steps of policies as `lom_beta_optuna.py` takes?

8 trials of 3,000 steps, as many agent-steps of policies as that search's 24 trials take: four values of beta for few
and for many mixture components; learning rates are the preset's. FetchReach demonstrations to four goals.
"""

from ray import tune

from raymix import SweepSpec, main

SPEC = SweepSpec(
    algorithm="lom",
    datasets=("fetchreach-multigoal",),
    preset="small",
    search={
        "num_components": tune.grid_search([5, 20]),
        "beta": tune.grid_search([0.1, 0.5, 2.0, 10.0]),
    },
    seeds=3,
    evaluate_every=500,
    episodes=10,
    smoke={
        "datasets": ("fetchreach-multigoal-8",),
        "search": {"num_components": tune.grid_search([1, 5]), "beta": tune.grid_search([0.5, 2.0])},
        "settings": {"mdn_steps": 200},
        "steps": 200,
        "seeds": 1,
        "evaluate_every": 100,
        "episodes": 4,
    },
)

if __name__ == "__main__":
    main(SPEC)

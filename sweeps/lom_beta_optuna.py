"""Which beta, learning rates and number of mixture components suit LOM? 24 trials that Optuna decides.

FetchReach demonstrations to four goals of which one pays double. Tree-structured Parzen estimators decide each trial
from those before; the preset is tried first. Of each 9 trials in a row, 3 go on beyond 500 steps and 1
of those beyond 1,500, so that the policies take as many agent-steps as those of the 8 trials of `lom_beta_grid.py`; the
mixtures, which trials share where they train at the same time, come on top.
"""

from ray import tune

from raymix import Halving, Optuna, SweepSpec, main

SPEC = SweepSpec(
    algorithm="lom",
    datasets=("fetchreach-multigoal",),
    preset="small",
    search={
        "num_components": tune.choice([1, 5, 10, 15, 20]),
        "beta": tune.loguniform(0.05, 20.0),
        "policy_learning_rate": tune.loguniform(1e-4, 1e-2),
        "critic_learning_rate": tune.loguniform(1e-4, 1e-2),
    },
    searcher=Optuna(
        trials=24,
        sampler="tpe",
        points=({"num_components": 5, "beta": 1.0, "policy_learning_rate": 1e-3, "critic_learning_rate": 3e-4},),
    ),
    scheduler=Halving(first=500, reduction=3),
    seeds=3,
    seats=3,  # trials of one number of components are few, and half empty programs cost as much as full ones
    evaluate_every=500,
    episodes=10,
    smoke={
        "datasets": ("fetchreach-multigoal-8",),
        "search": {"num_components": tune.choice([1, 5]), "beta": tune.loguniform(0.05, 20.0)},
        "settings": {"mdn_steps": 200},
        "searcher": Optuna(trials=3, cohort=3),
        "scheduler": Halving(first=50),
        "steps": 200,
        "seeds": 1,
        "evaluate_every": 50,
        "episodes": 4,
    },
)

if __name__ == "__main__":
    main(SPEC)

"""Do the best of `lom_beta_optuna.py` and of `lom_beta_grid.py` differ on seeds by which neither was chosen?

The best of 24 or 8 is in part the luckiest, so the scores by which it was chosen flatter it. FetchReach demonstrations
to four goals, 5 components, 5 fresh seeds. (The best of the search is the preset, which it tries first.)
"""

from raymix import SweepSpec, main

WINNERS = {
    "best of the search": {"beta": 1.0},
    "second of the search": {
        "beta": 1.2482,
        "critic_learning_rate": 0.00015796,
        "policy_learning_rate": 0.0003565,
    },
    "best of the grid": {"beta": 2.0},
}

SPECS = [
    SweepSpec(
        algorithm="lom",
        datasets=("fetchreach-multigoal",),
        preset="small",
        settings={"num_components": 5, **settings},
        label=label,
        seeds=(10, 11, 12, 13, 14),
        seats=15,
        evaluate_every=500,
        smoke={
            "datasets": ("fetchreach-multigoal-8",),
            "settings": {"num_components": 5, "mdn_steps": 200, **settings},
            "steps": 200,
            "seeds": 1,
            "evaluate_every": 100,
            "episodes": 4,
        },
    )
    for label, settings in WINNERS.items()
]

if __name__ == "__main__":
    main(*SPECS)

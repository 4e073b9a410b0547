"""Does LAPO gain from learning rates and a beta that change while it trains?

A population of 8 members of 3 seeds each on FetchReach demonstrations to four goals, of which one pays double. Every
1,000 steps the two worst take networks and optimisers of one of the two best, seed by seed, and go on with values a
little off that one's. The report shows whom the best member copied when, and with which values it went on.
(`lapo_beta.py` compares constant values of beta.)
"""

from ray import tune

from raymix import Population, SweepSpec, main

SPEC = SweepSpec(
    algorithm="lapo",
    datasets=("fetchreach-multigoal",),
    preset="small",
    settings={"weight_mode": "exp"},
    search={
        "beta": tune.loguniform(0.1, 10.0),
        "critic_learning_rate": tune.loguniform(3e-5, 3e-3),
        "policy_learning_rate": tune.loguniform(3e-5, 3e-3),
    },
    samples=8,
    scheduler=Population(every=1_000, quantile=0.25),
    seeds=3,
    evaluate_every=1_000,
    smoke={
        "datasets": ("fetchreach-multigoal-8",),
        "samples": 4,
        "scheduler": Population(every=100),
        "steps": 200,
        "seeds": 1,
        "evaluate_every": 100,
        "episodes": 4,
    },
)

if __name__ == "__main__":
    main(SPEC)

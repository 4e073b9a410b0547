"""How sharply should LOM prefer the better actions of its best mode, and can a third of the training tell?

24 values of beta, drawn from 0.05 to 20, on FetchReach demonstrations to four goals of which one pays double. All 24
share one mixture, whose training does not read beta. Successive halving stops 16 of them after 500 steps and 5 more
after 1,500: 24,500 steps per seed in place of 72,000.
"""

from ray import tune

from raymix import Halving, SweepSpec, main

SPEC = SweepSpec(
    algorithm="lom",
    datasets=("fetchreach-multigoal",),
    preset="small",
    search={"beta": tune.loguniform(0.05, 20.0)},
    samples=24,
    scheduler=Halving(first=500, reduction=3, statistic="mean"),
    seeds=3,
    evaluate_every=500,
    episodes=10,
    smoke={
        "datasets": ("fetchreach-multigoal-8",),
        "settings": {"mdn_steps": 200},
        "samples": 4,
        "scheduler": Halving(first=50),
        "steps": 200,
        "seeds": 1,
        "evaluate_every": 50,
        "episodes": 4,
    },
)

if __name__ == "__main__":
    main(SPEC)

"""How does TD3+RKL score on D4RL's locomotion data, and on mixtures of random and better data?  (TD3+RKL, table II)

12 data sets and 9 mixtures, each with TD3+RKL and with TD3+BC under it, 5 seeds, evaluated every 5,000 steps on 10
episodes. Beside the published numbers: `raymix report RUN --paper td3_rkl`.

Data: D4RL's files, one `raymix data import hopper-expert-v0.hdf5` each. Rows whose data are there are run by
`--dataset hopper-expert-v0` or `--dataset 'hopper-random-v0 + hopper-expert-v0'`, which may be repeated.

Not as in the paper: it does not say which version of the data it used, and its baselines' numbers are those of v0. Its
lambda is 1 almost everywhere as printed; the preset `paper` reads it so that it is not (`raymix algorithms td3_rkl`).
Policies are played in Gymnasium's HalfCheetah-v5, Hopper-v5 and Walker2d-v5.
"""

from raymix import SweepSpec, main

ROBOTS = ("halfcheetah", "hopper", "walker2d")
SINGLE = [f"{robot}-{level}-v0" for robot in ROBOTS for level in ("random", "medium-replay", "medium-expert", "expert")]
MIXED = [
    f"{robot}-random-v0 + {robot}-{level}-v0"
    for robot in ROBOTS
    for level in ("medium-replay", "medium-expert", "expert")
]
SMOKE = {"datasets": ("two-goals",), "preset": "small", "steps": 100, "seeds": 1, "evaluate_every": 100, "episodes": 4}
SPECS = [
    SweepSpec(
        algorithm=algorithm,
        datasets=(dataset,),
        preset="paper",
        seeds=5,
        evaluate_every=5_000,
        episodes=10,
        metric="normalized_score",
        smoke={**SMOKE, "settings": earlier, "metric": "return"},
    )
    for dataset in (*SINGLE, *MIXED)
    for algorithm, earlier in (("td3_rkl", {"behavior_steps": 100}), ("td3_bc", {}))
]

if __name__ == "__main__":
    main(*SPECS)

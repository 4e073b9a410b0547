"""How does LOM score on D4RL's locomotion data?  (LOM, table 1, the column of LOM)

15 data sets, each with the authors' settings for it, 4 seeds, evaluated every 10,000 steps on 10 episodes. Beside the
published numbers: `raymix report RUN --paper lom`.

Data: D4RL's files, one `raymix data import hopper-medium-v2.hdf5` each. Rows whose data are there are run by
`--dataset hopper-medium-v2`, which may be repeated.

Not as in the paper: policies are played in Gymnasium's HalfCheetah-v5, Hopper-v5 and Walker2d-v5, not in the v2 of the
data. The paper's M of each row is the best of several by the score that it reports; here it is fixed.
"""

from raymix import SweepSpec, main

SPECS = [
    SweepSpec(
        algorithm="lom",
        datasets=(f"{robot}-{level}-v2",),
        preset=f"{robot}-{level}",
        seeds=4,
        evaluate_every=10_000,
        episodes=10,
        metric="normalized_score",
        smoke={
            "datasets": ("two-goals",),
            "preset": "small",
            "settings": {"mdn_steps": 100},
            "steps": 100,
            "seeds": 1,
            "evaluate_every": 100,
            "episodes": 4,
            "metric": "return",
        },
    )
    for robot in ("halfcheetah", "hopper", "walker2d")
    for level in ("medium-replay", "full-replay", "medium", "medium-expert", "expert")
]

if __name__ == "__main__":
    main(*SPECS)

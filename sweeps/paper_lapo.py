"""How does LAPO score on D4RL's locomotion data and mazes, and on a mixture of tasks?  (LAPO, tables 2 and 3)

The rows of LAPO but for Kitchen, whose observations are not those of D4RL's data any more: 9 of locomotion (table 3),
3 of AntMaze, 3 of Maze2D and 3 of walker2d-mix (table 2). 3 seeds, evaluated every 5,000 steps on 10 episodes. Beside
the published numbers: `raymix report RUN --paper lapo`.

Data: D4RL's files, one `raymix data import hopper-medium-v2.hdf5` each. The walker2d-mix pools are made of data sets of
one's own named walker2d/forward, walker2d/backward and walker2d/jump, with the rewards of one of the tasks. Rows whose
data are there are run by `--dataset hopper-medium-v2`, which may be repeated.

Not as in the paper: its scores are means of the last 10 evaluations, these of the last 3. Policies are played in
Gymnasium's environments of today; its mazes may draw another goal in each episode. The paper does not give the
returns that normalize walker2d-mix, so the metric is the return.
"""

from raymix import SweepSpec, main

ROWS = {
    "paper": (
        *(f"{robot}-{level}-v2" for robot in ("hopper", "halfcheetah", "walker2d") for level in ("random", "medium")),
        *(f"{robot}-expert-v2" for robot in ("hopper", "halfcheetah", "walker2d")),
        *(f"walker2d-mix-{task}" for task in ("forward", "backward", "jump")),
    ),
    "antmaze": tuple(f"antmaze-{size}-diverse-v1" for size in ("umaze", "medium", "large")),
    "maze2d": tuple(f"maze2d-{size}-v1" for size in ("umaze", "medium", "large")),
}
"""Data sets by the preset of LAPO for them."""
SPECS = [
    SweepSpec(
        algorithm="lapo",
        datasets=datasets,
        preset=preset,
        seeds=3,
        steps=1_000_000,
        evaluate_every=5_000,
        episodes=10,
        select="mean_last_3",
        smoke={
            "datasets": ("two-goals",),
            "preset": "small",
            "steps": 100,
            "seeds": 1,
            "evaluate_every": 100,
            "episodes": 4,
        },
    )
    for preset, datasets in ROWS.items()
]

if __name__ == "__main__":
    main(*SPECS)

"""How do DMPO and infoDMPO score on D4RL's locomotion, AntMaze and Adroit data?  (DMPO, tables 3 to 6, their columns)

15 data sets of locomotion, 6 of AntMaze, 8 of Adroit, 5 seeds, evaluated every 5,000 steps on 10 episodes. AntMaze is
run with DMPO (table 3) and with the value network (table 5). Beside the published numbers: `raymix report RUN --paper
dmpo`.

Data: D4RL's files, one `raymix data import hopper-medium-v2.hdf5` each. Rows whose data are there are run by
`--dataset hopper-medium-v2`, which may be repeated.

Not as in the paper: it plays 100 episodes at AntMaze's last evaluation, this 10 at each. Policies are played in
Gymnasium's environments of today; its mazes may draw another goal in each episode. Its infoDMPO is the best of several
information_learning_rate on each data set, this is the preset's.
"""

from raymix import SweepSpec, main

LOCOMOTION = tuple(
    f"{robot}-{level}-v2"
    for robot in ("halfcheetah", "hopper", "walker2d")
    for level in ("random", "medium", "medium-replay", "medium-expert", "expert")
)
MAZES = ("umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")
ANTMAZE = tuple(f"antmaze-{maze}-v0" for maze in MAZES)
HUMAN = tuple(f"{task}-human-v0" for task in ("pen", "hammer", "door", "relocate"))
CLONED = tuple(f"{task}-cloned-v0" for task in ("pen", "hammer", "door", "relocate"))
ROWS = (
    (LOCOMOTION, "mujoco", {}),
    (tuple(name for name in LOCOMOTION if name != "hopper-medium-expert-v2"), "infodmpo", {}),
    (("hopper-medium-expert-v2",), "infodmpo", {"alpha": 5.0}),
    (ANTMAZE, "antmaze", {}),
    (ANTMAZE, "antmaze_value", {}),
    (ANTMAZE, "antmaze_value", {"information": True}),
    (HUMAN, "adroit_human", {}),
    (HUMAN, "adroit_human", {"information": True, "alpha": 10.0}),
    (CLONED, "adroit", {}),
    (CLONED, "adroit", {"information": True, "alpha": 10.0}),
)
"""Data sets, preset, and what the paper sets beside it."""
SPECS = [
    SweepSpec(
        algorithm="dmpo",
        datasets=datasets,
        preset=preset,
        settings=settings,
        seeds=5,
        evaluate_every=5_000,
        episodes=10,
        metric="normalized_score",
        smoke={
            "datasets": ("two-goals",),
            "preset": "small",
            "settings": {"information": settings.get("information", False)},
            "steps": 100,
            "seeds": 1,
            "evaluate_every": 100,
            "episodes": 4,
            "metric": "return",
        },
    )
    for datasets, preset, settings in ROWS
]

if __name__ == "__main__":
    main(*SPECS)

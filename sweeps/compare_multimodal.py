"""Which method makes the most of demonstrations to several goals?  The five multi-modal methods and their family.

Every algorithm with its preset `small`, on FetchReach demonstrations to four goals. Each preset was chosen on this task
for its own method, so the table compares tuned methods, not equal settings.
"""

from raymix import SweepSpec, main

ALGORITHMS = (
    *("lbrac_v", "lapo", "td3_rkl", "dmpo", "lom"),
    *("bc", "mdn", "td3_bc", "iql", "awac", "mix_awac", "lp_awac", "plas", "brac_v", "onestep", "wcvae", "wcgan"),
)
EARLIER_PHASES = {
    "lbrac_v": ("behavior_steps",),
    "td3_rkl": ("behavior_steps",),
    "lom": ("mdn_steps",),
    "plas": ("vae_steps",),
    "brac_v": ("behavior_steps", "warm_start_steps"),
    "onestep": ("behavior_steps", "critic_steps"),
}
"""The fields of their lengths, which a smoke run shortens too."""
SPECS = [
    SweepSpec(
        algorithm=algorithm,
        datasets=("fetchreach-multigoal",),
        preset="small",
        seeds=3,
        smoke={
            "datasets": ("fetchreach-multigoal-8",),
            "settings": dict.fromkeys(EARLIER_PHASES.get(algorithm, ()), 100),
            "steps": 100,
            "seeds": 1,
            "evaluate_every": 100,
            "episodes": 4,
        },
    )
    for algorithm in ALGORITHMS
]

if __name__ == "__main__":
    main(*SPECS)

"""Environments that raymix adds to Gymnasium; importing this package registers them and builds none."""

from gymnasium.envs.registration import register

for _task in ("Reach", "Push", "PickAndPlace"):
    register(
        id=f"raymix/Fetch{_task}MultiGoal-v0",
        entry_point=f"raymix.envs.fetch:Fetch{_task}MultiGoal",
        max_episode_steps=50,
    )
register(id="raymix/TwoModes-v0", entry_point="raymix.envs.two_modes:TwoModes")

"""Environments that raymix adds to Gymnasium; importing this package registers them and builds none."""

from gymnasium.envs.registration import register

for _task in ("Reach", "Push", "PickAndPlace"):
    register(
        id=f"raymix/Fetch{_task}MultiGoal-v0",
        entry_point=f"raymix.envs.fetch:Fetch{_task}MultiGoal",
        max_episode_steps=50,
    )
register(id="raymix/TwoGoals-v0", entry_point="raymix.envs.two_goals:TwoGoals", max_episode_steps=60)
register(id="raymix/TwoModes-v0", entry_point="raymix.envs.two_modes:TwoModes")
register(id="raymix/OneStepNavigation-v0", entry_point="raymix.envs.one_step_navigation:OneStepNavigation")
for _task in ("Forward", "Backward", "Jump"):
    register(
        id=f"raymix/Walker2d{_task}-v0",
        entry_point="raymix.envs.walker2d:Walker2dTask",
        kwargs={"task": _task.lower()},
        max_episode_steps=1000,
    )

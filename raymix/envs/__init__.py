"""Environments that raymix adds to Gymnasium; importing this package registers them and builds none."""

from gymnasium.envs.registration import register

register(
    id="raymix/FetchReachMultiGoal-v0",
    entry_point="raymix.envs.fetch:FetchReachMultiGoal",
    max_episode_steps=50,
)
register(id="raymix/TwoGoals-v0", entry_point="raymix.envs.two_goals:TwoGoals", max_episode_steps=60)
register(id="raymix/TwoModes-v0", entry_point="raymix.envs.two_modes:TwoModes")
register(id="raymix/OneStepNavigation-v0", entry_point="raymix.envs.one_step_navigation:OneStepNavigation")

"""DMPO, table 2: a point that may pass an obstacle on either side, to one of two goals.

The paper does not print the geometry; `raymix/TwoGoals-v0` and `toy/two-goals-v0` are raymix's. A return is 1 where an
episode ends in a goal, -1 where it ends in an obstacle, else 0. All methods have the same networks, batches and number
of steps. infoDMPO has no published number.

The scale alpha of the advantage in the weights decides this table, and the paper does not print it for this task. At
10, its value for MuJoCo, AWAC reaches 0.98 here, so the paper's difference shows at alpha = 1 only: both are shown. On
seeds 0 to 4, on which that alpha, the geometry and DMPO's KL weight were chosen, DMPO with alpha 10 reached 0.00 to
1.00. The seeds here are others. TD3+BC, last in the paper, solves the task on them with its usual weight of the value,
q_scale = 2.5. That weight is the reason: with 0.1 it clones, and drives at an obstacle between the ways on most seeds,
as the paper has it; the value's gradient is what leads it off the average. Both are shown.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from raymix.plan import SweepSpec
from raymix.reproduce.base import Member, Method, Options, Outcome, Run, beside_paper, run_methods
from raymix.reproduce.figures import BLUE, GREEN, ORANGE, PURPLE, SKY, YELLOW, new_figure, save, small_print

NAME = "dmpo-table2"
SETTINGS: dict[str, Any] = {
    "discount": 0.97,
    "tau": 0.02,
    "critic_learning_rate": 1e-3,
    "policy_learning_rate": 1e-3,
    "batch_size": 128,
    "hidden_dims": (64, 64),
    "steps": 6_000,
}
"""Of all methods."""
OF_DMPO: dict[str, Any] = {"num_latents": 4, "kl_weight": 0.05}
SEEDS = (10, 11, 12, 13, 14)


def _method(
    label: str, algorithm: str, published: float | None = None, spread: float | None = None, **settings: Any
) -> Method:
    spec = SweepSpec(
        algorithm=algorithm,
        datasets=("two-goals",),
        settings={**SETTINGS, **settings},
        seeds=SEEDS,
        evaluate_every=2_000,
        episodes=100,
        label=label,
    )
    return Method(spec, published, spread)


METHODS = (
    _method("TD3+BC", "td3_bc", -0.2, 0.4),
    _method("AWAC", "awac", 0.33, 0.44, alpha=1.0),
    _method("LP-AWAC", "lp_awac", 0.7, 0.6, vae_learning_rate=1e-3, alpha=1.0),
    _method("DMPO", "dmpo", 1.0, 0.0, alpha=1.0, **OF_DMPO),
    _method("infoDMPO", "dmpo", information=True, alpha=1.0, **OF_DMPO),
    _method("AWAC, alpha 10", "awac", alpha=10.0),
    _method("DMPO, alpha 10", "dmpo", alpha=10.0, **OF_DMPO),
    _method("TD3+BC, q_scale 0.1", "td3_bc", q_scale=0.1),
)


def reproduce(options: Options) -> Outcome:
    """Train all methods; the table, the trajectories and the map of the chosen latent."""
    run = run_methods(NAME, METHODS, options)
    text = beside_paper(run.figures, run.rows(METHODS), "DMPO, table 2: mean return of 100 episodes")
    figure = str(run.figures / "dmpo-fig2.png")
    trajectories(run, figure)
    return Outcome(text, (figure, str(run.figures / "scores.csv")))


def trajectories(run: Run, path: str) -> None:
    """Figure 2: the data, 10 episodes of each seed of each method, and which latent DMPO chooses where."""
    from matplotlib.patches import Circle

    from raymix.envs.two_goals import GOAL_RADIUS, GOALS, OBSTACLE_RADII, OBSTACLES

    columns = run.dataset("DMPO").columns
    labels = [str(method.spec.label) for method in METHODS]
    figure = new_figure(7.2, 4.0)
    panels = figure.subplots(2, 4, sharex=True, sharey=True).ravel()
    labels = labels[:5]
    for axes in panels:
        for centre, radius in zip(OBSTACLES, OBSTACLE_RADII):
            axes.add_patch(Circle(centre, radius, color="0.75"))
        for centre in GOALS:
            axes.add_patch(Circle(centre, GOAL_RADIUS, color="#BFE3D3"))
        axes.set_aspect("equal")
        axes.set_xlim(-1, 1)
        axes.set_ylim(-1, 1)
        small_print(axes, "")
    data, *policies = panels[: len(labels) + 1]
    for number in range(40):
        way = columns.observations[columns.episode == number]
        data.plot(*way.T, color=BLUE, linewidth=0.4, alpha=0.6)
    small_print(data, "data")
    colours = (BLUE, ORANGE, GREEN, PURPLE, SKY)
    for axes, label in zip(policies, labels):
        for member, colour in zip(run.members(label), colours):
            for way in ways(member, episodes=10):
                axes.plot(*way.T, color=colour, linewidth=0.4, alpha=0.7)
        small_print(axes, f"{label}: {run.row(label)['mean']:.2f}")
    for axes, member in zip(panels[len(labels) + 1 :], run.members("DMPO")):
        chosen_latents(axes, member)
    save(figure, path)


def ways(member: Member, episodes: int) -> list[np.ndarray]:
    """Positions (T + 1, 2) of each episode."""
    import gymnasium

    environment, policy = gymnasium.make("raymix/TwoGoals-v0"), member.policy()
    found = []
    for episode in range(episodes):
        observation, _ = environment.reset(seed=episode)
        way, ended, step = [observation], False, 0
        while not ended:
            (action,) = policy.act(observation[None], step)
            observation, _, terminated, truncated, _ = environment.step(action.astype(np.float32))
            way.append(observation)
            ended, step = terminated or truncated, step + 1
        found.append(np.array(way))
    return found


def chosen_latents(axes: Any, member: Member) -> None:
    """Colours the plane by the latent that the critics choose."""
    import torch
    from matplotlib.colors import ListedColormap

    from raymix.algorithms.dmpo import DMPO

    algorithm, config = DMPO(), member.policy().config
    side = np.linspace(-1.0, 1.0, 120, dtype=np.float32)
    places = torch.from_numpy(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2))
    actions = member.networks.policy(places)
    chosen = algorithm.values_of_latents(member.networks.critic, actions, places, config).argmax(-1)
    colours = ListedColormap([BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY, "0.4", "0.8"])
    grid = chosen.reshape(len(side), len(side)).numpy() % colours.N
    axes.imshow(grid, extent=(-1, 1, -1, 1), origin="lower", cmap=colours, vmin=0, vmax=colours.N - 1, alpha=0.6)
    small_print(axes, f"DMPO, seed {member.seed}: {len(chosen.unique())} latents")

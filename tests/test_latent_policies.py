"""LAPO, LP-AWAC, PLAS and WCVAE: what the golden numbers do not state, tasks with known answers, and bad input."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import learner_for, replay_for, small_config, tiny_dataset
from torch import Tensor

from raymix.algorithms.base import find
from raymix.algorithms.lapo import LAPO
from raymix.algorithms.lp_awac import LPAWAC
from raymix.algorithms.plas import PLAS
from raymix.algorithms.wcvae import WCVAE
from raymix.config import AlgorithmConfig
from raymix.data import toy
from raymix.data.columns import Episode, from_episodes, make_dataset
from raymix.evaluation.policy import Policy
from raymix.evaluation.rollout import evaluate
from raymix.learner.learner import Learner
from raymix.learner.networks import Networks, fresh_networks
from raymix.learner.replay import DeviceReplay
from raymix.learner.state import unflatten
from raymix.nn.latent import Latent
from raymix.nn.layers import RewardScale
from raymix.packing.local import LocalPack
from raymix.random import Key
from raymix.types import Dataset, UsageError

ALL = ("lapo", "lp_awac", "plas", "wcvae")


def lifted(algorithm: Any, **values: Any) -> Any:
    """A configuration as losses see it."""
    config = algorithm.configure(values)
    scalars = {name: torch.tensor(value) for name, value in config.of_kind("scalar").items()}
    return SimpleNamespace(**config.of_kind("structure"), **scalars)


# ---------------------------------------------------------------- parts, by hand


def test_lapo_weighs_by_the_sign_of_the_advantage():
    """Catches weights of the wrong side, and an advantage of 0 that counts as good."""
    advantage = torch.tensor([-2.0, 0.0, 0.5])
    weights = LAPO().weight(advantage, lifted(LAPO(), positive_weight=0.9))
    torch.testing.assert_close(weights, torch.tensor([0.1, 0.1, 0.9]))
    weights = LAPO().weight(torch.tensor([-1.0, 0.0, 1.0, 1e9]), lifted(LAPO(), weight_mode="exp", beta=2.0))
    torch.testing.assert_close(weights, torch.tensor([np.exp(-2.0), 1.0, np.exp(2.0), 100.0], dtype=torch.float32))


def test_lapo_by_hand():
    """Catches a bootstrap past an end, V's own slow copy, Q in V's place, and the critics' shares exchanged.

    Two critics say 7 and 3 everywhere, V says 10: mix = 0.7 * 3 + 0.3 * 7 = 4.2.
    """
    rows = 3

    def constant(*values: float) -> Any:
        return lambda *inputs: torch.tensor(values)[:, None].expand(-1, rows)

    asked: list[str] = []

    def decoder(name: str) -> Any:
        return lambda observations, latent: (asked.append(name), latent[:, :1])[1]

    def value(observations: Tensor) -> Tensor:
        return torch.full((rows,), 10.0)

    networks = {
        "standardise_actions": lambda actions: actions,
        "reward_scale": lambda rewards: rewards,
        "encoder": lambda observations, actions: Latent(torch.ones(rows, 2), torch.zeros(rows, 2)),
        "policy": lambda observations: torch.full((rows, 2), 0.5),
        "value": value,
    }
    slow = SimpleNamespace(**networks, decoder=decoder("slow"), critic=constant(7.0, 3.0))
    nets = SimpleNamespace(**networks, decoder=decoder("online"), critic=constant(2.0, 4.0), target=slow)
    batch = SimpleNamespace(
        observations=torch.zeros(rows, 1),
        next_observations=torch.zeros(rows, 1),
        actions=torch.zeros(rows, 1),
        rewards=torch.tensor([1.0, 1.0, 20.0]),
        terminals=torch.tensor([0.0, 1.0, 1.0]),
    )
    config = lifted(LAPO(), min_weight=0.7, discount=0.5, value_bounds="none", kl_weight=2.0)
    loss, details = LAPO().critic_loss(nets, batch, config, Key.of(0, 0))
    targets = torch.tensor([1 + 0.5 * 10, 1.0, 20.0])
    expected = (2 - targets).square().mean() + (4 - targets).square().mean() + (10 - 4.2) ** 2
    assert float(loss) == pytest.approx(float(expected))
    assert float(details["v_target_mean"]) == pytest.approx(4.2)

    # Without noise the decoder gives 1, the error is 1; KL of N(1, 1) is 1/2 per dimension.
    key = SimpleNamespace(normal=lambda *shape: torch.zeros(shape))
    loss, details = LAPO().vae_loss(nets, batch, config, key)
    advantages = [1 + 0.5 * 4.2 - 10, 1 - 10, 20 - 10]
    assert float(details["advantage_mean"]) == pytest.approx(sum(advantages) / 3)
    assert float(details["advantage_positive"]) == pytest.approx(1 / 3)
    assert float(loss) == pytest.approx((0.1 + 0.1 + 0.9) / 3 * (1 + 2 * 1))

    asked.clear()
    loss, _ = LAPO().policy_loss(nets, batch, config, key)
    assert float(loss) == -2.0 and asked == ["slow"], "the first critic, asked through the slow decoder"


@pytest.mark.parametrize(
    ("bounds", "rewards", "expected"),
    [
        ("discounted", (-3.0, 5.0), (-30.0, 50.0)),
        ("discounted", (1.0, 10.0), (0.0, 100.0)),
        ("discounted", (-4.0, -1.0), (-40.0, 0.0)),
        ("once", (0.0, 5.0), (0.0, 5.0)),
        ("none", (0.0, 5.0), (-1e6, 1e6)),
    ],
)
def test_lapo_holds_values_within_the_range_of_returns(bounds, rewards, expected):
    """Catches a range without 0, which holds the value of a state near the end too high, and one of other rewards."""
    algorithm, spec = LAPO(), dataclasses.replace(tiny_dataset().spec, reward_min=rewards[0], reward_max=rewards[1])
    values = {"value_bounds": bounds, "reward_scaling": "none", "discount": 0.9, "reward_scale": 2.0}
    modules = fresh_networks(algorithm, spec, algorithm.configure(values), seed=0)
    nets = Networks(modules, {})
    clipped = algorithm.bounded(nets, torch.tensor([-2e6, 2e6]), lifted(algorithm, **values))
    torch.testing.assert_close(clipped, 2.0 * torch.tensor(expected))


def test_lapo_keeps_the_sign_of_rewards_that_are_never_positive():
    """Catches division by the largest reward: -1 and -4 would become 1 and 4, and the best action the worst."""
    spec = dataclasses.replace(tiny_dataset().spec, reward_min=-4.0, reward_max=-1.0)
    scaled = RewardScale(spec, "max")(torch.tensor([-4.0, -1.0]))
    torch.testing.assert_close(scaled, torch.tensor([-1.0, -0.25]))


def test_lapo_standardises_actions_of_any_box():
    """Catches the data's own units taken for those of the unit box, and a way back that is not the inverse."""
    dataset = tiny_dataset(low=(2.0, -1.0), high=(12.0, 0.0))
    replay = DeviceReplay(dataset)
    nets = Networks(fresh_networks(LAPO(), dataset.spec, small_config(LAPO()), seed=0), {})
    actions = replay.actions[replay.rows]
    standardised = nets.standardise_actions(actions)
    torch.testing.assert_close(standardised.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(standardised.std(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(nets.original_actions(standardised), actions)


@pytest.mark.parametrize("name", ["lapo", "lp_awac"])
def test_the_slow_decoder_acts(name):
    """Catches a policy that acts through the decoder that it was not trained with."""
    algorithm = find(name)
    learner = learner_for(algorithm, "main", [(small_config(algorithm), 1)])
    learner.run(5)
    state, acting = learner.state(0).tensors, learner.acting_weights(0)
    assert {path.split("/")[0] for path in acting} == {"policy", "decoder"}
    for path, value in acting.items():
        kind = "targets" if path.startswith("decoder/") else "parameters"
        assert torch.equal(value, state[f"{kind}/{path}"])
        assert not torch.equal(state[f"parameters/{path}"], state[f"targets/{path}"])


@pytest.mark.parametrize("algorithm", [LAPO(), PLAS()])
@pytest.mark.parametrize("z_max", [0.5, 2.0])
def test_the_prior_is_clipped_to_the_latent_box(algorithm, z_max):
    """Catches a prior that asks the decoder beyond the box, and a draw where there is no key."""
    asked: list[Tensor] = []

    def decoder(observations: Tensor, latent: Tensor) -> Tensor:
        asked.append(latent)
        return latent[:, :1] / 100

    def policy(observations: Tensor) -> Tensor:
        return torch.ones(len(observations), 2)

    nets = SimpleNamespace(decoder=decoder, policy=policy, original_actions=lambda actions: actions)
    observations = torch.zeros(500, 3)
    for key in (Key.of(0, 0), None):
        algorithm.sample_actions(nets, observations, algorithm.configure({"latent": "prior", "z_max": z_max}), key)
    drawn, middle = asked
    assert float(drawn.max()) == z_max == -float(drawn.min())
    assert 0.1 < float((drawn.abs() < z_max / 2).float().mean()) < 0.9
    assert not middle.any()


def test_lp_awac_clips_actions_in_targets_where_told():
    """Catches an option that nothing reads: the golden actions never leave the box."""
    seen: list[Tensor] = []

    def critic(observations: Tensor, actions: Tensor) -> Tensor:
        seen.append(actions)
        return actions.squeeze(-1).expand(2, -1)

    slow = SimpleNamespace(critic=critic, policy=lambda observations: torch.tensor([[0.1, 0.0], [3.0, 0.0]]))
    slow.decoder = lambda observations, latent: latent[:, :1]
    for clip, largest in ((False, 6.0), (True, 1.0)):
        config = lifted(LPAWAC(), clip_target_actions=clip)
        values = LPAWAC().target_value(SimpleNamespace(target=slow), torch.zeros(2, 1), config, Key.of(0, 0))
        torch.testing.assert_close(values, torch.tensor([0.2, largest]))
    assert [float(actions.max()) for actions in seen] == [6.0, 1.0]


def test_plas_takes_means_over_dimensions():
    """Catches sums in place of means: the KL weight would be another for every size of the latent vector."""
    rows, size = 5, 4
    nets = SimpleNamespace(
        encoder=lambda observations, actions: Latent(torch.ones(rows, size), torch.zeros(rows, size)),
        decoder=lambda observations, latent: torch.full((rows, 2), 0.5),
    )
    batch = SimpleNamespace(observations=torch.zeros(rows, 3), actions=torch.zeros(rows, 2))
    loss, _ = PLAS().vae_loss(nets, batch, lifted(PLAS(), kl_weight=0.4), Key.of(0, 0))
    assert float(loss) == pytest.approx(0.25 + 0.4 * 0.5)


def test_plas_perturbs_by_phi_at_most():
    """Catches a perturbation that leaves its bound or the box, and one that nobody sees."""
    algorithm, spec = PLAS(), tiny_dataset().spec
    config = algorithm.configure({"perturbation": True, "phi": 0.1, "hidden_dims": (8,), "vae_hidden_dims": (8,)})
    modules = fresh_networks(algorithm, spec, config, seed=0)
    parameters = {name: {key: 30 * value for key, value in m.named_parameters()} for name, m in modules.items()}
    nets = Networks(modules, parameters)
    observations = Key.of(0, 0).normal(200, 3)
    decoded = nets.decoder(observations, config.z_max * nets.policy(observations))
    moved = (algorithm.sample_actions(nets, observations, config) - decoded).detach()
    assert 0.05 < float(moved.abs().max()) <= 0.1 + 1e-6
    assert float((moved + decoded.detach()).abs().max()) <= 1.0


def test_wcvae_weighs_both_terms_and_caps():
    """Catches a weight on the error alone, an uncapped one, and one that is not divided by its mean.

    Advantages are 0, ln 2 and 100: weights 1, 2 and the cap of 3, or a half, 1 and 3/2 of their mean.
    """
    errors = torch.tensor([0.0, 1.0, 2.0])
    nets = SimpleNamespace(
        encoder=lambda observations, actions: Latent(observations.expand(-1, 2), torch.zeros(3, 2)),
        decoder=lambda observations, latent: errors.sqrt()[:, None],
        value=lambda observations: torch.full((3,), 5.0),
    )
    batch = SimpleNamespace(
        observations=torch.tensor([[0.0], [1.0], [2.0]]),
        next_observations=torch.zeros(3, 1),
        actions=torch.zeros(3, 1),
        rewards=torch.tensor([0.0, 5.0 + np.log(2), 105.0], dtype=torch.float32),
        terminals=torch.tensor([0.0, 1.0, 1.0]),
    )
    terms = errors + 0.3 * torch.tensor([0.0, 0.5, 2.0])
    for divide, weights in ((False, [1.0, 2.0, 3.0]), (True, [0.5, 1.0, 1.5])):
        values = {"adv_scale": 1.0, "weight_max": 3.0, "kl_weight": 0.3, "discount": 1.0, "divide_by_mean": divide}
        loss, _ = WCVAE().vae_loss(nets, batch, lifted(WCVAE(), latent_dim=2, **values), Key.of(0, 0))
        assert float(loss) == pytest.approx(float((torch.tensor(weights) * terms).mean()), rel=1e-5)


def test_wcvae_without_advantage_is_the_plain_clone():
    """Catches a reward that still reaches the auto-encoder where adv_scale is 0."""
    algorithm = WCVAE()
    members = [(small_config(algorithm, adv_scale=0.0, reward_shift=shift), 4) for shift in (0.0, 3.0)]
    learner = learner_for(algorithm, "main", members)
    learner.run(5)
    one, other = (learner.state(seat).tensors for seat in range(2))
    for path in one:
        if path.startswith("parameters/"):
            same = torch.equal(one[path], other[path])
            assert same != path.startswith("parameters/value/"), path


# ---------------------------------------------------------------- tasks with known answers

QUICK: dict[str, Any] = {
    "discount": 0.9,
    "tau": 0.05,
    "critic_learning_rate": 3e-3,
    "vae_learning_rate": 3e-3,
    "policy_learning_rate": 3e-3,
    "batch_size": 64,
    "hidden_dims": (32, 32),
}
CLONING: dict[str, Any] = {
    "discount": 0.9,
    "tau": 0.2,
    "value_learning_rate": 3e-3,
    "vae_learning_rate": 3e-3,
    "batch_size": 64,
    "hidden_dims": (32,),
    "value_hidden_dims": (32,),
    "steps": 600,
}
NAVIGATION: dict[str, Any] = {
    **QUICK,
    "tau": 0.02,
    "critic_learning_rate": 2e-3,
    "vae_learning_rate": 2e-3,
    "policy_learning_rate": 2e-3,
    "batch_size": 128,
    "hidden_dims": (64, 64),
    "steps": 400,
}


def train(name: str, values: dict[str, Any], dataset: Dataset, seeds: int = 3) -> LocalPack:
    config = find(name).configure(values)
    pack = LocalPack(name, config, list(range(seeds)), dataset, report_every=10_000, capture="eager")
    while not pack.finished:
        assert not any(pack.advance().diverged)
    return pack


def scores(pack: LocalPack, episodes: int = 100, **changes: Any) -> list[float]:
    """Mean returns of the trained policies; `changes` are of their configuration, after training."""
    policies = [dataclasses.replace(plain, config={**plain.config, **changes}) for plain in pack.policies()]
    return [float(np.mean(evaluate(Policy(policy), episodes).returns)) for policy in policies]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        # In a latent box as wide as 2 the decoder reaches beyond the data, where these critics overestimate.
        ("lapo", {"z_max": 1.0, "steps": 600}),
        ("lp_awac", {"steps": 400}),
        ("plas", {"kl_weight": 0.01, "vae_steps": 600, "vae_hidden_dims": (32, 32), "steps": 400}),
    ],
)
def test_a_latent_policy_finds_the_better_of_two_modes(name, values):
    """30 % of the data are in the mode that pays; averaging earns 0 and the heavier mode 0."""
    assert min(scores(train(name, {**QUICK, **values}, toy.two_modes()))) > 0.9


def test_wcvae_clones_the_better_of_two_modes():
    """Catches weights that do not reach the auto-encoder: without them it earns 0.3 at most."""
    assert max(scores(train("wcvae", {**CLONING, "adv_scale": 0.0}, toy.two_modes()))) < 0.3
    assert min(scores(train("wcvae", {**CLONING, "adv_scale": 5.0}, toy.two_modes()))) > 0.85


def test_lapo_finds_the_rare_way_and_its_prior_does_not():
    """Table 1 of the paper: the latent policy earns 10 of 10; the generative model keeps the way that pays 1."""
    pack = train("lapo", NAVIGATION, toy.navigation())
    assert min(scores(pack)) >= 9.5
    assert max(scores(pack, latent="prior")) < 5.0


def test_plas_misses_the_rare_way():
    """Table 1 of LAPO's paper: an auto-encoder without weights loses the 6 %, so both its policies earn 1 of 10."""
    values = {**NAVIGATION, "vae_steps": 500, "vae_hidden_dims": (64, 64), "steps": 300}
    pack = train("plas", values, toy.navigation())
    for found in (scores(pack), scores(pack, latent="prior")):
        assert all(0.9 < score < 1.2 for score in found), found


@pytest.mark.parametrize(
    ("name", "values"),
    [
        # V has no slow copy in Q's target: at a tau of 0.2 both swing around their values.
        ("lapo", {**QUICK, "hidden_dims": (32,), "steps": 600, "z_max": 1.0}),
        ("lp_awac", {**QUICK, "hidden_dims": (32,), "steps": 600, "z_max": 1.0}),
        ("plas", {**QUICK, "hidden_dims": (32,), "tau": 0.2, "steps": 800, "vae_steps": 1, "vae_hidden_dims": (8,)}),
        ("wcvae", {**CLONING, "steps": 800}),
    ],
)
def test_values_are_exact(name, values):
    """A time limit taken for an end, or a bootstrap past an end, would halve or double them."""
    pack = train(name, {**values, "discount": 0.9}, toy.chain(), seeds=2)
    states = torch.eye(toy.CHAIN_LENGTH)
    for seat in range(2):
        modules = fresh_networks(pack.algorithm, pack.dataset.spec, pack.config, seed=0)
        parameters = unflatten(pack.learner.state(seat).tensors)["parameters"]
        nets = Networks({name: module.requires_grad_(False) for name, module in modules.items()}, parameters)
        found = [nets.value(states)] if name != "plas" else []
        found += list(nets.critic(states, torch.zeros(toy.CHAIN_LENGTH, 1))) if name != "wcvae" else []
        for values in found:
            np.testing.assert_allclose(values.numpy(), toy.chain_values(0.9), atol=0.05)


# ---------------------------------------------------------------- bad input


def one_episode(length: int, rewards: Any = 1.0, actions: Any = None, terminal: bool = True) -> Dataset:
    generator = np.random.default_rng(0)
    last = np.arange(length) == length - 1
    drawn = generator.uniform(-1, 1, (length, 2)) if actions is None else np.broadcast_to(actions, (length, 2))
    episode = Episode(
        observations=generator.standard_normal((length + 1, 3)),
        actions=drawn,
        rewards=np.broadcast_to(rewards, length),
        terminations=last & terminal,
        truncations=last & (not terminal),
    )
    return make_dataset(from_episodes([episode]), "tests/bad-v0", action_low=[-1, -1], action_high=[1, 1])


def train_all_phases(algorithm: Any, config: AlgorithmConfig, dataset: Dataset) -> dict[str, Tensor]:
    state = None
    for phase in algorithm.phases:
        learner = Learner(algorithm, config, phase.name, replay_for(algorithm, dataset=dataset), 1, "eager")
        learner.load(0, learner.entering(state, config) if state else learner.fresh(config, 1), config)
        learner.run(20)
        state = learner.state(0)
    assert state is not None and state.is_finite()
    return state.tensors


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "dataset",
    [
        one_episode(30),
        one_episode(30, rewards=-1.0),
        one_episode(1),
        one_episode(1, terminal=False),
        one_episode(30, actions=np.where(np.random.default_rng(1).uniform(size=(30, 2)) < 0.5, -1.0, 1.0)),
        one_episode(30, actions=0.3),
        one_episode(30, rewards=np.linspace(-1e4, 1e4, 30)),
    ],
    ids=["constant rewards", "negative rewards", "one transition", "one cut transition", "actions on the edge",
         "one action", "large rewards"],
)  # fmt: skip
def test_odd_data_give_finite_numbers(name, dataset):
    """Catches divisions by a width of 0, by a deviation of 0, and overflowing weights."""
    algorithm = find(name)
    for values in ({}, {"weight_mode": "exp"} if name == "lapo" else {}):
        train_all_phases(algorithm, small_config(algorithm, **values), dataset)


def test_lapo_without_any_reward_says_what_to_change():
    """Catches a division by 0 in the scale of rewards."""
    dataset = one_episode(10, rewards=0.0)
    with pytest.raises(UsageError, match="rewards are all 0; take 'none'"):
        train_all_phases(LAPO(), small_config(LAPO()), dataset)
    train_all_phases(LAPO(), small_config(LAPO(), reward_scaling="none"), dataset)

"""Facts of DMPO, AWAC, mixAWAC and IQL that the golden numbers do not state, and what they do on probe tasks."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ACTION_DIM, OBSERVATION_DIM, difference, learner_for, small_config, tiny_dataset
from test_probes import networks_of, returns, trained
from torch import Tensor, distributions

from raymix.algorithms.base import find
from raymix.algorithms.iql import Policy
from raymix.algorithms.mix_awac import floored_log_prob
from raymix.data import toy
from raymix.evaluation.policy import Policy as ActingPolicy
from raymix.learner.networks import LiftedConfig, Networks, fresh_networks
from raymix.learner.replay import DeviceReplay
from raymix.nn.layers import Standardise
from raymix.nn.losses import advantage_weights, mixture_log_prob
from raymix.nn.policies import LatentPolicy, Mixture, bounded_log_std
from raymix.packing.local import LocalPack
from raymix.random import Key
from raymix.types import Dataset, UsageError

NAMES = ("dmpo", "awac", "mix_awac", "iql")


def lifted(algorithm: Any, config: Any) -> LiftedConfig:
    scalars = {name: torch.tensor(value) for name, value in config.of_kind("scalar").items()}
    return LiftedConfig(config.of_kind("structure"), scalars)


def lifted_for(name: str, **values: Any) -> LiftedConfig:
    return lifted(find(name), small_config(find(name), **values))


def fresh(name: str, seed: int = 0, **values: Any) -> tuple[Networks, LiftedConfig, dict[str, dict[str, Tensor]]]:
    """Networks of one agent on the tiny data, with targets from another seed."""
    algorithm, spec = find(name), tiny_dataset().spec
    config = small_config(algorithm, **values)
    modules = fresh_networks(algorithm, spec, config, seed)
    parameters = {network: dict(module.named_parameters()) for network, module in modules.items()}
    others = fresh_networks(algorithm, spec, config, seed + 1)
    targets = {network: dict(module.named_parameters()) for network, module in others.items()}
    return Networks(modules, parameters, targets), lifted(algorithm, config), parameters


def some_batch(size: int = 32) -> SimpleNamespace:
    key = Key.of(5, 0)
    return SimpleNamespace(
        observations=key.normal(size, OBSERVATION_DIM),
        actions=key.uniform(size, ACTION_DIM) * 2 - 1,
        rewards=key.normal(size),
        next_observations=key.normal(size, OBSERVATION_DIM),
        terminals=(torch.arange(size) % 4 == 0).float(),
    )


# ---------------------------------------------------------------- weights and densities


def test_the_three_forms_of_weights():
    """Catches a width left out or added, a mean that is not divided by, and a missing cap; by hand."""
    advantage = torch.tensor([1.0, 0.0, -3.0], requires_grad=True)
    scaled = torch.tensor([1.0, math.exp(-0.5), math.exp(-2.0)])  # alpha 2, width 4
    plain = torch.tensor([1.0, math.exp(-2.0), math.exp(-8.0)])
    for form, expected in (("normalized", scaled), ("plain", plain)):
        torch.testing.assert_close(advantage_weights(advantage, form, 2.0), expected / expected.mean())
        torch.testing.assert_close(advantage_weights(advantage, form, 2.0, divide_by_mean=False), expected)
    capped = torch.tensor([math.exp(2.0), 1.0, math.exp(-6.0)])
    torch.testing.assert_close(advantage_weights(advantage, "clamped", 2.0), capped)
    torch.testing.assert_close(advantage_weights(advantage, "clamped", 2.0, weight_max=5.0), capped.clamp(max=5.0))
    assert not any(advantage_weights(advantage, form, 2.0).requires_grad for form in ("normalized", "plain", "clamped"))


@pytest.mark.parametrize("form", ["normalized", "plain", "clamped"])
def test_equal_advantages_weigh_equally(form):
    """Catches the authors' division by a width of zero."""
    assert torch.equal(advantage_weights(torch.zeros(7), form, 10.0), torch.ones(7))


def test_log_deviations_stay_in_their_ranges():
    """Catches a tanh too many or too few: the ranges of the authors' code."""
    extreme = torch.tensor([-100.0, 100.0])
    for form, (low, high) in {"once": (-5, 0), "twice": (-4.4040, -0.5960), "port": (-4.9993, -3.8355)}.items():
        np.testing.assert_allclose(bounded_log_std(extreme, form), (low, high), atol=1e-4)


def test_the_mixture_likelihood_of_far_actions_has_a_gradient():
    """Catches the authors' underflow: 12 standard deviations away, their floor is flat."""
    means = torch.tensor([[[-1.0], [-0.9]]], requires_grad=True)
    mixture = Mixture(means, torch.full((1, 2, 1), math.log(0.05)), torch.tensor([[0.5, -0.5]]))
    components = distributions.Independent(distributions.Normal(means, 0.05), 1)
    reference = distributions.MixtureSameFamily(distributions.Categorical(logits=mixture.logits), components)
    for action, far in ((0.9, True), (-0.95, False)):
        actions = torch.tensor([[action]])
        ours, floored = mixture_log_prob(mixture, actions), floored_log_prob(mixture, actions)
        torch.testing.assert_close(ours, reference.log_prob(actions))
        (gradient,) = torch.autograd.grad(ours.sum(), means, retain_graph=True)
        (flat,) = torch.autograd.grad(floored.sum(), means, retain_graph=True)
        assert bool((gradient.abs() > 1).any())
        if far:
            assert float(floored) == pytest.approx(math.log(1e-12)) and not bool(flat.any())
        else:
            torch.testing.assert_close(ours, floored)


# ---------------------------------------------------------------- DMPO


def test_all_sub_policies_at_once_equal_one_at_a_time():
    """Catches latents and states paired in the wrong order."""
    policy = LatentPolicy(Standardise.nothing(tiny_dataset().spec), (8, 8), ACTION_DIM, 5, 16)
    observations = some_batch(6).observations
    together = policy(observations)
    assert together.shape == (6, 5, ACTION_DIM)
    for latent in range(5):
        alone = policy(observations, torch.eye(5)[latent].expand(6, 5))
        torch.testing.assert_close(together[:, latent], alone)


def test_the_prior_is_constant():
    """Catches gradient through the prior's actions: the divergence then pulls sub-policies up the critic."""
    batch, gradients = some_batch(), []
    for kl_weight in (0.0, 5.0):
        nets, config, parameters = fresh("dmpo", kl_weight=kl_weight)
        loss, _ = find("dmpo").policy_loss(nets, batch, config, Key.of(3, 0))
        gradients.append(torch.autograd.grad(loss, [*parameters["policy"].values(), *parameters["posterior"].values()]))
    number = len(parameters["policy"])
    assert all(torch.equal(*pair) for pair in list(zip(*gradients))[:number])
    assert not any(torch.equal(*pair) for pair in list(zip(*gradients))[number:])


def test_critics_choose_and_targets_value():
    """Catches one network doing both: the critics prefer the action +1, their slow copies value it at 3, -1 at 7."""
    actions = torch.tensor([[-1.0], [1.0]])

    def policy(observations: Tensor) -> Tensor:
        return actions.expand(len(observations), 2, 1)

    def critic(observations: Tensor, taken: Tensor) -> Tensor:
        return torch.stack((taken[:, 0], taken[:, 0] + 1))

    def slow(observations: Tensor, taken: Tensor) -> Tensor:
        return torch.stack((5.0 - 2 * taken[:, 0], 9.0 - 2 * taken[:, 0]))

    nets = SimpleNamespace(critic=critic, target=SimpleNamespace(critic=slow, policy=policy))
    batch = some_batch(4)
    for target_argmax, value in ((False, 3.0), (True, 7.0)):
        config = lifted_for("dmpo", target_argmax=target_argmax, target_noise=0.0, discount=0.5)
        _, details = find("dmpo").critic_loss(nets, batch, config, Key.of(0, 0))
        expected = batch.rewards + 0.5 * value * (1 - batch.terminals)
        torch.testing.assert_close(details["q_target_mean"], expected.mean())


def test_labels_of_the_information_step():
    """Catches the authors' two slips where they are not asked for: the last latent never drawn, softmax twice."""
    drawn: list[Tensor] = []

    def policy(observations: Tensor, latents: Tensor) -> Tensor:
        drawn.append(latents)
        return latents

    nets = SimpleNamespace(policy=policy, information=lambda observations, actions: 3.0 * actions)
    batch = some_batch(4_000)
    for legacy, count in ((False, 4), (True, 3)):
        config = lifted_for("dmpo", num_latents=4, information=True, legacy_info_loss=legacy)
        loss, _ = find("dmpo").information_loss(nets, batch, config, Key.of(1, 0))
        frequencies = drawn[-1].mean(0)
        torch.testing.assert_close(frequencies[:count], torch.full((count,), 1 / count), atol=0.03, rtol=0)
        assert not bool(frequencies[count:].any())
        probability = math.exp(3) / (math.exp(3) + 3)
        others = (1 - probability) / 3
        logits = [probability, others, others, others] if legacy else [3.0, 0.0, 0.0, 0.0]
        assert float(loss) == pytest.approx(-logits[0] + math.log(sum(map(math.exp, logits))), rel=1e-4)


def value_config(**values: Any) -> LiftedConfig:
    return lifted_for("dmpo", value_network=True, **{"min_share": 0.7, "value_max": 100.0, **values})


def test_the_value_networks_target():
    """Catches V regressed on the data's actions (Eq. 51), the slow copies choosing, min for the mix, a lost clamp."""
    actions = torch.tensor([[-1.0], [1.0]])

    def slow(observations: Tensor, taken: Tensor) -> Tensor:
        return torch.stack((10.0 * taken[:, 0], 20.0 * taken[:, 0]))

    nets = SimpleNamespace(
        critic=lambda observations, taken: -slow(observations, taken) * torch.tensor([[1.0], [-2.0]]),
        value=lambda observations: observations.sum(-1),
        target=SimpleNamespace(critic=slow, policy=lambda observations: actions.expand(len(observations), 2, 1)),
    )
    batch = some_batch(4)
    # The critics' mixes at -1: 0.7 * -40 + 0.3 * 10 = -25, and at 1: 0.7 * -10 + 0.3 * 40 = 5. So the action is 1.
    for bounds, expected in (((0.0, 100.0), 13.0), ((0.0, 12.5), 12.5), ((14.0, 100.0), 14.0)):
        config = value_config(value_min=bounds[0], value_max=bounds[1])
        loss, details = find("dmpo").value_loss(nets, batch, config, Key.of(0, 0))
        assert float(details["v_target_mean"]) == pytest.approx(expected)
        torch.testing.assert_close(loss, (batch.observations.sum(-1) - expected).square().mean())


def test_with_a_value_network_critics_follow_it():
    """Catches a target of the slow critics, smoothing noise, and a lost reward scale; the advantage is Q - V."""
    batch = some_batch(8)
    nets, config, _ = fresh("dmpo", value_network=True, min_share=0.7, reward_scale=100.0, discount=0.5)
    _, details = find("dmpo").critic_loss(nets, batch, config, Key.of(0, 0))
    value = nets.value(batch.next_observations)
    expected = 100.0 * batch.rewards + 0.5 * (1 - batch.terminals) * value
    torch.testing.assert_close(details["q_target_mean"], expected.mean())
    _, details = find("dmpo").policy_loss(nets, batch, config, Key.of(0, 0))
    q = nets.critic(batch.observations, batch.actions)
    mixed = 0.7 * q.amin(0) + 0.3 * q.amax(0)
    torch.testing.assert_close(details["advantage_mean"], (mixed - nets.value(batch.observations)).mean())


@pytest.mark.parametrize("preset", [None, "infodmpo", "antmaze_value"])
def test_a_presets_updates_train_exactly_their_networks(preset):
    """Catches a network that an optional update forgets, or one that stands in the program and is never trained."""
    algorithm = find("dmpo")
    learner = learner_for(algorithm, "main", [(small_config(algorithm, preset), 3)])
    before = learner.state(0).tensors
    learner.run(4)
    after = learner.state(0).tensors
    networks = {path.split("/")[1] for path in before if path.startswith("parameters/")}
    optional = {"infodmpo": {"information"}, "antmaze_value": {"value"}}.get(str(preset), set())
    assert networks == {"critic", "policy", "posterior"} | optional
    assert not any(torch.equal(before[path], after[path]) for path in before if not path.startswith("adam/"))


# ---------------------------------------------------------------- AWAC and mixAWAC


@pytest.mark.parametrize("legacy", [False, True])
def test_components_are_drawn_by_the_gate(legacy):
    """Catches the authors' choice of the heaviest component where it is not asked for, and deviations left out."""
    number, share = 20_000, 0.7
    logits = torch.tensor([share, 1 - share]).log().expand(number, 2)
    means = torch.tensor([[-0.5], [0.5]]).expand(number, 2, 1)
    nets = SimpleNamespace(
        gate=lambda observations: logits,
        components=lambda observations: SimpleNamespace(mean=means, log_std=torch.full_like(means, math.log(0.1))),
    )
    config = lifted_for("mix_awac", num_components=2, legacy_gate=legacy)
    drawn = find("mix_awac").sampled(nets, torch.zeros(number, 3), 1, config, Key.of(0, 0))
    assert drawn.shape == (1, number, 1)
    left = drawn < 0
    assert float(left.float().mean()) == pytest.approx(1.0 if legacy else share, abs=0.02)
    assert float(drawn[left].std()) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("name", ["awac", "mix_awac"])
def test_the_baseline_is_the_mean_over_samples(name):
    """Catches samples of one state averaged with those of another."""
    network = "policy" if name == "awac" else "components"
    nets, config, parameters = fresh(name, num_baseline_samples=3)
    for _, values in parameters[network].items():
        values.data.mul_(3.0)
    batch = some_batch(8)
    algorithm = find(name)
    own = algorithm.sampled(nets.target, batch.observations, 3, config, Key.of(2, 0))
    critic = nets.critic if name == "awac" else nets.target.critic
    baseline = torch.stack([critic(batch.observations, each).amin(0) for each in own]).mean(0)
    expected = critic(batch.observations, batch.actions).amin(0) - baseline
    _, details = algorithm.policy_loss(nets, batch, config, Key.of(2, 0))
    torch.testing.assert_close(details["advantage_mean"], expected.mean())


# ---------------------------------------------------------------- IQL


def test_expectile_one_half_is_half_a_squared_error():
    """Catches the expectile on the wrong side: at 0.9, V below Q must cost nine times as much as above."""
    batch = some_batch(2)
    for value, expectile, expected in ((0.0, 0.5, 0.5), (0.0, 0.9, 0.9), (2.0, 0.9, 0.1)):
        nets = SimpleNamespace(
            value=lambda observations, value=value: torch.full((2,), value),
            target=SimpleNamespace(critic=lambda observations, actions: torch.tensor([[1.0, 1.0], [3.0, 3.0]])),
        )
        loss, _ = find("iql").value_loss(nets, batch, lifted_for("iql", expectile=expectile), Key.of(0, 0))
        assert float(loss) == pytest.approx(expected)


def test_dropout_keeps_the_mean_and_is_off_when_acting():
    """Catches units that are dropped without scaling the others, the wrong share, and dropout in evaluation."""
    spec = tiny_dataset().spec
    policy = Policy(Standardise.nothing(spec), (2_000,), 1, "free", 0.25)
    with torch.no_grad():
        policy.hidden[0].weight.zero_()
        policy.hidden[0].bias.fill_(1.0)
        policy.mean.weight.fill_(1e-4)
        policy.mean.bias.zero_()
        observations = torch.zeros(200, OBSERVATION_DIM)
        whole, noisy = policy(observations).mean, policy(observations, Key.of(0, 0).uniform(200, 2_000)).mean
    torch.testing.assert_close(whole, torch.tanh(torch.full((200, 1), 0.2)))
    assert float(noisy.mean()) == pytest.approx(float(whole[0]), abs=1e-3)
    share = torch.atanh(noisy) / (1e-4 * 2_000) * 0.75
    assert float(share.mean()) == pytest.approx(0.75, abs=0.005) and 0.005 < float(share.std()) < 0.02


def test_rewards_are_scaled_by_the_range_of_returns():
    """Catches a scale or a shift that does not reach the target."""
    spec = tiny_dataset().spec
    nets, config, _ = fresh("iql", reward_scaling="returns", reward_shift=-1.0, discount=0.0)
    batch = some_batch(8)
    _, details = find("iql").critic_loss(nets, batch, config, Key.of(0, 0))
    expected = batch.rewards * 1_000 / (spec.returns_max - spec.returns_min) - 1
    torch.testing.assert_close(details["q_target_mean"], expected.mean())


# ---------------------------------------------------------------- probe tasks

RATES = {"critic_learning_rate": 3e-3, "policy_learning_rate": 3e-3}
QUICK: dict[str, Any] = {"steps": 800, "batch_size": 64, "hidden_dims": (32,), "tau": 0.05, **RATES}
PROBES: dict[str, dict[str, Any]] = {
    "dmpo": {"num_latents": 4},
    "dmpo information": {"num_latents": 4, "information": True, "information_learning_rate": 1e-4},
    "dmpo value": {"num_latents": 4, "value_network": True, "min_share": 0.7, "value_max": 1.0},
    "awac": {"steps": 1_500},
    "mix_awac": {"num_components": 4},
    "iql": {"value_learning_rate": 3e-3, "beta": 10.0, "standardise": True},
    "iql port": {
        "value_learning_rate": 3e-3,
        "steps": 1_500,
        "beta": 10.0,
        "standardise": True,
        "weighting": "normalized",
        "divide_by_mean": False,
        "policy_every": 2,
        "policy_std": "port",
    },
}


@pytest.mark.parametrize("probe", PROBES)
def test_the_better_of_two_modes(probe):
    """30 % of the data are in the mode that pays; averaging earns 0, the heavier mode 0, and repeating the data 0.3."""
    scores = returns(trained(probe.split(" ")[0], {**QUICK, **PROBES[probe]}, toy.two_modes()))
    assert min(scores) > 0.8, scores


@pytest.mark.parametrize("discount", [0.5, 0.9])
@pytest.mark.parametrize("probe", PROBES)
def test_critics_learn_exact_values(probe, discount):
    """A time limit taken for an end, or a bootstrap past an end, would halve or double them."""
    name = probe.split(" ")[0]
    slow = {"steps": 1_200, "tau": 0.2, "discount": discount, "batch_size": 32}
    if name == "dmpo":
        slow |= {"num_latents": 2}
    if "iql" in probe or "value" in probe:  # V and Q chase each other: slower, and with less noise.
        slow |= {"critic_learning_rate": 1e-3, "steps": 1_500, "batch_size": 128, "tau": 0.05}
    if name == "iql":
        slow |= {"value_learning_rate": 1e-3}
    pack = trained(name, {**QUICK, **PROBES[probe], **slow}, toy.chain(), seeds=2)
    states = torch.eye(toy.CHAIN_LENGTH)
    for seat in range(2):
        values = networks_of(pack, seat).critic(states, torch.zeros(toy.CHAIN_LENGTH, 1))
        np.testing.assert_allclose(values, toy.chain_values(discount)[None].repeat(2, 0), atol=0.06)


# ---------------------------------------------------------------- bad input


def constant_rewards() -> Dataset:
    dataset = tiny_dataset()
    columns = dataclasses.replace(dataset.columns, rewards=np.zeros_like(dataset.columns.rewards))
    return dataclasses.replace(dataset, columns=columns)


def actions_on_the_edge() -> Dataset:
    dataset = tiny_dataset()
    columns = dataclasses.replace(dataset.columns, actions=np.sign(dataset.columns.actions))
    return dataclasses.replace(dataset, columns=columns)


BAD = {
    "constant rewards": constant_rewards,
    "actions on the edge": actions_on_the_edge,
    "one trajectory": lambda: tiny_dataset((9,)),
    "one transition": lambda: tiny_dataset((1,)),
}
LARGE = {"dmpo": {"num_latents": 300}, "mix_awac": {"num_components": 300}}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", NAMES)
def test_poor_data_give_finite_numbers(name, bad):
    """Catches a width, a spread or a likelihood that becomes NaN; more latents than data too."""
    algorithm = find(name)
    config = small_config(algorithm, **LARGE.get(name, {}))
    pack = LocalPack(name, config, [0, 1], BAD[bad](), report_every=6, capture="eager")
    boundary = pack.advance()
    assert not any(boundary.diverged)
    assert all(math.isfinite(value) for metrics in boundary.metrics for value in metrics.values())
    actions = ActingPolicy(pack.policies()[0]).act(np.zeros((2, OBSERVATION_DIM)), 0)
    assert np.isfinite(actions).all()


def test_one_return_cannot_scale_rewards():
    """Catches an infinite scale: the message says what to change."""
    dataset = tiny_dataset((3,))
    with pytest.raises(UsageError, match="take 'none'"):
        LocalPack("iql", small_config(find("iql"), reward_scaling="returns"), [0], dataset, 6, capture="eager")


def test_one_latent_is_one_deterministic_policy():
    """Catches |Z| = 1 that cannot be trained: the smallest of the family."""
    algorithm = find("dmpo")
    config = small_config(algorithm, num_latents=1)
    replay = DeviceReplay(tiny_dataset())
    assert len(replay.rows) > 0
    learner = learner_for(algorithm, "main", [(config, 0), (dataclasses.replace(config, kl_weight=0.0), 0)])
    learner.run(4)
    assert difference(*(learner.state(seat).tensors for seat in (0, 1))) == 0.0

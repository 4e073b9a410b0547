"""WCGAN's losses by hand, what its updates leave alone, and probe tasks."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ACTION_DIM, OBSERVATION_DIM, identical, learner_for, small_config, tiny_dataset
from test_probes import networks_of, returns, trained
from torch import Tensor

from raymix.algorithms.wcgan import D_MIN, WCGAN, Discriminator, Generator
from raymix.data import toy
from raymix.data.columns import Episode, from_episodes, make_dataset
from raymix.evaluation.policy import Policy
from raymix.learner.networks import Networks, fresh_networks
from raymix.nn.layers import Standardise
from raymix.packing.local import LocalPack
from raymix.random import Key
from raymix.types import Dataset

PROBE = {
    "steps": 800,
    "batch_size": 64,
    "hidden_dims": (32, 32),
    "generator_objective": "non_saturating",
    "generator_learning_rate": 3e-4,
    "discriminator_learning_rate": 1.5e-3,
    "value_learning_rate": 3e-3,
    "noise_dim": 4,
    "tau": 0.05,
}


def as_losses_see_it(**values: Any) -> SimpleNamespace:
    """A configuration with its numbers as tensors."""
    config = small_config(WCGAN(), **values)
    scalars = {name: torch.tensor(value) for name, value in config.of_kind("scalar").items()}
    return SimpleNamespace(**config.of_kind("structure"), **scalars)


REAL, FAKE = torch.tensor([0.8, 0.6]), torch.tensor([0.25, 0.5])
"""What D says of the data's actions and of others."""
BATCH = SimpleNamespace(
    observations=torch.zeros(2, OBSERVATION_DIM),
    next_observations=torch.ones(2, OBSERVATION_DIM),
    actions=torch.ones(2, ACTION_DIM),
    rewards=torch.tensor([1.0, -1.0]),
    terminals=torch.tensor([0.0, 1.0]),
)


def known_networks(fake: Tensor | None = None) -> SimpleNamespace:
    """V is 0.5 at the states of BATCH and 2 at their successors; `fake` are D's log-odds of generated actions."""
    real = REAL.logit()
    fake = FAKE.logit() if fake is None else fake
    return SimpleNamespace(
        discriminator=lambda observations, actions: real if bool((actions == 1.0).all()) else fake,
        generator=lambda observations, noise: torch.zeros(len(noise), ACTION_DIM),
        value=lambda observations: 0.5 + 1.5 * observations[:, 0],
        target=SimpleNamespace(value=lambda observations: 4.0 * observations[:, 0]),
    )


def own_networks(seed: int = 0) -> tuple[Networks, dict[str, dict[str, torch.nn.Parameter]]]:
    """Fresh networks, and their parameters with gradients."""
    modules = fresh_networks(WCGAN(), tiny_dataset().spec, small_config(WCGAN()), seed)
    parameters = {name: dict(module.named_parameters()) for name, module in modules.items()}
    return Networks(modules, parameters, {"value": parameters["value"]}), parameters


def test_weights_are_capped_exponentials_of_the_advantage():
    """Catches beta as a divisor, a bootstrap after a terminal, V's target in the advantage, an overflow, no cap."""
    config = as_losses_see_it(discount=0.5, adv_scale=2.0, weight_max=10.0)
    weights = WCGAN().weights(known_networks(), BATCH, config)
    # A = 1 + 0.5 * 2 - 0.5 and -1 - 0.5.
    assert weights.tolist() == pytest.approx([10.0, math.exp(-3.0)])
    loose = as_losses_see_it(discount=0.5, adv_scale=2.0)
    assert WCGAN().weights(known_networks(), BATCH, loose).tolist() == pytest.approx([math.exp(3.0), math.exp(-3.0)])
    huge = as_losses_see_it(adv_scale=1e3)
    assert WCGAN().weights(known_networks(), BATCH, huge).tolist() == [50.0, 0.0]
    shifted = as_losses_see_it(discount=0.5, adv_scale=1.0, reward_shift=-1.0)
    assert WCGAN().weights(known_networks(), BATCH, shifted).tolist() == pytest.approx([math.exp(0.5), math.exp(-2.5)])


def test_advantages_may_be_divided_by_their_deviation():
    """Catches a deviation of something else, and rewards whose unit still matters: here A is 1.5 and -1.5."""
    for unit in (1.0, 100.0):
        batch = SimpleNamespace(**{**vars(BATCH), "rewards": unit * BATCH.rewards})
        nets = known_networks()
        nets.value = lambda observations, unit=unit: unit * (0.5 + 1.5 * observations[:, 0])
        config = as_losses_see_it(discount=0.5, adv_scale=2.0, divide_by_std=True)
        assert WCGAN().weights(nets, batch, config).tolist() == pytest.approx([math.exp(2.0), math.exp(-2.0)], rel=1e-4)


def test_the_discriminator_loss_by_hand():
    """Catches a weight on the wrong term, a mean of products in place of a product of means, and a wrong sign."""
    config = as_losses_see_it(discount=0.5, adv_scale=2.0, weight_max=10.0)
    loss, details = WCGAN().discriminator_loss(known_networks(), BATCH, config, Key.of(0, 0))
    first, second = 10.0, math.exp(-3.0)
    real = (first * math.log(0.8) + second * math.log(0.6)) / 2
    fake = (math.log(0.75) + math.log(0.5)) / 2
    assert float(loss) == pytest.approx(-real - (first + second) / 2 * fake)
    assert float(details["weight_capped"]) == 0.5 and float(details["d_fake"]) == pytest.approx(0.375)


def test_without_advantage_it_is_the_unweighted_gan():
    """Catches a weight that is not 1 at adv_scale 0: the loss must be GAN's cross-entropy, whatever the rewards."""
    config = as_losses_see_it(adv_scale=0.0)
    loss, _ = WCGAN().discriminator_loss(known_networks(), BATCH, config, Key.of(0, 0))
    cross_entropy = torch.nn.functional.binary_cross_entropy
    expected = cross_entropy(REAL, torch.ones(2)) + cross_entropy(FAKE, torch.zeros(2))
    assert float(loss) == pytest.approx(float(expected))


@pytest.mark.parametrize(("objective", "slope"), [("saturating", -0.01), ("non_saturating", -0.99)])
def test_the_generator_objectives(objective, slope):
    """Catches the two exchanged, or one that pushes D down: where D says 0.01, the saturating one hardly pulls."""
    log_odds = torch.full((2,), 0.01).logit().requires_grad_()
    config = as_losses_see_it(generator_objective=objective)
    loss, _ = WCGAN().generator_loss(known_networks(log_odds), BATCH, config, Key.of(0, 0))
    assert float(loss.detach()) == pytest.approx(
        math.log(0.99) if objective == "saturating" else -math.log(0.01), rel=1e-5
    )
    (gradient,) = torch.autograd.grad(loss, log_odds)
    assert gradient.tolist() == pytest.approx([slope / 2] * 2, rel=1e-4)


def test_the_value_loss_by_hand():
    """Catches the online value in the target, and a bootstrap after a terminal."""
    config = as_losses_see_it(discount=0.5, reward_shift=-1.0)
    loss, _ = WCGAN().value_loss(known_networks(), BATCH, config, Key.of(0, 0))
    # Targets 1 - 1 + 0.5 * 4 and -1 - 1; V is 0.5.
    assert float(loss) == pytest.approx((1.5**2 + 2.5**2) / 2)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_discriminator_is_clipped(sign):
    """Catches log(0): a discriminator that is certain must give finite losses, and no gradient beyond its clip."""
    discriminator = Discriminator(Standardise([0.0], [1.0]), (4,), 1)
    last = discriminator.trunk[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, sign * 100.0)
    actions = torch.zeros(3, 1, requires_grad=True)
    log_odds = discriminator(torch.zeros(3, 1), actions)
    assert torch.sigmoid(log_odds).tolist() == pytest.approx([1 - D_MIN if sign > 0 else D_MIN] * 3, abs=1e-7)
    for objective in ("saturating", "non_saturating"):
        config = as_losses_see_it(generator_objective=objective)
        loss, _ = WCGAN().generator_loss(known_networks(log_odds), BATCH, config, Key.of(0, 0))
        (gradient,) = torch.autograd.grad(loss, actions, retain_graph=True)
        assert math.isfinite(float(loss.detach())) and not gradient.any()
    torch.nn.init.constant_(last.bias, sign * 2.0)
    assert discriminator(torch.zeros(1, 1), torch.zeros(1, 1)).item() == pytest.approx(2 * sign)


def test_the_weights_send_no_gradient_into_the_value():
    """Catches weights that are not detached, as in the authors' code; its control: D itself does get gradient."""
    nets, parameters = own_networks()
    loss, _ = WCGAN().discriminator_loss(nets, BATCH, as_losses_see_it(), Key.of(0, 0))
    values = list(parameters["value"].values())
    assert torch.autograd.grad(loss, values, allow_unused=True, retain_graph=True) == (None,) * len(values)
    assert all(bool(each.any()) for each in torch.autograd.grad(loss, list(parameters["discriminator"].values())))


def test_the_generator_does_not_move_the_discriminator():
    """Catches one optimiser for both: with the discriminator's own rate at 0 it must stand still, and V as well."""
    config = small_config(WCGAN(), discriminator_learning_rate=0.0, value_learning_rate=0.0)
    learner = learner_for(WCGAN(), "main", [(config, 1)])
    before = learner.state(0).tensors
    learner.run(6)
    after = learner.state(0).tensors
    for network, still in (("discriminator", True), ("value", True), ("generator", False)):
        ours = [
            {path: value for path, value in tensors.items() if path.startswith(f"parameters/{network}/")}
            for tensors in (before, after)
        ]
        assert ours[0] and identical(*ours) == still, network


def test_an_action_does_not_depend_on_the_others_of_its_batch():
    """Catches batch statistics in the generator, with which acting would differ from training."""
    generator = Generator(Standardise([0.0] * 3, [1.0] * 3), 4, (16, 16), 2)
    observations, noise = Key.of(0, 0).normal(8, 3), Key.of(0, 1).normal(8, 4)
    with torch.no_grad():
        together, alone = generator(observations, noise), generator(observations[:1], noise[:1])
    torch.testing.assert_close(together[:1], alone)
    assert float(together.std(0).min()) > 0 and sum(isinstance(m, torch.nn.LayerNorm) for m in generator.modules()) == 2


def test_acting_noise_is_what_a_sample_takes():
    """Catches z that is drawn although it should be 0, and one that is 0 although a sample is asked for."""
    nets, _ = own_networks()
    observations = Key.of(0, 0).normal(20, OBSERVATION_DIM)

    def act(noise: float, key: Key | None) -> Tensor:
        with torch.no_grad():
            return WCGAN().sample_actions(nets, observations, as_losses_see_it(acting_noise=noise), key)

    still = act(0.0, None)
    assert torch.equal(act(0.0, Key.of(1, 1)), still) and torch.equal(act(1.0, None), still)
    assert float((act(1.0, Key.of(1, 1)) - still).abs().min()) > 0


def test_the_better_of_two_modes_outweighs_the_heavier():
    """30 % of the data pay. By their weights, exp(3.5) to exp(-1.5), 98 % of the generated actions should."""
    assert min(returns(trained("wcgan", {**PROBE, "adv_scale": 5.0, "acting_noise": 1.0}, toy.two_modes()))) > 0.9


def test_the_unweighted_gan_has_both_modes_and_nothing_between():
    """Catches weights that act at adv_scale 0, and a generator that averages: its actions are the data's, -0.6, 0.6.

    Measured over three seeds: 5 to 10 % of its actions in the gap, where a network without a jump has to cross it, and
    87 to 94 % within 0.35 of a mode; uniform actions would have 20 % and 70 %, the mean action 0 %.
    """
    pack = trained("wcgan", {**PROBE, "adv_scale": 0.0, "acting_noise": 1.0, "steps": 1_200}, toy.two_modes())
    observations = np.random.default_rng(0).standard_normal((1_000, 2))
    actions = np.stack([Policy(plain).act(observations, step=0)[:, 0] for plain in pack.policies()])
    right = (actions > 0).mean(1)
    assert 0.1 < right.mean() < 0.6, right
    assert ((np.abs(actions) < 0.2).mean(1) < 0.15).all()
    assert ((np.abs(np.abs(actions) - 0.6) < 0.35).mean(1) > 0.8).all()


def test_the_value_is_exact_through_a_delay_and_a_limit():
    """A time limit taken for an end, or a bootstrap past an end, would halve or double it."""
    settings = {**PROBE, "steps": 1_500, "discount": 0.9, "tau": 0.2}
    pack = trained("wcgan", settings, toy.chain(), seeds=2)
    states = torch.eye(toy.CHAIN_LENGTH)
    for seat in range(2):
        values = networks_of(pack, seat).value(states)
        np.testing.assert_allclose(values.numpy(), toy.chain_values(0.9), atol=0.05)


def changed(dataset: Dataset, **columns: np.ndarray) -> Dataset:
    """The data set with other columns, its facts counted again."""
    old = dataset.columns
    episodes = []
    for first, last in zip(np.append(0, old.last_rows[:-1] + 1), old.last_rows):
        rows = slice(first, last)
        values = {name: columns.get(name, getattr(old, name))[rows] for name in ("actions", "rewards")}
        episodes.append(
            Episode(
                observations=old.observations[first : last + 1],
                terminations=old.terminals[rows],
                truncations=old.timeouts[rows],
                **values,
            )
        )
    return make_dataset(from_episodes(episodes), "tests/odd-v0", action_low=[-1.0] * 2, action_high=[1.0] * 2)


TINY = tiny_dataset()
ODD = {
    "constant rewards": changed(TINY, rewards=np.full_like(TINY.columns.rewards, 3.0)),
    "huge rewards": changed(TINY, rewards=1e4 * TINY.columns.rewards),
    "actions on the edge": changed(TINY, actions=np.sign(TINY.columns.actions)),
    "one trajectory": tiny_dataset((40,), (False,)),
    "one transition": tiny_dataset((1,), (True,)),
}


@pytest.mark.parametrize("divide_by_std", [False, True])
@pytest.mark.parametrize("odd", ODD)
def test_odd_data_give_finite_numbers(odd, divide_by_std):
    """Catches a division by no deviation, log(0), and exp of a large advantage."""
    config = small_config(WCGAN(), steps=60, noise_dim=40, divide_by_std=divide_by_std, hidden_dims=(8,))
    pack = LocalPack("wcgan", config, [0, 1], ODD[odd], report_every=60, capture="eager")
    boundary = pack.advance()
    assert pack.finished and boundary.diverged == [False, False]
    for metrics, state in zip(boundary.metrics, boundary.states):
        assert all(map(math.isfinite, metrics.values()))
        assert all(bool(np.isfinite(value).all()) for value in state.values())


def test_presets_differ_in_what_the_documents_say():
    """Catches a preset that drifted from its source: exp(2 A) capped at 50 over 500,000 steps, antmaze r - 1."""
    paper = WCGAN().configure({}, "paper")
    assert (paper.adv_scale, paper.weight_max, paper.steps, paper.discount) == (2.0, 50.0, 500_000, 0.99)
    assert (paper.batch_size, paper.noise_dim, paper.hidden_dims) == (512, 10, (256, 256))
    assert (paper.generator_learning_rate, paper.discriminator_learning_rate) == (1e-4, 1e-4)
    assert paper.value_learning_rate == 1e-3 and paper.generator_objective == "saturating" and paper.acting_noise == 0
    assert WCGAN().configure({}, "antmaze") == dataclasses.replace(paper, reward_shift=-1.0)

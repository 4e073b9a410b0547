"""Facts of LOM that the golden numbers do not state by themselves."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from helpers import OBSERVATION_DIM, identical, learner_for, small_config, tiny_dataset
from torch import distributions

from raymix.algorithms.lom import LOM, HyperCritic
from raymix.learner.networks import Networks, fresh_networks
from raymix.nn.layers import Standardise
from raymix.nn.losses import LOG_STD_MAX, LOG_STD_MIN, component_std, mixture_log_prob
from raymix.nn.policies import Mixture
from raymix.random import Key

BATCH, MODES, ACTIONS = 6, 4, 3


def some_mixture(spread: float = 1.0) -> Mixture:
    key = Key.of(0, 0)
    means = key.uniform(BATCH, MODES, ACTIONS) * 2 - 1
    return Mixture(means, spread * key.normal(BATCH, MODES, ACTIONS) - 1, key.normal(BATCH, MODES))


def test_the_mixture_likelihood_is_that_of_torch():
    """Catches a sum over the wrong axis, a mean over components (the authors' first version), a missing constant."""
    mixture = some_mixture(spread=0.3)
    actions = Key.of(1, 0).uniform(BATCH, ACTIONS) * 2 - 1
    components = distributions.Independent(distributions.Normal(mixture.means, mixture.log_stds.clamp(max=0).exp()), 1)
    reference = distributions.MixtureSameFamily(distributions.Categorical(logits=mixture.logits), components)
    torch.testing.assert_close(mixture_log_prob(mixture, actions), reference.log_prob(actions), rtol=1e-5, atol=1e-5)


def test_the_likelihood_clamps_log_stds_and_survives_vanished_weights():
    """Catches a likelihood that reads unclamped deviations, and log(0) of a component that is never used."""
    mixture = some_mixture(spread=30.0)
    clamped = mixture._replace(log_stds=mixture.log_stds.clamp(LOG_STD_MIN, LOG_STD_MAX))
    actions = torch.zeros(BATCH, ACTIONS)
    assert torch.equal(mixture_log_prob(mixture, actions), mixture_log_prob(clamped, actions))
    std = component_std(mixture)
    assert float(std.max()) == 1.0 and float(std.min()) == pytest.approx(3.06e-7, rel=1e-2)
    logits = torch.full((BATCH, MODES), -200.0).index_fill(1, torch.tensor([0]), 0.0).requires_grad_()
    likelihood = mixture_log_prob(Mixture(mixture.means, torch.zeros_like(mixture.means), logits), actions).sum()
    (gradient,) = torch.autograd.grad(likelihood, logits)
    assert bool(likelihood.isfinite()) and bool(gradient.isfinite().all())


def test_a_mode_needs_enough_weight_to_be_selected():
    """Catches a mode chosen for its value alone, and no choice where none qualifies (there: the heaviest)."""
    weights = torch.tensor([[0.01, 0.59, 0.4], [0.02, 0.58, 0.4], [0.3, 0.3, 0.4], [0.98, 0.01, 0.01]])
    values = torch.tensor([[9.0, 1.0, 2.0], [9.0, 1.0, 2.0], [1.0, 3.0, 2.0], [-1e30, 5.0, 6.0]])
    mixture = Mixture(torch.zeros(4, 3, 1), torch.zeros(4, 3, 1), weights.log())

    def select(minimum: float) -> list[int]:
        config = SimpleNamespace(min_component_weight=torch.tensor(minimum))
        return LOM().select_mode(values, mixture, config).tolist()

    assert select(0.0) == [0, 0, 1, 2]
    assert select(0.015) == [2, 0, 1, 0]
    assert select(0.35) == [2, 2, 2, 0]
    assert select(0.9) == [1, 1, 2, 0]


@pytest.mark.parametrize("gain", [1e3, -1e3])
def test_weights_stay_between_zero_and_their_cap(gain):
    """Catches an exponential that overflows before it is capped, and a cap that the loss does not use."""
    algorithm, spec = LOM(), tiny_dataset().spec
    config = small_config(algorithm)
    modules = fresh_networks(algorithm, spec, config, seed=0)
    parameters = {name: dict(module.named_parameters()) for name, module in modules.items()}
    parameters["critic"]["ensemble.layers.2.weight"].data.mul_(gain)
    nets = Networks(modules, parameters)
    values = config.of_kind("structure") | {
        name: torch.tensor(value) for name, value in config.of_kind("scalar").items()
    }
    observations = Key.of(2, 0).normal(64, OBSERVATION_DIM)
    losses = {}
    for cap in (0.5, 1.0):
        lifted = SimpleNamespace(**{**values, "beta": torch.tensor(100.0), "weight_max": torch.tensor(cap)})
        batch = SimpleNamespace(observations=observations)
        with torch.no_grad():
            loss, details = algorithm.policy_loss(nets, batch, lifted, Key.of(3, 0))
        losses[cap] = float(loss)
        assert 0 < float(details["weight_mean"]) <= cap and 0 < losses[cap] < cap * 4
        # With such advantages every weight is at its cap or nothing.
        assert float(details["weight_mean"]) == pytest.approx(cap * float(details["weight_capped"]), abs=0.02)
        assert float(details["weight_capped"] + details["weight_vanished"]) == pytest.approx(1.0, abs=0.05)
    assert losses[1.0] == pytest.approx(2 * losses[0.5], rel=0.05)


def test_the_critics_do_not_feel_the_hyper_critic_or_the_policy():
    """Catches gradient of the hyper critic's or the policy's loss into the critics, and a mixture that moves on."""
    algorithm = LOM()
    config = small_config(algorithm)
    still = small_config(algorithm, hyper_critic_learning_rate=0.0, policy_learning_rate=0.0)
    learner = learner_for(algorithm, "main", [(config, 1), (still, 1)])
    before = learner.state(0).tensors
    learner.run(6)
    moving, resting = learner.state(0).tensors, learner.state(1).tensors

    def part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
        return {path: value for path, value in tensors.items() if path.startswith(prefix)}

    assert identical(part(moving, "parameters/critic/"), part(resting, "parameters/critic/"))
    assert identical(part(moving, "targets/"), part(resting, "targets/"))
    assert identical(part(moving, "parameters/mdn/"), part(before, "parameters/mdn/"))
    for network in ("policy", "hyper_critic"):
        assert not identical(part(moving, f"parameters/{network}/"), part(resting, f"parameters/{network}/"))


def test_target_critics_close_tau_of_the_gap_in_every_second_step():
    """Catches 1 - tau in the place of tau, and movement in steps 1, 3, 5 (rho = .995 and a delay of 2 in the paper)."""
    algorithm = LOM()
    config = small_config(algorithm, critic_learning_rate=0.0, tau=0.25)
    learner = learner_for(algorithm, "main", [(config, 1)])
    fresh = learner.fresh(config, 1)
    zeroed = {path: value * (not path.startswith("targets/")) for path, value in fresh.tensors.items()}
    learner.load(0, dataclasses.replace(fresh, tensors=zeroed), config)
    for share in (1, 1, 2, 2, 3, 3):
        learner.run(1)
        state = learner.state(0).tensors
        for path, value in state.items():
            if path.startswith("targets/"):
                online = state[path.replace("targets/", "parameters/")]
                torch.testing.assert_close(value, online * (1 - 0.75**share))


@pytest.mark.parametrize("critics", [1, 3])
def test_targets_take_the_least_of_the_critics(critics):
    """Catches a mean or a maximum over critics, a bootstrap after a terminal, and a discount applied elsewhere."""
    algorithm, spec = LOM(), tiny_dataset().spec
    config = small_config(algorithm, num_critics=critics)
    modules = fresh_networks(algorithm, spec, config, seed=0)
    parameters = {name: dict(module.named_parameters()) for name, module in modules.items()}
    constants = torch.tensor([7.0, 3.0, 5.0])[:critics]
    last = "ensemble.layers.2"
    constant = {f"{last}.weight": 0 * parameters["critic"][f"{last}.weight"], f"{last}.bias": constants[:, None]}
    constant = {**parameters["critic"], **constant}
    nets = Networks(modules, parameters, {"critic": constant})
    zeros = torch.zeros(2, spec.action_dim)
    states = torch.zeros(2, OBSERVATION_DIM)
    batch = SimpleNamespace(
        observations=states, next_observations=states, actions=zeros, next_actions=zeros,
        rewards=torch.tensor([1.0, 1.0]), terminals=torch.tensor([0.0, 1.0]),
    )  # fmt: skip
    lifted = SimpleNamespace(target_noise=torch.tensor(0.2), discount=torch.tensor(0.5))
    with torch.no_grad():
        _, details = algorithm.critic_loss(nets, batch, lifted, Key.of(0, 0))
    assert float(details["q_target_mean"]) == pytest.approx((1 + 0.5 * float(constants.min()) + 1) / 2)


@pytest.mark.parametrize(("form", "inputs", "outputs"), [("per_mode", 3, MODES), ("one_hot", 3 + MODES, 1)])
def test_both_forms_of_the_hyper_critic_value_every_mode(form, inputs, outputs):
    """Catches a form with the other's layers, and modes that all get one value."""
    network = HyperCritic(Standardise((0.0,) * 3, (1.0,) * 3), (8,), MODES, form)
    assert (network.trunk[0].in_features, network.trunk[-1].out_features) == (inputs, outputs)
    observations = Key.of(0, 0).normal(BATCH, 3)
    values = network(observations).detach()
    assert values.shape == (BATCH, MODES)
    assert float(values.std(1).min()) > 0
    if form == "one_hot":
        mode = torch.eye(MODES)[2].expand(BATCH, MODES)
        torch.testing.assert_close(values[:, 2], network.trunk(torch.cat((observations, mode), 1))[:, 0])

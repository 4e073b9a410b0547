"""OneStep RL: both improvements by hand, the order of its phases, and where it ends on the toys."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import learner_for, replay_for, small_config
from test_probes import networks_of, returns, trained
from torch import distributions

from raymix.algorithms.onestep import OneStep
from raymix.data import toy
from raymix.learner.learner import Learner
from raymix.nn.policies import Gaussian
from raymix.random import Key

SMALL = {
    "hidden_dims": (32,),
    "batch_size": 64,
    "behavior_learning_rate": 3e-3,
    "critic_learning_rate": 3e-3,
    "policy_learning_rate": 3e-3,
    "tau": 0.05,
    "behavior_steps": 300,
    "critic_steps": 400,
    "steps": 300,
}


def lifted(**values) -> SimpleNamespace:
    config = OneStep().configure(values)
    scalars = {name: torch.tensor(value) for name, value in config.of_kind("scalar").items()}
    return SimpleNamespace(**config.of_kind("structure"), **scalars)


def constant_policy(mean: float, log_std: float):
    return lambda observations: Gaussian(
        torch.full((len(observations), 1), mean), torch.full((len(observations), 1), log_std)
    )


def test_the_policy_starts_as_the_behavior():
    """Catches a policy phase that starts from a fresh policy, and a copy made a phase too early."""
    algorithm = OneStep()
    config = small_config(algorithm)
    behavior_phase = learner_for(algorithm, "behavior", [(config, 5)])
    behavior_phase.run(6)
    state = behavior_phase.state(0)
    for phase, copied in (("critic", False), ("policy", True)):
        learner = Learner(algorithm, config, phase, replay_for(algorithm), 1, "eager")
        state = learner.entering(state, config)
        pairs = [
            (value, state.tensors[path.replace("/behavior/", "/policy/")])
            for path, value in state.tensors.items()
            if path.startswith("parameters/behavior/")
        ]
        assert pairs and all(torch.equal(*pair) == copied for pair in pairs)
        learner.load(0, state, config)
        learner.run(6)
        state = learner.state(0)
    moved = [path for path in state.tensors if path.startswith("parameters/policy/")]
    assert not any(
        torch.equal(state.tensors[path], state.tensors[path.replace("policy", "behavior")]) for path in moved
    )


def test_exponential_weights_by_hand():
    """Catches the policy for the behaviour in the baseline, an advantage divided by the temperature, a missing cap."""
    actions = torch.tensor([[-0.5], [0.1], [0.9]])
    nets = SimpleNamespace(
        policy=constant_policy(0.4, -1.0),
        behavior=constant_policy(0.2, -30.0),
        critic=lambda observations, actions: torch.stack((actions[:, 0], 99.0 * actions[:, 0])),
    )
    batch = SimpleNamespace(observations=torch.zeros(3, 2), actions=actions)
    loss, details = OneStep().policy_loss(nets, batch, lifted(temperature=10.0, weight_max=50.0), Key.of(0, 0))
    weights = torch.exp(10.0 * (actions[:, 0] - 0.2)).clamp(max=50.0)
    log_probs = distributions.Normal(0.4, np.exp(-1.0)).log_prob(actions[:, 0])
    assert float(loss) == pytest.approx(-float((weights * log_probs).mean()), rel=1e-4)
    assert float(details["weight_capped"]) == pytest.approx(1 / 3)
    assert float(details["weight_mean"]) == pytest.approx(float(weights.mean()), rel=1e-4)


def test_the_baseline_is_a_mean_over_samples_of_the_behavior():
    """Catches values that are averaged over states for samples, and samples of the wrong spread."""
    asked = []

    def critic(observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        asked.append(actions)
        return (observations[:, 0] + actions[:, 0].square())[None]

    nets = SimpleNamespace(
        policy=constant_policy(0.0, 0.0), behavior=constant_policy(0.1, float(np.log(0.2))), critic=critic
    )
    states = torch.arange(4.0)[:, None] * 100
    batch = SimpleNamespace(observations=states, actions=torch.zeros(4, 1))
    _, details = OneStep().policy_loss(nets, batch, lifted(num_samples=2_000), Key.of(0, 0))
    assert asked[0].shape == (8_000, 1)
    # E[a^2] = 0.1^2 + 0.2^2; the standard error over 8,000 samples is below 0.001.
    assert float(details["advantage_mean"]) == pytest.approx(-0.05, abs=0.005)


def test_the_divergence_is_that_of_torch():
    """Catches KL(b || pi) for KL(pi || b), a mean over dimensions, and clipped samples in the densities."""
    means, log_stds = torch.tensor([[0.9, -0.2]]), torch.tensor([[-0.5, -1.0]])
    other_means, other_log_stds = torch.tensor([[0.1, 0.3]]), torch.tensor([[-0.1, -0.4]])
    nets = SimpleNamespace(
        policy=lambda observations: Gaussian(means, log_stds),
        behavior=lambda observations: Gaussian(other_means, other_log_stds),
        critic=lambda observations, actions: torch.full((1, 1), 7.0),
    )
    batch = SimpleNamespace(observations=torch.zeros(1, 2), actions=torch.zeros(1, 2))
    config = lifted(improvement="reverse_kl", temperature=2.0, num_samples=40_000)
    loss, details = OneStep().policy_loss(nets, batch, config, Key.of(0, 0))
    exact = distributions.kl_divergence(
        distributions.Normal(means, log_stds.exp()), distributions.Normal(other_means, other_log_stds.exp())
    ).sum()
    # Per sample the log ratio has a deviation of about 1.5.
    assert float(details["divergence"]) == pytest.approx(float(exact), abs=0.03)
    assert float(loss) == pytest.approx(float(details["divergence"]) - 14.0, rel=1e-4)


def test_sarsa_uses_the_datas_next_action():
    """Catches an action of the policy in the target, a bootstrap after an end, and the mean of two critics."""
    next_actions = torch.tensor([[0.5], [-1.0]])

    def target(observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return torch.stack((10.0 * actions[:, 0], 20.0 * actions[:, 0]))

    nets = SimpleNamespace(
        critic=lambda observations, actions: torch.zeros(2, 2), target=SimpleNamespace(critic=target)
    )
    zeros = torch.zeros(2, 1)
    batch = SimpleNamespace(
        observations=zeros, next_observations=zeros, actions=zeros, next_actions=next_actions,
        rewards=torch.tensor([1.0, 2.0]), terminals=torch.tensor([0.0, 1.0]),
    )  # fmt: skip
    loss, details = OneStep().critic_loss(nets, batch, lifted(discount=0.5), Key.of(0, 0))
    assert float(details["q_target_mean"]) == pytest.approx((1.0 + 0.5 * 5.0 + 2.0) / 2)
    assert float(loss) == pytest.approx(2 * (3.5**2 + 2.0**2) / 2)


def mean_actions(pack) -> list[float]:
    states = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    return [float(OneStep().sample_actions(networks_of(pack, seat), states, None).mean()) for seat in range(2)]


def test_exponential_weights_find_the_better_mode_at_a_high_temperature():
    """Catches weights of the wrong sign or without effect; at 0.01, the code's default, it clones the mean (-0.24)."""
    assert min(returns(trained("onestep", {**SMALL, "temperature": 10.0}, toy.two_modes(), seeds=2))) > 0.95
    cloned = trained("onestep", {**SMALL, "temperature": 0.01}, toy.two_modes(), seeds=2)
    assert all(abs(action + 0.24) < 0.12 for action in mean_actions(cloned)), mean_actions(cloned)


@pytest.mark.parametrize(("temperature", "low", "high"), [(0.01, -0.4, -0.1), (1.0, -0.2, 0.2), (30.0, 0.9, 1.0)])
def test_reverse_kl_slides_with_the_temperature(temperature: float, low: float, high: float):
    """The behaviour is one Gaussian over both modes: no penalty in the gap, and a value that drives past the data."""
    settings = {**SMALL, "improvement": "reverse_kl", "temperature": temperature}
    for action in mean_actions(trained("onestep", settings, toy.two_modes(), seeds=2)):
        assert low < action < high


@pytest.mark.parametrize("discount", [0.5, 0.9])
def test_critics_learn_exact_values(discount: float):
    """A time limit taken for an end, or a bootstrap past one, would halve or double them."""
    settings = {**SMALL, "behavior_steps": 1, "critic_steps": 1_500, "steps": 1, "discount": discount, "tau": 0.2}
    pack = trained("onestep", settings, toy.chain(), seeds=1)
    values = networks_of(pack, 0).critic(torch.eye(toy.CHAIN_LENGTH), torch.zeros(toy.CHAIN_LENGTH, 1))[0]
    np.testing.assert_allclose(values.numpy(), toy.chain_values(discount), atol=0.05)

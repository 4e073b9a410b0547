"""BRAC-v: densities and divergences against integrals, what is penalised where, and where it ends on the toys."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import learner_for, small_config
from test_probes import networks_of, trained
from torch import distributions

from raymix.algorithms.brac_v import BRACV, EDGE, sampled
from raymix.data import toy
from raymix.learner.replay import DeviceReplay
from raymix.nn.losses import squashed_log_prob
from raymix.nn.policies import Gaussian
from raymix.random import Key

SMALL = {
    "policy_hidden_dims": (32,),
    "critic_hidden_dims": (32,),
    "batch_size": 64,
    "behavior_learning_rate": 3e-3,
    "critic_learning_rate": 3e-3,
    "policy_learning_rate": 3e-3,
    "tau": 0.05,
    "behavior_steps": 300,
    "warm_start_steps": 100,
    "steps": 500,
}


def lifted(**values) -> SimpleNamespace:
    config = BRACV().configure(values)
    scalars = {name: torch.tensor(value) for name, value in config.of_kind("scalar").items()}
    return SimpleNamespace(**config.of_kind("structure"), **scalars)


def gaussian(mean: float, std: float, rows: int = 1) -> Gaussian:
    return Gaussian(torch.full((rows, 1), mean), torch.full((rows, 1), math.log(std)))


def integral(values: torch.Tensor, grid: torch.Tensor) -> float:
    return float(torch.trapezoid(values, grid))


def test_the_squashed_density_integrates_to_1_and_is_that_of_torch():
    """Catches the Jacobian's sign or its absence, and a density at the edge of the box that is not finite."""
    policy = gaussian(0.4, 0.6)
    grid = torch.linspace(-0.999, 0.999, 20_001)
    log_prob = squashed_log_prob(policy._replace(mean=policy.mean.expand(20_001, 1)), grid[:, None])
    assert integral(log_prob.exp(), grid) == pytest.approx(1.0, abs=1e-3)
    reference = distributions.TransformedDistribution(
        distributions.Normal(0.4, 0.6), [distributions.transforms.TanhTransform()]
    )
    torch.testing.assert_close(log_prob, reference.log_prob(grid), rtol=1e-3, atol=1e-3)
    assert bool(squashed_log_prob(policy, torch.tensor([[1.0], [-1.0]])).isfinite().all())


def test_the_divergence_is_the_integral():
    """Catches KL(b || pi) for KL(pi || b), the Jacobian in one density only, and a sum over samples."""
    policy, behavior = gaussian(0.4, 0.3, rows=8), gaussian(-0.1, 0.5, rows=8)
    grid = torch.linspace(-0.9999, 0.9999, 40_001, dtype=torch.float64)

    def density(of: Gaussian) -> torch.Tensor:
        wide = Gaussian(of.mean[:1].double().expand(len(grid), 1), of.log_std[:1].double().expand(len(grid), 1))
        return squashed_log_prob(wide, grid[:, None], edge=1e-6)

    exact = integral(density(policy).exp() * (density(policy) - density(behavior)), grid)
    estimate = BRACV().divergence(policy, behavior, lifted(num_samples=4_000), Key.of(0, 0))
    assert estimate.shape == (8,)
    # 32,000 samples of a log ratio with a deviation of about 1: the standard error is 0.006.
    assert float(estimate.mean()) == pytest.approx(exact, abs=0.02)
    assert exact == pytest.approx(math.log(0.5 / 0.3) + (0.09 + 0.25) / 0.5 - 0.5, abs=1e-3)


def test_the_divergence_is_never_negative_nor_above_its_cap():
    """Catches an estimate of a divergence of 0 that pays the policy, and one far from the data that is infinite."""
    same = gaussian(0.1, 0.3, rows=500)
    nearly = BRACV().divergence(gaussian(0.15, 0.3, rows=500), same, lifted(), Key.of(0, 0))
    assert float(nearly.min()) == 0.0 and float(nearly.max()) > 0.0
    far = BRACV().divergence(gaussian(3.0, 0.01, rows=500), gaussian(-3.0, 0.01, rows=500), lifted(), Key.of(0, 0))
    assert torch.equal(far, torch.full((500,), 1_000.0))


def critic_target(**values: float) -> float:
    """The mean target of one transition that goes on and one that ends; penalty 0.5 by construction of the nets."""
    rows = 4_000
    ends = torch.arange(rows) < rows // 2
    target = SimpleNamespace(critic=lambda observations, actions: torch.tensor([7.0, 3.0])[:, None].expand(2, rows))
    nets = SimpleNamespace(
        policy=lambda observations: gaussian(0.3, 0.3, rows),
        behavior=lambda observations: gaussian(0.0, 0.3, rows),
        critic=lambda observations, actions: torch.zeros(2, rows),
        target=target,
    )
    zeros = torch.zeros(rows, 1)
    batch = SimpleNamespace(
        observations=zeros, next_observations=zeros, actions=zeros, rewards=torch.ones(rows), terminals=ends.float()
    )
    config = lifted(discount=0.5, num_samples=200, **values)
    return float(BRACV().critic_loss(nets, batch, config, Key.of(0, 0))[1]["q_target_mean"])


def test_the_value_penalty_lowers_the_targets():
    """Catches a penalty of this state for the next, one at ends, the wrong sign, and a switch without effect."""
    plain = (1.0 + 0.5 * 3.0 + 1.0) / 2
    assert critic_target(value_penalty=False, alpha=1.0) == pytest.approx(plain)
    # KL of equal deviations: (0.3 / 0.3)^2 / 2 = 0.5.
    assert critic_target(alpha=1.0) == pytest.approx(plain - 0.5 * 0.5 / 2, abs=0.01)
    entropy = -float(
        squashed_log_prob(gaussian(0.3, 0.3, 20_000), sampled(gaussian(0.3, 0.3, 20_000), Key.of(1, 1))).mean()
    )
    with_entropy = critic_target(value_penalty=False, entropy_weight=2.0)
    assert with_entropy == pytest.approx(plain + 2.0 * 0.5 * entropy / 2, abs=0.02)


def test_the_warm_start_knows_no_value_and_the_main_phase_takes_the_least():
    """Catches a warm start that follows the critics, and a policy that follows the first critic or their mean."""
    nets = SimpleNamespace(
        policy=lambda observations: gaussian(0.3, 0.3, 100),
        behavior=lambda observations: gaussian(0.0, 0.3, 100),
        critic=lambda observations, actions: torch.tensor([7.0, 3.0])[:, None].expand(2, 100),
    )
    batch = SimpleNamespace(observations=torch.zeros(100, 1), actions=torch.zeros(100, 1))
    config = lifted(alpha=2.0, num_samples=500)
    warm, _ = BRACV().warm_start_loss(nets, batch, config, Key.of(0, 0))
    main, _ = BRACV().policy_loss(nets, batch, config, Key.of(0, 0))
    assert float(warm) == pytest.approx(2.0 * 0.5, abs=0.05)
    assert float(main) == pytest.approx(float(warm) - 3.0, rel=1e-4)


def test_samples_are_reparametrised_and_stay_off_the_edge():
    """Catches samples without gradient, which leave the policy nothing to learn from, and actions of exactly 1."""
    mean = torch.tensor([[0.2]], requires_grad=True)
    actions = sampled(Gaussian(mean, torch.tensor([[-1.0]])), Key.of(0, 0), 50)
    (gradient,) = torch.autograd.grad(actions.sum(), mean)
    assert float(gradient) > 10.0
    assert float(sampled(gaussian(50.0, 1.0, 9), Key.of(0, 0)).max()) == pytest.approx(1.0 - EDGE)


@pytest.mark.parametrize(("std", "rises"), [(0.01, True), (0.8, False)])
def test_the_entropy_weight_rises_where_the_entropy_is_too_low(std: float, rises: bool):
    """Catches the sign of the dual loss and of the target: it would drive the behaviour's entropy away."""
    weight = torch.tensor(1.0, requires_grad=True)
    nets = SimpleNamespace(behavior=lambda observations: gaussian(0.0, std, 200), behavior_entropy=lambda: weight)
    batch = SimpleNamespace(observations=torch.zeros(200, 1), actions=torch.zeros(200, 1))
    loss, _ = BRACV().behavior_entropy_loss(nets, batch, lifted(), Key.of(0, 0))
    (gradient,) = torch.autograd.grad(loss, weight)
    assert (float(gradient) < 0) == rises


def test_the_behavior_keeps_its_entropy_on_data_without_any():
    """Catches an entropy term of the wrong sign: on one repeated action the likelihood alone would end at its bound."""
    algorithm = BRACV()
    config = algorithm.configure(SMALL)
    learner = learner_for(algorithm, "behavior", [(config, 0)])
    learner.replay.actions = torch.zeros_like(learner.replay.actions)
    learner.run(600)
    entropy = learner.run(100).metrics["behavior_entropy"][0]
    assert entropy == pytest.approx(-2.0, abs=0.5)  # -1 for each of the two dimensions


@pytest.mark.parametrize(("alpha", "low", "high"), [(0.01, 0.9, 1.0), (0.3, 0.4, 0.7), (10.0, -0.4, -0.1)])
def test_it_slides_between_the_modes_with_alpha(alpha: float, low: float, high: float):
    """The behaviour is one Gaussian over both modes, so the penalty has its least in the gap (-0.24): where the policy
    ends is a matter of alpha, and it is past the data where alpha is small."""
    pack = trained("brac_v", {**SMALL, "alpha": alpha}, toy.two_modes(), seeds=2)
    states = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    for seat in range(2):
        action = BRACV().sample_actions(networks_of(pack, seat), states, None).mean()
        assert low < float(action) < high


def chain_values(**values) -> np.ndarray:
    settings = {
        **SMALL,
        "tau": 0.2,
        "discount": 0.9,
        "steps": 1_000,
        "behavior_steps": 5,
        "warm_start_steps": 5,
        **values,
    }
    pack = trained("brac_v", settings, toy.chain(), seeds=1)
    states, actions = torch.eye(toy.CHAIN_LENGTH), torch.zeros(toy.CHAIN_LENGTH, 1)
    return networks_of(pack, 0).critic(states, actions).numpy().mean(0)


def test_critics_learn_exact_values_less_the_penalty():
    """Catches a time limit taken for an end, a bootstrap past one, and a penalty on the last action before the end."""
    exact = toy.chain_values(0.9)
    np.testing.assert_allclose(chain_values(value_penalty=False), exact, atol=0.08)
    # A policy kept from imitating: its divergence is large in every state but the end.
    penalised = chain_values(alpha=0.05, policy_learning_rate=0.0, steps=600)
    assert penalised[-1] == pytest.approx(exact[-1], abs=0.08)
    assert (penalised[:-1] < exact[:-1] - 0.03).all()


def test_the_presets_share_one_architecture():
    """Catches widths of the behaviour that are not the policy's: the two must be comparable, layer by layer."""
    algorithm = BRACV()
    spec = DeviceReplay(toy.two_modes()).spec
    for preset in (None, *algorithm.presets):
        networks = algorithm.networks(
            spec, small_config(algorithm) if preset is None else algorithm.configure({}, preset)
        )
        shapes = [[value.shape for value in networks[name].parameters()] for name in ("behavior", "policy")]
        assert shapes[0] == shapes[1]

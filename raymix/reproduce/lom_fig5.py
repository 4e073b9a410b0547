"""Figure 5 of LOM (Wang, Jin and Montana, 2024, Appendix A): four density models on a one-step task with many modes.

States x and actions y are the coordinates of 5,000 points on two rings, a quarter of them with radius 0.3 to 0.5 and
the others 1.0 to 1.2; the reward is 1 where x and y have one sign, else 0. So each state has two or four modes of
actions, and half of them pay. Each model is fitted to all points at once (Adam, rate 1e-3, hidden width 64):

- Gaussian:  w * (y - mean(x))^2 / (2 std(x)^2) + log std(x); the weight is on the squared term alone, as the authors'.
- CVAE:      w * [(y - decoder(x, z))^2 + 0.1 * KL(encoder(x, y) || N(0, I))], 10 latent dimensions.
- CGAN:      discriminator -w * log D(x, y) - log(1 - D(x, G(x, z))), generator -log D(x, G(x, z)), 1 of noise.
- MDN:       -log sum_u w_u(x) N(y; mean_u(x), std_u(x)), 20 components, never weighted by reward.

w is 1 in the figure's first row and exp(2 r), exp(5 r), exp(2 r) in the second. LOM's own answer is the last panel:
of the MDN's components at a state, the 10 with the best hyper-Q, here E[r(x, y)] over draws y of the component, are
kept and their weights renormalised.

Differences from the authors' script, which the figure's text does not settle: fewer epochs (`EPOCHS` against
`AUTHORS_EPOCHS`); components are ranked by that expectation and not by the quadrant of their mean; the MDN sees
y / 1.6, because raymix's mixture lives in the unit box and the outer ring does not; log standard deviations are clamped
as in `lom`; the generator's loss is the non-saturating one.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde
from torch import Tensor, nn
from torch.nn import functional

from raymix.files import write_atomically
from raymix.nn.latent import Decoder, Encoder
from raymix.nn.layers import Standardise, mlp
from raymix.nn.losses import component_std, latent_divergence, mixture_loss
from raymix.nn.policies import Mixture, MixturePolicy

NAME = "lom-fig5"
POINTS = 5_000
WIDTH = 64
LATENT_DIM = 10
COMPONENTS, KEPT = 20, 10
REWARD_DRAWS = 64
"""Actions drawn per component and state for the hyper-Q."""
LIMIT = 1.6
"""Half the side of the figure's square, and the MDN's unit of actions."""
INNER, OUTER, RING_WIDTH = 0.3, 1.0, 0.2
AUTHORS_EPOCHS = {"Gaussian": 10_000, "CVAE": 50_000, "CGAN": 50_000, "MDN": 10_000}
EPOCHS = {"Gaussian": 3_000, "CVAE": 5_000, "CGAN": 5_000, "MDN": 3_000}
REWARD_WEIGHTS = {"Gaussian": 2.0, "CVAE": 5.0, "CGAN": 2.0}
"""Multiplies the reward in the exponent of a point's weight."""

Sampler = Callable[[Tensor], Tensor]
"""States (N, 1) -> one action for each (N, 1), from torch's global generator."""


class Points(NamedTuple):
    """The data set."""

    states: Tensor
    """(N, 1)."""
    actions: Tensor
    """(N, 1)."""
    rewards: Tensor
    """(N,)."""


def rings(number: int = POINTS) -> Points:
    """Points on the two rings, a quarter of them on the inner one, from torch's global generator."""
    inner = torch.arange(number) < round(0.25 * number)
    radius = torch.where(inner, INNER, OUTER) + RING_WIDTH * torch.rand(number)
    angle = 2.0 * math.pi * torch.rand(number)
    states, actions = (radius * torch.cos(angle))[:, None], (radius * torch.sin(angle))[:, None]
    return Points(states, actions, reward_of(states, actions)[:, 0])


def reward_of(states: Tensor, actions: Tensor) -> Tensor:
    """1 in the first and the third quadrant, else 0; shapes broadcast."""
    return (states * actions > 0).to(actions.dtype)


def on_rings(states: Tensor, actions: Tensor, tolerance: float = 0.1) -> Tensor:
    """Whether a point is on a ring or within `tolerance` of one."""
    radius = torch.hypot(states, actions)
    return torch.stack(
        [(start - tolerance <= radius) & (radius <= start + RING_WIDTH + tolerance) for start in (INNER, OUTER)]
    ).any(0)


# Models: each fits itself to the points with one weight per point, and returns how to sample from it.


def minimise(networks: nn.Module, loss: Callable[[], Tensor], epochs: int) -> None:
    """Full-batch Adam."""
    adam = torch.optim.Adam(networks.parameters(), 1e-3)
    for _ in range(epochs):
        adam.zero_grad()
        loss().backward()
        adam.step()


def unit_scale() -> Standardise:
    """States are left as they are."""
    return Standardise([0.0], [1.0])


def fit_gaussian(points: Points, weights: Tensor, epochs: int) -> Sampler:
    """A normal distribution whose mean and standard deviation depend on the state."""
    network = mlp(1, (WIDTH, WIDTH), 2)

    def loss() -> Tensor:
        mean, log_std = network(points.states).chunk(2, -1)
        squared = 0.5 * ((points.actions - mean) * torch.exp(-log_std)).square()
        return (weights[:, None] * squared + log_std).mean()

    def sample(states: Tensor) -> Tensor:
        mean, log_std = network(states).chunk(2, -1)
        return mean + log_std.exp() * torch.randn_like(mean)

    minimise(network, loss, epochs)
    return sample


def fit_cvae(points: Points, weights: Tensor, epochs: int) -> Sampler:
    """A conditional variational auto-encoder."""
    encoder = Encoder(unit_scale(), 1, (WIDTH,), LATENT_DIM)
    decoder = Decoder(unit_scale(), 1, (WIDTH,), LATENT_DIM, squash=False)

    def loss() -> Tensor:
        latent = encoder(points.states, points.actions)
        decoded = decoder(points.states, latent.sample(torch.randn_like(latent.mean)))
        error = (points.actions - decoded).square().sum(-1)
        return (weights * (error + 0.1 * latent_divergence(latent))).mean()

    minimise(nn.ModuleList((encoder, decoder)), loss, epochs)
    return lambda states: decoder(states, torch.randn(len(states), LATENT_DIM))


def fit_cgan(points: Points, weights: Tensor, epochs: int) -> Sampler:
    """A conditional generative adversarial network."""
    generator, discriminator = mlp(2, (WIDTH, WIDTH), 1), mlp(2, (WIDTH, WIDTH), 1)
    generator_adam, discriminator_adam = (
        torch.optim.Adam(network.parameters(), 1e-3) for network in (generator, discriminator)
    )

    def generate(states: Tensor) -> Tensor:
        return generator(torch.cat((states, torch.randn_like(states)), -1))

    real = torch.cat((points.states, points.actions), -1)
    for _ in range(epochs):
        fake = generate(points.states)
        # -log D is softplus(-logit) and -log(1 - D) is softplus(logit).
        real_loss = weights * functional.softplus(-discriminator(real))[:, 0]
        fake_loss = functional.softplus(discriminator(torch.cat((points.states, fake.detach()), -1)))
        discriminator_adam.zero_grad()
        (real_loss.mean() + fake_loss.mean()).backward()
        discriminator_adam.step()

        generator_adam.zero_grad()
        functional.softplus(-discriminator(torch.cat((points.states, fake), -1))).mean().backward()
        generator_adam.step()
    return generate


def fit_mdn(points: Points, epochs: int) -> MixturePolicy:
    """A mixture density network; its actions are y / LIMIT."""
    network = MixturePolicy(unit_scale(), (WIDTH, WIDTH), 1, COMPONENTS)
    minimise(network, lambda: mixture_loss(network(points.states), points.actions / LIMIT)[0], epochs)
    return network


def hyper_q(states: Tensor, mixture: Mixture, draws: int = REWARD_DRAWS) -> Tensor:
    """(N, M): the mean reward of actions drawn from each component."""
    noise = torch.randn(*mixture.means.shape[:2], draws)
    actions = mixture.means + component_std(mixture) * noise
    return reward_of(states[..., None], actions).mean(-1)


def best_components(mixture: Mixture, values: Tensor, kept: int) -> Mixture:
    """The mixture of the `kept` components with the highest values (N, M), the others' weights 0."""
    best = values.topk(kept, dim=-1).indices
    return mixture._replace(logits=torch.full_like(mixture.logits, -torch.inf).scatter(-1, best, mixture.logits.gather(-1, best)))


def sample_mixture(mixture: Mixture) -> Tensor:
    """(N, 1): one action per state, in the figure's units."""
    component = torch.distributions.Categorical(logits=mixture.logits).sample()[:, None, None]
    mean, std = mixture.means.gather(1, component)[:, 0], component_std(mixture).gather(1, component)[:, 0]
    return LIMIT * (mean + std * torch.randn_like(mean))

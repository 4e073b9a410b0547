"""LOM, figure 5: four density models of actions with many modes, of which half pay (Wang et al., 2024, Appendix A).

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

import contextlib
import csv
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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

from raymix.files import AnyPath, write_atomically
from raymix.nn.latent import Decoder, Encoder
from raymix.nn.layers import Standardise, mlp
from raymix.nn.losses import component_std, latent_divergence, mixture_loss
from raymix.nn.policies import Mixture, MixturePolicy
from raymix.reproduce.base import Options, Outcome, new_folder

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
    nothing = torch.full_like(mixture.logits, -torch.inf)
    return mixture._replace(logits=nothing.scatter(-1, best, mixture.logits.gather(-1, best)))


def sample_mixture(mixture: Mixture) -> Tensor:
    """(N, 1): one action per state, in the figure's units."""
    component = torch.distributions.Categorical(logits=mixture.logits).sample()[:, None, None]
    mean, std = mixture.means.gather(1, component)[:, 0], component_std(mixture).gather(1, component)[:, 0]
    return LIMIT * (mean + std * torch.randn_like(mean))


# Training


@dataclass(frozen=True)
class Fitted:
    """One model of one seed: the actions that it takes at the data's states."""

    model: str
    """'data', or a key of `EPOCHS`."""
    rewarded: bool
    """Of the figure's second row: weighted by reward, or ranked by it."""
    seed: int
    epochs: int
    points: Points
    seconds: float
    """Processor time of training; the ranked MDN has that of the MDN."""

    @property
    def name(self) -> str:
        """What the table and the figure call it."""
        if not self.rewarded:
            return self.model
        return {"data": "data, reward 1", "MDN": "ranked MDN"}.get(self.model, f"weighted {self.model}")

    @property
    def rewarded_share(self) -> float:
        """Share of actions in the rewarded quadrants."""
        return float(self.points.rewards.mean())

    @property
    def on_rings_share(self) -> float:
        """Share of actions on a ring, or within 0.1 of one."""
        return float(on_rings(self.points.states, self.points.actions).to(torch.float32).mean())


FITS: Mapping[str, Callable[[Points, Tensor, int], Sampler]] = {
    "Gaussian": fit_gaussian,
    "CVAE": fit_cvae,
    "CGAN": fit_cgan,
}


def train(seed: int, epochs: Mapping[str, int], progress: Callable[[str], None] = lambda line: None) -> list[Fitted]:
    """All models on one seed's data, in the figure's order: its first row, then its second without panel (f)."""
    with _seeded(seed):
        data = rings()
    plain = [Fitted("data", False, seed, 0, data, 0.0)]
    rewarded: list[Fitted] = []

    def fitted(model: str, of_second_row: bool, actions: Tensor, since: float) -> Fitted:
        points = Points(data.states, actions, reward_of(data.states, actions)[:, 0])
        made = Fitted(model, of_second_row, seed, epochs[model], points, time.process_time() - since)
        progress(
            f"seed {seed}: {made.name}, {made.epochs:,} epochs in {made.seconds:.0f} s of processor time, "
            f"{made.rewarded_share:.0%} of its actions rewarded"
        )
        return made

    for model, fit in FITS.items():
        for weighted in (False, True):
            started = time.process_time()
            weights = torch.exp(REWARD_WEIGHTS[model] * data.rewards * weighted)
            with _seeded(seed):
                sample = fit(data, weights, epochs[model])
                with torch.no_grad():
                    actions = sample(data.states)
            (rewarded if weighted else plain).append(fitted(model, weighted, actions, started))
    started = time.process_time()
    with _seeded(seed):
        network = fit_mdn(data, epochs["MDN"])
        with torch.no_grad():
            mixture = network(data.states)
            best = best_components(mixture, hyper_q(data.states, mixture), KEPT)
            actions, best_actions = sample_mixture(mixture), sample_mixture(best)
    plain.append(fitted("MDN", False, actions, started))
    rewarded.append(fitted("MDN", True, best_actions, started))
    return plain + rewarded


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's global generator starts from `seed` inside, and is as it was outside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


# Table and figure


def table(fitted_models: Sequence[Fitted]) -> str:
    """Shares in per cent, one row per model and one column per seed, as aligned text."""
    names = list(dict.fromkeys(fitted.name for fitted in fitted_models))
    seeds = sorted({fitted.seed for fitted in fitted_models})
    rows = [["model", "rewarded, per seed", "mean", "on the rings", "epochs", "authors' epochs"]]
    for name in names:
        own = [fitted for fitted in fitted_models if fitted.name == name]
        shares = [100.0 * fitted.rewarded_share for fitted in own]
        authors = AUTHORS_EPOCHS.get(own[0].model)
        rows.append(
            [
                name,
                "  ".join(f"{share:.1f}" for share in shares),
                f"{np.mean(shares):.1f}",
                f"{np.mean([100.0 * fitted.on_rings_share for fitted in own]):.1f}",
                f"{own[0].epochs:,}" if authors else "",
                f"{authors:,}" if authors else "",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [" | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    lines.insert(1, "-+-".join("-" * width for width in widths))
    number = len(fitted_models[0].points.states)
    return "\n".join(
        [
            *lines,
            "",
            f"Per cent of {number:,} actions, one at each state of the data; rewarded: in the first or third quadrant;",
            f"on the rings: within 0.1 of one. Seeds {', '.join(map(str, seeds))}. The paper prints no numbers.",
        ]
    )


def to_csv(fitted_models: Sequence[Fitted]) -> str:
    """One line per model and seed."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("model", "seed", "rewarded_share", "on_rings_share", "epochs", "authors_epochs", "cpu_seconds"))
    for fitted in fitted_models:
        shares = (f"{fitted.rewarded_share:.4f}", f"{fitted.on_rings_share:.4f}")
        authors = AUTHORS_EPOCHS.get(fitted.model, 0)
        writer.writerow((fitted.name, fitted.seed, *shares, fitted.epochs, authors, f"{fitted.seconds:.1f}"))
    return lines.getvalue()


_LEVELS = 8
_LEAST_SHARE = 0.2
"""Share of the density's mass outside the outermost contour (the authors')."""
_BANDWIDTH = 0.5
"""Multiplies Scott's bandwidth (the authors')."""
_CELLS = 120


def figure(fitted_models: Sequence[Fitted]) -> bytes:
    """The ten panels of one seed as a PNG: densities of states and actions."""
    plain = [fitted for fitted in fitted_models if not fitted.rewarded]
    second = [plain[0], *(fitted for fitted in fitted_models if fitted.rewarded)]
    style: Any = {"font.size": 7, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6}
    with matplotlib.rc_context(style):
        canvas = Figure(figsize=(7.2, 3.3), dpi=300, layout="constrained")
        FigureCanvasAgg(canvas)
        axes = canvas.subplots(2, 5, sharex=True, sharey=True)
        for place, fitted in enumerate([*plain, *second]):
            panel, in_second = axes.flat[place], place >= len(plain)
            _quadrants(panel, in_second)
            if fitted.model == "data" and in_second:
                for value, colours in ((0.0, "Greys"), (1.0, "Oranges")):
                    _density(panel, fitted.points, fitted.points.rewards == value, colours)
                name = "data with rewards"
            else:
                everything = torch.ones_like(fitted.points.rewards, dtype=torch.bool)
                _density(panel, fitted.points, everything, "Oranges" if in_second else "Blues")
                name = fitted.name
            panel.set_title(f"({'abcdefghij'[place]}) {name}", fontsize=7, pad=3)
            if in_second and fitted.model != "data":
                _note(panel, f"{fitted.rewarded_share:.0%} rewarded")
        for panel in axes[1]:
            panel.set_xlabel("state $x$", labelpad=1)
        for panel in axes[:, 0]:
            panel.set_ylabel("action $y$", labelpad=-2)
        image = io.BytesIO()
        canvas.savefig(image, format="png")
    return image.getvalue()


def _quadrants(axes: Axes, rewarded: bool) -> None:
    """An empty square panel; the quadrants that pay are tinted where they matter."""
    axes.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), xticks=(-1, 0, 1), yticks=(-1, 0, 1), aspect="equal")
    axes.tick_params(length=2, pad=2)
    for line in (axes.axhline, axes.axvline):
        line(0.0, color="0.75", linewidth=0.5, zorder=0.6)
    if rewarded:
        for sign in (-1, 1):
            axes.fill_between((0, sign * LIMIT), 0, sign * LIMIT, color="#fff3e2", linewidth=0, zorder=0.5)


def _note(axes: Axes, words: str) -> None:
    axes.text(0.97, 0.03, words, transform=axes.transAxes, ha="right", va="bottom", fontsize=6, color="0.25")


def _density(axes: Axes, points: Points, chosen: Tensor, colours: str) -> None:
    """Filled contours of a kernel density, each enclosing a further share of its mass."""
    places = torch.cat((points.states, points.actions), -1)[chosen].double().numpy().T
    kernel = gaussian_kde(places, bw_method=lambda kernel: _BANDWIDTH * kernel.scotts_factor())
    ticks = np.linspace(-LIMIT, LIMIT, _CELLS)
    across, up = np.meshgrid(ticks, ticks)
    density = kernel(np.stack((across.ravel(), up.ravel()))).reshape(across.shape)
    ascending = np.sort(density.ravel())
    mass = np.cumsum(ascending) / ascending.sum()
    shares = np.linspace(_LEAST_SHARE, 1.0, _LEVELS + 1)[:-1]
    levels = np.append(ascending[np.searchsorted(mass, shares)], 1.001 * ascending[-1])
    shades = matplotlib.colormaps[colours](np.linspace(0.25, 0.95, _LEVELS))
    axes.contourf(across, up, density, levels=levels, colors=shades, zorder=1)


def reproduce(options: Options) -> Outcome:
    """Train everything in a folder of its own; the table and the ten panels."""
    folder = new_folder(options, NAME)
    text = rebuild(folder, lambda line: None if options.quiet else print(line, flush=True))
    return Outcome(text, (str(folder / f"{NAME}.png"), str(folder / f"{NAME}.csv")))


def rebuild(
    folder: AnyPath, progress: Callable[[str], None], seeds: int = 3, epochs: Mapping[str, int] = EPOCHS
) -> str:
    """Train everything, write `lom-fig5.png` (the first seed) and `lom-fig5.csv` into `folder`; returns the table."""
    fitted_models = [fitted for seed in range(seeds) for fitted in train(seed, epochs, progress)]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{NAME}.csv", to_csv(fitted_models))
    progress("drawing the figure")
    write_atomically(folder / f"{NAME}.png", figure([fitted for fitted in fitted_models if fitted.seed == 0]))
    return table(fitted_models)

"""Shared mathematics of losses: log-likelihoods, divergences, and weights of samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raymix.nn.latent import Latent
from raymix.nn.policies import Gaussian, Mixture

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


def normal_log_prob(values: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of independent normals, summed over the last axis."""
    return (-0.5 * ((values - mean) * torch.exp(-log_std)).square() - log_std - _HALF_LOG_TWO_PI).sum(-1)


def gaussian_log_prob(policy: Gaussian, actions: Tensor) -> Tensor:
    """(B,): log-density of actions (B, A)."""
    return normal_log_prob(actions, policy.mean, policy.log_std.expand_as(policy.mean))


LOG_STD_MIN, LOG_STD_MAX = -15.0, 0.0
"""Bounds of a mixture component's log standard deviation (the LOM authors')."""


def component_std(policy: Mixture) -> Tensor:
    """(B, M, A): the components' standard deviations within their bounds."""
    return policy.log_stds.clamp(LOG_STD_MIN, LOG_STD_MAX).exp()


def mixture_log_prob(policy: Mixture, actions: Tensor) -> Tensor:
    """(B,): log-density of actions (B, A), log standard deviations within their bounds.

    The 1e-8 inside the logarithm of the weights is the LOM authors': a component whose weight underflows stays
    finite.
    """
    log_stds = policy.log_stds.clamp(LOG_STD_MIN, LOG_STD_MAX)
    components = normal_log_prob(actions[..., None, :], policy.means, log_stds)
    return torch.logsumexp(components + torch.log(torch.softmax(policy.logits, -1) + 1e-8), -1)


def mixture_loss(policy: Mixture, actions: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Negative log-likelihood of actions (B, A), and the metrics of how the mixture spreads."""
    loss = -mixture_log_prob(policy, actions).mean()
    return loss, {
        "component_std": component_std(policy).mean(),
        "component_weight_max": torch.softmax(policy.logits, -1).amax(-1).mean(),
    }


def latent_divergence(latent: Latent) -> Tensor:
    """(B,): KL(N(mean, variance) || N(0, I)), summed over the latent dimensions."""
    mean, log_variance = latent
    return -0.5 * (1.0 + log_variance - mean.square() - log_variance.exp()).sum(-1)


def expectile_loss(difference: Tensor, expectile: Tensor | float) -> Tensor:
    """|expectile - 1(difference < 0)| * difference^2, elementwise (Kostrikov et al., 2022)."""
    return torch.where(difference < 0, 1.0 - expectile, expectile) * difference.square()


def normalized_weights(advantage: Tensor, alpha: Tensor | float, divide_by_mean: bool = True) -> Tensor:
    """(B,): exp(alpha * (A - max A) / (max A - min A)) over the batch, then divided by its mean (Osa et al., 2023).

    Without gradient. 1e-8 in the width keeps equal advantages finite; the authors' code divides by zero there.
    """
    advantage = advantage.detach()
    top = advantage.amax()
    weights = torch.exp(alpha * (advantage - top) / (top - advantage.amin() + 1e-8))
    return weights / weights.mean() if divide_by_mean else weights


WEIGHTINGS = ("normalized", "plain", "clamped")
CLAMPED_WEIGHT_MAX = 100.0


def advantage_weights(
    advantage: Tensor,
    form: str,
    alpha: Tensor | float,
    divide_by_mean: bool = True,
    weight_max: Tensor | float = CLAMPED_WEIGHT_MAX,
) -> Tensor:
    """(B,) weights of a regression, without gradient, in one of the forms of the DMPO authors' code.

    'normalized' is `normalized_weights`; 'plain' is exp(alpha * (A - max A)), divided by its mean too;
    'clamped' is min(exp(alpha * A), weight_max), never divided.
    """
    if form == "normalized":
        return normalized_weights(advantage, alpha, divide_by_mean)
    advantage = advantage.detach()
    if form == "clamped":
        return torch.exp(alpha * advantage).clamp(max=weight_max)
    weights = torch.exp(alpha * (advantage - advantage.amax()))
    return weights / weights.mean() if divide_by_mean else weights


def squashed_log_prob(policy: Gaussian, actions: Tensor, edge: float = 1e-3) -> Tensor:
    """(B,): log-density of tanh(x), x ~ `policy`, at actions in the unit box.

    Actions are first clipped to 1 - `edge`: at the box's own edge the density is infinite.
    """
    clipped = actions.clamp(-1.0 + edge, 1.0 - edge)
    # Not torch.atanh: on a CPU its last bit depends on where in the tensor a number lies, so on the member's seat.
    before = 0.5 * (torch.log1p(clipped) - torch.log1p(-clipped))
    log_std = policy.log_std.expand_as(policy.mean)
    return normal_log_prob(before, policy.mean, log_std) - torch.log1p(-clipped.square()).sum(-1)

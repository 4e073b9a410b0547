"""Shared mathematics of losses: log-likelihoods of actions under a policy's distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

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

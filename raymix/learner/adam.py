"""Adam with a learning rate and a step count per member (Kingma and Ba, 2015; betas 0.9, 0.999, epsilon 1e-8)."""

from __future__ import annotations

import torch
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def adam_(
    parameters: list[Tensor],
    gradients: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    count: Tensor,
    learning_rate: Tensor,
) -> None:
    """One step in place. Tensors are (N, ...); `count` (N,) int64 is the number of steps taken before, and is raised.

    The member axis comes first everywhere, and nothing is reduced over it: a member's NaN stays its own.
    """
    count += 1
    steps = count.to(learning_rate.dtype)
    step_size = learning_rate / (1 - BETA1**steps)
    square_scale = torch.sqrt(1 - BETA2**steps)
    for parameter, gradient, mean, square in zip(parameters, gradients, means, squares, strict=True):
        shape = (-1,) + (1,) * (parameter.dim() - 1)
        mean.lerp_(gradient, 1 - BETA1)
        square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        denominator = square.sqrt() / square_scale.view(shape) + EPSILON
        parameter.addcdiv_(-step_size.view(shape) * mean, denominator)

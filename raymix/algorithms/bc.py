"""Behaviour cloning: a Gaussian policy fitted to the data's actions by maximum likelihood.

    minimise  -log N(a; tanh(f(s)), sigma),   sigma a free parameter per action dimension

acting by the mean. This is the form LOM's tables compare with (Wang, Jin and Montana, 2024, and their code): on data
with several modes the mean falls between them. Differences from that code: none known, except that observations are
standardised as in `lom`, so that the two differ by their idea alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from raymix.algorithms.base import Algorithm, Phase, Update
from raymix.config import AlgorithmConfig, scalar, structure
from raymix.nn.layers import Standardise
from raymix.nn.losses import gaussian_log_prob
from raymix.nn.policies import GaussianPolicy
from raymix.random import Key
from raymix.types import Spec


@dataclass(frozen=True)
class Config(AlgorithmConfig):
    learning_rate: float = scalar(1e-3, low=0, help="Adam's rate")
    batch_size: int = structure(512, low=1, help="transitions per step")
    hidden_dims: tuple = structure((256, 256), help="hidden widths of the policy")


class BC(Algorithm):
    """Imitates the data's mean action."""

    Config = Config
    paper = "Pomerleau, 1988, ALVINN; the form compared with in Wang, Jin and Montana, 2024"
    acting = ("policy",)
    phases = (Phase("main", (Update("policy_loss", "policy"),)),)
    presets = {"small": {"batch_size": 256, "steps": 3_000}}

    def networks(self, spec: Spec, config: Any) -> dict[str, nn.Module]:
        standardise = Standardise.noisy(spec)
        return {"policy": GaussianPolicy(standardise, config.hidden_dims, spec.action_dim)}

    def policy_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        policy = nets.policy(batch.observations)
        loss = -gaussian_log_prob(policy, batch.actions).mean()
        return loss, {
            "squared_error": (policy.mean - batch.actions).square().mean(),
            "action_std": policy.log_std.exp().mean(),
        }

    def sample_actions(self, nets: Any, observations: Tensor, config: Any, key: Key | None = None) -> Tensor:
        return nets.policy(observations).mean

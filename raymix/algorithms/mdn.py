"""Mixture density network cloning: the first phase of LOM, acting by a sample (Bishop, 1994).

    minimise  -log sum_u w_u(s) N(a; mean_u(s), std_u(s))

Acting draws a component by its weight and an action from it (clipped to the box), so the policy repeats the data's
modes in the data's proportions. Without a key it acts by the mean of the heaviest component. Differences from the
authors' code of LOM (Wang, Jin and Montana, 2024): none known; the log standard deviation is clamped in the
likelihood and in sampling alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from raymix.algorithms.base import Algorithm, Phase, Update
from raymix.config import AlgorithmConfig, scalar, structure
from raymix.nn.layers import Standardise
from raymix.nn.losses import component_std, mixture_loss
from raymix.nn.policies import MixturePolicy
from raymix.random import Key
from raymix.types import Spec


@dataclass(frozen=True)
class Config(AlgorithmConfig):
    num_components: int = structure(5, low=1, help="M: components of the mixture")
    learning_rate: float = scalar(1e-3, low=0, help="Adam's rate")
    batch_size: int = structure(512, low=1, help="transitions per step")
    hidden_dims: tuple = structure((512, 512), help="hidden widths of the mixture density network")


class MDN(Algorithm):
    """Imitates the whole distribution of the data's actions."""

    Config = Config
    paper = "Bishop, 1994, Mixture density networks; compared with in Wang, Jin and Montana, 2024"
    acting = ("mdn",)
    phases = (Phase("main", (Update("mdn_loss", "mdn"),)),)
    presets = {"small": {"batch_size": 256, "hidden_dims": (256, 256), "steps": 2_000}}

    def networks(self, spec: Spec, config: Any) -> dict[str, nn.Module]:
        standardise = Standardise.noisy(spec)
        return {"mdn": MixturePolicy(standardise, config.hidden_dims, spec.action_dim, config.num_components)}

    def mdn_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        return mixture_loss(nets.mdn(batch.observations), batch.actions)

    def sample_actions(self, nets: Any, observations: Tensor, config: Any, key: Key | None = None) -> Tensor:
        mixture = nets.mdn(observations)
        component = mixture.logits.argmax(-1) if key is None else key.categorical(mixture.logits)
        chosen = component[:, None, None].expand(-1, 1, mixture.means.shape[-1])
        actions = mixture.means.gather(1, chosen)[:, 0]
        if key is not None:
            actions = actions + component_std(mixture).gather(1, chosen)[:, 0] * key.normal(*actions.shape)
        return actions.clamp(-1.0, 1.0)

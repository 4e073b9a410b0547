"""Weighted imitation learning on one mode: LOM (Wang, Jin and Montana, 2024).

1. Phase `mdn`. A mixture density network models the behaviour policy, pi_b(a|s) = sum_u w_u(s) N_u(a|s),
   by maximum likelihood. Its M components are the modes.
2. Phase `main`, in this order in every step:
   - critics:      Q(s, a) <- r + discount * min_k Q_k_target(s', a'),  a' the data's next action plus clipped noise;
   - hyper critic: Q_H(s, u) <- Q(s, a_u),  a_u ~ N_u(.|s),  for every mode u;
   - policy:       u* = argmax_u Q_H(s, u),  a ~ N_u*(.|s),
                   minimise  clip(exp(beta * (Q(s, a) - Q(s, mu(s)))), 0, weight_max) * |mu(s) - a|^2;
   - every second step, the first one included, the target critics follow with rate tau.

The policy mu(s) = tanh(.) acts deterministically.

Differences from the authors' code (MianchuWang/LOM), each with its reason:
- `min_component_weight`: only modes whose mixing weight at the state reaches it may be selected; where none does, the
  heaviest is. The mean of a component that the data never used at a state is arbitrary, and the critic overestimates
  it. 0 gives the plain argmax.
- The hyper critic maps s to M values instead of (s, onehot(u)) to one: the same function class per mode, one forward
  pass instead of M. `hyper_critic="one_hot"` is theirs.
- The log standard deviations are clamped wherever they are used; theirs are not when the policy's target is sampled.
  `clamp_policy_sample=False` is theirs.
- Next actions never cross episodes; theirs do at time limits.
- Widths default to 256 everywhere but in the mixture (512), as in the code (the paper's table says 512).
Differences of the paper's text from that code, where the code is followed: `beta` multiplies the advantage (the paper
prints its inverse); the baseline of the advantage is the policy's action, not the mode's mean (`baseline="mode"` is
the paper's); the imitation loss is a squared error, not a log-likelihood.
Presets such as `halfcheetah-medium-replay` are the authors' settings per data set, with `paper`'s other values: the
plain argmax, 200,000 + 1,000,000 steps. For any other data set their code raises KeyError. Its settings then are not
known; `paper` stands in with K = 1, M = 5, beta = 5, no action noise, target noise 0.2 and C = 50, raymix's defaults.
They chose M per data set on the evaluation score.
The preset `small` is for data of about 1e5 transitions with returns of about 1e2 and minutes of training on a CPU. Its
`beta` is 1: at 5, a policy that comes to sit on an action that the critic overestimates finds every other action so
much worse that the weights vanish (`weight_vanished`) and it never leaves. Its `min_component_weight` is 0.05: at 0.02
components just above it were selected whose means point out of the data. On `fetchreach-multigoal` with M = 15, 2,000
main steps and 4 seeds: returns 95 to 96 with both; 20 to 95 with beta alone; about 2 with the weight alone.
Observations are standardised by the mean and by sqrt(variance + 0.05^2): the code fits its scaler to observations
with noise of that size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raymix.algorithms.base import Algorithm, Phase, Update
from raymix.config import AlgorithmConfig, scalar, schedule, structure
from raymix.nn.layers import Standardise, mlp
from raymix.nn.losses import component_std, mixture_loss
from raymix.nn.policies import DeterministicPolicy, Mixture, MixturePolicy
from raymix.nn.values import Critics
from raymix.random import Key
from raymix.types import Spec


@dataclass(frozen=True)
class Config(AlgorithmConfig):
    num_components: int = structure(5, low=1, help="M: components of the mixture, the modes to choose from")
    num_critics: int = structure(1, low=1, help="K: critics; targets take their minimum, the policy uses the first")
    beta: float = scalar(5.0, low=0, help="multiplies the advantage in the weight (the paper prints its inverse)")
    weight_max: float = scalar(50.0, low=0, help="C: cap of the weight")
    min_component_weight: float = scalar(
        0.02, low=0, high=1, help="mixing weight a mode needs at a state to be selected; 0 is the authors' argmax"
    )
    action_noise: float = scalar(0.0, low=0, help="sd of noise added to the imitated action (ac_rand in the code)")
    target_noise: float = scalar(0.2, low=0, help="sd of noise added to the next action, clipped at 0.5")
    discount: float = scalar(0.99, low=0, high=1, help="discount per step")
    tau: float = scalar(0.005, low=0, high=1, help="share by which target critics move to the critics")
    critic_learning_rate: float = scalar(3e-4, low=0, help="Adam's rate for the critics")
    hyper_critic_learning_rate: float = scalar(1e-3, low=0, help="Adam's rate for the hyper critic")
    policy_learning_rate: float = scalar(1e-3, low=0, help="Adam's rate for the policy")
    mdn_learning_rate: float = scalar(1e-3, low=0, help="Adam's rate for the mixture")
    mdn_steps: int = schedule(10_000, low=1, help="gradient steps of the mixture phase (preset paper: 200,000)")
    critic_batch_size: int = structure(256, low=1, help="transitions per critic update")
    hyper_critic_batch_size: int = structure(1024, low=1, help="states per hyper critic update, each with M actions")
    policy_batch_size: int = structure(256, low=1, help="states per policy update")
    mdn_batch_size: int = structure(512, low=1, help="transitions per mixture update")
    mdn_hidden_dims: tuple = structure((512, 512), help="hidden widths of the mixture density network")
    hidden_dims: tuple = structure((256, 256), help="hidden widths of critics, hyper critic and policy")
    hyper_critic: str = structure("per_mode", choices=("per_mode", "one_hot"), help="s -> M values, or (s, u) -> 1")
    baseline: str = structure("policy", choices=("policy", "mode"), help="action that the advantage compares with")
    clamp_policy_sample: bool = structure(True, help="clamp log sd when the imitated action is sampled")


PAPER = {"min_component_weight": 0.0, "mdn_steps": 200_000, "steps": 1_000_000}

_PUBLISHED_FIELDS = ("num_critics", "num_components", "beta", "action_noise", "target_noise", "weight_max")
PUBLISHED: dict[str, dict[str, Any]] = {
    name: {**dict(zip(_PUBLISHED_FIELDS, values, strict=True)), **PAPER}
    for name, values in {
        "halfcheetah-medium-replay": (1, 5, 5.0, 0.4, 0.2, 100.0),
        "halfcheetah-full-replay": (1, 10, 5.0, 0.4, 0.2, 100.0),
        "halfcheetah-medium": (1, 2, 5.0, 0.4, 0.2, 100.0),
        "halfcheetah-medium-expert": (2, 1, 0.1, 0.0, 0.0, 50.0),
        "halfcheetah-expert": (1, 2, 0.1, 0.0, 0.0, 50.0),
        "hopper-medium-replay": (1, 5, 5.0, 0.0, 0.2, 50.0),
        "hopper-full-replay": (2, 10, 5.0, 0.0, 0.2, 50.0),
        "hopper-medium": (3, 5, 5.0, 0.0, 0.2, 50.0),
        "hopper-medium-expert": (6, 2, 0.1, 0.0, 0.0, 50.0),
        "hopper-expert": (1, 2, 0.1, 0.0, 0.2, 50.0),
        "walker2d-medium-replay": (1, 10, 5.0, 0.0, 0.2, 50.0),
        "walker2d-full-replay": (1, 10, 5.0, 0.0, 0.2, 50.0),
        "walker2d-medium": (1, 2, 5.0, 0.0, 0.2, 50.0),
        "walker2d-medium-expert": (3, 5, 0.1, 0.2, 0.0, 50.0),
        "walker2d-expert": (1, 5, 0.1, 0.2, 0.0, 50.0),
    }.items()
}
"""The authors' settings per D4RL data set."""


class HyperCritic(nn.Module):
    """Value of acting by each mode: observations (B, S) -> (B, M)."""

    def __init__(self, standardise: Standardise, hidden_dims: tuple[int, ...], num_components: int, form: str) -> None:
        super().__init__()
        self.standardise, self.num_components, self.form = standardise, num_components, form
        size = len(standardise.mean)
        per_mode = form == "per_mode"
        self.trunk = mlp(size if per_mode else size + num_components, hidden_dims, num_components if per_mode else 1)

    def forward(self, observations: Tensor) -> Tensor:
        states = self.standardise(observations)
        if self.form == "per_mode":
            return self.trunk(states)
        modes = torch.eye(self.num_components, dtype=states.dtype, device=states.device)
        shape = (*states.shape[:-1], self.num_components, -1)
        return self.trunk(torch.cat((states[..., None, :].expand(shape), modes.expand(shape)), -1)).squeeze(-1)


class LOM(Algorithm):
    """Fits a mixture to the behaviour, then imitates its best mode at each state, weighted by advantage."""

    Config = Config
    paper = "Wang, Jin and Montana, 2024, Learning on One Mode"
    uses_next_actions = True
    acting = ("policy",)
    phases = (
        Phase(
            "mdn",
            (Update("mdn_loss", "mdn", "mdn_learning_rate", "mdn_batch_size"),),
            steps="mdn_steps",
        ),
        Phase(
            "main",
            (
                Update("critic_loss", "critic", "critic_learning_rate", "critic_batch_size"),
                Update("hyper_critic_loss", "hyper_critic", "hyper_critic_learning_rate", "hyper_critic_batch_size"),
                Update("policy_loss", "policy", "policy_learning_rate", "policy_batch_size"),
            ),
            targets=("critic",),
            targets_every=2,
        ),
    )
    presets = {
        "paper": PAPER,
        **PUBLISHED,
        "small": {
            "beta": 1.0,
            "min_component_weight": 0.05,
            "discount": 0.9,
            "tau": 0.02,
            "mdn_hidden_dims": (256, 256),
            "hyper_critic_batch_size": 256,
            "mdn_batch_size": 256,
            "mdn_steps": 2_000,
            "steps": 3_000,
        },
    }

    def networks(self, spec: Spec, config: Any) -> dict[str, nn.Module]:
        standardise = Standardise.noisy(spec)
        hidden, modes = config.hidden_dims, config.num_components
        return {
            "mdn": MixturePolicy(standardise, config.mdn_hidden_dims, spec.action_dim, modes),
            "critic": Critics(config.num_critics, standardise, spec.action_dim, hidden),
            "hyper_critic": HyperCritic(standardise, hidden, modes, config.hyper_critic),
            "policy": DeterministicPolicy(standardise, hidden, spec.action_dim),
        }

    def mdn_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        return mixture_loss(nets.mdn(batch.observations), batch.actions)

    def critic_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        noise = (config.target_noise * key.normal(*batch.next_actions.shape)).clamp(-0.5, 0.5)
        next_actions = (batch.next_actions + noise).clamp(-1.0, 1.0)
        next_q = nets.target.critic(batch.next_observations, next_actions).amin(0)
        target = batch.rewards + config.discount * (1.0 - batch.terminals) * next_q
        q = nets.critic(batch.observations, batch.actions)
        return (q - target).square().mean(-1).sum(), {"q_mean": q.mean(), "q_target_mean": target.mean()}

    def hyper_critic_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        observations = batch.observations
        mixture = nets.mdn(observations)
        means = mixture.means  # (B, M, A)
        actions = means + component_std(mixture) * key.normal(*means.shape)
        flat_observations = observations[:, None].expand(*means.shape[:2], observations.shape[-1]).flatten(0, 1)
        target = nets.critic(flat_observations, actions.flatten(0, 1))[0].reshape(means.shape[:2])
        return (nets.hyper_critic(observations) - target).square().mean(), {}

    def policy_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        observations = batch.observations
        mixture = nets.mdn(observations)
        mode = self.select_mode(nets.hyper_critic(observations), mixture, config)
        chosen = mode[:, None, None].expand(-1, 1, mixture.means.shape[-1])
        std = component_std(mixture) if config.clamp_policy_sample else mixture.log_stds.exp()
        mode_mean, mode_std = mixture.means.gather(1, chosen)[:, 0], std.gather(1, chosen)[:, 0]
        imitated = (mode_mean + mode_std * key.normal(*mode_mean.shape)).clamp(-1.0, 1.0)
        imitated = imitated + config.action_noise * key.normal(*mode_mean.shape)

        actions = nets.policy(observations)
        reference = mode_mean if config.baseline == "mode" else actions.detach()
        advantage = nets.critic(observations, imitated)[0] - nets.critic(observations, reference)[0]
        weight = torch.minimum(torch.exp(config.beta * advantage), config.weight_max)
        loss = (weight * (actions - imitated).square().mean(-1)).mean()
        return loss, {
            "advantage_mean": advantage.mean(),
            "weight_mean": weight.mean(),
            "weight_capped": (weight >= config.weight_max).to(weight.dtype).mean(),
            "weight_vanished": (weight < 1e-3).to(weight.dtype).mean(),
            "mode_weight": torch.softmax(mixture.logits, -1).gather(1, mode[:, None]).mean(),
        }

    def select_mode(self, values: Tensor, mixture: Mixture, config: Any) -> Tensor:
        """(B,) int64: the best mode by `values` (B, M) among those with enough weight, else the heaviest."""
        weights = torch.softmax(mixture.logits, -1)
        eligible = torch.where(weights >= config.min_component_weight, values, -torch.inf)
        return torch.where((weights >= config.min_component_weight).any(-1), eligible.argmax(-1), weights.argmax(-1))

    def sample_actions(self, nets: Any, observations: Tensor, config: Any, key: Key | None = None) -> Tensor:
        return nets.policy(observations)

"""BRAC with a value penalty, localised: LBRAC-v (Zhang and Kashima, 2023).

Trajectory m of the data has a free embedding w_m, and K codes e_k stand for K behaviours. Every embedding is scaled to
length 1 wherever it is used. Trajectory m belongs to the code z(m) = argmax_k cos(e_k, w_m), and one network
p(a | s; embedding), a tanh-Gaussian, is all behaviours and the policy at once.

1. Phase `behavior`. In every step, on one minibatch of transitions (s, a, r, s') of trajectories m, with z = z(m):
   - critics: Q(s, a; h_z) <- r + discount * min_j Q_j_target(s', a'; h_z),  a' ~ p(.|s'; e_z):
     the K behaviours' values, fitted at once; h_k is code k's embedding in a critic;
   - policy network, codes and trajectories, minimise
     -log p(a|s; e_z) - log p(a|s; w_m)  +  commitment_weight * (1 - cos(w_m, e_z)).
   The commitment pulls both at each other. The assignment is taken anew each time and passes no gradient.
2. Entering phase `main`, the policy's own embedding e_pi becomes the code whose trajectories have the highest mean
   return percentile, and the critics' h_pi becomes that code's.
3. Phase `main`, everything goes on together. With pi = p(.|.; e_pi) and the divergence of a state of trajectory m
   D(s, m) = relu(mean_i [log pi(a_i|s) - log p(a_i|s; e_z)]),  a_1 ... a_10 ~ pi(.|s):
   - critics: as before, and Q(s, a; h_pi) <- r + discount * (min_j Q_j_target(s', a'; h_pi) - beta * D(s', m)),
     a' ~ pi(.|s');
   - policy network, e_pi, codes and trajectories, minimise
     beta * D(s, m) - min_j Q_j(s, a; h_pi)  +  what phase `behavior` minimises,  a ~ pi(.|s).
   After every step the target critics follow with rate tau.

Acting takes the policy's mode, tanh of its mean; `act_by="max_q"` draws `num_samples` actions and takes the first
critic's favourite, the authors' second way of testing.

Differences from the authors' code (Altriaex/multi_source_behavior_modeling), each with its reason:
- Time limits are never bootstrapped across, terminal transitions are kept with their reward, and trajectories are the
  data set's episodes. Theirs pairs a cut episode's last state with the next one's first, ends one step early, loses
  the last reward, and its trajectories can be off by a step or span several episodes.
- Codes without trajectories are never chosen for e_pi; there the mean over nothing could win.
- Layers other than embeddings have PyTorch's initialisation (theirs: Keras', Glorot-uniform with zero biases) and
  Adam's epsilon is 1e-8 (1e-7). Embeddings keep Keras' uniform +-0.05: their directions turn faster the shorter they
  are, and from unit normal numbers they would hardly move at a rate of 5e-5.
Not a difference: theirs moves the targets before the gradient steps of each step, beginning with targets that are
copies. That equals moving them after the gradient steps of the step before, so every gradient step, the first of
phase `main` included, sees the same targets.
Where paper and code differ: two critics and their minimum as in the code (the paper's equations have one Q); the
commitment is the paper's 1 - cos (the code drops the 1, which has no gradient). The divergence moves the behaviour
too, as in the code; `stop_grad_behavior` keeps it from that. The code's command line asks for no value penalty, and
its agent applies it all the same: so does this. The log standard deviation is clipped to [-10, 10] as theirs; the
preset `small` takes [-5, 2].
`beta` is 1 there on raw rewards: next to rewards of 5 a step that is little, next to rewards in [0, 1] it rules. And
each transition's penalty is against its own trajectory's behaviour: where sources share states, the policy is held
near all of them there and may end between them (`toy/two-modes-v0`: return 0 at beta 1, 1 at beta 0.001, although
the codes tell the sources apart in both).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from raymix.algorithms.base import Algorithm, Data, Phase, Update
from raymix.config import AlgorithmConfig, scalar, schedule, structure
from raymix.nn.layers import EnsembleLinear, EnsembleMLP, Standardise, mlp
from raymix.nn.losses import squashed_log_prob
from raymix.nn.policies import Gaussian
from raymix.random import Key
from raymix.types import Spec, return_percentiles

_LAYER_NORM_EPSILON = 1e-3
"""Keras'."""


@dataclass(frozen=True)
class Config(AlgorithmConfig):
    num_codes: int = structure(10, low=1, help="K: codes, the behaviours that trajectories are divided among")
    embedding_dim: int = structure(8, low=1, help="size of every embedding")
    num_critics: int = structure(2, low=1, help="critics; targets and the policy take their minimum")
    num_samples: int = structure(10, low=1, help="actions per state that estimate the divergence, or that max_q draws")
    beta: float = scalar(1.0, low=0, help="multiplies the divergence from the behaviour, in the target and the policy")
    commitment_weight: float = scalar(0.1, low=0, help="multiplies 1 - cos(trajectory, its code)")
    discount: float = scalar(0.99, low=0, high=1, help="discount per step")
    tau: float = scalar(1e-3, low=0, high=1, help="share by which target critics move to the critics")
    log_std_min: float = scalar(-10.0, help="lower bound of the log standard deviation before tanh")
    log_std_max: float = scalar(10.0, help="upper bound of the log standard deviation before tanh")
    action_margin: float = scalar(1e-3, low=1e-6, high=0.5, help="actions are clipped to this distance from the box")
    critic_learning_rate: float = scalar(1e-4, low=0, help="Adam's rate for the critics and their embeddings")
    policy_learning_rate: float = scalar(5e-5, low=0, help="Adam's rate for the policy network, codes, trajectories")
    behavior_steps: int = schedule(500_000, low=1, help="gradient steps of the behaviour phase")
    batch_size: int = structure(256, low=1, help="transitions per step")
    policy_hidden_dims: tuple = structure(
        (200, 200), help="widths of the policy's state encoder; its head has the last"
    )
    critic_hidden_dims: tuple = structure((300, 300), help="widths of the critics' encoder; its head has the last")
    stop_grad_behavior: bool = structure(False, help="the divergence moves the policy only, not the behaviour")
    act_by: str = structure(
        "mode", choices=("mode", "max_q"), help="the policy's mode, or the best of its samples by Q"
    )


class Embeddings(nn.Module):
    """Free vectors (..., D), of length 1 wherever they are used: () -> (..., D)."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-0.05, 0.05))

    def forward(self) -> Tensor:
        return functional.normalize(self.weight, dim=-1)


class EmbeddingPolicy(nn.Module):
    """Behaviour by embedding, before tanh: observations (B, S), embeddings (..., B or 1, D) -> `Gaussian` (..., B, A).

    The log standard deviation is as the network gives it. Embeddings of several kinds share one pass over the states.
    """

    def __init__(
        self, standardise: Standardise, hidden_dims: Sequence[int], embedding_dim: int, action_dim: int
    ) -> None:
        super().__init__()
        self.standardise = standardise
        *hidden, width = hidden_dims
        self.encoder = mlp(len(standardise.mean), hidden, width)
        self.norm = nn.LayerNorm(width, _LAYER_NORM_EPSILON)
        self.head = mlp(width + embedding_dim, (width,), 2 * action_dim)

    def forward(self, observations: Tensor, embeddings: Tensor) -> Gaussian:
        states = self.norm(torch.relu(self.encoder(self.standardise(observations))))
        return Gaussian(*self.head(_beside(states, embeddings)).chunk(2, -1))


class EmbeddingCritics(nn.Module):
    """J values: observations (B, S), actions (B, A), embeddings (..., J, B or 1, D) -> (..., J, B)."""

    def __init__(
        self, count: int, standardise: Standardise, hidden_dims: Sequence[int], embedding_dim: int, action_dim: int
    ) -> None:
        super().__init__()
        self.standardise = standardise
        *hidden, width = hidden_dims
        self.encoder = EnsembleMLP(count, len(standardise.mean) + action_dim, hidden, width)
        self.norm_weight = nn.Parameter(torch.ones(count, 1, width))
        self.norm_bias = nn.Parameter(torch.zeros(count, 1, width))
        self.hidden = EnsembleLinear(count, width + embedding_dim, width)
        self.output = EnsembleLinear(count, width, 1)

    def forward(self, observations: Tensor, actions: Tensor, embeddings: Tensor) -> Tensor:
        pairs = torch.relu(self.encoder(torch.cat((self.standardise(observations), actions), -1)))
        pairs = functional.layer_norm(pairs, pairs.shape[-1:], eps=_LAYER_NORM_EPSILON)
        pairs = pairs * self.norm_weight + self.norm_bias
        return self.output(torch.relu(self.hidden(_beside(pairs, embeddings)))).squeeze(-1)


def _beside(features: Tensor, embeddings: Tensor) -> Tensor:
    """(..., B, F) and (..., B or 1, D) -> (..., B, F + D)."""
    shape = torch.broadcast_shapes(features.shape[:-1], embeddings.shape[:-1])
    return torch.cat((features.expand(*shape, -1), embeddings.expand(*shape, -1)), -1)


class LBRACV(Algorithm):
    """Divides trajectories among K learned behaviours and keeps the policy near each trajectory's own."""

    Config = Config
    paper = "Zhang and Kashima, 2023, Behavior Estimation from Multi-Source Data for Offline Reinforcement Learning"
    acting = ("policy", "policy_code", "critic", "critic_policy_code")
    snapshots = ("trajectories/weight", "codes/weight", "policy_code/weight")
    phases = (
        Phase(
            "behavior",
            (
                Update("behavior_critic_loss", ("critic", "critic_codes"), "critic_learning_rate"),
                Update(
                    "behavior_loss",
                    ("policy", "codes", "trajectories"),
                    "policy_learning_rate",
                    batch_of="behavior_critic_loss",
                ),
            ),
            steps="behavior_steps",
            targets=("critic", "critic_codes"),
        ),
        Phase(
            "main",
            (
                Update("critic_loss", ("critic", "critic_codes", "critic_policy_code"), "critic_learning_rate"),
                Update(
                    "policy_loss",
                    ("policy", "codes", "trajectories", "policy_code"),
                    "policy_learning_rate",
                    batch_of="critic_loss",
                ),
            ),
            targets=("critic", "critic_codes", "critic_policy_code"),
        ),
    )
    presets = {
        "paper": {"behavior_steps": 500_000, "steps": 500_000},
        "small": {
            "discount": 0.9,
            "tau": 0.01,
            "log_std_min": -5.0,
            "log_std_max": 2.0,
            "critic_learning_rate": 1e-3,
            "policy_learning_rate": 1e-3,
            "policy_hidden_dims": (128, 128),
            "critic_hidden_dims": (128, 128),
            "behavior_steps": 2_000,
            "steps": 3_000,
        },
    }

    def networks(self, spec: Spec, config: Any) -> dict[str, nn.Module]:
        standardise = Standardise.nothing(spec)
        codes, size, critics = config.num_codes, config.embedding_dim, config.num_critics
        return {
            "policy": EmbeddingPolicy(standardise, config.policy_hidden_dims, size, spec.action_dim),
            "trajectories": Embeddings(spec.num_episodes, size),
            "codes": Embeddings(codes, size),
            "policy_code": Embeddings(1, size),
            "critic": EmbeddingCritics(critics, standardise, config.critic_hidden_dims, size, spec.action_dim),
            "critic_codes": Embeddings(critics, codes, size),
            "critic_policy_code": Embeddings(critics, 1, size),
        }

    # Phase `behavior`

    def behavior_critic_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        codes = nets.codes()
        assigned = assignment(nets.trajectories(), codes)[batch.episodes]
        next_behavior = self.gaussian(nets, batch.next_observations, codes[assigned], config)
        target = self.behavior_target(nets, batch, next_behavior, assigned, config, key)
        q = nets.critic(batch.observations, clipped(batch.actions, config), nets.critic_codes()[:, assigned])
        return (q - target).square().mean(-1).sum(), {
            "behavior_q_mean": q.mean(),
            "behavior_q_target_mean": target.mean(),
        }

    def behavior_target(
        self, nets: Any, batch: Any, next_behavior: Gaussian, assigned: Tensor, config: Any, key: Key
    ) -> Tensor:
        """(B,): what the assigned behaviours' values shall be, by one action of theirs."""
        next_actions = sample(next_behavior, key.normal(*next_behavior.mean.shape), config)
        embeddings = nets.target.critic_codes()[:, assigned]
        next_q = nets.target.critic(batch.next_observations, next_actions, embeddings).amin(0)
        return batch.rewards + config.discount * (1.0 - batch.terminals) * next_q

    def behavior_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        trajectories, codes = nets.trajectories(), nets.codes()
        assignments = assignment(trajectories, codes)
        own, code = trajectories[batch.episodes], codes[assignments[batch.episodes]]
        by_code, by_own = kinds(self.gaussian(nets, batch.observations, torch.stack((code, own)), config))
        loss, metrics = self.model_loss(by_code, by_own, code, own, batch, config)
        return loss, metrics | usage(assignments, codes)

    def model_loss(
        self, by_code: Gaussian, by_own: Gaussian, code: Tensor, own: Tensor, batch: Any, config: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction by the code and by the trajectory's own embedding, and the commitment between the two."""
        of_code, of_own = (-log_prob(each, batch.actions, config).mean() for each in (by_code, by_own))
        commitment = 1.0 - (own * code).sum(-1).mean()
        return of_code + of_own + config.commitment_weight * commitment, {
            "reconstruction_code": of_code,
            "reconstruction_own": of_own,
            "commitment": commitment,
        }

    # Phase `main`

    def enter_phase(self, phase: Phase, tensors: Mapping[str, Tensor], data: Data, config: Any) -> dict[str, Tensor]:
        """The policy starts from the code whose trajectories have the highest mean return percentile."""
        trajectories, codes = (tensors[f"parameters/{name}/weight"] for name in ("trajectories", "codes"))
        normalised = (functional.normalize(value, dim=-1) for value in (trajectories, codes))
        best = best_code(assignment(*normalised), returns_of(data), len(codes))
        changes = {"parameters/policy_code/weight": codes[best : best + 1]}
        for kind in ("parameters", "targets"):
            changes[f"{kind}/critic_policy_code/weight"] = tensors[f"{kind}/critic_codes/weight"][:, best : best + 1]
        return changes

    def critic_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        codes = nets.codes()
        assigned = assignment(nets.trajectories(), codes)[batch.episodes]
        code = codes[assigned]
        embeddings = torch.stack((nets.policy_code().expand_as(code), code))
        next_policy, next_behavior = kinds(self.gaussian(nets, batch.next_observations, embeddings, config))
        behavior_target = self.behavior_target(nets, batch, next_behavior, assigned, config, key)

        next_actions = sample(next_policy, key.normal(*next_policy.mean.shape), config)
        next_q = nets.target.critic(batch.next_observations, next_actions, nets.target.critic_policy_code()).amin(0)
        penalty = config.beta * self.divergence(next_policy, next_behavior, config, key)
        target = batch.rewards + config.discount * (1.0 - batch.terminals) * (next_q - penalty)

        behavior_embeddings = nets.critic_codes()[:, assigned]
        embeddings = torch.stack((nets.critic_policy_code().expand_as(behavior_embeddings), behavior_embeddings))
        q, behavior_q = nets.critic(batch.observations, clipped(batch.actions, config), embeddings)
        loss = (q - target).square().mean(-1).sum() + (behavior_q - behavior_target).square().mean(-1).sum()
        return loss, {
            "q_mean": q.mean(),
            "q_target_mean": target.mean(),
            "behavior_q_mean": behavior_q.mean(),
            "behavior_q_target_mean": behavior_target.mean(),
            "target_penalty_mean": penalty.mean(),
        }

    def policy_loss(self, nets: Any, batch: Any, config: Any, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        trajectories, codes = nets.trajectories(), nets.codes()
        assignments = assignment(trajectories, codes)
        own, code = trajectories[batch.episodes], codes[assignments[batch.episodes]]
        embeddings = torch.stack((nets.policy_code().expand_as(code), code, own))
        policy, by_code, by_own = kinds(self.gaussian(nets, batch.observations, embeddings, config))
        model_loss, metrics = self.model_loss(by_code, by_own, code, own, batch, config)

        behavior = Gaussian(by_code.mean.detach(), by_code.log_std.detach()) if config.stop_grad_behavior else by_code
        divergence = self.divergence(policy, behavior, config, key)
        actions = sample(policy, key.normal(*policy.mean.shape), config)
        q = nets.critic(batch.observations, actions, nets.critic_policy_code()).amin(0)
        metrics = metrics | usage(assignments, codes)
        return (config.beta * divergence - q).mean() + model_loss, metrics | {
            "divergence_mean": divergence.mean(),
            "policy_q_mean": q.mean(),
            "policy_std": policy.log_std.exp().mean(),
        }

    def divergence(self, policy: Gaussian, behavior: Gaussian, config: Any, key: Key) -> Tensor:
        """(B,), at least 0: KL(policy || behaviour) per state, by the policy's samples; their mean can be negative."""
        actions = sample(policy, key.normal(config.num_samples, *policy.mean.shape), config)
        ratio = log_prob(policy, actions, config) - log_prob(behavior, actions, config)
        return torch.relu(ratio.mean(0))

    def gaussian(self, nets: Any, observations: Tensor, embeddings: Tensor, config: Any) -> Gaussian:
        """The policy network's distribution before tanh, its log standard deviation within bounds."""
        mean, log_std = nets.policy(observations, embeddings)
        return Gaussian(mean, log_std.clamp(config.log_std_min, config.log_std_max))

    def sample_actions(self, nets: Any, observations: Tensor, config: Any, key: Key | None = None) -> Tensor:
        policy = self.gaussian(nets, observations, nets.policy_code(), config)
        if key is None or config.act_by == "mode":
            return torch.tanh(policy.mean)
        actions = sample(policy, key.normal(config.num_samples, *policy.mean.shape), config)
        states = observations.expand(config.num_samples, *observations.shape)
        values = nets.critic(states.flatten(0, 1), actions.flatten(0, 1), nets.critic_policy_code())[0]
        best = values.reshape(actions.shape[:2]).argmax(0)
        return actions.gather(0, best[None, :, None].expand(1, *policy.mean.shape))[0]


def assignment(trajectories: Tensor, codes: Tensor) -> Tensor:
    """(M,) int64: the code of the highest cosine for each of (M, D) trajectories, of (K, D) codes; all of length 1."""
    return (trajectories @ codes.mT).argmax(-1)


def best_code(assignments: Tensor, returns: Tensor, num_codes: int) -> int:
    """The code whose trajectories have the highest mean return percentile; one without trajectories never is it."""
    percentiles = torch.from_numpy(return_percentiles(returns.numpy()))
    counts = torch.bincount(assignments, minlength=num_codes)
    sums = torch.bincount(assignments, weights=percentiles, minlength=num_codes)
    return int(torch.where(counts > 0, sums / counts.clamp(min=1), -torch.inf).argmax())


def returns_of(data: Data) -> Tensor:
    """(M,) float64 on the host: each trajectory's undiscounted return."""
    return torch.bincount(data.episodes.cpu(), weights=data.rewards.double().cpu())


def usage(assignments: Tensor, codes: Tensor) -> dict[str, Tensor]:
    """How all trajectories spread over the codes (K, D): how many codes have any, and the entropy in nats."""
    numbers = torch.arange(len(codes), device=codes.device)
    shares = (assignments[:, None] == numbers).to(codes.dtype).mean(0)
    entropy = -(shares * torch.log(shares.clamp(min=1e-12))).sum()
    return {"codes_used": (shares > 0).to(shares.dtype).sum(), "code_entropy": entropy}


def kinds(stacked: Gaussian) -> list[Gaussian]:
    """One Gaussian per kind of embedding that was stacked in front."""
    return [Gaussian(mean, log_std) for mean, log_std in zip(*stacked, strict=True)]


def clipped(actions: Tensor, config: Any) -> Tensor:
    """Actions off the box's edge, where the density of a tanh-Gaussian is infinite."""
    return actions.clamp(-1.0 + config.action_margin, 1.0 - config.action_margin)


def sample(policy: Gaussian, noise: Tensor, config: Any) -> Tensor:
    """Actions (..., B, A) in the box; where the clip holds they have no gradient."""
    return clipped(torch.tanh(policy.mean + policy.log_std.exp() * noise), config)


def log_prob(policy: Gaussian, actions: Tensor, config: Any) -> Tensor:
    """(..., B): log-density of the clipped actions."""
    return squashed_log_prob(policy, actions, config.action_margin)

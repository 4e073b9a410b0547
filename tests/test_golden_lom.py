"""LOM against numbers recorded from its authors' implementation (`tests/golden/README.md`), and Adam against torch's.

The losses run unlifted, on recorded weights, batches and noise, with `torch.optim.Adam`: what is compared is the
algorithm alone. Catches a wrong network, order, sign, clamp, baseline or multiplier in any of LOM's losses.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from recorded import RecordedKey
from torch import Tensor

from raymix.algorithms.lom import LOM
from raymix.learner.adam import adam_
from raymix.learner.networks import LiftedConfig, Networks, fresh_networks
from raymix.types import Spec

STEPS, OBSERVATION_DIM, ACTION_DIM = 10, 5, 3
WEIGHTS_AFTER = {1: 2e-6, 2: 2e-6, 10: 5e-6}
"""Absolute tolerance of the weights after so many steps."""
RELATIVE = 2e-5
"""Tolerance of intermediate values and gradients, relative to max(1, |value|)."""
SHARED: dict[str, Any] = {
    "num_components": 5,
    "num_critics": 2,
    "mdn_hidden_dims": (64, 64),
    "hidden_dims": (32, 32),
    "hyper_critic": "one_hot",
    "clamp_policy_sample": False,
    "min_component_weight": 0.0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "main": {"weight_max": 100.0, "action_noise": 0.4, "target_noise": 0.2},
    "clip": {"weight_max": 1.05, "action_noise": 0.0, "target_noise": 0.0},
}
NETWORKS: dict[str, tuple[str, ...]] = {
    "mdn": ("gmm",),
    "policy": ("policy",),
    "hyper_critic": ("mode_net",),
    "critic": ("q_nets.0", "q_nets.1"),
}
TARGETS: dict[str, tuple[str, ...]] = {"critic": ("q_target_nets.0", "q_target_nets.1")}
# Standardise.noisy is the identity here: the recorded run had no scaler.
SPEC = Spec(
    name="golden", hash="", observation_dim=OBSERVATION_DIM, action_dim=ACTION_DIM,
    action_low=(-1.0,) * ACTION_DIM, action_high=(1.0,) * ACTION_DIM,
    observation_mean=(0.0,) * OBSERVATION_DIM, observation_std=(math.sqrt(1 - 0.05**2),) * OBSERVATION_DIM,
    action_mean=(0.0,) * ACTION_DIM, action_std=(1.0,) * ACTION_DIM,
    reward_min=-1.0, reward_max=1.0, num_transitions=1, num_episodes=1,
    returns_mean=0.0, returns_min=0.0, returns_max=0.0,
)  # fmt: skip
with np.load(Path(__file__).parent / "golden" / "lom.npz") as archive:
    RECORDED = {name: torch.from_numpy(archive[name]) for name in archive.files}


class Replay:
    """Ten mixture steps and ten main steps of one variant; every comparison is kept as (what, step, excess).

    The excess is the difference in units of its tolerance: above 1 is a failure.
    """

    def __init__(self, variant: str, **deviations: Any) -> None:
        self.variant = variant
        self.algorithm = LOM()
        config = self.algorithm.configure({**SHARED, **VARIANTS[variant], **deviations})
        scalars = {name: torch.tensor(value) for name, value in config.of_kind("scalar").items()}
        self.config = LiftedConfig(config.of_kind("structure"), scalars)
        self.modules = fresh_networks(self.algorithm, SPEC, config, seed=0)
        self.parameters = {
            network: {
                name: self.weights("w0", network, name).clone().requires_grad_()
                for name, _ in self.modules[network].named_parameters()
            }
            for network in NETWORKS
        }
        self.targets = {
            "critic": {name: self.weights("w0", "critic", name, TARGETS).clone() for name in self.parameters["critic"]}
        }
        self.nets = Networks(self.modules, self.parameters, self.targets)
        self.found: list[tuple[str, int, float]] = []
        self.run()

    @property
    def failures(self) -> list[tuple[str, int, float]]:
        return [row for row in self.found if not row[2] <= 1.0]

    def recorded(self, name: str) -> Tensor:
        """An array of this variant; what both share is stored under `main`."""
        own = f"{self.variant}/{name}"
        return RECORDED[own if own in RECORDED else f"main/{name}"]

    def weights(self, group: str, network: str, name: str, homes: dict[str, tuple[str, ...]] = NETWORKS) -> Tensor:
        """A recorded parameter under raymix's name: layers are `trunk.N`, or `layers.N/2` with critics stacked."""
        *_, layer, kind = name.split(".")
        number = int(layer) * 2 if network == "critic" else int(layer)
        arrays = [self.recorded(f"{group}/{home}.model.{number}.{kind}") for home in homes[network]]
        return torch.stack(arrays) if network == "critic" else arrays[0]

    def compare(self, what: str, step: int, ours: Tensor, recorded: Tensor, tolerance: float | None = None) -> None:
        ours, recorded = ours.detach().double(), recorded.double()
        assert ours.shape == recorded.shape, (what, ours.shape, recorded.shape)
        allowed = RELATIVE * recorded.abs().clamp(min=1.0) if tolerance is None else torch.tensor(tolerance).double()
        self.found.append((what, step, float(((ours - recorded).abs() / allowed).max())))

    def compare_weights(self, groups: dict[int, str], step: int, networks: tuple[str, ...]) -> None:
        if step not in groups:
            return
        for network in networks:
            for name, value in self.parameters[network].items():
                expected = self.weights(groups[step], network, name)
                self.compare(f"weights {network}.{name}", step, value, expected, WEIGHTS_AFTER[step])
        if "critic" in networks:
            for name, value in self.targets["critic"].items():
                expected = self.weights(groups[step], "critic", name, TARGETS)
                self.compare(f"weights target {name}", step, value, expected, WEIGHTS_AFTER[step])

    def update(self, loss: str, step: int, batch: SimpleNamespace, key: RecordedKey, optimiser: Any) -> Any:
        """One gradient step; the noise must be used up."""
        (network,) = next(u.networks for phase in LOM.phases for u in phase.updates if u.loss == loss)
        parameters = self.parameters[network]
        value, details = getattr(self.algorithm, loss)(self.nets, batch, self.config, key)
        gradients = torch.autograd.grad(value, list(parameters.values()))
        assert not key.noise
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
            parameter.grad = gradient
            if step == 1:
                self.compare(f"gradient {network}.{name}", step, gradient, self.first_gradient(network, name))
        optimiser.step()
        return value, details

    def first_gradient(self, network: str, name: str) -> Tensor:
        optimisers = {"mdn": "gmm_opt", "policy": "policy_opt", "hyper_critic": "mode_net_opt"}
        if network != "critic":
            return self.weights(f"g_first/{optimisers[network]}", network, name)
        per_critic = (
            self.weights(f"g_first/q_net_opts.{i}", network, name, {network: (f"q_nets.{i}",)}) for i in (0, 1)
        )
        return torch.cat(list(per_critic))

    def run(self) -> None:
        adams = {
            network: torch.optim.Adam(parameters.values(), float(getattr(self.config, f"{network}_learning_rate")))
            for network, parameters in self.parameters.items()
        }
        for step in range(1, STEPS + 1):
            self.mixture_step(step, adams["mdn"])
            self.compare_weights({1: "mdn_w1", 10: "mdn_w10"}, step, ("mdn",))
        for step in range(1, STEPS + 1):
            self.critic_step(step, adams["critic"])
            self.hyper_critic_step(step, adams["hyper_critic"])
            self.policy_step(step, adams["policy"])
            if step % 2 == 1:
                for name, target in self.targets["critic"].items():
                    target.lerp_(self.parameters["critic"][name].detach(), float(self.config.tau))
            self.compare_weights({1: "w1", 2: "w2", 10: "w10"}, step, ("critic", "hyper_critic", "policy"))
        with torch.no_grad():
            actions = self.algorithm.sample_actions(self.nets, self.recorded("eval/state"), self.config)
        self.compare("evaluated actions", STEPS, actions, self.recorded("eval/action"), 1e-5)

    def mid(self, name: str, step: int) -> Tensor:
        return self.recorded(f"mid/{name}")[step - 1]

    def batch(self, name: str, step: int) -> SimpleNamespace:
        names = {"state": "observations", "action": "actions", "next_state": "next_observations",
                 "next_action": "next_actions", "reward": "rewards", "done": "terminals"}  # fmt: skip
        present = {theirs: ours for theirs, ours in names.items() if f"main/batch/{name}/{theirs}" in RECORDED}
        rows = {ours: self.recorded(f"batch/{name}/{theirs}")[step - 1] for theirs, ours in present.items()}
        return SimpleNamespace(
            **{ours: row[:, 0] if ours in ("rewards", "terminals") else row for ours, row in rows.items()}
        )

    def noise(self, name: str, step: int) -> Tensor:
        return self.recorded(f"noise/{name}")[step - 1]

    def mixture_step(self, step: int, adam: Any) -> None:
        loss, _ = self.update("mdn_loss", step, self.batch("mdn", step), RecordedKey(), adam)
        self.compare("mixture loss", step, loss, self.mid("train_GMM.gmm_loss", step))

    def critic_step(self, step: int, adam: Any) -> None:
        batch, target = self.batch("q", step), self.mid("train_value_function.target_q_value", step)[:, 0]
        with torch.no_grad():
            values = self.nets.critic(batch.observations, batch.actions)
        noise = self.noise("q_smoothing_normal", step)
        loss, details = self.update("critic_loss", step, batch, RecordedKey(noise), adam)
        self.compare("value of critic 1", step, values[1], self.mid("train_value_function.pred_q_value", step)[:, 0])
        self.compare("mean of both critics' values", step, details["q_mean"], values.mean())
        self.compare("mean target", step, details["q_target_mean"], target.mean())
        last = loss - (values[0] - target).square().mean()
        self.compare("critic 1's share of the loss", step, last, self.mid("train_value_function.q_loss", step))

    def hyper_critic_step(self, step: int, adam: Any) -> None:
        batch, noise = self.batch("hyper", step), self.noise("hyper_component_normal", step)
        with torch.no_grad():
            values = self.nets.hyper_critic(batch.observations)
        loss, _ = self.update("hyper_critic_loss", step, batch, RecordedKey(noise), adam)
        recorded = self.mid("train_mode_function.mode_predictions", step).reshape(values.shape)
        self.compare("values of modes before the step", step, values, recorded)
        self.compare("hyper critic loss", step, loss, self.mid("train_mode_function.mode_loss", step))

    def policy_step(self, step: int, adam: Any) -> None:
        batch = self.batch("policy", step)
        with torch.no_grad():
            mixture, values = self.nets.mdn(batch.observations), self.nets.hyper_critic(batch.observations)
            mode = self.algorithm.select_mode(values, mixture, self.config)
        self.compare("means", step, mixture.means, self.mid("get_mode_actions.means", step))
        self.compare("log stds", step, mixture.log_stds, self.mid("get_mode_actions.log_stds", step))
        self.compare("weights", step, torch.softmax(mixture.logits, -1), self.mid("get_mode_actions.weights", step))
        self.compare("values of modes", step, values, self.mid("get_mode_actions.mode_values", step))
        self.compare("chosen mode", step, mode, self.mid("get_mode_actions.max_indices", step))
        key = RecordedKey(self.noise("policy_mode_normal", step), self.noise("policy_extra_normal", step))
        loss, details = self.update("policy_loss", step, batch, key, adam)
        weights = self.mid("train_policy.weights", step)
        self.compare("mean advantage", step, details["advantage_mean"], self.mid("train_policy.advs", step).mean())
        self.compare("mean weight", step, details["weight_mean"], weights.mean())
        capped = (weights >= VARIANTS[self.variant]["weight_max"]).float().mean()
        self.compare("share of capped weights", step, details["weight_capped"], capped)
        self.compare("policy loss", step, loss, self.mid("train_policy.policy_loss", step))


@pytest.mark.parametrize("variant", VARIANTS)
def test_lom_repeats_its_authors_run(variant):
    """Catches any deviation from the authors' code in losses, gradients, weights or actions."""
    replay = Replay(variant)
    assert not replay.failures
    checked = {what.split(" ")[0] for what, _, _ in replay.found}
    assert {"mixture", "weights", "gradient", "evaluated", "chosen", "policy", "hyper"} <= checked
    what, step, excess = max(replay.found, key=lambda row: row[2])
    print(f"{variant}: {len(replay.found)} comparisons, worst {excess:.2f} of its tolerance: {what}, step {step}")


@pytest.mark.parametrize(
    ("deviations", "first"),
    [
        ({"baseline": "mode"}, "gradient policy"),
        ({"clamp_policy_sample": True}, "gradient policy"),
        ({"beta": 0.2}, "gradient policy"),
        ({"min_component_weight": 0.3}, "chosen mode"),
        ({"weight_max": 1.0}, "gradient policy"),
        ({"action_noise": 0.0}, "gradient policy"),
        ({"target_noise": 0.0}, "gradient critic"),
        ({"discount": 0.9}, "gradient critic"),
        ({"tau": 0.01}, "weights target"),
    ],
)
def test_the_comparison_finds_a_wrong_option(deviations, first):
    """Catches a comparison that passes whatever it is given: each wrong option must fail, and first where it acts."""
    failures = Replay("main", **deviations).failures
    assert failures and failures[0][0].startswith(first), failures[:1]
    assert any(what.startswith("weights") and step == STEPS for what, step, _ in failures)


def test_adam_equals_torch_per_member():
    """Catches a wrong bias correction or epsilon, and a learning rate or step count shared between members."""
    generator = torch.Generator().manual_seed(0)
    shapes, rates, delays, steps = ((4, 3), (5,), ()), (1e-3, 3e-2, 1e-4), (0, 7, 30), 100
    starts = [torch.randn(len(rates), *shape, generator=generator) for shape in shapes]
    stacked = [value.clone() for value in starts]
    means, squares = ([torch.zeros_like(value) for value in starts] for _ in range(2))
    count = torch.zeros(len(rates), dtype=torch.int64)
    alone = [[value[member].clone().requires_grad_() for value in starts] for member in range(len(rates))]
    adams = [torch.optim.Adam(parameters, lr) for parameters, lr in zip(alone, rates)]
    for step in range(steps):
        # Gradients that grow and vanish, so that epsilon and the bias corrections matter.
        scale = 10.0 ** (3 * math.sin(step) - 4)
        gradients = [torch.randn(value.shape, generator=generator) * scale for value in starts]
        for member, adam in enumerate(adams):
            if step == delays[member]:  # A member that starts later: its moments and its count begin here.
                for mine, own, moment, square in zip(stacked, alone[member], means, squares):
                    mine[member], moment[member], square[member] = own.detach(), 0.0, 0.0
                count[member] = 0
            if step >= delays[member]:
                for parameter, gradient in zip(alone[member], gradients):
                    parameter.grad = gradient[member].clone()
                adam.step()
        adam_(stacked, gradients, means, squares, count, torch.tensor(rates))
    assert count.tolist() == [steps - delay for delay in delays]
    for index, value in enumerate(stacked):
        for member in range(len(rates)):
            torch.testing.assert_close(value[member], alone[member][index].detach(), rtol=1e-5, atol=1e-6)

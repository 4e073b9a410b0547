"""The DMPO family against numbers recorded from its authors' implementation (`tests/golden/README.md`).

Catches a wrong network, order, sign, clamp, baseline or multiplier in any loss of `dmpo`, `awac`, `mix_awac` and the
preset `dmpo_port` of `iql`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recorded import STEPS, Recording, Replay, identity_spec
from torch import Tensor

from raymix.algorithms.base import find

SHARED: dict[str, dict[str, Any]] = {
    "dmpo": {"hidden_dims": (32, 32), "min_embedding_dim": 1, "information_learning_rate": 5e-7},
    "infodmpo": {"hidden_dims": (32, 32), "min_embedding_dim": 1, "information": True, "legacy_info_loss": True},
    "awac": {"hidden_dims": (32, 32)},
    "mix_awac": {"hidden_dims": (32, 32), "min_embedding_dim": 1, "legacy_gate": True, "divide_by_mean": False},
    # The recorded cosine counts policy steps, of which there is one in two.
    "iql_port": {
        "hidden_dims": (32, 32),
        "beta": 10.0,
        "weighting": "normalized",
        "divide_by_mean": False,
        "policy_every": 2,
        "policy_std": "port",
        "standardise": True,
        "expectile": 0.9,
        "steps": 2_000_000,
    },
}
ALGORITHMS = {"infodmpo": "dmpo", "iql_port": "iql"}
VARIANTS: dict[tuple[str, str], dict[str, Any]] = {
    ("dmpo", "main"): {},
    ("dmpo", "clamp"): {"weighting": "clamped"},
    ("dmpo", "ant_reward"): {"reward_shift": -1.0},
    ("infodmpo", "main"): {"information_learning_rate": 5e-7},
    ("infodmpo", "big_ilr"): {"information_learning_rate": 3e-4},
    ("awac", "adapt"): {},
    ("awac", "plain"): {"weighting": "plain"},
    ("awac", "clamp"): {"weighting": "clamped"},
    ("mix_awac", "far"): {"legacy_likelihood": True},
    ("mix_awac", "near"): {},
    ("iql_port", "main"): {},
    ("iql_port", "clamp"): {"weighting": "clamped", "beta": 3.0, "expectile": 0.7, "steps": 40},
}
BASES = dict(reversed(VARIANTS))
"""The variant of each file that holds what all share: the first."""
LAYERS = {
    "dmpo": {
        "policy/latent.embedding": ["actor.l1_latent"],
        "policy/latent.trunk.0": ["actor.l1"],
        "policy/latent.trunk.2": ["actor.l2"],
        "policy/latent.trunk.4": ["actor.l3"],
        "posterior/trunk.0": ["posterior.l1"],
        "posterior/trunk.2": ["posterior.l2"],
        "posterior/trunk.4": ["posterior.l3_disc"],
        "information/trunk.0": ["info_posterior.l1"],
        "information/trunk.2": ["info_posterior.l2"],
        "information/trunk.4": ["info_posterior.l3_disc"],
    },
    "awac": {
        "policy/trunk.0": ["actor.l1"],
        "policy/trunk.2": ["actor.l2"],
        "policy/trunk.4": ["actor.l3_mu", "actor.l3_log_std"],
    },
    "mix_awac": {
        "gate/trunk.0": ["actor.l1"],
        "gate/trunk.2": ["actor.l2"],
        "gate/trunk.4": ["actor.l3_w"],
        "components/latent.embedding": ["actor.component_policy.l1_latent"],
        "components/latent.trunk.0": ["actor.component_policy.l1"],
        "components/latent.trunk.2": ["actor.component_policy.l2"],
        "components/latent.trunk.4": ["actor.component_policy.l3_mu", "actor.component_policy.l3_log_std"],
    },
    "iql": {
        "value/trunk.0": ["value.l1"],
        "value/trunk.2": ["value.l2"],
        "value/trunk.4": ["value.l3"],
        "policy/hidden.0": ["actor.l1"],
        "policy/hidden.1": ["actor.l2"],
        "policy/mean": ["actor.l3_mu"],
        "policy/state_log_std": ["actor.l3_log_std"],
    },
}
"""By algorithm: our layer -> theirs, in the order in which their outputs lie in ours."""
OPTIMISERS = {
    "critic_loss": "critic_optimizer",
    "policy_loss": "actor_optimizer",
    "information_loss": "info_optimizer",
    "value_loss": "value_optimizer",
}


def replayed(file: str, variant: str, **deviations: Any) -> Replay:
    recording = Recording(f"{file}.npz", variant, BASES[file])
    name = ALGORITHMS.get(file, file)

    def weights(group: str, network: str, parameter: str) -> Tensor:
        kind, network = network.split("/")
        layer, leaf = parameter.rsplit(".", 1)
        suffix = "_target" if kind == "targets" else ""
        if network == "critic":
            first = int(layer.rsplit(".", 1)[1]) + 1
            return torch.stack([recording[f"{group}/critic{suffix}.l{first + twin}.{leaf}"] for twin in (0, 3)])
        homes = [home.replace("actor.", f"actor{suffix}.", 1) for home in LAYERS[name][f"{network}/{layer}"]]
        return torch.cat([recording[f"{group}/{home}.{leaf}"] for home in homes])

    def gradients(loss: str, network: str, parameter: str) -> Tensor:
        return weights(f"g_first/{OPTIMISERS[loss]}", f"parameters/{network}", parameter)

    def noise(loss: str, step: int) -> list[Tensor]:
        labels = {
            ("dmpo", "critic_loss"): ["target_smoothing_normal"],
            ("dmpo", "policy_loss"): ["posterior_gumbel_uniform"],
            ("dmpo", "information_loss"): ["info_label_int"],
            ("awac", "critic_loss"): ["target_action_normal"],
            ("awac", "policy_loss"): ["baseline_actions_normal"],
            ("mix_awac", "critic_loss"): ["target_action_normal"],
            ("mix_awac", "policy_loss"): ["baseline_action_normal"],
        }.get((name, loss), [])
        drawn = [recording.at(f"noise/{label}", step) for label in labels]
        # Ours have the samples of a state on an axis of their own, samples first, as theirs lie.
        return [each.reshape(-1, 16, 3) for each in drawn] if name in ("awac", "mix_awac") else drawn

    def checks(loss: str, step: int, value: Tensor, details: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        recorded = {"policy_loss": "actor_loss", "information_loss": "info_loss"}.get(loss, loss)
        found = {loss: (value, recording.at(f"mid/train.{recorded}", step))}
        if loss == "critic_loss":
            found["target"] = (details["q_target_mean"], recording.at("mid/train.target_Q", step).mean())
        if loss == "policy_loss":
            found["weight"] = (details["weight_max"], recording.at("mid/train.weight", step).amax())
        if loss == "policy_loss" and name != "iql":
            found["advantage"] = (details["advantage_mean"], recording.at("mid/train.adv", step).mean())
        if loss == "policy_loss" and name != "dmpo":
            found["likelihood"] = (details["log_prob"], recording.at("mid/train.log_p", step).mean())
        return found

    settings = {**SHARED[file], **VARIANTS[file, variant], **deviations}
    return Replay(recording, find(name), settings, weights, noise, checks, gradients, identity_spec(1e-3))


@pytest.mark.parametrize(("file", "variant"), VARIANTS)
def test_the_authors_run_is_repeated(file, variant):
    """Catches any deviation from the authors' code in losses, gradients, weights or actions."""
    replay = replayed(file, variant)
    assert not replay.failures, replay.failures[:3]
    checked = {what.split(" ")[0] for what, _, _ in replay.found}
    assert {"critic_loss", "policy_loss", "weights", "gradient", "evaluated", "weight"} <= checked
    assert file != "infodmpo" or "information_loss" in checked
    assert {step for what, step, _ in replay.found if what.startswith("weights")} == {2, STEPS}
    what, step, excess = max(replay.found, key=lambda row: row[2])
    print(f"{file} {variant}: {len(replay.found)} comparisons, worst {excess:.2f} of its tolerance: {what}, {step}")


@pytest.mark.parametrize(
    ("file", "variant", "deviations", "first"),
    [
        ("dmpo", "main", {"target_argmax": True}, "critic_loss"),
        ("dmpo", "main", {"divide_by_mean": False}, "policy_loss"),
        ("dmpo", "main", {"min_share": 0.7}, "critic_loss"),
        ("dmpo", "main", {"kl_weight": 0.9}, "policy_loss"),
        ("dmpo", "main", {"prior_temperature": 1.1}, "policy_loss"),
        ("dmpo", "main", {"relaxation_temperature": 0.7}, "policy_loss"),
        ("dmpo", "main", {"target_noise": 0.0}, "critic_loss"),
        ("dmpo", "main", {"alpha": 9.0}, "policy_loss"),
        ("dmpo", "main", {"weighting": "plain"}, "policy_loss"),
        ("dmpo", "main", {"policy_every": 1}, "policy_loss"),
        ("dmpo", "ant_reward", {"reward_shift": 0.0}, "critic_loss"),
        ("infodmpo", "big_ilr", {"legacy_info_loss": False}, "information_loss"),
        ("infodmpo", "big_ilr", {"information_learning_rate": 1e-4}, "policy_loss"),
        ("awac", "adapt", {"single_tanh": True}, "critic_loss"),
        ("awac", "adapt", {"clip_target_actions": True}, "critic_loss"),
        ("awac", "adapt", {"weighting": "plain"}, "policy_loss"),
        ("awac", "plain", {"divide_by_mean": False}, "policy_loss"),
        ("mix_awac", "near", {"divide_by_mean": True}, "policy_loss"),
        ("mix_awac", "near", {"single_tanh": True}, "critic_loss"),
        ("mix_awac", "far", {"legacy_likelihood": False}, "policy_loss"),
        ("iql_port", "main", {"expectile": 0.7}, "value_loss"),
        ("iql_port", "main", {"divide_by_mean": True}, "policy_loss"),
        ("iql_port", "clamp", {"weight_max": 1.0}, "policy_loss"),
        ("iql_port", "clamp", {"steps": 1_000}, "policy_loss"),
    ],
)
def test_the_comparison_finds_a_wrong_option(file, variant, deviations, first):
    """Catches a comparison that passes whatever it is given: each wrong option must fail, and first where it acts."""
    failures = replayed(file, variant, **deviations).failures
    assert failures and first in failures[0][0], failures[:1]
    assert any(what.startswith("weights") and step == STEPS for what, step, _ in failures)

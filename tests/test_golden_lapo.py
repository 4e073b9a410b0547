"""Ten steps of the authors' own LAPO and LP-AWAC (`tests/golden/README.md`), repeated by raymix's losses."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from recorded import STEPS, Recording, Replay, identity_spec
from torch import Tensor

from raymix.algorithms import lapo, lp_awac

LAPO_OPTIONS: dict[str, dict[str, Any]] = {
    "mujoco": {"reward_scaling": "none"},
    # Its rewards are recorded after they were multiplied by 100.
    "antmaze": {"reward_scaling": "none", "min_weight": 0.7, "kl_weight": 0.3, "value_bounds": "once"},
}
MODULES = {
    "encoder": ("actor_vae", "e"),
    "decoder": ("actor_vae", "d"),
    "policy": ("actor", "pi"),
    "value": ("critic", "v"),
}
OPTIMISERS = {"critic_loss": "critic_optimizer", "vae_loss": "actorvae_optimizer", "policy_loss": "actor_optimizer"}


def their_value(recording: Recording, prefix: str, slow: str, network: str, name: str, layers: int) -> Tensor:
    """A parameter under raymix's name: layer i of a trunk is `trunk.2i`, both critics' are one `layers.i`."""
    *_, layer, kind = name.split(".")
    if network == "critic":
        first = int(layer) + 1
        pair = [recording[f"{prefix}/critic{slow}.l{number}.{kind}"] for number in (first, first + layers)]
        return torch.stack(pair)
    module, letter = MODULES[network]
    number = int(layer) // 2 + 1
    if network == "encoder" and number == layers:
        return torch.cat([recording[f"{prefix}/{module}{slow}.{head}.{kind}"] for head in ("mean", "log_var")])
    return recording[f"{prefix}/{module}{slow}.{letter}{number}.{kind}"]


def replayed(recording: Recording, algorithm: Any, options: dict[str, Any], spec: Any, layers: int) -> Replay:
    def weights(group: str, place: str, name: str) -> Tensor:
        kind, network = place.split("/")
        return their_value(recording, group, "_target" if kind == "targets" else "", network, name, layers)

    def gradients(loss: str, network: str, name: str) -> Tensor:
        return their_value(recording, f"g_first/{OPTIMISERS[loss]}", "", network, name, layers)

    def noise(loss: str, step: int) -> list[Tensor]:
        names = {"critic_loss": "vtarget_latent_normal", "vae_loss": "vae_normal"}
        return [recording.at(f"noise/{names[loss]}", step)] if loss in names else []

    def checks(loss: str, step: int, value: Tensor, details: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        def mid(name: str) -> Tensor:
            return recording.at(f"mid/train.{name}", step)

        if loss == "critic_loss":
            q = (mid("current_Q1") + mid("current_Q2")).mean() / 2
            return {
                "critic loss": (value, mid("critic_loss")),
                "mean value": (details["q_mean"], q),
                "mean target": (details["q_target_mean"], mid("target_Q").mean()),
            }
        if loss == "vae_loss":
            return {
                "vae loss": (value, mid("actor_vae_loss")),
                "advantage": (details["advantage_mean"], mid("adv").mean()),
                "reconstruction": (details["reconstruction_error"], mid("recon_loss").mean()),
                "divergence": (details["divergence"], mid("KL_loss").mean()),
                "weights": (
                    (details["weight_mean"], mid("weights").mean())
                    if "weight_mean" in details
                    else (details["weight_max"], mid("weights").max())
                ),
            }
        return {
            "policy loss": (value, mid("actor_loss")),
            "latent": (details["latent_size"], mid("latent_actor_action").abs().mean()),
        }

    return Replay(recording, algorithm, options, weights, noise, checks, gradients, spec)


def lapo_replay(variant: str, **deviations: Any) -> Replay:
    recording = Recording("lapo.npz", variant)
    # What both variants share is stored once.
    recording.arrays = {**Recording("lapo.npz", "mujoco").arrays, **recording.arrays}
    low, high = (-1.0, 1.0) if variant == "mujoco" else (0.0, 100.0)
    spec = dataclasses.replace(identity_spec(lapo.EPSILON, lapo.EPSILON), reward_min=low, reward_max=high)
    options = {"hidden_dims": (24, 24, 24), **LAPO_OPTIONS[variant], **deviations}
    return replayed(recording, lapo.LAPO(), options, spec, layers=4)


def lp_awac_replay(**deviations: Any) -> Replay:
    options = {"hidden_dims": (32, 32), **deviations}
    return replayed(Recording("lp_awac.npz", "main"), lp_awac.LPAWAC(), options, identity_spec(lp_awac.EPSILON), 3)


def assert_complete(replay: Replay) -> None:
    assert not replay.failures, replay.failures[:5]
    checked = {what.split(" ")[0] for what, _, _ in replay.found}
    assert {"critic", "mean", "vae", "weights", "policy", "latent", "gradient", "evaluated"} <= checked
    for step in (1, STEPS):
        compared = {what for what, at, _ in replay.found if at == step and what.startswith("weights p")}
        assert {name.split(".")[0].split("/")[1] for name in compared} == {*MODULES, "critic"}
    what, step, excess = max(replay.found, key=lambda row: row[2])
    print(f"{len(replay.found)} comparisons, worst {excess:.2f} of its tolerance: {what}, step {step}")


@pytest.mark.parametrize("variant", LAPO_OPTIONS)
def test_lapo_repeats_its_authors_run(variant):
    """Catches any deviation from the authors' code in losses, gradients, weights or actions."""
    assert_complete(lapo_replay(variant))


def test_lp_awac_repeats_its_authors_run():
    """Catches any deviation from the authors' code in losses, gradients, weights or actions."""
    assert_complete(lp_awac_replay())


@pytest.mark.parametrize(
    ("variant", "deviations", "first"),
    [
        ("mujoco", {"positive_weight": 0.8}, "vae loss"),
        ("mujoco", {"weight_mode": "exp"}, "vae loss"),
        ("mujoco", {"kl_weight": 0.3}, "vae loss"),
        ("mujoco", {"z_max": 1.0}, "critic loss"),
        ("mujoco", {"latent": "unbounded"}, "critic loss"),
        ("mujoco", {"latent_noise": 0.0}, "gradient critic_loss value"),
        ("mujoco", {"min_weight": 0.7}, "critic loss"),
        ("mujoco", {"reward_scale": 0.5}, "critic loss"),
        ("mujoco", {"discount": 0.9}, "critic loss"),
        ("mujoco", {"tau": 0.01}, "weights targets"),
        ("antmaze", {"value_bounds": "none"}, "critic loss"),
        ("antmaze", {"min_weight": 1.0}, "gradient critic_loss value"),
        ("antmaze", {"kl_weight": 1.0}, "vae loss"),
    ],
)
def test_the_comparison_finds_a_wrong_option_of_lapo(variant, deviations, first):
    """Catches a comparison that passes whatever it is given: each wrong option must fail, and first where it acts."""
    failures = lapo_replay(variant, **deviations).failures
    assert failures and failures[0][0].startswith(first), failures[:1]
    assert any(what.startswith("weights p") and step == STEPS for what, step, _ in failures)


@pytest.mark.parametrize(
    ("deviations", "first"),
    [
        ({"alpha": 10.0}, "vae loss"),
        ({"kl_weight": 0.5}, "vae loss"),
        ({"z_max": 1.0}, "critic loss"),
        ({"latent_noise": 0.2}, "critic loss"),
        ({"reward_shift": -1.0}, "critic loss"),
        ({"policy_learning_rate": 2e-4}, "weights parameters/policy"),
    ],
)
def test_the_comparison_finds_a_wrong_option_of_lp_awac(deviations, first):
    """Catches a comparison that passes whatever it is given: each wrong option must fail, and first where it acts."""
    failures = lp_awac_replay(**deviations).failures
    assert failures and failures[0][0].startswith(first), failures[:1]
    assert any(what.startswith("weights p") and step == STEPS for what, step, _ in failures)

"""cluster.yaml, by Ray's own schema, and the promises that it makes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "cluster.yaml").read_text()


def validated(text: str) -> dict:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    return config


def test_ray_accepts_it() -> None:
    config = validated(TEXT)
    assert config["available_node_types"]["gpu_worker"]["resources"]["GPU"] >= 1


def test_ray_refuses_a_typing_error_in_it() -> None:
    """So that the test above means something."""
    with pytest.raises(Exception, match="max_worker"):
        validated(TEXT.replace("max_workers: 4\nups", "max_worker: 4\nups"))


def test_gpus_are_there_and_storage_is_shared() -> None:
    """A sweep takes GPUs where it sees one, and its trials write on whichever node they run."""
    config = yaml.safe_load(TEXT)
    assert config["available_node_types"]["gpu_worker"]["min_workers"] >= 1
    (mount,) = (line for line in config["initialization_commands"] if " mount -t " in line)
    folder = mount.split()[-1]
    assert f"-v {folder}:{folder}" in config["docker"]["run_options"]
    assert f"--storage {folder}/" in TEXT


def test_the_on_premises_variant_is_accepted_too() -> None:
    commented = TEXT[TEXT.index("# provider:") :]
    variant = yaml.safe_load(re.sub(r"^# ?", "", commented, flags=re.MULTILINE))
    config = yaml.safe_load(TEXT)
    for name in ("available_node_types", "docker", "head_node_type", "initialization_commands"):
        del config[name]
    validated(yaml.safe_dump({**config, **variant}))


def test_versions_shared_memory_and_other_peoples_ray() -> None:
    config = yaml.safe_load(TEXT)
    version = re.search(r"rayproject/ray:((\d+\.\d+)\.\d+)", config["docker"]["image"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pin,) = (line for line in project["dependencies"] if line.startswith("ray["))
    assert version is not None and f">={version[2]}" in pin
    assert f"ray=={version[1]} " in config["setup_commands"][0], "the image's Ray and no other"
    assert any("--shm-size" in option for option in config["docker"]["run_options"])
    commands = [line for name, lines in config.items() if name.endswith("_commands") for line in lines]
    assert commands and not any("ray stop" in line for line in commands)

"""Hyperparameters: checked on construction, and explained when wrong."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, dataclass

import numpy as np
import pytest

from raymix.algorithms import base
from raymix.config import AlgorithmConfig, scalar, schedule, structure
from raymix.types import UsageError


@dataclass(frozen=True)
class Config(AlgorithmConfig):
    beta: float = scalar(5.0, low=0, help="multiplies the advantage")
    discount: float = scalar(0.99, low=0, high=1)
    free: float = scalar(0.0)
    num_components: int = structure(5, low=1)
    hidden_dims: tuple = structure((256, 256))
    form: str = structure("square", choices=("square", "round"))
    clamp: bool = structure(True)
    warm_up: int = schedule(10)


class Algorithm(base.Algorithm):
    Config = Config
    presets = {"small": {"beta": 1.0, "num_components": 2}}


def test_round_trip_through_json():
    """Catches a tuple that comes back as a list, and values lost on the way."""
    config = Config(beta=0.5, hidden_dims=(32, 16), form="round", clamp=False, steps=7)
    again = Config.create(json.loads(json.dumps(config.to_dict())))
    assert again == config and hash(again) == hash(config)
    assert isinstance(again.hidden_dims, tuple)


def test_kinds_split_the_fields():
    """Catches a field that is in no kind or in two."""
    config = Config()
    kinds = [config.of_kind(kind) for kind in ("scalar", "structure", "schedule")]
    assert list(kinds[0]) == ["beta", "discount", "free"] and list(kinds[2]) == ["steps", "warm_up"]
    assert sorted(name for kind in kinds for name in kind) == sorted(config.to_dict())


def test_numbers_are_normalised():
    """Catches 5 and 5.0 giving two configurations, and NumPy's numbers (of a search space) being refused."""
    config = Config.create({"beta": 5, "num_components": 5.0})
    assert config == Config() and type(config.beta) is float and type(config.num_components) is int
    values = {"beta": np.float32(0.5), "num_components": np.int64(3), "clamp": np.bool_(False)}
    drawn = Config.create({**values, "discount": np.float64(0.5)})
    assert json.loads(json.dumps(drawn.to_dict()))["num_components"] == 3
    assert (type(drawn.beta), type(drawn.discount), drawn.clamp) == (float, float, False)


@pytest.mark.parametrize("given", [256, 256.0, np.int64(256), [256], (256.0,)])
def test_widths_may_be_one_number(given):
    """Catches `hidden_dims=256` being refused, and 256 and [256] giving two configurations."""
    config = Config(hidden_dims=given)
    assert config == Config(hidden_dims=(256,)) and type(config.hidden_dims[0]) is int


def test_values_cannot_be_changed_afterwards():
    """Catches an unchecked value written into a configuration that was checked."""
    with pytest.raises(FrozenInstanceError):
        Config().beta = 3.0  # type: ignore[misc]


def test_an_unknown_name_is_explained():
    """Catches a typo that trains with the default instead."""
    with pytest.raises(UsageError) as refusal:
        Config.create({"num_component": 3})
    message = str(refusal.value)
    assert "'num_component'" in message and "did you mean num_components?" in message
    for known in ("beta=5.0", "num_components=5", "hidden_dims=(256, 256)", "form='square'", "steps=1000000"):
        assert known in message
    with pytest.raises(UsageError) as refusal:
        Config.create({"zzzzzz": 3})
    assert "did you mean" not in str(refusal.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"beta": "5"}, ("beta", "5.0", "a number", "'5'")),
        ({"beta": None}, ("a number", "None")),
        ({"beta": True}, ("a number", "True")),
        ({"beta": -0.1}, ("at least 0", "-0.1")),
        ({"beta": float("nan")}, ("at least 0", "nan")),
        ({"beta": float("inf")}, ("beta", "inf")),
        ({"free": float("inf")}, ("a finite number",)),
        ({"discount": 1.5}, ("from 0 to 1", "1.5")),
        ({"num_components": 2.5}, ("a whole number", "2.5")),
        ({"num_components": True}, ("a whole number", "True")),
        ({"num_components": 0}, ("at least 1", "0")),
        ({"num_components": "5"}, ("a whole number",)),
        ({"clamp": 1}, ("true or false", "1")),
        ({"clamp": "true"}, ("true or false",)),
        ({"form": "oval"}, ("'square', 'round'", "'oval'")),
        ({"form": 3}, ("a word", "3")),
        ({"hidden_dims": 0}, ("256,256", "not 0")),
        ({"hidden_dims": "wide"}, ("positive whole numbers", "'wide'")),
        ({"hidden_dims": None}, ("positive whole numbers", "None")),
        ({"hidden_dims": ()}, ("positive whole numbers",)),
        ({"hidden_dims": (256, 0)}, ("positive whole numbers",)),
        ({"hidden_dims": (256, 2.5)}, ("positive whole numbers",)),
        ({"hidden_dims": (True,)}, ("positive whole numbers",)),
        ({"steps": 0}, ("at least 1",)),
        ({"warm_up": -1}, ("at least 0",)),
    ],
)
def test_wrong_values_are_refused(values, words):
    """Catches wrong types and ranges, and messages that do not name the field, the limit and the value."""
    for build in (Config.create, lambda given: Config(**given)):
        with pytest.raises(UsageError) as refusal:
            build(values)
        for word in (*values, *words):
            assert word in str(refusal.value)


def test_description_has_every_field_and_its_limits():
    """Catches a `raymix algorithms --json` without a field or with an unreadable limit (infinity is not JSON)."""
    rows = {row["name"]: row for row in json.loads(json.dumps(Config.describe(), allow_nan=False))}
    assert rows.keys() == Config().to_dict().keys()
    assert rows["discount"] == {
        "name": "discount", "kind": "scalar", "type": "float", "default": 0.99, "help": "", "low": 0, "high": 1
    }  # fmt: skip
    assert "low" not in rows["free"] and rows["form"]["choices"] == ["square", "round"]


def test_presets():
    """Catches a preset that overrides what the user asked for, and a silent miss of an unknown preset."""
    algorithm = Algorithm()
    assert algorithm.configure({}) == Config()
    assert algorithm.configure({"beta": 2.0}, preset="small") == Config(beta=2.0, num_components=2)
    with pytest.raises(UsageError, match="unknown preset 'smal' of Algorithm; it has: small"):
        algorithm.configure({}, preset="smal")


@pytest.mark.parametrize("name", base.names())
def test_declared_defaults_and_presets_are_valid(name):
    """Catches a default or a preset outside its own limits, a field without help, and an undocumented algorithm."""
    algorithm = base.find(name)
    for preset in (None, *algorithm.presets):
        algorithm.configure({}, preset)
    assert all(row["help"] for row in algorithm.Config.describe())
    assert algorithm.paper and algorithm.__doc__


def test_an_unknown_algorithm_is_explained():
    """Catches an import error where the user made a typo."""
    with pytest.raises(UsageError, match=r"unknown algorithm 'lomm'; known: .*\blom\b"):
        base.find("lomm")

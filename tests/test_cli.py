"""The command `raymix`, and the README's promises about it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from raymix.algorithms.base import names
from raymix.cli import main, parser
from raymix.commands.algorithms import preset_lines
from raymix.data.recipe import parse

ROOT = Path(__file__).parents[1]


def output(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    main(arguments)
    return capsys.readouterr().out


def test_algorithms_as_json(capsys: pytest.CaptureFixture) -> None:
    rows = json.loads(output(capsys, "algorithms", "--json"))
    assert {row["name"] for row in rows} >= {"bc", "lom", "mdn"}
    assert all(row["paper"] and row["fields"] for row in rows)
    (lom,) = (row for row in rows if row["name"] == "lom")
    fields = {field["name"]: field for field in lom["fields"]}
    assert fields["min_component_weight"]["default"] == 0.02
    assert all(field["help"] and field["kind"] in ("scalar", "structure", "schedule") for field in lom["fields"])
    assert lom["presets"]["paper"]["min_component_weight"] == 0
    assert (lom["presets"]["paper"]["mdn_steps"], lom["presets"]["paper"]["steps"]) == (200_000, 1_000_000)


def test_algorithms_for_people(capsys: pytest.CaptureFixture) -> None:
    assert "Learning on One Mode" in output(capsys, "algorithms")
    text = output(capsys, "algorithms", "lom")
    assert "num_components=5" in text and "preset paper" in text


def test_many_presets_are_listed_as_a_table_of_what_differs(capsys: pytest.CaptureFixture) -> None:
    """Catches a line per preset that nobody can compare, a lost preset, and a shared value repeated in each row."""
    text = output(capsys, "algorithms", "lom")
    (head,) = (line for line in text.splitlines() if line.startswith("preset  "))
    assert head.split()[1:] == ["num_critics", "num_components", "beta", "action_noise", "target_noise", "weight_max"]
    (row,) = (line for line in text.splitlines() if line.startswith("walker2d-expert"))
    assert row.split() == ["walker2d-expert", "1", "5", "0.1", "0.2", "0.0", "50.0"] and len(row) == len(head)
    assert "all of these with min_component_weight=0.0, mdn_steps=200000, steps=1000000" in text


def test_few_or_unlike_presets_take_a_line_each() -> None:
    """Catches a table of one row, presets of other fields forced into one, and one whose values are all shared."""
    few = {"a": {"x": 1}, "b": {"x": 2}, "c": {"y": (8, 8), "x": 1}}
    assert preset_lines(few) == ["preset a: x=1", "preset b: x=2", "preset c: y=8,8, x=1"]
    many = {**few, "d": {"x": 3}, "e": {"x": 10}}
    assert preset_lines(many) == [
        "preset c: y=8,8, x=1",
        "",
        "preset   x",
        "a        1",
        "b        2",
        "d        3",
        "e       10",
    ]


def test_data_list_and_info(capsys: pytest.CaptureFixture) -> None:
    names = {row["name"] for row in json.loads(output(capsys, "data", "list", "--json"))}
    assert {"raymix/fetchreach-multigoal-v0", "toy/two-modes-v0"} <= names
    facts = json.loads(output(capsys, "data", "info", "two-modes", "--json"))
    assert facts["num_transitions"] == 2000 and facts["sources"] == ["left", "right"]
    assert "raymix/TwoModes-v0" in output(capsys, "data", "info", "two-modes")


def test_train_writes_a_run_that_report_reads(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    settings = ["--set", "hidden_dims=8,", "--set", "batch_size=16", "--steps", "20", "--evaluate-every", "10"]
    command = ["train", "bc", "--dataset", "two-modes", "--seeds", "3", "--eager", "--storage", str(tmp_path)]
    trained = json.loads(output(capsys, *command, *settings, "--json"))
    assert trained["rows"][0]["seeds"] == 3
    reported = json.loads(output(capsys, "report", str(tmp_path), "--json"))
    assert reported == trained
    again = json.loads(output(capsys, "train", "bc", "--resume", trained["run"], "--json"))
    assert again == trained


def test_resuming_a_run_of_another_algorithm_is_refused(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    command = ["train", "bc", "--dataset", "two-modes", "--steps", "5", "--eager", "--storage", str(tmp_path), "--json"]
    run = json.loads(output(capsys, *command))["run"]
    with pytest.raises(SystemExit, match="2"):
        main(["train", "lom", "--resume", run])
    assert "bc" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["algorithms", "lomm"], ["lomm", ", ".join(names())]),
        (["train", "bcc", "--dataset", "two-modes"], ["bcc", ", ".join(names())]),
        (["train", "bc", "--dataset", "two-modes", "--preset", "big"], ["big", "small"]),
        (["train", "bc", "--dataset", "two-mode"], ["two-modes"]),
        (["train", "bc", "--dataset", "two-modes", "--device", "cuda:9"], ["cuda:9"]),
        (["data", "info", "mujoco/hopper/medium-v0"], ["minari download"]),
        (["report", "nowhere"], ["nowhere"]),
        (["report", "/dev"], ["/dev"]),
    ],
)
def test_bad_usage_exits_with_2_and_one_sentence(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    storage = ["--storage", str(tmp_path)] if arguments[0] == "train" else []
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, *storage])
    message = capsys.readouterr().err
    assert message.startswith("error: ") and all(word in message for word in words), message
    assert not list(tmp_path.iterdir())


def test_the_command_is_installed() -> None:
    command = Path(sys.executable).with_name("raymix")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("raymix ")


def test_readme_opens_with_the_two_commands_that_ci_runs() -> None:
    lines = [line.strip() for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("    ")]
    assert lines[:2] == ["pip install -e . && python sweeps/lom_M.py", "pip install -e '.[test]' && pytest"]


def test_every_command_and_every_data_set_in_the_readme_can_be_given() -> None:
    """Catches a renamed command or option, and a name that is no recipe."""
    lines = [line[4:] for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("    ")]
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("raymix ")]
    assert len(commands) > 10
    for command in commands:
        parser().parse_args(["bench", "store"] if "|" in command else command)
    recipes = [name for line in lines if (name := re.match(r'"([^"]+)" ', line))]
    assert len(recipes) == 4
    for recipe in recipes:
        assert str(parse(recipe[1])) == recipe[1]

"""The board for Grafana: what it asks of Prometheus exists, and Grafana can show it."""

from __future__ import annotations

import itertools
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from raymix.cli import main
from raymix.watching.gauges import GAUGES, TAGS

BOARD: dict[str, Any] = json.loads(resources.files("raymix.watching").joinpath("grafana.json").read_text())
VARIABLES: dict[str, Any] = {variable["name"]: variable for variable in BOARD["templating"]["list"]}


def queries() -> list[str]:
    asked = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
    return asked + [variable["definition"] for variable in VARIABLES.values() if variable["type"] == "query"]


def test_every_query_is_about_gauges_and_tags_that_there_are() -> None:
    """Catches a gauge that was renamed, and one that the board does not show."""
    functions = {"label_values"}
    shown = set()
    for query in queries():
        bare = re.sub(r"\{[^}]*\}", "", query)
        names = set(re.findall(r"[a-z_]+", bare)) - functions - set(TAGS)
        assert names and names <= {f"ray_{name}" for name in GAUGES}, query
        shown |= names
        for tag, variable in re.findall(r'(\w+)=~"\$(\w+)"', query):
            assert tag in TAGS and variable in VARIABLES
    assert shown == {f"ray_{name}" for name in GAUGES}
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            assert target["expr"].count('{sweep=~"$sweep", run=~"$run"}') == target["expr"].count("ray_raymix_")
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= set(TAGS)


def test_grafana_has_what_it_needs() -> None:
    """The fields of Grafana's classic JSON model, which it imports and provisions."""
    assert BOARD["title"] and re.fullmatch(r"[\w-]{1,40}", BOARD["uid"])
    assert isinstance(BOARD["schemaVersion"], int) and "id" not in BOARD
    assert BOARD["time"].keys() == {"from", "to"} and isinstance(BOARD["annotations"]["list"], list)
    numbers = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in BOARD["panels"]:
        assert panel["type"] in ("timeseries", "stat") and panel["title"] and panel["description"]
        assert panel["fieldConfig"].keys() == {"defaults", "overrides"} and panel["options"]
        letters = [target["refId"] for target in panel["targets"]]
        assert letters and len(set(letters)) == len(letters)
        for asking in (panel, *panel["targets"]):
            assert asking["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert VARIABLES["datasource"]["type"] == "datasource" and VARIABLES["datasource"]["query"] == "prometheus"


def test_panels_fill_the_page_without_overlap() -> None:
    places = [panel["gridPos"] for panel in BOARD["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below


def test_the_command_prints_it_or_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    main(["grafana"])
    assert json.loads(capsys.readouterr().out) == BOARD
    main(["grafana", str(tmp_path)])
    path = tmp_path / "raymix_grafana_dashboard.json"
    assert capsys.readouterr().out.strip() == str(path) and json.loads(path.read_text()) == BOARD
    with pytest.raises(SystemExit):
        main(["grafana", str(tmp_path / "absent")])
    assert "give a folder that is there" in capsys.readouterr().err

"""Sweeps whose trials share packs, as a user runs them, and the death of each process that takes part."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.exceptions import RayActorError
from test_sweep import SWEEP, Driver, results

from raymix import ledger
from raymix.packing.broker import start_broker
from raymix.packing.pack import Pack, Place
from raymix.packing.seat import place_of
from raymix.plan import read_description

PACKED = SWEEP.replace(
    'search={"num_components": tune.grid_search([1, 2, 3])}',
    'search={"beta": tune.grid_search([0.5, 1.0, 2.0, 4.0, 8.0])}, seats=4',
)
assert PACKED != SWEEP


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An undisturbed run of five trials, two to a pack."""
    folder = tmp_path_factory.mktemp("whole")
    status, _, errors = Driver(folder, sweep=PACKED).finish()
    assert status == 0, errors
    (run,) = (folder / "runs").iterdir()
    yield run


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def test_trials_share_packs_and_their_first_phase(whole: Path) -> None:
    """Catches trials that are not packed, and a mixture fitted for each of them."""
    plan = read_description(whole)
    assert [trial["widths"] for trial in plan["trials"]] == [[2, 4]] * 5
    assert (
        len({word for trial in plan["trials"] for word in trial["shared"]})
        == len({trial["pack"] for trial in plan["trials"]})
        == 1
    )
    found = results(whole)
    assert len(found) == 5 * 2 * (2 + 10)
    # One training has one speed. Five trainings, of which two seats hold one at a time, would have five.
    rows = ledger.rows(ledger.read(str(whole / "ledger")))
    speeds = {row.metrics["steps_per_second"] for row in rows if (row.seed, row.phase, row.step) == (0, "mdn", 60)}
    assert 1 <= len(speeds) <= 2  # in two packs
    mains = {row for (_, _, phase, _), row in found.items() if phase == "main"}
    assert len(mains) == 5 * 2 * 10


@pytest.mark.parametrize("victim", ["ray::Pack", "ray::Trial", "ray::RolloutActor"])
def test_a_killed_process_loses_and_doubles_nothing(victim: str, whole: Path, tmp_path: Path) -> None:
    driver = Driver(tmp_path, sweep=PACKED)
    driver.wait_for_segments(12)
    victims = [process for process in driver.family if victim in title(process)]
    assert victims, [title(process) for process in driver.family]
    victims[0].kill()
    status, output, errors = driver.finish()
    assert status == 0, errors
    (run,) = (tmp_path / "runs").iterdir()
    assert results(run) == results(whole)
    if victim == "ray::Pack":
        assert "A pack died; its trials go on in another one" in output
    assert not [process for process in driver.family if process.is_running()]


def test_a_run_goes_on_in_packs_that_it_did_not_have(whole: Path, tmp_path: Path) -> None:
    """Catches trials whose numbers depend on who they sat with before the driver was killed."""
    driver = Driver(tmp_path, sweep=PACKED)
    driver.wait_for_segments(12)
    driver.process.kill()
    driver.finish()
    (run,) = (tmp_path / "runs").iterdir()
    status, _, errors = Driver(tmp_path, "--resume", str(run), sweep=PACKED).finish()
    assert status == 0, errors
    assert results(run) == results(whole)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=2,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    yield
    ray.shutdown()


def test_a_pack_sees_the_device_of_its_trials(local_ray: None) -> None:
    """Two GPUs are pretended; catches a pack on another one, and trials of one device in two packs."""

    class Asker:  # stands where a trial stands: with a share of a GPU
        def place(self) -> Place:
            return place_of(cpus=1.5)

    class Looker:  # stands where a pack stands
        def visible(self, place: Place) -> str | None:
            Pack(place)
            return os.environ.get("CUDA_VISIBLE_DEVICES")

    askers = [ray.remote(Asker).options(num_cpus=0, num_gpus=0.5).remote() for _ in range(4)]
    places = ray.get([asker.place.remote() for asker in askers])
    assert sorted(place.gpus for place in places) == ["0", "0", "1", "1"]
    assert {place.node for place in places} == {ray.get_runtime_context().get_node_id()}
    assert {place.threads for place in places} == {1}
    lookers = [ray.remote(Looker).options(num_cpus=0).remote() for _ in places]
    seen = [looker.visible.remote(place) for looker, place in zip(lookers, places)]
    assert ray.get(seen) == [place.gpus for place in places]


def test_the_broker_fills_packs_and_uses_them_again(local_ray: None) -> None:
    broker = start_broker("broker-test")
    here = Place(ray.get_runtime_context().get_node_id(), "", 1)

    def seat(trial: str, key: str = "a", place: Place = here) -> str:
        return ray.get(broker.seat.remote(trial, place, key, 4, 2))[0]

    def taken() -> list[tuple[str, int]]:
        return [(pack["key"], pack["taken"]) for pack in ray.get(broker.occupancy.remote())]

    first, second = seat("one"), seat("two")
    assert taken() == [("a", 4)]
    third = seat("three")
    assert taken() == [("a", 4), ("a", 2)]
    other = seat("four", key="b")
    assert taken() == [("a", 4), ("a", 2), ("b", 2)]
    again = seat("one")  # its process died: the seats that it held are free
    assert again != first and taken() == [("a", 4), ("a", 2), ("b", 2)]
    for ticket in (second, again, first):
        ray.get(broker.leave.remote(ticket))
    assert taken() == [("a", 0), ("a", 2), ("b", 2)]
    fifth = seat("five", key="c")  # an empty pack takes another structure
    assert taken() == [("c", 2), ("a", 2), ("b", 2)]
    ray.get(broker.lost.remote(fifth))
    assert taken() == [("a", 2), ("b", 2)]
    for ticket in (third, other):
        ray.get(broker.leave.remote(ticket))
    seat("six", place=Place(here.node, "1", 1))
    assert taken() == [("a", 0), ("b", 0), ("a", 2)]
    ray.kill(broker)


def test_an_empty_pack_ends_whose_name_would_be_wrong(local_ray: None) -> None:
    """Catches a pack that Ray's dashboard shows with another data set, algorithm or number of seats than it has."""
    broker = start_broker("broker-names", "a-run")
    here = Place(ray.get_runtime_context().get_node_id(), "", 1)

    def seat(width: int, what: str) -> tuple[str, Any]:
        return ray.get(broker.seat.remote("one", here, what, width, 2, what))

    ticket, first = seat(4, "lom on toy")
    ray.get(broker.leave.remote(ticket))
    ticket, same = seat(4, "lom on toy")
    assert same == first
    ray.get(broker.leave.remote(ticket))
    _, wider = seat(8, "lom on toy")
    assert ray.get(wider.agent_steps.remote()) == 0
    with pytest.raises(RayActorError):
        ray.get(first.agent_steps.remote())
    assert [pack["seats"] for pack in ray.get(broker.occupancy.remote())] == [8]
    ray.kill(broker)

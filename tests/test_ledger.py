"""The ledger: every key exactly once, whatever was killed, and damage is never silent."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raymix import ledger
from raymix.ledger import LedgerWriter, Row
from raymix.types import UsageError

CONFIG = {"num_components": 5, "beta": 5.0, "hidden_dims": [256, 256]}
ONE = ledger.config_id("lom", "raymix/toy-v0", "abc", CONFIG)
OTHER = ledger.config_id("lom", "raymix/toy-v0", "abc", CONFIG | {"num_components": 10})


def make_row(seed: int = 0, phase: str = "main", step: int = 100, **values: Any) -> Row:
    facts: dict[str, Any] = {"run": "toy", "dataset": "raymix/toy-v0", "dataset_hash": "abc", "algorithm": "lom"}
    facts |= {"config": CONFIG, "returns": (1.5, 2.5), "lengths": (50, 50), "metrics": {"loss": 0.25}}
    facts |= {"agent_seconds": 3.0, "wall_time": 1.7e9, "version": "0.1.0"}
    return Row(seed=seed, phase=phase, step=step, **facts | values)


def keys(table: pa.Table) -> list[tuple[str, int, str, int]]:
    return list(zip(*(table[n].to_pylist() for n in ("config_id", "seed", "phase", "step")), strict=True))


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_rows_come_back_as_they_were(tmp_path: Path, scheme: str) -> None:
    folder = f"{scheme}{tmp_path}/ledger"
    metrics = {"loss": math.nan, "high": math.inf, "low": -math.inf, "fine": 0.1}
    row = make_row(metrics=metrics, reference_min=1.0, reference_max=95.0, returns=(math.nan, 2.0), diverged=True)
    LedgerWriter(folder, ONE, 1).append([row, make_row(seed=1)])
    table = ledger.read(folder)
    assert table.schema.equals(ledger.SCHEMA)
    assert table["metrics"][0].as_py() == '{"fine":0.1,"high":"Infinity","loss":"NaN","low":"-Infinity"}'
    first, second = ledger.rows(table)
    assert math.isnan(first.metrics["loss"]) and math.isnan(first.returns[0])
    assert (first.metrics["high"], first.metrics["low"], first.metrics["fine"]) == (math.inf, -math.inf, 0.1)
    assert (first.config_id, first.attempt, first.diverged, first.reference_max) == (ONE, 1, True, 95.0)
    assert second == make_row(seed=1, config_id=ONE, attempt=1)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_interleaving_of_attempts_reads_each_key_once_and_the_latest(data: st.DataObject) -> None:
    """Writers of two trials, restarted at will and interleaved, against a dictionary; merging does not matter."""
    merged = data.draw(st.sampled_from([2, 3, 25]))
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(ledger, "_MERGED", merged)
        writers: dict[str, LedgerWriter] = {}
        expected: dict[tuple[str, int, str, int], float] = {}
        turns = data.draw(st.lists(st.tuples(st.sampled_from([ONE, OTHER]), st.booleans()), max_size=12))
        for order, (identifier, restart) in enumerate(turns):
            if restart or identifier not in writers:
                writers[identifier] = LedgerWriter(folder, identifier, ledger.next_attempt(folder, identifier))
            writer = writers[identifier]
            cells = data.draw(
                st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["mixture", "main"]), st.integers(0, 3)))
            )
            writer.append([make_row(s, p, n, agent_seconds=float(order)) for s, p, n in cells])
            for cell in cells:
                expected[identifier, *cell] = float(order)
        table = ledger.read(folder)
        found = dict(zip(keys(table), table["agent_seconds"].to_pylist(), strict=True))
        assert len(keys(table)) == len(found)
        assert found == expected
        assert ledger.read(folder).equals(table)


def test_a_late_write_of_an_old_attempt_does_not_win(tmp_path: Path) -> None:
    old = LedgerWriter(str(tmp_path), ONE, 1)
    old.append([make_row(step=100, agent_seconds=1.0)])
    LedgerWriter(str(tmp_path), ONE, 2).append([make_row(step=200, agent_seconds=2.0)])
    old.append([make_row(step=200, agent_seconds=1.0), make_row(step=300, agent_seconds=1.0)])
    table = ledger.read(str(tmp_path))
    assert table["step"].to_pylist() == [100, 200, 300]
    assert table["attempt"].to_pylist() == [1, 2, 1]


def test_rows_are_sorted_by_seed_phase_in_order_of_appearance_and_step(tmp_path: Path) -> None:
    LedgerWriter(str(tmp_path), ONE, 1).append(
        [make_row(s, p, n) for n in (200, 100) for s in (1, 0) for p in ("z", "a")]
    )
    wanted = [(ONE, s, p, n) for s in (0, 1) for p in ("z", "a") for n in (100, 200)]
    assert keys(ledger.read(str(tmp_path))) == wanted


def test_a_resumed_run_reads_like_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, killed = str(tmp_path / "whole"), str(tmp_path / "killed")
    chunks = [[make_row(seed, "main", step) for seed in (0, 1)] for step in (100, 200, 300)]
    for folder, attempts in ((whole, [chunks]), (killed, [chunks[:2], chunks[1:]])):
        for attempt in attempts:
            writer = LedgerWriter(folder, ONE, ledger.next_attempt(folder, ONE))
            for chunk in attempt:
                writer.append(chunk)
    assert ledger.read(whole).drop_columns("attempt").equals(ledger.read(killed).drop_columns("attempt"))


def test_what_a_killed_writer_leaves_is_not_read(tmp_path: Path) -> None:
    """Killed before the rename: a temporary file, whole or in part."""
    name = LedgerWriter(str(tmp_path), ONE, 1).append([make_row()])
    assert name is not None
    whole = (tmp_path / name).read_bytes()
    before = ledger.read(str(tmp_path))
    for number, data in enumerate((b"", whole[:100], whole)):
        (tmp_path / f".{number:032x}.tmp").write_bytes(data)
    assert ledger.read(str(tmp_path)).equals(before)
    assert ledger.next_attempt(str(tmp_path), ONE) == 2


@pytest.mark.parametrize("where", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_segment_is_named(tmp_path: Path, where: float, damage: str) -> None:
    writer = LedgerWriter(str(tmp_path), ONE, 1)
    writer.append([make_row()])
    name = writer.append([make_row(step=200)])
    assert name is not None
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    place = int(where * len(data))
    if damage == "truncated":
        data = data[:place]
    else:
        data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(UsageError, match=f"{name} is damaged"):
        ledger.read(str(tmp_path))


def test_a_restarted_writer_overwrites_nothing(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert ledger.next_attempt(folder, ONE) == 1
    LedgerWriter(folder, ONE, 1).append([make_row()])
    LedgerWriter(folder, OTHER, 1).append([make_row(config=CONFIG | {"num_components": 10})])
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(folder)}
    assert ledger.next_attempt(folder, ONE) == 2
    with pytest.raises(UsageError, match=r"the next one is 2"):
        LedgerWriter(folder, ONE, 1)
    LedgerWriter(folder, ONE, 2).append([make_row()])
    assert len(os.listdir(folder)) == 3
    assert all((tmp_path / name).read_bytes() == data for name, data in before.items())


def test_a_row_that_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    writer = LedgerWriter(str(tmp_path), ONE, 1)
    assert writer.append([]) is None
    with pytest.raises(pa.ArrowException):
        writer.append([make_row(), make_row(dataset=5)])
    with pytest.raises(pa.ArrowException):
        writer.append([make_row(version=None)])
    with pytest.raises(UsageError, match="one writer each"):
        writer.append([make_row(config_id=OTHER)])
    assert os.listdir(tmp_path) == []


def test_config_id_names_what_is_trained_and_not_the_seed() -> None:
    assert len(ONE) == 12 and int(ONE, 16) >= 0
    shuffled = dict(reversed(CONFIG.items())) | {"seed": 3, "hidden_dims": (256, 256), "beta": np.float64(5.0)}
    assert ledger.config_id("lom", "raymix/toy-v0", "abc", shuffled) == ONE
    others = [
        ledger.config_id("mdn", "raymix/toy-v0", "abc", CONFIG),
        ledger.config_id("lom", "raymix/toy-v1", "abc", CONFIG),
        ledger.config_id("lom", "raymix/toy-v0", "abd", CONFIG),
        ledger.config_id("lom", "raymix/toy-v0", "abc", CONFIG | {"beta": 1.0}),
    ]
    assert len({ONE, OTHER, *others}) == 6


@given(st.dictionaries(st.text(), st.floats() | st.integers() | st.lists(st.floats(allow_nan=False))))
def test_json_keeps_every_number(values: dict[str, Any]) -> None:
    decoded = ledger.decode(ledger.encode(values))
    np.testing.assert_equal(decoded, values)


def test_bad_folders_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="there is no ledger at"):
        ledger.read(str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="cannot make the ledger folder"):
        LedgerWriter(str(tmp_path / "file" / "ledger"), ONE, 1)
    with pytest.raises(UsageError, match="cannot open nowhere://x"):
        ledger.read("nowhere://x")
    with pytest.raises(UsageError, match="12 hex digits"):
        LedgerWriter(str(tmp_path), "lom", 1)
    assert ledger.read(str(tmp_path)).num_rows == 0


def test_many_segments_are_joined_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LedgerWriter(str(tmp_path), ONE, 1)
    for step in range(7):
        writer.append([make_row(seed, step=step) for seed in (0, 1)])
    whole = ledger.read(str(tmp_path))
    monkeypatch.setattr(ledger, "_JOINED", 3)
    assert ledger.read(str(tmp_path)).equals(whole) and whole.num_rows == 14


def write_steps(folder: Path, steps: int) -> LedgerWriter:
    """A report each; the first four are of another phase."""
    writer = LedgerWriter(folder, ONE, ledger.next_attempt(folder, ONE))
    for step in range(steps):
        writer.append([make_row(seed, "z" if step < 4 else "a", step) for seed in (0, 1)])
    return writer


def test_a_writer_makes_one_segment_of_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_steps(tmp_path / "merged", 102)
    assert len(list((tmp_path / "merged").iterdir())) == 4 + 2
    monkeypatch.setattr(ledger, "_MERGED", 1000)
    write_steps(tmp_path / "not", 102)
    assert len(list((tmp_path / "not").iterdir())) == 102
    assert ledger.read(tmp_path / "merged").equals(ledger.read(tmp_path / "not"))


@pytest.mark.parametrize("removed", [0, 1, 5, 24])
def test_a_writer_that_dies_while_it_merges_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: int
) -> None:
    left, unlink = [removed], Path.unlink

    def die(path: Path, missing_ok: bool = False) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        unlink(path, missing_ok)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", die)
        write_steps(tmp_path / "dies", 25)
    assert len(list((tmp_path / "dies").iterdir())) == 1 + 25 - removed
    write_steps(tmp_path / "lives", 25)
    assert ledger.read(tmp_path / "dies").equals(ledger.read(tmp_path / "lives"))


@pytest.mark.parametrize("at", [0, 3, 12, 23])
def test_segments_that_are_merged_while_they_are_read_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The writer merges after a reader has read `at` of the segments that it found."""
    read_segment = ledger._read_segment
    for kind in ("read", "follow"):
        writer, calls = write_steps(tmp_path / kind, 24), [0]

        def read(*arguments: Any, writer: LedgerWriter = writer, calls: list[int] = calls) -> pa.Table:
            if calls[0] == at:
                writer.append([make_row(seed, "a", 24) for seed in (0, 1)])
            calls[0] += 1
            return read_segment(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(ledger, "_read_segment", read)
            if kind == "read":
                found = ledger.read(tmp_path / kind)
            else:
                follower = ledger.Follower(
                    tmp_path / kind, ledger.SCHEMA.names, lambda damage: pytest.fail(str(damage))
                )
                for _ in range(3):
                    follower.poll(100)
                found = follower.table(ONE)
        assert found.equals(ledger.read(tmp_path / kind)) and len(found) == 50
        assert len(list((tmp_path / kind).iterdir())) == 1


def test_columns_of_a_newer_version_are_told_and_left_out_when_asked(tmp_path: Path) -> None:
    name = LedgerWriter(str(tmp_path), ONE, 1).append([make_row()])
    assert name is not None
    table = ledger.read(str(tmp_path))
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(table.append_column("energy", pa.array([1.0])), sink)
    data = sink.getvalue().to_pybytes()
    (tmp_path / name).unlink()
    (tmp_path / f"{ONE}-0001-000000-{hashlib.sha256(data).hexdigest()[:16]}.parquet").write_bytes(data)
    with pytest.raises(UsageError, match=r"other columns \(\['energy'\]\)"):
        ledger.read(str(tmp_path))
    told: list[UsageError] = []
    assert ledger.read(str(tmp_path), on_damage=told.append).equals(table)
    assert len(told) == 1 and "energy" in str(told[0])

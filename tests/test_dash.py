"""The live page's server: what it answers, to whom, and that reading bit by bit gives what reading at once gives."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from aiohttp.test_utils import TestClient, TestServer
from test_comparison import make
from test_page import put
from test_report import add, describe_run

from raymix import ledger
from raymix.cli import main
from raymix.dash import server
from raymix.dash.server import application, is_loopback, ray_token, serve
from raymix.dash.watch import SEGMENTS_AT_ONCE, Storage, Watched
from raymix.report.page_facts import page_facts
from raymix.report.runs import read_runs, stopped
from raymix.search.decided import DecidedWriter
from raymix.search.halving import stopped_trials
from raymix.types import UsageError


def fill(run: Path) -> None:
    for components in (1, 5, 10):
        for lr in (1e-3, 1e-4):
            add(run, {"num_components": components, "lr": lr}, 50.0 + components, diverged=(1,) if lr == 1e-3 else ())
    add(run, {"num_components": 20}, 50.0, steps=(100,))


def facts_of(watched: Watched) -> dict[str, Any]:
    watched.update()
    assert watched.facts is not None and watched.reading == ""
    return json.loads(watched.facts)


def talk(storage: Path, conversation: Callable[[TestClient], Awaitable[None]], token: str | None = None) -> None:
    """A conversation with a real server of this folder."""

    async def run() -> None:
        async with TestClient(TestServer(application(Storage(str(storage)), token))) as client:
            await conversation(client)

    asyncio.run(run())


def test_the_live_page_has_the_numbers_of_the_report(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    fill(run)
    whole = json.loads(json.dumps(page_facts(read_runs([str(run)]), live=True)))
    live = facts_of(Watched(run))
    assert live.pop("programs") == [] and live.pop("progress")["trials"] == 7
    assert live == whole


def test_what_is_added_appears_and_nothing_else_changes(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    watched = Watched(run)
    watched.update()
    assert json.loads(watched.facts or "")["rows"] == [] and watched.reading == ""
    fill(run)
    first = facts_of(watched)
    version = watched.version
    watched.update()
    assert watched.version == version
    add(run, {"num_components": 20}, 50.0)  # the attempt after, which finishes
    second = facts_of(watched)
    assert watched.version != version
    (before,), (after,) = (
        [row for row in facts["rows"] if row["fields"][-1] == 20 or 20 in row["fields"]] for facts in (first, second)
    )
    assert (before["status"], after["status"]) == ("unfinished", "done") and after["attempts"] == 2
    assert second["notices"] == [
        "1 trials were started again (after a kill, a failure, a resume or a rung), 1 times in all"
    ]
    others = [[row for row in facts["rows"] if row["id"] != after["id"]] for facts in (first, second)]
    assert others[0] == others[1]
    # A copy, elsewhere and later, says the same.
    shutil.copytree(run, tmp_path / "copy" / "run")
    assert facts_of(Watched(tmp_path / "copy" / "run")) == second


def test_long_ledgers_are_shown_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path, "run")
    fill(run)
    told: list[tuple[str, int]] = []
    monkeypatch.setattr("raymix.dash.watch.SEGMENTS_AT_ONCE", 4)
    tell = Watched._tell

    def listen(self: Watched, *arguments: Any, **more: Any) -> None:
        tell(self, *arguments, **more)
        told.append((self.reading, len(json.loads(self.facts or "")["rows"])))

    monkeypatch.setattr(Watched, "_tell", listen)
    watched = Watched(run)
    watched.update()
    assert SEGMENTS_AT_ONCE > 4 and told[0] == ("Reading the ledger: 4 segments, 22 to go.", 1)
    assert told[-1] == ("", 7)


def test_damage_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    fill(run)
    path = sorted((run / "ledger").glob("*.parquet"))[-1]
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    watched = Watched(run)
    facts = facts_of(watched)
    assert path.name in facts["notices"][0] and "damaged" in facts["notices"][0] and len(facts["rows"]) == 7
    version = watched.version
    watched.update()
    assert watched.version == version
    # It was a copy under way: when it is whole it counts.
    path.write_bytes(data)
    assert facts_of(watched)["rows"] == json.loads(json.dumps(page_facts(read_runs([str(run)]))))["rows"]


def test_a_metric_that_cannot_be_had_is_said_in_words(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    add(run, {}, 50.0, references=(None, None))
    describe_run(run, [{}], metric="normalized_score")
    watched = Watched(run)
    watched.update()
    assert "has no reference scores to normalize by" in watched.reading and watched.facts is None


def test_programs_and_progress_come_from_plan_and_rows(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    configs = [{"beta": beta} for beta in (1.0, 2.0, 3.0)]
    ids = [ledger.config_id("lom", "raymix/toy-v0", "abc", {"steps": 300} | config) for config in configs]
    trial = {"algorithm": "lom", "dataset": "raymix/toy-v0", "evaluate_every": 100, "pack": "p", "widths": [4]}
    trials = [
        trial | {"config_id": name, "config": {"steps": 300} | config, "label": str(config)}
        for name, config in zip(ids, configs, strict=True)
    ]
    put(run, configs[0], [1.0, 2.0], agent_seconds=1800.0)
    writer = ledger.LedgerWriter(str(run / "ledger"), ids[1], 1)
    (template, *_) = ledger.rows(ledger.read(str(run / "ledger")))
    for step, at in ((100, 1.7e9 - 20.0), (200, 1.7e9 - 10.0)):
        rows = [
            replace(template, config_id="", seed=seed, step=step, wall_time=at, config=trials[1]["config"])
            for seed in (0, 1)
        ]
        writer.append(rows)
    describe_run(run, [], trials=trials, seeds=[0, 1], phases={"lom": [["main", "steps"]]})
    facts = facts_of(Watched(run))
    # The second gained 100 steps of two seeds in 10 s, and has 100 to go; the third has all 300.
    assert facts["progress"] == {
        "done": pytest.approx((1 + 2 / 3) / 3),
        "trials": 3,
        "over": 1,
        "training": 1,
        "speed": pytest.approx(20.0),
        "left": pytest.approx((200 + 600) / 20),
        "newest": 1.7e9,
        "patience": pytest.approx(90.0),
    }
    (program,) = facts["programs"]
    assert (program["seats"], program["trials"], program["training"], program["over"]) == (4, 3, 1, 1)
    assert program["hours"] == pytest.approx(2.0) and program["speed"] == pytest.approx(20.0)
    by_id = {row["id"]: row for row in facts["rows"]}
    assert by_id[ids[1]]["left"] == pytest.approx(10.0) and by_id[ids[2]]["status"] == "no results yet"


def test_what_a_search_decides_appears(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    configs = [{"steps": 300, "beta": beta} for beta in (1.0, 2.0)]
    trials = [
        {
            "config_id": ledger.config_id("lom", "raymix/toy-v0", "abc", config),
            "algorithm": "lom",
            "dataset": "raymix/toy-v0",
            "config": config,
            "label": f"beta={config['beta']}",
        }
        for config in configs
    ]
    put(run, {"beta": 1.0}, [1.0, 2.0])
    describe_run(
        run,
        [],
        trials=[],
        seeds=[0, 1],
        phases={"lom": [["main", "steps"]]},
        searcher={"trials": 3},
        studies=[{"trials": 3}],
    )
    decided = DecidedWriter(run)
    decided.append(trials[0])
    watched = Watched(run)
    facts = facts_of(watched)
    assert facts["progress"]["trials"] == 3 and facts["progress"]["done"] == pytest.approx(1 / 3)
    assert "2 of 3 trials of run are not decided yet" in facts["notices"]
    decided.append(trials[1])
    facts = facts_of(watched)
    assert [row["id"] for row in facts["rows"]] == [trial["config_id"] for trial in trials]
    assert "1 of 3 trials of run are not decided yet" in facts["notices"]


def test_early_stopping_is_read_from_the_rows_that_matter(tmp_path: Path) -> None:
    """Against all rows: decoding only those at rungs, of diverged seeds and the last ones gives the same."""
    run = make(tmp_path, "run")
    configs = [{"lr": 10.0**-number, "steps": 900} for number in range(9)]
    for number, config in enumerate(configs):
        steps = (100, 200, 300, 400, 500, 600, 700, 800, 900)[: 9 if number < 3 else 1 + number % 4]
        add(run, config, 10.0 * number, steps=steps, diverged=(0, 1, 2) if number == 5 else ())
    ids = [ledger.config_id("lom", "raymix/toy-v0", "abc", {"lr": 3e-4} | config) for config in configs]
    trials = [
        {"config_id": name, "algorithm": "lom", "dataset": "raymix/toy-v0", "config": {"lr": 3e-4} | config}
        for name, config in zip(ids, configs, strict=True)
    ]
    plan: dict[str, Any] = {
        "phases": {"lom": [["mixture", "mixture_steps"], ["main", "steps"]]},
        "scheduler": {"first": 100, "reduction": 3, "statistic": "mean"},
        "seeds": [0, 1, 2],
        "metric": "return",
        "select": "last",
        "dataset_hashes": {"raymix/toy-v0": "abc"},
        "trials": trials,
    }
    table = ledger.read(str(run / "ledger"))
    assert table["config_id"].to_pylist() == sorted(table["config_id"].to_pylist())
    expected = set(stopped_trials(plan, ledger.rows(table)))
    assert set(stopped(plan, table)) == expected and 0 < len(expected) < 9
    describe_run(run, [], **plan)
    statuses = {row["id"]: row["status"] for row in facts_of(Watched(run))["rows"]}
    assert {name for name, status in statuses.items() if status == "stopped early"} <= expected
    assert "stopped early" in statuses.values()


def test_a_follower_reads_what_read_reads(tmp_path: Path) -> None:
    folder, identifier = str(tmp_path / "ledger"), "0123456789ab"
    run = make(tmp_path, "run")
    fill(run)
    follower = ledger.Follower(folder, ledger.SCHEMA.names, lambda damage: pytest.fail(str(damage)))
    assert follower.poll(10) == (set(), 0)
    rows = ledger.rows(ledger.read(str(run / "ledger")))
    template = [replace(row, config_id="", attempt=0) for row in rows[:12]]
    first = ledger.LedgerWriter(folder, identifier, 1)
    first.append(template[:6])
    assert follower.poll(10) == ({identifier}, 0)
    second = ledger.LedgerWriter(folder, identifier, 2)
    second.append([replace(row, agent_seconds=7.0) for row in template[3:9]])
    assert follower.poll(10) == ({identifier}, 0)
    # A late write of the old attempt does not win, though it is found last.
    first.append(template[6:12])
    assert follower.poll(10) == ({identifier}, 0) and follower.poll(10) == (set(), 0)
    assert follower.table(identifier).equals(ledger.read(folder))
    assert pa.compute.sum(pa.compute.equal(follower.table(identifier)["agent_seconds"], 7.0)).as_py() == 6


def test_runs_are_listed_and_asked_by_name(tmp_path: Path) -> None:
    for name in ("sweep-20260102-030405-abcdef", "<img src=x onerror=alert(1)>"):
        fill(make(tmp_path, name))
    (tmp_path / "no run").mkdir()

    async def conversation(client: TestClient) -> None:
        listing = await (await client.get("/api/runs")).json()
        assert {run["name"] for run in listing["runs"]} == {
            "sweep-20260102-030405-abcdef",
            "<img src=x onerror=alert(1)>",
        }
        assert {run["started"] for run in listing["runs"]} == {"2026-01-02 03:04:05", "–"}
        answer = await client.get("/api/run", params={"run": "sweep-20260102-030405-abcdef"})
        found = await answer.json()
        assert answer.content_type == "application/json" and len(found["facts"]["rows"]) == 7
        again = await client.get(
            "/api/run", params={"run": "sweep-20260102-030405-abcdef", "version": found["version"]}
        )
        assert (await again.json())["facts"] is None
        ids = [row["id"] for row in found["facts"]["rows"]]
        parameters = [("run", "sweep-20260102-030405-abcdef"), ("id", ids[0]), ("id", "no such configuration")]
        curves = await (await client.get("/api/curves", params=parameters)).json()
        assert list(curves) == ids[:1] and curves[ids[0]]["x"] == [100, 200, 300]
        many = [("run", "sweep-20260102-030405-abcdef")] + [("id", "x")] * (server.MOST_CURVES + 1)
        assert (await client.get("/api/curves", params=many)).status == 400

    talk(tmp_path, conversation)


def test_one_run_can_be_watched_alone(tmp_path: Path) -> None:
    fill(make(tmp_path, "run"))
    assert list(Storage(str(tmp_path / "run")).runs()) == ["run"]


def test_no_question_leaves_the_storage_folder(tmp_path: Path) -> None:
    storage, outside = make(tmp_path, "storage"), make(tmp_path, "outside")
    fill(outside)
    os.symlink(outside, storage / "link")
    fill(make(storage, "inside"))

    async def conversation(client: TestClient) -> None:
        for name in ("../outside", str(outside), "link", "inside/../../outside", "inside/", "", ".", "..", "x\x00y"):
            for path in ("/api/run", "/api/curves"):
                answer = await client.get(path, params={"run": name, "id": "x"})
                assert answer.status == 404 and "there is no run" in await answer.text()
        for path in ("/sweep.json", "/inside/sweep.json", "/%2e%2e/outside/sweep.json", "/api/../inside"):
            assert (await client.get(path)).status == 404
        assert (await client.post("/api/runs")).status == 405

    talk(storage, conversation)
    assert list(Storage(str(storage)).runs()) == ["inside"]


def test_every_answer_forbids_what_is_remote(tmp_path: Path) -> None:
    fill(make(tmp_path, "run"))

    async def conversation(client: TestClient) -> None:
        for path in ("/", "/api/runs", "/api/run?run=run", "/api/run?run=none", "/nowhere"):
            headers = (await client.get(path)).headers
            policy = headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
            assert "http" not in policy and "*" not in policy and "frame-ancestors 'none'" in policy
            assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
        assert (await client.get("/")).content_type == "text/html"

    talk(tmp_path, conversation)


def test_on_loopback_only_names_of_this_machine_are_answered(tmp_path: Path) -> None:
    async def conversation(client: TestClient) -> None:
        for host, status in (
            ("localhost:8270", 200),
            ("127.0.0.1", 200),
            ("[::1]:8270", 200),
            ("evil.example:8270", 403),
            ("evil.example", 403),
            ("10.0.0.1:8270", 403),
            ("127.0.0.1.evil.example", 403),
        ):
            assert (await client.get("/api/runs", headers={"Host": host})).status == status, host

    talk(tmp_path, conversation)


def test_beyond_loopback_the_token_is_needed_everywhere(tmp_path: Path) -> None:
    fill(make(tmp_path, "run"))

    async def conversation(client: TestClient) -> None:
        for path in ("/", "/api/runs", "/api/run?run=run", "/api/curves?run=run", "/nowhere"):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": f"{server.COOKIE}=wrong"}):
                assert (await client.get(path, headers=headers)).status == 401
            assert (await client.get(path, headers={"Authorization": "Bearer sesame"})).status != 401
        assert (await client.get("/?token=wrong")).status == 401
        # In the address it opens the page, and nothing else: addresses are written into logs.
        assert (await client.get("/api/runs?token=sesame")).status == 401
        welcome = await client.get("/?token=sesame", allow_redirects=False)
        assert welcome.status == 303 and welcome.headers["Location"] == "/"
        cookie = welcome.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
        given = {"Cookie": f"{server.COOKIE}=sesame", "Host": "elsewhere.example"}
        assert (await client.get("/api/runs", headers=given)).status == 200

    talk(tmp_path, conversation, token="sesame")


def test_the_token_is_rays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match="needs Ray's token, and there is none here; make one"):
        serve(str(tmp_path), host="0.0.0.0", port=0)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of-this-machine")
    assert ray_token() == "of-this-machine"


def test_loopback_is_told_from_the_rest() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "10.0.0.1", "::", "example.org", "127.0.0.1.example.org", "")))


def test_bad_input_is_refused_in_words(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, said in (
            ([str(tmp_path / "nowhere")], "there is no folder"),
            ([str(tmp_path), "--port", port], f"port {port} of 127.0.0.1 is taken; choose another with --port"),
            ([str(tmp_path), "--port", "70000"], "--port takes a number from 0"),
            ([str(tmp_path), "--port", "-1"], "--port takes a number from 0"),
        ):
            with pytest.raises(SystemExit, match="2"):
                main(["dash", *arguments])
            assert said in (error := capsys.readouterr().err) and error.count("\n") == 1


def test_the_command_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    """And needs neither Ray nor torch."""
    fill(make(tmp_path, "run"))
    code = (
        "import sys, raymix.cli\n"
        f"raymix.cli.main(['dash', {str(tmp_path)!r}, '--port', '0'])\n"
        "print({'ray', 'torch'} & set(sys.modules))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    address = line.split()[0]

    async def look() -> dict[str, Any]:
        import aiohttp

        async with aiohttp.ClientSession() as session, session.get(f"{address}api/run?run=run") as answer:
            return await answer.json()

    found = asyncio.run(look())
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert len(found["facts"]["rows"]) == 7 and str(tmp_path) in line
    assert process.returncode == 0 and rest == "set()\n"

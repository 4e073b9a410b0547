"""The page in a real browser: it opens without a complaint or a request, can be used, and follows a sweep.

Needs Chromium and chromedriver, and fails without: `apt-get install chromium chromium-driver`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from test_comparison import make
from test_report import add
from test_sweep import SWEEP, Driver

from raymix import ledger, plan
from raymix.cli import main

pytestmark = pytest.mark.browser
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>"
SECONDS = 30.0
"""To wait for the page on a busy machine, where the waiting is not what is tested."""
OPENS = 10.0
"""Seconds in which a page of many trials must open. Measured on two cores that a dozen other processes shared: 0.4 of
the file, 0.5 of the live page that is known already, 3.4 of one whose ledger is new."""
SWEPT = SWEEP.replace(
    'search={"num_components": tune.grid_search([1, 2, 3])}',
    'search={"num_components": tune.grid_search([1, 2]), "beta": tune.grid_search([0.5, 2.0, 8.0])}',
).replace("seeds=2", "seeds=3")
assert SWEPT.count("beta") == 1 and "seeds=3" in SWEPT


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with open_browser(tmp_path_factory.mktemp("profile")) as chrome:
        yield chrome


@contextmanager
def open_browser(profile: Path) -> Iterator[Chrome]:
    """A browser without a window that asks no address but this machine's."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    assert chromium and driver, "this test needs a browser: apt-get install chromium chromium-driver"
    options = ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless",
        "--no-sandbox",  # which root may not have
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1280,900",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = Chrome(options=options, service=ChromeService(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


class Page:
    """A page that is open, and what the browser logged of it."""

    def __init__(self, browser: Chrome, address: str) -> None:
        self.browser = browser
        browser.get("about:blank")
        for log in ("browser", "performance"):
            browser.get_log(log)
        began = time.monotonic()
        browser.get(address)
        self.wait(lambda _: self.js("return document.documentElement.dataset.ready") == "yes")
        self.js("return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        self.opened = time.monotonic() - began
        """Seconds until all was drawn that is on the screen."""

    def js(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def wait(self, until: Any, seconds: float = SECONDS) -> Any:
        return WebDriverWait(self.browser, seconds, poll_frequency=0.05).until(until)

    def column(self, heading: str) -> list[str]:
        """The cells under a heading of the table of configurations."""
        headings = [cell.text for cell in self.browser.find_elements(By.CSS_SELECTOR, "#configurations th")]
        return self.js(
            "const rows = document.querySelectorAll('#configurations tbody tr');"
            "return [...rows].map(row => row.cells[arguments[0]].innerText)",
            headings.index(heading),
        )

    def click(self, heading: str) -> float:
        """Sort by a heading; milliseconds until the table was drawn."""
        return self.js(
            """const button = [...document.querySelectorAll('#configurations th button')]
                 .find(one => one.innerText === arguments[0]);
               const before = performance.now();
               button.click();
               return new Promise(done => requestAnimationFrame(() => setTimeout(
                 () => done(performance.now() - before))));""",
            heading,
        )

    def requests(self) -> list[str]:
        """Every address that the page asked for."""
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [address for address in sent if not address.startswith(("data:", "about:"))]

    def complaints(self) -> list[Any]:
        return self.browser.get_log("browser")

    def scroll_through(self) -> int:
        """Look at all of it, so that everything is drawn; the number of charts."""
        self.js(
            """return (async () => {
                 for (let y = 0; y < document.documentElement.scrollHeight; y += 400) {
                   scrollTo(0, y);
                   await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
                 }
                 scrollTo(0, 0);
               })()"""
        )
        waiting = "return [...document.querySelectorAll('.chart')].filter(one => !one.querySelector('canvas')).length"
        self.wait(lambda _: self.js(waiting) == 0)
        return self.js("return document.querySelectorAll('.chart canvas').length")

    def screenshot(self, name: str, folder: Path) -> Path:
        """Written to the folder of RAYMIX_SCREENSHOTS where there is one, as those of the README are."""
        path = Path(os.environ.get("RAYMIX_SCREENSHOTS") or folder) / f"{name}.png"
        self.browser.save_screenshot(str(path))
        return path


def many(run: Path, trials: int, seeds: int, reports: int) -> None:
    """A ledger of that many trials on two data sets, a segment each, and its plan."""
    (run / "ledger").mkdir(parents=True)
    generator = np.random.default_rng(0)
    planned = []
    count = seeds * reports
    for number in range(trials):
        dataset = f"hopper/mixed-{number % 2}"
        config = {"beta": float(10 ** generator.uniform(-1, 2)), "num_components": number % 5, "steps": reports * 1_000}
        name = ledger.config_id("lom", dataset, "abc", config)
        step = np.tile(np.arange(1, reports + 1) * 1_000, seeds)
        seed = np.repeat(np.arange(seeds), reports)
        score = 1_000 * (1 - np.exp(-step / step.max() * 4)) - 100 * np.log10(config["beta"]) ** 2
        score += generator.normal(0, 30, count) + generator.normal(0, 50, seeds)[seed]
        columns: dict[str, Any] = {"seed": seed, "step": step, "agent_seconds": step / 500.0}
        columns |= {"wall_time": 1.7e9 + number * 60 + step / 100.0, "returns": score[:, None].tolist()}
        columns |= {"lengths": [[100]] * count, "diverged": [False] * count, "metrics": ["{}"] * count}
        same = {"run": "many", "config_id": name, "phase": "main", "attempt": 1, "dataset": dataset, "version": "0"}
        same |= {"dataset_hash": "abc", "algorithm": "lom", "config": ledger.encode(config)}
        columns |= {key: [value] * count for key, value in same.items()}
        columns |= {key: [None] * count for key in ("reference_min", "reference_max", "parent", "parent_step")}
        sink = pa.BufferOutputStream()
        pa.parquet.write_table(
            pa.table({f.name: pa.array(columns[f.name], f.type) for f in ledger.SCHEMA}, ledger.SCHEMA), sink
        )
        data = sink.getvalue().to_pybytes()
        (run / "ledger" / f"{name}-0001-000000-{ledger._digest(data)}.parquet").write_bytes(data)
        planned.append({"config_id": name, "algorithm": "lom", "dataset": dataset, "config": config, "label": name})
    facts: dict[str, Any] = {"phases": {"lom": [["main", "steps"]]}, "seeds": list(range(seeds)), "metric": "return"}
    plan.write_description(run, facts | {"select": "last", "scheduler": None, "trials": planned})


@pytest.fixture
def dash(tmp_path: Path) -> Iterator[str]:
    """The address of a live page of `tmp_path/runs`."""
    (tmp_path / "runs").mkdir()
    with serve(tmp_path / "runs") as address:
        yield address


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The address of a live page of a folder."""
    code = "import sys, raymix.cli; raymix.cli.main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "dash", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.stdout.readline().split()[0]
    process.terminate()
    assert process.wait(60) == 0


def test_the_file_opens_without_a_complaint_or_a_request(browser: Chrome, tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    for components in (1, 5, 10):
        for mode in ("argmax", HOSTILE):
            for dataset in ("raymix/toy-v0", HOSTILE):
                gone = (1,) if (components, mode) == (10, "argmax") else ()
                add(
                    run, {"num_components": components, "mode": mode}, 50.0 + components, dataset=dataset, diverged=gone
                )
    add(run, {}, 30.0, algorithm="bc")
    path = tmp_path / "page.html"
    main(["report", str(run), "--html", str(path)])
    page = Page(browser, path.as_uri())
    # Curves, hyperparameters, profiles, expected performance and cost, on two data sets; two fields each.
    assert page.scroll_through() == 2 * (1 + 2 + 1 + 1 + 1)
    assert len(browser.find_elements(By.CSS_SELECTOR, "table.map")) == 2
    assert page.column("status").count("done") == 13
    # What the data says is text: nothing of it became an element, and nothing ran.
    assert HOSTILE in page.column("data set") and page.js("return document.querySelectorAll('img').length") == 0
    assert page.js("return document.querySelectorAll('script').length") == 2
    shown = page.js("return document.getElementById('decision').innerText")
    assert "how sure" in shown and "num_components=10" in shown
    assert page.complaints() == [] and page.requests() == [path.as_uri()]
    # Nothing but the tables, which scroll in their boxes, is wider than a telephone.
    browser.set_window_size(500, 900)
    page.wait(lambda _: page.js("return document.documentElement.scrollWidth <= window.innerWidth"))
    browser.set_window_size(1280, 900)


def test_the_table_sorts_filters_and_chooses_curves(browser: Chrome, tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    for components in (20, 1, 5, 10):
        add(run, {"num_components": components}, 50.0 + components % 7)
    path = tmp_path / "page.html"
    main(["report", str(run), "--html", str(path)])
    page = Page(browser, path.as_uri())
    assert page.column("num_components") == ["1", "5", "10", "20"]
    page.click("mean")
    assert page.column("mean") == ["56.0", "55.0", "53.0", "51.0"]
    assert page.column("num_components") == ["20", "5", "10", "1"]
    page.click("mean")
    assert page.column("num_components") == ["1", "10", "5", "20"]
    browser.find_element(By.ID, "search").send_keys("components=5")
    assert page.column("num_components") == ["5"]
    browser.find_element(By.ID, "search").clear()
    browser.find_element(By.ID, "search").send_keys(" ")
    key = "return document.querySelector('#curves .key').innerText.split('\\n').length"
    assert page.js(key) == 4
    browser.find_element(By.CSS_SELECTOR, "#configurations tbody input").click()
    page.wait(lambda _: page.js(key) == 3)
    lines = "return charts.find(one => one.host.closest('#curves')).lines.length"
    assert page.js(lines) == 3
    browser.find_element(By.ID, "seeds").click()
    page.wait(lambda _: page.js(lines) == 3 + 3 * 3)
    assert page.complaints() == []


@pytest.mark.parametrize("trials", [200, 1_000])
def test_many_trials_open_and_sort_without_lag(browser: Chrome, tmp_path: Path, dash: str, trials: int) -> None:
    """The file and the live page, of trials with 5 seeds and 100 evaluations."""
    run = tmp_path / "runs" / "many"
    many(run, trials, 5, 100)
    path = tmp_path / "page.html"
    began = time.monotonic()
    main(["report", str(run), "--html", str(path)])
    written = time.monotonic() - began
    megabytes = path.stat().st_size / 2**20
    assert megabytes <= 5
    page = Page(browser, path.as_uri())
    assert page.opened <= OPENS
    sorting = page.click("mean")
    page.js("document.getElementById('all').click()")
    assert len(page.column("mean")) == trials
    means = [float(text.replace(",", "")) for text in page.column("mean")]
    assert means == sorted(means, reverse=True)
    sorting_all = page.click("mean")
    assert sorting < 1_000 and sorting_all < 5_000
    assert page.scroll_through() > 10 and page.complaints() == []
    live = Page(browser, f"{dash}#many")
    assert live.opened <= OPENS
    live.wait(lambda _: live.js("return state.facts.rows.filter(one => one.status === 'done').length") == trials, 120)
    again = Page(browser, f"{dash}#many")
    assert again.opened <= OPENS and again.complaints() == []
    assert all(address.startswith((dash, "file:")) for address in again.requests())
    print(
        f"{trials} trials: written in {written:.1f} s, {megabytes:.2f} MiB, opened in {page.opened:.2f} s, sorted in"
        f" {sorting:.0f} ms (all rows: {sorting_all:.0f} ms); live: opened in {live.opened:.2f} s, {again.opened:.2f} s"
    )


def test_the_live_page_follows_a_ledger(browser: Chrome, tmp_path: Path, dash: str) -> None:
    run = make(tmp_path / "runs", HOSTILE.replace("/", ""))
    add(run, {"num_components": 1}, 50.0)
    page = Page(browser, dash)
    browser.find_element(By.LINK_TEXT, run.name).click()
    page.wait(lambda _: browser.find_elements(By.CSS_SELECTOR, "#configurations tbody tr"))
    assert page.column("mean") == ["50.0"] and browser.find_element(By.TAG_NAME, "h1").text == run.name
    page.js("window.same = true")
    add(run, {"num_components": 5}, 70.0, steps=(100, 200))
    page.wait(lambda _: page.js("return document.querySelectorAll('#configurations tbody tr').length") == 2)
    # By 200 of 300 steps it has two thirds of its score.
    assert page.column("mean") == ["50.0", "46.7"] and page.column("step") == ["300", "200"]
    assert page.js("return window.same") is True, "the page was loaded anew"
    page.wait(lambda _: page.js("return document.querySelectorAll('#curves canvas').length") == 1)
    browser.find_element(By.ID, "back").click()
    page.wait(lambda _: browser.find_elements(By.ID, "runs"))
    assert page.complaints() == [] and page.js("return document.querySelectorAll('img').length") == 0
    assert (asked := page.requests()) and all(address.startswith(dash) for address in asked)


@pytest.mark.timeout(400)
def test_the_live_page_follows_a_sweep(browser: Chrome, tmp_path: Path, dash: str) -> None:
    """A real one, from its first rows to its end."""
    driver = Driver(tmp_path, sweep=SWEPT)
    driver.wait_for_segments(1)
    (run,) = (tmp_path / "runs").iterdir()
    page = Page(browser, f"{dash}#{run.name}")
    page.wait(lambda _: len(browser.find_elements(By.CSS_SELECTOR, "#configurations tbody tr")) == 6)
    seen: set[int | None] = set()

    def half(_: Any) -> bool:
        seen.update(page.js("return state.facts.rows.map(one => one.step)"))
        return page.js("return state.facts.progress.done") > 0.5

    def over(_: Any) -> bool:
        seen.update(page.js("return state.facts.rows.map(one => one.step)"))
        return page.js("return state.facts.progress.over") == 6

    browser.set_window_size(1280, 1500)
    page.wait(half, 200)
    page.screenshot("dash", tmp_path)
    page.wait(over, 200)
    status, _, errors = driver.finish()
    assert status == 0, errors
    assert len(seen) > 3, "the page was told the end alone"
    assert page.column("status") == ["done"] * 6 and page.column("step") == ["300"] * 6
    assert "100 % done" in browser.find_element(By.ID, "progress").text
    assert page.complaints() == []
    # Six curves at most, two fields and their map, profiles, expected performance, and the cost.
    assert page.scroll_through() == 1 + 2 + 1 + 1 + 1 and page.complaints() == []
    browser.set_window_size(1280, 900)


@pytest.mark.timeout(400)
def test_rays_dashboard_tells_what_each_process_is_for(browser: Chrome, tmp_path: Path) -> None:
    """As a person opens it: the address that the sweep prints, and the token in the dialogue."""
    driver = Driver(tmp_path, sweep=SWEPT, dashboard=True)
    driver.wait_for_segments(1)
    assert driver.process.stdout is not None
    address = next(line.split()[1] for line in driver.process.stdout if line.startswith("dashboard"))
    command = [sys.executable, "-m", "ray.scripts.scripts", "get-auth-token"]
    token = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    wait = WebDriverWait(browser, 60, poll_frequency=0.1)
    browser.get(f"{address}/#/actors")
    field = wait.until(lambda _: browser.find_elements(By.CSS_SELECTOR, "[role=dialog] input"))[0]
    field.send_keys(token)
    browser.find_element(By.XPATH, "//*[@role='dialog']//button[contains(., 'Submit')]").click()

    def shown(_: Any) -> bool:
        text = " ".join(browser.find_element(By.TAG_NAME, "body").text.split())
        return all(words in text for words in ("pack of 6 seats, lom on toy/two-modes-v0", "num_components=1, beta="))

    wait.until(shown)
    path = Path(os.environ.get("RAYMIX_SCREENSHOTS") or tmp_path) / "ray_dashboard.png"
    assert browser.save_screenshot(str(path))
    driver.process.send_signal(signal.SIGINT)
    status, _, errors = driver.finish()
    assert status == 1 and "go on with" in errors, errors

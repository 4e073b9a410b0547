"""One self-contained HTML page: the facts of `page_facts`, and what draws them, in one file that asks for nothing.

What draws are `web/page.js` and uPlot 1.6.32 (MIT, see `web/uPlot.LICENSE`), as its npm package has it in `dist`: with
51 kB the smallest library that has bands, against 1.2 MB of Plotly's smallest bundle.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

from raymix.files import write_atomically
from raymix.types import UsageError

if TYPE_CHECKING:
    from raymix.report.runs import Runs

_SECTIONS = (
    "top",
    "decision",
    "table",
    "programs",
    "curves",
    "effects",
    "maps",
    "importance",
    "aggregate",
    "profiles",
    "online",
    "cost",
)


def write_page(runs: Runs, path: str, baseline: str | None = None) -> None:
    """Write the page of one or several runs to `path`, whole or not at all.

    `baseline` as in `raymix.report.comparison.wide_table`. Raises `UsageError` for a baseline that is not there, and
    for a file that cannot be written.
    """
    from raymix.report.page_facts import page_facts

    facts = page_facts(runs, baseline)
    try:
        write_atomically(path, page(facts, f"raymix: {', '.join(facts['runs'])}"))
    except OSError as problem:
        raise UsageError(f"cannot write {path}: {problem.strerror or problem}; give another file") from problem


def page(facts: Mapping[str, Any] | None, title: str) -> str:
    """The page as text; without facts the one that `raymix dash` serves, which asks its server for them."""
    style, script = _read("uPlot.min.css") + _read("page.css"), _read("uPlot.iife.min.js") + "\n" + _read("page.js")
    # Of all that could end the element or open another, only "<" matters inside of a script that is data.
    data = json.dumps(facts, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    sections = "\n".join(f'<section id="{name}"></section>' for name in _SECTIONS)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(live=facts is None)}">\n'
        f'<link rel="icon" href="data:,">\n<style>{style}</style></head>\n'
        '<body><p><a id="back" href="#" hidden>all runs</a> <span id="status" role="status" class="quiet"></span></p>\n'
        f"{sections}\n"
        "<noscript><p>This page needs JavaScript; `raymix report` prints the same numbers.</p></noscript>\n"
        f'<script type="application/json" id="facts">{data}</script>\n<script>{script}</script>\n</body></html>\n'
    )


def policy(live: bool) -> str:
    """The page's Content-Security-Policy: its own script and style by their digests, and (live) its own server."""
    style, script = _read("uPlot.min.css") + _read("page.css"), _read("uPlot.iife.min.js") + "\n" + _read("page.js")
    own, nothing = "'self'", "'none'"
    return (
        f"default-src {nothing}; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:;"
        f" connect-src {own if live else nothing}; base-uri {nothing}; form-action {nothing}"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _read(name: str) -> str:
    return (resources.files("raymix.report") / "web" / name).read_text("utf-8")

"""The server of the live page: one page, three questions that it asks, and who may ask them."""

from __future__ import annotations

import asyncio
import errno
import hmac
import ipaddress
import json
import signal
import socket
import subprocess
import sys
import time

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from raymix.dash import DEFAULT_PORT
from raymix.dash.watch import Storage, Watched
from raymix.report.page import page, policy
from raymix.types import UsageError

COOKIE = "raymix-token"
MOST_CURVES = 500
"""Configurations in one question."""
_UPDATE_SECONDS = 1.0
"""A ledger is not read more often than that."""
_PATIENCE = 1.0
"""Seconds that the first answer about a run may wait for the first facts."""


def is_loopback(host: str) -> bool:
    """Whether what listens there can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def ray_token() -> str:
    """The token of Ray on this machine, as `ray get-auth-token` prints it. Raises `UsageError` where there is none."""
    # In a process of its own: the live page needs no Ray otherwise.
    command = [sys.executable, "-m", "ray.scripts.scripts", "get-auth-token"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode or not done.stdout.strip():
        raise UsageError(
            "beyond loopback the page needs Ray's token, and there is none here; make one with"
            " `ray get-auth-token --generate`, or leave out --host"
        )
    return done.stdout.strip()


def application(storage: Storage, token: str | None) -> web.Application:
    """The page of a storage folder. With a token every question needs it; without, only this machine's names do."""

    async def index(request: web.Request) -> web.StreamResponse:
        if "token" in request.query:
            # Out of the address bar and the history; the guard has checked it.
            answer = web.HTTPSeeOther("/")
            answer.set_cookie(COOKIE, request.query["token"], httponly=True, samesite="Strict")
            raise answer
        return web.Response(text=page(None, "raymix"), content_type="text/html")

    async def runs(request: web.Request) -> web.StreamResponse:
        listing = await asyncio.to_thread(storage.listing)
        return web.json_response({"folder": str(storage.folder), "now": time.time(), "runs": listing})

    async def run(request: web.Request) -> web.StreamResponse:
        watched = await _asked(storage, request)
        task = _update(request.app, watched)
        if task is not None and watched.facts is None:
            await asyncio.wait([task], timeout=_PATIENCE)
        facts, version = watched.facts, watched.version
        known = request.query.get("version", "") == version or facts is None
        head = json.dumps({"now": time.time(), "reading": watched.reading, "version": version})
        answer = web.Response(
            text=f'{head[:-1]}, "facts": {"null" if known else facts}}}', content_type="application/json"
        )
        answer.enable_compression()
        return answer

    async def curves(request: web.Request) -> web.StreamResponse:
        watched = await _asked(storage, request)
        ids = request.query.getall("id", [])
        if len(ids) > MOST_CURVES:
            raise web.HTTPBadRequest(text=f"at most {MOST_CURVES} curves at once, not {len(ids)}")
        return web.json_response(await asyncio.to_thread(watched.curves, ids))

    app = web.Application(middlewares=[_guard(token), _no_stack])
    app[_UPDATES] = {}
    app.router.add_get("/", index)
    app.router.add_get("/api/runs", runs)
    app.router.add_get("/api/run", run)
    app.router.add_get("/api/curves", curves)
    return app


_UPDATES: web.AppKey[dict[Watched, tuple[float, asyncio.Task[None]]]] = web.AppKey("updates")


def _update(app: web.Application, watched: Watched) -> asyncio.Task[None] | None:
    """Read on beside the answers, unless that happens already or happened just now; the task that reads."""
    began, task = app[_UPDATES].get(watched, (0.0, None))
    if task is not None and not task.done():
        return task
    if task is not None and time.monotonic() - began < _UPDATE_SECONDS:
        return None
    if task is not None:
        del app[_UPDATES][watched]
        task.result()  # what it raised is an answer, too
    task = asyncio.ensure_future(asyncio.to_thread(watched.update))
    app[_UPDATES][watched] = time.monotonic(), task
    return task


async def _asked(storage: Storage, request: web.Request) -> Watched:
    name = request.query.get("run", "")
    # By name among those that there are: no path is made of what somebody asks for.
    watched = await asyncio.to_thread(storage.watched, name)
    if watched is None:
        raise web.HTTPNotFound(text=f"there is no run {name!r} here")
    return watched


def _guard(token: str | None) -> Middleware:
    headers = {
        "Content-Security-Policy": f"{policy(live=True)}; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-store",
    }

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            _admit(request, token)
            answer = await handler(request)
        except web.HTTPException as refusal:
            refusal.headers.update(headers)
            raise
        answer.headers.update(headers)
        return answer

    return guard


def _admit(request: web.Request, token: str | None) -> None:
    """Raise what refuses a request that may not ask."""
    if token is None:
        # A page elsewhere can point a name of its own at 127.0.0.1; it cannot make the browser call it localhost.
        name = request.host.rpartition(":")[0] if ":" in request.host.rpartition("]")[2] else request.host
        if not is_loopback(name):
            raise web.HTTPForbidden(text="this page answers to localhost only")
        return
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    given = [request.cookies.get(COOKIE, ""), bearer, request.query.get("token", "") if request.path == "/" else ""]
    if not any(hmac.compare_digest(one.encode(), token.encode()) for one in given):
        raise web.HTTPUnauthorized(text="open /?token=TOKEN with the token that `ray get-auth-token` prints")


@web.middleware
async def _no_stack(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A folder that went away while it was read is an answer, not a stack."""
    try:
        return await handler(request)
    except OSError as problem:
        raise web.HTTPServiceUnavailable(
            text=f"cannot read the storage folder: {problem.strerror or problem}"
        ) from problem


def serve(folder: str, host: str = "127.0.0.1", port: int = DEFAULT_PORT) -> None:
    """Serve the live page of a storage folder, or of one run, until it is interrupted.

    Prints the address. Raises `UsageError` for a folder that is not there, a port or host that cannot be had, and,
    beyond loopback, where Ray has no token on this machine.
    """
    if not 0 <= port <= 65_535:
        raise UsageError(
            f"--port takes a number from 0 (any that is free) to 65535, such as {DEFAULT_PORT}, not {port}"
        )
    storage = Storage(folder)
    token = None if is_loopback(host) else ray_token()
    asyncio.run(_serve(storage, host, port, token))


async def _serve(storage: Storage, host: str, port: int, token: str | None) -> None:
    # No log of accesses: it would hold the token.
    runner = web.AppRunner(application(storage, token), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except socket.gaierror as problem:
            raise UsageError(
                f"there is no host {host!r}; give an address of this machine, such as 127.0.0.1"
            ) from problem
        except OSError as problem:
            if problem.errno == errno.EADDRINUSE:
                raise UsageError(
                    f"port {port} of {host} is taken; choose another with --port, or 0 for a free one"
                ) from problem
            raise UsageError(f"cannot listen on {host} port {port} ({problem.strerror}); choose others") from problem
        bound = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        print(f"http://{shown}:{bound}/  shows {storage.folder}; Ctrl-C ends it", flush=True)
        if token is not None:
            print("Open it as /?token=TOKEN, with the token that `ray get-auth-token` prints here.", flush=True)
        stop = asyncio.Event()
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
        await stop.wait()
    finally:
        await runner.cleanup()

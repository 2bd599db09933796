"""What the server answers. Nothing of a request is trusted: not its sender, its size, its names or its content.

    GET    /                       the page
    POST   /videos                 a video as the request's body, its name in X-Name; answers its number
    GET    /videos/NUMBER/progress   server-sent events, for as long as somebody listens
    GET    /videos/NUMBER/report     its report
    DELETE /videos/NUMBER          give it up
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evaluation import page
from evaluation.serve.jobs import Job, Jobs
from evaluation.serve.settings import ServeSettings

LOOK_EVERY, SAY_EVERY = 0.05, 5.0  # seconds: for news of a video, and to those who listen when there are none
IDLE = 60.0  # seconds without a byte after which an upload is given up
HEADERS = {
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}  # fmt: skip
PAGE_POLICY = ("default-src 'none'; style-src 'unsafe-inline'; connect-src 'self'; frame-src 'self'; base-uri 'none'; "
               "form-action 'none'; frame-ancestors 'none'; {}")  # fmt: skip
# A report has its own policy within; here it is locked up, so that not even its own script can reach the server.
REPORT_POLICY = "sandbox allow-scripts; frame-ancestors 'self'"


def site(settings: ServeSettings, jobs: Callable[[], Jobs], ending: Callable[[], bool],
         lifespan: Callable[[Starlette], AbstractAsyncContextManager]) -> ASGIApp:  # fmt: skip
    text = page.render("serve/page.html.j2", title="Is this face forged?", settings=settings)
    policy = PAGE_POLICY.format(page.policy_of("serve/page.js"))

    async def home(request: Request) -> Response:
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})

    async def video(request: Request) -> Response:
        return await _take(request, jobs(), settings, ending)

    def found(request: Request) -> Job | None:
        try:
            return jobs()[request.path_params["number"]]
        except KeyError:
            return None

    async def progress(request: Request) -> Response:
        job = found(request)
        if job is None:
            return _no("no such video, or not any more", 404)
        return StreamingResponse(_events(request, jobs(), job, ending), media_type="text/event-stream")

    async def report(request: Request) -> Response:
        job = found(request)
        if job is None or job.state != "done":
            return _no("no such report, or not any more", 404)
        return FileResponse(job.report, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})

    async def give_up(request: Request) -> Response:
        job = found(request)
        if job is not None:
            jobs().give_up(job)
        return Response(status_code=204)

    routes = [
        Route("/", home), Route("/videos", video, methods=["POST"]),
        Route("/videos/{number}/progress", progress), Route("/videos/{number}/report", report),
        Route("/videos/{number}", give_up, methods=["DELETE"]),
    ]  # fmt: skip
    app = Starlette(routes=routes, lifespan=lifespan)
    app.router.redirect_slashes = False
    return Guard(app, settings.names)


async def _take(request: Request, jobs: Jobs, settings: ServeSettings, ending: Callable[[], bool]) -> Response:
    """Stream the body into the video's own folder. Whatever goes wrong on the way, nothing of it stays."""
    limit = settings.max_megabytes * 10**6
    too_large = f"larger than {settings.max_megabytes} MB"
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > limit:
        return _no(too_large, 413)
    if len(jobs) >= settings.max_waiting:
        return _no(f"{len(jobs)} videos are waiting already; try again later", 503)
    job = jobs.new(name_of(request.headers.get("x-name", "")))
    kept = False
    try:
        size = 0
        with job.video.open("wb") as file:
            async for piece in _pieces(request, ending):
                size += len(piece)
                if size > limit:
                    return _no(too_large, 413)
                file.write(piece)
        if not size:
            return _no("empty file", 400)
        kept = True
    except (ClientDisconnect, TimeoutError):
        return _no("the upload broke off", 400)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return _no("no space left on the server's disk", 507)
    finally:
        if not kept:
            jobs.give_up(job)
    jobs.arrived(job)
    return Response(json.dumps({"number": job.number}), 201, media_type="application/json")


async def _pieces(request: Request, ending: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Of the body. Raises `TimeoutError` when none comes for long, or when the server ends."""
    body = aiter(request.stream())
    while True:
        coming, waited = asyncio.ensure_future(anext(body, None)), 0.0
        try:
            while not coming.done():
                await asyncio.wait({coming}, timeout=LOOK_EVERY)
                waited += LOOK_EVERY
                if not coming.done() and (waited >= IDLE or ending()):
                    raise TimeoutError
        finally:
            coming.cancel()
        piece = coming.result()
        if piece is None:
            return
        yield piece


async def _events(request: Request, jobs: Jobs, job: Job, ending: Callable[[], bool]) -> AsyncIterator[str]:
    jobs.watched(job)
    try:
        said, silent = None, 0.0
        while not (ending() or await request.is_disconnected()):
            now = jobs.seen(job)
            if now != said:
                said, silent = now, 0.0
                yield f"data: {json.dumps(now)}\n\n"
            elif silent >= SAY_EVERY:
                silent = 0.0
                yield ":\n\n"
            if now["state"] in ("done", "refused", "gone"):
                return
            await asyncio.sleep(LOOK_EVERY)
            silent += LOOK_EVERY
    finally:
        jobs.left(job)


def name_of(header: str) -> str:
    """A file's name as its sender gives it, without the folders: for people to read, never for a path."""
    name = unquote(header[:4000], errors="replace").replace("\\", "/").rsplit("/", 1)[-1].strip()
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)[:200] or "video"


def _no(reason: str, status: int) -> Response:
    return PlainTextResponse(reason, status, headers={"Connection": "close"})


class Guard:
    """Refuses requests that some other page made a browser send here, and has every answer say what it may do.

    A foreign page can point its own host's name at this machine (DNS rebinding): so the name must be ours. It can send
    a form here: so the origin, which browsers always tell then, must be ours as well.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str]):
        self._app, self._names = app, {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    sent.setdefault(name, value)
            await send(message)

        app = self._app
        if not self._ours(headers.get("host", "")):
            app = _no("this server is not called that; see names= of crosstalk serve", 421)
        elif scope["method"] not in ("GET", "HEAD") and _foreign(headers):
            app = _no("this request comes from another page", 403)
        await app(scope, receive, guarded)

    def _ours(self, host: str) -> bool:
        """Whether a Host header names us: by an address, which nobody can point elsewhere, or by a known name."""
        name = host.lower()
        if name.startswith("["):
            name, bracket, port = name[1:].partition("]")
            port = port.removeprefix(":") if bracket else "?"
        else:
            name, _, port = name.partition(":")
        if port and not port.isdecimal():
            return False
        try:
            ipaddress.ip_address(name)
            return True
        except ValueError:
            return name in self._names


def _foreign(headers: Headers) -> bool:
    origin, host = headers.get("origin"), headers["host"]
    return (origin not in (None, f"http://{host}", f"https://{host}")
            or headers.get("sec-fetch-site") not in (None, "same-origin", "none"))  # fmt: skip

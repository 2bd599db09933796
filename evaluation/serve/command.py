"""`crosstalk serve`: a page on this machine where a video is dropped, and its report appears."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette

from engine.errors import UserError
from engine.pool import CONTEXT, Died, Worker
from engine.settings import load_exactly
from evaluation.serve import judging
from evaluation.serve.jobs import Jobs
from evaluation.serve.settings import ServeSettings
from evaluation.serve.site import site


def main(arguments: Sequence[str]) -> int:
    settings = load_exactly("serve", arguments, ServeSettings)
    for number in (signal.SIGTERM, signal.SIGHUP):  # end as with Ctrl-C, which deletes what there is
        signal.signal(number, signal.default_int_handler)
    with closing(_listening(settings)) as listening, tempfile.TemporaryDirectory(prefix="crosstalk-serve-") as folder:
        progress = CONTEXT.RawArray("d", 3)
        worker = _ready(settings, progress)
        host, port = listening.getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        server: uvicorn.Server
        app = application(settings, Path(folder), worker, progress, lambda: server.should_exit)
        server = uvicorn.Server(uvicorn.Config(
            app, log_level="warning", access_log=False, ws="none", server_header=False, proxy_headers=False,
            timeout_graceful_shutdown=3, limit_concurrency=200, lifespan="on",
        ))  # fmt: skip
        print(f"http://{host}:{port}/ is ready; Ctrl-C ends it", flush=True)
        if settings.host not in ("127.0.0.1", "::1", "localhost"):
            print("everybody who can reach this machine can use it: there is no password", file=sys.stderr, flush=True)
        with suppress(KeyboardInterrupt):  # the usual end
            server.run(sockets=[listening])
        print("ended; uploads and reports are deleted", flush=True)
    return 0


def application(settings: ServeSettings, folder: Path, worker: Worker, progress: Any,
                ending: Callable[[], bool]) -> Callable:  # fmt: skip
    """The site with its queue, which judges for as long as the server runs. Connections look whether it is `ending`."""
    kept: list[Jobs] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        jobs = Jobs(folder, worker, lambda: _started(settings, progress), progress, settings.keep)
        kept.append(jobs)
        running = asyncio.create_task(jobs.run())
        try:
            yield
        finally:
            running.cancel()
            jobs.close()  # here, as SIGTERM ends the process right after the server has ended

    return site(settings, lambda: kept[0], ending, lifespan)


def _started(settings: ServeSettings, progress: Any) -> Worker:
    return Worker(judging.setup, (settings, progress))


def _ready(settings: ServeSettings, progress: Any) -> Worker:
    """Whatever is wrong with the model is said before anybody is told of the page."""
    worker = _started(settings, progress)
    worker.give(None)
    answer = worker.answer()
    if isinstance(answer, Died):
        raise UserError(f"model={settings.model}: loading it ended with {answer.how}")
    return worker


def _listening(settings: ServeSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    where = f"host={settings.host} port={settings.port}"
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=64)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"{where}: {reason.lower()}; port=0 takes a port that is free") from error

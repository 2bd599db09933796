"""Videos that wait, the one that is being judged, and reports: what the page's server keeps, and when it goes.

An upload is deleted as soon as it is judged, refused or given up. A video is given up when nobody watches its progress
any more: its page was closed.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from engine.pool import Died, Worker
from evaluation.serve.judging import Outcome, Task

GRACE = 10.0  # seconds without a watcher after which a video is given up
Alive = ("waiting", "judging")


@dataclass(eq=False)
class Job:
    """One video. Its folder holds the upload until it is judged, and then its report."""

    name: str  # as its sender calls it
    folder: Path
    number: str = field(default_factory=lambda: secrets.token_urlsafe(16))  # nobody guesses it
    state: Literal["sent", "waiting", "judging", "done", "refused", "gone"] = "sent"
    reason: str | None = None  # why it was refused
    outcome: Outcome | None = None
    watchers: int = 0

    @property
    def video(self) -> Path:
        return self.folder / "video"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"


class Jobs:
    """`start` makes a worker of `evaluation.serve.judging`, which counts its progress in `progress`: what it does, how
    much of it is done, and of how much."""

    def __init__(self, folder: Path, worker: Worker, start: Callable[[], Worker], progress: Any, keep: int):
        self._folder, self._worker, self._start, self._progress, self._keep = folder, worker, start, progress, keep
        self._jobs: dict[str, Job] = {}  # in order of arrival
        self._news = asyncio.Event()

    def __getitem__(self, number: str) -> Job:
        return self._jobs[number]

    def __len__(self) -> int:
        """Videos that are being sent or wait."""
        return sum(job.state in ("sent", "waiting") for job in self._jobs.values())

    def new(self, name: str) -> Job:
        job = Job(name, self._folder / secrets.token_hex(8))
        job.folder.mkdir(mode=0o700)
        self._jobs[job.number] = job
        return job

    def arrived(self, job: Job) -> None:
        job.state = "waiting"
        self._give_up_unless_watched(job)
        self._news.set()

    def give_up(self, job: Job) -> None:
        if job.state == "judging":
            self._worker.kill()  # what it does is not to be interrupted otherwise
        if self._jobs.pop(job.number, None) is not None:
            job.state = "gone"
            shutil.rmtree(job.folder, ignore_errors=True)

    def watched(self, job: Job) -> None:
        job.watchers += 1

    def left(self, job: Job) -> None:
        job.watchers -= 1
        self._give_up_unless_watched(job)

    def _give_up_unless_watched(self, job: Job) -> None:
        def look() -> None:
            if not job.watchers and job.state in Alive:
                self.give_up(job)

        if not job.watchers and job.state in Alive:
            asyncio.get_running_loop().call_later(GRACE, look)

    def seen(self, job: Job) -> dict[str, Any]:
        """What its page shows."""
        shown: dict[str, Any] = {"state": job.state}
        if job.state == "waiting":
            shown["ahead"] = sum(other.state in Alive for other in self._before(job))
        elif job.state == "judging":
            stage, done, total = self._progress
            shown |= {"stage": int(stage), "done": done, "total": total}
        elif job.state == "refused":
            shown["reason"] = job.reason
        elif job.outcome is not None:
            shown |= {"headline": job.outcome.headline, "tone": job.outcome.tone}
        return shown

    def _before(self, job: Job) -> list[Job]:
        jobs = list(self._jobs.values())
        return jobs[: jobs.index(job)]

    async def run(self) -> None:
        """Judge what waits, one after another, until cancelled."""
        while True:
            waiting = next((job for job in self._jobs.values() if job.state == "waiting"), None)
            if waiting is None:
                self._news.clear()
                await self._news.wait()
                continue
            await self._judge(waiting)

    async def _judge(self, job: Job) -> None:
        if not self._worker.is_alive():
            self._renew()
        job.state = "judging"
        self._progress[:] = (0.0, 0.0, 0.0)
        self._worker.give(Task(job.video, job.name, job.report))
        try:
            answer = await asyncio.to_thread(self._worker.answer)
        except Exception as error:  # a bug of ours, which costs this video only
            print(f"crosstalk serve: {error}", file=sys.stderr, flush=True)
            answer = "Crosstalk itself failed; how is to be read where the server was started"
            self._renew()
        if isinstance(answer, Died):
            answer = f"the process that judged it died ({answer.how}): the file is damaged, or made to do that"
            self._renew()
        job.video.unlink(missing_ok=True)
        if job.state != "gone" and isinstance(answer, Outcome):
            job.state, job.outcome = "done", answer
        else:
            shutil.rmtree(job.folder, ignore_errors=True)  # the worker may have written there until it was killed
            if job.state != "gone":
                job.state, job.reason = "refused", answer
        self._keep_few()

    def _renew(self) -> None:
        """The new worker loads its model while nobody waits for it."""
        self._worker.kill()
        self._worker.end()
        self._worker = self._start()

    def _keep_few(self) -> None:
        over = [job for job in self._jobs.values() if job.state in ("done", "refused")]
        for job in over[: -self._keep]:
            self.give_up(job)

    def close(self) -> None:
        self._worker.kill()

"""The queue of `crosstalk serve`: one at a time, in order, and nothing of a video stays longer than it must."""

import asyncio
import threading
from pathlib import Path

import pytest

from engine.pool import Died
from evaluation.serve import jobs as serve_jobs
from evaluation.serve.jobs import Jobs
from evaluation.serve.judging import Outcome, Task

FORGED = Outcome("Looks forged", "forged")


class FakeWorker:
    """Answers what it is told to, when it is told to."""

    made: list["FakeWorker"]

    def __init__(self):
        self.tasks: list[Task] = []
        self.alive, self.ended = True, False
        self._answers: list = []
        self._ready = threading.Semaphore(0)
        self.made.append(self)

    def give(self, task):
        assert task.video.read_bytes() == b"video", "the upload is there while it is judged"
        self.tasks.append(task)

    def finish(self, answer):
        self._answers.append(answer)
        self._ready.release()

    def answer(self):
        assert self._ready.acquire(timeout=60)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Outcome):
            self.tasks[-1].report.write_text("report")
        return answer

    def is_alive(self):
        return self.alive

    def kill(self):
        if self.alive:
            self.alive = False
            self.finish(Died("signal SIGKILL"))

    def end(self):
        self.ended = True


@pytest.fixture
def workers(monkeypatch) -> list[FakeWorker]:
    monkeypatch.setattr(FakeWorker, "made", [], raising=False)
    return FakeWorker.made


def queue(tmp_path: Path, scenario, keep: int = 20) -> None:
    async def main() -> None:
        jobs = Jobs(tmp_path, FakeWorker(), FakeWorker, [0.0, 0.0, 0.0], keep)
        running = asyncio.create_task(jobs.run())
        try:
            await asyncio.wait_for(scenario(jobs), 60)
        finally:
            running.cancel()
            jobs.close()

    asyncio.run(main())


def arrived(jobs: Jobs, name: str = "a.mp4"):
    job = jobs.new(name)
    job.video.write_bytes(b"video")
    jobs.arrived(job)
    return job


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_one_at_a_time_in_order_each_told_how_many_are_before_it(tmp_path, workers):
    async def scenario(jobs: Jobs) -> None:
        first, second, third = arrived(jobs, "1"), arrived(jobs, "2"), arrived(jobs, "3")
        await until(lambda: first.state == "judging")
        assert [jobs.seen(job).get("ahead") for job in (first, second, third)] == [None, 1, 2] and len(jobs) == 2
        jobs._progress[:] = (1.0, 30.0, 120.0)
        assert jobs.seen(first) == {"state": "judging", "stage": 1, "done": 30.0, "total": 120.0}
        workers[0].finish(FORGED)
        await until(lambda: second.state == "judging")
        assert jobs.seen(first) == {"state": "done", "headline": "Looks forged", "tone": "forged"}
        assert jobs.seen(third)["ahead"] == 1 and jobs._progress[:] == [0.0, 0.0, 0.0]
        workers[0].finish("no picture stream")
        workers[0].finish(FORGED)
        await until(lambda: third.state == "done")
        assert jobs.seen(second) == {"state": "refused", "reason": "no picture stream"}
        assert [task.name for task in workers[0].tasks] == ["1", "2", "3"] and len(workers) == 1
        assert not any(job.video.exists() for job in (first, second, third)), "uploads go, refused ones too"
        assert first.report.read_text() == third.report.read_text() == "report" and len(first.number) >= 20

    queue(tmp_path, scenario)


def test_what_is_given_up_leaves_nothing_and_the_next_one_is_judged(tmp_path, workers):
    async def scenario(jobs: Jobs) -> None:
        first, second, third = arrived(jobs), arrived(jobs), arrived(jobs)
        await until(lambda: first.state == "judging")
        jobs.give_up(second)
        jobs.give_up(first)
        await until(lambda: third.state == "judging")
        assert (first.state, second.state) == ("gone", "gone") and [w.alive for w in workers] == [False, True]
        assert [folder.name for folder in tmp_path.iterdir()] == [third.folder.name]
        for gone in (first, second):
            with pytest.raises(KeyError):
                jobs[gone.number]
        jobs.give_up(first)  # again: nothing is killed
        assert workers[1].alive

    queue(tmp_path, scenario)


def test_videos_that_nobody_watches_are_given_up(tmp_path, workers, monkeypatch):
    monkeypatch.setattr(serve_jobs, "GRACE", 0.05)

    async def scenario(jobs: Jobs) -> None:
        watched, left, never = arrived(jobs), arrived(jobs), arrived(jobs)
        for job in (watched, left):
            jobs.watched(job)
        jobs.watched(left)
        jobs.left(left)
        await until(lambda: never.state == "gone")
        assert (watched.state, left.state) == ("judging", "waiting"), "one of two has left, the other still looks"
        jobs.left(left)
        await until(lambda: left.state == "gone")
        jobs.left(watched)
        jobs.watched(watched)  # a connection that broke and was made again
        await asyncio.sleep(0.2)
        assert watched.state == "judging"
        workers[0].finish(FORGED)
        await until(lambda: watched.state == "done")
        jobs.left(watched)
        await asyncio.sleep(0.2)
        assert watched.report.exists(), "a report that is made stays"

    queue(tmp_path, scenario)


def test_a_file_that_kills_the_worker_or_a_bug_costs_that_file_only(tmp_path, workers, capsys):
    async def scenario(jobs: Jobs) -> None:
        deadly, buggy, good = arrived(jobs), arrived(jobs), arrived(jobs)
        await until(lambda: deadly.state == "judging")
        workers[0].alive = False
        workers[0].finish(Died("signal SIGSEGV"))
        await until(lambda: buggy.state == "judging")
        assert "signal SIGSEGV" in deadly.reason and workers[0].ended
        workers[1].finish(RuntimeError("in a worker process: oh"))
        await until(lambda: good.state == "judging")
        assert "Crosstalk itself failed" in buggy.reason and len(workers) == 3
        workers[2].finish(FORGED)
        await until(lambda: good.state == "done")

    queue(tmp_path, scenario)
    assert "in a worker process: oh" in capsys.readouterr().err


def test_a_worker_that_died_idle_is_replaced_before_it_costs_a_video(tmp_path, workers):
    async def scenario(jobs: Jobs) -> None:
        workers[0].alive = False
        job = arrived(jobs)
        await until(lambda: job.state == "judging")
        assert len(workers) == 2 and workers[1].tasks
        workers[1].finish(FORGED)
        await until(lambda: job.state == "done")

    queue(tmp_path, scenario)


def test_only_so_many_reports_are_kept(tmp_path, workers):
    async def scenario(jobs: Jobs) -> None:
        several = [arrived(jobs, str(k)) for k in range(4)]
        for _ in several:
            workers[0].finish(FORGED)
        await until(lambda: several[-1].state == "done")
        assert [job.state for job in several] == ["gone", "gone", "done", "done"]
        assert len(list(tmp_path.iterdir())) == 2

    queue(tmp_path, scenario, keep=2)

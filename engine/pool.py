"""Worker processes that may die: a file that brings its decoder down costs that file, not the night's run."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection, wait
from typing import Any, cast

from engine.errors import UserError

CONTEXT = multiprocessing.get_context("spawn")  # no inherited threads, locks or file descriptors


@dataclass(frozen=True)
class Died:
    """A worker ended without an answer."""

    how: str


class Worker:
    """A process of its own that answers tasks one after another; a `Died` is the answer that it could not give.

    `setup(*arguments)` runs once in it and returns the function that answers tasks. It ends when it is killed, and by
    itself when this process is.
    """

    def __init__(self, setup: Callable[..., Callable], arguments: tuple):
        self.connection, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_work, args=(theirs, setup, arguments), daemon=True)
        with _undisturbed():
            self._process.start()
        theirs.close()

    def give(self, task: Any) -> None:
        # If it died while idle, its answer is `Died`.
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(task)

    def answer(self) -> Any:
        """Waits. What failed in the worker is raised here; a `UserError` keeps its line."""
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode or 0
            return Died(f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        """Once it has nothing to do, or was killed."""
        self.connection.close()
        self._process.join()


def run(
    workers: int, setup: Callable[..., Callable], setup_arguments: tuple, tasks: Iterable
) -> Generator[tuple[Any, Any], None, None]:
    """Yield (task, answer) as answers come. `setup(number, *setup_arguments)` runs once in each new process and returns
    the function that answers tasks; numbers are never used twice.

    An exception in a worker is raised here; a `UserError` keeps its line. A dead worker answers `Died` for its task and
    is replaced. Workers end when this generator is closed, and by themselves when this process is killed.
    """
    tasks, numbers = iter(tasks), count()
    crew: dict[Connection, tuple[Worker, Any]] = {}  # with its task

    def start() -> Worker:
        return Worker(setup, (next(numbers), *setup_arguments))

    def give(worker: Worker) -> None:
        for task in tasks:
            worker.give(task)
            crew[worker.connection] = worker, task
            return
        worker.end()

    try:
        for _ in range(workers):
            give(start())
        while crew:
            for ready in wait(list(crew)):
                connection = cast(Connection, ready)
                worker, task = crew[connection]
                answer = worker.answer()
                del crew[connection]  # only now: one that failed is stopped below
                yield task, answer
                if isinstance(answer, Died):
                    worker.end()
                    worker = start()
                give(worker)
    finally:
        for worker, _ in crew.values():
            worker.kill()
        for worker, _ in crew.values():
            worker.end()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C waits until a worker is started: half a start would make the worker print a traceback.

    What this thread blocks, the worker inherits and keeps: it never answers to Ctrl-C, the parent does; nor to what
    SLURM sends to all processes of a job, or the worker's task would be taken for one that brings the decoder down.
    Blocking is not enough for the parent, as another thread may take the signal and leave its handler to this one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    to_the_job = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, to_the_job)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGINT, handler)
    if pressed:
        signal.raise_signal(signal.SIGINT)


def _work(connection: Connection, setup: Callable[..., Callable], arguments: tuple) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        answer = setup(*arguments)
        while True:
            try:
                task = connection.recv()
            except EOFError:
                return
            connection.send(answer(task))
    except UserError as error:
        connection.send(error)
    except Exception as error:
        # Tracebacks do not travel: keep the worker's as text.
        import traceback

        connection.send(RuntimeError(f"in a worker process: {error!r}\n{traceback.format_exc()}"))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

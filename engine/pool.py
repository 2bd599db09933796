"""Worker processes that may die: a file that brings its decoder down costs that file, not the night's run."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from engine.errors import UserError


@dataclass(frozen=True)
class Died:
    """A worker ended without an answer."""

    how: str


def run(
    workers: int, setup: Callable[..., Callable], setup_arguments: tuple, tasks: Iterable
) -> Iterator[tuple[Any, Any]]:
    """Yield (task, answer) as answers come. `setup(number, *setup_arguments)` runs once in each new process and returns
    the function that answers tasks; numbers are never used twice.

    An exception in a worker is raised here; a `UserError` keeps its line. A dead worker answers `Died` for its task and
    is replaced. Workers end when this generator is closed, and by themselves when this process is killed.
    """
    context = multiprocessing.get_context("spawn")  # no inherited threads, locks or file descriptors
    tasks = iter(tasks)
    started = 0
    crew: dict[Connection, tuple[Any, Any]] = {}  # connection -> (process, its task)

    def start() -> tuple[Connection, Any]:
        nonlocal started
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, setup, (started, *setup_arguments)), daemon=True)
        with _undisturbed():
            process.start()
        theirs.close()
        started += 1
        return ours, process

    def give(connection: Connection, process: Any) -> None:
        for task in tasks:
            # If it died while idle, wait() reports the end of file, and the task is answered `Died`.
            with contextlib.suppress(BrokenPipeError):
                connection.send(task)
            crew[connection] = (process, task)
            return
        connection.close()
        process.join()

    try:
        for _ in range(workers):
            give(*start())
        while crew:
            for connection in wait(list(crew)):
                process, task = crew.pop(connection)
                try:
                    answer = connection.recv()
                except (EOFError, ConnectionResetError):
                    process.join()
                    code = process.exitcode
                    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
                    connection.close()
                    yield task, Died(how)
                    give(*start())
                    continue
                if isinstance(answer, BaseException):
                    crew[connection] = (process, task)  # so that it is stopped below
                    raise answer
                yield task, answer
                give(connection, process)
    finally:
        for connection, (process, _) in crew.items():
            process.kill()
            connection.close()
        for process, _ in crew.values():
            process.join()


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

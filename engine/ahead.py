"""Two things at once: a thread makes items while who uses them is busy with those before."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
END = object()


@contextmanager
def ahead(items: Iterable[T], most: int, *, tick: float = 1.0) -> Iterator[Iterator[T | None]]:
    """`with ahead(items, 8) as made: for item in made:`, the items in their order, at most `most` of them waiting.

    None comes whenever there was nothing for `tick` seconds. What fails in the thread fails where its item is awaited.
    On leaving, the thread ends once it has made the item that it is at, and that is waited for.
    """
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(most)
    left = threading.Event()

    def hand_over(item: Any, error: BaseException | None = None) -> None:
        while not left.is_set():
            try:
                return waiting.put((item, error), timeout=0.1)
            except queue.Full:
                continue

    def make() -> None:
        try:
            for item in items:
                hand_over(item)
                if left.is_set():
                    return
            hand_over(END)
        except BaseException as error:  # whatever it is, somebody waits for it
            hand_over(END, error)

    def made() -> Iterator[T | None]:
        while True:
            try:
                item, error = waiting.get(timeout=tick)
            except queue.Empty:
                yield None
                continue
            if error is not None:
                raise error
            if item is END:
                return
            yield item

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        yield made()
    finally:
        left.set()
        thread.join()

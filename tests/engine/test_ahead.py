"""A thread that makes items beforehand: order, failure, patience, leaving early."""

import threading
import time

import pytest

from engine.ahead import ahead


def test_items_come_in_order_and_no_more_than_asked_for_wait():
    made = []

    def items():
        for number in range(20):
            made.append(number)
            yield number

    with ahead(items(), 3) as read:
        assert next(read) == 0
        time.sleep(0.3)
        assert len(made) <= 1 + 3 + 1, "one taken, three waiting, one in hand"
        assert list(read) == list(range(1, 20))


def test_none_comes_while_there_is_nothing():
    release = threading.Event()

    def items():
        release.wait(10)
        yield "late"

    with ahead(items(), 1, tick=0.05) as read:
        assert next(read) is None
        release.set()
        assert [item for item in read if item] == ["late"]


def test_what_fails_in_the_thread_fails_where_the_item_is_awaited():
    def items():
        yield 1
        raise ValueError("torn")

    with ahead(items(), 5) as read:
        assert next(read) == 1
        with pytest.raises(ValueError, match="torn"):
            next(read)


def test_who_leaves_early_leaves_no_thread_behind():
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), ahead(iter(range(1000)), 2) as read:
        next(read)
        raise KeyboardInterrupt
    assert threading.active_count() == before

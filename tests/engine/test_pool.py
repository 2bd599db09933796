"""Workers may die, raise or be killed with their parent; the rest of the work goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine import pool
from engine.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]


def squaring(number: int, poison: int):
    def work(task: int) -> tuple[int, int]:
        if task == poison:
            os.kill(os.getpid(), signal.SIGSEGV)
        if task == -1:
            raise ValueError("a bug of ours")
        if task == -2:
            raise UserError("something the user can put right")
        return task * task, number

    return work


def test_every_task_is_answered_once():
    answers = dict(pool.run(2, squaring, (99,), range(20)))
    assert {task: square for task, (square, _) in answers.items()} == {k: k * k for k in range(20)}


def test_a_worker_that_dies_costs_its_task_only():
    answers = dict(pool.run(2, squaring, (5,), range(12)))
    assert answers.pop(5) == pool.Died("signal SIGSEGV")
    assert {task: square for task, (square, _) in answers.items()} == {k: k * k for k in range(12) if k != 5}
    assert max(number for _, number in answers.values()) <= 2  # one was replaced, and numbers are not used again


def test_exceptions_come_out():
    with pytest.raises(RuntimeError, match="a bug of ours"):
        dict(pool.run(2, squaring, (99,), [1, -1, 2]))
    with pytest.raises(UserError, match="something the user can put right"):
        dict(pool.run(1, squaring, (99,), [1, -2, 2]))


def children_of(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(word) for word in listed.split()]


SLEEPER = """
import time
from engine import pool
def setup(number):
    return lambda task: time.sleep(60)
if __name__ == "__main__":
    list(pool.run(2, setup, (), range(2)))
"""


def test_workers_follow_a_killed_parent(tmp_path):
    script = tmp_path / "sleeper.py"
    script.write_text(SLEEPER)
    parent = subprocess.Popen([sys.executable, str(script)], env=os.environ | {"PYTHONPATH": str(PROJECT)})
    deadline = time.monotonic() + 20
    while len(workers := children_of(parent.pid)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1.0)  # until they are at work
    parent.kill()
    parent.wait()
    while any(Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
              for pid in workers):
        assert time.monotonic() < deadline, "workers outlived their parent"
        time.sleep(0.05)

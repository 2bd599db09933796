"""Progress in a log file: plain lines, and an honest time left."""

from engine.progress import Bar


def lines(capsys, monkeypatch, **options):
    now = [100.0]
    monkeypatch.setattr("engine.progress.time.monotonic", lambda: now[0])
    with Bar("training", 1000, unit="steps", **options) as bar:
        for _ in range(3):
            now[0] += 31
            bar.advance(100, note="81 clips/s")
    return capsys.readouterr().err.splitlines()


def test_now_and_then_a_line(capsys, monkeypatch):
    assert lines(capsys, monkeypatch)[0] == "training: 100 of 1000 steps in 31 s, about 279 s left, 81 clips/s"


def test_what_was_done_before_does_not_count_towards_the_speed(capsys, monkeypatch):
    first, _, last = lines(capsys, monkeypatch, done=500)
    assert first == "training: 600 of 1000 steps in 31 s, about 124 s left, 81 clips/s"
    assert last == "training: 800 of 1000 steps in 93 s, about 62 s left, 81 clips/s"

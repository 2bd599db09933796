"""The journal: every digit, nothing twice, and no waiting for the device within a step."""

import json
import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.distributed import Context
from engine.errors import UserError
from engine.journal import Journal, read_metrics


def journal(folder, step=0, **options):
    return Journal(folder, Context(), step=step, steps=20, **options)


def test_every_digit_is_written(tmp_path):
    values = {"single": torch.tensor(0.1), "double": torch.tensor(1 / 3, dtype=torch.float64), "number": 0.1 + 0.2,
              "half": torch.tensor(1.005, dtype=torch.bfloat16), "whole": 3}
    with journal(tmp_path) as written:
        written.record(1, 0, values, clips=8)
    (line,) = read_metrics(tmp_path)
    assert line["values"] == {"single": float(torch.tensor(0.1)), "double": 1 / 3, "number": 0.1 + 0.2,
                              "half": 1.0078125, "whole": 3.0}
    assert (line["step"], line["epoch"], line["split"]) == (1, 0, "train")
    assert line["clips_per_s"] > 0 and line["seconds"] >= 0


def test_what_is_not_finite_is_null_and_spelt_out(tmp_path):
    with journal(tmp_path) as written:
        written.record(1, 0, {"a": torch.tensor(math.nan), "b": -math.inf, "c": 1.0})
    text = (tmp_path / "metrics.jsonl").read_text()
    line = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert line["values"] == {"a": None, "b": None, "c": 1.0}
    assert line["non_finite"] == {"a": "nan", "b": "-inf"}


def test_values_are_fetched_together_every_so_many_steps(tmp_path, monkeypatch):
    fetched = []
    original = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: fetched.append(len(tensor)) or original(tensor))
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: pytest.fail("waited for the device"))
    monkeypatch.setattr(torch.Tensor, "__float__", lambda tensor: pytest.fail("waited for the device"))
    with journal(tmp_path, log_every=4) as written:
        for step in range(1, 11):
            written.record(step, 0, {"loss": torch.tensor(1.0 * step), "other": torch.tensor(0.0), "rate": 0.5})
            assert len(read_metrics(tmp_path)) == step // 4 * 4
        assert fetched == [8, 8]
        written.record(10, 0, {"auc": 0.5}, split="validation")  # others come seldom, and at once
        assert len(read_metrics(tmp_path)) == 11
    assert fetched == [8, 8, 4]
    assert [line["values"]["loss"] for line in read_metrics(tmp_path, "train")] == [float(k) for k in range(1, 11)]
    assert "clips_per_s" not in read_metrics(tmp_path, "validation")[0]
    with pytest.raises(UserError, match="log_every=0"):
        journal(tmp_path, log_every=0)


def test_recording_keeps_no_graph(tmp_path):
    weight = torch.ones(1, requires_grad=True)
    with journal(tmp_path) as written:
        written.record(1, 0, {"loss": (weight * 2).sum()})
        assert not any(value.requires_grad for entry in written._pending for value in entry.values.values())


def interrupted(folder, tail=""):
    """Ten steps with a validation after the fifth, then the process is gone; a checkpoint was made at step 5."""
    with journal(folder, log_every=1) as written:
        for step in range(1, 11):
            written.record(step, 0, {"loss": step / 10})
            if step == 5:
                written.record(5, 0, {"auc": 0.5}, split="validation")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(tail)


@pytest.mark.parametrize("tail", ["", '{"step": 11, "ep', '{"step": 11}'])
def test_resuming_cuts_what_came_after_the_checkpoint(tmp_path, tail):
    interrupted(tmp_path, tail)
    kept = (tmp_path / "metrics.jsonl").read_text().splitlines()[:6]
    with journal(tmp_path, step=5, log_every=1) as written:
        assert (tmp_path / "metrics.jsonl").read_text().splitlines() == kept
        for step in range(6, 13):
            written.record(step, 0, {"loss": step / 10})
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 5, *range(6, 13)]
    assert [line["split"] for line in lines].count("validation") == 1


def test_half_a_line_alone_is_cut(tmp_path):
    interrupted(tmp_path, '{"step": 11, "ep')
    with journal(tmp_path, step=10):
        pass
    assert [line["step"] for line in read_metrics(tmp_path, "train")] == list(range(1, 11))


def test_beginning_anew_keeps_nothing(tmp_path):
    interrupted(tmp_path)
    with journal(tmp_path, step=0):
        assert read_metrics(tmp_path) == []


def test_a_damaged_line_before_the_checkpoint_is_said(tmp_path):
    interrupted(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    lines[2] = "\0\0\0"
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 3 is damaged"), journal(tmp_path, step=5):
        pass


def test_tensorboard_shows_each_step_once(tmp_path):
    interrupted(tmp_path)
    with journal(tmp_path, step=5) as written:
        for step in range(6, 9):
            written.record(step, 0, {"loss": 10.0 + step}, clips=4)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [event.value for event in events.Scalars("train/loss")][5:] == [16.0, 17.0, 18.0]
    assert [event.step for event in events.Scalars("validation/auc")] == [5]
    assert events.Scalars("speed/clips_per_s")[0].value > 0


def test_after_an_error_nothing_more_is_written(tmp_path):
    with pytest.raises(KeyError), journal(tmp_path, log_every=5) as written:
        for step in range(1, 8):
            written.record(step, 0, {"loss": 1.0})
        raise KeyError
    assert len(read_metrics(tmp_path)) == 5

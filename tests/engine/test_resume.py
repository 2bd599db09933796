"""A run that was killed and resumed is the run that was not: all parts of the engine together, in real processes."""

import json
import os
import random
import signal

import pytest
from safetensors.torch import load_file

from engine.journal import read_metrics
from tests.engine.processes import finish, start, toy, untimed, wait_for


def assert_same_run(one, other):
    lines, others = untimed(one), untimed(other)
    assert [line["step"] for line in lines] == list(range(1, 41))
    assert lines == others  # to the last digit: json gives back the very floats
    for name in ("bundle/model.safetensors", "checkpoints/step-00000040/state.safetensors"):
        ours, theirs = load_file(one / name), load_file(other / name)
        assert ours.keys() == theirs.keys() and all(ours[key].equal(theirs[key]) for key in ours)
    states = [(run / "checkpoints/step-00000040/state.json").read_text() for run in (one, other)]
    assert states[0] == states[1]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert toy(run) == ([0], "")
    lines = read_metrics(run)
    assert len({line["values"]["loss"] for line in lines}) == 40  # a test that can fail
    assert lines[0]["values"]["loss"] - lines[-1]["values"]["loss"] > 0.2
    return run


def test_two_uninterrupted_runs_are_the_same(uninterrupted, tmp_path):
    assert toy(tmp_path / "run", "log_every=3") == ([0], "")
    assert_same_run(tmp_path / "run", uninterrupted)
    codes, _ = toy(tmp_path / "other", "seed=1")
    assert codes == [0] and untimed(tmp_path / "other") != untimed(uninterrupted)


def test_killed_with_kill_9_again_and_again(uninterrupted, tmp_path):
    """At three random steps, each time at another place of the loop, then while a checkpoint is being written."""
    steps = sorted(random.sample(range(1, 34), 3))
    kills = [f"{place}@{step}" for place, step in zip(("forward", "update", "record"), steps, strict=True)]
    for kill in [*kills, "saving@35"]:
        codes, said = toy(tmp_path / "run", f"kill={kill}")
        assert codes == [-signal.SIGKILL], (kill, said)
    assert list((tmp_path / "run/checkpoints").glob(".step-00000035.tmp/complete.json"))
    assert not (tmp_path / "run/checkpoints/step-00000035").exists()
    codes, said = toy(tmp_path / "run")
    assert codes == [0], said
    assert not list((tmp_path / "run/checkpoints").glob(".*"))
    assert_same_run(tmp_path / "run", uninterrupted)
    sessions = json.loads((tmp_path / "run/environment.json").read_text())["sessions"]
    assert len(sessions) == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_asked_to_stop_it_saves_and_says_so(uninterrupted, tmp_path, number):
    run = tmp_path / "run"
    process = start("toy", [f"run={run}", "slow=0.05", "save_every=100", "log_every=1"], {}, tmp_path / "said")
    wait_for(run, 3, tmp_path / "said")
    os.kill(process.pid, number)
    assert finish(process) == 128 + number
    (checkpoint,) = (run / "checkpoints").iterdir()  # the only one: it was written because of the signal
    assert int(checkpoint.name.removeprefix("step-")) == read_metrics(run)[-1]["step"] < 40
    assert toy(run, "save_every=100")[0] == [0]
    assert untimed(run) == untimed(uninterrupted)


def test_two_ranks_are_killed_and_go_on(tmp_path):
    """Each rank has a random state of its own, which shows in the noise of its views."""
    assert toy(tmp_path / "whole", "steps=40", world=2)[0] == [0, 0]
    for kill in ("record@17", "signal@25"):
        codes, said = toy(tmp_path / "killed", f"kill={kill}", world=2)
        assert codes == ([-9, -9] if "record" in kill else [143, 143]), said
    assert toy(tmp_path / "killed", world=2)[0] == [0, 0]
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_two_ranks_with_half_the_batch_are_one_with_the_whole(tmp_path):
    plain = ("norm=none", "noise=0", "steps=20")
    assert toy(tmp_path / "two", *plain, world=2)[0] == [0, 0]
    assert toy(tmp_path / "one", *plain)[0] == [0]
    assert toy(tmp_path / "parts", *plain, "parts=4")[0] == [0]  # and so is one that takes a batch in four
    one, two, parts = (read_metrics(tmp_path / name) for name in ("one", "two", "parts"))
    assert len(one) == len(two) == len(parts) == 20
    for whole, *cut in zip(one, two, parts, strict=True):
        for other in cut:
            assert other["values"] == pytest.approx(whole["values"], rel=2e-4, abs=2e-5)
    ours, theirs = (load_file(tmp_path / name / "bundle/model.safetensors") for name in ("one", "two"))
    for key in ours:
        assert (ours[key] - theirs[key]).abs().max() < 1e-4, key


def test_resumed_by_another_number_of_ranks_says_what_is_lost(tmp_path):
    assert toy(tmp_path / "run", "kill=record@15", "norm=none")[0] == [-9]
    codes, said = toy(tmp_path / "run", "norm=none", world=2)
    assert codes == [0, 0]
    assert said.splitlines() == [
        "note: resumed with kill= (the run has record@15)",
        "note: the number of ranks was 1 and is 2: random states start afresh from seed, rank and step 14",
    ]
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == list(range(1, 41))


def test_a_loss_that_is_not_a_number_stops_before_the_weights(tmp_path):
    codes, said = toy(tmp_path / "run", "poison=12", "parts=2")
    assert codes == [2] and said.count("\n") == 1
    assert said.startswith("crosstalk toy: step 12: the loss is not finite (part 0: loss nan, agreement -0.")
    assert "labelled nan" in said and "nothing was changed" in said
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000007"]
    assert read_metrics(tmp_path / "run")[-1]["step"] == 10  # what was pending stays unwritten


def test_bad_input_is_one_line(uninterrupted, tmp_path):
    """Through the door, in processes: what the user sees, and that nothing was overwritten."""

    def refused(*arguments, run=tmp_path / "run"):
        codes, said = toy(run, *arguments)
        assert codes == [2] and said.count("\n") == 1 and "Traceback" not in said, said
        return said

    assert "precision=fp61: did you mean" in refused("precision=fp61")
    assert "precision=fp16 needs a GPU" in refused("precision=fp16")
    assert not (tmp_path / "run").exists()

    toy(tmp_path / "cut", "steps=21")
    newest = tmp_path / "cut/checkpoints/step-00000021/state.safetensors"
    whole, cut = newest.read_bytes(), newest.read_bytes()[:-100]
    newest.write_bytes(cut)
    said = refused("steps=21", run=tmp_path / "cut")
    older = tmp_path / "cut/checkpoints/step-00000014"
    assert f"step-00000021 is damaged (state.safetensors has {len(cut)} of {len(whole)} bytes)" in said
    assert f"{older} is whole: checkpoint={older} continues from it" in said
    assert newest.read_bytes() == cut
    assert toy(tmp_path / "cut", "steps=21", f"checkpoint={older}")[0] == [0]
    names = sorted(path.name for path in (tmp_path / "cut/checkpoints").iterdir())
    assert names == ["aside-step-00000021", "step-00000014", "step-00000021"]

    before = (tmp_path / "cut/config.yaml").read_text()
    said = refused("steps=30", "seed=4", run=tmp_path / "cut")
    assert "steps=30 (the run has 21), seed=4 (the run has 0)" in said
    assert (tmp_path / "cut/config.yaml").read_text() == before

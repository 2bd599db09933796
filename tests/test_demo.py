"""What `crosstalk demo` types: each of its commands is one that its verb takes; several side by side end as one."""

from __future__ import annotations

from pathlib import Path

import pytest

import demo
from engine.errors import Shown, UserError
from engine.settings import load_exactly
from engine.verbs import main_of


def settings(tmp_path, **others) -> demo.DemoSettings:
    given = {"out": tmp_path, "seed": 3, "lrw_clips": 60, "faceforensics_pairs": 10, "celebdf_identities": 5,
             "youtube_real": 5, "pretrain": ("epochs=2",), "finetune": ("epochs=3", "warmup_epochs=0")}  # fmt: skip
    return demo.DemoSettings(**(given | others))


def test_every_command_is_one_that_its_verb_takes(tmp_path):
    commands = [command for step in demo.steps(settings(tmp_path)) for command in step.commands]
    assert {verb for verb, *_ in commands} == {"synthesize", "prepare", "inspect", "pretrain", "finetune", "benchmark"}
    for verb, *arguments in commands:
        with pytest.raises(Shown):  # the settings, which are right, before anything is opened
            main_of(verb)([*arguments, "--check"])


def test_what_is_trained_differs_in_one_thing_each_and_never_sees_what_is_left_out(tmp_path):
    trained = {}
    for step in demo.steps(settings(tmp_path)):
        for verb, *arguments in step.commands:
            if verb == "finetune":
                given = dict(argument.split("=", 1) for argument in arguments)
                assert given["leave_out"] == "[NeuralTextures,FaceShifter]" and given["seed"] == "3"
                assert "celebdf" not in given["store"]
                trained[Path(given["run"]).name] = given["init"] == "none", given["ssl_weight"]
    assert trained == {"weight_0": (False, "0"), "weight_0.3": (False, "0.3"), "scratch": (True, "0")}


def test_a_corpus_too_small_to_test_on_is_refused(tmp_path):
    with pytest.raises(UserError, match="faceforensics_pairs=4: the demo needs at least 10"):
        settings(tmp_path, faceforensics_pairs=4)


def test_side_by_side_says_whose_line_it_is_and_stops_at_the_first_that_fails(capfd, tmp_path):
    assert demo._side_by_side([("--version", f"run={tmp_path}/a"), ("--version", f"run={tmp_path}/b"),
                               ("--version", f"run={tmp_path}/c")], 2) == 0  # fmt: skip
    lines = capfd.readouterr().out.splitlines()
    assert sorted(line.split(": ")[0].strip() for line in lines) == ["a", "b", "c"]
    assert all("crosstalk" in line for line in lines)
    assert demo._side_by_side([("no-such-verb", f"run={tmp_path}/a"), *[("--version", f"run={tmp_path}/{n}")
                                                                        for n in "bcdef"]], 1) == 2  # fmt: skip
    said = capfd.readouterr().out
    assert "a: crosstalk: unknown verb 'no-such-verb'" in said and "f: " not in said


def test_settings_of_the_demo_itself():
    assert load_exactly("demo", [], demo.DemoSettings).out == Path("runs/demo")

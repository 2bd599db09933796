"""What Tab offers, by the table behind it and in a real shell."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.completion import SCRIPTS, main, words
from engine.errors import Shown, UserError
from engine.verbs import VERBS

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("line", "offered"), [
    ("pre", {"prepare", "pretrain"}),
    ("--v", {"--version"}),
    ("prepare roo", {"root="}),
    ("prepare data=f", {"data=faceforensics", "data=folder"}),
    ("prepare data=faceforensics compr", {"compression="}),  # which is that data set's own
    ("prepare data=lrw compr", set()),
    ("prepare join=", {"join=true", "join=false"}),
    ("prepare data=lrw root=/da", set()),  # a path: the shell knows better
    ("pretrain backbone=csn", {"backbone=csn_r101", "backbone=csn_r101_small"}),
    ("benchmark protocol=in", {"protocol=in_dataset"}),
    ("submit fine", {"finetune"}),
    ("submit finetune ssl", {"ssl_weight="}),
    ("submit finetune experiment=", {"experiment=finetune_small", "experiment=pretrain_small"}),
    ("submit finetune part", {"partition="}),
    ("jobs c", {"cancel", "csv="}),
    ("detect --mod", {"--model"}),
    ("detect clip", set()),
    ("completion f", {"fish"}),
    ("nonsense x", set()),
])
def test_words(line, offered):
    assert set(words(line.split(" "))) == offered


def test_every_verb_and_every_flag_of_detect_is_offered():
    from evaluation.verdict.flags import parser

    assert words([""]) == list(VERBS)
    flags = {flag for action in parser()._actions for flag in action.option_strings if flag.startswith("--")}
    assert set(words(["detect", "--"])) == flags


def test_what_is_given_is_not_offered_again():
    assert "root=" in words(["prepare", ""]) and "root=" not in words(["prepare", "root=/x", ""])


def test_a_tab_waits_for_nothing_heavy():
    said = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "crosstalk", "completion", "words", "submit", "finetune", "s"],
        cwd=PROJECT, capture_output=True, text=True)  # fmt: skip
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in said.stderr.splitlines() if "|" in line}
    assert "yaml" in imported and not imported & {"torch", "hydra", "omegaconf", "numpy"}
    assert "seed=" in said.stdout.split()


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """A function: what bash has in COMPREPLY after Tab at the end of a line."""
    folder = tmp_path_factory.mktemp("bin")
    command = folder / "crosstalk"
    command.write_text(f"#!/bin/sh\ncd '{PROJECT}' && exec '{sys.executable}' -m crosstalk \"$@\"\n")
    command.chmod(0o755)

    def completed(line: str) -> list[str]:
        script = (f"{SCRIPTS['bash']}\nCOMP_LINE=$1 COMP_POINT=${{#1}}; _crosstalk '{command}'\n"
                  "printf '%s\\n' \"${COMPREPLY[@]}\"")  # fmt: skip
        done = subprocess.run(["bash", "-c", script, "bash", line], capture_output=True, text=True, check=True)
        return done.stdout.split()

    return completed


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(("line", "offered"), [
    ("crosstalk inspe", ["inspect"]),
    ("crosstalk prepare data=dee", ["deeperforensics"]),  # only what follows "="
    ("crosstalk prepare data=lrw roo", ["root="]),
    ("crosstalk prepare root=/us", []),
])
def test_in_bash(bash, line, offered):
    assert bash(line) == offered


def test_the_verb(capsys):
    for shell in SCRIPTS:
        assert main([shell]) == 0 and "completion words" in capsys.readouterr().out
    with pytest.raises(Shown, match="crosstalk completion SHELL"):
        main([])
    with pytest.raises(UserError, match="tcsh: expected one shell, of bash, zsh, fish"):
        main(["tcsh"])

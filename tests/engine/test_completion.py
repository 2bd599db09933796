"""What Tab offers, by the table behind it and in a real shell."""

import os
import pty
import re
import shutil
import subprocess
import sys
from contextlib import suppress
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


def installed(folder: Path) -> Path:
    """A crosstalk that completes; whatever else it is told it only repeats."""
    command = folder / "crosstalk"
    command.write_text("#!/bin/sh\n[ \"$1\" = completion ] || { echo \"<$*>\"; exit; }\n"
                       f"cd '{PROJECT}' && exec '{sys.executable}' -m crosstalk \"$@\"\n")  # fmt: skip
    command.chmod(0o755)
    return command


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """A function: what bash has in COMPREPLY after Tab at the end of a line."""
    command = installed(tmp_path_factory.mktemp("bin"))

    def completed(line: str) -> list[str]:
        script = (f"{SCRIPTS['bash']}\nCOMP_LINE=$1 COMP_POINT=${{#1}}; _crosstalk '{command}'\n"
                  "(( ${#COMPREPLY[@]} )) && printf '<%s>\\n' \"${COMPREPLY[@]}\" || true")  # fmt: skip
        done = subprocess.run(["bash", "-c", script, "bash", line], capture_output=True, text=True, check=True)
        return [line.strip("<>") for line in done.stdout.splitlines()]

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


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_tab_at_a_terminal(tmp_path):
    """What Readline makes of it: a verb, a choice, and the names of files where nothing else is known."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "clip_of_mine.mp4").write_text("")
    (tmp_path / "rc").write_text(f"PATH='{installed(tmp_path).parent}':$PATH; cd '{tmp_path}'; {SCRIPTS['bash']}")
    process, terminal = pty.fork()
    if process == 0:
        os.execlp("bash", "bash", "--noprofile", "--rcfile", str(tmp_path / "rc"), "-i")
    os.write(terminal, b"crosstalk insp\tsto\tfiles/cl\t\ncrosstalk detect files/cl\t\nexit\n")
    shown = b""
    with suppress(OSError):  # the end of a terminal
        while piece := os.read(terminal, 4096):
            shown += piece
    os.waitpid(process, 0)
    os.close(terminal)
    called = re.findall(r"<(.*?)>\r", shown.decode())
    assert called == ["inspect store=files/clip_of_mine.mp4", "detect files/clip_of_mine.mp4"]


def test_the_verb(capsys):
    for shell in SCRIPTS:
        assert main([shell]) == 0 and "completion words" in capsys.readouterr().out
    with pytest.raises(Shown, match="crosstalk completion SHELL"):
        main([])
    with pytest.raises(UserError, match="tcsh: expected one shell, of bash, zsh, fish"):
        main(["tcsh"])

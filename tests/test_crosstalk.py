"""The door: what a person at a terminal gets to see, and with which exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import crosstalk
from engine.configs import verbs

PROJECT = Path(__file__).resolve().parents[1]
WITH_SETTINGS = [verb for verb in crosstalk.VERBS if verb in verbs()]  # detect has flags: tests/evaluation


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "crosstalk", *arguments], cwd=PROJECT, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_usage_names_every_verb(arguments, capsys):
    assert crosstalk.main(arguments) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {verb} " in out for verb in crosstalk.VERBS) and max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("arguments", [(), ("--version",), ("prepare", "--help"), ("completion", "bash")])
def test_who_reads_may_have_had_enough(arguments):
    """As with `| head`: no word about it, and the exit code that a shell knows."""
    reads, writes = os.pipe()
    os.close(reads)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-m", "crosstalk", *arguments], cwd=PROJECT, stdout=writes,
                          stderr=subprocess.PIPE, text=True, env=environment)  # fmt: skip
    os.close(writes)
    assert (done.returncode, done.stderr) == (141, "")


def test_help_may_stand_first(capsys):
    assert crosstalk.main(["help", "inspect"]) == 0
    assert capsys.readouterr().out.startswith("crosstalk inspect key=value")
    assert crosstalk.main(["help", "inspekt"]) == 2
    assert "did you mean inspect?" in capsys.readouterr().err


def test_version(capsys):
    assert crosstalk.main(["--version"]) == 0
    assert capsys.readouterr().out == f"crosstalk {crosstalk.__version__}\n"
    assert f'version = "{crosstalk.__version__}"' in (PROJECT / "pyproject.toml").read_text()


def test_an_unknown_verb(capsys):
    assert crosstalk.main(["perpare"]) == 2
    assert capsys.readouterr().err == "crosstalk: unknown verb 'perpare'; did you mean prepare?\n"
    assert crosstalk.main(["frobnicate"]) == 2
    assert "known are demo, synthesize, prepare, inspect" in capsys.readouterr().err


@pytest.mark.parametrize("verb", WITH_SETTINGS)
def test_every_verb_explains_itself(verb, capsys):
    assert crosstalk.main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"crosstalk {verb} key=value") and out.count("#") >= 3


@pytest.mark.parametrize("verb", WITH_SETTINGS)
def test_a_wrong_override_is_one_line_and_exit_code_2(verb):
    result = run(verb, "no_such_key=1")
    assert result.returncode == 2 and result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith(f"crosstalk {verb}: unknown setting no_such_key; ")


@pytest.mark.parametrize("verb", sorted({*WITH_SETTINGS} - {"submit", "prepare"}))  # they hand it on
def test_a_key_that_hydra_would_add_is_refused(verb, capsys):
    assert crosstalk.main([verb, "+no_such_key=1", "--check"]) == 2
    assert "no_such_key" in capsys.readouterr().err


def test_a_reader_who_has_had_enough():
    command = f"'{sys.executable}' -m crosstalk prepare --help | head -1"
    result = subprocess.run(["bash", "-c", command], cwd=PROJECT, capture_output=True, text=True)
    assert result.stderr == "" and result.stdout.startswith("crosstalk prepare")

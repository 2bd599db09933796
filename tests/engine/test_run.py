"""A run folder belongs to one configuration and, at any moment, to one run."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from engine.distributed import Context
from engine.errors import UserError
from engine.run import code_revision, differences, open_run, plain
from tests.engine.processes import CONTEXT, finish

CONFIG = {"batch": 32, "backbone": {"name": "csn_r101", "width": 4}, "cluster": {"partition": "a"}, "workers": 4}


def test_a_new_run_is_recorded(tmp_path):
    with open_run(tmp_path / "a" / "run", CONFIG, Context()) as run:
        assert not run.resumed and run.notes == ()
        assert run.checkpoints == run.folder / "checkpoints" and run.bundle == run.folder / "bundle"
    assert yaml.safe_load((run.folder / "config.yaml").read_text()) == CONFIG
    (session,) = json.loads((run.folder / "environment.json").read_text())["sessions"]
    assert session["versions"]["torch"].startswith("2.") and session["ranks"] == 1 and session["device"] == "cpu"
    assert session["code"] == code_revision()


def test_the_same_settings_resume(tmp_path):
    for resumed in (False, True, True):
        with open_run(tmp_path, CONFIG, Context()) as run:
            assert run.resumed is resumed and run.notes == ()
    assert len(json.loads((tmp_path / "environment.json").read_text())["sessions"]) == 3


def test_other_settings_are_refused_and_named(tmp_path):
    with open_run(tmp_path, CONFIG, Context()):
        pass
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "run.lock"}
    other = {"batch": 64, "backbone": {"name": "cnn_lstm", "width": 4}, "cluster": {"partition": "b"}, "flip": True}
    with pytest.raises(UserError) as caught, open_run(tmp_path, other, Context(), may_differ=["cluster", "workers"]):
        pass
    assert f"{tmp_path} belongs to other settings: batch=64 (the run has 32), " in str(caught.value)
    assert "backbone.name=cnn_lstm (the run has csn_r101), flip=true (the run has none); choose" in str(caught.value)
    assert "cluster" not in str(caught.value) and "workers" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "run.lock"} == before


def test_what_may_differ_is_noted_and_saved(tmp_path):
    with open_run(tmp_path, CONFIG, Context()):
        pass
    other = CONFIG | {"workers": 8, "cluster": {"partition": "b"}}
    with open_run(tmp_path, other, Context(), may_differ=["cluster", "workers"]) as run:
        first, second = run.notes
    assert first == "resumed with cluster.partition=b (the run has a)"
    assert second == "resumed with workers=8 (the run has 4)"
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == other


def test_differences_see_every_kind_of_change():
    assert differences({"a": 1}, {"a": 1}) == {}
    assert differences({"a": None}, {}) == {"a": "without a (the run has null)"}
    assert differences({}, {"a": None}) == {"a": "a=null (the run has none)"}
    assert differences({"a": {}}, {"a": {"b": 1}}).keys() == {"a", "a.b"}
    assert differences({"a": [1, 2]}, {"a": [2, 1]}).keys() == {"a"}
    assert differences({"ab": 1}, {"ab": 2}, ["a"]).keys() == {"ab"}  # a name, not a beginning of names


def test_settings_are_written_as_plain_yaml(tmp_path):
    @dataclass(frozen=True)
    class Inner:
        path: Path
        sizes: tuple[int, ...]

    @dataclass(frozen=True)
    class Outer:
        inner: Inner
        rate: float

    settings = Outer(Inner(Path("/a b"), (1, 2)), 7e-4)
    assert plain(settings) == {"inner": {"path": "/a b", "sizes": [1, 2]}, "rate": 7e-4}
    for _ in range(2):  # and what is read back is equal to it
        with open_run(tmp_path, settings, Context()):
            pass
    with pytest.raises(UserError, match="belongs to other settings"), \
            open_run(tmp_path, Outer(Inner(Path("/a b"), (1, 3)), 7e-4), Context()):
        pass


def test_a_second_process_is_kept_out_until_the_first_has_gone(tmp_path):
    with open_run(tmp_path, CONFIG, Context()):
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} on "), open_run(
                tmp_path, CONFIG, Context()):
            pass
        process = CONTEXT.Process(target=_opens, args=(tmp_path,))
        process.start()
        assert finish(process) == 2
    process = CONTEXT.Process(target=_opens_and_dies, args=(tmp_path,))
    process.start()
    assert finish(process) == -9
    with open_run(tmp_path, CONFIG, Context()) as run:
        assert run.resumed


def _opens(folder):
    try:
        with open_run(folder, CONFIG, Context()):
            os._exit(0)
    except UserError:
        os._exit(2)


def _opens_and_dies(folder):
    with open_run(folder, CONFIG, Context()):
        os.kill(os.getpid(), 9)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("precious\n")
    with pytest.raises(UserError, match=r"holds metrics\.jsonl but no config\.yaml"), open_run(
            tmp_path, CONFIG, Context()):
        pass
    assert (tmp_path / "metrics.jsonl").read_text() == "precious\n" and not (tmp_path / "config.yaml").exists()


def test_unreadable_records_are_one_line(tmp_path):
    with open_run(tmp_path, CONFIG, Context()):
        pass
    (tmp_path / "environment.json").write_text("[")
    with pytest.raises(UserError, match=r"environment\.json cannot be read"), open_run(tmp_path, CONFIG, Context()):
        pass
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"config\.yaml cannot be read"), open_run(tmp_path, CONFIG, Context()):
        pass
    (tmp_path / "config.yaml").write_text("- a")
    with pytest.raises(UserError, match=r"config\.yaml: expected keys and values"), open_run(
            tmp_path, CONFIG, Context()):
        pass


def _opens_as_nobody(folder):
    if os.getuid() == 0:  # to root nothing is read-only
        os.setgid(65534)
        os.setuid(65534)
    try:
        with open_run(folder, CONFIG, Context()):
            os._exit(0)
    except UserError as error:
        os._exit(2 if "permission denied" in str(error) else 3)


@pytest.mark.parametrize("resumed", [False, True])
def test_a_read_only_folder_is_one_line(tmp_path, resumed):
    run = tmp_path / "run"
    run.mkdir()
    if resumed:
        with open_run(run, CONFIG, Context()):
            pass
    for folder in (run, *run.iterdir()):
        folder.chmod(0o555 if folder.is_dir() else 0o444)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    process = CONTEXT.Process(target=_opens_as_nobody, args=(run,))
    process.start()
    assert finish(process) == 2
    run.chmod(0o755)


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UserError, match="there is a file of that name already"), open_run(
            tmp_path / "run", CONFIG, Context()):
        pass
    assert (tmp_path / "run").read_text() == "mine"


def test_the_code_revision_is_gits(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.run.PROJECT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code_revision() is None

    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
                       check=True, capture_output=True)

    git("init")
    (tmp_path / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "-m", "one")
    git("tag", "v1")
    assert code_revision() == "v1"
    (tmp_path / "code.py").write_text("2")
    assert code_revision() == "v1-dirty"


def test_another_code_revision_is_noted(tmp_path, monkeypatch):
    for revision, notes in (("v1", ()), ("v1", ()), ("v2", ("resumed with code v2, the session before ran v1",))):
        monkeypatch.setattr("engine.run.code_revision", lambda revision=revision: revision)
        with open_run(tmp_path, CONFIG, Context()) as run:
            assert run.notes == notes

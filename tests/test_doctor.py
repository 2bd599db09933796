"""crosstalk doctor: what is well is called so, what is not is called so, too, with what to do about it."""

import json
import os
import signal
from collections import namedtuple
from importlib import metadata

import pytest

import doctor
from engine import health, machine, pool
from engine.health import GIB, attempted


def test_on_this_machine(tmp_path, capsys):
    code = doctor.main([f"folder={tmp_path}", "json=true"])
    told = json.loads(capsys.readouterr().out)
    assert code == 0 and told["ready"] and set(told["findings"]) == {
        "Python", "packages", "processor", "memory", "GPU", "decoder", "face tracker", "folder", "shared memory",
        "open files", "SLURM"}  # fmt: skip
    for name in ("Python", "packages", "decoder", "face tracker", "folder"):
        assert told["findings"][name]["verdict"] != "bad", name
    assert "29 of 29 pictures" in told["findings"]["face tracker"]["said"]
    assert f"torch {metadata.version('torch')}" in told["findings"]["packages"]["said"]
    assert list(tmp_path.iterdir()) == []


def test_what_is_bad_is_said_and_the_exit_code_is_1(monkeypatch, tmp_path, capsys):
    found = {"good": health.Finding("ok", "fine"), "worse": health.Finding("warning", "hm", "look"),
             "worst": health.Finding("bad", "gone", "buy one")}  # fmt: skip
    monkeypatch.setattr(doctor, "examined", lambda folder: iter(found.items()))
    assert doctor.main([f"folder={tmp_path}"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line] == ["ok", "warning", "->", "bad", "->", "not"]
    del found["worst"]
    assert doctor.main([f"folder={tmp_path}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "ready, but for 1 warning; try: crosstalk demo"


def dies(scratch):
    os.kill(os.getpid(), signal.SIGILL)


def test_a_library_that_brings_its_process_down(tmp_path):
    worker = pool.Worker(doctor._examiner, (tmp_path,))
    worker.give(dies)
    answer = worker.answer()
    worker.end()
    assert doctor.died(answer).verdict == "bad" and "SIGILL" in doctor.died(answer).said


def test_packages(monkeypatch):
    real = metadata.version
    wrong = {"torch": "2.9.0", "av": "18.5"}
    monkeypatch.setattr(metadata, "version", lambda name: wrong.get(name) or real(name))
    found = health.packages()
    assert found.verdict == "bad" and found.said.startswith("torch 2.9.0 is not ") and "av" not in found.said

    def missing(name):
        if name == "timm":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert health.packages()[:2] == ("bad", "timm is missing")


def test_a_python_that_is_too_new(monkeypatch):
    monkeypatch.setattr("platform.python_version", lambda: "3.14.1")
    assert health.python().verdict == "bad" and "PYTHON=python3.12" in health.python().advice


def test_a_check_that_fails_itself_is_a_finding():
    found = attempted(lambda: 1 / 0)
    assert found[:2] == ("bad", "ZeroDivisionError: division by zero")


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A function that puts programs on an otherwise empty path."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(**scripts):
        for name, script in scripts.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)

    return put


def test_slurm(commands):
    assert health.slurm().said.startswith("none here")
    commands(sbatch="", srun="", sinfo="echo gpu; echo cpu; echo gpu", squeue="")
    assert health.slurm()[:2] == ("warning", "scontrol missing of sbatch, srun, sinfo, squeue, scontrol")
    commands(scontrol="", sacct="exit 0")
    assert health.slurm()[:2] == ("ok", "partitions: gpu, cpu; accounting answers")
    commands(sacct="echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert health.slurm().said.startswith("partitions: gpu, cpu; no accounting")
    commands(sinfo="echo 'sinfo: error: no controller' >&2; exit 1")
    assert health.slurm()[:2] == ("warning", "does not answer: sinfo: error: no controller")


Usage = namedtuple("Usage", "free")


def test_room(tmp_path, monkeypatch):
    assert health.folder_for_runs(tmp_path / "nowhere")[0] == "bad"
    monkeypatch.setattr("shutil.disk_usage", lambda place: Usage(5 * GIB))
    assert health.folder_for_runs(tmp_path)[0] == "warning" and "5 GiB free" in health.folder_for_runs(tmp_path).said
    assert health.shared_memory()[0] == "ok"
    # A clip is 25 x 150 x 150 x 3 bytes; two batches of 32 wait in each of four processes: 0.40 GiB; of 256: 3.2.
    monkeypatch.setattr("shutil.disk_usage", lambda place: Usage(GIB))
    assert "0.4 GiB for batches of 32 clips and 3.2 for 256" in health.shared_memory().said
    assert health.shared_memory().advice == ""
    monkeypatch.setattr("shutil.disk_usage", lambda place: Usage(64 * 2**20))  # what docker gives
    assert "--shm-size" in health.shared_memory().advice


def test_memory_is_what_a_container_allows(tmp_path, monkeypatch):
    everything = machine.memory(tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.memory(tmp_path).total == everything.total
    (tmp_path / "memory.max").write_text(f"{2 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{GIB // 2}\n")
    assert machine.memory(tmp_path).total == 2 * GIB and machine.memory(tmp_path).free <= 3 * GIB // 2
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(2 * GIB, GIB))
    assert health.memory()[:2] == ("warning", "2.0 GiB, 1.0 free")

"""What needs no SLURM: how a command line becomes jobs, scripts and copies of the code; jobs on this machine."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import slurm.jobs
import slurm.submit
from engine.configs import known_keys, verbs
from engine.errors import Shown, UserError
from engine.journal import read_metrics
from engine.settings import load
from slurm import records, scheduler, snapshot
from slurm.job import VerbJob
from slurm.settings import SubmitSettings, minutes
from slurm.sweep import combinations
from tests.ssl_pretrain.small import SMALL, small_store

PROJECT = Path(__file__).resolve().parents[2]
LOCAL = ("cluster=local", "gpus=0")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("small") / "store").root


def submit(*arguments):
    return slurm.submit.main([str(argument) for argument in arguments])


def settings(*arguments):
    return load("submit", arguments, SubmitSettings)[0]


@pytest.fixture
def refused(capsys):
    def line(*arguments):
        with pytest.raises(UserError) as error:
            submit(*arguments)
        assert "\n" not in str(error.value) and capsys.readouterr().out == ""
        return str(error.value)

    return line


# ------------------------------------------------------------------------------------------------ command lines

def test_no_key_of_a_verb_is_one_of_submits():
    ours = {*SubmitSettings.__dataclass_fields__, "cluster"}
    for verb in set(verbs()) - {"submit", "jobs"}:
        assert not ours & set(known_keys(verb)), verb


@pytest.mark.parametrize(("text", "expected"), [
    ("90", 90), ("5:30", 6), ("24:00:00", 1440), ("1:00:01", 61), ("2-0", 2880), ("1-2:30", 1590), ("1-00:00:00", 1440),
])
def test_times_as_slurm_writes_them(text, expected):
    assert minutes(text) == expected


def test_a_sweep_is_a_product_with_a_folder_for_each(store, tmp_path):
    found = combinations("pretrain", [f"store={store}", f"run={tmp_path / 'sweep'}", "seed=0,1",
                                      "learning_rate=1e-3,2e-3", "backbone.arguments.channels=[8,16]"])
    assert [dict(one.swept) for one in found] == [{"seed": s, "learning_rate": rate} for s in "01"
                                                  for rate in ("0.001", "0.002")]
    assert [one.target("pretrain").name for one in found][1] == "seed-0_learning_rate-0.002"
    assert {one.settings["backbone"]["arguments"]["channels"] == [8, 16] for one in found} == {True}
    (single,) = combinations("pretrain", [f"store={store}", f"run={tmp_path / 'one'}", "seed=3"])
    assert single.swept == {} and single.target("pretrain") == tmp_path / "one"


def test_defaults_follow_from_what_is_asked_for():
    fitted = settings("nodes=2", "gpus=8").fitted("pretrain", {"workers": 4}, 0)
    assert (fitted.tasks, fitted.cpus) == (8, 6)
    assert settings().fitted("finetune", {"workers": 0}, 0).gpus == 1
    fitted = settings().fitted("prepare", {"workers": None, "shard": None}, 0)
    assert (fitted.gpus, fitted.tasks, fitted.cpus) == (0, 1, 8)
    assert settings("cluster=local").fitted("pretrain", {"workers": 1}, 2).tasks == 2


def test_bad_input_is_one_line(refused, tmp_path, monkeypatch):
    run = f"run={tmp_path / 'run'}"
    assert refused("pretrain", "store=s", run, "no_such=1,2") == (
        "unknown setting no_such; known are " + ", ".join(known_keys("pretrain")))
    assert "precision=fp17: did you mean" in refused("pretrain", "store=s", run, "precision=fp32,fp17")
    assert refused("pretrain", "store=s") == ("run=DIR is missing: the folder for this run's checkpoints, journal and "
                                              "bundle")
    assert refused("pretrian") == "unknown verb 'pretrian'; did you mean pretrain?"
    assert "name the verb to submit" in refused()
    assert refused("jobs", "x") == "jobs cannot be submitted"
    assert "inspect is one process; nodes and tasks are for pretrain" in refused("inspect", "store=s", "nodes=2")
    assert refused("pretrain", "store=s", run, "shards=2") == "shards=2: pretrain has no shards"
    assert "nodes=2 needs a cluster" in refused("pretrain", "store=s", run, "nodes=2", "cluster=local")
    assert "unknown cluster=nope; known are debug, local, slurm" in refused("pretrain", "store=s", run, "cluster=nope")
    assert "expected minutes, HH:MM:SS" in refused("pretrain", "store=s", run, "time=soon")
    assert "a value stands there twice" in refused("pretrain", "store=s", run, "seed=1,1")
    monkeypatch.setenv("PATH", "/nowhere")
    assert refused("pretrain", "store=s", run).startswith("no sbatch on this machine: submit from a login node")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------ the script

def test_the_script_of_a_dry_run_and_its_explanation(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")  # no SLURM is needed to see it
    assert submit("pretrain", "store=s", f"run={tmp_path / 'run'}", "nodes=2", "gpus=8", "partition=gpu",
                  "account=faces", "memory=0", "seed=0,1,2", "parallel=2", 'sbatch=["--mail-type=END","--exclusive"]',
                  'setup=["module load cuda"]', "--dry-run") == 0
    script = capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    folder = tmp_path / "run.jobs/1"
    for line in ("#SBATCH --nodes=2", "#SBATCH --gpus-per-node=8", "#SBATCH --ntasks-per-node=8", "#SBATCH --mem=0",
                 "#SBATCH --cpus-per-task=6", "#SBATCH --array=0-2%2", "#SBATCH --requeue", "#SBATCH --exclusive",
                 "#SBATCH --signal=USR2@120", "#SBATCH --time=1440", "#SBATCH --mail-type=END", "module load cuda",
                 f"export PYTHONPATH={folder}/code"):
        assert f"\n{line}\n" in script, line
    explained = (PROJECT / "docs/cluster.md").read_text()
    for option in re.findall(r"^#SBATCH (--[a-z-]+)", script, re.MULTILINE):
        if option not in ("--mail-type", "--exclusive"):
            assert f"`{option}" in explained, option
    assert submit("prepare", "data=folder", "root=r", f"store={tmp_path}/s", "shards=4", "--dry-run") == 0
    first, second = capsys.readouterr().out.split("# ---- and when all parts are done:")
    assert "--array=0-3%4" in first and "--dependency=afterok:ID_OF_THE_ARRAY" in second and "--array" not in second


def test_gpus_by_another_name(tmp_path, capsys):
    submit("pretrain", "store=s", f"run={tmp_path}/run", "gpus=4", "gres='gpu:a100:{gpus}'", "--dry-run")
    script = capsys.readouterr().out
    assert "#SBATCH --gres=gpu:a100:4\n" in script and "gpus-per-node" not in script
    assert scheduler._gpus("gpu:a100:8(S:0-1),shard:4") == 8 and scheduler._gpus("(null)") == 0


# ------------------------------------------------------------------------------------------------ the code's copy

def test_the_copy_is_what_runs(tmp_path):
    name = snapshot.take(tmp_path / "code")
    assert name.endswith(f"copy {snapshot.digest()}")
    asked = "import engine.run, slurm, crosstalk; print(engine.run.code_revision()); print(engine.run.PROJECT)"
    # From the project's own folder, where Python would look first.
    said = subprocess.run([sys.executable, "-c", asked], cwd=PROJECT, capture_output=True, text=True, check=True,
                          env=os.environ | {"PYTHONPATH": str(tmp_path / "code"), "PYTHONSAFEPATH": "1"}).stdout
    assert said.splitlines() == [name, str(tmp_path / "code")]
    assert not list((tmp_path / "code").glob("tests")) and (tmp_path / "code/configs/submit.yaml").exists()


# ------------------------------------------------------------------------------------------------ without a scheduler

@pytest.fixture
def start():
    """`crosstalk submit` as a process; it takes its jobs along if a test fails."""
    started = []

    def begin(*arguments):
        command = [sys.executable, "-m", "crosstalk", "submit", *map(str, arguments)]
        started.append(subprocess.Popen(command, cwd=PROJECT, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        return started[-1]

    yield begin
    for process in started:
        process.terminate()
        process.wait()


def test_a_sweep_on_this_machine_in_two_processes_each(start, store, tmp_path, capsys):
    process = start("pretrain", f"store={store}", *SMALL, "epochs=1", "seed=0,1", "parallel=2", *LOCAL, "tasks=2",
                    f"run={tmp_path / 'sweep'}")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and said.count(" started: seed=") == said.count(" done: seed=") == 2, said
    assert slurm.jobs.main([str(tmp_path / "sweep")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:4] for line in lines[3:5]] == [["0", "done", "4"], ["1", "done", "4"]]
    losses = [read_metrics(tmp_path / f"sweep/seed-{seed}", "train")[-1]["values"]["loss"] for seed in (0, 1)]
    assert losses[0] != losses[1]
    assert slurm.jobs.main(["cancel", str(tmp_path / "sweep")]) == 0
    assert capsys.readouterr().out == "nothing of it waits or runs\n"


def test_interrupted_here_it_saves(start, store, tmp_path):
    arguments = ("pretrain", f"store={store}", *SMALL, "epochs=400", "save_every=100000", *LOCAL, f"run={tmp_path}/run")
    process = start(*arguments)
    path, deadline = tmp_path / "run/metrics.jsonl", time.monotonic() + 120
    while not path.exists() or path.read_text().count("\n") < 5:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 143
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run/checkpoints").glob("step-*")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (submission,) = records.submissions(tmp_path / "run")
    while submission.state(submission.jobs[0]).is_live:
        time.sleep(0.1)
    assert submission.state(submission.jobs[0]).name == "stopped"


def test_a_failing_job_here_says_why(start, tmp_path, capsys):
    process = start("pretrain", f"store={tmp_path}/nothing", *SMALL, *LOCAL, f"run={tmp_path}/run")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1 and "failed: " in said and f"no store at {tmp_path}/nothing" in said
    assert slurm.jobs.main([f"{tmp_path}/run"]) == 1
    assert f"failed: no store at {tmp_path}/nothing" in capsys.readouterr().out


def test_in_the_foreground(store, tmp_path, capsys):
    assert submit("pretrain", f"store={store}", *SMALL, "epochs=1", "cluster=debug", f"run={tmp_path}/run") == 0
    assert "job debug: crosstalk pretrain" in capsys.readouterr().out and not (tmp_path / "run.jobs").exists()
    with pytest.raises(UserError, match="no store at"):
        submit("pretrain", "store=/nothing", *SMALL, "cluster=debug", f"run={tmp_path}/other")


# ------------------------------------------------------------------------------------------------ what became of it

@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Stand-ins for SLURM's commands that answer with what they are told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    records._queue.cache_clear()

    def answers(name, text, code=0):
        (folder / name).write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
        (folder / name).chmod(0o755)

    yield answers
    records._queue.cache_clear()


@pytest.mark.parametrize(("accounting", "expected"), [
    (None, ["running", "pending (Priority)", "gone", "gone"]),
    ("7_2|CANCELLED by 1000\n7_3|OUT_OF_MEMORY", ["running", "pending (Priority)", "cancelled", "out of memory"]),
])
def test_states_with_and_without_accounting(commands, tmp_path, capsys, accounting, expected):
    commands("squeue", "7_0|RUNNING|None\n7_1|PENDING|Priority\n9|RUNNING|None")
    commands("sacct", accounting or "Slurm accounting storage is disabled", code=accounting is None)
    folder = tmp_path / "run.jobs/1"
    folder.mkdir(parents=True)
    submission = records.Submission.new(folder, "pretrain", "slurm", "abc")
    submission.jobs = [records.Record(f"7_{n}", (), {"seed": str(n)}, None, 2) for n in range(4)]
    submission.add([], [])
    (folder / "7_2_0_log.err").write_text("what it\nsaid at last\n")
    assert slurm.jobs.main([str(tmp_path / "run")]) == 1
    out = capsys.readouterr().out
    assert [re.split(r" {2,}", line)[2] for line in out.splitlines()[3:7]] == expected
    assert "    said at last" in out or accounting
    assert f"{tmp_path}/run.jobs/1/7_3_0_log.err is empty" in out


def test_jobs_of_a_folder_without_any(tmp_path):
    with pytest.raises(UserError, match="no jobs were submitted for it"):
        slurm.jobs.main([str(tmp_path)])
    with pytest.raises(UserError, match="name the folder"):
        slurm.jobs.main([])
    with pytest.raises(Shown):
        slurm.jobs.main(["--help"])


def test_requeued_so_many_times_and_no_more(monkeypatch):
    job = VerbJob("pretrain", ["seed=0"], None, requeues=2)
    again = job.checkpoint().function
    assert (again.verb, again.arguments, again.times_requeued) == ("pretrain", ("seed=0",), 1)
    again.checkpoint()
    with pytest.raises(UserError, match=r"not requeued: that was done 2 times \(requeues=2\); "):
        again.checkpoint()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # SLURM's own count goes before
    again.checkpoint()

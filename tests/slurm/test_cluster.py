"""On a real SLURM of two nodes, which tests/slurm/cluster.sh brings up (.ci/run does); skipped where there is none."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from datasets.store import Store
from tests.engine.processes import untimed
from tests.finetune import small as finetune
from tests.ssl_pretrain.small import SMALL

PROJECT = Path(__file__).resolve().parents[2]
CLUSTER = Path(os.environ.get("SLURM_CONF", "/nowhere"))
pytestmark = pytest.mark.skipif(
    not (CLUSTER.exists() and "ClusterName=crosstalk-test" in CLUSTER.read_text()),
    reason='no test cluster: tests/slurm/cluster.sh install, up, and eval "$(tests/slurm/cluster.sh env)"')
LIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
# Small enough to be quick, long enough to be interrupted: 240 steps.
PRETRAIN = (*SMALL, "batch=2", "epochs=80", "validation_split=null")
CPUS = ("gpus=0", "cpus=1")


def crosstalk(*arguments, code=0):
    ended = subprocess.run([sys.executable, "-m", "crosstalk", *map(str, arguments)], cwd=PROJECT, env=ENVIRONMENT,
                           capture_output=True, text=True, timeout=300)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout if code == 0 else ended.stdout + ended.stderr


def submit(*arguments):
    """The id that SLURM gave."""
    return crosstalk("submit", *arguments).split(":")[0]


def queue(form, *more):
    return subprocess.run(["squeue", "--noheader", "--array", f"--format={form}", *more], check=True,
                          capture_output=True, text=True).stdout.split()


def wait(*jobs, seconds=900):
    """Until they have ended, arrays with all of their jobs."""
    deadline = time.monotonic() + seconds
    while any(re.split("[_|]", job)[0] in jobs for job in queue("%i|%T", f"--states={','.join(LIVE)}")):
        assert time.monotonic() < deadline, queue("%i|%T|%r", "--states=all")
        time.sleep(0.5)


def lines_of(run):
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def outcome(folder):
    """Of a target's newest submission: what `jobs` shows, line by line."""
    return subprocess.run([sys.executable, "-m", "crosstalk", "jobs", str(folder)], cwd=PROJECT, capture_output=True,
                          text=True).stdout.splitlines()


def log(folder, rank=0, kind="out"):
    (path,) = (folder.with_name(folder.name + ".jobs") / "1").glob(f"*_{rank}_log.{kind}")
    return path.read_text()


# ----------------------------------------------------------------------------- one run, disturbed in several ways

@pytest.fixture(scope="module")
def runs(lrw_store, tmp_path_factory):
    """The same training with torchrun, as a job of two nodes, as one that is requeued, and as one whose time is up."""
    folder = tmp_path_factory.mktemp("runs")
    store = (f"store={lrw_store.root}", *PRETRAIN)
    torchrun = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0",
         "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m", "crosstalk", "pretrain", *store,
         f"run={folder / 'torchrun'}"], cwd=PROJECT, env=ENVIRONMENT, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    two_nodes = ("nodes=2", *CPUS)
    timed = submit("pretrain", *store, *two_nodes, f"run={folder / 'timed'}", "time=1", "warning=10")
    requeued = submit("pretrain", *store, *two_nodes, f"run={folder / 'requeued'}", "save_every=100", "workers=1")
    plain = submit("pretrain", *store, *two_nodes, f"run={folder / 'plain'}")
    deadline = time.monotonic() + 180
    while lines_of(folder / "requeued") < 10:
        assert time.monotonic() < deadline, log(folder / "requeued", kind="err")
        time.sleep(0.1)
    subprocess.run(["scontrol", "requeue", requeued], check=True)
    wait(timed, requeued, plain)
    assert torchrun.wait(timeout=300) == 0
    return folder


def assert_same_run(one, other):
    assert [line["step"] for line in untimed(other)] == list(range(1, 241))  # no line twice, none missing
    assert untimed(one) == untimed(other)  # to the last digit: json gives back the very floats
    ours, theirs = (load_file(run / "bundle/model.safetensors") for run in (one, other))
    assert ours.keys() == theirs.keys() and all(ours[key].equal(theirs[key]) for key in ours)


def sessions(run):
    return json.loads((run / "environment.json").read_text())["sessions"]


def test_two_nodes_learn_what_torchrun_learns(runs):
    assert_same_run(runs / "torchrun", runs / "plain")
    (session,) = sessions(runs / "plain")
    assert session["ranks"] == 2 and "2 processes on 2 nodes" in log(runs / "plain")
    code = (runs / "plain.jobs/1/code/REVISION").read_text().strip()
    assert session["code"] == code and f"code: {code}, in {runs}/plain.jobs/1/code" in log(runs / "plain")
    shown = outcome(runs / "plain")
    assert shown[1] == f"code: {code}" and re.match(r"\d+ +done +240 +79/80 ", shown[3])


def test_requeued_in_mid_epoch_it_is_the_same_run(runs):
    assert_same_run(runs / "torchrun", runs / "requeued")
    before, after = sessions(runs / "requeued")
    assert before["code"] == after["code"]
    said = log(runs / "requeued")
    # SLURM's SIGTERM reached the training and its loader workers, and all ranks saved before they were killed.
    step = int(re.search(r"continuing after step (\d+) of 240", said)[1])
    assert 10 <= step < 100 and "requeued 1 of at most 20 times" in said


def test_at_its_time_limit_it_saves_is_requeued_and_is_the_same_run(runs):
    assert_same_run(runs / "torchrun", runs / "timed")
    assert len(sessions(runs / "timed")) > 1 and "this job is timed-out" in log(runs / "timed", kind="err")
    assert re.search(r"continuing after step \d+ of 240", log(runs / "timed"))
    assert len({session["code"] for session in sessions(runs / "timed")}) == 1


# --------------------------------------------------------------------------------------------- arrays, shards

def test_an_array_of_four_settings_becomes_one_table(tmp_path):
    bundle, store = finetune.small_bundle(tmp_path / "bundle"), finetune.small_store(tmp_path / "store")
    job = submit("finetune", f"init={bundle}", f"store={store.root}", f"run={tmp_path / 'sweep'}", *finetune.SMALL,
                 "ssl_weight=0,0.5", "seed=0,1", "parallel=2", *CPUS)
    wait(job)
    table = tmp_path / "sweep.csv"
    shown = crosstalk("jobs", tmp_path / "sweep", f"csv={table}")
    rows = list(csv.DictReader(table.open()))
    assert [(row["job"], row["ssl_weight"], row["seed"], row["state"]) for row in rows] == [
        (f"{job}_{number}", weight, seed, "done")
        for number, (weight, seed) in enumerate([("0", "0"), ("0", "1"), ("0.5", "0"), ("0.5", "1")])]
    assert len({row["loss"] for row in rows}) == 4 and all(float(row["val selection"]) >= 0 for row in rows)
    assert [line.split()[:4] for line in shown.splitlines()[3:7]] == [list(row.values())[:4] for row in rows]
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == {
        "ssl_weight-0_seed-0", "ssl_weight-0_seed-1", "ssl_weight-0.5_seed-0", "ssl_weight-0.5_seed-1"}
    script = (tmp_path / f"sweep.jobs/1/{job}_submission.sh").read_text()
    assert "#SBATCH --array=0-3%2\n" in script


def test_prepare_in_shards_is_prepare_in_one(corpus, lrw_store, tmp_path):
    store = tmp_path / "store"
    said = crosstalk("submit", "prepare", "data=lrw", f"root={corpus / 'lrw'}", f"store={store}", "shards=3", "cpus=1",
                     "workers=1")
    wait(*re.match(r"(\d+): 3 jobs, all at a time, then (\d+) joins them", said).groups())
    assert Store.open(store).manifest["digest"] == lrw_store.manifest["digest"]
    shown = [line.split()[1:3] for line in outcome(store)[3:7]]
    assert shown == [["0/3", "done"], ["1/3", "done"], ["2/3", "done"], ["join", "done"]]


# ------------------------------------------------------------------------------------------------ what goes wrong

def test_a_job_that_fails_is_reported_and_not_requeued(tmp_path):
    job = submit("pretrain", f"store={tmp_path / 'nothing'}", *PRETRAIN, f"run={tmp_path / 'run'}", "nodes=2", *CPUS)
    wait(job)
    shown = crosstalk("jobs", tmp_path / "run", code=1)
    assert f"\n{job} failed: no store at {tmp_path / 'nothing'}: no such folder; " in shown
    # The end of its log follows; which of the ranks' and Slurm's last words come last is a matter of luck.
    assert any(line.startswith("    [rank0]: engine.errors.UserError: no store at ") for line in shown.splitlines())
    assert log(tmp_path / "run").count(f"job {job}") == 1
    known = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True).stdout
    assert "JobState=FAILED" in known and "Restarts=0" in known


def test_cancelled(lrw_store, tmp_path):
    run = tmp_path / "run"
    job = submit("pretrain", f"store={lrw_store.root}", *PRETRAIN, f"run={run}", *CPUS)
    deadline = time.monotonic() + 180
    while lines_of(run) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    shown = crosstalk("submit", "pretrain", f"store={lrw_store.root}", *PRETRAIN, f"run={run}", *CPUS, code=2)
    assert f"has jobs in the queue or running already ({job})" in shown
    assert crosstalk("jobs", "cancel", run) == f"cancelled: {job}\n"
    wait(job)
    assert outcome(run)[3].split()[:2] == [job, "cancelled"]
    assert crosstalk("jobs", "cancel", run) == "nothing of it waits or runs\n"
    assert list((run / "checkpoints").glob("step-*"))  # it was given the time to save


@pytest.mark.parametrize(("arguments", "line"), [
    (["partition=nope"], "partition=nope: this cluster has test, elsewhere"),
    (["gpus=1"], "gpus=1: no node of partition test has more than 0 (gpus= is for each node)"),
    (["gpus=3", "partition=elsewhere"], "gpus=3: no node of partition elsewhere has more than 2"),
    (["gpus=0", "nodes=3"], "nodes=3: partition test has 2"),
    (["gpus=0", "cpus=1000"], "tasks x cpus is 1 x 1000: no node of partition test has more than 4 CPUs"),
    (["gpus=0", "cpus=1", "constraint=no"], "sbatch refused: Invalid feature specification; nothing was submitted"),
    (["gpus=0", "cpus=1", "partition=elsewhere"], "a disk of this machine that the nodes do not see: choose a folder "
     "on a shared one, or say shared=true if they do"),
    (["gpus=0", "lerning_rate=1,2"], "unknown setting lerning_rate; did you mean learning_rate?"),
    (["gpus=0", "seed=0,x"], "seed=x: expected a whole number"),
])
def test_bad_input_is_one_line_and_nothing_is_submitted(tmp_path, arguments, line):
    known = {job.split("_")[0] for job in queue("%i", "--states=all")}
    said = crosstalk("submit", "pretrain", f"store={tmp_path}", f"run={tmp_path / 'run'}", *arguments, code=2)
    assert said.count("\n") == 1 and said.startswith("crosstalk submit: ") and line in said
    assert {job.split("_")[0] for job in queue("%i", "--states=all")} <= known and not list(tmp_path.iterdir())

"""Who starts the processes, what they agree on, and what is said when they cannot meet."""

import os
import socket
from datetime import timedelta

import pytest
import torch
from torch import nn

from engine.distributed import Context, distributed
from engine.errors import UserError
from engine.precision import Precision
from engine.stop import StopSignal
from engine.update import NonFiniteLoss, Update
from tests.engine.processes import CONTEXT, finish, free_port, ranks

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE")


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in [*VARIABLES, *(name for name in os.environ if name.startswith("SUBMITIT"))]:
        monkeypatch.delenv(name, raising=False)


def test_nobody_started_it():
    with distributed("cpu") as context:
        assert context == Context(0, 1, 0, torch.device("cpu"), None) and context.is_main
        assert context.highest(3) == 3 and context.mean({"a": torch.tensor(2.5)}) == {"a": 2.5}
        module = nn.Linear(1, 1)
        assert context.wrap(module) is module


def submitit_environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What submitit's local executor gives to each task."""
    return {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "1234", "SUBMITIT_LOCAL_NTASKS": str(count),
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1", "SUBMITIT_LOCAL_NODEID": "0", "SUBMITIT_LOCAL_GLOBALID": str(rank),
            "SUBMITIT_LOCAL_LOCALID": str(rank), "MASTER_PORT": str(port)}  # fmt: skip


def in_ranks(work, environments, *arguments):
    """Run work(context, ...) in a process for each environment; their answers."""
    pipes, crew = [], []
    for environment in environments:
        ours, theirs = CONTEXT.Pipe()
        crew.append(CONTEXT.Process(target=_rank, args=(work, environment, theirs, arguments), daemon=True))
        crew[-1].start()
        pipes.append(ours)
    answers = [pipe.recv() if pipe.poll(40) else "silence" for pipe in pipes]
    for process in crew:
        finish(process, 20)
    return answers


def _rank(work, environment, pipe, arguments):
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        with distributed("cpu", timeout=timedelta(seconds=20)) as context:
            pipe.send(work(context, *arguments))
    except UserError as error:
        pipe.send(str(error))


def meeting(context):
    with context.together("nothing"):
        pass
    return (context.rank, context.local_rank, context.world, context.is_main, context.highest(context.rank * 5),
            context.any(context.rank == 1), context.any(False), context.mean({"x": context.rank, "y": 1 / 3}))


@pytest.mark.parametrize("starter", ["torchrun", "submitit"])
def test_two_processes_meet(starter):
    port = free_port()
    environments = ranks(2) if starter == "torchrun" else [submitit_environment(rank, 2, port) for rank in range(2)]
    answers = in_ranks(meeting, environments)
    for rank, answer in enumerate(answers):
        assert answer == (rank, rank, 2, rank == 0, 5, True, False, {"x": 0.5, "y": 1 / 3})


def one_fails(context):
    lines = []
    for error in (UserError("rank 1 has something to say"), OSError(28, "No space left on device", "/x")):
        try:
            with context.together("saving /x"):
                if context.rank == 1:
                    raise error
        except UserError as caught:
            lines.append(str(caught))
    return lines


def test_what_fails_on_one_rank_fails_on_all():
    first, second = in_ranks(one_fails, ranks(2))
    assert first == ["saving /x: failed on another rank, which says why"] * 2
    assert second[0] == "rank 1 has something to say"
    assert second[1].startswith("saving /x: no space left on the disk")


def losing(context):
    """The loss is lost on rank 1 only; then rank 1 alone is asked to stop."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    wrapped = context.wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    update = Update([optimizer], Precision("fp32", context.device), context, [wrapped])
    before = model.weight.detach().clone()
    with update.part(0, of=1):
        loss = wrapped(torch.ones(2, 3)).mean()
        update.backward(loss * (torch.nan if context.rank == 1 else 1.0))
    try:
        update.apply(5)
        said = "nothing"
    except NonFiniteLoss as error:
        said = str(error)
    with StopSignal(context) as stop:
        if context.rank == 1:
            os.kill(os.getpid(), 15)
        stopping = stop.requested()
    return said, bool(torch.equal(before, model.weight)), stopping, stop.exit_code


def test_ranks_agree_on_a_lost_loss_and_on_a_signal():
    first, second = in_ranks(losing, ranks(2))
    assert first[0].startswith("step 5: the loss of another rank is not finite")
    assert second[0].startswith("step 5: the loss is not finite (loss nan) on rank 1")
    assert first[1:] == second[1:] == (True, True, 143)


def accumulating(context, parts):
    """Gradients of two ranks, each with half of 8 clips, cut in parts; how often they crossed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    wrapped = context.wrap(model)
    crossed = []
    wrapped.register_comm_hook(crossed, _counting)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    update = Update([optimizer], Precision("fp32", context.device), context, [wrapped])
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mine = x[4 * context.rank :][:4]
    for number, part in enumerate(mine.chunk(parts)):
        with update.part(number, of=parts):
            update.backward(wrapped(part).square().mean())
    update.apply(0)
    return [parameter.grad.tolist() for parameter in model.parameters()], len(crossed)


def _counting(crossed, bucket):
    crossed.append(1)
    torch.distributed.all_reduce(bucket.buffer())
    future = torch.futures.Future()
    future.set_result(bucket.buffer() / 2)
    return future


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_gradients_cross_once_and_are_those_of_the_whole_batch(parts):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model(x).square().mean().backward()
    for gradients, crossings in in_ranks(accumulating, ranks(2), parts):
        assert crossings == 1
        for gradient, parameter in zip(gradients, model.parameters(), strict=True):
            torch.testing.assert_close(torch.tensor(gradient, dtype=torch.float64), parameter.grad)


def test_a_port_in_use_is_one_line(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for name, value in (ranks(2)[0] | {"MASTER_PORT": str(port)}).items():
            monkeypatch.setenv(name, value)
        said = f"port {port} on 127.0.0.1 is in use by another process: set MASTER_PORT"
        with pytest.raises(UserError, match=said), distributed("cpu"):
            pass


def test_nobody_there_is_one_line(monkeypatch):
    for name, value in ranks(2)[1].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="rank 1 of 2 found no others through"), \
            distributed("cpu", timeout=timedelta(seconds=1)):
        pass


@pytest.mark.parametrize("environment, said", [
    ({"RANK": "0"}, "WORLD_SIZE is not set"),
    ({"WORLD_SIZE": "2"}, "RANK is not set"),
    ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK is one"),
    ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_PORT": "1"}, "RANK=2 but WORLD_SIZE=2"),
    ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_PORT is not set"),
    ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "29500"}, "MASTER_ADDR is not set"),
])
def test_half_an_environment_is_never_rank_0_of_1(monkeypatch, environment, said):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said), distributed("cpu"):
        pass


def test_torchrun_with_one_process_is_a_single_process(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with distributed("cpu") as context:
        assert context.world == 1 and not torch.distributed.is_initialized()


def test_devices():
    with pytest.raises(UserError, match="device=gpu: known are auto, cpu, cuda"), distributed("gpu"):
        pass
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="device=cuda: PyTorch sees no GPU here"), distributed("cuda"):
            pass
        with distributed("auto") as context:
            assert context.device.type == "cpu"

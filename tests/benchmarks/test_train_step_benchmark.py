"""The benchmark runs and says what it promises; its plain way is the same step as ours; what it counts is right."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from backbones import create
from benchmarks.train_step import Kept, Ours, Plain, Views, flops
from ssl_pretrain.model import Students

CPU = torch.device("cpu")
TINY = {
    "cnn_gru_attention": {"channels": [4, 8], "pools": [2, 2], "hidden": 8, "dim": 12, "input_size": 16,
                          "stem_stride": 1, "time_padding": "zeros"},
    "csn_r101": {"depths": [3, 4, 6, 3], "width": 4, "stem_stride": 2, "time_padding": "zeros"},
}  # fmt: skip
TINY["cnn_lstm"] = TINY["cnn_gru_attention"]


def test_last_line_is_the_result():
    command = [sys.executable, "-m", "benchmarks.train_step", "cnn_gru_attention_small", "--steps", "1", "--batch", "4"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert {"plain_clips_per_s", "ours_clips_per_s", "share_of_peak", "machine"} <= result.keys()
    assert result["losses_agree"] and result["plain_clips_per_s"] > 0 and 0 < result["share_of_peak"] < 1
    assert result["mib_per_clip"]["ours"] < result["mib_per_clip"]["plain"]


@pytest.mark.parametrize("name", list(TINY))
def test_the_plain_way_is_the_same_step(name):
    torch.manual_seed(0)
    start = Students(create(name, **TINY[name]), create("audio_resnet18", depths=(1, 1, 1, 1), width=4))
    views = Views.random(4, TINY[name].get("input_size", 32), CPU)
    plain, ours, recomputing = (Plain(name, TINY[name], start, CPU), Ours(start, CPU, "fp32"),
                                Ours(start, CPU, "fp32", recompute=True))  # fmt: skip
    for _ in range(4):
        expected = plain.step(views).item()
        assert ours.step(views).item() == pytest.approx(expected, abs=1e-3)
        assert recomputing.step(views).item() == pytest.approx(expected, abs=1e-3)
    assert expected < -0.02  # it learns, so this is no comparison of constants
    averages = plain.video_teacher.state_dict()
    for key, value in ours.teachers.video.state_dict().items():
        torch.testing.assert_close(value, averages[key], rtol=1e-2, atol=1e-3)


def test_operations_by_hand():
    x = torch.randn(2, 4, 5, 6, 6, requires_grad=True)
    for groups in (1, 4):
        conv = nn.Conv3d(4, 8, 3, padding=1, groups=groups)
        once = 2 * (2 * 8 * 5 * 6 * 6) * (4 // groups * 27)
        assert flops(lambda: conv(x)) == once  # noqa: B023
        assert flops(lambda: conv(x).sum().backward()) == 3 * once  # noqa: B023
        assert flops(lambda: conv(x.detach()).sum().backward()) == 2 * once  # noqa: B023
    for kind, gates in ((nn.GRU, 3), (nn.LSTM, 4)):
        recurrence, steps = kind(16, 8), torch.randn(5, 2, 16)
        assert flops(lambda: recurrence(steps)) == 2 * 5 * 2 * gates * 8 * (16 + 8)  # noqa: B023


def test_kept_is_what_the_backward_pass_needs():
    x, layer = torch.randn(8, 16, requires_grad=True), nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    with Kept() as kept:
        out = layer(x)
        assert kept.bytes() == 4 * 8 * (32 + 4)  # what ReLU put out, and `out`; what it took in is gone
    with Kept() as kept:
        out = checkpoint(layer, x, use_reentrant=False)
        assert kept.bytes() == out.nbytes

"""The plain loop and ours look at the same clips, in the same order."""

import numpy as np
import pytest
import torch

from backbones import create
from benchmarks.evaluate import ours, usual
from benchmarks.stores import Track, write_store
from datasets.clips import ClipDataset
from finetune.model import Detector
from tests.finetune.small import BACKBONE
from tests.ssl_pretrain.small import talking


def test_both_ways_find_the_same_logits(tmp_path):
    torch.manual_seed(0)
    detector = Detector(create(BACKBONE["name"], **BACKBONE["arguments"])).eval()
    data = ClipDataset(write_store(tmp_path / "store", [Track(talking(k, frames=30 + 25 * k)[0]) for k in range(3)]))
    device = torch.device("cpu")
    plain = usual(detector, data, device, 32)
    assert len(plain) == 2 + 3 + 4
    assert ours(detector, data, device, 32, 4, 0, "fp32") == pytest.approx(plain, abs=0.05)
    assert np.std(plain) > 0.05, "logits that are all alike would prove nothing"

"""A stage-2 bundle becomes a detector, strictly; its logits are those of its networks."""

import subprocess
import sys

import pytest
import torch
import yaml

from backbones import create
from datasets.appearance import SIZES
from engine.bundle import load_bundle, save_bundle
from engine.errors import UserError
from engine.familiarity import Familiarity
from evaluation import Detector
from finetune.model import Detector as Networks
from tests.evaluation.small import small_detector
from tests.finetune.small import BACKBONE, small_bundle


def changed(bundle, **values):
    path = bundle / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **values}))
    return bundle


def test_logits_are_those_of_the_networks_in_evaluation_mode(tmp_path):
    bundle = small_detector(tmp_path / "bundle")
    found = load_bundle(bundle)
    networks = Networks(create(BACKBONE["name"], **BACKBONE["arguments"]))
    networks.backbone.load_state_dict(found.state("video_student.backbone"))
    networks.classifier.load_state_dict(found.state("classifier"))
    clips = torch.randn(3, 3, 25, 32, 32)
    detector = Detector.load(bundle)
    logits = detector.logits(clips)
    assert logits.shape == (3,) and logits.dtype == torch.float32 and not logits.requires_grad
    with torch.no_grad():
        assert torch.allclose(logits, networks.eval()(clips), atol=1e-4)
    assert torch.equal(detector.logits(clips), logits), "a second look changes nothing"
    assert detector.calibration.threshold == 0.5


def test_import_evaluation_is_light():
    code = "import sys, evaluation; assert 'torch' not in sys.modules; from evaluation import Detector; Detector.load"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_digest_is_of_the_content_not_of_the_place(tmp_path):
    one, two, other = (small_detector(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert Detector.load(one).digest == Detector.load(two).digest != Detector.load(other).digest
    changed(two, calibration={"threshold": 0.6, "temperature": 2.0})
    assert Detector.load(one).digest != Detector.load(two).digest


def test_what_is_wrong_with_a_bundle_is_one_line(tmp_path):
    def said(bundle):
        with pytest.raises(UserError) as caught:
            Detector.load(bundle)
        return str(caught.value)

    stage_1 = small_bundle(tmp_path / "stage1")
    assert "expected a bundle of stage 2" in said(stage_1) and "crosstalk finetune init=" in said(stage_1)
    assert "unknown views: colour" in said(changed(small_detector(tmp_path / "a"), views={"colour": 1}))
    assert "threshold is 'high'" in said(
        changed(small_detector(tmp_path / "b"), calibration={"threshold": "high", "temperature": 1}))
    assert "does not say which backbone" in said(changed(small_detector(tmp_path / "c"), backbone="csn"))
    networks = Networks(create(BACKBONE["name"], **BACKBONE["arguments"]))
    save_bundle(tmp_path / "d", {"video_student": {"backbone": networks.backbone}},
                {"stage": "finetune", "backbone": BACKBONE}, "")  # fmt: skip
    assert "has no classifier" in said(tmp_path / "d")
    wider = {**BACKBONE, "arguments": {**BACKBONE["arguments"], "dim": 24}}
    assert "does not fit" in said(changed(small_detector(tmp_path / "e"), backbone=wider))


def test_what_is_wrong_with_the_faces_that_it_knows_is_one_line(tmp_path):
    def known(spoilt=None):
        rows = {name: torch.randn(30, size) for name, size in SIZES.items()}
        made = Familiarity.fitted(rows, rows, people=5)
        if spoilt:
            made.get_buffer(spoilt).fill_(torch.nan)
        return made

    def said(name, known=None, **config):
        with pytest.raises(UserError) as caught:
            Detector.load(changed(small_detector(tmp_path / name, known=known), **config))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    found = Detector.load(small_detector(tmp_path / "a", known=known())).familiarity
    assert found is not None and found.sizes == known().sizes
    assert Detector.load(small_detector(tmp_path / "b")).familiarity is None
    assert "limit must hold finite numbers" in said("c", known=known(spoilt="limit"))
    assert "looks.shape.scale must hold finite numbers above 0" in said("d", known=known(spoilt="looks.shape.scale"))
    assert "has no familiarity" in said("e", familiarity=known().sizes)
    assert "expected the looks shape, texture, colour" in said("f", known=known(), familiarity={"shape": [800, 7]})
    assert "does not fit" in said("g", known=known(), familiarity={**known().sizes, "texture": [10, 3]})


def test_clips_of_another_size_are_refused_not_stretched(tmp_path):
    detector = Detector.load(small_detector(tmp_path / "bundle"))
    for clips in (torch.randn(1, 3, 25, 112, 112), torch.randn(3, 25, 32, 32),
                  torch.zeros(1, 3, 25, 32, 32, dtype=torch.uint8)):  # fmt: skip
        with pytest.raises(ValueError, match=r"clips must be float \(B, 3, T, 32, 32\)"):
            detector.logits(clips)


def test_what_it_was_trained_on(tmp_path):
    detector = Detector.load(small_detector(tmp_path / "a", leave_out=["FaceSwap"]))
    assert detector.trained_on("faceforensics", "Deepfakes") is True
    assert detector.trained_on("faceforensics", "FaceSwap") is False
    assert detector.trained_on("celebdf_v2", "Celeb-synthesis") is False
    chosen = Detector.load(small_detector(tmp_path / "b", methods=["FaceSwap"], trained_on=None))
    assert chosen.trained_on("faceforensics", "Deepfakes") is False
    assert chosen.trained_on("faceforensics", "FaceSwap") is None, "which data set, nobody says"

"""What passes between the stages passes whole, or there is one line."""

import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from backbones import create
from engine.bundle import load_bundle
from engine.errors import UserError
from engine.settings import Network
from finetune import transfer
from tests.finetune.small import BACKBONE, small_bundle

NETWORK = Network(BACKBONE["name"], BACKBONE["arguments"])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return small_bundle(tmp_path_factory.mktemp("stage1") / "bundle")


def changed(bundle, tmp_path, change):
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    with safe_open(copy / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    tensors = load_file(copy / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors", metadata)
    return copy


def test_student_and_teacher_are_those_of_stage_1(bundle):
    network, student, teacher = transfer.start(bundle, bundle, None)
    assert network == NETWORK
    saved = load_bundle(bundle)
    for module, name in ((student.detector.backbone, "video_student.backbone"),
                         (teacher.backbone, "video_teacher.backbone"), (teacher.projector, "video_teacher.projector")):
        state = module.state_dict()
        assert state.keys() == saved.state(name).keys()
        assert all(value.equal(saved.state(name)[key]) for key, value in state.items())


def test_trap_teacher_not_loaded(bundle, tmp_path):
    """A renamed or missing weight stops the run; a random teacher never stands in."""
    key = "video_teacher.backbone.blocks.0.conv.weight"

    def rename(tensors):
        tensors["video_teacher.backbone.renamed.weight"] = tensors.pop(key)

    copy = changed(bundle, tmp_path, rename)
    with pytest.raises(UserError) as caught:
        transfer.start(copy, copy, None)
    assert "blocks.0.conv.weight" in str(caught.value) and "renamed.weight" in str(caught.value)
    transfer.start(copy, None, None)  # without the auxiliary task nobody asks for a teacher


def test_teacher_of_another_shape_is_refused(bundle, tmp_path):
    def cut(tensors):
        tensors["video_student.backbone.output.bias"] = tensors["video_student.backbone.output.bias"][:-1].clone()

    with pytest.raises(UserError, match=r"output\.bias"):
        transfer.start(changed(bundle, tmp_path, cut), None, None)


def test_no_teacher_no_auxiliary_heads(bundle):
    _, student, teacher = transfer.start(bundle, None, None)
    assert teacher is None and student.projector is None and student.predictor is None


def test_another_backbone_is_refused_by_name(bundle, tmp_path):
    with pytest.raises(UserError, match=r"has the backbone cnn_gru_attention .* this run asks for csn_r101"):
        transfer.start(bundle, bundle, Network("csn_r101", {}))
    with pytest.raises(UserError, match="init=none needs backbone=NAME"):
        transfer.start(None, None, None)


def test_a_stage_2_bundle_is_refused(bundle, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    (copy / "config.yaml").write_text("stage: finetune\n")
    with pytest.raises(UserError, match=r"expected a bundle of stage 1 .* says stage finetune"):
        transfer.start(copy, None, None)


def test_from_scratch_with_a_teacher(bundle):
    torch.manual_seed(0)
    _, student, teacher = transfer.start(None, bundle, NETWORK)
    saved = load_bundle(bundle).state("video_student.backbone")
    assert teacher is not None and student.predictor is not None
    weight = student.detector.backbone.state_dict()["output.weight"]
    assert not weight.equal(saved["output.weight"])
    assert type(student.detector.backbone) is type(create(NETWORK.name, **NETWORK.arguments))


def test_recomputing_is_asked_of_the_student_alone(bundle):
    _, student, teacher = transfer.start(bundle, bundle, None, recompute=True)
    assert student.detector.backbone.recompute and not teacher.backbone.recompute

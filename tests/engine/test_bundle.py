"""Bundles: what goes in comes out, strictly, and nothing is overwritten unasked."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from engine.bundle import load_bundle, load_into, save_bundle
from engine.errors import UserError

CONFIG = {"video_backbone": "csn_r101", "audio": {"width": 512}, "root": Path("/data")}


def networks(seed: int = 0):
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4))
    return {"video_student": {"backbone": backbone, "projector": nn.Linear(4, 2), "predictor": nn.Linear(2, 2)},
            "video_teacher": {"backbone": nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4)),
                              "projector": nn.Linear(4, 2)},
            "classifier": nn.Linear(4, 1, bias=False)}  # fmt: skip


@pytest.fixture
def bundle(tmp_path):
    save_bundle(tmp_path / "bundle", networks(), CONFIG, "# Card\n\nTrained on generated faces – 5 clips.\n")
    return tmp_path / "bundle"


def test_what_goes_in_comes_out(bundle):
    made, loaded = networks(), load_bundle(bundle)
    assert sorted(path.name for path in bundle.iterdir()) == ["card.md", "config.yaml", "model.safetensors"]
    assert loaded.config == CONFIG | {"root": "/data"} and "generated faces – 5" in loaded.card
    assert {part: list(modules) for part, modules in loaded.parts.items()} == {
        "video_student": ["backbone", "projector", "predictor"], "video_teacher": ["backbone", "projector"],
        "classifier": [""]}  # fmt: skip
    for name, module in (("video_student.backbone", made["video_student"]["backbone"]),
                         ("video_teacher.projector", made["video_teacher"]["projector"]),
                         ("classifier", made["classifier"])):  # fmt: skip
        state = loaded.state(name)
        assert state.keys() == module.state_dict().keys()
        assert all(state[key].equal(tensor) for key, tensor in module.state_dict().items())
    assert loaded["video_student"]["projector"].keys() == {"weight", "bias"}
    assert "video_student.backbone.0.weight" in load_file(bundle / "model.safetensors")


def test_load_into_a_module(bundle):
    other = networks(seed=9)["video_student"]["backbone"]
    load_into(other, load_bundle(bundle), "video_student.backbone", {"video_backbone": "csn_r101", "audio.width": 512})
    theirs = networks()["video_student"]["backbone"].state_dict()
    assert all(tensor.equal(theirs[key]) for key, tensor in other.state_dict().items())


def test_another_backbone_is_named(bundle):
    loaded = load_bundle(bundle)
    with pytest.raises(UserError, match="was made with video_backbone=csn_r101, this run has video_backbone=cnn_lstm"):
        load_into(nn.Linear(1, 1), loaded, "video_student.backbone", {"video_backbone": "cnn_lstm"})
    with pytest.raises(UserError, match=r"made with audio\.height=None, this run has audio\.height=3"):
        load_into(nn.Linear(1, 1), loaded, "video_student.backbone", {"audio.height": 3})


def test_loading_is_strict_and_all_or_nothing(bundle):
    loaded = load_bundle(bundle)
    several = nn.Sequential(nn.Conv3d(3, 5, 3), nn.BatchNorm3d(5), nn.Linear(2, 2))
    before = {key: tensor.clone() for key, tensor in several.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_into(several, loaded, "video_student.backbone")
    assert str(caught.value) == (
        f"bundle {bundle}: video_student.backbone does not fit, weights 2 missing: 2.bias, 2.weight; 6 of another "
        "shape: 0.bias (4,) instead of (5,), 0.weight (4, 3, 3, 3, 3) instead of (5, 3, 3, 3, 3), 1.bias (4,) instead "
        "of (5,), ..."
    )
    assert all(tensor.equal(before[key]) for key, tensor in several.state_dict().items())
    with pytest.raises(UserError, match=r"weights 1 unexpected: bias$"):
        load_into(nn.Linear(4, 2, bias=False), loaded, "video_student.projector")
    with pytest.raises(UserError, match=r"has no audio_student\.backbone; it has video_student\.backbone, "):
        load_into(nn.Linear(4, 2), loaded, "audio_student.backbone")


def test_nothing_is_overwritten_unasked(bundle):
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    with pytest.raises(UserError, match="exists already: it is a bundle; overwrite=true replaces it"):
        save_bundle(bundle, networks(1), {}, "")
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    save_bundle(bundle, networks(1), {}, "new", overwrite=True)
    assert load_bundle(bundle).card == "new"
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]  # and nothing is left beside it
    other = bundle.parent / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="exists already: choose another folder"):
        save_bundle(other, networks(), {}, "", overwrite=True)
    assert (other / "thesis.tex").read_text() == "precious"


def test_an_interrupted_save_leaves_the_old_one(bundle, monkeypatch):
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}

    def fails(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("engine.bundle.write_atomically", fails)
    with pytest.raises(UserError, match="no space left on the disk"):
        save_bundle(bundle, networks(1), {}, "", overwrite=True)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_damage_is_one_line(bundle, tmp_path):
    with pytest.raises(UserError, match=r"no bundle at .*missing: no such folder; crosstalk pretrain"):
        load_bundle(tmp_path / "missing")
    weights = bundle / "model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[:-10], whole[:20], b"", b"PK\x03\x04 a pickle, say"):
        weights.write_bytes(content)
        with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
            load_bundle(bundle)
    save_file({"a": torch.ones(1)}, weights)
    with pytest.raises(UserError, match="says format None; this version reads 'crosstalk bundle 1'"):
        load_bundle(bundle)
    save_file({"a.b": torch.ones(1)}, weights, {"format": "crosstalk bundle 1", "parts": '{"c": ["d"]}'})
    with pytest.raises(UserError, match=r"a\.b belongs to none of the parts"):
        load_bundle(bundle)
    weights.write_bytes(whole)
    (bundle / "config.yaml").write_text("!!python/object/apply:os.system ['touch hacked']")
    with pytest.raises(UserError, match=r"config\.yaml cannot be read"):
        load_bundle(bundle)
    assert not Path("hacked").exists()
    (bundle / "card.md").unlink()
    with pytest.raises(UserError, match=r"is no bundle: it lacks card\.md"):
        load_bundle(bundle)

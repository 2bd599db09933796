"""`crosstalk import`: all of a published checkpoint or nothing of it, and it computes what it computed before."""

import hashlib

import pytest
import torch
from torch.testing import assert_close

import crosstalk
from backbones import create
from backbones.heads import CosineClassifier, Predictor, Projector
from datasets.clips import ClipDataset, uniform_windows
from datasets.views import ViewSettings, evaluation_view
from engine.bundle import load_bundle, load_into
from engine.errors import UserError
from engine.scores import read_scores
from evaluation import published
from tests.evaluation import original_work as original
from tests.evaluation.small import judged, small_store


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(published, "BACKBONES", {"video": ("csn_r101", original.ARGUMENTS["video"]),
                                                 "audio": ("audio_resnet18", original.ARGUMENTS["audio"])})  # fmt: skip


def imported(tmp_path, *arguments):
    assert crosstalk.main(["import", *map(str, arguments), f"out={tmp_path / 'bundle'}"]) == 0
    return load_bundle(tmp_path / "bundle")


def refused(tmp_path, capsys, *arguments) -> str:
    before = sorted(tmp_path.iterdir())
    assert crosstalk.main(["import", *map(str, arguments), f"out={tmp_path / 'bundle'}"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert sorted(tmp_path.iterdir()) == before
    return line.removeprefix("crosstalk import: ")


def same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert theirs.std() > 1e-2
    assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


def networks(bundle, sort: str, person: str):
    backbone = create(published.BACKBONES[sort][0], **original.ARGUMENTS[sort])
    modules = {"backbone": backbone, "projector": Projector(backbone.dim), "predictor": Predictor()}
    for name in bundle[f"{sort}_{person}"]:
        load_into(modules[name], bundle, f"{sort}_{person}.{name}")
        modules[name].eval()
    return modules


@pytest.mark.parametrize("early", [False, True])
@torch.no_grad()
def test_stage_1_computes_what_it_did(tmp_path, capsys, early):
    learner = original.stage1(early=early)
    file = original.save_lightning(tmp_path / "stage1-epoch=149.ckpt", learner.state_dict())  # Lightning's usual name
    bundle = imported(tmp_path, file)
    assert "left out: 4 weights of probes" in capsys.readouterr().out
    assert {part: list(modules) for part, modules in bundle.parts.items()} == {
        "video_student": ["backbone", "projector", "predictor"], "video_teacher": ["backbone", "projector"],
        "audio_student": ["backbone", "projector", "predictor"], "audio_teacher": ["backbone", "projector"],
    }  # fmt: skip
    inputs = {"video": torch.randn(2, 3, 3, 32, 32), "audio": torch.randn(2, 1, 12, 80)}
    for sort, theirs in (("video", learner.model.model1), ("audio", learner.model.model2)):
        student, teacher = networks(bundle, sort, "student"), networks(bundle, sort, "teacher")
        features, expected = student["backbone"](inputs[sort]), theirs.backbone(inputs[sort])
        same(features, expected.transpose(1, 2))
        expected = theirs.predictor(theirs.projector(expected))
        same(student["predictor"](student["projector"](features)), expected)
        targets = theirs.target_encoder if early else lambda x: theirs.target_projector(theirs.target_backbone(x))  # noqa: B023
        same(teacher["projector"](teacher["backbone"](inputs[sort])), targets(inputs[sort]))


@pytest.mark.parametrize(("auxiliary", "form"), [(False, "bare"), (True, "bare"), (True, "lightning")])
@torch.no_grad()
def test_stage_2_computes_what_it_did(tmp_path, auxiliary, form):
    model = original.stage2(auxiliary=auxiliary)
    file = tmp_path / "realforensics ff.pth"
    if form == "bare":
        torch.save(model.state_dict(), file)
    else:
        original.save_lightning(file, {f"model.{name}": value for name, value in model.state_dict().items()})
    bundle = imported(tmp_path, file)
    clips = torch.randn(3, 3, 4, 32, 32)
    student = networks(bundle, "video", "student")
    classifier = CosineClassifier(student["backbone"].dim)
    load_into(classifier, bundle, "classifier")
    features, expected = student["backbone"](clips), model.backbone(clips)
    same(classifier(features.mean(dim=1)), model.df_head(expected)[:, 0])
    if auxiliary:
        same(student["predictor"](student["projector"](features)), model.ssl_head(expected))
        teacher = networks(bundle, "video", "teacher")
        same(teacher["projector"](teacher["backbone"](clips)), model.target_encoder(clips))
    else:
        assert set(bundle.parts) == {"video_student", "classifier"} and set(bundle["video_student"]) == {"backbone"}


def test_every_number_is_kept(tmp_path):
    """Counters of BatchNorm and all: each of the file's tensors is in the bundle, once."""
    model = original.stage2(auxiliary=True)
    torch.save(model.state_dict(), tmp_path / "x.pth")
    bundle = imported(tmp_path, tmp_path / "x.pth")
    ours = [tensor for part in bundle.parts.values() for state in part.values() for tensor in state.values()]
    digests = [sorted(hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for tensor in tensors)
               for tensors in (ours, model.state_dict().values())]  # fmt: skip
    assert digests[0] == digests[1]


def test_an_imported_detector_is_judged_like_any_other(tmp_path):
    """Its scores come out of `benchmark`: per video the mean of what the original network says of the same views."""
    model = original.stage2(auxiliary=False).eval()
    torch.save(model.state_dict(), tmp_path / "x.pth")
    imported(tmp_path, tmp_path / "x.pth")
    store = small_store(tmp_path / "store", methods=("Deepfakes",), people=2)
    assert judged(tmp_path / "run", f"model={tmp_path / 'bundle'}", f"store={store.root}")[0] == [0]
    rows = {row.video: row for row in read_scores(tmp_path / "run" / "scores.csv")}
    data = ClipDataset(store)
    assert len(data) == 4 and sum(row.logit is not None for row in rows.values()) == 4
    for track in range(len(data)):
        starts = uniform_windows(int(data.usable[track]))
        frames, _ = data.__getitems__([(track, start) for start in starts])
        views, _ = evaluation_view(ViewSettings(), frames)
        with torch.no_grad():
            expected = model.df_head(model.backbone(views))[:, 0].mean()
        assert rows[str(data.videos[track])].logit == pytest.approx(expected.item(), rel=1e-3, abs=2e-3)
    assert "not calibrated" in (tmp_path / "run" / "report.html").read_text().lower()


def test_config_and_card_say_where_it_is_from(tmp_path):
    file = tmp_path / "x.pth"
    torch.save(original.stage2(auxiliary=False).state_dict(), file)
    bundle = imported(tmp_path, f"checkpoint={file}")
    digest = hashlib.blake2b(file.read_bytes()).hexdigest()
    assert bundle.config == {
        "stage": "finetune",
        "backbone": {"name": "csn_r101", "arguments": {"depths": [3, 4, 6, 3], "width": 8}},
        "audio_backbone": {"name": "audio_resnet18", "arguments": {"width": 8}},
        "views": {},
        "imported_from": {"file": "x.pth", "bytes": file.stat().st_size, "blake2b": digest},
        "calibration": None,
    }
    for words in ("`x.pth`", digest, "Nothing in it was trained by Crosstalk", "licence: its authors'",
                  "Not calibrated"):  # fmt: skip
        assert words in bundle.card


def test_names_and_shapes_at_full_size(monkeypatch):
    monkeypatch.undo()
    with torch.device("meta"):
        shapes = original.video_backbone(101, width=64).state_dict()
    weights = {f"backbone.{name}": torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in shapes.items()}
    found = published.understood(weights | {"df_head.weight": torch.ones(1, 2048)}, "file")
    assert sum(p.numel() for p in found.modules["video_student.backbone"].parameters()) == 21_394_176
    assert published.BACKBONES == {"video": ("csn_r101", {}), "audio": ("audio_resnet18", {})}


def test_without_counters(tmp_path, capsys):
    state = original.stage2(auxiliary=False).state_dict()
    torch.save({name: value for name, value in state.items() if not name.endswith("num_batches_tracked")},
               tmp_path / "x.pth")  # fmt: skip
    bundle = imported(tmp_path, tmp_path / "x.pth")
    assert "counters of batches are not in the file" in capsys.readouterr().out and "counters" in bundle.card
    counters = [value for name, value in bundle["video_student"]["backbone"].items() if "tracked" in name]
    assert counters and all(counter == 0 for counter in counters)


def changed(state, change):
    state = dict(state)
    return change(state) or state


NORM = "backbone.blocks.0.norm"
CONV = "backbone.blocks.0.conv.weight"


@pytest.mark.parametrize(("change", "said"), [
    (lambda s: {k: v for k, v in s.items() if k != "df_head.weight"}, "weights 1 missing: df_head.weight"),
    (lambda s: s.pop(f"{NORM}.num_batches_tracked") and None, f"1 missing: {NORM}.num_batches_tracked"),
    (lambda s: {k: v for k, v in s.items() if not k.startswith("backbone.blocks.4.")}, "missing: backbone.blocks.4."),
    (lambda s: s | {"backbone.blocks.5.proj.weight": torch.ones(1)}, "1 unexpected: backbone.blocks.5.proj.weight"),
    (lambda s: s | {"video_student.backbone.blocks.0.conv.weight": torch.ones(1)}, "1 unexpected: video_student."),
    (lambda s: s | {"df_head.bias": torch.ones(1)}, "1 unexpected: df_head.bias"),
    (lambda s: s | {"ssl_head.0.net.weight": torch.ones(1)}, "missing: ssl_head.0.net.bias"),
    (lambda s: s | {"target_encoder.0.blocks.0.conv.weight": torch.ones(1)}, "missing: target_encoder.0.blocks.0."),
    (lambda s: s | {"df_head.weight": torch.ones(1, 3)}, "1 of another shape: weight (1, 3) instead of (1, 256)"),
    (lambda s: s | {CONV: s[CONV].mT[..., :1]}, "of another shape: blocks.0.conv.weight (8, 3, 3, 7, 1)"),
    (lambda s: s | {f"{NORM}.weight": torch.ones(8, dtype=torch.int64)}, "holds torch.int64; expected torch.float32"),
    (lambda s: s | {CONV: s[CONV].half()}, f"{CONV} is a torch.HalfStorage; expected FloatStorage or LongStorage"),
    (lambda s: s | {CONV: 3}, f"{CONV} is no plain tensor"),
    (lambda s: {f"net.{k}": v for k, v in s.items()}, "names that begin with model.model1. (stage 1) or backbone."),
    (lambda s: {"epoch": 3}, "epoch is no plain tensor"),
    (lambda s: [1, 2], "holds no state dict"),
    (lambda s: {"state_dict": {}}, "holds no state dict"),
])  # fmt: skip
def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path, capsys, change, said):
    file = tmp_path / "x.pth"
    torch.save(changed(original.stage2(auxiliary=False).state_dict(), change), file)
    line = refused(tmp_path, capsys, file)
    assert said in line and line.startswith(str(file)) and len(line) < 400


def test_stage_1_must_have_both_of_its_models(tmp_path, capsys):
    state = original.stage1().state_dict()
    file = original.save_lightning(tmp_path / "x.ckpt", {k: v for k, v in state.items() if "model2" not in k})
    line = refused(tmp_path, capsys, file)
    assert "is not stage 1 of the original work" in line and "missing: model2.backbone.model.bn1.bias, " in line


def test_both_spellings_of_a_teacher_are_one_too_many(tmp_path, capsys):
    state = original.stage1().state_dict() | original.stage1(early=True).state_dict()
    line = refused(tmp_path, capsys, original.save_lightning(tmp_path / "x.ckpt", state))
    assert "unexpected: model1.target_backbone." in line and "missing" not in line


def test_other_mistakes_are_one_line(tmp_path, capsys):
    (tmp_path / "there").mkdir()
    assert "no such file: /nowhere.pth" in refused(tmp_path, capsys, "/nowhere.pth")
    assert "CHECKPOINT is missing" in refused(tmp_path, capsys)
    assert f"no such file: {tmp_path}; " in refused(tmp_path, capsys, tmp_path)
    assert "'b.pth' is no setting" in refused(tmp_path, capsys, "a.pth", "b.pth")
    assert "unknown setting chekpoint; did you mean checkpoint?" in refused(tmp_path, capsys, "chekpoint=x")
    assert crosstalk.main(["import", "a.pth"]) == 2 and "out=DIR is missing" in capsys.readouterr().err
    assert crosstalk.main(["import", "a.pth", f"out={tmp_path / 'there'}"]) == 2
    assert f"out={tmp_path / 'there'} exists already" in capsys.readouterr().err
    assert crosstalk.main(["import", "a.pth", "--cfg", "job"]) == 0 and "a.pth" in capsys.readouterr().out
    assert crosstalk.main(["import", "--cfg", "job"]) == 0 and "checkpoint: null" in capsys.readouterr().out


def test_the_table_covers_every_weight_of_ours():
    """No weight of a head keeps its own name by accident of a missing row."""
    for kind, module in (("projector", Projector(4)), ("predictor", Predictor())):
        for key in module.state_dict():
            assert published._their_name(f"video_student.{kind}", "", key) != key
    with pytest.raises(UserError, match="found nothing"):
        published.understood({}, "file")

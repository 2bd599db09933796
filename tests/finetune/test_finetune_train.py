"""The whole stage in small: against a slow loop, killed and resumed, in two processes; the traps of other codebases."""

import math
import os
import random
import signal

import adamp
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.functional import binary_cross_entropy_with_logits, cosine_similarity

import finetune.train
import ssl_pretrain.train
from benchmarks.stores import Track, write_store
from datasets.clips import ClipDataset
from datasets.loaders import make_loader
from datasets.records import REAL
from datasets.views import ViewSettings, draw_views, evaluation_view, make_views
from engine.bundle import load_bundle
from engine.distributed import Context
from engine.familiarity import Familiarity
from engine.journal import read_metrics
from engine.precision import Precision
from engine.randomness import generator_for, seed_all
from engine.settings import load
from finetune import transfer
from finetune.familiar import described
from finetune.model import Detector
from finetune.scoring import score
from finetune.settings import FinetuneSettings
from finetune.validation import by_method
from tests.engine.processes import finish, start, untimed, wait_for
from tests.finetune.small import BACKBONE, SMALL, small_bundle, small_store, tuned
from tests.ssl_pretrain.small import small_store as speaking_store
from tests.ssl_pretrain.test_pretrain_train import frozen_norms


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("small") / "store")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return small_bundle(tmp_path_factory.mktemp("stage1") / "bundle")


@pytest.fixture(scope="module")
def uninterrupted(store, bundle, tmp_path_factory):
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    codes, said = tuned(bundle, store.root, run)
    assert codes == [0], said
    return run


def losses(run, name="loss"):
    return [line["values"][name] for line in read_metrics(run, "train")]


# ----------------------------------------------------------------------------------------------- numerics

def slow_losses(store, bundle, steps, weight):
    """Stage 2 written again from the paper, as plainly as it goes, with the `adamp` package."""
    seed_all(0)
    _, student, teacher = transfer.start(bundle, bundle, None)
    loader = make_loader(ClipDataset(store, split="train"), 4, seed=0)
    views_settings = ViewSettings(size=32, time_mask_probability=0.5)
    optimizer = adamp.AdamP(student.parameters(), weight_decay=1e-2)
    top, prior, found = 2e-2 * math.sqrt(4 / 256), 8 / 12, []  # two methods, one real each
    while len(found) < steps:
        for batch in loader:
            step = len(found)
            optimizer.param_groups[0]["lr"] = top * min(1, (step + 1) / 3)  # 12 clips are 3 steps: one epoch of warm-up
            views = make_views(views_settings, draw_views(views_settings, 4, generator_for(0, step)), batch.frames)
            features = student.detector.backbone(views.student_video)
            classifier = student.detector.classifier
            logits = torch.stack([64 * cosine_similarity(f.mean(0), classifier.weight[0], dim=0) for f in features])
            supervised = binary_cross_entropy_with_logits(logits + math.log(prior / (1 - prior)), batch.label.float())
            real = [b for b in range(4) if batch.label[b] == 0]
            auxiliary = torch.zeros(())
            if real:
                prediction = student.predictor(student.projector(features[real]))
                with torch.no_grad():
                    target = teacher.projector(teacher.backbone(views.teacher_video[real]))
                auxiliary = -torch.stack([cosine_similarity(prediction[r, t], target[r, t], dim=0)
                                          for r in range(len(real)) for t in range(25)]).mean()  # fmt: skip
            optimizer.zero_grad()
            (supervised + weight * auxiliary).backward()
            optimizer.step()
            found.append((supervised + weight * auxiliary).item())
            if len(found) == steps:
                break
    return found


def test_equals_a_slow_loop_written_from_the_paper(store, bundle, uninterrupted):
    slow = slow_losses(store, bundle, 9, 0.3)
    ours = losses(uninterrupted)
    assert ours[0] == pytest.approx(slow[0], abs=1e-5)
    assert ours[:9] == pytest.approx(slow, rel=1e-2, abs=2e-3)
    for line in read_metrics(uninterrupted, "train"):
        values = line["values"]
        assert values["loss"] == pytest.approx(values["supervised"] + 0.3 * values["auxiliary"], abs=1e-5)


def test_learning_rate_by_hand(uninterrupted):
    top = 2e-2 * math.sqrt(4 / 256)
    rates = losses(uninterrupted, "rate")
    assert rates[:4] == pytest.approx([top / 3, 2 * top / 3, top, top]) and rates[-1] == pytest.approx(top)


def test_learning_rate_that_falls_by_hand(store, bundle, tmp_path):
    assert tuned(bundle, store.root, tmp_path / "run", "ssl_weight=0", "epochs=2", "cosine=true")[0] == [0]
    top = 2e-2 * math.sqrt(4 / 256)  # two epochs of three steps; the first is the warm-up
    fall = [(1 + math.cos(math.pi * third / 3)) / 2 for third in range(3)]
    assert losses(tmp_path / "run", "rate") == pytest.approx([top / 3, 2 * top / 3, top, *(top * f for f in fall)])


def test_weight_zero_is_no_teacher_at_all(store, bundle, tmp_path, uninterrupted):
    """The same weights after ten steps as from a bundle that has no teacher; and the teacher is not even read."""
    without = tmp_path / "without"
    small_bundle(without)
    with safe_open(without / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    tensors = {k: v for k, v in load_file(without / "model.safetensors").items() if not k.startswith("video_teacher")}
    metadata["parts"] = metadata["parts"].replace(', "video_teacher": ["backbone", "projector"]', "")
    save_file(tensors, without / "model.safetensors", metadata)
    assert "video_teacher" not in load_bundle(without).parts
    assert tuned(bundle, store.root, tmp_path / "a", "ssl_weight=0", "epochs=4")[0] == [0]
    assert tuned(without, store.root, tmp_path / "b", "ssl_weight=0", "epochs=4")[0] == [0]
    one, other = (load_file(tmp_path / name / "checkpoints/step-00000012/state.safetensors") for name in "ab")
    assert one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)
    assert losses(tmp_path / "a") != losses(uninterrupted)[:12]
    assert "auxiliary" not in read_metrics(tmp_path / "a", "train")[0]["values"]


def test_priors_and_further_reals(store, bundle, tmp_path):
    """With real_ratio=2, 4 labelled and 8 further clips a step; the prior counts all of them."""
    speaking = speaking_store(tmp_path / "speaking", train=12, val=0)
    arguments = ["real_ratio=2", f"real_store={speaking.root}", "epochs=4", "save_every=5"]
    codes, said = tuned(bundle, store.root, tmp_path / "run", *arguments)
    assert codes == [0], said
    settings, _ = load("finetune", [f"init={bundle}", f"store={store.root}", "run=r", "real_ratio=2",
                                    f"real_store={speaking.root}", *SMALL], FinetuneSettings)  # fmt: skip
    data = finetune.train._data(settings, Context(), ViewSettings(size=32))
    assert data.prior == pytest.approx(8 / 12 / 3) and data.reals is not None
    # Resuming goes on in both loaders: 12 steps of 8 further reals out of 12 cross their epochs in mid-batch.
    run = tmp_path / "again"
    process = start("finetune", [f"init={bundle}", f"store={store.root}", f"run={run}", *SMALL, *arguments], {},
                    tmp_path / "said")  # fmt: skip
    wait_for(run, 6, tmp_path / "said")
    os.kill(process.pid, signal.SIGKILL)
    finish(process)
    codes, said = tuned(bundle, store.root, run, *arguments)
    assert codes == [0], said
    assert untimed(run) == untimed(tmp_path / "run")


# -------------------------------------------------------------------------------------------- interruption

@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_interrupted_and_resumed_is_the_uninterrupted(store, bundle, uninterrupted, tmp_path, number):
    run, arguments = tmp_path / "run", ["save_every=2"]
    process = start("finetune", [f"init={bundle}", f"store={store.root}", f"run={run}", *SMALL, *arguments], {},
                    tmp_path / "said")  # fmt: skip
    wait_for(run, random.randrange(3, 18), tmp_path / "said")
    os.kill(process.pid, number)
    assert finish(process) == (-9 if number == signal.SIGKILL else 143)
    codes, said = tuned(bundle, store.root, run, *arguments)
    assert codes == [0], said
    assert untimed(run) == untimed(uninterrupted)
    ours, theirs = (load_file(folder / "bundle/model.safetensors") for folder in (run, uninterrupted))
    assert all(ours[key].equal(theirs[key]) for key in ours)
    assert (run / "bundle/config.yaml").read_text().replace(str(run), "") == (
        uninterrupted / "bundle/config.yaml").read_text().replace(str(uninterrupted), "").replace(
        "save_every: 500", "save_every: 2")  # fmt: skip


def test_two_processes_with_half_the_batch_are_one_with_the_whole(store, bundle, tmp_path):
    """Also where one of them happens to have no real clip: two of three are forged and each gets two."""
    assert tuned(bundle, store.root, tmp_path / "one", prepare=frozen_norms)[0] == [0]
    codes, said = tuned(bundle, store.root, tmp_path / "two", world=2, prepare=frozen_norms)
    assert codes == [0, 0], said
    for name in ("loss", "supervised", "auxiliary"):
        assert losses(tmp_path / "two", name) == pytest.approx(losses(tmp_path / "one", name), rel=5e-3, abs=1e-3), name
    ours, theirs = (untimed(tmp_path / name, "val") for name in ("one", "two"))
    assert [line["values"] for line in ours] == [pytest.approx(line["values"], abs=1e-6) for line in theirs]


# --------------------------------------------------------------------------------------- selection, scores

def test_bundle_is_the_best_validation_and_its_scores_are_the_journals(store, uninterrupted):
    found = {line["step"]: line["values"] for line in read_metrics(uninterrupted, "val")}
    saved = load_bundle(uninterrupted / "bundle")
    best = max(found, key=lambda step: (found[step]["selection"], -step))
    assert saved.config["step"] == best
    detector = Detector(transfer.Network(**BACKBONE).built(transfer.create))
    detector.backbone.load_state_dict(saved.state("video_student.backbone"))
    detector.classifier.load_state_dict(saved.state("classifier"))
    data = ClipDataset(store, split="val")
    views = ViewSettings(size=32)
    scored = score(detector, data, views, Precision("fp32", torch.device("cpu")), Context())
    # Independently: every window of every video by hand, centre crop, mean of logits; AUC by counting pairs.
    detector.eval()
    means = {}
    for clip in range(len(data)):
        n = int(data.usable[clip])
        windows = [0] if n == 29 else [0, 25]
        windows += [n - 25]
        frames, _ = data.__getitems__([(clip, start) for start in windows])
        with torch.no_grad():
            logits = detector(evaluation_view(views, frames)[0]).double()
        means[str(data.videos[clip])] = logits.mean().item(), len(windows)
    for row in scored.rows:
        assert row.logit == pytest.approx(means[row.video][0], abs=1e-4) and row.clips == means[row.video][1]
        assert row.identity and row.method == row.video.split("/")[1]
    for method in ("Deepfakes", "FaceSwap"):
        real = [row.logit for row in scored.rows if row.label == REAL]
        forged = [row.logit for row in scored.rows if row.method == method]
        pairs = [(f > r) + 0.5 * (f == r) for f in forged for r in real]
        assert found[best][f"auc_{method}"] == pytest.approx(np.mean(pairs), abs=1e-9)
    assert {"threshold", "temperature"} == set(saved.config["calibration"])


def test_bundle_knows_the_faces_of_training_and_validation_alone(store, uninterrupted):
    """Its numbers are those of a fit to the very clips; every bundle of the run has them, whatever its weights."""
    saved = load_bundle(uninterrupted / "bundle")
    sizes = {name: tuple(pair) for name, pair in saved.config["familiarity"].items()}
    known = Familiarity(sizes)
    known.load_state_dict(saved.state("familiarity"))
    train, val = (described(ClipDataset(store, split=split)) for split in ("train", "val"))
    assert {len(rows) for rows in train.values()} == {30}  # of 12 tracks half have 2 windows, half 3
    expected = Familiarity.fitted(train, val, people=2)
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(known.state_dict()[key], value)
    assert (known.distance(val) <= 1).double().mean() >= 0.8
    few = described(ClipDataset(store, split="train"), most=3)
    for name, rows in few.items():
        assert torch.equal(rows, train[name][[0, 14, 29]]), "evenly spread"


def test_trap_video_ids_of_methods_do_not_collide(store):
    """The same file name under every method stays as many videos."""
    data = ClipDataset(store, split="val")
    assert len(set(data.videos.tolist())) == len(data) == 6
    rows = score(Detector(transfer.Network(**BACKBONE).built(transfer.create)), data, ViewSettings(size=32),
                 Precision("fp32", torch.device("cpu")), Context()).rows  # fmt: skip
    assert [sum(row.method == m for row in rows) for m in ("real", "Deepfakes", "FaceSwap")] == [2, 2, 2]
    assert {name: len(group) for name, group in by_method(rows).items()} == {"Deepfakes": 4, "FaceSwap": 4}


def test_trap_selection_never_sees_test_data(store, bundle, tmp_path, uninterrupted):
    """Test clips that are all wrong change nothing: not the journal, not the bundle."""
    tracks = []
    for index in range(len(store)):
        table = store.table
        crops = store.frames(index, 0, int(table.frames[index]))
        tracks.append(Track(crops, None, {"id": str(table.ids[index]), "method": table.method[index],
                                          "label": int(table.label[index]), "split": table.split[index],
                                          "identities": table.identities(index)}))  # fmt: skip
    for number in range(4):
        tracks.append(Track(np.zeros((25, 150, 150, 3), np.uint8), None, {
            "id": f"small/test/{number}", "method": "Deepfakes" if number % 2 else "real", "label": number % 2,
            "split": "test", "identities": ("t",)}))  # fmt: skip
    other = write_store(tmp_path / "other", sorted(tracks, key=lambda track: track.about["id"]))
    assert tuned(bundle, other.root, tmp_path / "run")[0] == [0]
    assert untimed(tmp_path / "run", "val") == untimed(uninterrupted, "val")


def test_left_out_methods_are_measured_but_do_not_select(store, bundle, tmp_path):
    codes, said = tuned(bundle, store.root, tmp_path / "run", "leave_out=FaceSwap")
    assert codes == [0] and "data: 8 tracks (Deepfakes 4, real 4)" in said
    for line in read_metrics(tmp_path / "run", "val"):
        assert set(line["values"]) == {"auc_Deepfakes", "auc_FaceSwap", "selection"}
        assert line["values"]["selection"] == line["values"]["auc_Deepfakes"]
    assert "Never trained on: FaceSwap." in load_bundle(tmp_path / "run/bundle").card


def test_early_stopping(store, bundle, tmp_path):
    codes, said = tuned(bundle, store.root, tmp_path / "run", "patience=1", "epochs=40", "validate_every=1")
    assert codes == [0] and "validations were no better" in said
    selections = [line["values"]["selection"] for line in read_metrics(tmp_path / "run", "val")]
    best = np.maximum.accumulate(selections)
    assert selections[-1] <= best[-2] and (np.diff(best[:-1]) > 0).all()
    again, said = tuned(bundle, store.root, tmp_path / "run", "patience=1", "epochs=40", "validate_every=1")
    assert again == [0] and len(read_metrics(tmp_path / "run", "val")) == len(selections)


def test_linear_probe_moves_the_classifier_alone(store, bundle, tmp_path):
    assert tuned(bundle, store.root, tmp_path / "run", "freeze_backbone=true", "ssl_weight=0", "epochs=2")[0] == [0]
    ours, before = load_bundle(tmp_path / "run/bundle"), load_bundle(bundle)
    for key, value in ours.state("video_student.backbone").items():
        assert value.equal(before.state("video_student.backbone")[key]), key


def test_trap_masks_of_both_stages_are_one_copy():
    """Both loops call the same function of datasets.views; stage 2's only difference is how often."""
    assert finetune.train.draw_views is ssl_pretrain.train.draw_views
    assert finetune.train.make_views is ssl_pretrain.train.make_views
    settings, _ = load("finetune", ["init=b", "store=s", "run=r"], FinetuneSettings)
    assert settings.mask_share == 0.5
    draws = draw_views(ViewSettings(time_mask_probability=0.5), 4000, torch.Generator().manual_seed(0))
    assert (draws.time_length > 0).float().mean().item() == pytest.approx(0.5 * 12 / 13, abs=0.03)


def test_trap_learning_rate_goes_on_after_a_resume(store, bundle, tmp_path):
    """Warm-up is interrupted; afterwards the rate goes on rising."""
    plain = ("warmup_epochs=8", "save_every=1")
    process = start("finetune", [f"init={bundle}", f"store={store.root}", f"run={tmp_path / 'run'}", *SMALL, *plain],
                    {}, tmp_path / "said")  # fmt: skip
    wait_for(tmp_path / "run", 5, tmp_path / "said")
    os.kill(process.pid, signal.SIGKILL)
    finish(process)
    assert tuned(bundle, store.root, tmp_path / "run", *plain)[0] == [0]
    rates = losses(tmp_path / "run", "rate")
    assert rates == pytest.approx([2e-2 * math.sqrt(4 / 256) * (step + 1) / 24 for step in range(24)])


def test_recomputing_blocks_changes_no_digit(store, bundle, uninterrupted, tmp_path):
    assert tuned(bundle, store.root, tmp_path / "run", "recompute=true")[0] == [0]
    assert untimed(tmp_path / "run") == untimed(uninterrupted)


# ---------------------------------------------------------------------------------------------- bad input

def test_bad_input_is_one_line(store, bundle, tmp_path):
    def refused(*arguments, init=bundle, data=store.root):
        codes, said = tuned(init, data, tmp_path / "run", *arguments)
        assert codes == [2] and said.count("\n") == 1 and "Traceback" not in said, said
        assert not (tmp_path / "run").exists()
        return said

    assert "init=BUNDLE is missing" in refused(init="null")
    assert "no such folder" in refused(init=tmp_path / "nowhere")
    assert "ssl_weight=0.3 needs the teacher of a stage-1 bundle" in refused(init="none")
    assert "init=none needs backbone=NAME" in refused("ssl_weight=0", init="none")
    assert "a linear probe needs init=BUNDLE and ssl_weight=0" in refused("freeze_backbone=true")
    assert "has the backbone cnn_gru_attention" in refused("backbone=csn_r101")
    assert "no forgeries of method 'Deepfake'" in refused("leave_out=Deepfake")
    assert "training needs real and forged videos" in refused("leave_out=[Deepfakes,FaceSwap]")
    assert "ssl_weight=-1.0: at least 0" in refused("ssl_weight=-1")
    assert "real_ratio=8 and real_store=null: give both" in refused("real_ratio=8")
    assert "a batch of 400 is larger than the data" in refused("batch=400")
    reals = speaking_store(tmp_path / "reals")
    assert "real and forged" in refused(data=reals.root)

"""The whole stage in small: against a slow loop written from the paper, killed and resumed, in two processes."""

import copy
import math
import os
import random
import signal
import socket

import adamp
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from backbones import arguments, create
from datasets.clips import ClipDataset
from datasets.loaders import make_loader
from datasets.views import ViewSettings, draw_views, make_views
from engine.bundle import load_bundle, load_into
from engine.errors import UserError
from engine.journal import read_metrics
from engine.randomness import generator_for, seed_all
from engine.settings import load
from ssl_pretrain.model import Student, Students
from ssl_pretrain.settings import PretrainSettings
from tests.engine.processes import finish, ranks, start, untimed, wait_for
from tests.ssl_pretrain.small import SMALL, pretrain, small_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("small") / "store")


@pytest.fixture(scope="module")
def uninterrupted(store, tmp_path_factory):
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    codes, said = pretrain(store.root, run)
    assert codes == [0], said
    return run


def same_run(one, other):
    assert untimed(one) == untimed(other)  # to the last digit: json gives back the very floats
    assert [line["step"] for line in untimed(one, "train")] == list(range(1, 41))
    ours, theirs = (load_file(run / "checkpoints/step-00000040/state.safetensors") for run in (one, other))
    assert ours.keys() == theirs.keys() and all(ours[key].equal(theirs[key]) for key in ours)


# ----------------------------------------------------------------------------------------------- numerics

def slow_losses(store, steps):
    """Stage 1 written again from the paper, as plainly as it goes: own loss, own average, the `adamp` package."""
    loader = make_loader(ClipDataset(store, split="train", sound=True), 4, seed=0)
    views_settings = ViewSettings(size=32)
    seed_all(0)
    networks = Students(
        create("cnn_gru_attention", channels=[4, 8], pools=[2, 2], hidden=8, dim=16, input_size=32, stem_stride=4),
        create("audio_resnet18", depths=[1, 1, 1, 1], width=4))
    teachers = {name: copy.deepcopy(getattr(networks, name).encoder) for name in ("video", "audio")}
    encoders = [*networks.video.encoder.parameters(), *networks.audio.encoder.parameters()]
    predictors = [*networks.video.predictor.parameters(), *networks.audio.predictor.parameters()]
    optimizer = adamp.AdamP([{"params": encoders}, {"params": predictors}], weight_decay=1e-2)
    top = 1e-2 * math.sqrt(4 / 256)
    momentum = 1 - (1 - 0.999) * 4 / 96
    found, step = [], 0
    while step < steps:
        for batch in loader:
            # 4 steps an epoch, 1 epoch of warm-up, 10 epochs
            rate = top * (step + 1) / 4 if step < 4 else top * (1 + math.cos(math.pi * (step - 4) / 36)) / 2
            optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = rate, top
            views = make_views(views_settings, draw_views(views_settings, 4, generator_for(0, step)), batch.frames,
                               batch.sound)  # fmt: skip
            with torch.no_grad():
                targets = teachers["audio"](views.teacher_log_mel), teachers["video"](views.teacher_video)
            predictions = networks.video(views.student_video)[1], networks.audio(views.student_log_mel)[1]
            loss = 0
            for prediction, target in zip(predictions, targets, strict=True):
                for b in range(4):
                    for t in range(25):
                        p, z = prediction[b, t], target[b, t]
                        loss = loss - (p * z).sum() / (p.square().sum().sqrt() * z.square().sum().sqrt()) / (4 * 25)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for name, teacher in teachers.items():
                student = getattr(networks, name).encoder
                for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
                    mine.data = momentum * mine.data + (1 - momentum) * theirs.data
            found.append(loss.item())
            step += 1
            if step == steps:
                break
    return found, networks, teachers


def test_equals_a_slow_loop_written_from_the_paper(store, uninterrupted):
    losses, _, _ = slow_losses(store, 12)
    ours = [line["values"] for line in read_metrics(uninterrupted, "train")]
    assert [values["loss"] for values in ours[:12]] == pytest.approx(losses, abs=2e-4)
    assert ours[0]["loss"] == pytest.approx(losses[0], abs=1e-6)
    assert max(losses) - min(losses) > 0.1


def test_schedules_by_hand(uninterrupted):
    values = {line["step"]: line["values"] for line in read_metrics(uninterrupted, "train")}
    top = 1e-2 * math.sqrt(4 / 256)  # 6.25e-4
    assert values[1]["rate_encoders"] == pytest.approx(top / 4)
    assert values[4]["rate_encoders"] == pytest.approx(top)
    assert values[23]["rate_encoders"] == pytest.approx(top * (1 + math.cos(math.pi / 2)) / 2)  # half of 36 after 4
    assert values[40]["rate_encoders"] == pytest.approx(top * (1 + math.cos(math.pi * 35 / 36)) / 2)
    for v in values.values():
        assert v["rate_predictors"] == pytest.approx(top)
        assert v["teacher_momentum"] == pytest.approx(1 - 0.001 * 4 / 96)
        assert v["masked_share"] == 1


def test_remedies_change_what_they_should(store, tmp_path):
    codes, said = pretrain(store.root, tmp_path / "run", "epochs=5", "momentum_ramp=true", "teacher_momentum=0.94",
                           "mask_begin=0.5", "mask_share=0.2", "centred_targets=true", "mask_fill=clip_mean",
                           "predictor_rate=0.15", "batch=4")  # fmt: skip
    assert codes == [0], said
    values = [line["values"] for line in read_metrics(tmp_path / "run", "train")]
    assert [v["masked_share"] for v in values] == [0.0] * 10 + [0.2] * 10
    assert values[0]["rate_predictors"] == pytest.approx(0.15 * 1e-2 / 8)
    start = 1 - 0.06 * 4 / 96
    assert values[0]["teacher_momentum"] == pytest.approx(start)
    assert values[10]["teacher_momentum"] == pytest.approx(1 - (1 - start) / 2)
    assert values[-1]["teacher_momentum"] < 1


def test_bundle_has_all_parts_and_its_networks_compute_what_training_measured(store, uninterrupted):
    bundle = load_bundle(uninterrupted / "bundle")
    assert {part: sorted(modules) for part, modules in bundle.parts.items()} == {
        "video_student": ["backbone", "predictor", "projector"], "video_teacher": ["backbone", "projector"],
        "audio_student": ["backbone", "predictor", "projector"], "audio_teacher": ["backbone", "projector"],
    }  # fmt: skip
    for line in ("trained for 10 epochs", "generated", "| spread of the video targets | ", "On val clips"):
        assert line in bundle.card, line
    assert bundle.config["generated"] is True
    video = Student(create(bundle.config["backbone"]["name"], **bundle.config["backbone"]["arguments"]))
    for name, module in video.parts.items():
        load_into(module, bundle, f"video_student.{name}")
    assert (uninterrupted / "curves.png").read_bytes().startswith(b"\x89PNG")


# -------------------------------------------------------------------------------------------- interruption

@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_interrupted_and_resumed_is_the_uninterrupted(store, uninterrupted, tmp_path, number):
    run, arguments = tmp_path / "run", ["save_every=3"]
    process = start("pretrain", [f"store={store.root}", f"run={run}", *SMALL, *arguments], {}, tmp_path / "said")
    wait_for(run, random.randrange(4, 30), tmp_path / "said")
    os.kill(process.pid, number)
    assert finish(process) == (-9 if number == signal.SIGKILL else 143)
    assert not (run / "bundle").exists()
    codes, said = pretrain(store.root, run, *arguments)
    assert codes == [0] and "continuing after step" in said, said
    same_run(run, uninterrupted)
    codes, said = pretrain(store.root, run, *arguments)  # a third time: there is nothing left to do
    assert codes == [0] and "all 40 steps were made already" in said
    same_run(run, uninterrupted)


# ------------------------------------------------------------------------------------------------ ranks

def frozen_norms() -> None:
    """BatchNorm with fixed statistics: PyTorch synchronises them on GPUs only, so ranks on CPUs differ by them."""

    def forward(self: nn.modules.batchnorm._BatchNorm, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False)

    nn.BatchNorm1d.forward = nn.BatchNorm2d.forward = forward


@pytest.mark.parametrize("remedy", ["centred_targets=false", "centred_targets=true"])
def test_two_processes_with_half_the_batch_are_one_with_the_whole(store, tmp_path, remedy):
    plain = ("epochs=3", "validate_every=3", "validation_split=val", remedy)
    assert pretrain(store.root, tmp_path / "one", *plain, prepare=frozen_norms)[0] == [0]
    codes, said = pretrain(store.root, tmp_path / "two", *plain, world=2, prepare=frozen_norms)
    assert codes == [0, 0], said
    assert said.count("12 steps, 4 an epoch") == 1  # one of them speaks
    for whole, halves in zip(untimed(tmp_path / "one", "train"), untimed(tmp_path / "two", "train"), strict=True):
        for name in ("loss", "video_to_audio", "audio_to_video", "gradient_norm"):
            assert halves["values"][name] == pytest.approx(whole["values"][name], rel=2e-3, abs=2e-4), name
    ours, theirs = (load_file(tmp_path / name / "bundle/model.safetensors") for name in ("one", "two"))
    assert max((ours[key].float() - theirs[key].float()).abs().max().item() for key in ours) < 2e-3


def test_a_batch_in_two_parts_is_the_batch(store, tmp_path):
    plain = ("epochs=3", "validation_split=null")
    assert pretrain(store.root, tmp_path / "one", *plain, prepare=frozen_norms)[0] == [0]
    assert pretrain(store.root, tmp_path / "two", *plain, "accumulate=2", prepare=frozen_norms)[0] == [0]
    for whole, halves in zip(untimed(tmp_path / "one", "train"), untimed(tmp_path / "two", "train"), strict=True):
        assert halves["values"]["loss"] == pytest.approx(whole["values"]["loss"], rel=2e-3, abs=2e-4)


def test_recomputing_blocks_changes_no_digit(store, uninterrupted, tmp_path):
    assert pretrain(store.root, tmp_path / "run", "recompute=true")[0] == [0]
    assert untimed(tmp_path / "run") == untimed(uninterrupted)


@pytest.mark.parametrize("name, size", [("cnn_gru_attention", 112), ("cnn_gru_attention_small", 64), ("csn_r101", 112)])
def test_views_are_as_large_as_the_backbone_wants_them(name, size):
    """The CSN takes any size, so it gets the published one."""
    settings, _ = load("pretrain", ["store=s", "run=r", f"backbone={name}"], PretrainSettings)
    assert settings.views.size == size


# ---------------------------------------------------------------------------------------------- bad input

def test_bad_input_is_one_line_and_nothing_is_overwritten(store, uninterrupted, tmp_path):
    def refused(*arguments, data=store.root, run=tmp_path / "run", world=1):
        codes, said = pretrain(data, run, *arguments, world=world)
        assert set(codes) == {2} and "Traceback" not in said, said
        assert said.count("\n") == world, said
        return said

    silent = small_store(tmp_path / "silent", sound=False)
    assert "20 that match have no sound" in refused(data=silent.root).replace("16 that", "20 that")
    assert "no clips with split=test" in refused("validation_split=test")
    assert "a batch of 64 is larger than the data (16 clips an epoch)" in refused("batch=64")
    assert "did you mean" in refused("precision=fp61") and "known are bf16, fp16, fp32" in refused("precision=fp61")
    assert "run=DIR" in refused("run=null")
    assert "no such folder" in refused(data=tmp_path / "nowhere")
    assert "batch=4 cannot be divided equally among accumulate=3 parts" in refused("accumulate=3")
    assert "has no argument 'hiden' (did you mean hidden?)" in refused("+backbone.arguments.hiden=3")
    assert "unknown backbone=cnn_gru_atention; did you mean cnn_gru_attention?" in refused("backbone=cnn_gru_atention")
    assert "unknown settings lr" in refused("+lr=3")
    assert "warmup_epochs=20 is longer than the run (epochs=10)" in refused("warmup_epochs=20")
    assert not (tmp_path / "run").exists()

    before = {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}
    said = refused("backbone.arguments.hidden=16", run=uninterrupted)
    assert "belongs to other settings: backbone.arguments.hidden=16 (the run has 8)" in said
    newest = uninterrupted / "checkpoints/step-00000040/state.safetensors"
    newest.write_bytes(before[newest][:-100])
    said = refused("save_every=40", run=uninterrupted)
    assert "step-00000040 is damaged" in said
    newest.write_bytes(before[newest])
    unlike = [p for p, content in before.items() if p.read_bytes() != content and p.name not in (
        "environment.json", "run.lock", "config.yaml")]  # fmt: skip
    assert not unlike


def test_port_in_use_is_one_line(store, tmp_path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        environment = {**ranks(2)[0], "MASTER_PORT": port}
        process = start("pretrain", [f"store={store.root}", f"run={tmp_path / 'run'}", *SMALL], environment,
                        tmp_path / "said")  # fmt: skip
        assert finish(process) == 2
    said = (tmp_path / "said").read_text()
    assert f"port {port} on 127.0.0.1 is in use by another process" in said and said.count("\n") == 1


def test_a_bundle_of_another_backbone_is_refused_by_name(uninterrupted):
    bundle = load_bundle(uninterrupted / "bundle")
    with pytest.raises(UserError, match=r"backbone\.name=cnn_gru_attention, this run has backbone\.name=csn_r101"):
        load_into(nn.Linear(2, 2), bundle, "video_student.backbone", {"backbone.name": "csn_r101"})


def test_published_recipe_is_the_default_and_small_has_the_remedies():
    published, _ = load("pretrain", ["store=s", "run=r"], PretrainSettings)
    assert (published.batch, published.epochs, published.warmup_epochs) == (256, 150, 20)
    assert (published.learning_rate, published.weight_decay, published.teacher_momentum) == (7e-4, 1e-2, 0.999)
    assert (published.centred_targets, published.mask_fill, published.mask_begin, published.mask_share) == (
        False, "zero", 0, 1)  # fmt: skip
    assert (published.predictor_rate, published.momentum_ramp) == (1, False)
    assert published.backbone.name == "cnn_gru_attention"
    assert published.backbone.arguments == create_arguments("cnn_gru_attention")
    small, _ = load("pretrain", ["store=s", "run=r", "experiment=pretrain_small"], PretrainSettings)
    assert small.backbone.arguments["time_padding"] == "replicate"
    assert pytest.approx(small.learning_rate * math.sqrt(small.batch / 256)) == 2e-3
    assert pytest.approx(1 - (1 - small.teacher_momentum) * small.batch / 96) == 0.99
    assert small.centred_targets and small.momentum_ramp and small.mask_fill == "clip_mean"


def create_arguments(name):
    return {key: list(value) if isinstance(value, tuple) else value for key, value in arguments(name).items()}

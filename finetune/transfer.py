"""What passes from stage 1 to stage 2, strictly: every weight has its place or there is one line and nothing."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from backbones import create
from datasets.views import ViewSettings
from engine.bundle import Bundle, load_bundle, load_into
from engine.errors import UserError
from engine.settings import Network
from finetune.model import Student, Teacher


def start(init: Path | None, teaching: Path | None, backbone: Network | None, *, freeze: bool = False,
          recompute: bool = False) -> tuple[Network, Student, Teacher | None]:  # fmt: skip
    """The networks of a run: the student from the stage-1 bundle `init`, or new if there is none; the teacher from the
    bundle `teaching`, or none and with it no auxiliary task.

    The projector and predictor of the auxiliary task are new in any case: in stage 1 the student's predicted the sound.
    """
    if init is None:
        if backbone is None:
            raise UserError("init=none needs backbone=NAME: there is no bundle to tell it")
        network, bundle = backbone, None
    else:
        bundle = stage_1(init)
        network = backbone_of(bundle)
        if backbone is not None and backbone != network:
            raise UserError(f"bundle {init} has the backbone {_said(network)}, this run asks for {_said(backbone)}: "
                            "leave backbone= out, or give another init=")  # fmt: skip
    student = Student(network.built(create, recompute=recompute), auxiliary=teaching is not None, freeze=freeze)
    if bundle is not None:
        load_into(student.detector.backbone, bundle, "video_student.backbone")
    return network, student, None if teaching is None else _teacher(teaching)


def _teacher(teaching: Path) -> Teacher:
    bundle = stage_1(teaching)
    teacher = Teacher(backbone_of(bundle).built(create))
    for name, module in (("backbone", teacher.backbone), ("projector", teacher.projector)):
        load_into(module, bundle, f"video_teacher.{name}")
    return teacher


def stage_1(folder: Path) -> Bundle:
    bundle = load_bundle(folder)
    if bundle.config.get("stage") != "pretrain":
        raise UserError(f"{folder}: expected a bundle of stage 1 (crosstalk pretrain); its config.yaml says stage "
                        f"{bundle.config.get('stage')}")  # fmt: skip
    return bundle


def backbone_of(bundle: Bundle, key: str = "backbone") -> Network:
    """The video backbone that a bundle of either stage says it has, or its "audio_backbone"."""
    chosen = bundle.config.get(key)
    if not isinstance(chosen, dict) or not isinstance(chosen.get("name"), str) or not isinstance(
            chosen.get("arguments"), dict):  # fmt: skip
        raise UserError(f"{bundle.folder}: config.yaml does not say which {key} it has")
    return Network(chosen["name"], chosen["arguments"])


def views_of(bundle: Bundle) -> ViewSettings:
    """As in training; what a bundle does not say, and an imported one says nothing, is as published."""
    given = bundle.config.get("views") or {}
    unknown = [str(key) for key in given if key not in {field.name for field in fields(ViewSettings)}]
    if unknown:
        raise UserError(f"{bundle.folder}: config.yaml has unknown views: {', '.join(unknown)}")
    try:
        return ViewSettings(**given)
    except (TypeError, ValueError) as error:
        raise UserError(f"{bundle.folder}: config.yaml, views: {error}") from error


def _said(network: Network) -> str:
    return f"{network.name} with {network.arguments}" if network.arguments else network.name


"""What passes from stage 1 to stage 2, strictly: every weight has its place or there is one line and nothing."""

from __future__ import annotations

from pathlib import Path

from backbones import create
from engine.bundle import Bundle, load_bundle, load_into
from engine.errors import UserError
from engine.settings import Network
from finetune.model import Student, Teacher


def start(init: Path | None, backbone: Network | None, *, auxiliary: bool, freeze: bool = False,
          ) -> tuple[Network, Student, Teacher | None]:  # fmt: skip
    """The networks of a run: from a stage-1 bundle, or from scratch if `init` is None.

    The projector and predictor of the auxiliary task are new: in stage 1 the student's predicted the sound.
    """
    if init is None:
        if backbone is None:
            raise UserError("init=none needs backbone=NAME: there is no bundle to tell it")
        return backbone, Student(backbone.built(create), auxiliary=False), None
    bundle = load_bundle(init)
    network = _backbone_of(bundle)
    if backbone is not None and backbone != network:
        raise UserError(f"bundle {init} has the backbone {_said(network)}, this run asks for {_said(backbone)}: "
                        "leave backbone= out, or give another init=")  # fmt: skip
    student = Student(network.built(create), auxiliary=auxiliary, freeze=freeze)
    load_into(student.detector.backbone, bundle, "video_student.backbone")
    teacher = None
    if auxiliary:
        teacher = Teacher(network.built(create))
        for name, module in (("backbone", teacher.backbone), ("projector", teacher.projector)):
            load_into(module, bundle, f"video_teacher.{name}")
    return network, student, teacher


def _backbone_of(bundle: Bundle) -> Network:
    stage = bundle.config.get("stage")
    if stage != "pretrain":
        raise UserError(f"init={bundle.folder}: expected a bundle of stage 1 (crosstalk pretrain), its config.yaml "
                        f"says stage {stage}")  # fmt: skip
    chosen = bundle.config.get("backbone")
    if not isinstance(chosen, dict) or not isinstance(chosen.get("name"), str) or not isinstance(
            chosen.get("arguments"), dict):  # fmt: skip
        raise UserError(f"init={bundle.folder}: config.yaml does not say which backbone it has")
    return Network(chosen["name"], chosen["arguments"])


def _said(network: Network) -> str:
    return f"{network.name} with {network.arguments}" if network.arguments else network.name


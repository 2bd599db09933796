"""`crosstalk import`: a checkpoint of the original CSN work becomes a bundle, weight by weight or not at all.

Haliassos et al., "Leveraging Real Talking Faces via Self-Supervision for Robust Forgery Detection", CVPR 2022. Its
networks are ours under other names, so nothing is computed: each weight of ours is looked up under its name there.
The tables below go from our names to theirs, for then the names that a file must have, no more and no fewer, are known
beforehand.

    stage 1   model1 (video) and model2 (audio), each backbone, projector, predictor, target_backbone, target_projector;
              as an earlier version of that work wrote them, the last two are target_encoder.0 and target_encoder.1
    stage 2   backbone, df_head and, unless it trained without the auxiliary task, ssl_head and target_encoder; its
              published files hold the first two only
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from backbones import create
from backbones.heads import CosineClassifier, Predictor, Projector
from engine.bundle import save_bundle
from engine.errors import UserError
from engine.files import said_plainly
from engine.settings import Needed, load_exactly
from engine.weights import load_strictly
from evaluation.inert_pickle import read_weights, shown

BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {"video": ("csn_r101", {}), "audio": ("audio_resnet18", {})}
# What names inside a module begin with, ours: theirs. Video backbones are pytorchvideo's in both works, and the last
# block of theirs, `blocks.5`, is an average without weights.
AUDIO_BACKBONE = {"": "model."}
HEADS = {
    "projector": {"linear.": "net.", "norm.": "norm_layer."},
    "predictor": {
        "input.": "projection_layer.",
        "block.attention_norm.": "transformer.layers.0.0.norm.",
        "block.attention.qkv.": "transformer.layers.0.0.fn.to_qkv.",
        "block.attention.output.": "transformer.layers.0.0.fn.to_out.0.",
        "block.mlp_norm.": "transformer.layers.0.1.norm.1.",  # 0 and 2 transpose
        "block.mlp_in.": "transformer.layers.0.1.fn.net.0.",
        "block.mlp_out.": "transformer.layers.0.1.fn.net.3.",
        "norm.": "mlp_head.1.",
        "output.": "mlp_head.3.",
    },
}
PROBES = ("prober_video.", "prober_audio.")  # classifiers that watch stage 1 without touching it: no part of the method
STAGES = {"pretrain": "stage 1", "finetune": "stage 2"}
COUNTER = "num_batches_tracked"  # of batches that a BatchNorm saw; nothing computes with it


@dataclass(frozen=True)
class ImportSettings:
    """configs/import.yaml explains each."""

    checkpoint: Annotated[Path, Needed("CHECKPOINT is missing: crosstalk import FILE out=DIR, FILE a .pth or .ckpt of "
                                       "that work")]  # fmt: skip
    out: Annotated[Path, Needed("out=DIR is missing: where the bundle goes")]


@dataclass(frozen=True)
class Published:
    """A checkpoint that was understood."""

    stage: str  # pretrain or finetune, as the verbs that make such bundles here
    modules: dict[str, nn.Module]  # by our names: video_student.backbone, ..., classifier
    weights: int
    left_out: tuple[str, ...]  # names of the probes' weights
    without_counters: bool


def main(arguments: Sequence[str]) -> int:
    settings = load_exactly("import", _with_key(arguments), ImportSettings)
    path, out = settings.checkpoint, settings.out
    if out.exists():
        raise UserError(f"out={out} exists already: choose another folder")
    published = understood(read_weights(path), str(path))
    with said_plainly(f"checkpoint={path}"), path.open("rb") as file:
        digest = hashlib.file_digest(file, "blake2b").hexdigest()
    source = {"file": path.name, "bytes": path.stat().st_size, "blake2b": digest}
    save_bundle(out, _parts(published.modules), _config(published, source), _card(published, source))
    print(f"{path}: {STAGES[published.stage]} of the original work, {published.weights} weights")
    print(f"parts: {', '.join(published.modules)}")
    for line in _remarks(published):
        print(line)
    print(f"bundle: {out}")
    return 0


def understood(weights: dict[str, Tensor], where: str) -> Published:
    """Networks of ours with the weights of a state dict of theirs; `where` begins an error's line."""
    left_out = tuple(name for name in weights if name.startswith(PROBES))
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(PROBES)}
    if all(name.startswith("model.") for name in weights):  # of the training's object, not of the network alone
        weights = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    stage, prefixes = _stage(weights, where)
    modules = _created(prefixes)
    names = {module: {_their_name(module, prefixes[module], key): key for key in modules[module].state_dict()}
             for module in modules}  # fmt: skip
    expected = {name for theirs in names.values() for name in theirs}
    count = len(weights)
    without_counters = not any(name.endswith(COUNTER) for name in weights)
    if without_counters:
        weights |= {name: torch.tensor(0) for name in expected if name.endswith(COUNTER)}
    problems = []
    for what, found in (("missing", expected - weights.keys()), ("unexpected", weights.keys() - expected)):
        if found:
            problems.append(f"{len(found)} {what}: {_first(sorted(found))}")
    if problems:
        raise UserError(f"{where} is not {STAGES[stage]} of the original work, weights {'; '.join(problems)}")
    for module, theirs in names.items():
        ours = modules[module].state_dict()
        for name, key in theirs.items():
            if weights[name].dtype != ours[key].dtype:  # loading would convert it
                raise UserError(f"{where}: {name} holds {weights[name].dtype}; expected {ours[key].dtype}")
        state = {key: weights[name] for name, key in theirs.items()}
        load_strictly(modules[module], state, f"{where}: {prefixes[module]}* as our {module}")
    return Published(stage, modules, count, left_out, without_counters)


def _stage(weights: dict[str, Tensor], where: str) -> tuple[str, dict[str, str]]:
    """Which stage's, and what the names of each module of ours begin with there."""

    def has(beginning: str) -> bool:
        return any(name.startswith(beginning) for name in weights)

    if has("model1.") or has("model2."):
        prefixes: dict[str, str] = {}
        for sort, model in (("video", "model1"), ("audio", "model2")):
            early = has(f"{model}.target_encoder.")
            prefixes |= {f"{sort}_student.{module}": f"{model}.{module}."
                         for module in ("backbone", "projector", "predictor")}  # fmt: skip
            prefixes[f"{sort}_teacher.backbone"] = f"{model}.{'target_encoder.0' if early else 'target_backbone'}."
            prefixes[f"{sort}_teacher.projector"] = f"{model}.{'target_encoder.1' if early else 'target_projector'}."
        return "pretrain", prefixes
    if has("backbone.") or has("df_head."):
        prefixes = {"video_student.backbone": "backbone."}
        if has("ssl_head."):
            prefixes |= {"video_student.projector": "ssl_head.0.", "video_student.predictor": "ssl_head.1."}
        if has("target_encoder."):
            prefixes |= {"video_teacher.backbone": "target_encoder.0.", "video_teacher.projector": "target_encoder.1."}
        return "finetune", prefixes | {"classifier": "df_head."}
    raise UserError(f"{where} is no checkpoint of the original work: expected names that begin with model.model1. "
                    f"(stage 1) or backbone. (stage 2), found {_first(weights) or 'nothing'}")  # fmt: skip


def _created(names: Iterable[str]) -> dict[str, nn.Module]:
    """Our modules of these names; a part's backbone comes before what stands upon it."""
    modules: dict[str, nn.Module] = {}
    dims: dict[str, int] = {}  # of each part's backbone
    for name in names:
        part, _, module = name.partition(".")
        if module == "backbone":
            chosen, arguments = BACKBONES[part.partition("_")[0]]
            modules[name] = backbone = create(chosen, **arguments)
            dims[part] = backbone.dim
        elif module == "projector":
            modules[name] = Projector(dims[part])
        elif module == "predictor":
            modules[name] = Predictor()
        else:
            modules[name] = CosineClassifier(dims["video_student"])
    return modules


def _their_name(module: str, prefix: str, key: str) -> str:
    audio = module.startswith("audio_") and module.endswith(".backbone")
    table = AUDIO_BACKBONE if audio else HEADS.get(module.partition(".")[2], {})
    for ours, theirs in table.items():
        if key.startswith(ours):
            return prefix + theirs + key.removeprefix(ours)
    return prefix + key


def _parts(modules: dict[str, nn.Module]) -> dict[str, nn.Module | dict[str, nn.Module]]:
    parts: dict[str, Any] = {}
    for name, module in modules.items():
        part, _, inner = name.partition(".")
        if inner:
            parts.setdefault(part, {})[inner] = module
        else:
            parts[part] = module
    return parts


def _config(published: Published, source: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {"stage": published.stage}
    for key, sort in (("backbone", "video"), ("audio_backbone", "audio")):
        name, arguments = BACKBONES[sort]
        config[key] = {"name": name, "arguments": arguments}
    config |= {"views": {}, "imported_from": source}
    if published.stage == "finetune":
        config["calibration"] = None
    return config


def _remarks(published: Published) -> list[str]:
    """What is not as in the file, and a reader should know."""
    remarks = []
    if published.left_out:
        remarks.append(f"left out: {len(published.left_out)} weights of probes that watched the training")
    if published.without_counters:
        remarks.append("BatchNorm's counters of batches are not in the file: they are 0; nothing computes with them")
    return remarks


def _card(published: Published, source: dict[str, Any]) -> str:
    finetuned = published.stage == "finetune"
    what = "A detector of forged faces (stage 2)" if finetuned else "Networks pretrained on real clips (stage 1)"
    lines = [
        "# Imported weights of the original CSN work",
        "",
        f"{what} by the authors of Haliassos, Mira, Petridis and Pantic, \"Leveraging Real Talking Faces via "
        "Self-Supervision for Robust Forgery Detection\", CVPR 2022, or by whoever trained with their code. "
        "**Nothing in it was trained by Crosstalk**; the weights were given other names and no other values.",
        "",
        f"- file: `{shown(source['file'])}`, {source['bytes']:,} bytes, BLAKE2b `{source['blake2b']}`",
        f"- parts: {', '.join(published.modules)}",
        *(f"- {remark}" for remark in _remarks(published)),
        "- trained on: the file does not say; see where you got it",
        "- licence: its authors', not Crosstalk's; the data that it was trained on has terms of its own",
        "",
        "It expects 25 frames of an aligned face at 25 fps, the centre 140 of 150 pixels resized to 112, RGB, ImageNet "
        "mean and deviation, as `crosstalk prepare` and the views give them.",
    ]
    if finetuned:
        lines += ["", "Not calibrated: no threshold is known for its scores. No figure of ours was measured with it."]
    return "\n".join(lines) + "\n"


def _with_key(arguments: Sequence[str]) -> list[str]:
    """The first argument that is no setting is CHECKPOINT, also if it is a file like `epoch=149.ckpt`."""
    arguments, keys = list(arguments), {field.name for field in fields(ImportSettings)}
    for place, argument in enumerate(arguments):
        option = argument.startswith(("-", "~")) or argument == "help" or arguments[place - 1 : place] == ["--cfg"]
        setting = "=" in argument and (argument.partition("=")[0] in keys or not Path(argument).is_file())
        if not option and not setting:
            arguments[place] = f"checkpoint={argument}"
            break
    return arguments


def _first(names: Iterable[str], count: int = 3) -> str:
    names = [shown(name) for name in names]
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")

"""A bundle: trained weights as others get them. A folder with

    model.safetensors    keys are PART.MODULE.PARAMETER: video_student.backbone.conv1.weight
    config.yaml          the settings that made it, among them what is needed to build the networks
    card.md              what it was trained on, its metrics, its threshold

Reading one runs no code of whoever wrote it. Stage 1 writes the parts video_student, video_teacher, audio_student and
audio_teacher, each with the modules backbone and projector and, for students, predictor.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from engine.errors import UserError
from engine.files import require_folder, said_plainly, write_atomically
from engine.run import plain, read_config
from engine.tree import load_tensors, save_tensors
from engine.weights import load_strictly

FORMAT = "crosstalk bundle 1"
State = dict[str, Tensor]


@dataclass(frozen=True)
class Bundle:
    folder: Path
    config: dict[str, Any]
    card: str
    parts: dict[str, dict[str, State]]  # part -> module -> state dict; a part that is one module has the module ""

    def __getitem__(self, part: str) -> dict[str, State]:
        """bundle["video_student"]["backbone"] is a state dict."""
        return self.parts[part]

    def state(self, name: str) -> State:
        """The state dict of `part.module`, or of a part that is one module."""
        part, _, module = name.partition(".")
        if module not in self.parts.get(part, {}):
            has = ", ".join(f"{p}.{m}".rstrip(".") for p, modules in self.parts.items() for m in modules)
            raise UserError(f"bundle {self.folder} has no {name}; it has {has}")
        return self.parts[part][module]


def save_bundle(
    folder: Path,
    parts: Mapping[str, nn.Module | Mapping[str, nn.Module]],
    config: Any,
    card: str,
    *,
    overwrite: bool = False,
) -> None:
    """Written beside its place and renamed. Main rank only. `overwrite` replaces a bundle, never anything else."""
    if folder.exists() and not (overwrite and (folder / "model.safetensors").exists()):
        is_bundle = (folder / "model.safetensors").exists()
        hint = "it is a bundle; overwrite=true replaces it" if is_bundle else "choose another folder"
        raise UserError(f"{folder} exists already: {hint}")
    tensors: State = {}
    layout: dict[str, list[str]] = {}
    for part, content in parts.items():
        modules = {"": content} if isinstance(content, nn.Module) else content
        if any("." in name for name in (part, *modules)):
            raise ValueError(f"names of parts and modules hold no dots: {part}, {', '.join(modules)}")
        layout[part] = list(modules)
        for name, module in modules.items():
            prefix = f"{part}.{name}." if name else f"{part}."
            tensors.update({prefix + key: tensor for key, tensor in module.state_dict().items()})
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    replaced = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    with said_plainly(f"bundle {folder}"):
        try:
            temporary.mkdir(parents=True)
            save_tensors(temporary / "model.safetensors", tensors, {"format": FORMAT, "parts": json.dumps(layout)})
            write_atomically(temporary / "config.yaml",
                             yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True))  # fmt: skip
            write_atomically(temporary / "card.md", card)
            if folder.exists():  # a folder cannot take another's place in one go
                folder.rename(replaced)
            try:
                temporary.rename(folder)
            except OSError:
                if replaced.exists():
                    replaced.rename(folder)
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def load_bundle(folder: Path | str) -> Bundle:
    folder = Path(folder)
    if not folder.exists():
        written = "crosstalk pretrain and crosstalk finetune write theirs to RUN/bundle"
        raise UserError(f"no bundle at {folder}: no such folder; {written}")
    require_folder(folder, "bundle")
    missing = [name for name in ("model.safetensors", "config.yaml", "card.md") if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} is no bundle: it lacks {', '.join(missing)}")
    path = folder / "model.safetensors"
    tensors = load_tensors(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        layout = json.loads(metadata.get("parts", "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if metadata.get("format") != FORMAT or not isinstance(layout, dict):
        raise UserError(f"{path} says format {metadata.get('format')!r}; this version reads {FORMAT!r}")
    parts: dict[str, dict[str, State]] = {part: {module: {} for module in modules} for part, modules in layout.items()}
    for key, tensor in tensors.items():
        part, _, rest = key.partition(".")
        module, _, name = rest.partition(".")
        if "" in parts.get(part, {}):
            parts[part][""][rest] = tensor
        elif module in parts.get(part, {}):
            parts[part][module][name] = tensor
        else:
            raise UserError(f"{path}: {key} belongs to none of the parts that the file lists")
    return Bundle(folder, read_config(folder / "config.yaml"), (folder / "card.md").read_text(), parts)


def load_into(module: nn.Module, bundle: Bundle, name: str, expects: Mapping[str, Any] | None = None) -> None:
    """Load `part.module` of the bundle into a module, strictly: all of it, or one line and nothing.

    `expects` are settings (dotted keys) that the bundle's must equal, so that a bundle of another backbone is refused
    with its name rather than with a list of weights: `expects={"video_backbone": "csn_r101"}`.
    """
    for key, wanted in (expects or {}).items():
        value: Any = bundle.config
        for word in key.split("."):
            value = value.get(word) if isinstance(value, Mapping) else None
        if value != wanted:
            raise UserError(f"bundle {bundle.folder} was made with {key}={value}, this run has {key}={wanted}")
    load_strictly(module, bundle.state(name), f"bundle {bundle.folder}: {name}")

"""Nested state (of optimisers, loaders, generators) as two files without pickle: tensors in safetensors, the rest in
JSON. Reading such files runs no code, whoever wrote them.

JSON alone would turn tuples into lists and integer keys into text, so containers are written as {"dict": [[key,
value], ...]}, {"list": [...]}, {"tuple": [...]}, and a tensor as {"tensor": its name in the safetensors file}.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from engine.errors import UserError


def save_tree(folder: Path, name: str, tree: Any) -> None:
    """Write NAME.safetensors and NAME.json, flushed to the disk."""
    tensors: dict[str, Tensor] = {}
    encoded = _encoded(tree, "", tensors)
    save_tensors(folder / f"{name}.safetensors", tensors)
    with (folder / f"{name}.json").open("w") as file:
        json.dump(encoded, file)
        file.flush()
        os.fsync(file.fileno())


def load_tree(folder: Path, name: str) -> Any:
    tensors = load_tensors(folder / f"{name}.safetensors")
    path = folder / f"{name}.json"
    try:
        return _decoded(json.loads(path.read_text()), tensors)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Tensors that share memory are written each by itself; what shares is the module's to know."""
    storages: set[int] = set()
    prepared = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        prepared[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    try:
        safetensors.torch.save_file(prepared, path, metadata)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    with path.open("rb") as file:
        os.fsync(file.fileno())


def load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read, it is damaged or no safetensors file: {error}") from error


def _encoded(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[place] = value
        return {"tensor": place}
    if isinstance(value, Mapping):
        if not all(type(key) in (str, int, float, bool, type(None)) for key in value):
            raise TypeError(f"keys at {place or 'the top'} must be text or numbers, not {list(value)}")
        # Text and number of the same looks must not meet: "~" marks what is no text, and itself is doubled.
        names = [key.replace("~", "~~").replace("/", "~s") if isinstance(key, str) else f"~{key!r}" for key in value]
        triples = zip(value, names, value.values(), strict=True)
        return {"dict": [[key, _encoded(item, f"{place}/{name}".lstrip("/"), tensors)] for key, name, item in triples]}
    if type(value) in (list, tuple):
        items = [_encoded(item, f"{place}/{number}".lstrip("/"), tensors) for number, item in enumerate(value)]
        return {type(value).__name__: items}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"{place or 'the top'} holds a {type(value).__name__}, which a checkpoint cannot")


def _decoded(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    (kind, content), = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _decoded(item, tensors) for key, item in content}
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](_decoded(item, tensors) for item in content)
    raise ValueError(f"unknown kind {kind}")


def same(a: Any, b: Any) -> bool:
    """Whether two trees are equal, to the bit and to the type."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.cpu(), b.cpu())
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)

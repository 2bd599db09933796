"""Checkpoints: all that a killed run needs to go on as if nothing had happened, written whole or not at all.

    checkpoints/step-00000123/
        state.safetensors, state.json      rank 0: networks, optimisers, loader position, ... by name
        rank-0.safetensors, rank-0.json    each rank: its random state
        config.yaml                        the resolved settings
        complete.json                      written last: step, ranks, size and BLAKE2b of every file

The folder is filled under a hidden name, flushed to the disk and renamed, so a `step-` folder is complete when it
appears. One that is damaged later is never passed over in silence.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml
from torch import nn

from engine.distributed import Context
from engine.errors import UserError
from engine.files import require_folder, write_atomically
from engine.randomness import Randomness
from engine.tree import load_tree, save_tree
from engine.weights import load_strictly


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Resumed:
    step: int  # updates that the saved run had made
    folder: Path
    note: str | None  # one line for the user, where the resumed run cannot equal the uninterrupted one


class Checkpoints:
    """The checkpoints of one run. All ranks call every method."""

    FORMAT = 1

    def __init__(self, folder: Path, context: Context, randomness: Randomness, config: Mapping[str, Any],
                 *, keep: int = 2):  # fmt: skip
        if keep < 1:
            raise UserError(f"keep={keep}: at least one checkpoint must be kept")
        self.folder, self._context, self._randomness = folder, context, randomness
        self._config, self._keep = dict(config), keep
        with context.together(f"checkpoints in {folder}"):
            if context.is_main:
                folder.mkdir(parents=True, exist_ok=True)
                for stale in folder.glob(".step-*.tmp"):  # of a process that was killed while saving or removing
                    shutil.rmtree(stale)

    # ------------------------------------------------------------------------------------------------ save

    def save(self, step: int, parts: Mapping[str, Stateful]) -> Path:
        """`step` updates have been made. Flush the journal before, so that it never lacks what a checkpoint has."""
        final, temporary = self._named(step), self.folder / f".{self._named(step).name}.tmp"
        if self._context.any(self._context.is_main and final.exists()):
            return final  # stopped right after it was saved, or right after resuming from it
        doing = f"saving checkpoint {final}"
        with self._context.together(doing):
            if self._context.is_main:
                temporary.mkdir()
        with self._context.together(doing):
            save_tree(temporary, f"rank-{self._context.rank}", self._randomness.state_dict())
            if self._context.is_main:
                save_tree(temporary, "state", {name: part.state_dict() for name, part in parts.items()})
                write_atomically(temporary / "config.yaml", yaml.safe_dump(self._config, sort_keys=False))
        with self._context.together(doing):
            if self._context.is_main:
                files = {path.name: _identity(path) for path in sorted(temporary.iterdir())}
                facts = {"format": self.FORMAT, "step": step, "world": self._context.world, "files": files}
                write_atomically(temporary / "complete.json", json.dumps(facts, indent=1))
                _flush_folder(temporary)
                temporary.rename(final)
                _flush_folder(self.folder)
                self._retire()
        return final

    def _retire(self) -> None:
        for old in self.saved()[: -self._keep]:
            hidden = old.with_name(f".{old.name}.tmp")  # a half removed one must not look like a damaged one
            old.rename(hidden)
            shutil.rmtree(hidden)

    def _named(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def saved(self) -> list[Path]:
        """Oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name))

    # ------------------------------------------------------------------------------------------------ load

    def load(self, parts: Mapping[str, Stateful], path: Path | None = None) -> Resumed | None:
        """Restore the newest checkpoint, or the one at `path`; None if there is none, which is how a run begins.

        A damaged one is an error that names the newest whole one; the user decides. When going on from an older one of
        this run, the newer ones are set aside under another name.
        """
        if path is None:
            newest = self.saved()[-1:] if self._context.is_main else []
            step = self._context.highest(int(newest[0].name.removeprefix("step-")) if newest else -1)
            if step < 0:
                return None
            path = self._named(step)
        doing = f"resuming from {path}"
        with self._context.together(doing):
            require_folder(path, "checkpoint")
            if self._context.is_main:
                self._require_whole(path)
        with self._context.together(doing):
            facts = json.loads((path / "complete.json").read_text())
            self._restore(load_tree(path, "state"), parts, path)
            note = self._restore_randomness(path, facts)
        with self._context.together(doing):
            if self._context.is_main and path.resolve().parent == self.folder.resolve():
                for newer in self.saved():
                    if newer.name > path.name:
                        newer.rename(_unused(newer.with_name(f"aside-{newer.name}")))
        return Resumed(facts["step"], path, note)

    def _require_whole(self, path: Path) -> None:
        why = _damage(path)
        if why is None:
            return
        whole = next((other for other in reversed(self.saved()) if other != path and _damage(other) is None), None)
        way_out = f"{whole} is whole: checkpoint={whole} continues from it" if whole else "no other one is whole"
        raise UserError(f"checkpoint {path} is damaged ({why}); {way_out}")

    def _restore(self, state: dict[str, Any], parts: Mapping[str, Stateful], path: Path) -> None:
        if state.keys() != parts.keys():
            raise UserError(f"checkpoint {path} holds {', '.join(sorted(state))}; "
                            f"this run needs {', '.join(sorted(parts))}")  # fmt: skip
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                load_strictly(part, state[name], f"checkpoint {path}: {name}")
                continue
            try:
                part.load_state_dict(state[name])
            except (KeyError, ValueError, RuntimeError) as error:
                raise UserError(f"checkpoint {path}: {name} does not fit: {error}") from error

    def _restore_randomness(self, path: Path, facts: dict[str, Any]) -> str | None:
        world, step = self._context.world, facts["step"]
        if facts["world"] != world:
            self._randomness.start(step)
            return (f"the number of ranks was {facts['world']} and is {world}: random states start afresh "
                    f"from seed, rank and step {step}")  # fmt: skip
        state = load_tree(path, f"rank-{self._context.rank}")
        try:
            self._randomness.load_state_dict(state)
        except (KeyError, ValueError, RuntimeError) as error:
            raise UserError(f"checkpoint {path}: the random state does not fit: {error}") from error
        if self._context.device.type == "cuda" and "cuda" not in state:
            return "saved on a CPU, resumed on a GPU: the GPU's random state starts from the seed"
        return None


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    listed = path / "complete.json"
    try:
        facts = json.loads(listed.read_text())
        if facts["format"] != Checkpoints.FORMAT:
            return f"format {facts['format']}, this version reads {Checkpoints.FORMAT}"
        for name, identity in facts["files"].items():
            if not (path / name).is_file():
                return f"{name} is missing"
            if (path / name).stat().st_size != identity["bytes"]:
                return f"{name} has {(path / name).stat().st_size} of {identity['bytes']} bytes"
            if _identity(path / name) != identity:
                return f"the contents of {name} have changed"
    except FileNotFoundError:
        return "complete.json is missing"
    except (ValueError, KeyError, TypeError):
        return "complete.json cannot be read"
    return None


def _identity(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "blake2b": hashlib.file_digest(file, "blake2b").hexdigest()}


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unused(path: Path) -> Path:
    number, candidate = 1, path
    while candidate.exists():
        number, candidate = number + 1, path.with_name(f"{path.name}.{number}")
    return candidate

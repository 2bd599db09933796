"""The run folder: one configuration, one process group at a time, and a record of what ran.

    config.yaml        the resolved settings; a resumed run must have the same
    environment.json   each session: when, where, which code and versions
    checkpoints/  metrics.jsonl  tensorboard/  bundle/
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml

from engine.distributed import Context
from engine.errors import UserError
from engine.files import alone, write_atomically

PROJECT = Path(__file__).resolve().parent.parent
RECORDED_VERSIONS = ("torch", "torchvision", "torchaudio", "numpy", "av", "hydra-core", "submitit")


@dataclass(frozen=True)
class Run:
    folder: Path
    resumed: bool  # the folder held this run already
    notes: tuple[str, ...]  # lines for the user: settings that changed and may, another code revision

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"


@contextmanager
def open_run(
    folder: Path, config: Any, context: Context, *, may_differ: Sequence[str] = ()
) -> Iterator[Run]:
    """Create the folder or find the run in it, and hold it until the end. All ranks call it.

    `config` is a settings dataclass or a dictionary. `may_differ` names keys that do not change what is computed
    (`workers`, `device`), or whole groups of them (`cluster` stands for `cluster.partition`).
    """
    here = plain(config)
    resumed = False
    notes: tuple[str, ...] = ()
    with ExitStack() as held:
        with context.together(f"run folder {folder}"):
            if context.is_main:
                folder.mkdir(parents=True, exist_ok=True)
                lock = held.enter_context((folder / "run.lock").open("a+"))
                held.enter_context(alone(lock, f"run folder {folder} is in use by HOLDER: wait for it, or choose "
                                               "another run="))  # fmt: skip
                resumed, notes = _settled(folder, here, may_differ)
                notes += _record_session(folder, context)
        yield Run(folder, context.any(resumed), notes)


def plain(config: Any) -> Any:
    """Settings as YAML knows them: dictionaries, lists, text, numbers."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected keys and values")
    return config


def differences(before: Mapping[str, Any], now: Mapping[str, Any], may_differ: Sequence[str] = ()) -> dict[str, str]:
    """Key -> `key=now (the run has before)`, of keys that are not allowed to differ."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    absent = object()
    found = {}
    for key in [*new, *(key for key in old if key not in new)]:
        was, is_ = old.get(key, absent), new.get(key, absent)
        allowed = any(key == name or key.startswith(f"{name}.") for name in may_differ)
        if was != is_ and not allowed:
            ours = f"without {key}" if is_ is absent else f"{key}={_shown(is_)}"
            found[key] = f"{ours} (the run has {'none' if was is absent else _shown(was)})"
    return found


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _settled(folder: Path, here: dict[str, Any], may_differ: Sequence[str]) -> tuple[bool, tuple[str, ...]]:
    path = folder / "config.yaml"
    if not path.exists():
        ours = [name for name in ("checkpoints", "metrics.jsonl", "bundle") if (folder / name).exists()]
        if ours:
            raise UserError(f"{folder} holds {', '.join(ours)} but no config.yaml: it is not a run that could be "
                            "continued; choose another run=")  # fmt: skip
        write_atomically(path, yaml.safe_dump(here, sort_keys=False, allow_unicode=True))
        return False, ()
    before = read_config(path)
    here = yaml.safe_load(yaml.safe_dump(here, sort_keys=False))  # what YAML makes of it, as it made of the other
    refused = list(differences(before, here, may_differ).values())
    if refused:
        more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise UserError(f"run folder {folder} belongs to other settings: {', '.join(refused[:5])}{more}; "
                        "choose another run=, or the run's own settings")  # fmt: skip
    changed = tuple(f"resumed with {line}" for line in differences(before, here).values())
    if changed:
        write_atomically(path, yaml.safe_dump(here, sort_keys=False, allow_unicode=True))
    return True, changed


def _record_session(folder: Path, context: Context) -> tuple[str, ...]:
    path = folder / "environment.json"
    try:
        sessions = json.loads(path.read_text())["sessions"] if path.exists() else []
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove it, it is only a record") from error
    revision = code_revision()
    gpu = torch.cuda.get_device_name(context.device) if context.device.type == "cuda" else None
    sessions.append({
        "began": datetime.now(UTC).isoformat(timespec="seconds"), "host": platform.node(), "command": sys.argv,
        "ranks": context.world, "device": gpu or "cpu", "code": revision, "python": platform.python_version(),
        "versions": {name: _version(name) for name in RECORDED_VERSIONS},
    })  # fmt: skip
    write_atomically(path, json.dumps({"sessions": sessions}, indent=1))
    if len(sessions) > 1 and sessions[-2].get("code") != revision:
        return (f"resumed with code {revision}, the session before ran {sessions[-2].get('code')}",)
    return ()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def code_revision() -> str | None:
    """What git calls this code, `-dirty` if it was changed since; None where there is no git. The copy that a submitted
    job runs carries a note of it (slurm/snapshot.py)."""
    noted = PROJECT / "REVISION"
    if noted.exists():
        return noted.read_text().strip()
    try:
        answer = subprocess.run(["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--tags"],
                                capture_output=True, text=True, timeout=20)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None

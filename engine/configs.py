"""What the YAML files in `configs/` say, read as they are, without Hydra: keys, groups and their choices, help."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def verbs() -> list[str]:
    """Those that have settings."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def text_of(verb: str) -> str:
    return (CONFIGS / f"{verb}.yaml").read_text()


def defaults(verb: str) -> dict[str, Any]:
    """The verb's own keys and what they are unless somebody says otherwise."""
    found: dict[str, Any] = yaml.safe_load(text_of(verb))
    return {key: value for key, value in found.items() if key != "defaults"}


def known_keys(verb: str) -> list[str]:
    return sorted({*defaults(verb), *groups(verb)})


def groups(verb: str) -> list[str]:
    """Keys whose values are names of files: `data`, `backbone` and the like."""
    listed = yaml.safe_load(text_of(verb)).get("defaults", [])
    return [next(iter(item)) for item in listed if isinstance(item, dict)]


def choices(group: str) -> dict[str, Path]:
    return {path.stem: path for path in sorted((CONFIGS / group).glob("*.yaml"))}


def brought(group: str, name: str) -> dict[str, Any]:
    """The verb's keys that this choice sets; its own options are among them. A network's arguments are not."""
    text = choices(group)[name].read_text()
    found: dict[str, Any] = yaml.safe_load(text) or {}
    return {key: value for key, value in found.items() if key != "defaults"} if "@package _global_" in text else {}


def help_text(verb: str, arguments: Sequence[str] = ()) -> str:
    """The verb's own YAML, defaults with their meaning, without Hydra's list of groups; then the groups' choices."""
    lines = [f"crosstalk {verb} key=value ...    (add --cfg job to see the settings that a command line leads to)", ""]
    lines.append(re.sub(r"defaults:\n(\s+- .*\n)+\n?", "", text_of(verb)).rstrip())
    for group in groups(verb):
        files = choices(group)
        lines += ["", f"# {group}=NAME is one of {', '.join(files)}; {group}=NAME --help explains its own options."]
        for argument in arguments:
            name = argument.removeprefix(f"{group}=")
            if name != argument and name in files:
                lines += ["", files[name].read_text().removeprefix("# @package _global_\n").rstrip()]
    return "\n".join(lines)

"""From one command line to the runs it stands for: comma-separated values multiplied out, a folder for each run."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from engine.configs import known_keys
from engine.errors import Shown, UserError
from engine.verbs import main_of

# Keys by which verbs name what they write; the first that a verb has is where its runs go.
TARGETS = ("run", "out", "store")


@dataclass(frozen=True)
class Combination:
    """One run of a verb."""

    arguments: tuple[str, ...]
    swept: Mapping[str, str]  # what distinguishes it from the others
    settings: Mapping[str, Any]  # all of the verb's, as it understood them

    def target(self, verb: str) -> Path | None:
        key = target_key(verb)
        return Path(self.settings[key]) if key and self.settings.get(key) else None


def target_key(verb: str) -> str | None:
    return next((key for key in TARGETS if key in known_keys(verb)), None)


def combinations(verb: str, arguments: Sequence[str], shards: int | None = None) -> list[Combination]:
    """All of them, checked: the first that the verb would refuse is an error, before anything is submitted."""
    if shards is not None:
        if "shard" not in known_keys(verb):
            raise UserError(f"shards={shards}: {verb} has no shards")
        parts = [((*arguments, f"shard={index}/{shards}"), {"shard": f"{index}/{shards}"}) for index in range(shards)]
    else:
        parts = _multiplied(verb, arguments)
    return [Combination(given, swept, checked(verb, given)) for given, swept in parts]


def _multiplied(verb: str, arguments: Sequence[str]) -> list[tuple[tuple[str, ...], dict[str, str]]]:
    choices = [_choices(argument) for argument in arguments]
    swept = [argument.split("=", 1)[0] for argument, values in zip(arguments, choices, strict=True) if len(values) > 1]
    key, found = target_key(verb), []
    for chosen in itertools.product(*choices):
        values = {one.split("=", 1)[0].lstrip("+"): one.split("=", 1)[1] for one in chosen if "=" in one}
        differing = {name.lstrip("+"): values[name.lstrip("+")] for name in swept}
        if swept and key in values and key not in differing:
            folder = Path(_unquoted(values[key])) / _folder_name(differing)
            chosen = tuple(f"{key}={folder}" if one.startswith(f"{key}=") else one for one in chosen)
        found.append((tuple(chosen), differing))
    return found


def _choices(argument: str) -> list[str]:
    """`key=1,2` -> `key=1`, `key=2`, by Hydra's grammar: commas in quotes or brackets mean themselves."""
    try:
        (override,) = OverridesParser.create().parse_overrides([argument])
    except HydraException:  # the verb will say what is wrong with it
        return [argument]
    if not override.is_sweep_override():
        return [argument]
    values = list(override.sweep_string_iterator())
    if len(set(values)) < len(values):
        raise UserError(f"{argument}: a value stands there twice")
    return [f"{argument.split('=', 1)[0]}={value}" for value in values]


def _folder_name(swept: Mapping[str, str]) -> str:
    """Without commas, equals signs and slashes: it will be typed after init= one day."""
    parts = [f"{key.rsplit('.', 1)[-1]}-{_unquoted(value)}" for key, value in swept.items()]
    return re.sub(r"[^\w.+-]+", "-", "_".join(parts)).strip("-")[:200]


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def checked(verb: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The settings that the verb makes of them; what it would refuse, it refuses now."""
    try:
        with redirect_stdout(io.StringIO()):
            main_of(verb)([*arguments, "--check"])
    except Shown as shown:
        return yaml.safe_load(str(shown))
    raise UserError(f"{verb} cannot be submitted: it does not know --check")

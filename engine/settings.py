"""From a command line to typed settings: Hydra composes, a dataclass checks, a user error is one line.

Each verb has one YAML in `configs/`: its keys, their defaults and, in comments, their meaning; it is also what
`--help` prints. A dataclass of the same keys gives the types. Nothing below the verbs ever sees a Hydra object.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from engine.configs import CONFIGS, brought, choices, groups, help_text, known_keys, verbs
from engine.errors import Shown, UserError

S = TypeVar("S")
B = TypeVar("B")


@dataclass(frozen=True)
class Needed:
    """Annotates a setting that has no default: `said` is the answer where it is left null."""

    said: str


@dataclass(frozen=True)
class Network:
    """A choice of the groups `backbone` and `audio_backbone`."""

    name: str
    arguments: dict[str, Any]

    def built(self, create: Callable[..., B], *, recompute: bool = False) -> B:
        """`create(name, **arguments)`, set to recompute its blocks if asked; what it refuses is the user's to mend."""
        try:
            network = create(self.name, **self.arguments)
        except (ValueError, TypeError) as error:
            raise UserError(f"backbone.name={self.name}: {error}") from error
        if recompute:
            if not hasattr(network, "recompute"):
                raise UserError(f"recompute=true: backbone {self.name} cannot (backbones/recompute.py)")
            network.recompute = True
        return network


def load_exactly(verb: str, arguments: Sequence[str], schema: type[S]) -> S:
    """Settings of a verb that has no others than its dataclass names; the rest is as in `load`."""
    return load(verb, arguments, schema, exactly=True)[0]


def load(verb: str, arguments: Sequence[str], schema: type[S], *, exactly: bool = False) -> tuple[S, dict[str, Any]]:
    """Settings of a verb, and the keys that only its chosen config groups bring (a dataset's own options).

    Raises `Shown` for --help, --cfg job, and --check: the settings again, but only if they are right.
    """
    if any(argument in ("-h", "--help", "help") for argument in arguments):
        raise Shown(help_text(verb, arguments))
    show, check = "--cfg" in arguments, "--check" in arguments
    asked = ("--cfg", "job", "--cfg=job", "--check") if show else ("--check",)
    arguments = [argument for argument in arguments if argument not in asked]
    for argument in arguments:
        if argument.startswith("-"):
            raise UserError(f"unknown option {argument}; settings are given as key=value, see: crosstalk {verb} --help")
        if "=" not in argument and not argument.startswith("~"):
            raise UserError(f"{argument!r} is no setting; expected key=value, see: crosstalk {verb} --help")
    fields = typing.get_type_hints(schema)
    composed = _compose(verb, [_quoted(argument, fields) for argument in arguments])
    if show:
        raise Shown(yaml.safe_dump(composed, sort_keys=False, allow_unicode=True).rstrip())
    own = {key: value for key, value in composed.items() if key in fields}
    options = {key: value for key, value in composed.items() if key not in fields}
    if exactly and options:
        raise UserError(f"unknown settings {', '.join(options)}; see: crosstalk {verb} --help")
    settings = _typed(schema, own, f"configs/{verb}.yaml")
    if check:
        raise Shown(yaml.safe_dump(composed, sort_keys=False, allow_unicode=True).rstrip())
    return settings, options


def _compose(verb: str, overrides: list[str]) -> dict[str, Any]:
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose(verb, overrides=overrides)
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_in_one_line(verb, overrides, error)) from None


def _in_one_line(verb: str, overrides: list[str], error: Exception) -> str:
    text = str(error)
    unknown = re.search(r"Key '([^']+)' is not in struct|Could not override '([^']+)'", text)
    if unknown:
        key = next(group for group in unknown.groups() if group)
        owners = [f"{group}={name}" for group in groups(verb) for name in choices(group) if key in brought(group, name)]
        if owners:
            return f"setting {key} is unknown here; it belongs to {', '.join(owners)}"
        known = known_keys(verb)
        near = difflib.get_close_matches(key, known, n=1)
        others = [f"crosstalk {other}" for other in verbs() if key in known_keys(other)]
        hint = (f"did you mean {near[0]}?" if near else f"it belongs to {', '.join(others)}" if others else
                f"known are {', '.join(known)}")  # fmt: skip
        return f"unknown setting {key}; {hint}"
    choice = re.search(r"Could not find '([^/']+)/([^']+)'", text)
    if choice:
        group, name = choice.groups()
        known = list(choices(group))
        near = difflib.get_close_matches(name, known, n=1)
        return f"unknown {group}={name}; {f'did you mean {near[0]}? ' if near else ''}known are {', '.join(known)}"
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return f"{first} (in {' '.join(overrides)}; values with spaces, commas or brackets need quotes: key=\"'...'\")"


def _quoted(override: str, fields: dict[str, Any]) -> str:
    """Paths may hold anything; Hydra's grammar gives meaning to commas, brackets, quotes and equals signs."""
    key, _, value = override.partition("=")
    kind = fields.get(key)
    is_path = Path in (kind, *typing.get_args(kind)) or key in ("splits", "list")
    if not is_path or not value or value == "null":
        return override
    if typing.get_origin(kind) is tuple and value[0] == "[" and value[-1] == "]":  # several, in Hydra's own form
        return override
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return override
    # In Hydra's quotes a quote needs a backslash, and so does a backslash that stands before one.
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"{key}='{escaped}'"


def _typed(schema: type[S], values: dict[str, Any], where: str, prefix: str = "") -> S:
    fields = typing.get_type_hints(schema)
    missing = [name for name in fields if name not in values]
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)}")
    for name, annotated in typing.get_type_hints(schema, include_extras=True).items():
        for note in getattr(annotated, "__metadata__", ()):
            if isinstance(note, Needed) and values[name] in (None, []):
                raise UserError(note.said)
    return schema(**{name: _converted(prefix + name, values[name], kind) for name, kind in fields.items()})


def _converted(name: str, value: Any, kind: Any) -> Any:
    inner = typing.get_args(kind)
    if type(None) in inner:
        if value is None:
            return None
        if len(inner) == 2:
            return _converted(name, value, inner[0])
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        return _typed(kind, value, name, f"{name}.")
    if typing.get_origin(kind) is dict and isinstance(value, dict):
        return value
    if typing.get_origin(kind) is tuple:  # one or several of the same
        several = value if isinstance(value, list) else [value]
        return tuple(_converted(name, one, inner[0]) for one in several)
    kinds = (kind,) if isinstance(kind, type) else inner
    literals = [k for k in kinds if isinstance(k, str)]
    if literals:  # typing.Literal
        if value in literals:
            return value
        near = difflib.get_close_matches(str(value), literals, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{name}={value}: {hint}known are {', '.join(literals)}")
    if Path in kinds and isinstance(value, str | int | float):
        return Path(str(value)).expanduser()
    if bool in kinds and isinstance(value, bool):
        return value
    if int in kinds and isinstance(value, int) and not isinstance(value, bool):
        return value
    if float in kinds and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if str in kinds and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    expected = " or ".join(words[k] for k in kinds if k in words)
    raise UserError(f"{name}={'null' if value is None else value}: expected {expected}")


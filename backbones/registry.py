"""Backbones by name.

    available()                              names of the video backbones; available("audio"): of the audio backbones
    create("cnn_gru_attention", hidden=64)   nn.Module with `dim`; arguments that are left out keep the published values
    arguments("cnn_gru_attention")           what it can be told, with defaults

What every backbone promises (B clips, T video frames, H W pixels, A = 4 T audio frames, M mel bins, D = `dim`):

    video   float (B, 3, T, H, W), normalised -> (B, T, D)      `spatial_layer`: name of the submodule that puts out the
                                                                last map (B, C, T, h, w), for Grad-CAM;
                                                                `spatial_grid`: the pixel that its first cell is centred
                                                                on, along height as along width, and the pixels to the
                                                                next. Left out: cells divide the picture evenly
    audio   float (B, 1, A, M)                -> (B, T, D)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, TypeVar, cast

from torch import nn

KINDS = ("video", "audio")
F = TypeVar("F", bound=Callable[..., nn.Module])
_BACKBONES: dict[str, tuple[str, Callable[..., nn.Module]]] = {}


class Backbone(nn.Module):
    """What may be asked of what `create` returns, which is any nn.Module that keeps the promise above."""

    dim: int
    spatial_layer: str  # video
    spatial_grid: tuple[float, float]  # video, where cells do not divide the picture evenly
    recompute: bool  # those that can: backbones/recompute.py


class UnknownBackbone(ValueError):  # noqa: N818  says what it is, as KeyError would
    """No such backbone, or no such argument of one; the message is one line and lists those that exist."""


def register(name: str, *, kind: str = "video") -> Callable[[F], F]:
    """Decorator: the class (or function) below it is what `create(name)` calls."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")

    def remember(factory: F) -> F:
        if name in _BACKBONES:
            raise ValueError(f"there is a backbone {name} already: {_BACKBONES[name][1]}")
        _BACKBONES[name] = kind, factory
        return factory

    return remember


def available(kind: str = "video") -> list[str]:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    return [name for name, (its_kind, _) in _BACKBONES.items() if its_kind == kind]


def arguments(name: str) -> dict[str, Any]:
    """The backbone's arguments and their defaults."""
    return {p.name: p.default for p in inspect.signature(_factory(name)).parameters.values()}


def create(name: str, **chosen: Any) -> Backbone:
    """A new backbone with random weights; whatever is wrong with the name or the arguments is said."""
    factory, known = _factory(name), arguments(name)
    for argument in chosen:
        if argument not in known:
            raise UnknownBackbone(f"backbone {name} has no argument {argument!r}{_hint(argument, known)}; "
                                  f"it has {', '.join(known)}")  # fmt: skip
    return cast(Backbone, factory(**chosen))


def _factory(name: str) -> Callable[..., nn.Module]:
    if name not in _BACKBONES:
        known = "; ".join(f"{kind}: {', '.join(available(kind))}" for kind in KINDS)
        raise UnknownBackbone(f"no backbone {name!r}{_hint(name, _BACKBONES)}; known are, {known}")
    return _BACKBONES[name][1]


def _hint(wrong: object, known: dict[str, Any]) -> str:
    nearest = get_close_matches(str(wrong).lower(), known, n=1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""

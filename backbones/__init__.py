"""Networks that turn clips of faces and voices into one feature vector per video frame, and the heads upon them."""

from backbones import audio_resnet, cnn, csn  # each registers what it defines
from backbones.registry import Backbone, UnknownBackbone, arguments, available, create, register

__all__ = [
    "Backbone", "UnknownBackbone", "arguments", "audio_resnet", "available", "cnn", "create", "csn", "register",
]  # fmt: skip

"""What a trained detector is worth: bundles of others, benchmarks, tables and reports."""

from typing import Any


def __getattr__(name: str) -> Any:
    """`from evaluation import Detector`: only who asks for it waits for the networks to be imported."""
    if name == "Detector":
        from evaluation.detector import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

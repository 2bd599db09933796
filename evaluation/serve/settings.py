"""What `crosstalk serve` can be told; configs/serve.yaml explains each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from engine.errors import UserError
from engine.precision import Kind
from engine.settings import Needed


@dataclass(frozen=True)
class ServeSettings:
    model: Annotated[Path, Needed("model=BUNDLE is missing: what `crosstalk finetune` wrote to RUN/bundle")]
    sound: Path | None
    host: str
    port: int
    names: tuple[str, ...]
    max_megabytes: int
    max_minutes: int
    max_waiting: int
    keep: int
    stride: int
    device: Literal["auto", "cpu", "cuda"]
    precision: Kind

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise UserError(f"port={self.port}: expected 0 to 65535")
        for name in ("max_megabytes", "max_minutes", "max_waiting", "keep", "stride"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: expected a whole number from 1")

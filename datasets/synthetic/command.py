"""`crosstalk synthesize`: the embedded corpus from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from datasets.synthetic import synthesize
from engine.errors import UserError
from engine.progress import Bar
from engine.settings import load_exactly


@dataclass(frozen=True)
class SynthesizeSettings:
    """configs/synthesize.yaml explains each."""

    out: Path | None
    seed: int
    workers: int | None
    words: int
    lrw_clips: int
    faceforensics_pairs: int
    celebdf_identities: int
    youtube_real: int

    def __post_init__(self) -> None:
        if self.out is None:
            raise UserError("out=DIR is missing: where the corpus goes")


def main(arguments: Sequence[str]) -> int:
    settings = load_exactly("synthesize", arguments, SynthesizeSettings)
    with Bar("generating") as bar:
        synthesize(**asdict(settings), advance=bar.reach)
    return 0

"""`crosstalk synthesize`: the embedded corpus from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from datasets.synthetic import synthesize
from engine.progress import Bar
from engine.settings import Needed, load_exactly


@dataclass(frozen=True)
class SynthesizeSettings:
    """configs/synthesize.yaml explains each."""

    out: Annotated[Path, Needed("out=DIR is missing: where the corpus goes")]
    seed: int
    workers: int | None
    words: int
    lrw_clips: int
    faceforensics_pairs: int
    celebdf_identities: int
    youtube_real: int


def main(arguments: Sequence[str]) -> int:
    settings = load_exactly("synthesize", arguments, SynthesizeSettings)
    with Bar("generating") as bar:
        synthesize(**asdict(settings), advance=bar.reach)
    return 0

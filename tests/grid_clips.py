"""Six real talking clips lie beside the checkout on its developers' machines; they are never copied into it."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "clips" / "grid"
CLIPS = sorted(FOLDER.glob("*.mpg"))
needs_clips = pytest.mark.skipif(not CLIPS, reason=f"no real clips at {FOLDER}: they belong to their authors")

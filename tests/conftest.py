"""What several tests look at: a tiny corpus of generated faces and the stores made of it, once per session."""

from pathlib import Path

import pytest

from datasets.prepare import main as prepare_main
from datasets.store import Store
from datasets.synthetic import synthesize


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    synthesize(out, workers=2, words=2, lrw_clips=8, faceforensics_pairs=2, celebdf_identities=2, youtube_real=1,
               say=lambda line: None)
    return out


def prepared(root: Path, store: Path, *overrides: str) -> Store:
    assert prepare_main([f"root={root}", f"store={store}", *overrides]) == 0
    return Store.open(store)


@pytest.fixture(scope="session")
def lrw_store(corpus, tmp_path_factory) -> Store:
    """Eight generated words with sound."""
    return prepared(corpus / "lrw", tmp_path_factory.mktemp("lrw") / "store", "data=lrw")


@pytest.fixture(scope="session")
def faceforensics_store(corpus, tmp_path_factory) -> Store:
    """Four generated people and five forgeries of each, without sound."""
    root = corpus / "faceforensics"
    return prepared(root, tmp_path_factory.mktemp("faceforensics") / "store", "data=faceforensics")

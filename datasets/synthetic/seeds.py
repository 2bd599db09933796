"""One random stream per name, so that nothing depends on the order of work or on the number of workers."""

from __future__ import annotations

import hashlib

import numpy as np


def rng_of(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))

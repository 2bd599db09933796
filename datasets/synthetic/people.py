"""Who somebody is: the numbers that make a generated person look like nobody else, drawn from one seed.

Unit of length everywhere: the distance between the middles of the eyes. Origin between the eyes, x to the picture's
right, y down. The mouth lies near (0, 1.18), the chin near (0, 1.9), as on the mean human face.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

HAIR_STYLES = ("bald", "buzz", "short", "side", "receding", "fringe", "medium", "long", "curly", "bun")

# sRGB; human skin from very light to very dark.
SKIN = (
    np.array(
        [
            [246, 216, 196],
            [236, 196, 170],
            [222, 174, 142],
            [198, 146, 110],
            [164, 114, 82],
            [128, 86, 62],
            [96, 64, 48],
        ]
    )
    / 255.0
)
HAIR = {
    "black": (0.07, 0.06, 0.06),
    "dark brown": (0.17, 0.11, 0.08),
    "brown": (0.30, 0.20, 0.13),
    "auburn": (0.38, 0.18, 0.10),
    "blond": (0.66, 0.52, 0.33),
    "grey": (0.55, 0.54, 0.53),
    "white": (0.80, 0.79, 0.77),
}
IRIS = np.array(
    [[0.22, 0.13, 0.08], [0.30, 0.19, 0.10], [0.33, 0.33, 0.22], [0.28, 0.40, 0.50], [0.36, 0.44, 0.44]]
)
CLOTHES = np.array(
    [
        [0.13, 0.15, 0.20],
        [0.25, 0.27, 0.30],
        [0.50, 0.51, 0.53],
        [0.80, 0.79, 0.76],
        [0.24, 0.32, 0.44],
        [0.45, 0.18, 0.20],
        [0.22, 0.33, 0.28],
        [0.55, 0.45, 0.36],
        [0.36, 0.26, 0.38],
        [0.62, 0.66, 0.72],
        [0.10, 0.10, 0.11],
        [0.60, 0.38, 0.28],
    ]
)


@dataclass(frozen=True, slots=True)
class Person:
    seed: int  # for the random detail of skin, hair and cloth
    skin: np.ndarray  # (3,) sRGB 0..1
    ruddy: float
    freckles: float
    age: float  # 0 young .. 1 old: folds and lines
    face_width: float
    jaw_width: float
    chin: float
    cheeks: float
    forehead: float
    nose_width: float
    nose_height: float
    nose_end: float
    brow_height: float
    brow_thick: float
    brow_arch: float
    brow_dark: float
    eye_width: float
    eye_open: float
    eye_slant: float
    iris: np.ndarray
    lids: float
    mouth: float  # y of the line between the lips
    mouth_width: float
    lip_upper: float
    lip_lower: float
    lip_colour: np.ndarray
    teeth: float
    hair_style: str
    hair: np.ndarray
    hair_volume: float
    parting: float
    hairline: float
    beard: str  # none, stubble, moustache, goatee, full
    glasses: str  # none, thin, thick
    makeup: float
    ear: float
    neck: float
    shoulders: float
    clothes: np.ndarray
    clothes_second: np.ndarray
    collar: str  # round, vee, shirt, suit
    moles: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))  # (n, 3): x, y, size


def draw_person(rng: np.random.Generator) -> Person:
    feminine = rng.random() < 0.5
    age = float(rng.beta(1.3, 1.8))
    shade = rng.random() ** 1.2 * (len(SKIN) - 1)
    low = min(int(shade), len(SKIN) - 2)
    skin = SKIN[low] + (shade - low) * (SKIN[low + 1] - SKIN[low])
    skin = np.clip(skin + rng.normal(0, 0.012, 3) + np.array([0.012, 0, -0.012]) * rng.normal(), 0.05, 0.97)
    dark = shade / (len(SKIN) - 1)

    if age > 0.62 and rng.random() < 0.75:
        hair_name = ("grey", "white")[rng.random() < 0.35]
    elif dark > 0.5:
        hair_name = ("black", "dark brown")[rng.random() < 0.25]
    else:
        hair_name = ("black", "dark brown", "brown", "auburn", "blond")[
            rng.choice(5, p=[0.15, 0.27, 0.27, 0.11, 0.2])
        ]
    hair = np.clip(np.array(HAIR[hair_name]) * rng.uniform(0.85, 1.15) + rng.normal(0, 0.01, 3), 0.03, 0.9)
    if feminine:
        style = rng.choice(HAIR_STYLES, p=[0.0, 0.02, 0.06, 0.06, 0.0, 0.14, 0.22, 0.28, 0.10, 0.12])
    else:
        style = rng.choice(HAIR_STYLES, p=[0.12, 0.16, 0.22, 0.20, 0.12, 0.06, 0.04, 0.02, 0.06, 0.0])
    beard = (
        "none"
        if feminine
        else rng.choice(["none", "stubble", "moustache", "goatee", "full"], p=[0.5, 0.22, 0.06, 0.08, 0.14])
    )
    blush = skin * np.array([0.86, 0.62, 0.62]) + np.array([0.05, 0.0, 0.01])
    lipstick = np.array([[0.62, 0.20, 0.24], [0.72, 0.36, 0.38], [0.55, 0.22, 0.28]])[rng.integers(3)]
    makeup = float(feminine) * rng.random()
    lip_colour = blush + (lipstick - blush) * max(0.0, makeup - 0.35)
    iris = IRIS[rng.integers(2)] if dark > 0.45 or hair_name == "black" else IRIS[rng.integers(len(IRIS))]
    count = int(rng.integers(0, 5))
    moles = np.stack(
        [rng.uniform(-0.85, 0.85, count), rng.uniform(-0.7, 1.6, count), rng.uniform(0.012, 0.03, count)], 1
    )

    def around(mean: float, spread: float) -> float:
        return float(mean + spread * np.clip(rng.normal(), -2, 2))

    return Person(
        seed=int(rng.integers(2**31)),
        skin=skin,
        ruddy=float(rng.uniform(0.2, 1.0)) * (1 - 0.6 * dark),
        freckles=float(rng.random() < 0.22) * float(rng.uniform(0.3, 1)) * (1 - dark),
        age=age,
        face_width=around(1.0 if feminine else 1.03, 0.045),
        jaw_width=around(0.95 if feminine else 1.07, 0.06),
        chin=around(-0.03 if feminine else 0.05, 0.06),
        cheeks=around(1.0, 0.3),
        forehead=around(1.0, 0.05),
        nose_width=around(0.95 if feminine else 1.08, 0.12) + 0.18 * dark,
        nose_height=around(1.0, 0.15),
        nose_end=around(0.64, 0.03),
        brow_height=around(0.40, 0.035),
        brow_thick=around(0.055 if feminine else 0.08, 0.014),
        brow_arch=around(0.05 if feminine else 0.025, 0.02),
        brow_dark=float(rng.uniform(0.6, 0.95)),
        eye_width=around(0.255, 0.014),
        eye_open=around(0.115 if feminine else 0.1, 0.014),
        eye_slant=around(0.02, 0.03),
        iris=iris,
        lids=float(rng.uniform(0.3, 1.0)),
        mouth=around(1.17, 0.035),
        mouth_width=around(0.44, 0.035),
        lip_upper=around(0.085 if feminine else 0.068, 0.015) + 0.025 * dark,
        lip_lower=around(0.135, 0.02) + 0.03 * dark,
        lip_colour=np.clip(lip_colour, 0.05, 0.95),
        teeth=float(rng.uniform(0.78, 0.95)),
        hair_style=str(style),
        hair=hair,
        hair_volume=float(rng.uniform(0.6, 1.3)),
        parting=float(rng.uniform(-0.6, 0.6)),
        hairline=around(-1.02, 0.08),
        beard=str(beard),
        glasses=str(rng.choice(["none", "thin", "thick"], p=[0.8, 0.12, 0.08])),
        makeup=makeup,
        ear=around(1.0, 0.1),
        neck=around(0.56 if feminine else 0.68, 0.04),
        shoulders=around(1.95 if feminine else 2.25, 0.12),
        clothes=_cloth(rng),
        clothes_second=_cloth(rng),
        collar=str(rng.choice(["round", "vee", "shirt", "suit"], p=[0.35, 0.2, 0.22, 0.23])),
        moles=moles,
    )


def _cloth(rng: np.random.Generator) -> np.ndarray:
    return np.clip(CLOTHES[rng.integers(len(CLOTHES))] * rng.uniform(0.8, 1.2) + rng.normal(0, 0.02, 3), 0.04, 0.9)

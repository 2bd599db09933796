"""From a name to a person, a place, a talk: all that a task renders, drawn from the corpus' seed and the name alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from datasets.synthetic.camera import Camera, draw_camera, draw_motion
from datasets.synthetic.heads import Actor, Motion, as_texture, make_actor
from datasets.synthetic.people import Person, draw_person
from datasets.synthetic.portrait import Light, draw_light, paint_head
from datasets.synthetic.seeds import rng_of
from datasets.synthetic.speech import Lips, Utterance, lips_at_frames, speak_freely


@dataclass(frozen=True, slots=True)
class House:
    """How one part of the corpus was filmed."""

    size: int  # of the square frame, even
    scale: tuple[float, float]  # pixels per eye distance
    liveliness: tuple[float, float]  # how much heads move
    grain: tuple[float, float]
    crf: int  # compression by x264
    frames: tuple[int, int]  # shortest and longest video


BEARDED = ("moustache", "goatee", "full")
HOUSES = {
    "lrw": House(256, (44, 52), (0.15, 0.4), (0.5, 4.0), 22, (29, 29)),
    "faceforensics": House(256, (43, 52), (0.5, 1.1), (1.0, 5.0), 23, (30, 50)),
    "celebdf_v2": House(288, (46, 58), (0.6, 1.2), (0.5, 6.0), 26, (40, 48)),
}


@dataclass(slots=True)
class Scene:
    """One real video, ready to be rendered."""

    actor: Actor
    motion: Motion
    lips: Lips
    utterance: Utterance
    camera: Camera


def person_of(seed: int, name: str) -> Person:
    """The person of this name. A name "a~b" is somebody like b: forgers choose faces that fit.

    Of a few people who could bear the name, the one nearest to b in skin, bearded where b is.
    """
    _, _, model = name.partition("~")
    if not model:
        return draw_person(rng_of(seed, f"person/{name}"))
    other = person_of(seed, model)
    candidates = [draw_person(rng_of(seed, f"person/{name}/{k}")) for k in range(6)]

    def misfit(person: Person) -> float:
        beards = (person.beard in BEARDED) != (other.beard in BEARDED)
        return float(np.abs(person.skin - other.skin).sum() + 0.3 * beards)

    return min(candidates, key=misfit)


def stage(
    seed: int,
    video: str,
    person: Person,
    part: str,
    *,
    place: str | None = None,
    frames: int | None = None,
    utterance: Utterance | None = None,
    actor: Actor | None = None,
) -> Scene:
    """`video` names the talk and the camera; `place` (else the video) the room, the light, where the person stands.

    Somebody who speaks again in the same place can be given as `actor`, and is not painted anew.
    """
    house, rng = HOUSES[part], rng_of(seed, f"video/{video}")
    frames = frames or length_of(seed, video, part)
    utterance = utterance or speak_freely(rng, frames)
    lips = lips_at_frames(utterance, frames)
    actor = actor or _placed(person, house, rng_of(seed, f"place/{place or video}"))
    motion = draw_motion(rng, lips, liveliness=float(rng.uniform(*house.liveliness)), scale=actor.scale)
    return Scene(actor, motion, lips, utterance, draw_camera(rng, frames, grain=house.grain))


def _placed(person: Person, house: House, room: np.random.Generator) -> Actor:
    light, scale = draw_light(room), float(room.uniform(*house.scale))
    centre = (
        house.size * (0.5 + float(room.uniform(-0.05, 0.05))),
        house.size * (0.44 + float(room.uniform(-0.025, 0.025))),
    )
    return make_actor(person, light, room, size=house.size, centre=centre, scale=scale)


def length_of(seed: int, video: str, part: str) -> int:
    """A real video's length, drawn from its name; its forgeries have it too."""
    shortest, longest = HOUSES[part].frames
    return int(rng_of(seed, f"length/{video}").integers(shortest, longest + 1))


def inner_face_of(donor: Person, target: Person, light: Light) -> torch.Tensor:
    """The donor's portrait as a forger uses it: no hair of its own in the face, glasses where the target has them."""
    return as_texture(paint_head(replace(donor, hair_style="bald", glasses=target.glasses), light))

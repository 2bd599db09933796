"""Which videos the corpus holds, from its settings alone: who says what, who is forged onto whom, which split."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from datasets.synthetic.forgeries import METHODS
from datasets.synthetic.seeds import rng_of
from datasets.synthetic.speech import WORDS

CLIPS_PER_PERSON = 3
CELEB_CLIPS = 2  # real videos of each Celeb-DF identity


@dataclass(frozen=True, slots=True)
class Settings:
    """The sizes of the corpus; equal settings give equal bytes."""

    seed: int = 0
    words: int = 10
    lrw_clips: int = 400
    faceforensics_pairs: int = 40
    celebdf_identities: int = 15
    youtube_real: int = 24


@dataclass(frozen=True, slots=True)
class WordClip:
    word: str
    split: str
    number: int

    @property
    def name(self) -> str:
        return f"lrw/lipread_mp4/{self.word}/{self.split}/{self.word}_{self.number:05d}"


@dataclass(frozen=True, slots=True)
class WordSpeaker:
    """One task: a person and the words this person says."""

    person: str
    clips: tuple[WordClip, ...]


@dataclass(frozen=True, slots=True)
class Swap:
    """One task: a real video and its forgeries, each with the donor's name and the path it goes to."""

    person: str
    real: str  # path below the corpus, without .mp4
    forgeries: tuple[tuple[str, str, str], ...]  # (method, donor's name, path without .mp4)
    part: str  # "faceforensics" or "celebdf_v2"


Task = WordSpeaker | Swap


@dataclass(slots=True)
class Plan:
    tasks: list[Task] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)  # small text files by path


def shares(total: int, parts: tuple[float, float, float]) -> tuple[int, int, int]:
    """(train, val, test) sizes that add up to `total`; test, then validation get one as soon as there is one."""
    test = max(round(total * parts[2]), min(1, total - 1)) if total > 1 else 0
    val = max(round(total * parts[1]), 1) if total > 2 else 0
    return total - val - test, val, test


def lrw_tasks(settings: Settings) -> list[Task]:
    words = tuple(WORDS)[: settings.words]
    tasks: list[Task] = []
    for split, count in zip(
        ("train", "val", "test"), shares(settings.lrw_clips, (0.75, 0.125, 0.125)), strict=True
    ):
        people = -(-count // CLIPS_PER_PERSON)
        if not people:
            continue
        rng = rng_of(settings.seed, f"lrw/{split}")
        rounds = [rng.permutation(people) for _ in range(CLIPS_PER_PERSON)]
        speakers = np.concatenate(rounds)[:count]
        said: dict[int, list[WordClip]] = {person: [] for person in range(people)}
        for k, person in enumerate(speakers):
            said[int(person)].append(WordClip(words[k % len(words)], split, k // len(words) + 1))
        tasks += [WordSpeaker(f"lrw/{split}/{person}", tuple(clips)) for person, clips in said.items() if clips]
    return tasks


def faceforensics_plan(settings: Settings) -> Plan:
    plan, count = Plan(), settings.faceforensics_pairs
    ids = rng_of(settings.seed, "faceforensics/ids").permutation(2 * count)
    pairs = [(f"{a:03d}", f"{b:03d}") for a, b in ids.reshape(-1, 2)]
    root, start = "faceforensics", 0
    for split, size in zip(("train", "val", "test"), shares(count, (0.6, 0.15, 0.25)), strict=True):
        rows = ",\n".join(f'  ["{a}", "{b}"]' for a, b in pairs[start : start + size])
        plan.texts[f"{root}/splits/{split}.json"] = f"[\n{rows}\n]\n" if rows else "[]\n"
        start += size
    for first, second in pairs:
        people = {first: f"{root}/{first}", second: f"{root}/{second}~{root}/{first}"}
        for target, donor in ((first, second), (second, first)):
            forged = tuple(
                (m, people[donor], f"{root}/manipulated_sequences/{m}/c23/videos/{target}_{donor}") for m in METHODS
            )
            plan.tasks.append(
                Swap(people[target], f"{root}/original_sequences/youtube/c23/videos/{target}", forged, root)
            )
    return plan


def celebdf_plan(settings: Settings) -> Plan:
    plan, root, count = Plan(), "celebdf_v2", settings.celebdf_identities
    tested = max(round(count / 3), 2) if count > 3 else count
    groups = [list(range(count - tested)), list(range(count - tested, count))]
    listed: list[str] = []
    for group, test in zip(groups, (False, True), strict=True):
        # Threes who look somewhat alike, since each is forged with the next two.
        people = {
            k: f"{root}/id{k}" + (f"~{root}/id{group[place - place % 3]}" if place % 3 else "")
            for place, k in enumerate(group)
        }
        for place, identity in enumerate(group):
            # Each real video is forged with the next two people of its own group, so that no identity leaves its split.
            donors = [group[(place + step) % len(group)] for step in (1, 2) if (place + step) % len(group) != place]
            for clip in range(CELEB_CLIPS):
                real = f"Celeb-real/id{identity}_{clip:04d}"
                forged = [
                    (donor, f"Celeb-synthesis/id{identity}_id{donor}_{clip:04d}") for donor in dict.fromkeys(donors)
                ]
                plan.tasks.append(
                    Swap(
                        people[identity],
                        f"{root}/{real}",
                        tuple(("Celeb-synthesis", people[donor], f"{root}/{path}") for donor, path in forged),
                        root,
                    )
                )
                if test:
                    listed += [f"1 {real}.mp4"] + [f"0 {path}.mp4" for _, path in forged]
    for number in range(settings.youtube_real if count else 0):
        real = f"YouTube-real/{number:05d}"
        plan.tasks.append(Swap(f"{root}/youtube{number}", f"{root}/{real}", (), root))
        if number % 2 == 0:
            listed.append(f"1 {real}.mp4")
    if count:
        plan.texts[f"{root}/List_of_testing_videos.txt"] = "\n".join(listed) + "\n"
    return plan


def make_plan(settings: Settings) -> Plan:
    faceforensics, celebdf = faceforensics_plan(settings), celebdf_plan(settings)
    tasks = lrw_tasks(settings) + (faceforensics.tasks if settings.faceforensics_pairs else []) + celebdf.tasks
    texts = (faceforensics.texts if settings.faceforensics_pairs else {}) | celebdf.texts
    return Plan(tasks, texts)

"""The embedded corpus: its layout, its repeatability, and the properties that keep it free of shortcuts."""

import io
import json
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from scipy.signal import stft
from sklearn.linear_model import Ridge

from datasets.synthetic import cast, synthesize
from datasets.synthetic.camera import draw_camera, shoot
from datasets.synthetic.cast import HOUSES
from datasets.synthetic.forgeries import METHODS, RECIPES, forge, make_forger
from datasets.synthetic.heads import cut_lips, render
from datasets.synthetic.plan import Settings, Swap, WordSpeaker, make_plan, shares
from datasets.synthetic.seeds import rng_of
from datasets.synthetic.speech import WORDS, lips_at_frames, speak_freely, speak_word, voice
from engine.errors import UserError

TINY = {"words": 2, "lrw_clips": 4, "faceforensics_pairs": 2, "celebdf_identities": 4, "youtube_real": 1}
SMALLEST = {"words": 1, "lrw_clips": 2, "faceforensics_pairs": 1, "celebdf_identities": 0, "youtube_real": 0}


def silent(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("corpus") / "tiny"
    synthesize(out, seed=3, workers=1, say=silent, **TINY)
    return out


@pytest.fixture(scope="module")
def smallest(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("corpus") / "smallest"
    synthesize(out, seed=5, workers=1, say=silent, **SMALLEST)
    return out


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def frames_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


# ---------------------------------------------------------------------------------------------- layout


def test_lrw_layout(corpus):
    clips = sorted(str(path.relative_to(corpus)) for path in (corpus / "lrw").rglob("*.mp4"))
    assert clips == [
        "lrw/lipread_mp4/ABOUT/test/ABOUT_00001.mp4",
        "lrw/lipread_mp4/ABOUT/train/ABOUT_00001.mp4",
        "lrw/lipread_mp4/ABOUT/val/ABOUT_00001.mp4",
        "lrw/lipread_mp4/FAMILY/train/FAMILY_00001.mp4",
    ]
    for clip in clips:
        with av.open(str(corpus / clip)) as container:
            video, sound = container.streams.video[0], container.streams.audio[0]
            assert (video.codec_context.name, sound.codec_context.name) == ("h264", "aac")
            assert (video.width, video.height, video.average_rate, sound.rate) == (256, 256, 25, 16_000)
            assert sum(1 for _ in container.decode(video=0)) == 29
        lines = (corpus / clip).with_suffix(".txt").read_text().splitlines()
        fields = dict(line.split(": ", 1) for line in lines)
        assert fields["Words"] == Path(clip).parts[2] and "generated" in fields["Disc"]
        assert re.fullmatch(r"0\.\d\d seconds", fields["Duration"])


def test_faceforensics_layout(corpus):
    root = corpus / "faceforensics"
    pairs = {split: json.loads((root / f"splits/{split}.json").read_text()) for split in ("train", "val", "test")}
    assert [len(pairs[split]) for split in ("train", "val", "test")] == [1, 0, 1]
    ids = [name for rows in pairs.values() for pair in rows for name in pair]
    assert sorted(ids) == ["000", "001", "002", "003"], "each identity in one pair of one split"
    both_ways = sorted(f"{a}_{b}" for rows in pairs.values() for pair in rows for a, b in (pair, pair[::-1]))
    assert sorted(path.stem for path in (root / "original_sequences/youtube/c23/videos").iterdir()) == sorted(ids)
    assert sorted(path.name for path in (root / "manipulated_sequences").iterdir()) == sorted(METHODS)
    for method in METHODS:
        assert (
            sorted(path.stem for path in (root / f"manipulated_sequences/{method}/c23/videos").iterdir())
            == both_ways
        )
        assert sorted(path.stem for path in (root / f"masks/{method}").iterdir()) == both_ways


def test_celebdf_layout(corpus):
    root = corpus / "celebdf_v2"
    reals = sorted(path.stem for path in (root / "Celeb-real").iterdir())
    assert reals == [f"id{k}_{clip:04d}" for k in range(4) for clip in range(2)]
    assert [path.name for path in (root / "YouTube-real").iterdir()] == ["00000.mp4"]
    forged = sorted(path.stem for path in (root / "Celeb-synthesis").iterdir())
    assert forged and all(re.fullmatch(r"id\d+_id\d+_\d{4}", name) for name in forged)
    listed = [line.split() for line in (root / "List_of_testing_videos.txt").read_text().splitlines()]
    for label, path in listed:
        assert (root / path).is_file()
        assert label == ("0" if path.startswith("Celeb-synthesis/") else "1"), "Celeb-DF writes 1 for real"
    tested = {name for _, path in listed for name in re.findall(r"id\d+", path)}
    others = {
        name
        for stem in (*reals, *forged)
        for name in re.findall(r"id\d+", stem)
        if not any(stem in path for _, path in listed)
    }
    assert tested == {"id2", "id3"} and others == {"id0", "id1"}, "no identity on both sides of the list"
    with av.open(str(root / "Celeb-real/id0_0000.mp4")) as container:
        assert container.streams.audio, "this part has sound"


def test_a_forgery_is_as_long_as_its_target(corpus):
    root = corpus / "faceforensics"
    lengths = {
        path.stem: len(frames_of(path)) for path in (root / "original_sequences/youtube/c23/videos").iterdir()
    }
    shortest, longest = HOUSES["faceforensics"].frames
    assert all(shortest <= length <= longest for length in lengths.values()) and shortest >= 25  # a clip has 25
    for path in (root / "manipulated_sequences").rglob("*.mp4"):
        assert len(frames_of(path)) == lengths[path.stem[:3]]


def test_every_file_says_that_it_is_generated(corpus):
    assert "generated" in (corpus / "README.txt").read_text()
    videos = list(corpus.rglob("*.mp4"))
    assert len(videos) == 4 + 4 * 6 + 8 + 8 + 1
    for path in videos:
        with av.open(str(path)) as container:
            assert "generated" in container.metadata["comment"], path


def test_masks_say_where_a_forgery_is(corpus):
    """After the codec as well: the pictures differ inside the mask, and outside no more than grain does."""
    root = corpus / "faceforensics"
    for method in METHODS:
        path = next((root / f"manipulated_sequences/{method}/c23/videos").iterdir())
        mask = np.load(root / f"masks/{method}/{path.stem}.npz")["mask"]
        real, forged = (
            frames_of(root / f"original_sequences/youtube/c23/videos/{path.stem[:3]}.mp4"),
            frames_of(path),
        )
        assert mask.dtype == np.uint8 and mask.shape == (len(forged), 64, 64) and mask.max() == 255
        difference = np.abs(real.astype(float) - forged).mean(3).reshape(len(real), 64, 4, 64, 4).mean((2, 4))
        inside, outside = difference[mask > 200].mean(), difference[mask == 0].mean()
        assert outside < 3.5 and inside > 1.3 * outside, method


# ---------------------------------------------------------------------------------------------- repeatability


def test_bytes_do_not_depend_on_the_number_of_workers(smallest, tmp_path):
    synthesize(tmp_path / "two", seed=5, workers=2, say=silent, **SMALLEST)
    one, two = files_of(smallest), files_of(tmp_path / "two")
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []


def test_another_seed_is_another_corpus():
    person, other = cast.person_of(0, "lrw/train/0"), cast.person_of(1, "lrw/train/0")
    assert person.seed != other.seed and not np.allclose(person.skin, other.skin)
    assert [task.person for task in make_plan(Settings(seed=0)).tasks] != [
        task.person for task in make_plan(Settings(seed=1)).tasks
    ]


def test_an_interrupted_corpus_is_continued(smallest, tmp_path):
    out = tmp_path / "again"
    shutil.copytree(smallest, out)
    lost = next((out / "faceforensics/manipulated_sequences/FaceSwap").rglob("*.mp4"))
    kept = next((out / "lrw").rglob("*.mp4"))
    stale = lost.with_name(f".{lost.stem}.1.tmp.mp4")
    lost.rename(stale)
    (out / "manifest.json").unlink()
    before = kept.stat().st_mtime_ns
    calls = []
    synthesize(
        out, seed=5, workers=1, say=silent, advance=lambda done, total: calls.append((done, total)), **SMALLEST
    )
    assert files_of(out) == files_of(smallest)
    assert kept.stat().st_mtime_ns == before, "what is there is not made again"
    assert calls == [(14, 14)]


def test_a_finished_corpus_is_left_alone(smallest):
    before = {path: path.stat().st_mtime_ns for path in smallest.rglob("*")}
    said = []
    synthesize(smallest, seed=5, workers=1, say=said.append, **SMALLEST)
    assert {path: path.stat().st_mtime_ns for path in smallest.rglob("*")} == before
    assert len(said) == 1 and "complete" in said[0] and "generated" in said[0]


def test_a_damaged_file_is_named(smallest, tmp_path):
    out = tmp_path / "damaged"
    shutil.copytree(smallest, out)
    victim = next((out / "lrw").rglob("*.mp4"))
    victim.write_bytes(b"short")
    with pytest.raises(UserError, match=victim.name):
        synthesize(out, seed=5, workers=1, say=silent, **SMALLEST)


def test_foreign_folders_and_senseless_settings_are_refused(smallest, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("do not touch")
    with pytest.raises(UserError, match="not empty"):
        synthesize(tmp_path / "mine", say=silent)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(UserError, match="seed=5 there, 6 asked for"):
        synthesize(smallest, seed=6, say=silent, **SMALLEST)
    with pytest.raises(UserError, match="is a file"):
        synthesize(tmp_path / "mine/thesis.txt", say=silent)
    for wrong in (
        {"words": 0},
        {"words": 99},
        {"lrw_clips": -1},
        {"celebdf_identities": 1},
        {"workers": 0},
        {"seed": -1},
    ):
        with pytest.raises(UserError, match=next(iter(wrong))):
            synthesize(tmp_path / "new", say=silent, **wrong)
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------------------------------------- the plan


def test_splits_share_no_identity():
    plan = make_plan(Settings())
    speakers = [task for task in plan.tasks if isinstance(task, WordSpeaker)]
    splits = {}
    for task in speakers:
        for clip in task.clips:
            splits.setdefault(task.person, set()).add(clip.split)
    assert all(len(found) == 1 for found in splits.values())
    counts = {
        split: sum(len(t.clips) for t in speakers if t.clips[0].split == split)
        for split in ("train", "val", "test")
    }
    assert counts == {"train": 300, "val": 50, "test": 50}
    assert len({(clip.word, clip.split, clip.number) for task in speakers for clip in task.clips}) == 400
    people = [
        cast.person_of(0, task.person).seed
        for task in plan.tasks
        if isinstance(task, Swap) and task.part == "faceforensics"
    ]
    assert len(set(people)) == 80, "each FaceForensics++ video shows somebody else"


def test_shares_add_up():
    for total in range(0, 60):
        parts = shares(total, (0.6, 0.15, 0.25))
        assert sum(parts) == total and min(parts) >= 0
        assert total < 3 or min(parts) >= 1


# ---------------------------------------------------------------------------------------------- speech


def sound_features(sound: np.ndarray, frames: int) -> np.ndarray:
    spectrum = np.abs(stft(sound / 32768, 16_000, nperseg=400, noverlap=240, nfft=512)[2]) ** 2
    bands = np.log(np.stack([spectrum[k : k + 6].sum(0) for k in range(0, 250, 6)]) + 1e-7)
    bands = (bands - bands.mean()) / bands.std()
    at = [[min(max(4 * t + k, 0), bands.shape[1] - 1) for k in (-4, 0, 2, 4, 8)] for t in range(frames)]
    return bands[:, at].transpose(1, 0, 2).reshape(frames, -1)


def test_sound_predicts_how_far_the_mouth_is_open():
    """Ridge regression from sound to lips over many voices, judged on voices never heard; wrong sound must fail."""
    sounds, lips = [], []
    for k in range(90):
        rng = rng_of(0, f"test/{k}")
        utterance = speak_word(rng, list(WORDS)[k % 10], 29)
        sounds.append(sound_features(voice(rng, utterance, 29), 29))
        lips.append(lips_at_frames(utterance, 29).opening())
    model = Ridge(10.0).fit(np.concatenate(sounds[:60]), np.concatenate(lips[:60]))
    heard, seen = np.concatenate(sounds[60:]), np.concatenate(lips[60:])
    assert model.score(heard, seen) > 0.5
    assert model.score(np.concatenate(sounds[61:] + sounds[60:61]), seen) < 0.1


def test_lips_meet_in_people_and_open_in_about():
    opening = lips_at_frames(speak_word(rng_of(0, "a"), "ABOUT", 29), 29).opening()
    assert opening.max() > 0.5
    press = lips_at_frames(speak_word(rng_of(0, "b"), "PEOPLE", 29), 29).press[8:21]
    assert press.max() > 0.75


# ---------------------------------------------------------------------------------------------- forging


@pytest.fixture(scope="module")
def stage():
    person, other = cast.person_of(0, "test/a"), cast.person_of(0, "test/b~test/a")
    scene = cast.stage(0, "test/video", person, "faceforensics", frames=40)
    donor = cast.stage(0, "test/donor", other, "faceforensics", frames=40)
    with torch.inference_mode():
        take = render(scene.actor, scene.motion.cut(8, 14), cut_lips(scene.lips, 8, 14))
    return scene, donor, take


@pytest.mark.parametrize("method", list(RECIPES))
@pytest.mark.parametrize("seed", [0, 1])
def test_a_forgery_changes_its_target_only_inside_the_mask(stage, method, seed):
    scene, donor, take = stage
    rng = rng_of(seed, method)
    other = lips_at_frames(speak_freely(rng, 40), 40)
    before = take.frames.clone()
    with torch.inference_mode():
        forged, mask = forge(make_forger(method, rng, scene.actor, donor.actor, scene.lips, other), take, 8)
    assert torch.equal(take.frames, before), "the take itself is not touched"
    changed = (forged - before).abs().amax(1)
    assert mask.shape == changed.shape and float(mask.min()) >= 0 and float(mask.max()) == 1
    assert float(changed[mask == 0].max()) == 0
    assert float(changed[mask == 1].mean()) > 0.002, "inside it is another picture"
    head = torch.zeros_like(mask)
    top, bottom, left, right = take.box
    head[:, top:bottom, left:right] = take.alpha
    assert float(head[mask > 0].min()) > 0.98, "never beyond the outline of the head underneath"


def test_forgeries_do_not_jitter(stage):
    """The misalignment of a forgery is slow: from one frame to the next it changes by a small part of its size."""
    scene, donor, _ = stage
    for method in RECIPES:
        rng = rng_of(0, f"slow/{method}")
        steps, sizes = [], []
        for _ in range(20):
            forger = make_forger(method, rng, scene.actor, donor.actor, scene.lips, scene.lips)
            steps.append(np.diff(forger.shift_u).std())
            sizes.append(np.sqrt((forger.shift_u**2).mean()))
        assert np.mean(steps) < 0.25 * np.mean(sizes), method


def test_the_camera_treats_all_alike():
    """The same picture through the same camera differs by grain alone, of the spread that the camera has."""
    rng = np.random.default_rng(0)
    camera = draw_camera(rng, 8)
    frames = torch.full((8, 3, 96, 96), 0.5)
    first, second = (shoot(camera, rng_of(k, "grain"), frames, 0).astype(float) for k in (1, 2))
    assert not np.array_equal(first, second)
    assert abs(first.mean() - second.mean()) < 0.2
    assert first.std((1, 2, 3)).mean() == pytest.approx(
        camera.grain * np.sqrt(0.8**2 + 0.35**2 + 2 * 0.8 * 0.35 / np.sqrt(3)), rel=0.15
    )
    assert np.array_equal(first, shoot(camera, rng_of(1, "grain"), frames, 0))


def test_pictures_show_faces_that_talk(stage):
    scene, _, take = stage
    assert (
        take.frames.shape == (6, 3, 256, 256)
        and float(take.frames.min()) >= -1e-3
        and float(take.frames.max()) <= 1.001
    )
    wide, shut = int(np.argmax(scene.lips.opening())), int(np.argmin(scene.lips.opening()))
    with torch.inference_mode():
        motion = scene.motion.cut(wide, wide + 1)
        moved = [render(scene.actor, motion, cut_lips(scene.lips, t, t + 1)).frames for t in (wide, shut)]
    x, y = scene.actor.centre
    x, y = (
        int(x + motion.move_x[0] + motion.shake_x[0]),
        int(y + motion.move_y[0] + motion.shake_y[0] + 1.2 * scene.actor.scale),
    )
    difference = (moved[0] - moved[1]).abs().mean(1)[0]
    assert float(difference[y - 15 : y + 20, x - 20 : x + 20].mean()) > 0.02
    assert float(difference[:60].max()) == 0, "hair does not talk"


def test_masks_on_disk_are_small(corpus):
    sizes = [path.stat().st_size for path in (corpus / "faceforensics/masks").rglob("*.npz")]
    assert max(sizes) < 60_000
    assert np.load(io.BytesIO(next((corpus / "faceforensics/masks").rglob("*.npz")).read_bytes())).files == ["mask"]

"""Faces that a model knows and faces that it does not, from the file to what is said of it."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import crosstalk
from datasets.appearance import SIZES, looks
from datasets.media import encode
from datasets.perturbations import perturbed
from engine.familiarity import Familiarity
from evaluation import Detector
from evaluation.verdict.rules import UNFAMILIAR
from evaluation.verdict.stream import FaceStream
from tests.datasets.bad_videos import pictures
from tests.evaluation.small import small_detector


def rows(crops: list[np.ndarray]) -> dict[str, torch.Tensor]:
    described = [looks(window) for window in crops]
    return {name: torch.from_numpy(np.stack([one[name] for one in described])) for name in SIZES}


@pytest.fixture(scope="module")
def material(corpus, tmp_path_factory) -> Path:
    """A video, the same so blurred that its model has seen nothing like it, and a model that knows the first one's face
    in forty lights."""
    root = tmp_path_factory.mktemp("familiar")
    faces = pictures(min((corpus / "faceforensics" / "original_sequences").rglob("*.mp4")))[:30]
    encode(root / "known.mp4", faces, options={"preset": "ultrafast", "crf": "20"})
    encode(root / "strange.mp4", list(perturbed(faces, "blur", 5, video="strange")), options={"preset": "ultrafast"})
    crops = next(iter(FaceStream(root / "known.mp4"))).crops
    random = np.random.default_rng(0)
    lights = [np.clip(crops[np.sort(random.choice(25, 3))] * random.normal(1, 0.1, 3), 0, 255).astype(np.uint8)
              for _ in range(80)]  # fmt: skip
    known = Familiarity.fitted(rows(lights[::2]), rows(lights[1::2]), people=20)
    small_detector(root / "bundle", known=known)
    small_detector(root / "without")
    return root


@pytest.fixture(scope="module")
def told(material):
    """What the model says of both."""
    detector = Detector.load(material / "bundle")
    return {name: detector.score(material / f"{name}.mp4", stride=5) for name in ("known", "strange")}


def test_a_window_is_as_far_as_its_crops_look(material, told):
    known = Detector.load(material / "bundle").familiarity
    for name, found in told.items():
        windows = list(FaceStream(material / f"{name}.mp4", stride=5))
        expected = known.distance(rows([window.crops for window in windows]))
        assert [window.distance for window in found.people[0].windows] == pytest.approx(expected.tolist(), rel=1e-9)
    assert max(window.distance for window in told["known"].people[0].windows) < 1
    assert min(window.distance for window in told["strange"].people[0].windows) > 2


def test_both_are_told_apart_and_the_logit_is_there_all_the_same(told):
    assert told["known"].familiar is True and UNFAMILIAR not in told["known"].notes
    assert told["strange"].familiar is False and UNFAMILIAR in told["strange"].notes
    assert all(found.verdict in ("real", "forged") and found.logit is not None for found in told.values())


def test_the_command_says_it_in_words_json_table_and_report(material, capsys, tmp_path):
    table = tmp_path / "t.csv"
    names = ("known", "strange")
    videos = [str(material / f"{name}.mp4") for name in names]
    code = crosstalk.main(["detect", *videos, "--model", str(material / "bundle"), "--csv", str(table)])
    said = capsys.readouterr()
    assert code == 0
    heads = [line.split(".mp4: ")[1] for line in said.err.splitlines() if ".mp4: " in line]
    assert heads[0].startswith(("real (", "forged ("))
    assert heads[1].startswith("outside what this model knows: no finding; it would say ")
    assert said.err.count(UNFAMILIAR) == 1
    found = [json.loads(line) for line in said.out.splitlines()]
    assert [(one["familiar"], one["people"][0]["familiar"]) for one in found] == [(True, True), (False, False)]
    distances = [[window["distance"] for window in one["people"][0]["windows"]] for one in found]
    assert max(distances[0]) < 1 < min(distances[1])
    assert UNFAMILIAR in found[1]["notes"] and UNFAMILIAR not in found[0]["notes"]
    with table.open(newline="") as file:
        assert [row["familiar"] for row in csv.DictReader(file)] == ["True", "False"]

    page = tmp_path / "x.html"
    assert crosstalk.main(["detect", videos[1], "--model", str(material / "bundle"), "--report", str(page)]) == 0
    assert "<h1>Outside what this model knows</h1>" in page.read_text()


def test_a_bundle_that_knows_no_faces_says_nothing_of_them(material):
    found = Detector.load(material / "without").score(material / "strange.mp4")
    assert found.familiar is None and found.people[0].familiar is None and UNFAMILIAR not in found.notes
    assert {window.distance for window in found.people[0].windows} == {None}

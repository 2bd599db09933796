"""Kaggle's form: every listed video exactly once, those without a face at 0.5, probabilities clipped."""

import csv

import pytest
from scipy.special import expit

from engine.calibration import Calibration
from evaluation.submission import write
from tests.evaluation.small import judged, small_detector, small_store


def read(path):
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["filename", "label"]
    return dict(rows[1:]) if len({row[0] for row in rows[1:]}) == len(rows) - 1 else pytest.fail("a file comes twice")


def test_every_listed_video_once(tmp_path):
    store = small_store(tmp_path / "store", "dfdc", methods=("abc",), people=2, real=False, prefix="test_videos/",
                        labelled=False)  # fmt: skip
    (tmp_path / "store" / "skipped.csv").write_text('video,reason\n"dfdc/test_videos/no,face.mp4",no face found\n')
    small_detector(tmp_path / "bundle")
    codes, said = judged(tmp_path / "run", f"model={tmp_path / 'bundle'}", f"store={tmp_path / 'store'}",
                         f"submission={tmp_path / 'submission.csv'}")  # fmt: skip
    assert codes == [0], said
    found = read(tmp_path / "submission.csv")
    assert set(found) == {"000.mp4", "001.mp4", "short.mp4", "no,face.mp4"} and len(store) == 3
    assert found["short.mp4"] == found["no,face.mp4"] == "0.5"
    with (tmp_path / "run" / "scores.csv").open(newline="") as file:
        logits = {row["video"].split("/")[-1]: row["logit"] for row in csv.DictReader(file)}
    for name in ("000.mp4", "001.mp4"):
        expected = min(max(expit((float(logits[name]) - 0.5) / 2), 0.01), 0.99)
        assert float(found[name]) == pytest.approx(expected)


def test_certain_verdicts_are_clipped_and_files_of_the_same_name_stay_apart(tmp_path):
    names = {"folder/a/x.mp4": "a/x.mp4", "folder/b/x.mp4": "b/x.mp4", "folder/c": "c"}
    write(tmp_path / "s.csv", names, {"folder/a/x.mp4": 900.0, "folder/b/x.mp4": -900.0}, Calibration(), 0.02)
    assert read(tmp_path / "s.csv") == {"a/x.mp4": "0.98", "b/x.mp4": "0.02", "c": "0.5"}


def test_names_become_paths_where_folders_repeat_them(tmp_path):
    from evaluation.submission import file_names

    store = small_store(tmp_path / "store", "folder", methods=("a", "b"), people=1, real=False, labelled=False)
    assert sorted(file_names(store).values()) == ["a/000.mp4", "b/000.mp4", "short.mp4"]

"""A video's score is the mean of its clips'; the table gives back what was written, and says which line is wrong."""

import math

import numpy as np
import pytest

from engine.errors import UserError
from engine.scores import COLUMNS, Score, read_scores, video_scores, without_clips, write_scores

HEADER = ",".join(COLUMNS) + "\n"
ROWS = [
    Score("ffpp/Deepfakes/000_003", "ffpp", "Deepfakes", 1, "000", 4, 0.1 + 0.2),
    Score("ffpp/youtube/000", "ffpp", "real", 0, "000", 1, -1e-300),
    Score('a, "b"\nc/ü.mp4', "folder", "real", None, "", 3, 5e-324),
    Score("lost\udcff.mp4", "folder", "real", None, "", 0, None),  # no face in it; a name that is no UTF-8
]


def test_mean_of_each_video_in_order_of_first_appearance():
    found = video_scores([1.0, 10, 3, -4], ["b", "a", "b", "c"])
    assert found.names == ["b", "a", "c"]
    assert found.logits.tolist() == [2.0, 10.0, -4.0] and found.clips.tolist() == [2, 1, 1]


def test_sums_are_in_double_precision():
    logits = np.array([1e8, 1, -1e8, 1], dtype=np.float32)  # in single precision 1e8 + 1 is 1e8
    assert video_scores(logits, ["v"] * 4).logits.tolist() == [0.5]
    assert video_scores([1e8 + 1], ["v"]).logits.tolist() == [1e8 + 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_clip_without_a_number_names_its_video(bad):
    with pytest.raises(UserError, match=f"score is {bad} for a clip of celebdf/b .1 of 3 clips are not finite"):
        video_scores([0.5, bad, 1.0], ["celebdf/a", "celebdf/b", "celebdf/b"])


def test_videos_without_clips():
    with pytest.raises(UserError, match=r"2 of the videos to score have no clip: c, d$"):
        video_scores([1.0, 2.0], ["a", "b"], expected=["c", "a", "d", "b"])
    with pytest.raises(UserError, match=r"9 of the videos to score have no clip: 0, 1, 2, \.\.\.$"):
        video_scores([], [], expected=list("012345678"))
    assert video_scores([1.0, 2.0], ["a", "b"], expected=["b", "a"]).names == ["a", "b"]
    assert without_clips(["a", "b"], ["c", "a", "d"]) == ["c", "d"]


def test_one_logit_per_clip():
    with pytest.raises(ValueError, match="2 clips"):
        video_scores([1.0], ["a", "b"])


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "scores.csv"
    write_scores(path, ROWS)
    assert read_scores(path) == ROWS  # floats too: equal, not close
    assert path.read_bytes().startswith(HEADER.encode() + b"ffpp/Deepfakes/000_003,ffpp,Deepfakes,1,000,4,0.300000000")
    assert [p.name for p in tmp_path.iterdir()] == ["scores.csv"]


def test_random_numbers_survive(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2**63, 2000, dtype=np.uint64)
    logits = bits.view(np.float64)
    rows = [Score(f"v{i}", "d", "m", 0, "", 1, logit) for i, logit in enumerate(logits[np.isfinite(logits)])]
    write_scores(tmp_path / "s.csv", rows)
    assert [row.logit for row in read_scores(tmp_path / "s.csv")] == [row.logit for row in rows]


def test_numpy_numbers_are_written_as_numbers(tmp_path):
    row = Score("v", "d", "m", np.int64(1), "", np.int64(2), np.float32(0.1))
    write_scores(tmp_path / "s.csv", [row])
    assert read_scores(tmp_path / "s.csv")[0].logit == float(np.float32(0.1))


@pytest.mark.parametrize(("text", "message"), [
    ("", ":1: expected the columns video,dataset"),
    ("video,label\na,1\n", ":1: expected the columns video,dataset,method,label,identity,clips,logit, found 'vid"),
    (HEADER + "a,d,m,1,,1\n", ":2: 6 columns; expected 7"),
    (HEADER + "a,d,m,1,,1,0.5\n\n", ":3: 0 columns"),
    (HEADER + "a,d,m,1,,1,0.5\nb,d,m,2,,1,0.5\n", ":3: label '2'; expected 0"),
    (HEADER + "a,d,m,FAKE,,1,0.5\n", ":2: label 'FAKE'"),
    (HEADER + "a,d,m,1,,x,0.5\n", ":2: clips 'x'; expected a whole number"),
    (HEADER + "a,d,m,1,,-1,0.5\n", ":2: clips '-1'"),
    (HEADER + "a,d,m,1,,1,nan\n", ":2: logit 'nan'; expected a number"),
    (HEADER + "a,d,m,1,,1,1_0\n", ":2: logit '1_0'"),
    (HEADER + "a,d,m,1,,1,1e999\n", ":2: logit inf; expected a finite number"),
    (HEADER + "a,d,m,1,,1,\n", ":2: 1 clips and logit None"),
    (HEADER + "a,d,m,1,,0,0.5\n", ":2: 0 clips and logit 0.5"),
    (HEADER + ",d,m,1,,1,0.5\n", ":2: the video has no name"),
    (HEADER + "a,d,m,1,,1,0.5\nb,d,m,1,,1,0.5\na,d,m,0,,2,0.7\n",
     ":4: dataset 'd', method 'm', video 'a' is listed twice"),
    (HEADER + 'a,d,"m,1,,1,0.5\n', ":2: unexpected end of data"),
    (HEADER + '"a\nb",d,m,1,,1,0.5\nc,d,m,9,,1,0.5\n', ":4: label '9'"),  # lines of the file, not rows
])  # fmt: skip
def test_a_wrong_file_is_one_line_with_its_number(tmp_path, text, message):
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_scores(path)
    assert str(caught.value).startswith(f"{path}{message}")


def test_the_same_name_in_another_dataset_or_method_is_another_video(tmp_path):
    rows = [Score("a", "d", "m", 1, "", 1, 0.5), Score("a", "d", "n", 1, "", 1, 0.5), Score("a", "e", "m", 1, "", 1, 1)]
    write_scores(tmp_path / "s.csv", rows)
    assert read_scores(tmp_path / "s.csv") == rows
    with pytest.raises(UserError, match="video 'a' is listed twice"):
        write_scores(tmp_path / "t.csv", [*rows, rows[0]])
    assert not (tmp_path / "t.csv").exists()


def test_no_file(tmp_path):
    with pytest.raises(UserError, match=r"s\.csv cannot be read: No such file"):
        read_scores(tmp_path / "s.csv")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_scores(tmp_path)


@pytest.mark.parametrize("change", [{"label": 2}, {"logit": math.nan}, {"logit": None}, {"clips": 0}, {"video": ""}])
def test_a_score_that_could_not_be_read_is_not_made(change):
    good = {"video": "a", "dataset": "d", "method": "m", "label": 1, "identity": "", "clips": 1, "logit": 0.5}
    with pytest.raises(ValueError):
        Score(**good | change)

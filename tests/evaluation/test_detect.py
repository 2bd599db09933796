"""Files in, verdicts out: the same number as through a store and a benchmark, bounded, interruptible, one line each."""

import csv
import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import crosstalk
from datasets.faces import crop
from datasets.media import encode, read_frames
from datasets.prepare import main as prepare
from datasets.store import Store
from evaluation import Detector
from evaluation.verdict import detect, judge, stream
from evaluation.verdict.judge import Settings
from evaluation.verdict.stream import FaceStream
from tests.datasets.bad_videos import ODD_NAMES, blank, pictures, write_bad_videos
from tests.evaluation.small import judged, small_detector

QUICK = {"options": {"preset": "ultrafast", "crf": "20"}}


@pytest.fixture(scope="module")
def talking(corpus) -> Path:
    return min((corpus / "faceforensics" / "original_sequences").rglob("*.mp4"))


@pytest.fixture(scope="module")
def material(talking, tmp_path_factory) -> Path:
    """A bundle, and a folder of three videos: a face for two and a half seconds, a face for a while, two faces."""
    root = tmp_path_factory.mktemp("detect")
    faces = pictures(talking)
    faces = (faces + faces[::-1])[:64]
    small = [np.ascontiguousarray(picture[::2, ::2]) for picture in faces[:40]]
    small += [np.full_like(small[0], 90)] * 12
    both = [np.hstack([picture, np.pad(other, ((0, len(picture) - len(other)), (20, 20), (0, 0)))])
            for picture, other in zip(faces, small, strict=False)]  # fmt: skip
    for name, frames in (("real/one.mp4", faces), ("fake/swap/late.mp4", blank(30, *faces[0].shape[:2]) + faces[:40]),
                         ("fake/swap/two.mp4", both)):  # fmt: skip
        path = root / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        encode(path, frames, **QUICK)
    small_detector(root / "bundle")
    return root


def detected(capsys, *arguments: object) -> tuple[int, list[dict], list[str]]:
    code = crosstalk.main(["detect", *map(str, arguments)])
    said = capsys.readouterr()
    return code, [json.loads(line) for line in said.out.splitlines()], said.err.splitlines()


# --------------------------------------------------------------------------------------- the same number

def test_a_video_gets_the_number_that_prepare_and_benchmark_give_it(material, tmp_path):
    store = tmp_path / "store"
    assert prepare(["data=folder", f"root={material / 'videos'}", f"store={store}", "workers=1"]) == 0
    codes, said = judged(tmp_path / "run", f"model={material / 'bundle'}", f"store={store}")
    assert codes == [0], said
    with (tmp_path / "run" / "scores.csv").open(newline="") as file:
        scores = {row["video"]: float(row["logit"]) for row in csv.DictReader(file)}
    detector = Detector.load(material / "bundle")
    assert len(scores) == 3
    for name, logit in scores.items():
        found = detector.score(material / "videos" / name.removeprefix("folder/"), batch=2)
        assert found.logit == pytest.approx(logit, abs=1e-4), name
        again = detector.score(found.video, batch=5)
        assert again.logit == pytest.approx(found.logit, abs=1e-5), "whatever the batch"
    assert np.ptp(list(scores.values())) > 1e-3, "else nothing was compared"


def test_windows_are_those_of_the_store(material, tmp_path):
    store = tmp_path / "store"
    assert prepare(["data=folder", f"root={material / 'videos'}", f"store={store}", "workers=1", "tracks=all"]) == 0
    opened = Store.open(store)
    for track, name in enumerate(opened.table.ids):
        video = material / "videos" / name.split("#")[0].removeprefix("folder/")
        first, frames = int(opened.table.start[track]), int(opened.table.frames[track])
        for stride in (25, 7, 40):
            read = FaceStream(video, stride=stride)
            windows = [window for window in list(read) if read.faces[window.face].track.frames == frames
                       and read.faces[window.face].track.start == first]  # fmt: skip
            starts = [window.start - first for window in windows]
            whole = list(range(0, frames - 24, stride))
            assert starts == whole + ([frames - 25] if whole[-1] != frames - 25 else [])
            for window in windows:
                at = window.start - first
                assert np.array_equal(window.crops, opened.frames(track, at, at + 25))


def test_a_person_knows_where_its_crops_lie(material):
    video = material / "videos" / "real" / "one.mp4"
    frames = list(read_frames(video))
    read = FaceStream(video)
    windows = list(read)
    [face] = read.faces.values()
    assert face.places.shape == (face.track.frames, 2) and face.inside == 1
    for k, place in enumerate(face.places[25:50]):
        assert np.array_equal(crop(frames[25 + k].rgb(), windows[1].landmarks[k]), windows[1].crops[k])
        origin, step = place
        eye = windows[1].landmarks[k][36] @ (1, 1j)
        u = (eye - origin) / step
        assert 20 < u.real < 70 and 30 < u.imag < 80, "the outer corner of the left eye"


# --------------------------------------------------------------------------------------- as it comes

def test_answers_begin_while_the_file_is_read(material):
    read = FaceStream(material / "videos" / "real" / "one.mp4")
    window = next(iter(read))
    assert window.start == 0 and read.frames < 64
    assert all(len(face._crops) <= 25 for face in read.faces.values()), "no more than a window is held"


def test_asked_to_stop_it_tells_what_is_known(material):
    detector = Detector.load(material / "bundle")
    seen, told = [], []
    found = judge.judge(detector, material / "videos" / "real" / "one.mp4", Settings(stride=1, batch=1),
                        stop=lambda: len(seen) > 1, seen=lambda window, window_judged: seen.append(window_judged),
                        progress=told.append)  # fmt: skip
    assert not found.complete and found.notes[0].startswith("interrupted") and found.verdict != "cannot tell"
    assert found.people[0].windows == tuple(seen) and found.logit == pytest.approx(np.mean([w.logit for w in seen]))


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_ends_cleanly(number, code, material, monkeypatch, capsys, tmp_path):
    scored, batches = judge._judged, []

    def interrupted(model, batch, precision):
        if batch and not batches:
            signal.raise_signal(number)
        batches.extend(batch)
        return scored(model, batch, precision)

    monkeypatch.setattr(judge, "_judged", interrupted)
    handler = signal.getsignal(number)
    result = detected(capsys, material / "videos", "--model", material / "bundle", "--batch", 1, "--csv",
                      tmp_path / "t")  # fmt: skip
    assert result[0] == code and len(result[1]) == 1, "the videos after it are not begun"
    assert result[1][0]["complete"] is False and result[1][0]["verdict"] != "cannot tell"
    assert len((tmp_path / "t").read_text().splitlines()) >= 2
    assert signal.getsignal(number) is handler


# --------------------------------------------------------------------------------------- the command

def test_verdicts_in_words_as_json_and_as_a_table(material, capsys, tmp_path):
    table = tmp_path / "verdicts.csv"
    code, found, said = detected(capsys, material / "videos", "--model", material / "bundle", "--csv", table)
    assert code == 0 and [Path(one["video"]).name for one in found] == ["one.mp4", "late.mp4", "two.mp4"]
    for one in found:
        assert {"verdict", "probability", "logit", "people", "notes", "seconds", "digest"} <= set(one)
        assert one["verdict"] in ("real", "forged") and len(one["people"]) == 1 + (Path(one["video"]).name == "two.mp4")
        [line] = [line for line in said if line.startswith(one["video"])]
        assert line == f"{one['video']}: {one['verdict']} (probability of a forgery {100 * one['probability']:.0f} %)"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["video"], row["person"]) for row in rows] == [
        (one["video"], str(person["number"])) for one in found for person in one["people"]]  # fmt: skip
    for row, person in zip(rows, (person for one in found for person in one["people"]), strict=True):
        assert float(row["logit"]) == person["logit"] and row["person_verdict"] == person["verdict"]


def test_to_a_terminal_json_is_only_told_when_asked_for(material, capsys, monkeypatch):
    video = material / "videos" / "real" / "one.mp4"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert detected(capsys, video, "--model", material / "bundle")[1] == []
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert len(detected(capsys, video, "--model", material / "bundle", "--json")[1]) == 1


def test_bad_videos_are_one_line_each_and_stop_nothing(talking, material, capsys, tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    expected = write_bad_videos(folder, talking)
    (folder / "8k.mp4").unlink()  # seconds, and what happens to its frames is prepare's to test
    expected.pop("8k.mp4")
    code, found, said = detected(capsys, folder, tmp_path / "none.mp4", folder, "--model", material / "bundle")
    assert code == 2
    by_name = {Path(one["video"]).name: one for one in found}
    assert len(found) == len(by_name) == len(expected) + 1
    assert by_name["none.mp4"]["reason"] == "no such file"
    for name, reason in expected.items():
        one = by_name[name]
        if name == "truncated.mp4":  # half a second of it can be read
            assert one["reason"].startswith("only") and reason in one["notes"][0]
        elif reason:
            assert one["verdict"] == "cannot tell" and reason in one["reason"]
        else:
            assert one["verdict"] in ("real", "forged"), name
    heads = [line for line in said if not line.startswith("  ")]
    assert len(heads) == len(found) and "Traceback" not in "".join(said)
    assert any("line\\nbreak.mp4" in line for line in heads) and len(ODD_NAMES) == 7


def test_of_a_damaged_file_what_can_be_read_is_judged(material, tmp_path):
    whole = (material / "videos" / "real" / "one.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 4 // 5])
    found = Detector.load(material / "bundle").score(tmp_path / "cut.mp4")
    assert found.verdict in ("real", "forged") and 25 < found.frames < 64 and found.complete
    assert found.notes[0].startswith("the file could be read for") and "cut off" in found.notes[0]


def test_exit_codes(material, capsys, tmp_path):
    good = material / "videos" / "real" / "one.mp4"
    encode(tmp_path / "wall.mp4", blank(30), **QUICK)
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    model = ("--model", material / "bundle")
    assert detected(capsys, good, *model)[0] == 0
    assert detected(capsys, good, tmp_path / "wall.mp4", *model)[0] == 3
    assert detected(capsys, tmp_path / "wall.mp4", tmp_path / "text.mp4", good, *model)[0] == 2
    code, [found], _ = detected(capsys, tmp_path / "empty", *model)
    assert code == 2 and found["reason"].startswith("no videos anywhere below it")
    code, [found], _ = detected(capsys, good, *model, "--smallest-face", 900)
    assert code == 3 and found["reason"].endswith("900 are needed")
    code, [found], _ = detected(capsys, good, *model, "--frames", 30, "--stride", 5)
    assert found["frames"] == 30 and [w["start"] for w in found["people"][0]["windows"]] == [0, 5]


def test_report_and_overlay_of_one_video(material, capsys, tmp_path):
    good, page, film = material / "videos" / "real" / "one.mp4", tmp_path / "x.html", tmp_path / "x.mp4"
    code, [found], said = detected(capsys, good, "--model", material / "bundle", "--report", page, "--overlay", film)
    assert code == 0 and {f"report: {page}", f"overlay: {film}"} <= set(said)
    text = page.read_text()
    assert text.count("data:image/jpeg") >= 2 * len(found["people"][0]["windows"])  # each plain and with its heat map
    assert sum(1 for _ in read_frames(film)) == found["frames"] > 25
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.html", "x.mp4"]


def test_the_overlay_is_never_the_video_itself(material, capsys):
    good = material / "videos" / "real" / "one.mp4"
    before = good.read_bytes()
    code, _, said = detected(capsys, good, "--model", material / "bundle", "--overlay", good)
    assert code == 2 and said[0].endswith("that is the video itself") and good.read_bytes() == before


@pytest.mark.parametrize("arguments, line", [
    (["a.mp4", "b.mp4", "--model", "b", "--report", "x.html"], "--report is of one video; give one file"),
    (["a.mp4", "--model", "b", "--report", "x.pdf"], "--report x.pdf: its name must end in .html"),
    (["a.mp4", "--model", "b", "--overlay", "no/x.mp4"], "--overlay no/x.mp4: there is no such folder"),
    (["a.mp4"], "--model BUNDLE is missing: a folder that"),
    (["--model", "b"], "name a video file, several, or a folder"),
    (["a.mp4", "--modle", "b"], "unknown flag --modle; did you mean --model?"),
    (["a.mp4", "--xyz=1"], "unknown flag --xyz; known are --help, --model"),
    (["a.mp4", "--model", "b", "--stride", "0"], "--stride: expected a whole number from 1, not '0'"),
    (["a.mp4", "--model", "b", "--precision", "fp8"], "--precision: invalid choice: 'fp8'"),
    (["a.mp4", "model=b"], "model=b: detect has flags; write --model b"),
    (["a.mp4", "--model", "no/such/folder"], "no/such/folder"),
    (["a.mp4", "--model", "b", "--csv", "no/folder/t.csv"], "--csv no/folder/t.csv: there is no such folder"),
])  # fmt: skip
def test_a_wrong_command_is_one_line_and_exit_code_2(arguments, line, capsys):
    code, out, said = detected(capsys, *arguments)
    assert code == 2 and out == [] and len(said) == 1
    assert said[0].startswith("crosstalk detect: ") and line in said[0]


def test_help_teaches(capsys):
    assert crosstalk.main(["detect", "--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 120
    for taught in ("--stride", "cannot tell", "exit code", "Detector.load", "Ctrl-C"):
        assert taught in text


def test_a_model_without_calibration_says_so(material, tmp_path):
    detector = replace(Detector.load(material / "bundle"), calibration=None)
    found = detector.score(material / "videos" / "real" / "one.mp4")
    assert found.verdict == ("forged" if found.logit >= 0 else "real") and any("threshold" in n for n in found.notes)


def test_every_file_of_a_folder_comes_once(material):
    videos = material / "videos"
    given = [videos / "real" / "one.mp4", videos, videos / "real"]
    assert [path.name for path, _ in detect._listed(given)] == ["one.mp4", "late.mp4", "two.mp4"]


def test_an_error_of_ours_in_the_reading_thread_is_no_verdict(material, monkeypatch):
    monkeypatch.setattr(stream, "cut", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Detector.load(material / "bundle").score(material / "videos" / "real" / "one.mp4")

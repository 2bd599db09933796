"""Protocols, resumption, processes; every number of every table computed again from the scores on the disk."""

import csv
import json
import os
import signal

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score

from evaluation import scored
from tests.evaluation.small import METHODS, commanded, judged, small_detector, small_store
from tests.finetune.small import BACKBONE, small_bundle


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    root = tmp_path_factory.mktemp("benchmark")
    small_store(root / "ff", people=5)
    small_store(root / "celeb", "celebdf_v2", methods=("Celeb-synthesis",), people=3)
    small_store(root / "deeper", "deeperforensics", methods=("DeeperForensics",), real=False)
    for severity in (1, 3):
        small_store(root / f"ff_blur{severity}", people=5, perturb=("blur", severity))
    small_detector(root / "bundle", leave_out=["FaceSwap"])
    for seed, method in enumerate(METHODS):
        small_detector(root / f"no_{method}", seed, leave_out=[method, "FaceShifter"])
    return root


@pytest.fixture(scope="module")
def in_dataset(material):
    codes, said = judged(material / "in", f"model={material / 'bundle'}", f"store={material / 'ff'}")
    assert codes == [0], said
    return material / "in"


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(run, name="results"):
    return json.loads((run / "results.json").read_text())["tables"][name]


def of(rows, method):
    """Labels and logits of a method's videos and the real ones."""
    chosen = [row for row in rows if row["logit"] and row["method"] in ("real", method)]
    return [int(row["label"]) for row in chosen], [float(row["logit"]) for row in chosen]


# --------------------------------------------------------------------------------------- numbers

def test_every_number_comes_from_the_scores(in_dataset):
    rows, clips = read(in_dataset / "scores.csv"), read(in_dataset / "clips.csv")
    assert len(rows) == 26 and sum(row["logit"] == "" for row in rows) == 1, "the short video is listed, not scored"
    for row in rows:
        own = [float(clip["logit"]) for clip in clips if clip["video"] == row["video"]]
        assert len(own) == int(row["clips"])
        assert not own or np.mean(own) == pytest.approx(float(row["logit"]), abs=1e-12)
    lines = {line["forgery"]: line for line in table(in_dataset)}
    assert list(lines) == [*sorted(METHODS), "all forgeries", "mean of the forgeries"]
    details = {line["forgery"]: line for line in table(in_dataset, "details")}
    for method in METHODS:
        labels, logits = of(rows, method)
        line = lines[method]
        assert line["AUC %"]["value"] == pytest.approx(100 * roc_auc_score(labels, logits))
        assert line["AUC %"]["low"] <= line["AUC %"]["value"] <= line["AUC %"]["high"]
        assert line["AP %"]["value"] == pytest.approx(100 * average_precision_score(labels, logits))
        called = [logit >= 0.5 for logit in logits]
        assert line["accuracy %"] == pytest.approx(100 * accuracy_score(labels, called))
        assert details[method]["real called forged"] == sum(c and not y for c, y in zip(called, labels, strict=True))
        mine = [clip for clip in clips if clip["method"] in ("real", method)]
        assert line["AUC of clips %"]["value"] == pytest.approx(100 * roc_auc_score(
            [clip["method"] != "real" for clip in mine], [float(clip["logit"]) for clip in mine]))
        assert details[method]["clips"] == len(mine) and details[method]["without clips"] == 1
        assert line["trained on"] == ("no" if method == "FaceSwap" else "yes")
    mean = lines["mean of the forgeries"]["AUC %"]
    assert mean["value"] == pytest.approx(np.mean([lines[method]["AUC %"]["value"] for method in METHODS]))
    for suffix in ("md", "tex", "csv", "json"):
        assert (in_dataset / "tables" / f"results.{suffix}").stat().st_size
    assert float(read(in_dataset / "tables" / "results.csv")[0]["AUC %"]) == lines["Deepfakes"]["AUC %"]["value"]


def test_provenance_stands_in_the_results(in_dataset, material):
    about = json.loads((in_dataset / "results.json").read_text())["provenance"]
    assert about["models"][0]["bundle"] == str(material / "bundle") and len(about["models"][0]["digest"]) == 32
    assert about["stores"][0]["digest"] == json.loads((material / "ff" / "manifest.json").read_text())["digest"]
    assert about["generated"] is True and about["sessions"][0]["versions"]["torch"]


def test_tables_follow_the_scores_and_other_draws_need_no_scoring(material, in_dataset):
    before = table(in_dataset)[0]["AUC %"]
    codes, said = judged(in_dataset, f"model={material / 'bundle'}", f"store={material / 'ff'}", "draws=25",
                         prepare=refuse_scoring)  # fmt: skip
    assert codes == [0], said
    after = table(in_dataset)[0]["AUC %"]
    assert after["value"] == before["value"] and after != before


# --------------------------------------------------------------------------------------- the same, however

def test_batches_workers_and_processes_change_nothing(material, in_dataset):
    ours = {row["video"]: row for row in read(in_dataset / "scores.csv")}
    same = [f"model={material / 'bundle'}", f"store={material / 'ff'}"]
    codes, said = judged(material / "two", *same, "batch=3", world=2)
    assert codes == [0, 0], said
    code, said = commanded(material / "workers", *same, "batch=7", "workers=2")
    assert code == 0, said
    for name in ("two", "workers"):
        theirs = read(material / name / "scores.csv")
        assert [row["video"] for row in theirs] == list(ours)
        for row in theirs:
            assert row["clips"] == ours[row["video"]]["clips"]
            if row["logit"]:
                assert float(row["logit"]) == pytest.approx(float(ours[row["video"]]["logit"]), abs=1e-4)
        for mine, line in zip(table(in_dataset), table(material / name), strict=True):
            assert mine["AUC %"]["value"] == pytest.approx(line["AUC %"]["value"], abs=0.1 / 2)


def kill_after_a_piece():
    """A process that is gone, as by kill -9, after its second piece: half a line is on the disk."""
    import finetune.scoring

    finetune.scoring.BATCHES_TOGETHER = 2
    append, pieces = scored.Journal._append, []

    def counted(self, lines):
        append(self, lines)
        pieces.append(1)
        if len(pieces) == 4:
            with self.path.open("ab") as file:
                file.write(b'{"video": "faceforensics/')
                file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    scored.Journal._append = counted


def refuse_scoring():
    def refuse(*arguments, **named):
        raise AssertionError("scored again")

    scored.clip_logits = refuse


@pytest.mark.parametrize("world", [1, 2])
def test_killed_and_continued_scores_no_video_twice(material, in_dataset, tmp_path, world):
    arguments = [f"model={material / 'bundle'}", f"store={material / 'ff'}", "batch=1"]
    codes, _ = judged(tmp_path / "run", *arguments, prepare=kill_after_a_piece)
    assert codes == [-signal.SIGKILL]
    (journal,) = (tmp_path / "run" / "scores").glob("*.jsonl")
    done = [json.loads(line)["video"] for line in journal.read_text().splitlines()[1:-1]]
    assert 0 < len(done) < 25 and not (tmp_path / "run" / "scores.csv").exists()
    codes, said = judged(tmp_path / "run", *arguments, world=world)
    assert codes == [0] * world, said
    videos = [json.loads(line)["video"] for line in journal.read_text().splitlines()[1:]]
    assert len(videos) == len(set(videos)) == 25 and videos[: len(done)] == done
    ours, theirs = read(in_dataset / "scores.csv"), read(tmp_path / "run" / "scores.csv")
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["video"] == other["video"] and mine["clips"] == other["clips"]
        assert not mine["logit"] or float(mine["logit"]) == pytest.approx(float(other["logit"]), abs=1e-4)


def stop_after_a_piece():
    """SIGTERM, as SLURM sends it before the time is up."""
    import finetune.scoring

    finetune.scoring.BATCHES_TOGETHER = 2
    add = scored.Journal.add

    def added(self, videos):
        add(self, videos)
        os.kill(os.getpid(), signal.SIGTERM)

    scored.Journal.add = added


def test_asked_to_stop_it_keeps_what_it_has_and_says_so_by_its_exit_code(material, tmp_path):
    arguments = [f"model={material / 'bundle'}", f"store={material / 'celeb'}", "batch=1"]
    codes, said = judged(tmp_path / "run", *arguments, prepare=stop_after_a_piece)
    assert codes == [128 + signal.SIGTERM] and "Traceback" not in said
    (journal,) = (tmp_path / "run" / "scores").glob("*.jsonl")
    assert 1 < len(journal.read_text().splitlines()) < 7
    codes, said = judged(tmp_path / "run", *arguments)
    assert codes == [0], said


def test_a_folder_of_another_model_is_refused(material, in_dataset):
    codes, said = judged(in_dataset, f"model={material / 'no_FaceSwap'}", f"store={material / 'ff'}")
    assert codes == [2] and "belongs to other settings" in said


# --------------------------------------------------------------------------------------- protocols

def test_cross_dataset(material):
    stores = f"store=[{material / 'ff'},{material / 'celeb'},{material / 'deeper'}]"
    codes, said = judged(material / "cross", f"model={material / 'bundle'}", stores, "protocol=cross_dataset",
                         "protocol.sets.0.methods=[FaceSwap]")  # fmt: skip
    assert codes == [0], said
    lines = {line["test set"]: line for line in table(material / "cross")}
    assert list(lines) == ["FaceShifter", "Celeb-DF v2", "DFDC", "DeeperForensics", "mean"]
    assert lines["DFDC"]["AUC %"] is None and "crosstalk prepare data=dfdc" in said
    rows = read(material / "cross" / "scores.csv")
    real = [row for row in rows if row["dataset"] == "faceforensics" and row["label"] == "0" and row["logit"]]
    forged = [row for row in rows if row["dataset"] == "deeperforensics" and row["logit"]]
    logits = [float(row["logit"]) for row in real + forged]
    assert lines["DeeperForensics"]["AUC %"]["value"] == pytest.approx(
        100 * roc_auc_score([0] * len(real) + [1] * len(forged), logits))
    assert lines["Celeb-DF v2"]["trained on"] == "no"
    published = table(material / "cross", "published")
    assert published[0]["Celeb-DF v2"] == 86.9 and published[0]["source"]


def test_cross_manipulation_takes_each_model_on_what_it_never_saw(material):
    bundles = ",".join(str(material / f"no_{method}") for method in METHODS[:3])
    codes, said = judged(material / "manipulation", f"models=[{bundles}]", f"store={material / 'ff'}",
                         "protocol=cross_manipulation")  # fmt: skip
    assert codes == [0], said
    assert "NeuralTextures: no bundle that was trained without it" in said
    assert "crosstalk finetune init=BUNDLE" in said and "leave_out=[NeuralTextures,FaceShifter]" in said
    lines = {line["left out of training"]: line for line in table(material / "manipulation")}
    assert lines["NeuralTextures"]["AUC %"] is None
    rows = read(material / "manipulation" / "scores.csv")
    for method in METHODS[:3]:
        own = [row for row in rows if row["dataset"] == f"faceforensics, trained without {method}" and row["logit"]]
        assert {row["method"] for row in own} == {"real", method} and lines[method]["trained on"] == "no"
        assert lines[method]["AUC %"]["value"] == pytest.approx(100 * roc_auc_score(
            [int(row["label"]) for row in own], [float(row["logit"]) for row in own]))


def test_robustness_finds_the_stores_by_what_was_done_to_them(material):
    codes, said = judged(material / "robust", f"model={material / 'bundle'}", f"store={material}/ff*",
                         "protocol=robustness")  # fmt: skip
    assert codes == [0], said
    clean, blur = table(material / "robust", "severities")
    auc = {line["videos"]: line["AUC %"]["value"] for line in table(material / "robust")}
    assert clean["mean"]["value"] == auc["clean"] and blur["severity 1"] == auc["blur 1"] and blur["severity 2"] is None
    assert blur["mean"]["value"] == pytest.approx((auc["blur 1"] + auc["blur 3"]) / 2)
    assert "blur: the mean is over 2 severities, not 5" in said and "perturb=noise severity=1" in said
    assert "not the same videos" not in said


def test_robustness_on_other_videos_than_the_clean_ones_is_said(material, tmp_path):
    small_store(tmp_path / "noise", people=3, perturb=("noise", 5))
    codes, said = judged(tmp_path / "run", f"model={material / 'bundle'}", f"store=[{material}/ff,{tmp_path}/noise]",
                         "protocol=robustness")  # fmt: skip
    assert codes == [0], said
    assert "note: noise 5: not the same videos as the clean ones" in said


@pytest.mark.parametrize(("arguments", "said"), [
    (["store={root}/ff"], "model=BUNDLE is missing"),
    (["model={root}/bundle"], "store=DIR is missing"),
    (["model={root}/bundle", "store={root}/nowhere"], "no store at"),
    (["model={root}/stage1", "store={root}/ff"], "expected a bundle of stage 2"),
    (["model={root}/bundle", "store={root}/reals"], "5 real and 0 forged videos in split test"),
    (["model={root}/bundle", "store={root}/ff", "protocol.split=val"], "no clips with split=val"),
    (["model={root}/bundle", "store={root}/unlabelled"], "has no labels, so nothing can be measured; submission=FILE"),
    (["model={root}/bundle", "store=[{root}/ff,{root}/ff_blur1]"], "holds perturbed videos"),
    (["model={root}/bundle", "store={root}/ff", "protocol=robustness"], "none of the stores is perturbed"),
    (["model={root}/bundle", "store={root}/ff", "protocol=cross"], "unknown protocol=cross; known are cross_dataset"),
    (["models=[{root}/bundle]", "store={root}/ff"], "models= is for protocol=cross_manipulation"),
    (["models=[{root}/no_FaceSwap,{root}/bundle]", "store={root}/ff", "protocol=cross_manipulation"],
     "were both trained without FaceSwap"),
    (["model={root}/bundle", "store={root}/ff", "draws=2"], "draws=2: at least 20"),
])  # fmt: skip
def test_mistakes_are_one_line(material, tmp_path, capsys, arguments, said):
    from engine.command import run
    from evaluation.benchmark import main

    if not (material / "stage1").exists():
        small_bundle(material / "stage1")
        small_store(material / "reals", methods=(), people=5)
        small_store(material / "unlabelled", "folder", labelled=False)
    words = [argument.format(root=material) for argument in arguments]
    assert run("benchmark", main, [*words, f"run={tmp_path / 'run'}", "device=cpu", "workers=0"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "run" / "scores.csv").exists()


def test_too_few_for_an_interval_shows_the_number_and_says_so(material, tmp_path):
    small_store(tmp_path / "two", people=1)
    codes, said = judged(tmp_path / "run", f"model={material / 'bundle'}", f"store={tmp_path / 'two'}")
    assert codes == [0], said
    line = table(tmp_path / "run")[0]
    assert "low" not in line["AUC %"] and "no interval: Deepfakes: everything belongs to one group" in said
    assert "no interval" in (tmp_path / "run" / "report.html").read_text()


def test_a_bundle_of_another_input_size(material, tmp_path):
    backbone = {**BACKBONE, "arguments": {**BACKBONE["arguments"], "input_size": 48}}
    small_detector(tmp_path / "larger", backbone=backbone)
    codes, said = judged(tmp_path / "run", f"model={tmp_path / 'larger'}", f"store={material / 'celeb'}")
    assert codes == [0], said

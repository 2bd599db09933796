"""A sweep's finished runs become one table: mean and spread over seeds, the best marked, what is missing named."""

import csv
import json

import numpy as np
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from engine.errors import UserError
from evaluation.sweep import gathered
from tests.evaluation.small import judged, small_detector, small_store


def trained(folder, seed, ssl_weight, epoch=8, **settings):
    """What `crosstalk finetune` leaves of a run."""
    config = {"init": "none", "teacher": None, "backbone": None, "store": ["x"], "run": str(folder), "seed": seed,
              "ssl_weight": ssl_weight, "epochs": 8, "patience": None, **settings}  # fmt: skip
    small_detector(folder / "bundle", seed=100 * seed + int(10 * ssl_weight))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "environment.json").write_text("{}")
    lines = [{"step": 10 * e, "epoch": e, "split": "val", "values": {"selection": 0.5 + e / 100}, "seconds": 1.0}
             for e in range(2, epoch + 1, 2)]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    small_store(root / "ff", people=3)
    for weight, seeds in ((0.0, (0, 1)), (0.3, (0, 1)), (1.0, (0,))):
        for seed in seeds:
            trained(root / "runs" / f"w{weight}-s{seed}", seed, weight)
    trained(root / "runs" / "w0.3-s2", 2, 0.3, epoch=4)
    return root


def test_the_table_of_a_sweep(sweep):
    arguments = [f"ablation={sweep / 'runs'}", f"store={sweep / 'ff'}"]
    codes, said = judged(sweep / "out", *arguments)
    assert codes == [0], said
    tables = json.loads((sweep / "out" / "results.json").read_text())["tables"]
    assert [(line["ssl_weight"], line["seeds"]) for line in tables["ablation"]] == [("0.0", 2), ("0.3", 2), ("1.0", 1)]
    with (sweep / "out" / "scores.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["logit"] and row["method"] in ("real", "FaceSwap")]
    for line in tables["ablation"]:
        each = []
        for seed in range(line["seeds"]):
            own = [row for row in rows if row["dataset"] == f"w{line['ssl_weight']}-s{seed}: faceforensics"]
            each.append(100 * roc_auc_score([int(r["label"]) for r in own], [float(r["logit"]) for r in own]))
        cell = line["FaceSwap"]
        assert cell["value"] == pytest.approx(np.mean(each))
        assert cell.get("spread") == (pytest.approx(np.std(each, ddof=1)) if len(each) > 1 else None)
    assert "w0.3-s2: not finished: epoch 4 of 8" in said
    assert "ssl_weight=1.0: no run with seed 1, 2" in said and "ssl_weight=0.0: no run with seed 2" in said
    best = max(line["FaceSwap"]["value"] for line in tables["ablation"])
    assert f"**{best:.2f}**" in (sweep / "out" / "tables" / "ablation.md").read_text()
    assert (sweep / "out" / "ablation.png").read_bytes().startswith(b"\x89PNG")
    page = (sweep / "out" / "report.html").read_text()
    assert "data:image/png;base64," in page and "no run with seed 1, 2" in page

    # A run that finishes later is added, the others are not scored again.
    before = {path: path.stat().st_mtime_ns for path in (sweep / "out" / "scores").iterdir()}
    trained(sweep / "runs" / "w1.0-s1", 1, 1.0)
    codes, said = judged(sweep / "out", *arguments)
    assert codes == [0], said
    after = {path: path.stat().st_mtime_ns for path in (sweep / "out" / "scores").iterdir()}
    assert len(after) == len(before) + 1 and before.items() <= after.items()


def test_settings_that_others_tell_as_well_are_no_axis(tmp_path):
    """Four arms: from scratch or not, with the auxiliary task or without; the teacher follows."""
    for seed in (0, 1):
        stage_1 = tmp_path / f"stage1-{seed}"
        stage_1.mkdir()
        (stage_1 / "config.yaml").write_text(yaml.safe_dump({"stage": "pretrain", "seed": seed, "step": seed + 5}))
        arms = (("a", "none", 0.0, None), ("b", str(stage_1), 0.0, None), ("c", str(stage_1), 0.3, None),
                ("d", "none", 0.3, str(stage_1)))  # fmt: skip
        for name, init, weight, teacher in arms:
            trained(tmp_path / "runs" / f"{name}{seed}", seed, weight, init=init, teacher=teacher)
    found = gathered(tmp_path / "runs")
    assert found.axes == ["ssl_weight", "init"] and found.missing == []
    assert list(found.runs) == [("0.0", "none"), ("0.0", "stage 1"), ("0.3", "none"), ("0.3", "stage 1")]
    assert [[run.seed for run in runs] for runs in found.runs.values()] == [[0, 1]] * 4


def test_a_backbones_arguments_go_with_its_name(tmp_path):
    for seed, (name, dim) in enumerate((("cnn_lstm", 1), ("csn_r101", 2))):
        folder = trained(tmp_path / name, 0, 0.3)
        path = folder / "bundle" / "config.yaml"
        path.write_text(yaml.safe_dump({"backbone": {"name": name, "arguments": {"dim": dim, f"x{seed}": 1}}}))
    assert gathered(tmp_path).axes == ["backbone.name"]


def test_a_run_stopped_by_patience_is_finished_and_a_copy_counts_once(tmp_path):
    folder = trained(tmp_path / "a", 0, 0.3, epoch=6, patience=2)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line, value in zip(lines, (0.9, 0.8, 0.7), strict=True):
        line["values"]["selection"] = value
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    trained(tmp_path / "b", 0, 0.3, patience=2)
    found = gathered(tmp_path)
    assert [run.name for run in found.runs[()]] == ["a"] and "b: left out, another run has the same" in found.missing[0]


def test_nothing_finished_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no finished run below it \\(no run of crosstalk finetune\\)"):
        gathered(tmp_path)
    trained(tmp_path / "a", 0, 0.3, epoch=2)
    with pytest.raises(UserError, match="a: not finished: epoch 2 of 8"):
        gathered(tmp_path)

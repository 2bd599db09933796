"""What holds for every catalogue: the door, unique ids, plain answers to a wrong root."""

import os
import re
from pathlib import Path

import pytest
import yaml
from catalog_trees import every_dataset, touch

from datasets.catalogs import _reading, available, create, options
from datasets.records import require_unique
from engine.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs/data"


def test_ids_are_unique_over_all_methods_and_datasets(tmp_path):
    records = [record for catalogue in every_dataset(tmp_path) for record in catalogue.records]
    require_unique(record.id for record in records)
    assert len(records) == 3 + 12 + 3 + 3 + 4 + 1 + 5
    for record in records:
        assert record.id.startswith(f"{record.dataset}/")
        assert record.path.is_file() and record.path.is_absolute()
        assert (record.method == "real") == (record.label == 0)


def test_every_dataset_has_a_commented_yaml_with_exactly_its_options():
    for name in available():
        text = (CONFIGS / f"{name}.yaml").read_text()
        assert text.startswith("# @package _global_\n# ")
        config = yaml.safe_load(text)
        assert config.pop("data") == name
        assert config.pop("sound") == ("required" if name == "lrw" else "optional")
        assert sorted(config) == sorted(options(name))


def test_the_yaml_defaults_are_the_functions_defaults(tmp_path):
    for catalogue in every_dataset(tmp_path):
        name = catalogue.records[0].dataset
        config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
        config = {key: value for key, value in config.items() if key not in ("data", "sound")}
        root = tmp_path / {"faceforensics": "ff", "deeperforensics": "deeper"}.get(name, name)
        assert create(name, root, **config) == create(name, root)


def test_an_unknown_dataset_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"did you mean celebdf_v2\?.*lrw, faceforensics"):
        create("celebdf-v2", "/")


@pytest.mark.parametrize(("name", "option", "has"), [
    ("lrw", "subsett", "subset"), ("celebdf_v2", "version", "val"), ("faceforensics", "sound", "compression, methods"),
])
def test_an_unknown_option_is_answered_with_those_there_are(tmp_path, name, option, has):
    with pytest.raises(UserError, match=f"no option '{option}'; it has {has}"):
        create(name, tmp_path, **{option: 1})


@pytest.mark.parametrize("name", available())
def test_a_root_that_holds_nothing_is_one_plain_line(tmp_path, name):
    with pytest.raises(UserError, match="no such folder"):
        create(name, tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not a folder"):
        create(name, tmp_path / "file")
    (tmp_path / "odd\nname").mkdir()
    with pytest.raises(UserError, match=r"here: expected|no videos anywhere") as error:
        create(name, tmp_path / "odd\nname")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "tree", "given"), [
    ("lrw", "lrw", "lrw/lipread_mp4"), ("lrw", "lrw", "lrw/lipread_mp4/ABOUT/train"), ("lrw", "lrw", "."),
    ("faceforensics", "ff", "ff/manipulated_sequences/Deepfakes/c23/videos"), ("faceforensics", "ff", "."),
    ("celebdf_v2", "celebdf_v1", "celebdf_v1/Celeb-real"),
    ("dfdc", "dfdc", "dfdc/dfdc_train_part_0"), ("dfdc", "dfdc", "dfdc/test"), ("dfdc", "dfdc", "."),
    ("deeperforensics", "deeper", "deeper/manipulated_videos/end_to_end"),
])
def test_a_root_too_deep_or_too_high_is_answered_with_the_right_one(tmp_path, name, tree, given):
    every_dataset(tmp_path)
    with pytest.raises(UserError) as error:
        create(name, tmp_path / given)
    assert str(error.value).endswith(f"try root={tmp_path / tree}")


def test_a_relative_root_gives_absolute_paths(tmp_path, monkeypatch):
    touch(tmp_path, "mine/a.mp4")
    monkeypatch.chdir(tmp_path)
    assert create("folder", "mine").records[0].path == tmp_path / "mine/a.mp4"


def test_lists_that_are_hostile_or_broken(tmp_path, monkeypatch):
    path = tmp_path / "list"
    cases = {
        b"\xff\xfe{}": "not UTF-8", b"{": "not valid JSON", b"[" * 100_000: "nested too deeply",
        b'{"a": 1, "a": 2}': "'a' appears twice", b"9" * 5000: "not valid JSON",
    }
    for content, message in cases.items():
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            _reading.read_json(path)
    monkeypatch.setattr(_reading, "LARGEST_LIST", 2**20)
    path.write_bytes(b" " * (2**20 + 1))
    with pytest.raises(UserError, match="larger than 1 MiB"):
        _reading.read_text(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no such file"):
        _reading.read_text(tmp_path / "pipe")


@pytest.mark.parametrize("name", [
    "../../etc/passwd", "/etc/passwd.mp4", "a/b.mp4", "a\\b.mp4", "a\0.mp4", "..", "", "a.txt", "\udcff.mp4", None, 3,
])
def test_a_name_that_is_not_plain_is_refused(name):
    with pytest.raises(UserError, match=r"^here: "):
        _reading.plain_name(name, "here")


@pytest.mark.parametrize("name", ["a b.mp4", "'\".mp4", "영상\n.mp4", "...mp4"])
def test_a_plain_name_may_be_odd(name):
    assert _reading.plain_name(name, "here") == name


def test_links_that_lead_nowhere_are_left_out_and_said(tmp_path, caplog):
    touch(tmp_path, "a.mp4", ".hidden.mp4", "b.txt")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "nowhere.mp4").symlink_to("elsewhere.mp4")
    (tmp_path / "folder.mp4").mkdir()
    assert _reading.file_names(tmp_path) == ["a.mp4"]
    assert "3 entries named *.mp4 are not files" in caplog.text


def test_the_example_in_the_docs_works(tmp_path):
    page = (CONFIGS.parents[1] / "docs/datasets.md").read_text()
    example = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], example)
    touch(tmp_path, "clips/a.mp4")
    (tmp_path / "truth.csv").write_text("name,person,forged\na.mp4,p,yes\nb.mp4,q,no\n")
    catalogue = example["catalogue"](tmp_path)
    assert [record.label for record in catalogue.records] == [1] and len(catalogue.absent) == 1
    (tmp_path / "truth.csv").write_text("name,person,forged\n../../etc/passwd,p,yes\n")
    with pytest.raises(UserError, match="leads out of its folder"):
        example["catalogue"](tmp_path)


def test_the_dice_never_change():
    # Splits in published results rest on these: a different number here is a different split everywhere.
    assert _reading.number_of("celebdf/id0") == 17123753032141586579
    texts = [str(number) for number in range(10_000)]
    tenth = {text for text in texts if _reading.falls_within(0.1, text)}
    assert 900 < len(tenth) < 1100
    assert tenth < {text for text in texts if _reading.falls_within(0.2, text)}
    assert not any(_reading.falls_within(0, text) for text in texts)

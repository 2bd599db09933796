"""A plain folder: labels, methods and splits from the names of folders, whatever the files are called."""

import pytest
from catalog_trees import by_id, touch

from datasets.catalogs import create
from datasets.catalogs.folder import SUFFIXES
from engine.errors import UserError


@pytest.mark.parametrize(("name", "label", "method", "split"), [
    ("a.mp4", None, "unknown", "test"), ("real/a.mp4", 0, "real", "test"), ("fake/a.mp4", 1, "fake", "test"),
    ("fake/Swap/a.mp4", 1, "Swap", "test"), ("fake/Swap/deep/er/a.mp4", 1, "Swap", "test"),
    ("train/real/a.mp4", 0, "real", "train"), ("real/val/a.mp4", 0, "real", "val"),
    ("fake/train/Swap/a.mp4", 1, "Swap", "train"), ("fake/Swap/val/a.mp4", 1, "Swap", "val"),
    ("REAL/Train/a.mp4", 0, "real", "train"), ("validation/a.mp4", None, "unknown", "val"),
    ("some/where/else/fake/x/a.mp4", 1, "x", "test"), ("real/s/fake/a.mp4", 1, "fake", "test"),
    ("train/real/test/a.mp4", 0, "real", "test"), ("realistic/a.mp4", None, "unknown", "test"),
])
def test_label_method_and_split_come_from_the_nearest_folders(tmp_path, name, label, method, split):
    (record,) = create("folder", touch(tmp_path, name)).records
    assert (record.id, record.label, record.method, record.split) == (f"folder/{name}", label, method, split)
    assert record.path == tmp_path / name


def test_a_folder_above_the_root_says_nothing(tmp_path):
    touch(tmp_path, "fake/train/a.mp4")
    (record,) = create("folder", tmp_path / "fake/train").records
    assert (record.label, record.split) == (None, "test")


def test_every_video_suffix_and_nothing_else(tmp_path):
    touch(tmp_path, *(f"a{suffix}" for suffix in SUFFIXES), "B.MP4", "a.txt", "a.npy", "mp4", ".a.mp4", ".git/a.mp4")
    assert len(create("folder", tmp_path).records) == len(SUFFIXES) + 1
    assert "folder/B.MP4" in by_id(create("folder", tmp_path))


@pytest.mark.parametrize("name", [
    "a b.mp4", "it's \"quoted\".mp4", "two\nlines.mp4", "한국어 영상.mp4", "한글.mp4", "$(rm -rf).mp4",
    "-rf.mp4", "%s{}.mp4", "a\\b.mp4", "real/ .mp4",
])
def test_any_name_that_is_text_is_kept_as_it_is(tmp_path, name):
    touch(tmp_path, name)
    (record,) = create("folder", tmp_path).records
    assert record.id == f"folder/{name}" and record.path.is_file()


def test_names_that_are_not_utf8_are_said(tmp_path):
    touch(tmp_path, "a.mp4", "real/\udcff.mp4", "\udcfe/b.mp4")
    catalogue = create("folder", tmp_path)
    assert [record.id for record in catalogue.records] == ["folder/a.mp4"]
    assert catalogue.absent == [("folder/\\udcfe/b.mp4", "the name is not UTF-8"),
                                ("folder/real/\\udcff.mp4", "the name is not UTF-8")]


def test_a_root_that_is_not_utf8_is_one_line(tmp_path):
    touch(tmp_path, "\udcff/a.mp4")
    with pytest.raises(UserError, match="not UTF-8") as error:
        create("folder", tmp_path / "\udcff")
    str(error.value).encode()


def test_links_to_folders_are_not_followed_and_broken_ones_are_said(tmp_path):
    touch(tmp_path, "real/a.mp4")
    (tmp_path / "real/loop").symlink_to(tmp_path)
    (tmp_path / "real/b.mp4").symlink_to("a.mp4")
    (tmp_path / "real/c.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "real/d.mp4").symlink_to("d.mp4")
    catalogue = create("folder", tmp_path)
    assert set(by_id(catalogue)) == {"folder/real/a.mp4", "folder/real/b.mp4"}
    assert dict(catalogue.absent) == {
        "folder/real/loop": "a link to a folder: not followed",
        "folder/real/c.mp4": "not a file, or a link that leads nowhere",
        "folder/real/d.mp4": "not a file, or a link that leads nowhere",
    }


def test_files_of_one_name_do_not_collide_and_neither_do_two_folders(tmp_path):
    touch(tmp_path, "real/a.mp4", "real/b/a.mp4", "fake/a.mp4", "fake/a.mov")
    assert len(by_id(create("folder", tmp_path))) == 4
    mine = create("folder", tmp_path, dataset="mine")
    assert not by_id(mine).keys() & by_id(create("folder", tmp_path)).keys()
    assert {record.dataset for record in mine.records} == {"mine"}
    with pytest.raises(UserError, match="dataset: 'a/b' leads out"):
        create("folder", tmp_path, dataset="a/b")


def test_unlabelled_videos_among_labelled_ones_are_said(tmp_path, caplog):
    create("folder", touch(tmp_path / "a", "a.mp4", "b.mp4"))
    create("folder", touch(tmp_path / "b", "real/a.mp4", "fake/a.mp4"))
    assert not caplog.records
    create("folder", touch(tmp_path / "c", "real/a.mp4", "real_/b.mp4"))
    assert "1 of 2 videos lie below neither real/ nor fake/" in caplog.text

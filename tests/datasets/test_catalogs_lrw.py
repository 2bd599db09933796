"""LRW: word and split come from the folders, and the subset is the same for everybody."""

import os
from collections import Counter

import pytest
from catalog_trees import by_id, splits_of, touch

from datasets.catalogs import create
from engine.errors import UserError


def clips(words, train, others=2):
    return [
        f"lipread_mp4/{word}/{split}/{word}_{number:05d}.mp4"
        for word in words for split, count in (("train", train), ("val", others), ("test", others))
        for number in range(1, count + 1)
    ]


def per_word(catalogue, split="train"):
    return Counter(record.word for record in catalogue.records if record.split == split)


def test_word_split_and_label_come_from_the_folders(tmp_path):
    touch(tmp_path, *clips(["ABOUT", "YOUNG"], 3), "lipread_mp4/ABOUT/train/ABOUT_00001.txt")
    catalogue = create("lrw", tmp_path, subset=None)
    record = by_id(catalogue)["lrw/ABOUT/val/ABOUT_00002"]
    assert (record.label, record.method, record.split, record.word) == (0, "real", "val", "ABOUT")
    assert record.path == tmp_path / "lipread_mp4/ABOUT/val/ABOUT_00002.mp4"
    assert splits_of(catalogue.records) == {"train": 6, "val": 4, "test": 4}
    assert not catalogue.absent


def test_the_default_subset_of_500_words_is_ten_clips_each(tmp_path):
    words = [f"WORD{number:03d}" for number in range(500)]
    for name in clips(words, 12, others=2):  # one mkdir per folder keeps this quick
        path = tmp_path / name
        if name.endswith("_00001.mp4"):
            path.parent.mkdir(parents=True)
        path.touch()
    catalogue = create("lrw", tmp_path)
    assert splits_of(catalogue.records) == {"train": 5000, "val": 500, "test": 500}
    assert set(per_word(catalogue).values()) == {10}
    assert set(per_word(catalogue, "val").values()) == set(per_word(catalogue, "test").values()) == {1}


def test_the_subset_does_not_depend_on_the_order_of_creation_or_on_where_it_lies(tmp_path):
    names = clips(["ABOUT", "YOUNG", "ZERO"], 20)
    forwards = create("lrw", touch(tmp_path / "a", *names), subset=7)
    backwards = create("lrw", touch(tmp_path / "b", *reversed(names)), subset=7)
    assert list(by_id(forwards)) == list(by_id(backwards))
    # Written down, since this choice must survive other versions of Python and of this code.
    assert [name for name in by_id(forwards) if "/train/" in name] == [
        "lrw/ABOUT/train/ABOUT_00005",
        "lrw/ABOUT/train/ABOUT_00007",
        "lrw/ABOUT/train/ABOUT_00016",
        "lrw/YOUNG/train/YOUNG_00016",
        "lrw/YOUNG/train/YOUNG_00020",
        "lrw/ZERO/train/ZERO_00017",
        "lrw/ZERO/train/ZERO_00019",
    ]


def test_the_subset_does_not_depend_on_the_order_of_listing(tmp_path, monkeypatch):
    touch(tmp_path, *clips(["ABOUT", "YOUNG"], 20))
    usual = create("lrw", tmp_path, subset=6)
    scandir = os.scandir

    class Reversed:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr("datasets.catalogs._reading.os.scandir", Reversed)
    assert by_id(create("lrw", tmp_path, subset=6)) == by_id(usual)


def test_smaller_subsets_are_part_of_larger_ones_and_exact_and_even(tmp_path):
    touch(tmp_path, *clips(["A", "B", "C"], 10))
    previous = set()
    for subset in (1, 4, 7, 30):
        catalogue = create("lrw", tmp_path, subset=subset)
        chosen = {record.id for record in catalogue.records if record.split == "train"}
        counts = per_word(catalogue)
        assert len(chosen) == subset and previous <= chosen
        assert max(counts.values()) - min(counts[word] for word in "ABC") <= 1
        previous = chosen


def test_a_word_with_too_few_clips_is_said_and_its_places_filled(tmp_path, caplog):
    touch(tmp_path, *clips(["ABOUT"], 10), *clips(["RARE"], 2))
    catalogue = create("lrw", tmp_path, subset=10)
    assert per_word(catalogue) == {"ABOUT": 8, "RARE": 2}
    assert "1 of 2 words have fewer than the 5 clips" in caplog.text and "RARE" in caplog.text


def test_a_clip_in_another_words_folder_and_a_missing_split_are_said(tmp_path):
    touch(tmp_path, "lipread_mp4/ABOUT/train/ABOUT_00001.mp4", "lipread_mp4/ABOUT/train/YOUNG_00001.mp4",
          "lipread_mp4/ABOUT/val/ABOUT_00001.mp4")
    catalogue = create("lrw", tmp_path)
    assert list(by_id(catalogue)) == ["lrw/ABOUT/train/ABOUT_00001", "lrw/ABOUT/val/ABOUT_00001"]
    assert catalogue.absent == [
        ("lrw/ABOUT/test", "no such folder"),
        ("lrw/ABOUT/train/YOUNG_00001", "not named like a clip of ABOUT"),
    ]


def test_folders_without_clips_are_no_lrw(tmp_path):
    (tmp_path / "lipread_mp4/ABOUT/train").mkdir(parents=True)
    with pytest.raises(UserError, match="no LRW here: expected ROOT/lipread_mp4/WORD"):
        create("lrw", tmp_path)


@pytest.mark.parametrize("subset", [0, -1, 1.5, "all", True])
def test_a_subset_that_is_no_number_of_clips(tmp_path, subset):
    with pytest.raises(UserError, match=r"subset=.*or null for all"):
        create("lrw", touch(tmp_path, *clips(["A"], 1)), subset=subset)


def test_a_dataset_smaller_than_the_subset_is_taken_whole(tmp_path):
    touch(tmp_path, *clips(["ABOUT", "ACROSS"], 6))
    assert by_id(create("lrw", tmp_path, subset=12)) == by_id(create("lrw", tmp_path, subset=None))
    assert by_id(create("lrw", tmp_path, subset=11)) != by_id(create("lrw", tmp_path, subset=None))

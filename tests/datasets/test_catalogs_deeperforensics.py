"""DeeperForensics: split by whose head it is, with the lists of FaceForensics++."""

import pytest
from catalog_trees import by_id, splits_of, touch, write_pairs

from datasets.catalogs import create
from engine.errors import UserError

NAMES = ("000_M101.mp4", "001_W004.mp4", "002_M101.mp4")


@pytest.fixture
def root(tmp_path):
    touch(tmp_path / "manipulated_videos/end_to_end", *NAMES)
    return write_pairs(tmp_path, [["000", "003"]], [["001", "004"]], [["002", "005"]])


def test_the_split_is_that_of_the_leading_id(root):
    records = by_id(create("deeperforensics", root))
    assert {name[-8:]: record.split for name, record in records.items()} == {
        "000_M101": "train", "001_W004": "val", "002_M101": "test"}
    record = records["deeperforensics/end_to_end/001_W004"]
    assert (record.label, record.method, record.identities) == (1, "DeeperForensics", ("001", "W004"))
    assert (record.limit, record.source) == (None, "faceforensics/c23/real/001")
    assert record.path == root / "manipulated_videos/end_to_end/001_W004.mp4"


def test_what_no_list_names_and_what_is_not_there_is_said(root):
    touch(root / "manipulated_videos/end_to_end", "900_M101.mp4", "readme.mp4")
    absent = dict(create("deeperforensics", root).absent)
    assert absent["deeperforensics/end_to_end/900_M101"] == "in no split list"
    assert absent["deeperforensics/end_to_end/readme"] == "not named like a video of DeeperForensics"
    assert "in the list of test, but no video" in absent["deeperforensics/end_to_end/005"]
    assert len(absent) == 5


def test_lists_missing_elsewhere_or_unwanted(root, tmp_path):
    (root / "splits/test.json").rename(root / "splits/test.bak")
    with pytest.raises(UserError, match=r"no test\.json in"):
        create("deeperforensics", root)
    assert splits_of(create("deeperforensics", root, splits="none").records) == {"test": 3}
    write_pairs(tmp_path / "mine", [], [], [["000", "001"], ["002", "003"]])
    assert splits_of(create("deeperforensics", root, splits=tmp_path / "mine/splits").records) == {"test": 3}


def test_variants_have_their_own_ids_and_an_unknown_one_is_answered_with_those_there_are(root):
    touch(root / "manipulated_videos/end_to_end_random_level", *NAMES)
    ours = by_id(create("deeperforensics", root, variant="end_to_end_random_level"))
    assert not ours.keys() & by_id(create("deeperforensics", root)).keys() and len(ours) == 3
    with pytest.raises(UserError, match="there is end_to_end, end_to_end_random_level"):
        create("deeperforensics", root, variant="reenact_postprocess")
    with pytest.raises(UserError, match="leads out"):
        create("deeperforensics", root, variant="../splits")


def test_lists_that_name_none_of_the_videos(root):
    write_pairs(root, [["900", "901"]])
    with pytest.raises(UserError, match="no video such as"):
        create("deeperforensics", root)

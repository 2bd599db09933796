"""FaceForensics++: the lists decide, both identities are known, and whatever contradicts them is said."""

import pytest
from catalog_trees import by_id, faceforensics, splits_of, touch, write_pairs

from datasets.catalogs import create
from datasets.catalogs.faceforensics import METHODS
from engine.errors import UserError

ONE_EACH = {"train": [["000", "001"]], "val": [["002", "003"]], "test": [["004", "005"]]}


def test_lists_of_the_official_size_give_720_140_140_videos_per_method(tmp_path):
    ids = [f"{number:03d}" for number in range(1000)]
    pairs = [[ids[2 * k], ids[2 * k + 1]] for k in range(500)]
    faceforensics(tmp_path, pairs[:360], pairs[360:430], pairs[430:])
    catalogue = create("faceforensics", tmp_path)
    assert not catalogue.absent and len(catalogue.records) == 6000
    for method in ("real", *METHODS):
        ours = [record for record in catalogue.records if record.method == method]
        assert splits_of(ours) == {"train": 720, "val": 140, "test": 140}


def test_a_forgery_knows_its_identities_its_source_and_its_protocol(tmp_path):
    faceforensics(tmp_path, **ONE_EACH)
    records = by_id(create("faceforensics", tmp_path))
    fake = records["faceforensics/c23/Deepfakes/001_000"]
    assert (fake.label, fake.method, fake.split, fake.limit) == (1, "Deepfakes", "train", 270)
    assert fake.identities == ("001", "000")  # the head, then the face
    assert fake.path == tmp_path / "manipulated_sequences/Deepfakes/c23/videos/001_000.mp4"
    assert records[fake.source].identities == ("001",)
    real = records["faceforensics/c23/real/004"]
    assert (real.label, real.split, real.limit, real.source) == (0, "test", 110, None)
    assert records["faceforensics/c23/real/002"].limit == 110


@pytest.mark.parametrize("compression", ["raw", "c23", "c40"])
def test_each_compression_has_its_own_files_and_ids(tmp_path, compression):
    for each in ("raw", "c23", "c40"):
        faceforensics(tmp_path, compression=each, **ONE_EACH)
    catalogue = create("faceforensics", tmp_path, compression=compression)
    assert len(catalogue.records) == 6 * 6
    assert all(f"/{compression}/" in r.id and f"/{compression}/" in str(r.path) for r in catalogue.records)
    assert all(f"/{compression}/" in r.source for r in catalogue.records if r.source)


def test_methods_can_be_chosen_and_the_reals_are_always_there(tmp_path):
    faceforensics(tmp_path, **ONE_EACH)
    def methods(chosen):
        return {record.method for record in create("faceforensics", tmp_path, methods=chosen).records}
    assert methods(["FaceSwap", "FaceShifter"]) == {"real", "FaceSwap", "FaceShifter"}
    assert methods("FaceSwap") == {"real", "FaceSwap"}
    assert methods([]) == {"real"}


@pytest.mark.parametrize(("options", "message"), [
    ({"compression": "c32"}, "compression=c32: expected one of raw, c23, c40"),
    ({"methods": ["DeepFakes"]}, "no method 'DeepFakes'"), ({"methods": None}, "expected a list"),
    ({"compression": "c40"}, "compression c40: no folder.*it has compression=c23"),
    ({"splits": 3}, "no train.json in 3"),
])
def test_options_that_cannot_be_met(tmp_path, options, message):
    faceforensics(tmp_path, **ONE_EACH)
    with pytest.raises(UserError, match=message):
        create("faceforensics", tmp_path, **options)


def test_a_method_that_was_not_downloaded_names_the_override_that_leaves_it_out(tmp_path):
    faceforensics(tmp_path, methods=METHODS[:4], **ONE_EACH)
    left = r"methods=\[Deepfakes,Face2Face,FaceSwap,NeuralTextures\]"
    with pytest.raises(UserError, match=f"FaceShifter of compression c23: no folder .*{left}"):
        create("faceforensics", tmp_path)
    assert len(create("faceforensics", tmp_path, methods=METHODS[:4]).records) == 6 * 5


def test_an_identity_in_two_splits_is_named(tmp_path):
    faceforensics(tmp_path, [["000", "001"]], [["002", "003"]], [["004", "001"]])
    with pytest.raises(UserError, match=r"test\.json: identity '001' is also in train\.json"):
        create("faceforensics", tmp_path)


def test_videos_listed_but_absent_and_videos_in_no_list_are_said(tmp_path):
    faceforensics(tmp_path, **ONE_EACH)
    videos = tmp_path / "manipulated_sequences/Face2Face/c23/videos"
    (videos / "002_003.mp4").unlink()
    touch(videos, "777_778.mp4", "002_003 (copy).mp4")
    catalogue = create("faceforensics", tmp_path)
    absent = dict(catalogue.absent)
    prefix = "faceforensics/c23/Face2Face/"
    assert "in the list of val, but not in" in absent.pop(f"{prefix}002_003")
    assert absent == {f"{prefix}777_778": "in no split list", f"{prefix}002_003 (copy)": "in no split list"}
    assert len(catalogue.records) == 6 * 6 - 1 and not absent.keys() & by_id(catalogue).keys()


def test_a_missing_list_says_where_it_looked_and_where_lists_come_from(tmp_path):
    faceforensics(tmp_path, **ONE_EACH)
    (tmp_path / "splits/val.json").unlink()
    with pytest.raises(UserError, match=rf"no val\.json in {tmp_path}/splits: .*repository.*splits=none"):
        create("faceforensics", tmp_path)


def test_lists_may_lie_elsewhere_and_none_puts_all_in_test(tmp_path):
    faceforensics(tmp_path / "root", **ONE_EACH)
    write_pairs(tmp_path / "mine", [], [["000", "001"], ["002", "003"]], [["004", "005"]])
    catalogue = create("faceforensics", tmp_path / "root", splits=tmp_path / "mine/splits")
    assert splits_of(catalogue.records) == {"val": 24, "test": 12}
    touch(tmp_path / "root/original_sequences/youtube/c23/videos", "a b.mp4")
    catalogue = create("faceforensics", tmp_path / "root", splits="none")
    assert splits_of(catalogue.records) == {"test": 36}
    assert {record.limit for record in catalogue.records} == {110}
    assert by_id(catalogue)["faceforensics/c23/FaceSwap/001_000"].identities == ("001", "000")
    assert catalogue.absent == [("faceforensics/c23/real/a b", "not named like a video of this folder")]


@pytest.mark.parametrize(("content", "message"), [
    ('[["000", "001"', "not valid JSON"), ('{"000": "001"}', "expected a list of pairs"),
    ('[["000"]]', "not a pair"), ('["000"]', "not a pair"), ("[[0, 1]]", "not a pair"), ("[null]", "not a pair"),
    ('[["000", "000"]]', "not a pair"), ('[["000", "../../etc/passwd"]]', "not a pair"),
    ('[["000", "001_002"]]', "not a pair"), ('[["000", "00\\n1"]]', "not a pair"),
    ('[["000", "001"], ["001", "000"]]', "listed twice"),
])
def test_malformed_lists_are_one_line(tmp_path, content, message):
    faceforensics(tmp_path, **ONE_EACH)
    (tmp_path / "splits/train.json").write_text(content)
    with pytest.raises(UserError, match=rf"train\.json: .*{message}"):
        create("faceforensics", tmp_path)


def test_lists_that_name_none_of_the_videos(tmp_path):
    faceforensics(tmp_path, **ONE_EACH)
    write_pairs(tmp_path, [["900", "901"]])
    with pytest.raises(UserError, match="none of the c23 videos"):
        create("faceforensics", tmp_path)

"""DFDC: three layouts, lists that nobody has vouched for, and forgeries that stay beside their originals."""

import pytest
from catalog_trees import by_id, dfdc_part, splits_of, touch

from datasets.catalogs import create
from engine.errors import UserError

PART = {
    "real.mp4": {"label": "REAL", "split": "train", "original": None},
    "fake.mp4": {"label": "FAKE", "split": "train", "original": "real.mp4"},
}


def labelled_test(root, rows="filename,label\na.mp4,0\nb.mp4,1\n", where="labels.csv"):
    touch(root, "test/a.mp4", "test/b.mp4")
    (root / where).write_text(rows)
    return root


def test_training_parts_have_labels_and_sources(tmp_path):
    dfdc_part(tmp_path, 0, PART)
    dfdc_part(tmp_path, 12, {"other.mp4": {"label": "FAKE", "original": "real.mp4"}} | PART)
    records = by_id(create("dfdc", tmp_path, val=0))
    assert len(records) == 5 and splits_of(records.values()) == {"train": 5}
    fake, real = records["dfdc/dfdc_train_part_0/fake.mp4"], records["dfdc/dfdc_train_part_0/real.mp4"]
    assert (fake.label, fake.method, fake.source, fake.identities) == (1, "DFDC", real.id, ())
    assert (real.label, real.method, real.source) == (0, "real", None)
    assert records["dfdc/dfdc_train_part_12/fake.mp4"].source == "dfdc/dfdc_train_part_12/real.mp4"


def test_an_original_in_another_part_is_found(tmp_path):
    dfdc_part(tmp_path, 0, PART)
    dfdc_part(tmp_path, 1, {"x.mp4": {"label": "FAKE", "original": "real.mp4"},
                            "y.mp4": {"label": "FAKE", "original": "nobody.mp4"}})
    records = by_id(create("dfdc", tmp_path))
    assert records["dfdc/dfdc_train_part_1/x.mp4"].source == "dfdc/dfdc_train_part_0/real.mp4"
    assert records["dfdc/dfdc_train_part_1/y.mp4"].source == "dfdc/dfdc_train_part_1/nobody.mp4"


def test_a_real_video_and_its_forgeries_fall_on_one_side(tmp_path):
    metadata = {}
    for k in range(200):
        metadata[f"r{k}.mp4"] = {"label": "REAL"}
        metadata |= {f"f{k}_{n}.mp4": {"label": "FAKE", "original": f"r{k}.mp4"} for n in range(3)}
    records = by_id(create("dfdc", dfdc_part(tmp_path, 0, metadata)))
    assert all(record.split == records[record.source].split for record in records.values() if record.source)
    assert 0.04 < splits_of(records.values())["val"] / 800 < 0.16


@pytest.mark.parametrize("where", ["labels.csv", "test/labels.csv"])
def test_the_labelled_test_in_either_place(tmp_path, where):
    records = by_id(create("dfdc", labelled_test(tmp_path, where=where)))
    labels = {name: (r.label, r.method, r.split) for name, r in records.items()}
    assert labels == {"dfdc/test/a.mp4": (0, "real", "test"), "dfdc/test/b.mp4": (1, "DFDC", "test")}


def test_kaggles_test_is_unlabelled_and_all_layouts_go_together(tmp_path):
    labelled_test(dfdc_part(tmp_path, 3, PART))
    touch(tmp_path, "test_videos/a.mp4")
    catalogue = create("dfdc", tmp_path)
    record = by_id(catalogue)["dfdc/test_videos/a.mp4"]
    assert (record.label, record.method, record.split) == (None, "unknown", "test")
    assert len(catalogue.records) == 5 and not catalogue.absent


def test_listed_but_absent_and_present_but_unlisted_are_said(tmp_path):
    dfdc_part(tmp_path, 0, PART, "real.mp4", "stray.mp4")
    labelled_test(tmp_path, "filename,label\na.mp4,0\nlost.mp4,1\n")
    catalogue = create("dfdc", tmp_path)
    assert set(by_id(catalogue)) == {"dfdc/dfdc_train_part_0/real.mp4", "dfdc/test/a.mp4"}
    assert catalogue.absent == [
        ("dfdc/dfdc_train_part_0/fake.mp4", "in the list of dfdc_train_part_0, but not in the folder"),
        ("dfdc/dfdc_train_part_0/stray.mp4", "in no list of dfdc_train_part_0"),
        ("dfdc/test/b.mp4", "in no list of test"),
        ("dfdc/test/lost.mp4", "in the list of test, but not in the folder"),
    ]


def test_a_list_restricts_the_videos_and_what_it_names_in_vain_is_said(tmp_path):
    labelled_test(dfdc_part(tmp_path / "root", 0, PART))
    names = tmp_path / "list.txt"
    names.write_text("real.mp4\r\nb.mp4\n\nlost.mp4\n")
    catalogue = create("dfdc", tmp_path / "root", list=names)
    assert set(by_id(catalogue)) == {"dfdc/dfdc_train_part_0/real.mp4", "dfdc/test/b.mp4"}
    assert [video_id for video_id, _ in catalogue.absent] == ["dfdc/lost.mp4"]
    names.write_text("lost.mp4\n")
    with pytest.raises(UserError, match=r"no video in them is in .*list\.txt"):
        create("dfdc", tmp_path / "root", list=names)
    names.write_text("real.mp4\n../../etc/passwd\n")
    with pytest.raises(UserError, match=r"list\.txt:2: .*leads out of its folder"):
        create("dfdc", tmp_path / "root", list=names)
    with pytest.raises(UserError, match="no such file"):
        create("dfdc", tmp_path / "root", list=tmp_path / "nowhere.txt")


@pytest.mark.parametrize(("metadata", "message"), [
    ("[]", "expected an object"), ("{", "not valid JSON"),
    ({"../../etc/passwd": {"label": "REAL"}}, r"entry '\.\./\.\./etc/passwd': .*leads out of its folder"),
    ({"/etc/passwd": {"label": "REAL"}}, "leads out of its folder"), ({"..": {"label": "REAL"}}, "not a file name"),
    ({"a.mp4": {"label": "REAL", "original": "../../etc/passwd"}}, r"entry 'a\.mp4', original: .*leads out"),
    ({"a.mp4": {"label": "FAKE", "original": 3}}, "original: 3 is not a file name"),
    ({"a.mp4": {"label": "MAYBE"}}, r"entry 'a\.mp4': expected .*REAL.* or .*FAKE"), ({"a.mp4": {}}, "expected"),
    ({"a.mp4": {"label": ["REAL"]}}, "expected"), ({"a.mp4": "REAL"}, "expected"),
    ({"a.txt": {"label": "REAL"}}, "does not end in"),
    ('{"a.mp4": {"label": "REAL"}, "a.mp4": {"label": "FAKE"}}', "appears twice"),
    ({"a\nb.txt": {"label": "REAL"}}, r"entry 'a\\nb\.txt'"), ('{"\\udcff.mp4": {"label": "REAL"}}', "not a file name"),
])
def test_hostile_metadata_is_one_line_that_names_file_and_key(tmp_path, metadata, message):
    dfdc_part(tmp_path, 0, metadata, "a.mp4")
    with pytest.raises(UserError, match=rf"dfdc_train_part_0/metadata\.json.*{message}") as error:
        create("dfdc", tmp_path)
    assert "\n" not in str(error.value)
    str(error.value).encode()


def test_a_missing_list_is_said(tmp_path):
    touch(tmp_path / "a", "dfdc_train_part_0/a.mp4")
    with pytest.raises(UserError, match=r"no metadata\.json in .*dfdc_train_part_0"):
        create("dfdc", tmp_path / "a")
    touch(tmp_path / "b", "test/a.mp4")
    with pytest.raises(UserError, match=r"looked for .*b/labels\.csv and .*b/test/labels\.csv"):
        create("dfdc", tmp_path / "b")


@pytest.mark.parametrize(("rows", "message"), [
    ("", "columns filename,label"), ("name,fake\na.mp4,0\n", "columns filename,label"),
    ("filename,label\na.mp4,2\n", ":2: label '2'"), ("filename,label\na.mp4\n", ":2: label None"),
    ("filename,label\na.mp4,0\n../a.mp4,0\n", ":3: .*leads out of its folder"),
    ("filename,label\na.mp4,0\na.mp4,1\n", ":3: 'a.mp4' is listed twice"),
    ("filename,label\n" + "a" * 200_000 + ",0\n", "field larger"),
])
def test_a_labels_csv_that_is_wrong_is_named_by_its_line(tmp_path, rows, message):
    with pytest.raises(UserError, match=rf"labels\.csv.*{message}"):
        create("dfdc", labelled_test(tmp_path, rows))


def test_odd_names_are_names(tmp_path):
    names = ["a b.mp4", "'\".mp4", "영상.mp4", "two\nlines.mp4"]
    dfdc_part(tmp_path, 0, {name: {"label": "REAL"} for name in names})
    touch(tmp_path, *(f"test_videos/{name}" for name in names))
    records = create("dfdc", tmp_path).records
    assert {record.path.name for record in records} == set(names) and len(records) == 8


def test_a_name_that_is_not_utf8_is_said_and_left_out(tmp_path):
    touch(tmp_path, "test_videos/a.mp4", "test_videos/\udcff.mp4")
    catalogue = create("dfdc", tmp_path)
    assert len(catalogue.records) == 1
    assert catalogue.absent == [("dfdc/test_videos/\\udcff.mp4", "the name is not UTF-8")]

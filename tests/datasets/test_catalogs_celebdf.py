"""Celeb-DF: its list's labels are the inverse of ours, and no identity is both trained on and validated with."""

import pytest
from catalog_trees import by_id, celebdf, splits_of, touch

from datasets.catalogs import create
from engine.errors import UserError

LISTED = "1 Celeb-real/id0_0000.mp4\n0 Celeb-synthesis/id0_id1_0000.mp4\n"


@pytest.mark.parametrize("dataset", ["celebdf_v1", "celebdf_v2"])
def test_one_is_real_and_zero_is_fake_in_its_list(tmp_path, dataset):
    records = by_id(create(dataset, celebdf(tmp_path, LISTED)))
    assert len(records) == 3
    real = records[f"{dataset}/Celeb-real/id0_0000"]
    fake = records[f"{dataset}/Celeb-synthesis/id0_id1_0000"]
    youtube = records[f"{dataset}/YouTube-real/00000"]
    assert (real.label, real.method, real.split) == (0, "real", "test")
    assert (fake.label, fake.method, fake.split) == (1, "Celeb-synthesis", "test")
    assert (youtube.label, youtube.method, youtube.identities) == (0, "real", ())
    assert youtube.split != "test"
    assert real.identities == ("id0",) and fake.identities == ("id0", "id1")
    assert fake.source == real.id


@pytest.mark.parametrize(("line", "message"), [
    ("0 Celeb-real/id0_0000.mp4", "listed as 0, but its folder says otherwise; in this list 1 is real"),
    ("1 Celeb-synthesis/id0_id1_0000.mp4", "listed as 1, but its folder says otherwise"),
    ("2 Celeb-real/id0_0000.mp4", "label '2'"), ("Celeb-real/id0_0000.mp4", "label 'Celeb-real/id0_0000.mp4'"),
    ("1", "in none of"), ("1 id0_0000.mp4", "in none of"), ("1 Celeb-fake/id0_0000.mp4", "in none of"),
    ("1 /etc/passwd", "in none of"), ("1 ../Celeb-real/id0_0000.mp4", "in none of"),
    ("1 Celeb-real/../../etc/passwd", "leads out of its folder"), ("1 Celeb-real/..", "not a file name"),
    ("1 Celeb-real/id0_0000.avi", "does not end in .mp4"),
])
def test_a_line_that_cannot_be_true_is_named_by_its_number(tmp_path, line, message):
    celebdf(tmp_path, LISTED + "\n" + line + "\n")
    with pytest.raises(UserError, match=rf"List_of_testing_videos\.txt:4: .*{message}"):
        create("celebdf_v2", tmp_path)


def test_a_missing_or_empty_list_is_said(tmp_path):
    celebdf(tmp_path, "\n")
    with pytest.raises(UserError, match="names no video"):
        create("celebdf_v2", tmp_path)
    (tmp_path / "List_of_testing_videos.txt").unlink()
    with pytest.raises(UserError, match=r"no List_of_testing_videos\.txt in"):
        create("celebdf_v2", tmp_path)


def test_listed_but_absent_misnamed_and_missing_folders_are_said(tmp_path):
    celebdf(tmp_path, LISTED + "1 YouTube-real/00099.mp4\r\n", "Celeb-real/id0.mp4", "Celeb-synthesis/id0_0001.mp4",
            "YouTube-real/٣.mp4")
    catalogue = create("celebdf_v2", tmp_path)
    assert dict(catalogue.absent) == {
        "celebdf_v2/YouTube-real/00099": "in List_of_testing_videos.txt, but not in its folder",
        "celebdf_v2/YouTube-real/٣": "not named like a video of YouTube-real",
        "celebdf_v2/Celeb-real/id0": "not named like a video of Celeb-real",
        "celebdf_v2/Celeb-synthesis/id0_0001": "not named like a video of Celeb-synthesis",
    }
    (tmp_path / "YouTube-real").rename(tmp_path / "elsewhere")
    assert ("celebdf_v2/YouTube-real", "no such folder") in create("celebdf_v2", tmp_path).absent


def full_size_v2(root):
    """590 + 300 reals, 5,639 forgeries and a list of 178 + 340, shaped like the original."""
    celeb = [f"Celeb-real/id{k % 59}_{k // 59:04d}.mp4" for k in range(590)]
    youtube = [f"YouTube-real/{k:05d}.mp4" for k in range(300)]
    fakes = [
        f"Celeb-synthesis/id{k % 59}_id{(k % 59 + 1 + k // 590) % 59}_{k // 59 % 10:04d}.mp4" for k in range(5639)
    ]
    for folder in ("Celeb-real", "YouTube-real", "Celeb-synthesis"):
        (root / folder).mkdir()
    for name in celeb + youtube + fakes:
        (root / name).touch()
    listed = [f"1 {name}" for name in celeb[:108] + youtube[:70]] + [f"0 {name}" for name in fakes[:340]]
    (root / "List_of_testing_videos.txt").write_text("\n".join(listed))
    return root


def test_the_full_size_has_178_real_and_340_fake_test_videos(tmp_path, caplog):
    catalogue = create("celebdf_v2", full_size_v2(tmp_path))
    labels = [record.label for record in catalogue.records]
    assert (labels.count(0), labels.count(1)) == (890, 5639) and not catalogue.absent
    testing = [record.label for record in catalogue.records if record.split == "test"]
    assert (testing.count(0), testing.count(1)) == (178, 340)

    shares = splits_of(catalogue.records)
    assert 0.04 < shares["val"] / (shares["val"] + shares["train"]) < 0.16
    heads = {split: {r.identities[0] for r in catalogue.records if r.split == split and r.identities}
             for split in ("train", "val")}
    assert heads["train"] and heads["val"] and not heads["train"] & heads["val"]
    assert not caplog.records
    create("celebdf_v1", tmp_path)
    assert "is it data=celebdf_v2?" in caplog.text


def test_validation_can_be_left_out_and_does_not_depend_on_the_other_files(tmp_path):
    names = [f"YouTube-real/{k:05d}.mp4" for k in range(200)]
    celebdf(tmp_path, LISTED, *names)
    assert "val" not in splits_of(create("celebdf_v2", tmp_path, val=0).records)
    split = {record.id: record.split for record in create("celebdf_v2", tmp_path).records}
    for name in names[1::2]:
        (tmp_path / name).unlink()
    fewer = create("celebdf_v2", tmp_path).records
    assert all(split[record.id] == record.split for record in fewer) and "val" in splits_of(fewer)


@pytest.mark.parametrize("val", [-0.1, 1, 10, "a tenth", None, False, float("nan")])
def test_a_share_that_is_none(tmp_path, val):
    with pytest.raises(UserError, match="expected a share"):
        create("celebdf_v2", celebdf(tmp_path, LISTED), val=val)


def test_folders_without_videos(tmp_path):
    touch(tmp_path, "Celeb-real/x.txt")
    (tmp_path / "List_of_testing_videos.txt").write_text(LISTED)
    with pytest.raises(UserError, match="no video in Celeb-real"):
        create("celebdf_v2", tmp_path)

"""A damaged, foreign or incomplete store is named as such; what is intact is read to the last byte."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datasets.inspection import identity_groups
from datasets.inspection import main as inspect_main
from datasets.store import FORMAT, PackWriter, Store, TrackSpool, read_index, read_manifest
from engine.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def copy(faceforensics_store, tmp_path) -> Path:
    return Path(shutil.copytree(faceforensics_store.root, tmp_path / "store"))


def test_bytes_in_are_bytes_out(tmp_path):
    """Tracks of known numbers through spool and pack, raw and JPEG, with and without sound."""
    rng = np.random.default_rng(0)
    (tmp_path / "packs").mkdir()
    pack = PackWriter(tmp_path, "a")
    offsets = []
    for k, length in enumerate((25, 40, 31)):
        spool = TrackSpool(tmp_path / f"{k}.part", jpeg_quality=None)
        crops = rng.integers(0, 256, (length, 150, 150, 3), dtype=np.uint8)
        for one in crops:
            spool.add(one)
        spool.end_of_crops()
        sound = rng.integers(-9, 9, 640 * length, dtype=np.int16)
        for piece in np.array_split(np.concatenate([sound, sound[:99]]), 7):  # more than the frames last: cut
            spool.add_sound(piece)
        place = spool.append_to(pack)
        spool.discard()
        offsets.append(place["offset"])
        data = (tmp_path / place["pack"]).read_bytes()[place["offset"] :]
        assert data == crops.tobytes() + sound.tobytes()
        assert place["crops_bytes"] == length * 67_500 and place["frames"] == length and place["sound"]
    assert offsets == [0, 25 * (67_500 + 1280), 65 * (67_500 + 1280)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packs"]


def test_reading_into_a_given_array(lrw_store):
    batch, heard = np.zeros((2, 25, 150, 150, 3), np.uint8), np.zeros((2, 16_000), np.int16)
    for k, i in enumerate((4, 1)):
        assert lrw_store.frames(i, 2, 27, out=batch[k]) is not None
        lrw_store.sound(i, 2, 27, out=heard[k])
        assert np.array_equal(batch[k], lrw_store.frames(i, 2, 27))
        assert np.array_equal(heard[k], lrw_store.sound(i, 2, 27))
    assert batch[0].any() and not np.array_equal(batch[0], batch[1])


def test_a_store_travels_to_other_processes(lrw_store):
    expected = lrw_store.frames(3, 0, 5)
    again = pickle.loads(pickle.dumps(lrw_store))
    assert np.array_equal(again.frames(3, 0, 5), expected)
    child = os.fork()
    if child == 0:  # a forked loader worker opens files of its own
        os._exit(0 if np.array_equal(lrw_store.frames(3, 0, 5), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_store_of_a_newer_version(copy, capsys):
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"format": FORMAT + 1}))
    with pytest.raises(UserError, match=f"by a newer version of Crosstalk .store format {FORMAT + 1}; this one"):
        Store.open(copy)
    with pytest.raises(UserError, match="newer version"):
        inspect_main([f"store={copy}"])


@pytest.mark.parametrize(("file", "content", "said"), [
    ("manifest.json", None, "unfinished: run the same `crosstalk prepare` again"),
    ("manifest.json", "{\"format\"", "damaged"),
    ("manifest.json", "[]", "damaged"),
    ("manifest.json", "{}", "damaged"),
    ("index.jsonl", None, r"its index\.jsonl is missing"),
    ("index.jsonl", "{\"id\": \"x\"}\n", "line 1 is damaged"),
    ("index.jsonl", "garbage\n", "line 1 is damaged"),
])
def test_damaged_small_files(copy, file, content, said):
    if content is None:
        (copy / file).unlink()
    else:
        (copy / file).write_text(content)
    with pytest.raises(UserError, match=said):
        Store.open(copy)


def test_no_store_at_all(tmp_path):
    with pytest.raises(UserError, match="no such folder; make one with: crosstalk prepare"):
        Store.open(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no store: manifest\.json is missing"):
        Store.open(tmp_path)


def test_an_index_that_leads_out_of_the_store(copy):
    lines = (copy / "index.jsonl").read_text().splitlines()
    row = json.loads(lines[0])
    (copy / "index.jsonl").write_text("\n".join([json.dumps(row | {"pack": "../../etc/passwd"}), *lines[1:]]) + "\n")
    with pytest.raises(UserError, match="leads out of the folder"):
        Store.open(copy).frames(0, 0, 1)


def test_inspect_finds_a_flipped_bit(copy, capsys):
    assert inspect_main([f"store={copy}", "baseline_videos=0", "sheet=none"]) == 0
    assert "intact: all 24 checksums agree" in capsys.readouterr().out
    entry = list(read_index(copy))[7]
    with (copy / entry.pack).open("r+b") as file:
        file.seek(entry.offset + entry.size - 1)
        byte = file.read(1)[0]
        file.seek(entry.offset + entry.size - 1)
        file.write(bytes([byte ^ 1]))
    assert inspect_main([f"store={copy}"]) == 1
    out = capsys.readouterr().out
    assert f"DAMAGED in 1 places:\n  {entry.id}: its bytes in {entry.pack} changed" in out
    assert inspect_main([f"store={copy}", "verify=false", "baseline_videos=0", "sheet=none"]) == 0
    assert "bytes not verified" in capsys.readouterr().out


def test_inspect_finds_missing_and_cut_off_packs(copy, capsys):
    names = sorted({entry.pack for entry in read_index(copy)})
    (copy / names[0]).unlink()
    assert inspect_main([f"store={copy}"]) == 1
    assert "are missing" in capsys.readouterr().out
    store = Store.open(copy)
    [lost] = [i for i in range(len(store)) if store.table.pack(i) == names[0]][:1]
    with pytest.raises(UserError, match="is missing; copy the store as a whole"):
        store.frames(lost, 0, 1)
    os.truncate(copy / names[-1], 10)
    [cut] = [i for i in range(len(store)) if store.table.pack(i) == names[-1]][:1]
    if names[-1] != names[0]:
        with pytest.raises(UserError, match="cut off in track"):
            store.frames(cut, 0, 1)


def test_inspect_finds_a_changed_label(copy, capsys):
    """Somebody edits the index: the digest in the manifest no longer fits."""
    text = (copy / "index.jsonl").read_text()
    (copy / "index.jsonl").write_text(text.replace('"label": 1', '"label": 0', 1))
    assert inspect_main([f"store={copy}", "verify=false"]) == 1
    assert "index.jsonl or skipped.csv was changed" in capsys.readouterr().out


def test_inspect_shows_counts_baselines_and_a_sheet(copy, capsys):
    assert inspect_main([f"store={copy}"]) == 0
    out = capsys.readouterr().out
    assert "GENERATED data: nobody in it is a real person" in out
    for method in ("Deepfakes", "Face2Face", "FaceShifter", "FaceSwap", "NeuralTextures", "real"):
        rows = [line.split() for line in out.splitlines() if line.split()[:1] == [method]]
        assert rows[0][1:4] != ["0", "0", "0"] and int(rows[0][4].replace(",", "")) > 100
    assert "file_size" in out and "no video was skipped" in out and "intact: all 24 checksums agree" in out
    from PIL import Image

    sheet = np.asarray(Image.open(copy / "contact_sheet.png"))
    assert sheet.shape[0] > 24 * 110 and sheet.std() > 30


def test_people_do_not_sit_on_both_sides_of_a_fold(faceforensics_store):
    entries = list(read_index(faceforensics_store.root))
    groups = identity_groups(entries)
    for a, first in zip(entries, groups, strict=True):
        for b, second in zip(entries, groups, strict=True):
            if first != second:
                assert a.source != b.source or a.source is None


def test_inspect_from_the_command_line(lrw_store, tmp_path):
    run = subprocess.run([sys.executable, "-m", "crosstalk", "inspect", f"store={lrw_store.root}",
                          f"sheet={tmp_path / 'sheet.png'}"], cwd=PROJECT, capture_output=True, text=True)
    assert run.returncode == 0 and "baselines: none, they need both real and forged videos" in run.stdout
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    run = subprocess.run([sys.executable, "-m", "crosstalk", "inspect", f"store={tmp_path}"], cwd=PROJECT,
                         capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr == f"crosstalk inspect: {tmp_path}: no store: manifest.json is missing\n"


def test_manifest_tells_how_it_was_made(lrw_store):
    manifest = read_manifest(lrw_store.root)
    assert manifest["settings"]["search_every"] == 10 and manifest["settings"]["options"] == {"subset": 5000}
    assert set(manifest["packages"]) >= {"av", "dlib-bin", "numpy", "pillow"} and manifest["counts"]["tracks"] == 8
    before, after = manifest["jitter"]
    assert 0 < after < before / 3

"""Checkpoints are whole or not there, kept as asked, and never passed over in silence."""

import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import engine.checkpoint
from engine.checkpoint import Checkpoints
from engine.distributed import Context
from engine.errors import UserError
from engine.optim import AdamP
from engine.randomness import Randomness


def opened(folder: Path, **options) -> Checkpoints:
    randomness = Randomness(0, 0, torch.device("cpu"))
    return Checkpoints(folder, Context(), randomness, {"batch": 8, "nested": {"a": [1]}}, **options)


def parts(width: int = 4):
    torch.manual_seed(width)
    network = nn.Linear(3, width)
    return {"network": network, "optimizer": AdamP(network.parameters(), lr=0.1)}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_is_complete_and_its_files_are_listed(tmp_path):
    folder = opened(tmp_path).save(123, parts())
    assert folder.name == "step-00000123"
    assert names(folder) == ["complete.json", "config.yaml", "rank-0.json", "rank-0.safetensors", "state.json",
                             "state.safetensors"]
    facts = json.loads((folder / "complete.json").read_text())
    assert facts["step"] == 123 and facts["world"] == 1
    assert set(facts["files"]) == set(names(folder)) - {"complete.json"}
    assert yaml.safe_load((folder / "config.yaml").read_text()) == {"batch": 8, "nested": {"a": [1]}}


def test_load_restores_parts_and_randomness(tmp_path):
    saved = parts()
    checkpoints = opened(tmp_path)
    assert checkpoints.load(saved) is None
    for parameter in saved["network"].parameters():
        parameter.grad = torch.ones_like(parameter)
    saved["optimizer"].step()
    checkpoints.save(5, saved)
    expected = torch.rand(3)
    other = parts(width=4)
    resumed = opened(tmp_path).load(other)
    assert resumed.step == 5 and resumed.note is None and resumed.folder.name == "step-00000005"
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(other["network"].weight, saved["network"].weight)
    assert other["optimizer"].state[other["network"].bias]["step"] == 1


def test_retention_keeps_the_newest(tmp_path):
    checkpoints = opened(tmp_path, keep=2)
    for step in (1, 2, 10, 9999999, 123456789):
        checkpoints.save(step, parts())
    assert names(tmp_path) == ["step-09999999", "step-123456789"]
    assert opened(tmp_path).load(parts()).step == 123456789
    with pytest.raises(UserError, match="keep=0: at least one"):
        opened(tmp_path, keep=0)


def test_saving_the_same_step_again_writes_nothing(tmp_path):
    checkpoints = opened(tmp_path)
    before = (checkpoints.save(3, parts()) / "complete.json").stat().st_ino
    assert (checkpoints.save(3, parts()) / "complete.json").stat().st_ino == before


def test_unfinished_folders_are_ignored_and_removed(tmp_path):
    opened(tmp_path).save(3, parts())
    (tmp_path / ".step-00000004.tmp").mkdir()
    (tmp_path / ".step-00000004.tmp" / "state.json").write_text("half")
    (tmp_path / "step-notes").mkdir()
    checkpoints = opened(tmp_path)
    assert names(tmp_path) == ["step-00000003", "step-notes"]
    assert checkpoints.load(parts()).step == 3


def damage_by_cutting(folder: Path):
    file = folder / "state.safetensors"
    os.truncate(file, file.stat().st_size - 1)


def damage_by_a_bit(folder: Path):
    file = folder / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def damage_by_removing(folder: Path):
    (folder / "rank-0.json").unlink()


def damage_of_the_list(folder: Path):
    (folder / "complete.json").write_text("{")


def damage_without_the_list(folder: Path):
    (folder / "complete.json").unlink()


@pytest.mark.parametrize("damage, said", [
    (damage_by_cutting, r"state\.safetensors has \d+ of \d+ bytes"),
    (damage_by_a_bit, r"the contents of state\.safetensors have changed"),
    (damage_by_removing, r"rank-0\.json is missing"),
    (damage_of_the_list, r"complete\.json cannot be read"),
    (damage_without_the_list, r"complete\.json is missing"),
])
def test_a_damaged_newest_one_is_said_and_the_user_decides(tmp_path, damage, said):
    checkpoints = opened(tmp_path, keep=3)
    for step in (1, 2, 3):
        checkpoints.save(step, parts())
    damage(tmp_path / "step-00000003")
    damage_by_cutting(tmp_path / "step-00000002")
    whole = tmp_path / "step-00000001"
    with pytest.raises(UserError, match=rf"step-00000003 is damaged \({said}\); {whole} is whole: checkpoint={whole}"):
        checkpoints.load(parts())
    assert checkpoints.load(parts(), whole).step == 1
    assert names(tmp_path) == ["aside-step-00000002", "aside-step-00000003", "step-00000001"]
    checkpoints.save(2, parts())
    assert checkpoints.load(parts()).step == 2
    damage_by_cutting(tmp_path / "step-00000001")
    damage_by_cutting(tmp_path / "step-00000002")
    with pytest.raises(UserError, match="no other one is whole"):
        checkpoints.load(parts())


def test_what_does_not_fit_is_named(tmp_path):
    checkpoints = opened(tmp_path)
    checkpoints.save(1, parts())
    with pytest.raises(UserError, match=r"network does not fit, weights 2 of another shape: bias \(4,\) instead"):
        checkpoints.load(parts(width=5))
    with pytest.raises(UserError, match="holds network, optimizer; this run needs network, optimizer, teacher"):
        checkpoints.load(parts() | {"teacher": nn.Linear(1, 1)})
    grown = parts()
    grown["optimizer"].add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    with pytest.raises(UserError, match=r"optimizer does not fit: .*parameter group"):
        checkpoints.load(grown)
    with pytest.raises(UserError, match="checkpoint: no such folder"):
        checkpoints.load(parts(), tmp_path / "step-00000009")


def test_another_format_is_refused(tmp_path):
    checkpoints = opened(tmp_path)
    listed = checkpoints.save(1, parts()) / "complete.json"
    listed.write_text(json.dumps(json.loads(listed.read_text()) | {"format": 2}))
    with pytest.raises(UserError, match="format 2, this version reads 1"):
        checkpoints.load(parts())


def test_a_full_disk_is_one_line_and_the_older_checkpoint_stays(tmp_path, monkeypatch):
    checkpoints = opened(tmp_path)
    checkpoints.save(1, parts())

    def full(folder, name, tree):
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(engine.checkpoint, "save_tree", full)
    with pytest.raises(UserError, match=r"saving checkpoint .*step-00000002: no space left on the disk"):
        checkpoints.save(2, parts())
    monkeypatch.undo()
    checkpoints = opened(tmp_path)
    assert names(tmp_path) == ["step-00000001"] and checkpoints.load(parts()).step == 1

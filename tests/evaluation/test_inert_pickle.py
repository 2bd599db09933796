"""A checkpoint of whatever origin is read without running what is in it; a broken one is one line."""

import ast
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from engine.errors import UserError
from evaluation import inert_pickle
from evaluation.inert_pickle import read_weights

FUZZ = int(os.environ.get("CROSSTALK_FUZZ", "300"))  # damaged files to try; more when the reader changes
STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.steps": torch.tensor(7), "b": torch.ones(5)}


def written(path: Path, content: object, **options) -> Path:
    torch.save(content, path, **options)
    return path


def forged(path: Path, program: bytes, numbers: dict[str, bytes] | None = None, **compression) -> Path:
    """A file of PyTorch's layout with this pickle."""
    with zipfile.ZipFile(path, "w", **compression) as archive:
        archive.writestr("x/data.pkl", program)
        for name, data in (numbers or {}).items():
            archive.writestr(name, data)
    return path


def equal(weights: dict, expected: dict) -> bool:
    return list(weights) == list(expected) and all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_what_torch_wrote(tmp_path, protocol):
    state = OrderedDict(STATE, transposed=torch.randn(4, 6).T, part=torch.randn(9)[2:7], tied=STATE["b"])
    state._metadata = {"": {"version": 1}}
    for content in (state, {"state_dict": state, "epoch": 3, "flags": frozenset([1]), "callbacks": {int: b"x"}}):
        path = written(tmp_path / "x.pth", content, pickle_protocol=protocol)
        weights = read_weights(path)
        assert equal(weights, state) and all(weights[name].dtype == state[name].dtype for name in state)


class Bad:
    """Unpickling it calls a function."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def attacks(marker: Path) -> dict[str, Bad]:
    touch, python = f"touch {marker}", f"open({str(marker)!r}, 'w')"
    return {
        "os.system": Bad(os.system, touch),
        "subprocess": Bad(subprocess.getoutput, touch),
        "eval": Bad(eval, python),
        "exec": Bad(exec, python),
        "open": Bad(open, str(marker), "w"),
        "getattr": Bad(getattr, Bad(__import__, "os"), "system"),
        "torch": Bad(torch.save, 1, str(marker)),
        "torch's import": Bad(torch.hub.load, str(marker.parent), "hubconf"),
        "numpy's exec": Bad(__import__("numpy").testing.rundocs, str(marker)),
        "path": Bad(Path.touch, marker),
        "in a state": Bad(Path, "x", state=Bad(os.system, touch)),
        "in a tensor": Bad(torch._utils._rebuild_tensor_v2, Bad(os.system, touch), 0, (1,), (1,), False, OrderedDict()),
    }


@pytest.mark.parametrize("place", ["settings", "weight", "key", "alone", "state dict"])
def test_no_function_is_called(tmp_path, place):
    marker = tmp_path / "marker"
    for name, bad in attacks(marker).items():
        content = {
            "settings": {"state_dict": STATE, "hyper_parameters": {"deep": [({"x": bad},)]}},
            "weight": {"state_dict": STATE | {"c": bad}},
            "key": {"state_dict": STATE, bad: 1},
            "alone": bad,
            "state dict": {"state_dict": bad},
        }[place]
        path = written(tmp_path / "x.pth", content)
        if place in ("settings", "key"):  # beside the weights: not looked at
            assert equal(read_weights(path), STATE), name
        else:
            with pytest.raises(UserError, match=r"no plain tensor|holds no state dict"):
                read_weights(path)
        assert not marker.exists(), name
    assert not list(tmp_path.glob("**/__pycache__"))


def test_the_attacks_are_real(tmp_path):
    """The same bytes, unpickled: otherwise the test above would prove nothing."""
    marker = tmp_path / "marker"
    for name in ("os.system", "subprocess", "eval", "exec", "open", "path", "in a state"):
        program = pickle.dumps({"settings": attacks(marker)[name]}, protocol=2)
        try:
            pickle.loads(program)
        except Exception as error:
            assert marker.exists(), (name, error)
        assert marker.exists(), name
        marker.unlink()
        with pytest.raises(UserError):
            read_weights(forged(tmp_path / "x.pth", program))
        assert not marker.exists()


@pytest.mark.parametrize("program", [
    b"cposix\nsystem\n(S'touch {marker}'\ntR.",  # protocol 0
    b"(S'touch {marker}'\niposix\nsystem\n.",
    b"(cposix\nsystem\nS'touch {marker}'\no.",
    b"\x80\x02cposix\nsystem\nX\x0e\x00\x00\x00touch {marker}\x85R.",
    b"\x80\x02\x82\x01.",  # the registry of extensions
    b"\x80\x02cbuiltins\neval\n\x81.",
    b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.",
])  # fmt: skip
def test_no_instruction_calls_either(tmp_path, monkeypatch, program):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        read_weights(forged(tmp_path / "x.pth", program.replace(b"{marker}", b"m")))
    assert not (tmp_path / "m").exists()


def test_the_reader_has_no_means_to_import_or_call():
    tree = ast.parse(Path(inert_pickle.__file__).read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not names & {"getattr", "setattr", "eval", "exec", "compile", "__import__", "import_module", "globals",
                        "load", "loads", "Unpickler", "extract", "extractall"}  # fmt: skip
    imports = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imports == {"errno", "math", "pickletools", "struct", "zipfile", "torch"}


def tensor_program(count=6, offset=0, shape=(6,), stride=(1,), key="0", kind="FloatStorage") -> bytes:
    """{"w": a tensor} with any description, in PyTorch's instructions."""

    def value(x: object) -> bytes:
        return pickle.dumps(x, protocol=2)[2:-1]

    storage = b"(" + value("storage") + b"ctorch\n" + kind.encode() + b"\n" + value(key) + value("cpu") + value(count)
    arguments = b"(" + storage + b"tQ" + value(offset) + value(shape) + value(stride) + b"\x89" + b"}t"
    return b"\x80\x02}" + value("w") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


DATA = {"x/data/0": struct.pack("<6f", *range(6))}


def test_a_description_by_hand(tmp_path):
    weights = read_weights(forged(tmp_path / "x.pth", tensor_program(shape=(2, 3), stride=(3, 1)), DATA))
    assert equal(weights, {"w": torch.arange(6.0).view(2, 3)})


@pytest.mark.parametrize(("description", "said"), [
    ({"shape": (7,)}, "does not lie within its 6 numbers"),
    ({"stride": (2,)}, "does not lie within"),
    ({"offset": 1}, "does not lie within"),
    ({"shape": (6, 10**9), "stride": (1, 0)}, "does not lie within"),
    ({"shape": (2**40, 2**40), "stride": (0, 0)}, "does not lie within"),
    ({"shape": (0,)}, "does not lie within"),
    ({"shape": (1,), "stride": (2**63,)}, "impossible shape"),
    ({"offset": -1}, "impossible shape"),
    ({"shape": (3,), "stride": (-1,), "offset": 5}, "impossible shape"),
    ({"shape": (1,) * 500, "stride": (1,) * 500}, "impossible shape"),
    ({"shape": (2, 3)}, "impossible shape"),
    ({"shape": (6.0,)}, "impossible shape"),
    ({"count": 10**11, "shape": (10**11,)}, "should have 400000000000 bytes, the file has 24"),
    ({"count": 5, "shape": (5,)}, "should have 20 bytes, the file has 24"),
    ({"kind": "LongStorage"}, "should have 48 bytes, the file has 24"),
    ({"kind": "ByteStorage"}, "is a torch.ByteStorage"),
    ({"kind": "load"}, "is a torch.load"),
    ({"key": "../../../etc/passwd"}, "cannot be read"),
    ({"key": "1"}, "cannot be read"),
    ({"key": 0}, "is no plain tensor"),
])  # fmt: skip
def test_impossible_tensors_are_errors(tmp_path, description, said):
    with pytest.raises(UserError, match=said):
        read_weights(forged(tmp_path / "x.pth", tensor_program(**description), DATA))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zips_that_are_not_pytorchs(tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    program = tensor_program()
    cases = {
        "compressed, encrypted or overlap": lambda: forged(path, program, DATA, compression=zipfile.ZIP_DEFLATED),
        "0 entries NAME/data.pkl": lambda: written_zip(path, {"data.pkl": program}),
        "2 entries NAME/data.pkl": lambda: written_zip(path, {"x/data.pkl": program, "../data.pkl": program}),
        "same entry twice": lambda: written_zip(path, [("x/data.pkl", program), ("x/data.pkl", program)]),
        "big-endian": lambda: forged(path, program, DATA | {"x/byteorder": b"big"}),
        "longer than": lambda: forged(path, program + b"N" * inert_pickle.LONGEST_PROGRAM, DATA),
    }
    for said, make in cases.items():
        make()
        with pytest.raises(UserError, match=said):
            read_weights(path)
    monkeypatch.chdir(tmp_path)
    written_zip(path, {"../data.pkl": program, "../data/0": DATA["x/data/0"], "/tmp/../escaped": b"x"})
    assert read_weights(path)["w"].tolist() == [0, 1, 2, 3, 4, 5]
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"] and not (tmp_path.parent / "data").exists()


def written_zip(path: Path, entries) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items() if isinstance(entries, dict) else entries:
            archive.writestr(name, data)
    return path


def test_overlapping_entries_cannot_fill_the_memory(tmp_path):
    """A list that names the same bytes many times is longer than the file."""
    data = bytes(4_000)
    path = forged(tmp_path / "x.pth", tensor_program(), {f"x/data/{n}": data for n in range(50)})
    with zipfile.ZipFile(path) as archive:
        content = path.read_bytes()
        first = archive.getinfo("x/data/0").header_offset
        start = archive.start_dir
        directory = bytearray(content[start:])
    place = 0
    while (place := directory.find(b"PK\x01\x02", place)) >= 0:
        if directory[place + 46 :].startswith(b"x/data/"):
            directory[place + 42 : place + 46] = struct.pack("<I", first)
        place += 4
    kept = content[: first + 5_000]
    end = directory.rfind(b"PK\x05\x06")
    directory[end + 16 : end + 20] = struct.pack("<I", len(kept))
    path.write_bytes(kept + directory)
    with pytest.raises(UserError, match="overlap"):
        read_weights(path)


@pytest.mark.parametrize(("content", "said"), [
    (b"", "no whole PyTorch file: wrong file"),
    (b"\x93NUMPY", "wrong file"),
    (b"<!DOCTYPE html><title>Quota exceeded</title>", "is a web page"),
    (b"PK\x03\x04" + bytes(100), "it is cut off or damaged"),
    (pickle.dumps(STATE), "format PyTorch had before version 1.6. Convert it"),
])
def test_what_is_no_checkpoint(tmp_path, content, said):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_weights(tmp_path / "x.pth")


def test_the_format_before_1_6_and_the_way_out(tmp_path):
    path = written(tmp_path / "OLD", STATE, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="format PyTorch had before") as caught:
        read_weights(path)
    command = str(caught.value).split('python -c "')[1].removesuffix('"')
    subprocess.run([sys.executable, "-c", command], cwd=tmp_path, check=True)
    assert equal(read_weights(tmp_path / "NEW"), STATE)


def test_cut_off_or_damaged_anywhere(tmp_path):
    """Either an error of ours or, where a byte did not matter, the same weights."""
    path = written(tmp_path / "whole.pth", {"state_dict": STATE, "x": [1, (2, {3: "4"})]})
    whole, random_ = path.read_bytes(), random.Random(0)
    damaged = [whole[:length] for length in random_.sample(range(len(whole)), 60)]
    for _ in range(FUZZ):
        content = bytearray(whole)
        for _ in range(random_.choice((1, 1, 4))):
            content[random_.randrange(len(content))] = random_.randrange(256)
        damaged.append(bytes(content))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            assert equal(read_weights(path), STATE)
        except UserError:
            refused += 1
    assert refused > 100


def test_damaged_descriptions(tmp_path):
    """The checksum would stop damage to the pickle; a forger puts it right."""
    buffer = io.BytesIO()
    torch.save({"state_dict": STATE, "x": [1, (2, {3: "4"})]}, buffer)
    with zipfile.ZipFile(buffer) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    [name] = [name for name in entries if name.endswith("data.pkl")]
    random_, program = random.Random(1), entries[name]
    for _ in range(FUZZ):
        content = bytearray(program)
        for _ in range(random_.choice((1, 2, 8))):
            content[random_.randrange(len(content))] = random_.randrange(256)
        path = written_zip(tmp_path / "x.pth", entries | {name: bytes(content)})
        try:
            weights = read_weights(path)
        except UserError as error:
            assert len(str(error)) < 400 and str(error).isprintable()
        else:
            assert all(isinstance(tensor, torch.Tensor) for tensor in weights.values())


@pytest.mark.parametrize("program", [
    b"\x80\x02Nr\xff\xff\xff\x7f.",  # a memo of two billion places
    b"\x80\x02" + b"(" * 10**5 + b".",
    b"\x80\x02N" + b"\x85" * 10**5 + b".",  # a hundred thousand tuples inside each other
    b"\x80\x02}N" + b"\x85" * 10**5 + b"Ns.",  # ... as a key
    b"\x80\x04\x8c\x01xq\x00" + b"h\x00h\x00\x93" * 10**5 + b".",
    b"\x80\x02\x8b\xff\xff\xff\x7f.",  # a whole number of two billion bytes
    b"\x80\x04\x8d" + b"\xff" * 8 + b".",
])  # fmt: skip
def test_programs_made_to_fill_the_memory(tmp_path, program):
    with pytest.raises(UserError):
        read_weights(forged(tmp_path / "x.pth", program))

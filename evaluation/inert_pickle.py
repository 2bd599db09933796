"""Weights out of a PyTorch file (.pth, .ckpt) of whatever origin, without running anything that it says.

Such a file is a zip of raw numbers and of one pickle that tells which of them are which weight. A pickle is a program:
it may name any function of any module and have it called. `torch.load(weights_only=True)` calls a few functions only,
and refuses a file that names others, as checkpoints of a training do: beside the weights they hold its settings.

Here the program is read, not run. `pickletools` takes it apart into instructions, and `_outline` follows those that
put dicts, lists and tuples together. A name stays a name, a call stays a note of what was to be called with what: no
import, call or attribute depends on the file. Only then are the notes looked at that describe a plain tensor.
"""

from __future__ import annotations

import errno
import math
import pickletools
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from engine.errors import UserError
from engine.files import said_plainly

DTYPES = {"FloatStorage": torch.float32, "LongStorage": torch.int64}
LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
            "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING"}  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
# Of every instruction an object of up to 200 bytes may remain. A whole stage-1 checkpoint has 0.4 MB of instructions.
LONGEST_PROGRAM = 2**24
MOST_AXES, LONGEST_AXIS = 8, 2**40  # PyTorch's own arithmetic is done in 64 bits
DAMAGE = (zipfile.BadZipFile, EOFError, NotImplementedError, struct.error, ValueError, IndexError, KeyError, TypeError,
          OverflowError, RuntimeError)  # fmt: skip  what reading half a file, or a forged one, can end in


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """Of something that would be imported."""

    module: Any
    name: Any


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """Of something, with arguments; never made."""

    function: Any
    arguments: Any


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A reference to numbers beside the program."""

    identity: Any


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a file: alone, or under the key `state_dict` of a checkpoint. On the CPU, by name."""
    with said_plainly(f"checkpoint={path}"):
        if not path.is_file():
            raise UserError(f"no such file: {path}; expected a .pth or .ckpt file of the original work")
        try:
            if not zipfile.is_zipfile(path):
                _refuse(path)
            with zipfile.ZipFile(path) as archive:
                return _weights(path, archive)
        except (*DAMAGE, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: told to look at an absurd place
                raise
            raise UserError(f"{path} cannot be read, it is damaged or no PyTorch file: "
                            f"{shown(str(error) or type(error).__name__)}") from error  # fmt: skip


def shown(name: str) -> str:
    """A text that a file brought, fit for a terminal."""
    return name if name.isprintable() and len(name) <= 120 else ascii(name[:120])


def _refuse(path: Path) -> NoReturn:
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"\x80"):
        raise UserError(
            f"{path} is in the format PyTorch had before version 1.6. Convert it: python -c \"import torch; "
            "torch.save(torch.load('OLD', map_location='cpu', weights_only=True), 'NEW')\""
        )
    if head.lstrip().startswith(b"<"):
        raise UserError(f"{path} is a web page, not a checkpoint: open it in a browser to see what went wrong")
    what = "it is cut off or damaged; compare its size with the original's" if head.startswith(b"PK") else "wrong file?"
    raise UserError(f"{path} is no whole PyTorch file: {what}")


def _weights(path: Path, archive: zipfile.ZipFile) -> dict[str, Tensor]:
    entries = _entries(path, archive)
    programs = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(programs) != 1:
        raise UserError(f"{path} is a zip, but no PyTorch file: it has {len(programs)} entries NAME/data.pkl, not one")
    folder = programs[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") != b"little":
        raise UserError(f"{path} was written on a big-endian machine; save it again on a little-endian one")
    if entries[programs[0]].file_size > LONGEST_PROGRAM:
        raise UserError(f"{path}: the description of its content is longer than {LONGEST_PROGRAM:,} bytes; "
                        "save the state dict alone")  # fmt: skip
    content = _outline(archive.read(programs[0]))
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not state:
        raise UserError(f"{path} holds no state dict (weights by name), neither alone nor under 'state_dict'")
    numbers: dict[str, bytearray] = {}
    return {name: _tensor(f"{path}: {shown(name)}", note, archive, f"{folder}data/", numbers)
            for name, note in state.items()}  # fmt: skip


def _entries(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """By name. Entries are read into memory and never become files, so it is no matter where a name would lead."""
    listed = archive.infolist()
    entries = {entry.filename: entry for entry in listed}
    if len(entries) != len(listed):
        raise UserError(f"{path} is damaged or forged: it lists the same entry twice")
    # PyTorch compresses nothing. So all that is read together is no larger than the file, whatever sizes it claims.
    packed = any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in listed)
    if packed or sum(entry.file_size for entry in listed) > path.stat().st_size:
        raise UserError(f"{path} is no file that PyTorch wrote: its entries are compressed, encrypted or overlap")
    return entries


def _outline(program: bytes) -> Any:
    """What a pickle would build, of dicts, lists, tuples and literals; everything else is a Name, Call or Stored.

    Keys that are not text are dropped with their values: settings of a training have such, weights do not.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        place = marks.pop()
        items = stack[place:]
        del stack[place:]
        return items

    def put(items: list[Any]) -> None:
        if type(stack[-1]) is dict:
            pairs = zip(items[::2], items[1::2], strict=True)
            stack[-1].update((key, value) for key, value in pairs if type(key) is str)

    def append(items: list[Any]) -> None:
        if type(stack[-1]) is list:
            stack[-1].extend(items)

    argument: Any  # of the type that the instruction has
    for instruction, argument, _ in pickletools.genops(program):
        match instruction.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case name if name in LITERALS:
                stack.append(argument)
            case name if name in CONSTANTS:
                stack.append(CONSTANTS[name])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "SETITEMS":
                put(since_mark())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                put([key, value])
            case "APPENDS":
                append(since_mark())
            case "APPEND":
                append([stack.pop()])
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(Name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(Name(module, name))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_noted(function, arguments))
            case "NEWOBJ_EX":
                _, arguments, function = stack.pop(), stack.pop(), stack.pop()
                stack.append(Call(function, arguments))
            case "BUILD":  # would set attributes of what lies below
                stack.pop()
            case "BINPERSID":
                stack.append(Stored(stack.pop()))
            case "EMPTY_SET":
                stack.append(Call(Name("builtins", "set"), ()))
            case "ADDITEMS":
                since_mark()
            case "FROZENSET":
                stack.append(Call(Name("builtins", "frozenset"), tuple(since_mark())))
            case "POP":
                stack.pop()
            case "POP_MARK":
                since_mark()
            case name:
                raise ValueError(f"pickle instruction {name}, which PyTorch does not write")
    raise ValueError("the description of its content has no end")


def _noted(function: Any, arguments: Any) -> Any:
    match function, arguments:
        case Name("collections", "OrderedDict"), ():
            return {}  # what it gets is put in by instructions that follow
    return Call(function, arguments)


def _tensor(where: str, note: Any, archive: zipfile.ZipFile, folder: str, numbers: dict[str, bytearray]) -> Tensor:
    """The tensor that a note describes; `numbers` are those read so far, for tensors may share them."""
    match note:
        case Call(
            Name("torch._utils", "_rebuild_tensor_v2"),
            (Stored(("storage", Name("torch", str(kind)), str(number), _, int(count))),
             int(offset), tuple(shape), tuple(strides), *_),
        ):  # fmt: skip
            pass
        case _:
            raise UserError(f"{where} is no plain tensor")
    if kind not in DTYPES:
        raise UserError(f"{where} is a torch.{shown(kind)}; expected {' or '.join(DTYPES)}")
    dtype = DTYPES[kind]
    whole = all(type(n) is int and 0 <= n <= LONGEST_AXIS for n in (count, offset, *shape, *strides))
    if not whole or len(shape) != len(strides) or len(shape) > MOST_AXES:
        raise UserError(f"{where} has an impossible shape")
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if not 0 < math.prod(shape) <= count or last >= count:
        raise UserError(f"{where} of shape {shape} does not lie within its {count} numbers")
    if number not in numbers:
        numbers[number] = bytearray(archive.read(folder + number))
    if len(numbers[number]) != count * dtype.itemsize:
        raise UserError(f"{where} should have {count * dtype.itemsize} bytes, the file has {len(numbers[number])}")
    return torch.frombuffer(numbers[number], dtype=dtype).as_strided(shape, strides, offset)

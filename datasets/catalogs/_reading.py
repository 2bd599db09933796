"""What all catalogues need: listing folders, reading other people's lists without trusting them, fair dice."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from engine.errors import UserError
from engine.files import said_plainly

log = logging.getLogger(__name__)

LARGEST_LIST = 64 * 2**20  # bytes; the longest genuine list, a DFDC part's metadata.json, stays below 1 MiB


# ---------------------------------------------------------------------------------------------- folders

def listing(folder: Path) -> list[os.DirEntry]:
    """What lies in a folder, hidden things left out, in an order that no file system can change."""
    with said_plainly(f"listing {folder}"), os.scandir(folder) as entries:
        return sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)


def file_names(folder: Path, suffix: str = ".mp4") -> list[str]:
    # DirEntry.is_file answers from the listing itself: no stat per file, which LRW's half million would feel.
    named = [entry for entry in listing(folder) if entry.name.endswith(suffix)]
    files = [entry.name for entry in named if is_file(entry)]
    if len(files) < len(named):
        log.warning("%s: %d entries named *%s are not files (folders, or links that lead nowhere): left out",
                    folder, len(named) - len(files), suffix)
    return files


def folder_names(folder: Path) -> list[str]:
    return [entry.name for entry in listing(folder) if is_folder(entry)]


def is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself, or where we may not look
        return False


def is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_text(name: str) -> bool:
    """False for a name whose bytes are not UTF-8: an index or a report would stumble over it later."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(name: str) -> str:
    """The name if it is text, else the same with its stray bytes spelled out, so that it can be reported."""
    return name.encode(errors="backslashreplace").decode()


def wrong_layout(dataset: str, root: Path, expected: str, looks_right: Callable[[Path], bool]) -> UserError:
    """What was expected, what is there instead, and the right path if it is a few folders up or one down."""
    there = [repr(shown(entry.name)) for entry in islice(listing(root), 6)]
    message = f"no {dataset} here: expected {expected}; found {', '.join(there) or 'nothing'} in {root}"
    below = (root / name for name in islice(folder_names(root), 200))
    for candidate in (*islice(root.parents, 5), *below):
        with suppress(OSError, UserError):  # only a guess: where we may not look, we do not
            if looks_right(candidate):
                return UserError(f"{message}. It seems to be at {candidate}: try root={candidate}")
    return UserError(message)


# ------------------------------------------------------------------------------------------------ lists

def read_text(path: Path) -> str:
    if not path.is_file():  # also keeps us from waiting for ever on a pipe
        raise UserError(f"{path}: no such file")
    with said_plainly(f"reading {path}"), path.open("rb") as file:
        data = file.read(LARGEST_LIST + 1)
    if len(data) > LARGEST_LIST:
        raise UserError(f"{path}: larger than {LARGEST_LIST >> 20} MiB, which no list of videos is")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from error


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line that is not blank, behind where it stands: ("/data/list.txt:3", "...")."""
    # Not str.splitlines: that also breaks at characters which may be part of a file's name.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def read_json(path: Path) -> object:
    try:
        return json.loads(read_text(path), object_pairs_hook=_without_repeats)
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply to be a list of videos") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} appears twice in one object")
    return found


def plain_name(name: object, where: str, suffix: str = ".mp4") -> str:
    """A name from somebody's list, proved to be that of one file in its folder: no separators, no `..`."""
    if not isinstance(name, str) or not name or name in (".", "..") or not is_text(name):
        raise UserError(f"{where}: {name!r} is not a file name")
    if any(character in name for character in "/\\\0"):
        raise UserError(f"{where}: {name!r} leads out of its folder; expected a plain file name")
    if not name.endswith(suffix):
        raise UserError(f"{where}: {name!r} does not end in {suffix}")
    return name


# --------------------------------------------------------------------------------------- options and dice

def number_of(text: str) -> int:
    """64 bits that depend on the text alone: not on the machine, Python's hash seed or the other files."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def falls_within(share: float, text: str) -> bool:
    """True for about `share` of all texts, always the same ones; a larger share only adds."""
    return number_of(text) < share * 2**64


def require_share(value: object, option: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise UserError(f"{option}={value}: expected a share of at least 0 and below 1, such as {option}=0.1")
    return float(value)

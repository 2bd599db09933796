"""Writing without ever leaving half a file behind, folders for one process at a time, paths that stay in their root."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from engine.errors import UserError


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write beside the target, flush to the disk, rename: readers see the old file or the new one, whole."""
    if isinstance(data, str):
        data = data.encode()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def said_plainly(doing: str) -> Iterator[None]:
    """Turn what a disk can do to us (full, read-only, not ours) into one line; anything else is a bug and stays one."""
    try:
        yield
    except OSError as error:
        again = "free some and run the same command again, it continues where it stopped"
        reasons = {
            errno.ENOSPC: f"no space left on the disk; {again}",
            errno.EDQUOT: f"the disk quota is used up; {again}",
            errno.EROFS: "the disk is read-only",
            errno.EACCES: "permission denied",
            errno.EPERM: "operation not permitted",
            errno.ENOTDIR: "a part of the path is a file, not a folder",
            errno.EEXIST: "there is a file of that name already",
            errno.ENOENT: "no such file or folder, and none can be made there",
            errno.ENAMETOOLONG: "the name is too long",
        }
        if error.errno not in reasons:
            raise
        where = f" ({error.filename})" if error.filename else ""
        raise UserError(f"{doing}: {reasons[error.errno]}{where}") from error


@contextmanager
def alone(file: TextIO, refusal: str) -> Iterator[None]:
    """Hold the lock of an open file until the end, or until the process is gone, however it goes. Where another one
    holds it: one line, `refusal`, in which HOLDER stands for who it is, as it wrote into the file if that may be."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() if file.writable() else ""
        raise UserError(refusal.replace("HOLDER", holder or "another process")) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        print(f"note: the file system of {file.name} has no locks: nothing keeps a second process out", file=sys.stderr)
    if file.writable():
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
    yield


def require_folder(path: Path, what: str) -> Path:
    """The path itself if it is a readable folder, else one line that says what should have been there."""
    if not path.exists():
        raise UserError(f"{what}: no such folder: {path}")
    if not path.is_dir():
        raise UserError(f"{what}: not a folder: {path}")
    if not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"{what}: not readable: {path}")
    return path


def inside(root: Path, name: str) -> Path:
    """root/name, refused if a file that came from outside names something beyond its own root.

    Symbolic links below the root are the owner's own doing and are followed; `..` and absolute names are not.
    """
    relative = Path(name)
    if relative.is_absolute() or ".." in relative.parts or "\0" in name:
        raise UserError(f"{root}: refuses the name {name!r}: it leads out of the folder")
    return root / relative

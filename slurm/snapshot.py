"""The code that was submitted is the code that runs: a copy of it, made when the job is submitted.

A job may wait for days and be requeued for weeks, while its author goes on editing. So each submission gets a copy of
the project's packages, as they lie on the disk: changes and new files that git does not know yet included.
The copy is a megabyte or two. It carries a note, REVISION, which says what git called the code and what was copied.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from engine.errors import UserError
from engine.files import said_plainly
from engine.run import PROJECT, code_revision


def files() -> list[Path]:
    """Below PROJECT: the modules of the top and all that the packages hold."""
    if not (PROJECT / "pyproject.toml").exists():
        raise UserError(f"{PROJECT} is not the project's source folder; jobs run a copy of that: install "
                        "Crosstalk with `make setup` in its folder")  # fmt: skip
    packages = [path.parent for path in PROJECT.glob("*/__init__.py") if path.parent.name != "tests"]
    inside = [path for package in packages for path in package.rglob("*") if path.is_file()]
    return sorted(path.relative_to(PROJECT) for path in [*PROJECT.glob("*.py"), *inside]
                  if "__pycache__" not in path.parts)  # fmt: skip


def digest() -> str:
    """Of every file's name and content."""
    summary = hashlib.blake2b(digest_size=6)
    for path in files():
        content = (PROJECT / path).read_bytes()
        summary.update(f"{path}\0{len(content)}\0".encode() + content)
    return summary.hexdigest()


def take(folder: Path) -> str:
    """Copy the code into a new folder; returns what it is called."""
    name = f"{code_revision() or 'no git'}, copy {digest()}"
    with said_plainly(f"copying the code to {folder}"):
        for path in files():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PROJECT / path, folder / path)
        (folder / "REVISION").write_text(name + "\n")
    return name

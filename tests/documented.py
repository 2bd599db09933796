"""The commands that README, docs and the settings' own files show, to be checked (test_documented.py) and run
(docs_check.py).

    commands   in fenced blocks, or behind `#   ` at the head of a YAML: whole lines that can be typed
    mentions   in backticks within a sentence: `crosstalk prepare shard=0/8`, which need not be all that is typed

"..." stands for what is left out, "$name" for what a loop puts there; a command that has one is a mention.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
SETTINGS = sorted((PROJECT / "configs").rglob("*.yaml"))
PROGRAMS = ("crosstalk", "python", "torchrun", "make")
SHELLS = ("", "bash", "sh", "shell", "console")


@dataclass(frozen=True)
class Command:
    where: str  # README.md:12
    words: tuple[str, ...]  # program and arguments
    whole: bool  # nothing is left out

    def __str__(self) -> str:
        return f"{self.where}: {' '.join(self.words)}"


def all_commands() -> list[Command]:
    found = [command for page in PAGES for command in of_page(page)]
    return found + [command for path in SETTINGS for command in of_settings(path)]


def of_page(path: Path) -> Iterator[Command]:
    name = str(path.relative_to(PROJECT))
    language, before = None, ""  # of the block that we are in
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fence = re.match(r"\s*```(\w*)", line)
        if fence:
            language = None if language is not None else fence[1]
        elif language is None:
            for span in re.findall(r"`([^`]+)`", line):
                if re.match(r"(crosstalk|python -m) [a-z]", span):
                    yield command(f"{name}:{number}", span, whole=False)
        elif language in SHELLS:
            if line.endswith("\\"):
                before += line[:-1] + " "
                continue
            line, before = before + line, ""
            line = line.strip().removeprefix("$ ")
            if line.split(" ")[0] in PROGRAMS or (language and line and not line.startswith("#")):
                yield command(f"{name}:{number}", line)


def of_settings(path: Path) -> Iterator[Command]:
    name, before = str(path.relative_to(PROJECT)), ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        shown = re.match(r"#   +(crosstalk .*)", line) or (before and re.match(r"# +(\S.*)", line))
        if not shown:
            continue
        text = before + shown[1]
        before = text[:-1] + " " if text.endswith("\\") else ""
        if not before:
            yield command(f"{name}:{number}", _without_remark(text))


def _without_remark(text: str) -> str:
    """What follows settings after some spaces and is no setting is said about the command."""
    first, *others = re.split(r" {2,}", text)
    kept = [first]
    for part in others:
        if not all("=" in word or word.startswith("-") for word in part.split()):
            break
        kept.append(part)
    return " ".join(kept)


def command(where: str, text: str, whole: bool = True) -> Command:
    try:
        words = shlex.split(text, comments=True)
    except ValueError:  # a mention that ends within a quote
        words = text.split()
    for stop in ("|", ">", "<", "&&", ";"):  # the rest is another program's
        if stop in words:
            words = words[: words.index(stop)]
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # variables for the program
        words = words[1:]
    words = [word.strip("[]") if word.startswith("[") != word.endswith("]") and "=[" not in word else word
             for word in words]  # fmt: skip
    open_ended = any(word == "..." or "$" in word for word in words)
    return Command(where, tuple(word for word in words if word != "..."), whole and not open_ended)

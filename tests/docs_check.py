"""Every command that README, docs and settings show is run, on small data that lie where the command looks for them.

    make docs-check        some minutes; `pytest tests/docs_check.py -k benchmark` for some of them

A command is run as it stands, but: what it reads is replaced by something small of its kind (a path by its key), and
settings that make it short are added. What it writes goes where it says, below a folder of its page. Commands of which
only the words can be checked are listed in ONLY_READ, each with the reason; tests/test_documented.py checks their
words, and those of what is mentioned in passing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.stores import Track, write_store
from tests.documented import PROJECT, Command, all_commands
from tests.evaluation.small import METHODS, small_detector
from tests.evaluation.test_ablation import trained
from tests.finetune.small import small_bundle
from tests.ssl_pretrain.small import SMALL, talking
from tests.ssl_pretrain.small import small_store as speaking_store

# How a command begins -> why it is not run.
ONLY_READ = {
    "crosstalk demo": "minutes: it is a test of its own (tests/test_demo.py)",
    "crosstalk import": "needs a published checkpoint: tests/evaluation/test_published.py makes such and reads them",
    "crosstalk serve": "stays until it is stopped: tests/evaluation/test_serve.py",
    "crosstalk jobs": "needs submitted jobs: tests/slurm",
    "make": "targets that change the checkout",
    "crosstalk benchmark protocol=robustness": "needs 36 stores: tests/evaluation/test_benchmark.py",
    "crosstalk benchmark protocol=cross_manipulation": "needs four detectors: tests/evaluation/test_benchmark.py",
}
SHORT = {
    "pretrain": (*SMALL, "epochs=1", "warmup_epochs=0"),
    "finetune": ("batch=4", "epochs=1", "warmup_epochs=0", "workers=0", "precision=fp32", "device=cpu"),
    "benchmark": ("draws=20", "workers=0", "device=cpu"),
    "synthesize": ("words=1", "lrw_clips=2", "faceforensics_pairs=1", "celebdf_identities=2", "youtube_real=0"),
    "prepare": ("workers=2",),
    "inspect": ("baseline_videos=0",),
}  # fmt: skip
MAY_ANSWER = {"detect": (0, 3)}  # 3: nothing can be told


def runnable() -> list[Command]:
    """Each once, in the order of the pages."""
    shown: dict[tuple[str, ...], Command] = {}
    for command in all_commands():
        if command.whole:
            shown.setdefault(command.words, command)
    return [command for command in shown.values()
            if not any(" ".join(command.words).startswith(beginning) for beginning in ONLY_READ)]  # fmt: skip


@pytest.fixture(scope="session")
def small(tmp_path_factory, corpus, lrw_store) -> dict[str, Path]:
    """Something small of every kind that commands read."""
    root = tmp_path_factory.mktemp("small")
    small_bundle(root / "stage_1")
    small_detector(root / "stage_2")
    speaking_store(root / "lrw")
    for dataset, methods in (("faceforensics", (*METHODS, "FaceShifter")), ("celebdf_v2", ("Celeb-synthesis",)),
                             ("celebdf_v1", ("Celeb-synthesis",)), ("dfdc", ("dfdc",)),
                             ("deeperforensics", ("end_to_end",)), ("unlabelled", ())):  # fmt: skip
        write_store(root / dataset, tracks(dataset, methods))
    for seed in (0, 1):
        trained(root / "sweep" / f"seed-{seed}", seed, 0.3)
    video = next((corpus / "faceforensics").rglob("*.mp4"))
    return {place.name: place for place in root.iterdir()} | {"corpus": corpus, "video": video,
                                                              "prepared": lrw_store.root}  # fmt: skip


def tracks(dataset: str, methods: tuple[str, ...]) -> list[Track]:
    """Nine people, of whom two are for validation and three for testing."""
    found = []
    for person in range(9):
        for number, method in enumerate(("real", *methods)):
            crops, _ = talking(10 * person + number, frames=29)
            if method != "real":
                crops[..., number % 3] //= 2
            found.append(Track(crops, None, {
                "id": f"{dataset}/{method}/{person:03d}.mp4", "dataset": dataset,
                "method": method if methods else "unknown", "label": int(method != "real") if methods else None,
                "split": ("train", "test", "val")[(person >= 4) + (person >= 7)], "identities": (f"{person:03d}",),
            }))  # fmt: skip
    return found


def prepared_for(command: Command, small: dict[str, Path], home: Path) -> list[str]:
    """The command's words with other inputs, and shorter."""
    program, *words = command.words
    if program == "python":
        module = words[words.index("-m") + 1]
        if module not in ("ssl_pretrain", "finetune"):
            return ["-m", module, "--help"]
        words = [module.removeprefix("ssl_"), *words[words.index("-m") + 2 :]]
    verb = words[0] if words else "--help"
    if "--help" in words or not verb.islower():
        return ["-m", "crosstalk", *words]
    if verb == "submit":  # no cluster here: up to the script
        return ["-m", "crosstalk", *words, "--dry-run"]
    words = [replaced(verb, word, words, small, home) for word in words]
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    other = "backbone" in settings  # one that has other arguments
    for key, value in (word.split("=", 1) for word in SHORT.get(verb, ())):
        if other and key.startswith("backbone."):
            continue
        if key not in settings or (value.isdecimal() and settings[key].isdecimal() and int(value) < int(settings[key])):
            settings[key] = value
    return ["-m", "crosstalk", *(word for word in words if "=" not in word),
            *(f"{key}={value}" for key, value in settings.items())]  # fmt: skip


def replaced(verb: str, word: str, words: list[str], small: dict[str, Path], home: Path) -> str:
    key, equals, value = word.partition("=")
    if verb == "detect":
        before = words[words.index(word) - 1]
        if before == "--model":
            return str(small["stage_2"])
        if before in ("--sound", "--lips"):
            return str(small["stage_1"])
        return str(small["video"]) if word != "detect" and not before.startswith("--") and word[0] != "-" else word
    if not equals:
        return word
    if value == "..." and key in ("run", "out"):
        return f"{key}=run-{abs(hash(tuple(words)))}"
    if verb == "doctor" and key == "folder":
        return f"folder={home}"
    if key == "root" and verb == "prepare":
        return f"root={root_of(words, small, home)}"
    if verb == "prepare" or (verb == "inspect" and (home / value).exists()):
        return word
    inputs: dict[str, Callable[[str], Path]] = {
        "store": lambda name: store_like(verb, name, small), "real_store": lambda name: small["lrw"],
        "model": lambda name: small["stage_2"], "ablation": lambda name: small["sweep"],
        "init": lambda name: small["stage_1"], "teacher": lambda name: small["stage_1"],
    }  # fmt: skip
    if key not in inputs or value in ("none", "null"):
        return word
    names = value.strip("[]").split(",")
    found = [str(inputs[key](name)) for name in names]
    return f"{key}={found[0] if len(found) == 1 else '[' + ','.join(dict.fromkeys(found)) + ']'}"


def store_like(verb: str, name: str, small: dict[str, Path]) -> Path:
    """By what the command calls it; to be inspected, one that says how it was prepared."""
    if verb == "inspect":
        return small["prepared"]
    if verb == "pretrain":
        return small["lrw"]
    kinds = {"celeb": "celebdf_v2", "dfdc": "dfdc", "deeper": "deeperforensics", "kaggle": "unlabelled", "lrw": "lrw"}
    for word, kind in kinds.items():
        if word in Path(name).name:
            return small[kind]
    return small["faceforensics"]


def root_of(words: list[str], small: dict[str, Path], home: Path) -> Path:
    """A data set in the exact form of the real one: the generated twin, or one that is made of its videos."""
    data = next(word for word in words if word.startswith("data=")).removeprefix("data=")
    if data in ("lrw", "faceforensics", "celebdf_v2"):
        return small["corpus"] / data
    forged = sorted((small["corpus"] / "faceforensics").rglob("manipulated_sequences/**/*.mp4"))[:2]
    real = sorted((small["corpus"] / "faceforensics").rglob("original_sequences/**/*.mp4"))[:2]
    root = home / f"root of {data}"
    if root.exists():
        return root
    if data == "celebdf_v1":
        return shutil.copytree(small["corpus"] / "celebdf_v2", root)
    if data == "dfdc":
        part = root / "dfdc_train_part_0"
        part.mkdir(parents=True)
        for name, video in zip("abcd", [*real, *forged], strict=True):
            shutil.copyfile(video, part / f"{name}.mp4")
        facts = {"a": "REAL", "b": "REAL", "c": "FAKE", "d": "FAKE"}
        (part / "metadata.json").write_text("{" + ", ".join(
            f'"{name}.mp4": {{"label": "{label}", "split": "train"'
            + (f', "original": "{"ab"["cd".index(name)]}.mp4"' if label == "FAKE" else "") + "}"
            for name, label in facts.items()) + "}")  # fmt: skip
        return root
    for folder, videos in (("real", real), ("fake", forged)):
        (root / folder).mkdir(parents=True)
        for video in videos:
            shutil.copyfile(video, root / folder / video.name)
    return root


@pytest.fixture(scope="session")
def homes(tmp_path_factory) -> Callable[[str], Path]:
    """A folder for each page, in which its commands follow one another."""
    made: dict[str, Path] = {}

    def home(page: str) -> Path:
        return made.setdefault(page, tmp_path_factory.mktemp(re.sub(r"\W", "_", page)))

    return home


@pytest.mark.parametrize("command", runnable(), ids=str)
def test_runs(command, small, homes):
    home = homes(command.where.split(":")[0])
    typed = prepared_for(command, small, home)
    done = subprocess.run([sys.executable, *typed], cwd=home, capture_output=True, text=True, timeout=300, check=False,
                          env={**os.environ, "PYTHONPATH": str(PROJECT)})  # fmt: skip
    verb = command.words[1] if len(command.words) > 1 else ""
    assert done.returncode in MAY_ANSWER.get(verb, (0,)), f"{command}\n{' '.join(typed)}\n{done.stderr[-2000:]}"


def test_what_is_only_read_is_shown_somewhere():
    """A line of ONLY_READ that no command needs is to go."""
    shown = [" ".join(command.words) for command in all_commands() if command.whole]
    for beginning in ONLY_READ:
        assert any(text.startswith(beginning) for text in shown), beginning

"""Imports run downward only, and what must run on a bare GPU machine needs nothing but torch."""

import ast
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
# A folder may import those it names. What is not listed here is not a part of the package.
FLOORS = {
    "engine": set(),
    "datasets": {"engine"},
    "backbones": set(),
    "ssl_pretrain": {"engine", "datasets", "backbones"},
    "evaluation": {"engine", "datasets", "backbones", "ssl_pretrain", "finetune"},
    "slurm": {"engine"},
    "finetune": {"engine", "datasets", "backbones"},
    "benchmarks": {"engine", "datasets", "backbones", "ssl_pretrain", "finetune", "evaluation"},
    "configs": set(),
}
OURS = {*FLOORS, "demo", "crosstalk", "tests"}
FILES = sorted(path for floor in FLOORS for path in (PROJECT / floor).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    return names_in(ast.parse(path.read_text()))


def names_in(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            for alias in node.names:  # `from package import module` imports the module
                inner = f"{node.module}.{alias.name}"
                names.add(inner if (PROJECT / inner.replace(".", "/")).with_suffix(".py").exists() else node.module)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_import_runs_upward(path):
    floor = path.relative_to(PROJECT).parts[0]
    tops = {name.split(".")[0] for name in imported(path)} & OURS
    assert tops <= FLOORS[floor] | {floor}


def test_no_folder_is_missing_here():
    packages = {path.parent.name for path in PROJECT.glob("*/__init__.py")}
    assert packages == {*FLOORS, "tests"}


def test_no_circle_among_modules():
    graph = {}
    for path in FILES:
        name = ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = imported(path)
    modules = set(graph)
    graph = {name: {other for other in found if other in modules and other != name} for name, found in graph.items()}
    done, active = set(), []

    def visit(name: str) -> None:
        assert name not in active, " -> ".join([*active[active.index(name):], name])
        if name in done:
            return
        active.append(name)
        for other in graph[name]:
            visit(other)
        active.pop()
        done.add(name)

    for name in graph:
        visit(name)


def test_every_folder_says_its_purpose_in_one_sentence():
    for floor in FLOORS:
        for init in (PROJECT / floor).rglob("__init__.py"):
            text = ast.get_docstring(ast.parse(init.read_text()))
            assert text and text.splitlines()[0].endswith("."), init


def needs(name: str) -> set[str]:
    """Packages that importing a module of ours brings in, those of its imports included; not what functions import."""
    waiting, ours, foreign = [name], set(), set()
    while waiting:
        name = waiting.pop()
        path = PROJECT / name.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if path in ours:
            continue
        ours.add(path)
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        found = names_in(ast.Module(top, []))
        waiting += [other for other in found if other.split(".")[0] in FLOORS]
        foreign |= {other.split(".")[0] for other in found if other.split(".")[0] not in FLOORS}
    return foreign - sys.stdlib_module_names


@pytest.mark.parametrize("name", ["backbones", "ssl_pretrain.model", "finetune.model", "engine.ema", "engine.optim"])
def test_networks_need_torch_alone(name):
    """So they run on a bare GPU machine."""
    assert needs(name) <= {"torch", "torchvision"}


def test_what_a_module_needs_is_found():
    assert {"torch", "hydra", "yaml"} <= needs("finetune.train") and "torch" in needs("datasets.views")


def test_views_need_torch_alone():
    foreign = {name.split(".")[0] for name in imported(PROJECT / "datasets" / "views.py")}
    standard = {"__future__", "dataclasses", "math", "collections", "typing", "functools"}
    assert foreign - standard <= {"torch", "torchvision", "torchaudio"}


def test_backbones_need_torch_alone():
    """And pytorchvideo only where one of its networks is made: its import stands inside a function."""
    standard = {"__future__", "collections", "contextlib", "difflib", "functools", "inspect", "typing"}
    for path in (PROJECT / "backbones").rglob("*.py"):
        foreign = {name.split(".")[0] for name in imported(path)} - standard - {"backbones"}
        assert foreign <= {"torch", "torchvision", "pytorchvideo"}, path
        top = ast.Module(body=[node for node in ast.parse(path.read_text()).body
                               if isinstance(node, ast.Import | ast.ImportFrom)], type_ignores=[])  # fmt: skip
        assert "pytorchvideo" not in ast.unparse(top), path


def test_catalogues_alone_know_file_layouts():
    """And what prepares knows nothing of training."""
    for path in (PROJECT / "datasets").glob("*.py"):
        if path.name not in ("prepare.py",):
            assert not any(name.startswith("datasets.catalogs") for name in imported(path)), path

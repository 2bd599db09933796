"""Every setting is explained where it is set, has a type, and is read by the code of its verb."""

import ast
import dataclasses
import importlib
import re
from pathlib import Path

import pytest
import yaml

from engine.configs import CONFIGS, brought, choices, defaults, groups, help_text, text_of, verbs
from engine.verbs import VERBS

PROJECT = Path(__file__).resolve().parents[2]
SCHEMAS = {
    "prepare": ("datasets.prepare", "PrepareSettings"),
    "inspect": ("datasets.inspection", "InspectSettings"),
    "synthesize": ("datasets.synthetic.command", "SynthesizeSettings"),
    "demo": ("demo", "DemoSettings"),
    "benchmark": ("evaluation.settings", "BenchmarkSettings"),
    "import": ("evaluation.published", "ImportSettings"),
    "finetune": ("finetune.settings", "FinetuneSettings"),
    "pretrain": ("ssl_pretrain.settings", "PretrainSettings"),
    "submit": ("slurm.settings", "SubmitSettings"),
    "jobs": ("slurm.jobs", "JobsSettings"),
    "serve": ("evaluation.serve.settings", "ServeSettings"),
    "doctor": ("doctor", "DoctorSettings"),
}
FILLS_IN = {"data", "experiment", "cluster"}  # groups that set keys of other names


def fields(verb: str) -> set[str]:
    module, name = SCHEMAS[verb]
    return {field.name for field in dataclasses.fields(getattr(importlib.import_module(module), name))}


def test_every_verb_but_two_has_settings():
    assert set(verbs()) == set(SCHEMAS) == set(VERBS) - {"detect", "completion"}


@pytest.mark.parametrize("verb", SCHEMAS)
def test_yaml_and_dataclass_have_the_same_keys(verb):
    assert {*defaults(verb), *groups(verb)} - FILLS_IN | {"data"} & {*defaults(verb)} == fields(verb)


def unexplained(text: str) -> set[str]:
    """Keys with no comment on their line, right above it, or in their paragraph by name."""
    found = set()
    for paragraph in re.split(r"\n\s*\n", text):
        comments = " ".join(re.findall(r"#(.*)", paragraph))
        above = ""
        for line in paragraph.splitlines():
            key = re.match(r"([a-z_]+):", line)
            told = key and ("#" in line or above.startswith("#") or re.search(rf"\b{key[1]}\b", comments))
            if key and not told and key[1] != "defaults":
                found.add(key[1])
            above = line
    return found


def test_what_is_unexplained_is_found():
    text = ("# head\n\n# one: the first\none: 1\ntwo: 2\n\nthree: 3  # the third\nfour:\n  five: 5\n\n"
            "# a, b\na: 0\nb: 0\nc: 0\n")  # fmt: skip
    assert unexplained(text) == {"two", "four", "c"}


@pytest.mark.parametrize("verb", SCHEMAS)
def test_every_key_is_explained(verb):
    assert not unexplained(text_of(verb))


@pytest.mark.parametrize("verb", SCHEMAS)
def test_help_teaches(verb):
    """What it is for, two commands to begin with, and every key."""
    text = help_text(verb)
    purpose = text.splitlines()[2]
    assert purpose.startswith("# ") and "crosstalk" not in purpose
    assert len(re.findall(rf"^#   crosstalk {verb}\b", text, re.MULTILINE)) >= 2
    assert all(re.search(rf"^{key}:|{key}=NAME", text, re.MULTILINE) for key in fields(verb))


def reads(paths: list[Path]) -> set[str]:
    """Names that are read from something: settings.NAME; checks of values when settings are made do not count, nor do
    the names that such a check has in quotes."""
    found = set()
    for path in paths:
        tree = ast.parse(path.read_text())
        checks = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "__post_init__"]
        left_out = {id(inner) for check in checks for inner in ast.walk(check)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in left_out:
                found.add(node.attr)
            elif (isinstance(node, ast.For | ast.ListComp | ast.GeneratorExp)
                  and "getattr(settings, " in ast.unparse(node)):  # fmt: skip
                found |= {inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant)}
            elif isinstance(node, ast.keyword) and node.arg is None:  # f(**asdict(settings)): all of them are
                found |= {"**" + inner.func.id for inner in ast.walk(node.value)
                          if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name)}  # fmt: skip
    return found


@pytest.mark.parametrize("verb", SCHEMAS)
def test_every_setting_is_read(verb):
    place = PROJECT / VERBS[verb][0].split(".")[0]
    found = reads(sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")])
    # `synthesize` hands its settings on as arguments, all of them.
    unread = set() if verb == "synthesize" and "**asdict" in found else fields(verb) - found
    assert not unread


@pytest.mark.parametrize("verb", [verb for verb in SCHEMAS if groups(verb)])
def test_choices_set_what_the_verb_knows(verb):
    for group in groups(verb):
        for name in choices(group):
            extra = set(brought(group, name)) - fields(verb)
            assert group == "data" or group == "experiment" or not extra, (group, name, extra)


def test_every_experiment_is_for_a_verb_whose_keys_it_sets():
    for name in choices("experiment"):
        assert any(set(brought("experiment", name)) <= fields(verb) for verb in verbs()
                   if "experiment" in groups(verb)), name  # fmt: skip


def test_no_yaml_is_left_over():
    used = {group for verb in verbs() for group in groups(verb)}
    assert {path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name != "__pycache__"} == used
    for path in CONFIGS.rglob("*.yaml"):
        assert yaml.safe_load(path.read_text()), path

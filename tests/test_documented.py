"""What README and docs show exists: commands, settings, targets, modules, files, links. `make docs-check` runs it."""

import ast
import importlib
import importlib.util
import re

import pytest
import yaml

from engine.configs import brought, choices, groups, known_keys, verbs
from engine.errors import Shown, UserError
from engine.verbs import VERBS, main_of
from tests.documented import PAGES, PROJECT, Command, all_commands, command, of_settings

COMMANDS = all_commands()
# Files that docs tell the reader to write.
YOURS = {"configs/backbone/frame_average.yaml", "configs/cluster/ours.yaml", "configs/data/NAME.yaml",
         "configs/data/mydata.yaml"}  # fmt: skip
TARGETS = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("shown", COMMANDS, ids=str)
def test_what_is_shown_can_be_typed(shown, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    check(shown)


def check(shown: Command) -> None:
    program, *arguments = shown.words
    if program == "make":
        wrong = {word for word in arguments if "=" not in word} - TARGETS
        assert not wrong, f"{shown}: the Makefile has no target {', '.join(wrong)}"
    elif program == "crosstalk":
        check_verb(shown, *arguments)
    elif program in ("python", "torchrun"):
        module, *arguments = arguments[arguments.index("-m") + 1 :]
        assert importlib.util.find_spec(module), f"{shown}: no module {module}"
        if module in ("ssl_pretrain", "finetune"):
            check_verb(shown, module.removeprefix("ssl_"), *arguments)
        else:
            source = (PROJECT / (module.replace(".", "/") + ".py")).read_text()
            for flag in (word.split("=")[0] for word in arguments if word.startswith("--")):
                assert f'"{flag}"' in source, f"{shown}: {module} has no {flag}"
    else:
        raise AssertionError(f"{shown}: what is {program}?")


def check_verb(shown: Command, verb: str = "--help", *arguments: str) -> None:
    if verb in ("--help", "--version"):
        return
    main = main_of(verb)
    if "--help" in arguments:
        with pytest.raises(Shown):
            main(arguments)
    elif not shown.whole:
        check_keys(shown, verb, arguments)
    elif verb == "detect":
        importlib.import_module("evaluation.verdict.flags").parser().parsed(arguments)
    elif verb == "completion":
        assert main(arguments) == 0
    elif verb == "submit":
        assert main([*arguments, "--dry-run"]) == 0
    else:
        with pytest.raises(Shown):
            main([*arguments, "--check"])


def check_keys(shown: Command, verb: str, arguments: tuple[str, ...]) -> None:
    """Of a command that is not shown as a whole: settings by their names, and choices if they are named."""
    flags = [word for word in arguments if word.startswith("--")]
    if verb == "detect":
        known = {flag for action in importlib.import_module("evaluation.verdict.flags").parser()._actions
                 for flag in action.option_strings}  # fmt: skip
        assert {flag.split("=")[0] for flag in flags} <= known, shown
        return
    several = [verb, *(word for word in arguments if word in VERBS)] if verb == "submit" else [verb]
    of = [one for one in several if one in verbs()]
    chosen = {group: choices(group) for one in of for group in groups(one)}
    known = {key for one in of for key in known_keys(one)}
    known |= {key for group, names in chosen.items() for name in names for key in brought(group, name)}
    for key, _, value in (word.partition("=") for word in arguments if "=" in word):
        key = key.lstrip("+~").split(".")[0]
        assert key in known, f"{shown}: {verb} has no setting {key}"
        if key in chosen and value and value.islower():
            assert value in chosen[key], f"{shown}: there is no {key}={value}"
    assert set(flags) <= {"--cfg", "--check", "--dry-run"}, shown


def test_all_kinds_of_places_are_looked_at():
    places = {shown.where.split(":")[0] for shown in COMMANDS}
    assert {"README.md", "docs/cluster.md", "configs/finetune.yaml", "configs/protocol/robustness.yaml"} <= places
    assert {shown.words[1] for shown in COMMANDS if shown.whole and len(shown.words) > 1} >= set(VERBS) - {
        "detect", "completion"}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), [
    ("crosstalk perpare data=lrw", "did you mean prepare?"),
    ("crosstalk prepare data=lrw root=/x stor=/y", "did you mean store?"),
    ("crosstalk prepare data=lwr root=/x store=/y", "unknown data=lwr"),
    ("crosstalk finetune ... ssl_wieght=0", "finetune has no setting ssl_wieght"),
    ("crosstalk finetune ... experiment=no_such", "there is no experiment=no_such"),
    ("crosstalk submit pretrain store=s run=r epoch=3", "did you mean epochs?"),
    ("crosstalk detect a.mp4 --modle b", "did you mean --model?"),
    ("make tset", "no target tset"),
    ("python -m benchmarks.no_such", "no module benchmarks.no_such"),
    ("python -m benchmarks.loader --no-such", "has no --no-such"),
    ("python -m finetune init=none store=s run=r batsh=3", "did you mean batch?"),
    ("frobnicate", "what is frobnicate?"),
])
def test_what_is_wrong_is_found(text, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UserError, AssertionError)) as caught:
        check(command("here:1", text, whole=" ... " not in text))
    assert said in str(caught.value)


def test_commands_are_read_as_a_shell_reads_them(tmp_path):
    assert command("x:1", "A=1 crosstalk jobs runs/a   # what became of it").words == ("crosstalk", "jobs", "runs/a")
    assert command("x:1", "crosstalk jobs ... a=1 | head") == Command("x:1", ("crosstalk", "jobs", "a=1"), False)
    assert command("x:1", "crosstalk synthesize out=D [seed=0 words=1]").words[2:] == ("out=D", "seed=0", "words=1")
    assert command("x:1", "crosstalk finetune store=[a,b]").words[2:] == ("store=[a,b]",)
    (shown,) = (one for one in of_settings(PROJECT / "configs/finetune.yaml") if "finetune_small" in str(one))
    assert shown.words[-1] == "experiment=finetune_small"  # and not what is said about it


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_are_there(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        place = page.parent / path if path else page
        assert place.exists(), f"{page.name} links to {path}, which is not there"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", place.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    tops = "|".join(path.parent.name for path in PROJECT.glob("*/__init__.py"))
    for name in re.findall(rf"`((?:{tops}|docs)/[\w./-]+\.(?:py|yaml|md|sh|j2))`", text):
        assert (PROJECT / name).exists() or name in YOURS, f"{page.name} names {name}, which is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_and_settings_that_are_shown_can_be_read(page):
    """Python: it compiles, and what it imports of ours is there. YAML: it is some."""
    for language, text in re.findall(r"```(python|yaml)\n(.*?)```", page.read_text(), re.DOTALL):
        if language == "yaml":
            yaml.safe_load(text)
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (PROJECT / node.module.split(".")[0]).exists():
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}")

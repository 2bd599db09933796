"""A command line leads to typed settings or to one line that helps."""

import dataclasses
import typing
from pathlib import Path

import pytest
import yaml

from datasets import catalogs
from datasets.prepare import PrepareSettings
from engine.errors import Shown, UserError
from engine.settings import load


@pytest.mark.parametrize("name", catalogs.available())
def test_every_dataset_config_composes(name):
    settings, options = load("prepare", [f"data={name}", "root=/data", "store=/store"], PrepareSettings)
    assert settings.data == name and set(options) == set(catalogs.options(name))
    assert settings.sound == ("required" if name == "lrw" else "optional")


@pytest.mark.parametrize("path", ["/my data", "/a,b", "/[x]", "/it's", '/say "hi"', "/a=b", "/back\\slash", "/{}",
                                  "/end\\", "/한국어", "/$HOME", "/new\nline", "null/x", "/(x)", "/a:b", "/#2", "/~x",
                                  "/%"])
def test_paths_are_taken_as_they_are(path):
    settings, _ = load("prepare", ["data=folder", f"root={path}", "store=s"], PrepareSettings)
    assert settings.root == Path(path)


@pytest.mark.parametrize(("arguments", "said"), [
    (["dta=lrw"], "unknown setting dta; did you mean data?"),
    (["data=lwr"], "unknown data=lwr; did you mean lrw? known are celebdf_v1,"),
    (["data=lrw", "compression=c40"], "setting compression is unknown here; it belongs to data=faceforensics"),
    (["data=lrw", "root=/x", "store=/y", "workers=two"], "workers=two: expected a whole number"),
    (["data=lrw", "root=/x", "store=/y", "join=perhaps"], "join=perhaps: expected true or false"),
    (["data=lrw", "root=/x", "store=/y", "search_every=null"], "search_every=null: expected a whole number"),
    (["data=lrw", "root=/x", "store=/y", "tracks=mian"], "tracks=mian: did you mean main? known are main, all"),
    (["lrw"], "'lrw' is no setting; expected key=value, see: crosstalk prepare --help"),
    (["--workers", "2"], "unknown option --workers; settings are given as key=value"),
    (["workers=["], "values with spaces, commas or brackets need quotes"),
])
def test_mistakes_are_one_helpful_line(arguments, said):
    with pytest.raises(UserError) as caught:
        load("prepare", arguments, PrepareSettings)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def shown(arguments: list[str]) -> str:
    with pytest.raises(Shown) as caught:
        load("prepare", arguments, PrepareSettings)
    return str(caught.value)


def test_help_teaches_every_key_and_every_choice():
    text = shown(["--help"])
    assert "defaults:" not in text
    for field in dataclasses.fields(PrepareSettings):
        assert f"{field.name}:" in text
    for name in catalogs.available():
        assert name in text
    assert "ROOT/original_sequences" in shown(["data=faceforensics", "--help"])


def test_cfg_job_shows_the_settings_a_command_line_leads_to():
    values = yaml.safe_load(shown(["data=lrw", "root=/x", "workers=3", "--cfg", "job"]))
    assert values["workers"] == 3 and values["subset"] == 5000 and values["sound"] == "required"
    assert set(values) >= set(typing.get_type_hints(PrepareSettings))

"""Backbones by name: what is known is listed, what is not is said, and nothing is loaded that is not needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from backbones import UnknownBackbone, arguments, available, create, register, registry

FOLDER = Path(registry.__file__).parent


def test_available_lists_each_kind():
    assert available() == available("video") == ["cnn_gru_attention", "cnn_lstm", "csn_r101"]
    assert available("audio") == ["audio_resnet18"]
    with pytest.raises(ValueError, match="kind must be one of video, audio, not 'sound'"):
        available("sound")


@pytest.mark.parametrize("ask", [create, arguments])
def test_unknown_name_lists_the_known(ask):
    with pytest.raises(UnknownBackbone) as caught:
        ask("cnn_gru_atention")
    message = str(caught.value)
    assert "no backbone 'cnn_gru_atention' (did you mean cnn_gru_attention?)" in message and "\n" not in message
    for name in (*available(), *available("audio")):
        assert name in message


def test_unknown_argument_lists_the_known():
    with pytest.raises(UnknownBackbone) as caught:
        create("csn_r101", widht=4)
    assert str(caught.value) == ("backbone csn_r101 has no argument 'widht' (did you mean width?); "
                                 "it has depths, width, stem_stride, time_padding")  # fmt: skip


@pytest.mark.parametrize("name", [*available(), *available("audio")])
def test_unknown_time_padding_is_refused(name):
    with pytest.raises(ValueError, match="time_padding must be one of zeros, replicate, not 'reflect'"):
        create(name, time_padding="reflect")


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="there is a backbone cnn_lstm already"):
        register("cnn_lstm")(nn.Identity)
    with pytest.raises(ValueError, match="kind must be one of"):
        register("other", kind="smell")
    assert "other" not in available()


def test_every_file_that_registers_is_imported_by_the_package():
    package = {a.name for node in ast.walk(ast.parse((FOLDER / "__init__.py").read_text()))
               if isinstance(node, ast.ImportFrom) and node.module == "backbones" for a in node.names}  # fmt: skip
    registering = {path.stem for path in FOLDER.glob("*.py") if "\n@register(" in path.read_text()}
    assert registering and registering == package


def test_import_needs_torch_alone():
    """pytorchvideo comes with the first network made of it, and nothing of ours ever."""
    code = (
        "import sys, backbones; loaded = lambda: {name.split('.')[0] for name in sys.modules};"
        "unwanted = {'pytorchvideo', 'fvcore', 'timm', 'hydra', 'omegaconf', 'engine', 'datasets'};"
        "backbones.create('cnn_gru_attention', channels=[2], pools=[2], hidden=2, dim=2, input_size=8);"
        "print(*sorted(loaded() & unwanted), '|');"
        "backbones.create('csn_r101', depths=[1, 1, 1, 1], width=4); print('pytorchvideo' in loaded())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=FOLDER.parent, check=True)
    assert done.stdout.split() == ["|", "True"]

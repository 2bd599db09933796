"""The audio network's steps are the video's frames, in order and in time."""

import pytest
import torch
import torchvision
from torch import nn

from backbones import create


def network(**more) -> nn.Module:
    torch.manual_seed(0)
    return create("audio_resnet18", **{"width": 8, **more}).eval()


def test_time_axis_at_full_size():
    seen = []
    backbone = create("audio_resnet18").eval()
    for name in ("conv1", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        backbone.get_submodule(name).register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape[1:])))
    with torch.no_grad():
        assert backbone(torch.randn(1, 1, 100, 80)).shape == (1, 25, 512)
    assert seen == [(64, 50, 40), (64, 25, 20), (64, 25, 20), (128, 25, 10), (256, 25, 5), (512, 25, 3)]


def test_a_shift_by_four_audio_frames_is_a_shift_by_one_step():
    backbone, sound = network(), torch.randn(1, 1, 404, 80)
    with torch.no_grad():
        early, late = backbone(sound[:, :, :400]), backbone(sound[:, :, 4:])
    # Edges reach 18 steps far: 5 audio frames by stem and pool, 16 convolutions of one step each.
    torch.testing.assert_close(late[:, 18:80], early[:, 19:81], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(late[:, 18:80], early[:, 18:80], atol=1e-2)


def test_each_step_looks_at_its_own_four_audio_frames():
    backbone, sound = network(), torch.randn(8, 1, 100, 80, requires_grad=True)
    places = torch.arange(100.0)
    features = backbone(sound)
    for step in range(5, 20):
        probe = torch.randn(8, 64, generator=torch.Generator().manual_seed(step))
        (gradient,) = torch.autograd.grad((features[:, step] * probe).sum(), sound, retain_graph=True)
        weight = gradient.square().sum(dim=(0, 1, 3))
        centre = (places * weight).sum() / weight.sum()
        assert 4 * step - 2.5 < centre < 4 * step + 5.5  # frames 4 t .. 4 t + 3, by a little more than half of one


def test_no_step_reaches_further_than_its_convolutions():
    backbone, sound = network(), torch.randn(1, 1, 400, 80, requires_grad=True)
    (gradient,) = torch.autograd.grad(backbone(sound)[0, 50].sum(), sound)
    touched = gradient.abs().amax(dim=(0, 1, 3)).nonzero()[:, 0]
    assert 200 - 69 <= touched.min() < 200 - 20 and 200 + 20 < touched.max() <= 200 + 69


def test_with_square_strides_it_is_torchvisions_resnet():
    """Same blocks, names and order: with torchvision's strides and one channel the numbers are torchvision's."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18().eval()
    theirs.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    ours = create("audio_resnet18").eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}, strict=True)
    for index in (2, 3, 4):
        first = ours.get_submodule(f"layer{index}")[0]
        assert first.conv1.stride == first.downsample[0].stride == (1, 2)
        first.conv1.stride = first.downsample[0].stride = (2, 2)
    sound = torch.randn(2, 1, 64, 96)
    expected = {}
    theirs.layer4.register_forward_hook(lambda module, args, out: expected.update(maps=out))
    with torch.no_grad():
        theirs(sound)
        torch.testing.assert_close(ours(sound), expected["maps"].mean(dim=3).transpose(1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 100, 80), (1, 2, 100, 80), (1, 1, 101, 80)])
def test_other_shapes_are_refused_in_words(shape):
    with pytest.raises(ValueError, match=r"expected log-mels \(B, 1, A, M\) with 4 audio frames per video frame"):
        network()(torch.zeros(shape))


@pytest.mark.parametrize("depths", [(), (1, 0, 1)])
def test_impossible_depths_are_refused(depths):
    with pytest.raises(ValueError, match="depths must be the blocks of each stage"):
        network(depths=depths)

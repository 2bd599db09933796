"""Heat maps: against small changes of single cells, along the gradients, and of a spot drawn in a frame."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from backbones import available, create
from datasets.faces import STABLE_POINTS, crop, place
from datasets.views import ViewSettings, evaluation_view
from evaluation.verdict.drawing import with_heat
from evaluation.verdict.heat import cell_heat, heat, laid_out, temporal_attention
from finetune.model import Detector

SMALL = {
    "cnn_gru_attention": {"channels": [4, 8], "pools": [2, 2], "hidden": 8, "dim": 16, "input_size": 56},
    "cnn_lstm": {"channels": [4, 8, 8], "pools": [1, 2, 2], "hidden": 8, "dim": 16, "input_size": 112,
                 "stem_stride": 4},
    "csn_r101": {"depths": [1, 1, 1, 1], "width": 4},
}  # fmt: skip


def small(name, seed=0):
    torch.manual_seed(seed)
    network = Detector(create(name, **SMALL[name])).requires_grad_(False).eval()
    return SimpleNamespace(network=network, views=ViewSettings(size=SMALL[name].get("input_size", 112)))


def noise(frames=25, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, 150, 150, 3), np.uint8)


@pytest.mark.parametrize("name", available())
def test_any_backbone_has_a_map_as_large_as_the_crops(name):
    model, crops = small(name), noise()
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    with torch.inference_mode():  # as `judge` is
        found = heat(model, crops)
    assert found.shape == (25, 150, 150) and found.dtype == np.float32 and found.min() == 0
    assert 0.9 < found.max() <= 1, "the hottest cell is 1; a pixel may lie a little beside its centre"
    assert not found[:, :5].any() and not found[:, :, -5:].any(), "what the network does not see"
    assert all(value.equal(before[key]) for key, value in model.network.state_dict().items())
    assert not any(weight.requires_grad or weight.grad is not None for weight in model.network.parameters())


@pytest.mark.parametrize("name", available())
def test_a_cell_is_as_hot_as_the_logit_hangs_on_it(name):
    """A fiftieth more of all that a cell says: the logit rises by a fiftieth of its heat; a cold one raises none."""
    model, crops = small(name, seed=1), noise(frames=5, seed=1)
    found = cell_heat(model, crops)
    clip = evaluation_view(model.views, torch.from_numpy(crops)[None])[0]
    layer = model.network.backbone.get_submodule(model.network.backbone.spatial_layer)
    order = np.argsort(found.ravel())

    def rise(cell):
        logits = []
        for factor in (1.02, 0.98):
            scale = torch.ones(1, 1, *found.shape)
            scale[0, 0, *np.unravel_index(cell, found.shape)] = factor
            handle = layer.register_forward_hook(lambda *args, scale=scale: args[-1] * scale)
            with torch.no_grad():
                logits.append(model.network(clip).item())
            handle.remove()
        return (logits[0] - logits[1]) / 0.04

    for cell in order[-5:]:
        assert found.ravel()[cell] > 0.01 and rise(cell) == pytest.approx(found.ravel()[cell], rel=0.03, abs=1e-3)
    cold = [rise(cell) for cell in order[:5]]
    assert max(cold) < 1e-3 and not found.ravel()[order[:5]].any()


def test_of_a_network_that_averages_its_map_it_is_grad_cam():
    model, crops = small("csn_r101", seed=4), noise(seed=4)
    clip = evaluation_view(model.views, torch.from_numpy(crops)[None])[0].requires_grad_()
    seen = []
    handle = model.network.backbone.blocks[4].register_forward_hook(lambda *args: seen.append(args[-1]))
    logit = model.network(clip)
    handle.remove()
    (gradient,) = torch.autograd.grad(logit, seen[0])
    expected = torch.einsum("c,cthw->thw", gradient[0].mean(dim=(1, 2, 3)), seen[0][0].detach()).clamp(min=0)
    np.testing.assert_allclose(cell_heat(model, crops), expected.numpy(), atol=1e-4 * float(expected.max()))


def test_what_speaks_for_real_is_cold():
    model, crops = small("cnn_gru_attention", seed=2), noise(seed=2)
    for_forged = cell_heat(model, crops)
    with torch.no_grad():
        model.network.classifier.weight.neg_()
    for_real = cell_heat(model, crops)
    assert for_forged.max() > 0 and for_real.max() > 0
    assert not ((for_forged > 0) & (for_real > 0)).any(), "nothing speaks for both"
    with torch.no_grad():
        model.network.classifier.weight.zero_()
    assert not heat(model, crops).any(), "nothing speaks for anything"


@pytest.mark.parametrize("name", available())
def test_cells_are_laid_where_their_gradients_come_from(name):
    """The middle of what moves a cell, over noise; not for those at the edge, whose field the edge cuts off."""
    model = small(name, seed=3)
    backbone, size = model.network.backbone, model.views.size
    seen = []
    backbone.get_submodule(backbone.spatial_layer).register_forward_hook(lambda *args: seen.append(args[-1]))
    clip = torch.randn(8, 3, 4, size, size, generator=torch.Generator().manual_seed(3), requires_grad=True)
    backbone(clip)
    cells = seen[0].shape[-1]
    to_crop = (np.arange(size) + 0.5) * model.views.crop / size - 0.5 + 5
    for cell in range(1, cells - 1):
        (gradient,) = torch.autograd.grad(seen[0][..., cell].abs().sum(), clip, retain_graph=True)
        profile = gradient.abs().sum(dim=(0, 1, 2, 3)).numpy()
        alone = np.zeros((1, cells, cells), np.float32)
        alone[0, :, cell] = 1
        laid = laid_out(alone, backbone, model.views, 150)[0, 75]
        middle = np.average(np.arange(150), weights=laid)
        assert middle == pytest.approx(np.average(to_crop, weights=profile), abs=2.5)
    assert cells > 2


class Brightness(nn.Module):
    """A backbone whose last map is how bright each patch of four pixels is, in two steps of time for four frames."""

    spatial_layer, dim = "patches", 1

    def __init__(self):
        super().__init__()
        self.patches = nn.Sequential(nn.AvgPool3d((2, 4, 4)), nn.Threshold(0.0, 0.0))

    def forward(self, video):
        maps = self.patches(video.mean(dim=1, keepdim=True))
        return maps.mean(dim=(3, 4)).transpose(1, 2)


@pytest.fixture
def blob():
    """A bright spot in the third and fourth of four dark frames, and where a tilted face of another size lies there."""
    at = 260 + 205j  # point of the frames
    y, x = np.mgrid[:480, :640]
    spot = 250 * np.exp(-((x - at.real) ** 2 + (y - at.imag) ** 2) / (2 * 9**2))
    frames = np.zeros((4, 480, 640, 3), np.uint8)
    frames[2:] = spot[..., None]
    face = np.full((68, 2), 128.0)
    for number, point in STABLE_POINTS.items():
        face[number] = point
    turned = (face[:, 0] + 1j * face[:, 1] - (128 + 128j)) * 1.4 * np.exp(0.3j) + (280 + 230j)
    return at, frames, np.stack([turned.real, turned.imag], axis=1)


def centre(weights):
    y, x = np.mgrid[: weights.shape[0], : weights.shape[1]]
    return complex(np.average(x, weights=weights), np.average(y, weights=weights))


def test_heat_of_a_spot_lies_on_the_spot_in_crop_and_frame(blob):
    at, frames, landmarks = blob
    network = Detector(Brightness()).requires_grad_(False).eval()
    network.classifier = nn.Sequential(nn.Flatten(0))  # the brighter, the more forged
    model = SimpleNamespace(network=network, views=ViewSettings())
    network.classifier.weight = torch.zeros(1)
    crops = np.stack([crop(frame, landmarks) for frame in frames])
    found = heat(model, crops)
    assert found.shape == (4, 150, 150) and not found[0].any() and found[3].max() == pytest.approx(1, abs=0.1)
    origin, step = place(landmarks)
    assert abs(origin + step * centre(found[3]) - at) < 1, "on the frame, within a pixel of it"
    drawn = with_heat(frames[0], found[3], origin, step).sum(axis=-1)
    assert abs(centre(drawn) - at) < 1
    on_crop = with_heat(np.zeros_like(crops[0]), found[3], 0, 1).sum(axis=-1)
    assert abs(centre(on_crop) - (at - origin) / step) < 1


def test_temporal_attention_is_how_much_frames_look_at_each():
    model, crops = small("cnn_gru_attention"), noise(frames=7)
    clip = evaluation_view(model.views, torch.from_numpy(crops)[None])[0]
    with torch.no_grad():
        weights = model.network.backbone.forward_with_attention(clip)[1][0]
    expected = [sum(weights[i, j].item() for i in range(7)) / 7 for j in range(7)]
    found = temporal_attention(model, crops)
    assert found.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert temporal_attention(small("cnn_lstm"), crops) is None

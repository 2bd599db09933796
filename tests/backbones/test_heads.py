"""The heads against compositions of torch's own modules and sums by hand."""

import math

import pytest
import torch
from torch import nn

from backbones.heads import CosineClassifier, Predictor, Projector, TransformerBlock


def shake_norms(module: nn.Module) -> None:
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.LayerNorm):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)


def test_projector_is_a_1x1_convolution_and_batchnorm_over_batch_and_time():
    torch.manual_seed(0)
    projector = Projector(12, 8).train()
    shake_norms(projector)
    features = torch.randn(3, 5, 12) + torch.arange(5.0).view(1, 5, 1)
    convolution = nn.Conv1d(12, 8, kernel_size=1)
    convolution.weight.data, convolution.bias.data = projector.linear.weight.data[..., None], projector.linear.bias.data
    mapped = convolution(features.transpose(1, 2)).transpose(1, 2)  # (3, 5, 8)
    every_frame = torch.stack([mapped[b, t] for b in range(3) for t in range(5)])
    mean, variance = every_frame.mean(dim=0), every_frame.var(dim=0, unbiased=False)
    expected = (mapped - mean) / (variance + 1e-5).sqrt() * projector.norm.weight + projector.norm.bias
    torch.testing.assert_close(projector(features), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(projector.norm.running_mean, 0.1 * mean)
    torch.testing.assert_close(projector.norm.running_var, 0.9 + 0.1 * every_frame.var(dim=0))


def reference_block(block: TransformerBlock, x: torch.Tensor) -> torch.Tensor:
    """Out of nn.MultiheadAttention, nn.LayerNorm and nn.BatchNorm1d on (B, K, T), with the block's weights."""
    width, inner = block.attention.output.weight.shape
    assert width == inner  # what MultiheadAttention requires
    attention = nn.MultiheadAttention(width, block.attention.heads, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight.copy_(block.attention.qkv.weight)
        attention.in_proj_bias.zero_()
        attention.out_proj.weight.copy_(block.attention.output.weight)
        attention.out_proj.bias.copy_(block.attention.output.bias)
    first, second = nn.LayerNorm(width), nn.BatchNorm1d(width)
    first.load_state_dict(block.attention_norm.state_dict())
    second.load_state_dict(block.mlp_norm.state_dict())
    second.train(block.training)
    inside = block.mlp_in.out_features
    mlp = nn.Sequential(nn.Linear(width, inside), nn.GELU(), nn.Linear(inside, width))
    mlp[0].load_state_dict(block.mlp_in.state_dict())
    mlp[2].load_state_dict(block.mlp_out.state_dict())
    normed = first(x)
    x = x + attention(normed, normed, normed, need_weights=False)[0]
    return x + mlp(second(x.transpose(1, 2)).transpose(1, 2))


@pytest.mark.parametrize("training", [True, False])
def test_predictor_is_the_composition_it_claims_to_be(training):
    torch.manual_seed(0)
    predictor = Predictor(dim=12, width=32, heads=4, head_width=8, mlp=48)
    shake_norms(predictor)
    predictor(torch.randn(4, 5, 12))  # running statistics of their own
    predictor.train(training)
    x = torch.randn(3, 6, 12)
    last = nn.BatchNorm1d(32)
    last.load_state_dict(predictor.norm.state_dict())
    last.train(training)
    hidden = reference_block(predictor.block, nn.functional.linear(x, predictor.input.weight, predictor.input.bias))
    expected = predictor.output(last(hidden.transpose(1, 2)).transpose(1, 2))
    torch.testing.assert_close(predictor(x), expected, rtol=1e-4, atol=1e-5)


def test_predictor_at_full_size_knows_no_order():
    torch.manual_seed(0)
    predictor, x, order = Predictor().eval(), torch.randn(2, 25, 256), torch.randperm(25)
    with torch.no_grad():
        assert predictor(x).shape == (2, 25, 256)
        torch.testing.assert_close(predictor(x[:, order]), predictor(x)[:, order], rtol=1e-4, atol=1e-5)
        changed = x.clone()
        changed[0, 3] += 5
        moved = (predictor(changed) - predictor(x)).abs().amax(dim=2)
    assert (moved[0] > 1e-4).all() and moved[1].max() == 0  # every frame of its clip, none of the other's
    assert predictor.block.attention.heads == 8 and predictor.block.attention.qkv.out_features == 3 * 8 * 64


def test_classifier_by_hand():
    torch.manual_seed(0)
    classifier = CosineClassifier(6)
    feature = 10 * torch.randn(4, 6)
    logits = classifier(feature)
    weight = classifier.weight[0].tolist()
    for row, logit in zip(feature.tolist(), logits.tolist(), strict=True):
        dot = sum(a * b for a, b in zip(row, weight, strict=True))
        cosine = dot / math.sqrt(sum(a * a for a in row)) / math.sqrt(sum(b * b for b in weight))
        assert logit == pytest.approx(64 * cosine, rel=1e-5, abs=1e-5)
    torch.testing.assert_close(classifier(3 * feature), logits)
    assert [name for name, _ in classifier.named_parameters()] == ["weight"]


def test_classifier_keeps_its_precision_under_autocast():
    torch.manual_seed(0)
    classifier, feature = CosineClassifier(2048), torch.randn(16, 2048)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = classifier(feature)
        # The features' own rounding is all that bfloat16 may cost.
        half = feature.bfloat16()
        torch.testing.assert_close(classifier(half), classifier(half.float()), rtol=1e-6, atol=1e-6)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, classifier(feature), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("build", [lambda: Projector(12, 8), lambda: Predictor(12, 32, 4, 8, 48)])
def test_heads_survive_the_conversion_to_synchronised_batchnorm(build):
    torch.manual_seed(0)
    head, x = build(), torch.randn(3, 5, 12)
    shake_norms(head)
    head(x)
    expected = head.eval()(x)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(head).eval()
    assert any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())
    torch.testing.assert_close(converted(x), expected)


@pytest.mark.parametrize("build", [lambda: Projector(12, 8), lambda: Predictor(12, 32, 4, 8, 48)])
def test_gradient_reaches_every_parameter_and_compile_gives_the_same(build):
    torch.manual_seed(0)
    head, x = build(), torch.randn(3, 5, 12)
    out = head(x)
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in head.named_parameters():
        # A constant before a BatchNorm in training is subtracted again: the projector's bias can only drift by decay.
        if name == "linear.bias":
            assert parameter.grad.abs().max() < 1e-4
        else:
            assert parameter.grad.abs().max() > 1e-7, name
    head.eval()
    compiled = torch.compile(head, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), head(x))


def test_names_of_weights_are_stable():
    assert list(Projector(12).state_dict())[:4] == ["linear.weight", "linear.bias", "norm.weight", "norm.bias"]
    assert list(dict.fromkeys(key.rpartition(".")[0] for key in Predictor().state_dict())) == [
        "input", "block.attention_norm", "block.attention.qkv", "block.attention.output", "block.mlp_norm",
        "block.mlp_in", "block.mlp_out", "norm", "output",
    ]  # fmt: skip

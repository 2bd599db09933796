"""Precision, accumulation, and what keeps the weights from a loss that is not finite."""

import pytest
import torch
from torch import nn

from engine.distributed import Context
from engine.errors import UserError
from engine.optim import AdamP
from engine.precision import Precision
from engine.update import NonFiniteLoss, Update

CPU = torch.device("cpu")


def setting(kind="fp32", dtype=torch.float32, lr=0.1):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).to(dtype)
    optimizer = AdamP(model.parameters(), lr=lr, weight_decay=1e-2)
    precision = Precision(kind, CPU)
    return model, optimizer, precision, Update([optimizer], precision, Context())


def clips(count, dtype=torch.float32):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(1), dtype=dtype)


def test_parts_of_a_batch_are_the_batch():
    found = []
    for parts in (1, 2, 3, 6):
        model, _, _, update = setting(dtype=torch.float64)
        for step in range(5):
            for number, part in enumerate(clips(12, torch.float64).chunk(parts)):
                with update.part(number, of=parts):
                    output = model(part)
                    first, second = output.square().mean(), (output - 1).abs().mean()
                    update.backward(first + 0.3 * second, first=first, second=second)
            done = update.apply(step)
        values = {name: float(value) for name, value in done.values.items()}
        assert values["loss"] == pytest.approx(values["first"] + 0.3 * values["second"])
        weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        found.append((values, weights, float(done.gradient_norm)))
    for values, weights, norm in found[1:]:
        assert values == pytest.approx(found[0][0], rel=1e-10)
        torch.testing.assert_close(weights, found[0][1], rtol=1e-9, atol=1e-12)
        assert norm == pytest.approx(found[0][2], rel=1e-9)


def test_the_gradient_norm_is_that_of_all_parameters():
    model, _, _, update = setting()
    with update.part(0, of=1):
        update.backward(model(clips(3)).sum())
    norm = update.apply(0).gradient_norm
    flat = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    torch.testing.assert_close(norm, flat.norm())


def everything(model, optimizer):
    state = [value for entry in optimizer.state.values() for value in entry.values()]
    return [value.clone() if isinstance(value, torch.Tensor) else value for value in [*model.parameters(), *state]]


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_lost_loss_changes_nothing(poison):
    model, optimizer, _, update = setting()
    with update.part(0, of=1):
        update.backward(model(clips(4)).mean())
    update.apply(0)
    before = everything(model, optimizer)
    for number, part in enumerate(clips(4).chunk(2)):
        with update.part(number, of=2):
            video, audio = model(part).mean(), model(part).square().mean() * (poison if number else 1)
            update.backward(video + audio, video=video, audio=audio)
    said = f"step 7: .*part 1: loss {poison}, video .*audio {poison}.*rank 0"
    with pytest.raises(NonFiniteLoss, match=said) as caught:
        update.apply(7)
    assert "\n" not in str(caught.value) and isinstance(caught.value, UserError)
    assert all(torch.equal(torch.as_tensor(now), torch.as_tensor(was))
               for now, was in zip(everything(model, optimizer), before, strict=True))


def test_a_lost_gradient_of_a_finite_loss_changes_nothing():
    model, optimizer, _, update = setting()
    before = everything(model, optimizer)
    with update.part(0, of=1):
        update.backward((model(clips(4)) * 0).sum().sqrt())  # 0, whose gradient is 0 times infinity
    with pytest.raises(NonFiniteLoss, match=r"step 3: the loss is finite \(loss 0\) but its gradient is not"):
        update.apply(3)
    assert all(torch.equal(now, was) for now, was in zip(everything(model, optimizer), before, strict=True))


def test_fp16_skips_a_step_that_overflowed_and_lowers_the_scale():
    """On the CPU there is no fp16; the scaling itself is arithmetic, and is tested with it alone."""
    model, optimizer, precision, update = setting()
    precision.kind, precision.scale = "fp16", 2.0**16
    precision.autocast = lambda: torch.autocast("cpu", enabled=False)

    def once(factor, step):
        with update.part(0, of=1):
            update.backward(model(clips(4)).mean() * factor)
        return update.apply(step)

    before = everything(model, optimizer)
    done = once(1e36, 0)  # finite, but not 65,536 times it
    assert done.skipped and precision.scale == 2.0**15 and not done.gradient_norm.isfinite()
    assert all(torch.equal(now, was) for now, was in zip(everything(model, optimizer), before, strict=True))
    done = once(1.0, 0)
    assert not done.skipped
    plain, _, _, unscaled = setting()
    with unscaled.part(0, of=1):
        unscaled.backward(plain(clips(4)).mean())
    expected = unscaled.apply(0)
    torch.testing.assert_close(done.gradient_norm, expected.gradient_norm)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    for step in range(precision.GROWTH_EVERY - 1):
        precision.after_step(overflowed=False)
        assert precision.scale == (2.0**16 if step == precision.GROWTH_EVERY - 2 else 2.0**15)
    precision.scale = 1.0
    with pytest.raises(NonFiniteLoss, match="wider precision than fp16"):
        once(1e38 * 10, 1)


def test_the_scale_survives_a_checkpoint_unless_the_precision_changed():
    ours, theirs, other = Precision("fp32", CPU), Precision("fp32", CPU), Precision("bf16", CPU)
    ours.scale, ours._good_steps = 64.0, 5
    theirs.load_state_dict(ours.state_dict())
    assert theirs.state_dict() == {"kind": "fp32", "scale": 64.0, "good_steps": 5}
    other.load_state_dict(ours.state_dict())
    assert other.scale == 1.0


def test_bf16_computes_in_bf16_and_keeps_weights_in_fp32():
    model, _, _, update = setting("bf16")
    with update.part(0, of=1):
        output = model(clips(4))
        assert output.dtype == torch.bfloat16
        update.backward(output.float().mean())
    update.apply(0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}


def test_bf16_lets_products_of_fp32_numbers_round_their_factors_and_then_no_more():
    for kind, expected in (("bf16", "medium"), ("fp32", "highest")):
        with Precision(kind, CPU).autocast():
            assert torch.get_float32_matmul_precision() == expected
        assert torch.get_float32_matmul_precision() == "highest"


def test_unknown_and_impossible_precisions():
    with pytest.raises(UserError, match=r"precision=fp61: did you mean fp16\? known are bf16, fp16, fp32"):
        Precision("fp61", CPU)
    with pytest.raises(UserError, match="precision=fp16 needs a GPU, this run is on the cpu: use bf16 or fp32"):
        Precision("fp16", CPU)


def test_what_can_only_be_a_bug():
    model, optimizer, precision, update = setting()
    with update.part(0, of=2):
        update.backward(model(clips(2)).mean())
    with pytest.raises(ValueError, match="1 parts went backward, 2 were announced"):
        update.apply(0)
    with pytest.raises(ValueError, match="no module averages"):
        Update([optimizer], precision, Context(world=2), [model])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["bf16", "fp16", "fp32"])
def test_each_precision_learns_on_a_gpu(kind):
    torch.manual_seed(0)
    device = torch.device("cuda", 0)
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1)).to(device)
    optimizer = AdamP(model.parameters(), lr=1e-2)
    update = Update([optimizer], Precision(kind, device), Context(device=device))
    losses = []
    for step in range(100):
        x = torch.randn(64, 4, device=device)
        with update.part(0, of=1):
            update.backward((model(x) - x.sum(1, keepdim=True)).float().square().mean())
        losses.append(float(update.apply(step).values["loss"]))
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])

"""AdamP against the package it is modelled on; groups and their rates."""

import copy
import math

import adamp
import pytest
import torch
from torch import nn

from engine.optim import AdamP, Part, groups, set_learning_rates


class Mixed(nn.Module):
    """A parameter of every kind: conv before BatchNorm (scale-invariant), GRU, linear, biases, a scalar."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.gru = nn.GRU(6, 5, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(10, 4)
        self.temperature = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):  # (B, 3, H, W) -> (B, 4)
        features = self.norm(self.conv(x)).relu().flatten(2).transpose(1, 2)
        return self.linear(self.gru(features)[0].mean(1)) * self.temperature


def trained(optimizer_class, steps, dtype, **options):
    """Losses of each step and the parameters at the end."""
    torch.manual_seed(0)
    model = Mixed().to(dtype)
    optimizer = optimizer_class(model.parameters(), lr=1e-3, **options)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(steps):
        x = torch.randn(8, 3, 7, 7, generator=generator, dtype=dtype)
        loss = (model(x) - x.mean((2, 3)) @ torch.ones(3, 4, dtype=dtype)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, dict(model.named_parameters()), optimizer


@pytest.mark.parametrize("options", [
    {"weight_decay": 1e-2},
    {"weight_decay": 0.3, "wd_ratio": 0.5},
    {"weight_decay": 1e-2, "nesterov": True, "betas": (0.8, 0.95)},
    {"weight_decay": 1e-2, "delta": 1e9},  # every matrix projected, by channel
], ids=lambda options: ",".join(options))  # fmt: skip
def test_trajectory_equals_the_packages(options):
    theirs, their_weights, _ = trained(adamp.AdamP, 200, torch.float64, **options)
    ours, our_weights, _ = trained(AdamP, 200, torch.float64, **options)
    assert sum(ours[-10:]) < 0.7 * sum(ours[:10])  # it has gone somewhere
    assert ours == pytest.approx(theirs, rel=1e-9)
    for name, weight in their_weights.items():
        torch.testing.assert_close(our_weights[name], weight, rtol=1e-8, atol=1e-10, msg=name)


def test_trajectory_in_single_precision():
    theirs, their_weights, _ = trained(adamp.AdamP, 100, torch.float32, weight_decay=1e-2)
    ours, our_weights, _ = trained(AdamP, 100, torch.float32, weight_decay=1e-2)
    assert ours == pytest.approx(theirs, rel=1e-4)
    for name, weight in their_weights.items():
        torch.testing.assert_close(our_weights[name], weight, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("case", ["channel", "tensor", "neither"])
def test_each_of_the_three_cases(case):
    """One step on a weight built so that the named case applies, against the package; and what the case means."""
    weight = torch.eye(4, dtype=torch.float64)[:, :, None].repeat(1, 1, 2).contiguous()  # (4, 4, 2)
    gradient = torch.roll(weight, 1, 0)  # orthogonal in each channel
    if case == "tensor":  # along the weight in two channels, against it in the others: orthogonal only as a whole
        gradient = gradient + weight * torch.tensor([1.0, 1, -1, -1], dtype=torch.float64)[:, None, None]
    elif case == "neither":
        gradient = gradient + weight
    results = []
    for optimizer_class in (adamp.AdamP, AdamP):
        parameter = nn.Parameter(weight.clone())
        optimizer = optimizer_class([parameter], lr=0.1, weight_decay=0.5)
        for _ in range(2):
            # Fresh momentum that points along the weight: exp_avg is what the projection takes the radial part of.
            optimizer.state[parameter] = {"step": 3, "exp_avg": weight + 0.3 * gradient, "exp_avg_sq": weight * 0 + 1.0}
        parameter.grad = gradient.clone()
        optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)
    shrunk = weight * (1 - 0.1 * 0.5 * (1.0 if case == "neither" else 0.1))
    radial = ((results[1] - shrunk) * weight).sum((1, 2))  # what the step itself moved along each channel's weight
    if case == "channel":
        assert radial.abs().max() < 1e-7
    elif case == "tensor":
        assert radial.abs().min() > 1e-4 and abs(radial.sum()) < 1e-7
    else:
        assert radial.abs().min() > 1e-4 and radial.sum() < -1e-2


def test_parameters_without_gradient_stay_and_count_their_own_steps():
    late, early = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    reference_late, reference_early = copy.deepcopy(late), copy.deepcopy(early)
    ours, theirs = AdamP([late, early], lr=0.1), adamp.AdamP([reference_late, reference_early], lr=0.1)
    for step in range(6):
        gradient = torch.randn(3, 3, generator=torch.Generator().manual_seed(step))
        for parameter in (early, reference_early, *((late, reference_late) if step > 3 else ())):
            parameter.grad = gradient.clone()
        ours.step()
        theirs.step()
        if step == 3:
            assert torch.equal(late, torch.ones(3, 3))
    torch.testing.assert_close(late, reference_late)
    torch.testing.assert_close(early, reference_early)
    assert ours.state[late]["step"] == 2 and ours.state[early]["step"] == 6


def test_state_is_the_packages_and_survives_a_reload():
    _, _, optimizer = trained(AdamP, 3, torch.float32, weight_decay=1e-2)
    _, _, reference = trained(adamp.AdamP, 3, torch.float32, weight_decay=1e-2)
    ours, theirs = optimizer.state_dict(), reference.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert {k: set(s) for k, s in ours["state"].items()} == {k: set(s) for k, s in theirs["state"].items()}

    def two_more(state):
        torch.manual_seed(0)
        model = Mixed()
        other = AdamP(model.parameters(), lr=5.0)
        other.load_state_dict(copy.deepcopy(state))
        for k in range(2):
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 0.1 * (k + 1))
            other.step()
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    torch.testing.assert_close(two_more(ours), two_more(theirs), rtol=1e-4, atol=1e-6)


def test_groups_and_their_rates():
    backbone, predictor, frozen = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(2, 2).requires_grad_(False)
    optimizer = AdamP(groups(Part("backbone", [backbone, frozen]),
                             Part("predictor", [predictor], scale=0.15, constant=True)), weight_decay=1e-2)  # fmt: skip
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
    assert all(group["weight_decay"] == 1e-2 for group in optimizer.param_groups)
    assert set_learning_rates(optimizer, 2e-3, 0.25) == {"backbone": 5e-4, "predictor": pytest.approx(3e-4)}
    assert [group["lr"] for group in optimizer.param_groups] == [5e-4, pytest.approx(3e-4)]
    # A reloaded optimiser obeys the schedule at once; nothing in it remembers the old rate.
    other = AdamP(groups(Part("backbone", [backbone]), Part("predictor", [predictor], scale=0.15, constant=True)))
    other.load_state_dict(optimizer.state_dict())
    assert set_learning_rates(other, 2e-3, 1.0)["backbone"] == other.param_groups[0]["lr"] == 2e-3


def test_groups_refuse_what_cannot_be_meant():
    shared = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="weight of part b is already in part a"):
        groups(Part("a", [shared]), Part("b", [shared]))
    with pytest.raises(ValueError, match="part c has nothing to train"):
        groups(Part("c", [nn.ReLU()]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_trajectory_on_a_gpu():
    weights = [torch.randn(shape, dtype=torch.float64, device="cuda") for shape in ((8, 3, 3), (6, 8), (6,), ())]
    results = []
    for optimizer_class in (adamp.AdamP, AdamP):
        parameters = [nn.Parameter(weight.clone()) for weight in weights]
        optimizer = optimizer_class(parameters, lr=1e-2, weight_decay=1e-2)
        for step in range(50):
            for k, parameter in enumerate(parameters):
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(100 * step + k))
                parameter.grad = parameter.detach().cos() + noise.to(parameter)
            optimizer.step()
        results.append(parameters)
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert not math.isnan(float(results[1][0].sum()))

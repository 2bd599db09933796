"""The measures tell learning from the ways around it, on cases whose answer is known."""

import pytest
import torch
import torch.nn.functional as F

from backbones import create
from engine.distributed import Context
from ssl_pretrain.model import Students
from ssl_pretrain.monitor import (
    OFFSETS,
    Probes,
    Window,
    chance_level_warnings,
    fitted_probe,
    most_by_chance,
    retrieved,
    shifted,
    similarities,
    spread,
    synchrony,
)

B, T, E = 12, 25, 64


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def as_it_is(x):
    return x


def test_spread_sees_collapse_onto_the_place_in_the_clip():
    place = noise(1, T, E).expand(B, T, E)
    assert spread(place) == pytest.approx(0, abs=1e-6)  # every clip the same
    over_all = F.normalize(place, dim=-1).flatten(0, 1).var(0, unbiased=False).sum().sqrt()
    assert over_all > 0.9  # over clips and time together nothing would be seen
    two = torch.stack([torch.eye(2)[:1].expand(T, 2), torch.eye(2)[1:].expand(T, 2)])  # (1, 0) and (0, 1)
    assert spread(two) == pytest.approx(0.5**0.5)  # variance 1/4 in each of two dimensions
    assert 0.9 < spread(noise(B, T, E)) <= 1


def test_similarities_by_loops():
    a, b = noise(3, T, E), noise(4, T, E, seed=1)
    table = similarities(a, b)
    for i in range(3):
        for j in range(4):
            each = [F.cosine_similarity(a[i, t], b[j, t], dim=0) for t in range(T)]
            assert table[i, j].item() == pytest.approx(float(sum(each) / T), abs=1e-6)


def test_retrieval():
    target = noise(B, T, E)
    assert retrieved(target + 0.5 * noise(B, T, E, seed=1), target) == 1
    swapped = target.clone()
    swapped[[0, 1]] = target[[1, 0]]
    assert retrieved(swapped, target) == pytest.approx(10 / 12)
    place = noise(1, T, E).expand(B, T, E)
    assert retrieved(place, place) == 0  # a perfect loss and nothing learned: ties are not hits
    guesses = torch.stack([retrieved(noise(B, T, E, seed=s), target) for s in range(1, 400)])
    assert guesses.mean().item() == pytest.approx(1 / B, abs=0.02)


def test_shifted_sound_has_the_same_stretch_of_clip_mean_at_every_offset():
    log_mel = noise(2, 1, 100, 80)
    mean = log_mel.mean(dim=2)
    for frames in OFFSETS:
        out = shifted(log_mel, frames)
        assert out.shape == log_mel.shape
        for a in range(100):
            expected = log_mel[:, :, a + 4 * frames] if 24 <= a < 76 else mean
            assert out[:, :, a].equal(expected), (frames, a)


def test_synchrony_by_a_video_that_knows_the_sound():
    """The 'network' returns the sound's own frames, so the right offset is found; a shifted video finds another."""
    sound = noise(B, T + 12, E)
    offset = torch.stack([sound[:, 6 + k : 6 + k + T] for k in OFFSETS], dim=1)
    assert synchrony(sound[:, 6 : 6 + T], offset, as_it_is) == 1
    assert synchrony(sound[:, 8 : 8 + T], offset, as_it_is) == 0
    place = noise(1, T, E).expand(B, T, E)
    by_place = synchrony(place, place[:, None].expand(B, len(OFFSETS), T, E), as_it_is)
    assert by_place == 0  # no offset is better than another: the first is taken, which is not the right one


def test_probe_learns_and_leaves_the_networks_alone():
    torch.manual_seed(0)
    networks = Students(create("cnn_gru_attention", channels=[4, 8], pools=[2, 2], hidden=8, dim=16, input_size=32,
                               stem_stride=4), create("audio_resnet18", depths=[1, 1, 1, 1], width=4))  # fmt: skip
    probes = Probes(networks, 3, Context())
    word = torch.arange(30) % 3
    # The word is the order of two sounds: the mean over the clip is the same for all.
    features = torch.zeros(30, T, 16)
    for b, w in enumerate(word):
        features[b, 5 * w : 5 * w + 5] = 1
    features.requires_grad_(True)
    audio = noise(30, T, networks.audio.encoder.backbone.dim)
    for _ in range(200):
        probes.learn(features + 0.1 * noise(30, T, 16), audio, word)
    assert features.grad is None
    probes.eval()
    assert (probes.video(features).argmax(1) == word).all()
    before = [p.clone() for p in probes.parameters()]
    probes.train()
    probes.learn(features, audio, torch.full((30,), -1))  # clips without words
    assert all(a.equal(b) for a, b in zip(before, probes.parameters(), strict=True))


def test_fitted_probe_is_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    x, word = noise(90, 8), torch.arange(90) % 3
    x[:, 0] += word  # 3 x too weak to separate
    others = noise(300, 8, seed=1)
    others[:, 0] += torch.arange(300) % 3
    mean, std = x.mean(0), x.std(0)
    reference = LogisticRegression(C=1, max_iter=1000).fit((x - mean) / std, word)
    expected = torch.from_numpy(reference.predict((others - mean) / std))
    assert (fitted_probe(x, word, others) == expected).float().mean() > 0.995
    assert 0.5 < (expected == torch.arange(300) % 3).float().mean() < 0.8


def test_warnings():
    fine = {"loss": -1.2, "spread_video": 0.9, "spread_audio": 0.8, "retrieval_video_to_audio": 0.4,
            "retrieval_audio_to_video": 0.3}  # fmt: skip
    assert chance_level_warnings(fine, 37, gallery=16) == []
    (line,) = chance_level_warnings({**fine, "spread_audio": 0.05}, 37, gallery=16)
    assert line.startswith("the audio targets have collapsed") and "0.050" in line
    guessing = {**fine, "retrieval_video_to_audio": 0.06, "retrieval_audio_to_video": 0.05}
    (line,) = chance_level_warnings(guessing, 37, gallery=16)
    assert "fallen to -1.20 but clips cannot be told apart" in line
    assert chance_level_warnings({**guessing, "loss": -0.2}, 37, gallery=16) == []  # it has not learned anything yet


def test_most_by_chance_is_exceeded_once_in_a_hundred():
    generator = torch.Generator().manual_seed(0)
    hits = torch.binomial(torch.full((20000,), 592.0), torch.full((20000,), 1 / 16.0), generator=generator)
    assert 0.005 < (hits / 592 > most_by_chance(16, 592)).float().mean() < 0.02


def test_window_is_a_mean_until_it_is_taken():
    window = Window()
    for value in (1.0, 2.0, 6.0):
        window.add({"x": torch.tensor(value)})
    assert window.take() == ({"x": 3.0}, 3)
    window.add({"x": torch.tensor(5.0)})
    assert window.take() == ({"x": 5.0}, 1)

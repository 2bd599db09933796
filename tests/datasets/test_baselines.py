"""The linear baselines against cases worked by hand."""

import numpy as np
import pytest

from datasets.baselines import BASELINES, auc_table, background_numbers, features


def crops(rng: np.random.Generator, frames: int = 6, spread: float = 4.0) -> np.ndarray:
    return np.clip(rng.normal(120, spread, (frames, 150, 150, 3)), 0, 255).astype(np.uint8)


def test_features_have_the_stated_sizes():
    numbers = features(crops(np.random.default_rng(0)), np.zeros(8, np.float32), 5000)
    assert tuple(numbers) == BASELINES
    assert [len(numbers[name]) for name in BASELINES] == [2, 6, 4, 4, 6, 8]
    assert all(np.isfinite(values).all() for values in numbers.values())
    assert "background" not in features(crops(np.random.default_rng(0)), None, 5000)


def test_features_of_known_pictures():
    gray = np.full((3, 150, 150, 3), (10, 20, 30), np.uint8)
    numbers = features(gray, None, 3000)
    np.testing.assert_allclose(numbers["colour"], [10, 20, 30, 0, 0, 0], atol=1e-4)
    np.testing.assert_allclose(np.exp(numbers["file_size"]), [3000, 3000 / (3 / 25)])
    np.testing.assert_allclose(numbers["sharpness"], np.log(1e-3))
    np.testing.assert_allclose(numbers["energy"], np.log(1e-3))
    flicker = gray.copy()
    flicker[1] += 12
    np.testing.assert_allclose(np.exp(features(flicker, None, 1)["energy"]), [12, 12, 12, 0, 0, 0], atol=2e-3)
    ramp = np.broadcast_to((np.arange(150) // 2 * 2)[None, None, :, None], (2, 150, 150, 3)).astype(np.uint8)
    assert np.exp(features(ramp, None, 1)["sharpness"][0]) == pytest.approx(2.0 * 148 / 150, rel=0.01)


def test_mouth_energy_is_of_the_mouth():
    still = np.full((5, 150, 150, 3), 100, np.uint8)
    still[1::2, 100:118, 60:92] = 140
    whole, inner, mouth = np.exp(features(still, None, 1)["energy"][:3])
    assert mouth > 3 * inner > 3 * whole


def test_background_numbers_see_only_the_background():
    rng = np.random.default_rng(0)
    frames = [np.full((200, 200, 3), (50, 60, 70), np.uint8) for _ in range(3)]
    for frame in frames:
        frame[70:200, 60:140] = rng.integers(0, 255, (130, 80, 3))  # face and body: must not matter
    numbers = background_numbers(frames, np.tile([80.0, 80.0, 120.0, 130.0], (3, 1)))
    assert numbers.shape == (8,) and numbers.dtype == np.float32
    np.testing.assert_allclose(numbers, [50, 60, 70, 0, 0, 0, 0, 0], atol=1e-3)
    frames[1] += 10
    assert background_numbers(frames, np.tile([80.0, 80.0, 120.0, 130.0], (3, 1)))[7] == pytest.approx(10, abs=0.01)
    np.testing.assert_array_equal(
        background_numbers(frames, np.tile([-50.0, -50.0, 250.0, 250.0], (3, 1))), np.zeros(8)
    )
    with pytest.raises(ValueError, match="one box"):
        background_numbers(frames, np.zeros((2, 4)))


def videos_with_a_planted_cue(count: int = 60):
    """Real and forged pairs in which only the colour tells, and for one method nothing does."""
    rng = np.random.default_rng(1)
    videos, labels, methods, groups = [], [], [], []
    for k in range(count):
        for method in ("real", "Tinted", "Same"):
            numbers = {name: rng.normal(size=3) for name in BASELINES}
            if method == "Tinted":
                numbers["colour"] = numbers["colour"] + 20
            videos.append(numbers)
            labels.append(int(method != "real"))
            methods.append(method)
            groups.append(f"pair{k // 2}")
    return videos, labels, methods, groups


def test_a_planted_cue_is_found_and_nothing_is_found_where_there_is_none():
    table = auc_table(*videos_with_a_planted_cue())
    assert sorted(table) == ["Same", "Tinted"]
    assert table["Tinted"]["colour"] == 1.0
    others = [table["Tinted"][name] for name in BASELINES if name != "colour"] + list(table["Same"].values())
    assert all(0.3 < value < 0.7 for value in others) and 0.42 < np.mean(others) < 0.58


def test_a_cue_at_both_ends_is_found():
    """Forged videos lie in the middle of one number: no line separates them, a parabola does."""
    rng = np.random.default_rng(2)
    videos = [{"noise": np.array([value])} for value in (*rng.choice([-3.0, 3.0], 40), *rng.normal(0, 0.1, 40))]
    table = auc_table(videos, [0] * 40 + [1] * 40, ["real"] * 40 + ["F"] * 40, [str(k % 40) for k in range(80)])
    assert table == {"F": {"noise": 1.0}}


def test_identities_do_not_leak_between_folds():
    """The number names the pair and nothing else: with the pair in training it would be read off."""
    rng = np.random.default_rng(3)
    pairs = rng.normal(size=(40, 3)) * 10
    side = rng.integers(0, 2, 40)
    videos = [{"colour": pairs[k] + rng.normal(size=3) * 0.01} for k in range(40) for _ in range(4)]
    labels = [int(side[k]) for k in range(40) for _ in range(4)]
    table = auc_table(
        videos, labels, ["F" if y else "real" for y in labels], [str(k) for k in range(40) for _ in range(4)]
    )
    assert table["F"]["colour"] < 0.75


def test_too_few_videos_give_nan_instead_of_a_figure():
    table = auc_table([{"noise": np.zeros(1)}] * 2, [0, 1], ["real", "F"], ["a", "a"])
    assert np.isnan(table["F"]["noise"])


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="at least 2 frames"):
        features(np.zeros((1, 150, 150, 3), np.uint8), None, 1)
    with pytest.raises(ValueError, match="one length"):
        auc_table([{}], [0, 1], ["real"], ["a"])

"""Orders and the loader: reproducible, disjoint, balanced, restored in mid-epoch, and flat in memory."""

import gc
import os
import time
from collections import Counter
from dataclasses import fields

import numpy as np
import psutil
import pytest
import torch
from test_clips import index_only, numbered_tracks

from benchmarks.stores import Track, write_store
from datasets.clips import ClipDataset
from datasets.loaders import BalancedOrder, ShuffledOrder, WindowOrder, make_evaluation_loader, make_loader
from engine.errors import UserError


class WithoutFiles(ClipDataset):
    """Reads nothing: for tests of which clips come, not of what is in them."""

    def __getitems__(self, windows):
        return torch.tensor(windows, dtype=torch.uint8), None


def small(count: int, frames: int = 40, **about) -> WithoutFiles:
    return WithoutFiles(index_only(*({"frames": frames} | about for _ in range(count))))


def unbalanced() -> WithoutFiles:
    """20 real, 60 Deepfakes, 30 FaceSwap, 3 NeuralTextures."""
    forged = ["Deepfakes"] * 60 + ["FaceSwap"] * 30 + ["NeuralTextures"] * 3
    return WithoutFiles(index_only(*[{}] * 20, *({"method": method, "label": 1} for method in forged)))


def drawn(loader) -> list[tuple[int, int]]:
    """(clip, start) of the rest of the loader's epoch."""
    return [pair for batch in loader for pair in zip(batch.clip.tolist(), batch.start.tolist(), strict=True)]


# --------------------------------------------------------------------------------------------------- orders

def test_shuffling_takes_each_clip_once_in_a_new_order_each_epoch():
    order = ShuffledOrder(small(50))
    first, second, other = order.epoch(0, 0), order.epoch(0, 1), order.epoch(1, 0)
    for epoch in (first, second, other):
        assert sorted(epoch.clips.tolist()) == list(range(50))
    assert first.clips.tolist() != second.clips.tolist() != other.clips.tolist() != first.clips.tolist()
    again = order.epoch(0, 0)
    assert np.array_equal(first.clips, again.clips) and np.array_equal(first.starts, again.starts)


def test_random_windows_are_uniform_over_all_that_fit():
    data = WithoutFiles(index_only({"frames": 25}, {"frames": 30}, {"frames": 300, "limit": 27}))
    starts = {0: Counter(), 1: Counter(), 2: Counter()}
    for epoch in range(3000):
        drawn_epoch = ShuffledOrder(data).epoch(5, epoch)
        for clip, start in zip(drawn_epoch.clips.tolist(), drawn_epoch.starts.tolist(), strict=True):
            starts[clip][start] += 1
    assert [sorted(starts[clip]) for clip in range(3)] == [[0], [0, 1, 2, 3, 4, 5], [0, 1, 2]]
    assert all(abs(n - 500) < 5 * 500**0.5 for n in starts[1].values())
    assert all(abs(n - 1000) < 5 * 1000**0.5 for n in starts[2].values())


@pytest.mark.parametrize(("share", "length", "expected"), [
    (0.5, 120, {"real": 60, "Deepfakes": 20, "FaceSwap": 20, "NeuralTextures": 20}),
    (0.25, 120, {"real": 30, "Deepfakes": 30, "FaceSwap": 30, "NeuralTextures": 30}),
    (0.5, None, None),
])  # fmt: skip
def test_balance(share, length, expected):
    data = unbalanced()
    order = BalancedOrder(data, real_share=share, length=length)
    for k in range(3):
        epoch = order.epoch(0, k)
        counts = Counter(data.method_names[code] for code in data.method[epoch.clips])
        if expected is None:  # 113 clips: 56 real (113 / 2 rounded to even), 57 = 3 x 19
            expected = {"real": 56, "Deepfakes": 19, "FaceSwap": 19, "NeuralTextures": 19}
        assert counts == expected and len(epoch.clips) == len(order)
        for method in range(len(data.method_names)):  # within a group all come equally often, give or take one
            times = np.bincount(epoch.clips, minlength=len(data))[data.method == method]
            assert times.max() - times.min() <= 1
    assert order.forged_share == 1 - expected["real"] / sum(expected.values())


def test_what_does_not_divide_goes_to_changing_methods():
    data = unbalanced()
    order = BalancedOrder(data, length=20)  # 10 forged, 3 methods
    seen = Counter()
    for k in range(300):
        counts = Counter(data.method[order.epoch(0, k).clips].tolist())
        del counts[data.method_names.index("real")]
        assert sorted(counts.values()) == [3, 3, 4]
        seen[counts.most_common(1)[0][0]] += 1
    assert len(seen) == 3 and min(seen.values()) > 70


def test_clips_that_an_epoch_has_no_room_for_come_in_others():
    order = BalancedOrder(unbalanced(), length=8)  # 4 of 20 real ones, 4 of 93 forged ones
    seen = {clip for k in range(100) for clip in order.epoch(0, k).clips.tolist()}
    assert len(seen) > 0.9 * 113


def test_a_clip_that_comes_again_has_another_window():
    data = WithoutFiles(index_only({"frames": 4000}, *[{"method": "Deepfakes", "label": 1}] * 99))
    epoch = BalancedOrder(data).epoch(0, 0)
    starts = epoch.starts[epoch.clips == 0]
    assert len(starts) == 50 and len(set(starts.tolist())) > 45  # of 3,976 windows


def test_share_of_forged_clips_for_the_prior():
    assert ShuffledOrder(unbalanced()).forged_share == 93 / 113
    mixed = WithoutFiles(index_only({}, {"method": "x", "label": 1}, {"method": "unknown", "label": None}))
    assert ShuffledOrder(mixed).forged_share == 0.5


def test_evaluation_sees_every_window_in_order():
    data = WithoutFiles(index_only({"frames": 51}, {"frames": 300, "limit": 110}, {"frames": 25}))
    order = WindowOrder(data)
    assert len(order) == 9
    epoch = order.epoch(0, 7)
    assert list(zip(epoch.clips.tolist(), epoch.starts.tolist(), strict=True)) == [
        (0, 0), (0, 25), (0, 26), (1, 0), (1, 25), (1, 50), (1, 75), (1, 85), (2, 0)]  # fmt: skip


# --------------------------------------------------------------------------------------------------- ranks

@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_share_out_the_same_global_batches(ranks):
    data = small(50)
    loaders = [make_loader(data, 12 // ranks, rank=rank, ranks=ranks, seed=3) for rank in range(ranks)]
    expected = ShuffledOrder(data).epoch(3, 0)
    batches = [[batch.clip.tolist() for batch in loader] for loader in loaders]
    assert {len(of_rank) for of_rank in batches} == {4} == {len(loader) for loader in loaders}  # 50 // 12, each rank
    for k in range(4):  # put side by side, the ranks' batches are the global one: nothing twice, nothing missing
        together = [clip for of_rank in batches for clip in of_rank[k]]
        assert together == expected.clips[12 * k : 12 * (k + 1)].tolist()


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_evaluation_ranks_are_disjoint_and_drop_nothing(ranks):
    data = small(11, frames=60)  # 3 windows each: 33, which nothing here divides
    parts = [drawn(make_evaluation_loader(data, 4, rank=rank, ranks=ranks)) for rank in range(ranks)]
    together = [pair for part in parts for pair in part]
    assert len(together) == len(set(together)) == 33
    assert set(together) == {(clip, start) for clip in range(11) for start in (0, 25, 35)}


def test_the_tail_that_is_dropped_differs_between_epochs():
    loader = make_loader(small(10), 4)
    kept = [frozenset(clip for clip, _ in drawn(loader)) for _ in range(6)]
    assert {len(clips) for clips in kept} == {8} and len(set(kept)) > 1


# --------------------------------------------------------------------------- epochs, interruption, resumption

def test_epochs_follow_one_another_and_depend_on_the_seed():
    first, second, other = make_loader(small(30), 5), make_loader(small(30), 5), make_loader(small(30), 5, seed=1)
    stream = [drawn(first) for _ in range(3)]
    assert stream == [drawn(second) for _ in range(3)] and first.epoch == 3
    assert stream[0] != stream[1] != stream[2] and drawn(other) != stream[0]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 4, 6, 9])  # 6: all of the first epoch consumed, the second not begun
def test_a_restored_run_goes_on_as_if_never_interrupted(workers, stop):
    data = unbalanced()
    order = BalancedOrder(data, length=50)  # 6 batches of 8 an epoch

    def batches(loader):
        while True:
            for batch in loader:
                yield batch, loader.state_dict()

    uninterrupted = batches(make_loader(data, 8, order=order))
    expected = [(b.clip.tolist(), b.start.tolist()) for b, _ in (next(uninterrupted) for _ in range(15))]
    running = batches(make_loader(data, 8, order=order, workers=workers))
    for _ in range(stop):
        _, state = next(running)
    running.close()
    restored = make_loader(data, 8, order=order, workers=workers)
    restored.load_state_dict(state)
    rest = batches(restored)
    found = [(b.clip.tolist(), b.start.tolist()) for b, _ in (next(rest) for _ in range(15 - stop))]
    assert found == expected[stop:]


def test_leaving_a_loop_and_coming_back_goes_on():
    expected = drawn(make_loader(small(30), 5))
    loader = make_loader(small(30), 5, workers=1)
    found = []
    for batch in loader:
        found += zip(batch.clip.tolist(), batch.start.tolist(), strict=True)
        if loader.batch == 2:
            break
    assert found + drawn(loader) == expected
    evaluation = make_evaluation_loader(small(4), 2)
    next(iter(evaluation))
    assert drawn(evaluation) == [(k, start) for k in range(4) for start in (0, 15)]  # afresh each time


def test_a_position_holds_for_other_ranks_with_the_same_global_batch():
    loader = make_loader(small(40), 8)
    iterator = iter(loader)
    next(iterator), next(iterator)
    halves = [make_loader(small(40), 4, rank=rank, ranks=2) for rank in (0, 1)]
    for half in halves:
        half.load_state_dict(loader.state_dict())
    expected = next(iterator).clip.tolist()
    assert next(iter(halves[0])).clip.tolist() + next(iter(halves[1])).clip.tolist() == expected


@pytest.mark.parametrize(("other", "message"), [
    (lambda: make_loader(small(40), 8, seed=1), "its seed was 0, now 1"),
    (lambda: make_loader(small(41), 8), "its clips_per_epoch was 40, now 41"),
    (lambda: make_loader(small(40, frames=41), 8), "its data was"),
    (lambda: make_loader(small(40), 16), "after 8 clips of an epoch with batches of 16"),
])  # fmt: skip
def test_a_position_in_other_data_is_refused(other, message):
    loader = make_loader(small(40), 8)
    next(iter(loader))
    with pytest.raises(UserError, match=message):
        other().load_state_dict(loader.state_dict())


def test_loading_leaves_the_global_generators_alone():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    for workers in (0, 1):
        drawn(make_loader(small(20), 5, workers=workers))
    assert torch.equal(torch.get_rng_state(), torch_state) and np.array_equal(np.random.get_state()[1], numpy_state)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: make_loader(small(5), 6), "a batch of 6 is larger than the data (5 clips an epoch): lower the batch size"),
    (lambda: make_loader(small(5), 3, ranks=2),
     "a batch of 3 x 2 ranks = 6 is larger than the data (5 clips an epoch): lower the batch size"),
    (lambda: BalancedOrder(small(5)),
     "balancing needs real and forged clips and no unlabelled ones; this selection has 5 real, 0 forged, 0 unlabelled"),
    (lambda: BalancedOrder(unbalanced(), real_share=1.5), "the share of real clips must lie between 0 and 1, not 1.5"),
])  # fmt: skip
def test_errors_are_one_line(make, message):
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value) == message


# ------------------------------------------------------------------------------------------- with real files

@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_carries_what_belongs_together(tmp_path, workers):
    tracks = numbered_tracks(6, 30, sound=True)
    for number, track in enumerate(tracks):
        forged = {"method": "Deepfakes", "label": 1} if number % 2 else {"word": "ABOUT"}
        track.about = {"id": f"video{number}#2"} | forged
    data = ClipDataset(write_store(tmp_path / "store", tracks), sound=True)
    loader = make_loader(data, 3, workers=workers)
    seen = []
    for batch in loader:
        assert batch.frames.shape == (3, 25, 150, 150, 3) and batch.frames.dtype == torch.uint8
        assert batch.sound.shape == (3, 16_000) and batch.sound.dtype == torch.int16 and len(batch) == 3
        number = batch.frames[:, 0, 0, 0, 0].long() // 10
        assert torch.equal(number, batch.clip)
        assert torch.equal(batch.frames[:, 0, 0, 0, 1].long() // 4, batch.start)
        assert torch.equal(batch.sound[:, 0].long(), 100 * number + batch.start)
        assert torch.equal(batch.label, number % 2)
        assert [data.method_names[code] for code in batch.method] == [("real", "Deepfakes")[n % 2] for n in number]
        assert torch.equal(batch.word, -(number % 2))
        assert batch.videos == tuple(f"video{n}" for n in number.tolist())
        seen += number.tolist()
        there = batch.to("cpu")
        assert all(getattr(there, field.name) is getattr(batch, field.name) for field in fields(batch))
    assert sorted(seen) == list(range(6))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_store_is_one_line_from_a_worker_too(tmp_path, workers):
    data = ClipDataset(write_store(tmp_path / "store", numbered_tracks(2, 25, sound=False)))
    pack = next((tmp_path / "store" / "packs").iterdir())
    os.truncate(pack, 40 * 67_500)
    with pytest.raises(UserError) as caught:
        drawn(make_loader(data, 2, workers=workers))
    assert "cut off in track small/0001" in str(caught.value) and "Traceback" not in str(caught.value)


def test_memory_is_flat_over_ten_epochs(tmp_path):
    """Private memory of the main process and of the workers after the second and after the tenth epoch.

    Tolerance: 1.5 MiB each, less than one clip (1.6 MiB); ten epochs hand over 160 clips, 258 MiB. And, of the
    workers, 10 MiB since the first epoch: they read into shared memory and never keep batches (6.4 MiB each) of their
    own. (The main process takes some memory once, on its first epoch: 13 MiB were seen.)
    """
    tracks = [Track(np.zeros((27, 150, 150, 3), np.uint8), np.zeros(27 * 640, np.int16))] * 16
    loader = make_loader(ClipDataset(write_store(tmp_path / "store", tracks), sound=True), 4, workers=2)
    before = {child.pid for child in psutil.Process().children()}

    def private() -> np.ndarray:
        """MiB of each process: the least of some looks, as a worker lets go of its last batch after sending it."""
        workers = [child for child in psutil.Process().children() if child.pid not in before]
        looks = []
        for _ in range(5):
            time.sleep(0.03)
            looks.append([process.memory_full_info().uss / 2**20 for process in (psutil.Process(), *workers)])
        return np.min(looks, axis=0)

    sizes = []
    for _ in range(10):
        for batch in loader:
            del batch
        sizes.append(private())
    assert len(sizes[1]) == len(sizes[9]) == 3
    growth = sizes[9] - sizes[1]
    assert growth.max() < 1.5, f"grew by {growth} MiB: {sizes}"
    assert (sizes[9] - sizes[0])[1:].max() < 10, f"grew by {sizes[9] - sizes[0]} MiB"


def test_workers_end_at_once_after_an_exception():
    """Found the hard way: an error keeps the loader in a cycle, and its collection waited five seconds."""
    def fail() -> int:
        loader = make_loader(small(40), 4, workers=1)
        try:
            for _ in loader:
                raise RuntimeError
        except RuntimeError as error:
            kept = error  # this frame holds the error, the error this frame
            assert kept
        return loader._loader._iterator._workers[0].pid

    gc.collect()
    worker = fail()
    begin = time.perf_counter()
    gc.collect()
    assert not psutil.pid_exists(worker) and time.perf_counter() - begin < 4

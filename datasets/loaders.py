"""In which order a run sees its clips, and the loader that reads them.

The order of an epoch is a pure function of (seed, epoch): two arrays, the clips and the first frames of their
windows. It is made in the main process and cut into global batches; each rank takes its own part of every global
batch. Workers are handed (clip, start) pairs and hand over uint8 frames and int16 sound, nothing else. So nothing
depends on how many workers there are, what they prefetched, or which of them was quicker; the same global batches
come whatever the number of ranks; and an interrupted run goes on with exactly the batch that it would have had.
"""

from __future__ import annotations

import gc
import signal
import warnings
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datasets.clips import NO_LABEL, ClipDataset, uniform_windows
from datasets.records import FORGED, REAL
from engine.errors import UserError

# PyTorch thinks two loader processes of one core each too many; how many there are is the user's to say.
warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)

# --------------------------------------------------------------------------------------------------- orders

@dataclass(frozen=True, slots=True)
class Epoch:
    """The clips of an epoch in order, and the first frame of each one's window: int32 (N,) each."""

    clips: np.ndarray
    starts: np.ndarray


class WindowOrder:
    """For evaluation: every uniform window of every track, or of some of them, in order; the same each epoch."""

    def __init__(self, dataset: ClipDataset, tracks: Sequence[int] | None = None):
        chosen = np.arange(len(dataset), dtype=np.int32) if tracks is None else np.asarray(tracks, np.int32)
        windows = [uniform_windows(int(n), dataset.length) for n in dataset.usable[chosen]]
        self._clips = np.repeat(chosen, [len(starts) for starts in windows])
        self._starts = np.array([start for starts in windows for start in starts], np.int32)

    def __len__(self) -> int:
        return len(self._clips)

    def epoch(self, seed: int, epoch: int) -> Epoch:
        return Epoch(self._clips, self._starts)


class ShuffledOrder:
    """Each track once an epoch, one random window of it."""

    def __init__(self, dataset: ClipDataset):
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    @property
    def forged_share(self) -> float:
        """Of the labelled clips that a training run sees: the prior of its logit adjustment."""
        labelled = self._dataset.label[self._dataset.label != NO_LABEL]
        return float((labelled == FORGED).mean())

    def epoch(self, seed: int, epoch: int) -> Epoch:
        random = np.random.default_rng([seed, epoch])
        return _with_windows(self._dataset, random.permutation(len(self._dataset)), random)


class BalancedOrder:
    """A given share of real clips, the rest divided equally among the methods; equal to a clip over each epoch.

    The clips of a group come in permutations, one after the other: none comes a second time before all have come
    once. A clip that comes again has another random window. `length` clips an epoch, by default as many as there are.
    """

    def __init__(self, dataset: ClipDataset, *, real_share: float = 0.5, length: int | None = None):
        if not 0 < real_share < 1:
            raise UserError(f"the share of real clips must lie between 0 and 1, not {real_share}")
        counts = {name: int((dataset.label == label).sum()) for name, label in (
            ("real", REAL), ("forged", FORGED), ("unlabelled", NO_LABEL))}  # fmt: skip
        if not counts["real"] or not counts["forged"] or counts["unlabelled"]:
            has = ", ".join(f"{n} {name}" for name, n in counts.items())
            raise UserError(f"balancing needs real and forged clips and no unlabelled ones; this selection has {has}")
        forged = dataset.label == FORGED
        codes = np.unique(dataset.method[forged])
        self._dataset, self._real_share = dataset, real_share
        self._real = np.flatnonzero(dataset.label == REAL)
        self._methods = [np.flatnonzero(forged & (dataset.method == code)) for code in codes]
        self._length = length or len(dataset)

    def __len__(self) -> int:
        return self._length

    @property
    def _reals(self) -> int:
        return round(self._length * self._real_share)

    @property
    def forged_share(self) -> float:
        """Of the clips that a training run sees: the prior of its logit adjustment."""
        return 1 - self._reals / self._length

    def epoch(self, seed: int, epoch: int) -> Epoch:
        random = np.random.default_rng([seed, epoch])
        real = self._reals
        share, rest = divmod(self._length - real, len(self._methods))
        favoured = set(random.permutation(len(self._methods))[:rest].tolist())
        parts = [_in_turns(self._real, real, random)]
        parts += [_in_turns(clips, share + (k in favoured), random) for k, clips in enumerate(self._methods)]
        return _with_windows(self._dataset, random.permutation(np.concatenate(parts)), random)


Order = WindowOrder | ShuffledOrder | BalancedOrder


def _in_turns(clips: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    rounds = [random.permutation(clips) for _ in range(-(-count // len(clips)))]
    return np.concatenate([clips[:0], *rounds])[:count]


def _with_windows(dataset: ClipDataset, clips: np.ndarray, random: np.random.Generator) -> Epoch:
    """A uniform window for each place of the order, so that a clip that comes twice has two."""
    starts = random.random(len(clips)) * (dataset.usable[clips] - dataset.length + 1)
    return Epoch(clips.astype(np.int32), starts.astype(np.int32))


# --------------------------------------------------------------------------------------------------- loader

@dataclass(frozen=True, slots=True)
class ClipBatch:
    frames: Tensor  # uint8 (B, T, 150, 150, 3)
    sound: Tensor | None  # int16 (B, T * 640)
    label: Tensor  # int64 (B,): 0 real, 1 forged, -1 unknown
    method: Tensor  # int64 (B,) into dataset.method_names
    word: Tensor  # int64 (B,) into dataset.word_names, -1 where there is none
    clip: Tensor  # int64 (B,) into the dataset: dataset.ids, dataset.videos
    start: Tensor  # int64 (B,): the window's first frame in its track
    videos: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.clip)

    def to(self, device: torch.device | str) -> ClipBatch:
        """Frames, sound, labels and words go to the device, without waiting; the rest names things on the host."""
        names = ["frames", "label", "word"] + (["sound"] if self.sound is not None else [])
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


class ClipLoader:
    """Batches of one rank, epoch after epoch; use `make_loader` or `make_evaluation_loader`.

    Training: every rank gets the same number of full batches, the tail that fills no global batch is dropped (other
    clips each epoch). Iterating runs to the end of the epoch; after a `break` or a restored state the next iteration
    goes on where the last one stopped. A batch counts as consumed when it is handed over: save after the step.
    Evaluation: nothing is dropped, a rank's last batch may be smaller or missing, each iteration starts afresh.
    """

    def __init__(self, dataset: ClipDataset, order: Order, batch_size: int, *, seed: int, rank: int, ranks: int,
                 workers: int, prefetch: int, training: bool):  # fmt: skip
        self.dataset, self.order, self.seed, self.training = dataset, order, seed, training
        self._batch_size, self._rank, self._global = batch_size, rank, batch_size * ranks
        self.epoch, self.batch = 0, 0
        if training and len(order) < self._global:
            whole = f"{batch_size} x {ranks} ranks = {self._global}" if ranks > 1 else str(batch_size)
            has = f"{len(order)} clips an epoch"
            raise UserError(f"a batch of {whole} is larger than the data ({has}): lower the batch size")
        self._pending = _Pending()
        self._loader: DataLoader[Any] = DataLoader(
            dataset,  # type: ignore[arg-type]
            batch_sampler=self._pending,
            collate_fn=_as_it_is,
            num_workers=workers,
            worker_init_fn=_quiet_worker,
            persistent_workers=workers > 0,
            prefetch_factor=prefetch if workers else None,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else each epoch would draw from, and change, the run's global generator
        )
        self.close = weakref.finalize(self, _stop_workers, self._loader)  # now, when collected, or at exit

    def __len__(self) -> int:
        """Batches of an epoch, for this rank."""
        return sum(1 for _ in self._places())

    def _places(self) -> Iterator[slice]:
        """This rank's part of each global batch."""
        total = len(self.order)
        total -= total % self._global if self.training else 0
        for begin in range(self._rank * self._batch_size, total, self._global):
            yield slice(begin, min(begin + self._batch_size, total))

    def __iter__(self) -> Iterator[ClipBatch]:
        if not self.training:
            self.batch = 0
        epoch = self.order.epoch(self.seed, self.epoch)
        places = list(self._places())[self.batch :]
        self._pending.epoch, self._pending.places = epoch, places
        for place, read in zip(places, self._loader, strict=True):
            if isinstance(read, UserError):
                raise UserError(str(read))  # a new one: this frame must not hold the error that holds this frame
            self.batch += 1
            yield self._batch(epoch.clips[place], epoch.starts[place], *read)
        self.epoch, self.batch = self.epoch + 1, 0

    def _batch(self, clips: np.ndarray, starts: np.ndarray, frames: Tensor, sound: Tensor | None) -> ClipBatch:
        data = self.dataset
        label, method, word, clip, start = (torch.from_numpy(column.astype(np.int64)) for column in (
            data.label[clips], data.method[clips], data.word[clips], clips, starts))  # fmt: skip
        return ClipBatch(frames, sound, label, method, word, clip, start, tuple(data.videos[clips].tolist()))

    def state_dict(self) -> dict[str, Any]:
        """The same for all ranks: the position is counted in clips of the global order."""
        return {"epoch": self.epoch, "clips": self.batch * self._global, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for key, now in self._identity().items():
            if state[key] != now:
                raise UserError(f"cannot go on where the saved run stopped: its {key} was {state[key]}, now {now}")
        if state["clips"] % self._global:
            raise UserError(f"cannot go on after {state['clips']} clips of an epoch with batches of {self._global}")
        self.epoch, self.batch = state["epoch"], state["clips"] // self._global

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a saved position to mean the same clips."""
        return {"seed": self.seed, "order": type(self.order).__name__, "clips_per_epoch": len(self.order),
                "data": self.dataset.fingerprint()}  # fmt: skip


def make_loader(
    dataset: ClipDataset,
    batch_size: int,
    *,
    order: Order | None = None,
    seed: int = 0,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
    prefetch: int = 2,
) -> ClipLoader:
    """A training loader; `batch_size` is one rank's, the order is plain shuffling unless given."""
    return ClipLoader(dataset, order or ShuffledOrder(dataset), batch_size, seed=seed, rank=rank, ranks=ranks,
                      workers=workers, prefetch=prefetch, training=True)  # fmt: skip


def make_evaluation_loader(
    dataset: ClipDataset, batch_size: int, *, tracks: Sequence[int] | None = None, rank: int = 0, ranks: int = 1,
    workers: int = 0, prefetch: int = 2,
) -> ClipLoader:  # fmt: skip
    """Every uniform window of every track, or of those named, once over all ranks."""
    return ClipLoader(dataset, WindowOrder(dataset, tracks), batch_size, seed=0, rank=rank, ranks=ranks,
                      workers=workers, prefetch=prefetch, training=False)  # fmt: skip


class _Pending:
    """What the DataLoader is to read in its next pass; the ClipLoader says so before each."""

    epoch: Epoch
    places: Sequence[slice] = ()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for place in self.places:
            yield list(zip(self.epoch.clips[place].tolist(), self.epoch.starts[place].tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.places)


def _stop_workers(loader: DataLoader) -> None:
    """Ask them to end while their queues still work.

    If the loader is left to the collector of cycles, as after an exception, or to the end of the interpreter, its
    queues may be gone before it can say so: it then waits five seconds, kills the workers and prints a traceback.
    """
    if loader._iterator is not None:
        loader._iterator._shutdown_workers()  # type: ignore[attr-defined]
        loader._iterator = None


def _as_it_is(batch: Any) -> Any:
    return batch


def _quiet_worker(_: int) -> None:
    """One thread; and a signal to the whole job (Ctrl-C, SLURM's warning) is the main process's to answer. It needs its
    workers until the step is done, so SIGTERM ends one only after a minute, should it have been forgotten.

    What the main process had made before the fork is taken out of garbage collection: looking through it would
    write to, and so copy, every page of it in every worker.
    """
    torch.set_num_threads(1)
    gc.freeze()
    for name in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(60))

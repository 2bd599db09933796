"""Is it learning, or has it found a way around? Measures without gradient into the networks that are trained.

The loss alone proves nothing: the networks can agree on where in the clip a frame is, or on a constant of the clip, and
the loss falls while nothing is learned about speech. Hence

    spread      how different the clips' embeddings are at the same frame; 0: all the same (collapse), 1: as different
                as directions can be. Over clips and time together it would also be high for networks that only tell
                the frames of a clip apart.
    retrieval   does a clip's prediction fit its own target better than those of all other clips? Over a gallery of 100.
    synchrony   does the prediction from the video fit the sound at the right offset better than at six wrong ones?
    word        can a linear map read the spoken word off the backbone's features? (Where the clips have words.) In
                training a probe that learns beside the networks guesses each batch before it learns from it; in
                validation one is fitted to features of training clips until it converges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.clips import ClipDataset
from datasets.views import ViewSettings, evaluation_view
from engine.distributed import Context
from engine.precision import Precision
from ssl_pretrain.model import Students, Teachers, agreement_loss

GALLERY = 100  # clips among which retrieval looks for the right one
OFFSETS = (-6, -4, -2, 0, 2, 4, 6)  # video frames of 40 ms
BATCH = 25  # clips at a time in validation
FALLEN = -0.5  # a sum of two cosines' negatives; -2 is the best there is
COLLAPSED = 0.1


# ------------------------------------------------------------------------------------------------ measures

def spread(embedding: Tensor) -> Tensor:
    """(B, T, E) -> (): root of the variance over clips of the unit vectors, summed over E, averaged over T."""
    unit = F.normalize(embedding.float(), dim=-1)
    return unit.var(dim=0, unbiased=False).sum(dim=-1).mean().sqrt()


def similarities(prediction: Tensor, target: Tensor) -> Tensor:
    """(B, T, E), (C, T, E) -> (B, C): cosine of the frames at the same time, averaged over time."""
    a, b = F.normalize(prediction.float(), dim=-1), F.normalize(target.float(), dim=-1)
    return a.flatten(1) @ b.flatten(1).T / a.shape[1]


def retrieved(prediction: Tensor, target: Tensor) -> Tensor:
    """(B, T, E) twice -> (): share of clips whose own target is the most similar one. Ties count as wrong."""
    table = similarities(prediction, target)
    own = table.diagonal()
    others = table.masked_fill(torch.eye(len(table), dtype=torch.bool, device=table.device), -torch.inf)
    return (own > others.max(dim=1).values).float().mean()


def shifted(log_mel: Tensor, frames: int, per_frame: int = 4) -> Tensor:
    """Sound that comes `frames` video frames early (positive) or late, and only the stretch that all offsets share.

    (B, 1, A, M) -> (B, 1, A, M). Outside that stretch everything becomes the clip's mean, at every offset alike: else
    the silence or the seam that shifting leaves would tell the right offset from the wrong ones.
    """
    margin = max(map(abs, OFFSETS)) * per_frame
    A = log_mel.shape[2]
    stretch = slice(margin, A - margin)
    out = log_mel.mean(dim=2, keepdim=True).expand_as(log_mel).clone()
    out[:, :, stretch] = log_mel[:, :, margin + frames * per_frame : A - margin + frames * per_frame]
    return out


STRETCHES = 5


def over_stretches(features: Tensor) -> Tensor:
    """What a probe sees: means over five stretches of the clip, (B, T, D) -> (B, 5 D), without gradient.

    One mean over the whole clip would not do: a word is an order of sounds, and networks trained towards centred
    targets are free to lose the clip's mean.
    """
    features = features.detach().float().transpose(1, 2)  # (B, D, T)
    return F.adaptive_avg_pool1d(features, STRETCHES).flatten(1)


class Probe(nn.Module):
    """Standardised features through one linear map: (B, T, D) -> (B, words)."""

    def __init__(self, dim: int, words: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(STRETCHES * dim, affine=False)
        self.linear = nn.Linear(STRETCHES * dim, words)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(self.norm(over_stretches(features)))


class Probes(nn.Module):
    """One for each modality, with their optimiser; clips without a word (-1) are left out. All ranks learn together, so
    that theirs are the same: only rank 0's are saved."""

    LEARNING_RATE = 1e-3

    def __init__(self, students: Students, words: int, context: Context) -> None:
        super().__init__()
        self._context = context
        self.video = Probe(students.video.encoder.backbone.dim, words)
        self.audio = Probe(students.audio.encoder.backbone.dim, words)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=self.LEARNING_RATE)

    def learn(self, video: Tensor, audio: Tensor, word: Tensor) -> dict[str, Tensor]:
        """Features (B, T, D) of each modality and the words (B,) -> share of words guessed before learning them."""
        known = word >= 0
        if self._context.any(bool(known.sum() < 2)):  # BatchNorm needs two
            return {}
        word = word[known]
        with torch.autocast(word.device.type, enabled=False):
            guesses = {"word_video": self.video(video[known]), "word_audio": self.audio(audio[known])}
            self.optimizer.zero_grad(set_to_none=True)
            torch.stack([F.cross_entropy(guess, word) for guess in guesses.values()]).sum().backward()
        for parameter in self.parameters():
            if parameter.grad is not None:
                self._context.sum(parameter.grad).div_(self._context.world)
        self.optimizer.step()
        return {name: (guess.argmax(dim=1) == word).float().mean() for name, guess in guesses.items()}


def fitted_probe(features: Tensor, word: Tensor, others: Tensor, steps: int = 100) -> Tensor:
    """Logistic regression on (N, F) and words (N,), fitted until it converges -> guesses (M,) for the `others` (M, F).

    Standardised, penalised by half the squared weights (scikit-learn's C=1).
    """
    mean, std = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6)
    x, y = (features - mean) / std, (others - mean) / std
    weight = torch.zeros(x.shape[1], int(word.max()) + 1, device=x.device, requires_grad=True)
    bias = torch.zeros(weight.shape[1], device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = F.cross_entropy(x @ weight + bias, word, reduction="sum") + weight.square().sum() / 2
        total = total / len(x)
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)
    return (y @ weight + bias).argmax(dim=1)


@torch.no_grad()
def training_measures(video: Tensor, audio: Tensor, video_target: Tensor, audio_target: Tensor) -> dict[str, Tensor]:
    """Of one batch, from what the step computed anyway: predictions and targets (B, T, E)."""
    return {
        "spread_video": spread(video_target), "spread_audio": spread(audio_target),
        "spread_video_prediction": spread(video), "spread_audio_prediction": spread(audio),
        "retrieval_video_to_audio": retrieved(video, audio_target),
        "retrieval_audio_to_video": retrieved(audio, video_target),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- validation

class Clips:
    """The same clips each time: the middle window of up to `most` tracks, spread evenly over a dataset."""

    def __init__(self, dataset: ClipDataset, views: ViewSettings, most: int, *, with_words: bool = False):
        tracks = np.flatnonzero(dataset.word >= 0) if with_words else np.arange(len(dataset))
        chosen = tracks[np.unique(np.linspace(0, len(tracks) - 1, min(most, len(tracks))).round().astype(int))]
        self._dataset, self._views = dataset, views
        self._windows = [(int(clip), int(dataset.usable[clip] - dataset.length) // 2) for clip in chosen]
        self.words = torch.from_numpy(dataset.word[chosen].astype(np.int64))

    def __len__(self) -> int:
        return len(self._windows)

    def batches(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Clean video (B, 3, T, H, W) and log-mel (B, 1, A, M)."""
        for begin in range(0, len(self), BATCH):
            read = self._dataset.__getitems__(self._windows[begin : begin + BATCH])
            if isinstance(read, Exception):
                raise read
            frames, sound = read
            assert sound is not None  # clips without were not asked for
            video, log_mel = evaluation_view(self._views, frames.to(device), sound.to(device))
            assert log_mel is not None
            yield video, log_mel


class Validation:
    """All measures on clips that are not trained on; `probe_clips` are the training clips that fit the word probe."""

    def __init__(self, clips: Clips, probe_clips: Clips | None):
        self._clips, self._probe_clips = clips, probe_clips if probe_clips and len(probe_clips) else None
        self.gallery = min(GALLERY, len(clips))

    @torch.no_grad()
    def measure(self, students: Students, teachers: Teachers, precision: Precision,
                targets: Callable[[Tensor], Tensor]) -> dict[str, float]:  # fmt: skip
        """Clean views through networks in evaluation mode, which are in train mode again afterwards.

        `targets` is what training does to the teachers' embeddings before they are compared.
        """
        students.eval(), teachers.eval()
        try:
            values = self._agreement(students, teachers, precision, targets)
            if self._probe_clips:
                values |= self._words(students, precision, self._probe_clips)
        finally:
            students.train(), teachers.train()
        return {name: float(value) for name, value in values.items()} | {"gallery": float(self.gallery)}

    def _agreement(self, students: Students, teachers: Teachers, precision: Precision,
                   targets: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:  # fmt: skip
        found: list[list[Tensor]] = []
        for video, log_mel in self._clips.batches(precision.device):
            with precision.autocast():
                seen, heard = students(video, log_mel)
                offset = torch.stack([teachers.audio(shifted(log_mel, frames)) for frames in OFFSETS], dim=1)
                batch = [seen.prediction, heard.prediction, *teachers(video, log_mel), offset]
            found.append([value.float() for value in batch])
        seen, heard, video, audio, offset = (torch.cat(values) for values in zip(*found, strict=True))
        video_target, audio_target = targets(video), targets(audio)
        video_loss, audio_loss = agreement_loss(seen, audio_target), agreement_loss(heard, video_target)
        return {
            "loss": video_loss + audio_loss, "video_to_audio": video_loss, "audio_to_video": audio_loss,
            "spread_video": spread(video_target), "spread_audio": spread(audio_target),
            "spread_video_prediction": spread(seen), "spread_audio_prediction": spread(heard),
            "retrieval_video_to_audio": self._over_galleries(seen, audio_target),
            "retrieval_audio_to_video": self._over_galleries(heard, video_target),
            "synchrony": synchrony(seen, offset, targets),
        }  # fmt: skip

    def _words(self, students: Students, precision: Precision, to_learn: Clips) -> dict[str, Tensor]:
        (fit, fit_words), (test, test_words) = (
            (_features(students, clips, precision), clips.words.to(precision.device))
            for clips in (to_learn, self._clips))  # fmt: skip
        known = test_words >= 0
        if not known.any():
            return {}
        return {f"word_{name}": (fitted_probe(fit[name], fit_words, test[name][known]) == test_words[known])
                .float().mean() for name in fit}  # fmt: skip

    def _over_galleries(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean over as many whole galleries as there are."""
        size = self.gallery
        return torch.stack([retrieved(prediction[begin : begin + size], target[begin : begin + size])
                            for begin in range(0, len(prediction) - size + 1, size)]).mean()  # fmt: skip


def synchrony(prediction: Tensor, offset: Tensor, targets: Callable[[Tensor], Tensor]) -> Tensor:
    """(B, T, E) from the video, (B, offsets, T, E) from the shifted sound -> (): share of clips that fit best at 0."""
    margin = max(map(abs, OFFSETS))
    inside = slice(margin, prediction.shape[1] - margin)
    scores = torch.stack([F.cosine_similarity(prediction, targets(offset[:, k]), dim=-1)[:, inside].mean(dim=1)
                          for k in range(len(OFFSETS))], dim=1)  # fmt: skip
    return (scores.argmax(dim=1) == OFFSETS.index(0)).float().mean()


def _features(students: Students, clips: Clips, precision: Precision) -> dict[str, Tensor]:
    """What the backbones make of clips, as probes see it: (N, 5 D) for each modality."""
    found: dict[str, list[Tensor]] = {"video": [], "audio": []}
    for video, log_mel in clips.batches(precision.device):
        with precision.autocast():
            found["video"].append(over_stretches(students.video.encoder.backbone(video)))
            found["audio"].append(over_stretches(students.audio.encoder.backbone(log_mel)))
    return {name: torch.cat(values) for name, values in found.items()}


# ------------------------------------------------------------------------------------------------ warnings

def chance_level_warnings(values: dict[str, float], steps: int, *, gallery: int) -> list[str]:
    """What somebody should look at, one line each: means over `steps` retrievals of each of `gallery` clips."""
    said = []
    for name in ("video", "audio"):
        if values[f"spread_{name}"] < COLLAPSED:
            said.append(f"the {name} targets have collapsed: all clips get nearly the same (spread "
                        f"{values[f'spread_{name}']:.3f}; 1 is the most); lower learning_rate or raise "
                        "teacher_momentum")  # fmt: skip
    best = max(values["retrieval_video_to_audio"], values["retrieval_audio_to_video"])
    if values["loss"] < FALLEN and best <= most_by_chance(gallery, steps * gallery):
        said.append(f"the loss has fallen to {values['loss']:.2f} but clips cannot be told apart (retrieval {best:.3f} "
                    f"among {gallery}, chance {1 / gallery:.3f}): the networks agree on something else than speech, "
                    "such as the place in the clip; docs/pretraining.md has remedies")  # fmt: skip
    return said


def most_by_chance(gallery: int, trials: int) -> float:
    """The share of right guesses that guessing exceeds about once in a hundred: mean and 2.33 deviations."""
    p = 1 / gallery
    return p + 2.33 * math.sqrt(p * (1 - p) / trials)


@dataclass
class Window:
    """Means of the training measures since they were last taken; they stay on the device until then."""

    sums: dict[str, Tensor] | None = None
    steps: int = 0

    def add(self, values: dict[str, Tensor]) -> None:
        self.sums = {name: value.detach() + (self.sums[name] if self.sums else 0) for name, value in values.items()}
        self.steps += 1

    def take(self) -> tuple[dict[str, float], int]:
        means = {name: float(value) / self.steps for name, value in (self.sums or {}).items()}
        steps, self.sums, self.steps = self.steps, None, 0
        return means, steps

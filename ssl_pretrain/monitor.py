"""Is it learning, or has it found a way around? Measures without gradient into the networks that are trained.

The loss alone proves nothing: the networks can agree on where in the clip a frame is, or on a constant of the clip, and
the loss falls while nothing is learned about speech. Hence

    spread      how different the clips' embeddings are at the same frame; 0: all the same (collapse), 1: as different
                as directions can be. Over clips and time together it would also be high for networks that only tell
                the frames of a clip apart.
    retrieval   does a clip's prediction fit its own target better than those of all other clips? Over a gallery of 100.
    synchrony   does the prediction from the video fit the sound at the right offset better than at six wrong ones?
    probe       can a linear map read the spoken word off the backbone's features? (Where the clips have words.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.clips import ClipDataset
from datasets.views import ViewSettings, evaluation_view
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


class Probe(nn.Module):
    """Reads words off features that it does not change: (B, T, D) -> (B, words). Trained beside the run, by itself.

    One linear map of the means over five stretches of the clip, standardised. A mean over the whole clip would not do:
    a word is an order of sounds, and networks trained towards centred targets are free to lose the clip's mean.
    """

    STRETCHES, LEARNING_RATE = 5, 1e-3

    def __init__(self, dim: int, words: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(self.STRETCHES * dim, affine=False)
        self.linear = nn.Linear(self.STRETCHES * dim, words)

    def forward(self, features: Tensor) -> Tensor:
        stretches = F.adaptive_avg_pool1d(features.detach().float().transpose(1, 2), self.STRETCHES)  # (B, D, 5)
        return self.linear(self.norm(stretches.flatten(1)))


class Probes(nn.Module):
    """One for each modality, with their optimiser; clips without a word (-1) are left out."""

    def __init__(self, students: Students, words: int) -> None:
        super().__init__()
        self.video = Probe(students.video.encoder.backbone.dim, words)
        self.audio = Probe(students.audio.encoder.backbone.dim, words)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=Probe.LEARNING_RATE)

    def learn(self, video: Tensor, audio: Tensor, word: Tensor) -> None:
        """Features (B, T, D) of each modality and the words (B,)."""
        known = word >= 0
        if known.sum() < 2:  # BatchNorm needs two
            return
        with torch.autocast(word.device.type, enabled=False):
            loss = sum(F.cross_entropy(probe(features[known]), word[known])
                       for probe, features in ((self.video, video), (self.audio, audio)))  # fmt: skip
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        self.optimizer.step()


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

class Validation:
    """The same clips each time: the middle window of up to `clips` tracks, spread evenly over the split."""

    def __init__(self, dataset: ClipDataset, views: ViewSettings, clips: int):
        chosen = np.unique(np.linspace(0, len(dataset) - 1, min(clips, len(dataset))).round().astype(int))
        self._dataset, self._views = dataset, views
        self._windows = [(int(clip), int(dataset.usable[clip] - dataset.length) // 2) for clip in chosen]
        self._words = torch.from_numpy(dataset.word[chosen].astype(np.int64))
        self.gallery = min(GALLERY, len(self._windows))

    @torch.no_grad()
    def measure(
        self, students: Students, teachers: Teachers, probes: Probes | None, precision: Precision,
        targets: Callable[[Tensor], Tensor],
    ) -> dict[str, float]:  # fmt: skip
        """Clean views through networks in evaluation mode, which are in train mode again afterwards.

        `targets` is what training does to the teachers' embeddings before they are compared.
        """
        networks = [students, teachers, *([probes] if probes else [])]
        for network in networks:
            network.eval()
        try:
            return self._measure(students, teachers, probes, precision, targets)
        finally:
            for network in networks:
                network.train()

    def _measure(self, students: Students, teachers: Teachers, probes: Probes | None, precision: Precision,
                 targets: Callable[[Tensor], Tensor]) -> dict[str, float]:  # fmt: skip
        device = precision.device
        found: dict[str, list[Tensor]] = {}
        for begin in range(0, len(self._windows), BATCH):
            read = self._dataset.__getitems__(self._windows[begin : begin + BATCH])
            if isinstance(read, Exception):
                raise read
            video, log_mel = evaluation_view(self._views, read[0].to(device), read[1].to(device))
            words = self._words[begin : begin + BATCH].to(device)
            with precision.autocast():
                seen, heard = students(video, log_mel)
                video_embedding, audio_embedding = teachers(video, log_mel)
                offset = torch.stack([teachers.audio(shifted(log_mel, frames)) for frames in OFFSETS])
            batch = {"seen": seen.prediction, "heard": heard.prediction, "video": video_embedding,
                     "audio": audio_embedding, "offset": offset.transpose(0, 1)}  # fmt: skip
            if probes:
                for name, answer in (("word_video", seen), ("word_audio", heard)):
                    batch[name] = (getattr(probes, name[5:])(answer.features).argmax(dim=1) == words)[words >= 0]
            for name, value in batch.items():
                found.setdefault(name, []).append(value.float())
        seen, heard, video, audio, offset = (torch.cat(found[name]) for name in (
            "seen", "heard", "video", "audio", "offset"))  # fmt: skip
        video_target, audio_target = targets(video), targets(audio)
        video_loss, audio_loss = agreement_loss(seen, audio_target), agreement_loss(heard, video_target)
        values = {
            "loss": video_loss + audio_loss, "video_to_audio": video_loss, "audio_to_video": audio_loss,
            "spread_video": spread(video_target), "spread_audio": spread(audio_target),
            "spread_video_prediction": spread(seen), "spread_audio_prediction": spread(heard),
            "retrieval_video_to_audio": self._over_galleries(seen, audio_target),
            "retrieval_audio_to_video": self._over_galleries(heard, video_target),
            "synchrony": synchrony(seen, offset, targets),
        }  # fmt: skip
        for name in ("word_video", "word_audio"):
            if found.get(name) and len(right := torch.cat(found[name])):
                values[name] = right.mean()
        return {name: float(value) for name, value in values.items()} | {"gallery": float(self.gallery)}

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

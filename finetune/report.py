"""What a fine-tuning run tells people: a line for each validation, a card for its bundle, a picture of its curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from datasets.clips import ClipDataset
from engine.report import Lines, draw_curves, validations
from engine.settings import Network
from finetune.settings import FinetuneSettings


def validation_line(epoch: int, epochs: int, found: Mapping[str, float], best: bool) -> str:
    each = ", ".join(f"{name.removeprefix('auc_')} {value:.3f}" for name, value in found.items() if name != "selection")
    return (f"epoch {epoch} of {epochs}: validation AUC {found['selection']:.3f} ({each})"
            f"{', the best so far' if best else ''}")  # fmt: skip


def card(settings: FinetuneSettings, network: Network, data: ClipDataset, found: Mapping[str, float], step: int) -> str:
    """The bundle's card.md, for those who get the bundle alone."""
    begun = "from scratch" if settings.from_scratch else f"from the stage-1 bundle `{settings.init}`"
    text = [
        "# Stage 2: a detector of forged talking faces", "",
        f"Video backbone `{network.name}`, started {begun}, fine-tuned with ssl_weight {settings.ssl_weight:g} on "
        f"{data.summary()} ({', '.join(data.dataset_names)}), seed {settings.seed}; the weights after step {step}, "
        "which did best on validation. `config.yaml` has all settings, the calibrated threshold and temperature.", "",
    ]  # fmt: skip
    if settings.leave_out:
        text += [f"Never trained on: {', '.join(settings.leave_out)}.", ""]
    if data.generated:
        text += ["**The training data is generated.** It knows no real face: no figure below, and no verdict of it, "
                 "says anything about real videos.", ""]  # fmt: skip
    text += ["| validation, each method against the real videos | AUC |", "| --- | --- |"]
    text += [f"| {name.removeprefix('auc_')} | {value:.3f} |" for name, value in found.items() if name != "selection"]
    text += ["", "For research. A score is evidence, not proof: forgeries of kinds never trained on, heavy compression "
             "and small faces make it worse.", ""]  # fmt: skip
    return "\n".join(text)


def curves(runs: Mapping[str, Lines], path: Path) -> None:
    names = sorted({name for lines in runs.values() for line in validations(lines) for name in line["values"]
                    if name != "selection"})  # fmt: skip
    draw_curves({"validation AUC, mean of the trained methods": ["selection"],
                 "validation AUC of each method": names}, runs, path)  # fmt: skip

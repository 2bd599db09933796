"""`crosstalk demo`: the whole way on the embedded corpus, from nothing on the disk to verdicts and a page about it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.store import Store
from engine.errors import UserError
from engine.settings import load_exactly
from engine.verbs import main_of

PARTS = ("lrw", "faceforensics", "celebdf_v2")
LEFT_OUT = ("NeuralTextures", "FaceShifter")  # never trained on, and neither is anything of Celeb-DF
WEIGHTS = ("0.3", "0")  # of the auxiliary loss; docs/results.md has five


@dataclass(frozen=True)
class DemoSettings:
    """configs/demo.yaml explains each."""

    out: Path
    seed: int
    lrw_clips: int
    faceforensics_pairs: int
    celebdf_identities: int
    youtube_real: int
    pretrain: tuple[str, ...]
    finetune: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, least in {"lrw_clips": 50, "faceforensics_pairs": 10, "celebdf_identities": 5}.items():
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)}: the demo needs at least {least}, or there is nobody "
                                "left to test on")  # fmt: skip


@dataclass(frozen=True)
class Step:
    what: str
    lasts: str  # on two cores
    commands: tuple[tuple[str, ...], ...]  # each a verb and its arguments; several run side by side


def steps(settings: DemoSettings) -> list[Step]:
    out, seed = settings.out, f"seed={settings.seed}"
    corpus, stores, runs = out / "corpus", out / "stores", out / "runs"
    tested = f"store=[{stores / 'faceforensics'},{stores / 'celebdf_v2'}]"
    sizes = [f"{name}={getattr(settings, name)}"
             for name in ("lrw_clips", "faceforensics_pairs", "celebdf_identities", "youtube_real")]  # fmt: skip
    common = ("experiment=finetune_small", f"store={stores / 'faceforensics'}", f"leave_out=[{','.join(LEFT_OUT)}]",
              seed, *settings.finetune)  # fmt: skip
    bundle = runs / "pretrain" / "bundle"
    tuned = [("finetune", f"init={bundle}", f"ssl_weight={weight}", f"run={runs / 'finetune' / f'weight_{weight}'}",
              *common) for weight in WEIGHTS]  # fmt: skip
    scratch = ("finetune", "init=none", "backbone=cnn_gru_attention_small", "backbone.arguments.time_padding=replicate",
               "ssl_weight=0", f"run={runs / 'finetune' / 'scratch'}", *common)  # fmt: skip
    return [
        Step("people who do not exist, speaking, and forgeries of them", "3 minutes",
             (("synthesize", f"out={corpus}", seed, *sizes),)),
        *(Step(f"their faces and voices, cut out: {name}", lasts,
               (("prepare", f"data={name}", f"root={corpus / name}", f"store={stores / name}"),))
          for name, lasts in zip(PARTS, ("1 minute", "90 seconds", "15 seconds"), strict=True)),
        Step("stage 1: how real faces and voices move together", "80 seconds",
             (("pretrain", f"store={stores / 'lrw'}", f"run={runs / 'pretrain'}", "experiment=pretrain_small", seed,
               "validation_split=test", *settings.pretrain),)),
        Step(f"stage 2: real or forged, without {' and '.join(LEFT_OUT)}, from scratch and by two weights; and what "
             "simple measurements already give away", "4 minutes",
             (tuned[0], scratch, *tuned[1:], *(("inspect", f"store={stores / name}")
                                                       for name in ("faceforensics", "celebdf_v2", "lrw")))),
        Step("how it does on people never seen, and on forgeries never trained on", "10 seconds",
             (("benchmark", f"model={runs / 'finetune' / 'weight_0.3' / 'bundle'}", tested, f"run={out / 'benchmark'}",
               "workers=0"),)),
        Step("the same of all three trainings", "10 seconds",
             (("benchmark", f"ablation={runs / 'finetune'}", tested, f"run={out / 'ablation'}", "workers=0"),)),
    ]  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    settings = load_exactly("demo", arguments, DemoSettings)
    planned, began = steps(settings), time.monotonic()
    total = len(planned) + 2
    print("The whole way on generated people, 10 to 14 minutes on two cores. Ctrl-C stops it, and the same command "
          "goes on where it was.", flush=True)  # fmt: skip
    for number, step in enumerate(planned, 1):
        if code := _done(f"[{number}/{total}]", step):
            return code
    videos = _videos(settings.out)
    if code := _done(f"[{total - 1}/{total}]", _verdicts(settings.out, videos)):
        return code
    print(f"\n[{total}/{total}] a page that leads through all of it", flush=True)
    from evaluation import tour  # brings the networks, for which a first look at the demo should not wait

    page = tour.write(settings.out, LEFT_OUT, videos)
    print(f"\nOpen it in a browser: {page.resolve()}    ({(time.monotonic() - began) / 60:.1f} minutes)", flush=True)
    return 0


def _videos(out: Path) -> dict[str, Path]:
    """Of the test people: the first video that is forged in a way never trained on, and the first real one."""
    table = Store.open(out / "stores" / "faceforensics").table
    found = {}
    for name, method in (("forged", LEFT_OUT[0]), ("real", "real")):
        number = next(i for i in range(len(table.ids)) if table.split[i] == "test" and table.method[i] == method)
        folder = "original_sequences/youtube" if name == "real" else f"manipulated_sequences/{method}"
        found[name] = out / "corpus/faceforensics" / folder / "c23/videos" / f"{Path(table.ids[number]).name}.mp4"
    return found


def _verdicts(out: Path, videos: Mapping[str, Path]) -> Step:
    """Those whose report is older than the model, or not there."""
    model, commands = out / "runs" / "finetune" / "weight_0.3" / "bundle", []
    for name, video in videos.items():
        report = out / "verdicts" / f"{name}.html"
        if not report.exists() or report.stat().st_mtime < (model / "config.yaml").stat().st_mtime:
            report.parent.mkdir(exist_ok=True)
            commands.append(("detect", str(video), "--model", str(model), "--report", str(report)))
    return Step("one forged and one real video, each with a report", "10 seconds", tuple(commands))


# ------------------------------------------------------------------------------------------------ doing it

def _done(title: str, step: Step) -> int:
    """The exit code of the first command that failed, or 0."""
    print(f"\n{title} {step.what}    (about {step.lasts})", flush=True)
    for command in step.commands:
        print(f"  crosstalk {' '.join(command)}", flush=True)
    began = time.monotonic()
    at_once = os.cpu_count() or 1
    if len(step.commands) == 1 or at_once == 1:
        code = next((code for verb, *rest in step.commands if (code := main_of(verb)(rest))), 0)
    else:
        code = _side_by_side(step.commands, at_once)
    print(f"{title} took {time.monotonic() - began:.0f} s", flush=True)
    return code


def _side_by_side(commands: Sequence[Sequence[str]], at_once: int) -> int:
    """Each in a process of its own with its share of the cores; every line says whose it is."""
    threads = max(1, at_once // len(commands))
    waiting, failed = list(commands), 0
    running: list[_Command] = []
    try:
        while (waiting and not failed) or running:
            while waiting and not failed and len(running) < at_once:
                running.append(_Command(waiting.pop(0), threads))
            time.sleep(0.2)
            for command in [command for command in running if command.process.poll() is not None]:
                running.remove(command)
                failed = failed or command.end()
    except KeyboardInterrupt:  # the terminal has told them as well
        failed = 128 + signal.SIGINT
    finally:
        for command in running:
            command.process.terminate()
            command.end()
    return failed


class _Command:
    def __init__(self, arguments: Sequence[str], threads: int) -> None:
        for_programs = arguments[0] == "detect"  # its stdout is JSON
        self.process = subprocess.Popen([sys.executable, "-m", "crosstalk", *arguments], text=True,
                                        stdout=subprocess.DEVNULL if for_programs else subprocess.PIPE,
                                        stderr=subprocess.PIPE if for_programs else subprocess.STDOUT,
                                        env={**os.environ, "OMP_NUM_THREADS": str(threads)})  # fmt: skip
        self._name = _name_of(arguments)
        self._reader = threading.Thread(target=self._pass_on, daemon=True)
        self._reader.start()

    def _pass_on(self) -> None:
        for line in self.process.stdout or self.process.stderr or ():
            print(f"  {self._name}: {line.rstrip()}", flush=True)

    def end(self) -> int:
        """Its exit code, once all that it said has been passed on."""
        self._reader.join()
        return self.process.wait()


def _name_of(arguments: Sequence[str]) -> str:
    """The last part of where it writes, by which it differs from the others."""
    target = next((a for key in ("run=", "store=") for a in arguments if a.startswith(key)), arguments[-1])
    return Path(target).name

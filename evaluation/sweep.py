"""The finished runs of stage 2 below a folder, and in which settings they differ."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.files import require_folder
from engine.journal import read_metrics
from engine.run import read_config
from finetune.settings import MAY_DIFFER

SEED = "seed"
# Where several settings tell the runs apart equally well, these do so first.
TELLING = ("ssl_weight", "backbone", "init", "freeze_backbone", "leave_out", "methods")
BUNDLES = ("init", "teacher")  # settings that name a bundle of stage 1


@dataclass(frozen=True)
class TrainedRun:
    name: str  # its folder, as seen from the sweep's
    folder: Path
    seed: int
    settings: dict[str, str]  # those that could matter to its result, without the seed
    unfinished: str  # why it cannot be judged; "" if it can

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"


@dataclass
class Sweep:
    axes: list[str]  # settings that differ, as few as tell all combinations apart
    runs: dict[tuple[str, ...], list[TrainedRun]] = field(default_factory=dict)  # finished, by their values of the axes
    missing: list[str] = field(default_factory=list)


def gathered(folder: Path) -> Sweep:
    require_folder(folder, "ablation")
    runs = [_read(path.parent, folder) for path in sorted(folder.rglob("config.yaml"))
            if (path.parent / "environment.json").exists() and "ssl_weight" in read_config(path)]  # fmt: skip
    finished = [run for run in runs if not run.unfinished]
    if not finished:
        found = "; ".join(f"{run.name}: {run.unfinished}" for run in runs) or "no run of crosstalk finetune"
        raise UserError(f"ablation={folder}: no finished run below it ({found})")
    sweep = Sweep(_axes([run.settings for run in runs]))
    for run in finished:
        same = sweep.runs.setdefault(_values(run, sweep.axes), [])
        if any(other.seed == run.seed for other in same):
            sweep.missing.append(f"{run.name}: left out, another run has the same settings and seed")
        else:
            same.append(run)
    sweep.missing += [f"{run.name}: {run.unfinished}" for run in runs if run.unfinished]
    sweep.missing += list(_absent(sweep, runs))
    sweep.runs = dict(sorted(sweep.runs.items(), key=lambda item: [_sortable(value) for value in item[0]]))
    return sweep


def shown(axes: Sequence[str], values: Sequence[str]) -> str:
    return ", ".join(f"{axis}={value}" for axis, value in zip(axes, values, strict=True)) or "all runs"


def _read(folder: Path, top: Path) -> TrainedRun:
    config = read_config(folder / "config.yaml")
    bundle = folder / "bundle" / "config.yaml"
    made = read_config(bundle) if bundle.exists() else {}
    config["backbone"] = made.get("backbone") or config.get("backbone")
    config["data"] = (made.get("trained_on") or {}).get("data")
    for key in BUNDLES:
        config[key] = _content(config.get(key))
    settings = dict(_leaves({key: value for key, value in config.items() if key not in (*MAY_DIFFER, SEED)}))
    name = str(folder.relative_to(top)) if folder != top else folder.name
    return TrainedRun(name, folder, config[SEED], settings, _unfinished(folder, config, bundle.exists()))


def _unfinished(folder: Path, config: Mapping[str, Any], has_bundle: bool) -> str:
    values = [line for line in read_metrics(folder) if line["split"] == "val"] if has_bundle else []
    if not values:
        return "not finished: no bundle yet"
    selection = [line["values"]["selection"] for line in values]
    since = len(selection) - 1 - selection.index(max(selection))
    stopped = config.get("patience") is not None and since >= config["patience"]
    if values[-1]["epoch"] < config["epochs"] and not stopped:
        return f"not finished: epoch {values[-1]['epoch']} of {config['epochs']}"
    return ""


def _content(bundle: str | None) -> str | None:
    """A bundle of stage 1 by the settings that made it: those of several seeds are the same choice."""
    path = Path(str(bundle)) / "config.yaml"
    if bundle in (None, "none") or not path.exists():
        return bundle
    made = {key: value for key, value in read_config(path).items() if key not in (*MAY_DIFFER, SEED, "step")}
    return json.dumps(made, sort_keys=True, default=str)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "null" if value is None else str(value)


def _axes(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Settings that others tell apart as well are dropped: the arguments of a backbone go with its name."""
    keys = list(dict.fromkeys(key for one in settings for key in one))
    differing = [key for key in keys if len({one.get(key) for one in settings}) > 1]
    names = {name: place for place, name in enumerate(TELLING)}
    differing.sort(key=lambda key: (names.get(key.split(".")[0], len(names)), key.count(".")))

    def combinations(chosen: Sequence[str]) -> int:
        return len({tuple(one.get(key) for key in chosen) for one in settings})

    kept = list(differing)
    for key in reversed(differing):
        others = [other for other in kept if other != key]
        if combinations(others) == combinations(differing):
            kept = others
    return kept


def _values(run: TrainedRun, axes: Sequence[str]) -> tuple[str, ...]:
    return tuple(_short(axis, run.settings.get(axis, "null")) for axis in axes)


def _short(axis: str, value: str) -> str:
    """A bundle of stage 1 stands as its settings, which nobody could read in a table."""
    return "stage 1" if axis in BUNDLES and value.startswith("{") else value


def _absent(sweep: Sweep, runs: Sequence[TrainedRun]) -> Iterable[str]:
    """Combinations of values that occur, with seeds that occur, of which there is no run at all."""
    there = {(*_values(run, sweep.axes), run.seed) for run in runs}
    columns = [dict.fromkeys(_values(run, sweep.axes)[i] for run in runs) for i in range(len(sweep.axes))]
    seeds = sorted({run.seed for run in runs})
    for values in itertools.product(*columns):
        absent = [seed for seed in seeds if (*values, seed) not in there]
        if absent:
            yield f"{shown(sweep.axes, values)}: no run with seed {', '.join(map(str, absent))}"


def _sortable(value: str) -> tuple[int, float, str]:
    number = as_number(value)
    return (1, 0.0, value) if number is None else (0, number, value)


def as_number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None

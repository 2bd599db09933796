"""`crosstalk benchmark ablation=DIR`: the finished runs of a sweep side by side, mean and spread over their seeds."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.store import Store
from engine.distributed import Context
from engine.files import said_plainly
from engine.metrics import auc
from engine.precision import Precision
from engine.report import Speaker
from engine.run import open_run
from engine.scores import judged
from engine.stop import StopSignal
from engine.tables import Cell, Content, Table
from evaluation import page, record
from evaluation.detector import Detector
from evaluation.measures import Tables
from evaluation.plan import Plan, plan
from evaluation.scored import score
from evaluation.settings import MAY_DIFFER, BenchmarkSettings
from evaluation.sweep import Sweep, TrainedRun, as_number, gathered, shown

Measured = dict[str, float]  # column -> AUC
PANELS = 9


def judge(settings: BenchmarkSettings, runs_below: Path, stores: Sequence[Store], precision: Precision,
          context: Context) -> int:  # fmt: skip
    with context.together("what is to be judged"):
        sweep = gathered(runs_below)
        runs = [run for several in sweep.runs.values() for run in several]
        detectors = [Detector.load(run.bundle) for run in runs[:1]]
        plan(settings.protocol, detectors, stores)  # what is wrong with the stores is found before anything is scored
    config, say = record.config_of(settings, [], stores), Speaker(context)
    with open_run(settings.folder, config, context, may_differ=MAY_DIFFER) as run, StopSignal(context) as stop:
        for line in (*run.notes, *sweep.missing):
            say.attention(f"note: {line}")
        plans: dict[str, Plan] = {}
        detectors = []
        for number, one in enumerate(runs, 1):
            say.say(f"[{number}/{len(runs)}] {one.name}")
            with context.together(f"bundle {one.bundle}"):
                detector = Detector.load(one.bundle)
                plans[one.name] = plan(settings.protocol, [detector], stores, before=f"{one.name}: ")
            if not score(plans[one.name].parts, settings.folder, precision, context, stop, batch=settings.batch,
                         workers=settings.workers):  # fmt: skip
                return stop.exit_code
            detector.network.to("meta")  # its weights are needed no more, and there may be dozens
            detectors.append(detector)
        with context.together(f"report in {settings.folder}"):
            if context.is_main:
                _conclude(settings, sweep, plans, detectors, stores, precision, say)
    return 0


def _conclude(settings: BenchmarkSettings, sweep: Sweep, plans: Mapping[str, Plan], detectors: Sequence[Detector],
              stores: Sequence[Store], precision: Precision, say: Speaker) -> None:  # fmt: skip
    folder = settings.folder
    record.write_scores(folder, [part for one in plans.values() for part in one.parts], precision)
    scores = Tables.read(folder)
    measured = {name: _measured(one, scores) for name, one in plans.items()}
    tables = {"ablation": _compared(sweep, measured), "runs": _each(sweep, measured)}
    about = record.provenance(settings, detectors, stores)
    notes = [*sweep.missing, *next(iter(plans.values())).missing]
    record.write_tables(folder, tables)
    record.write_results(folder, f"{settings.protocol.name}, ablation", about, notes, tables)
    picture = folder / "ablation.png"
    _draw(sweep, measured, picture)
    plot = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    page.save(folder / "report.html", "ablation.html.j2", title=f"Ablation: {', '.join(sweep.axes) or 'seeds'}",
                protocol=settings.protocol, tables=tables, notes=notes, about=about, plot=plot,
                runs=len(plans))  # fmt: skip
    say.say(tables["ablation"].markdown().rstrip())
    say.say(f"tables: {folder / 'tables'}\nplot: {picture}\nreport: {folder / 'report.html'}")


def _measured(one: Plan, scores: Tables) -> Measured:
    """The columns of the table, of one run: AUC of each line's videos, and their means."""
    found = {}
    for line in one.lines:
        found[line.name] = auc(*judged(scores.of(line)))
    return found | {name: float(np.mean([found[line] for line in lines])) for name, lines in one.means.items()}


def _compared(sweep: Sweep, measured: Mapping[str, Measured]) -> Table:
    columns = list(next(iter(measured.values())))
    rows: list[list[Content]] = [[*values, len(runs), *(_cell(runs, measured, column) for column in columns)]
                                 for values, runs in sweep.runs.items()]  # fmt: skip
    return Table([*sweep.axes, "seeds", *columns], rows, best=dict.fromkeys(columns, "max"))


def _cell(runs: Sequence[TrainedRun], measured: Mapping[str, Measured], column: str) -> Cell:
    """Mean and standard deviation over the seeds; one seed alone has no spread."""
    values = 100 * np.array([measured[run.name][column] for run in runs])
    return Cell(float(values.mean()), spread=float(values.std(ddof=1)) if len(values) > 1 else None)


def _each(sweep: Sweep, measured: Mapping[str, Measured]) -> Table:
    columns = list(next(iter(measured.values())))
    rows: list[list[Content]] = [
        [*values, run.seed, run.name, *(100 * measured[run.name][column] for column in columns)]
        for values, runs in sweep.runs.items() for run in runs]  # fmt: skip
    return Table([*sweep.axes, "seed", "run", *columns], rows)


def _draw(sweep: Sweep, measured: Mapping[str, Measured], path: Path) -> None:
    """A panel for each column: the first setting to the right, a line for each combination of the others."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = list(next(iter(measured.values())))[-PANELS:]
    places = _places(list(dict.fromkeys(values[:1] for values in sweep.runs)))
    lines = list(dict.fromkeys(values[1:] for values in sweep.runs))
    across = min(3, len(columns))
    down = -(-len(columns) // across)
    figure, axes = plt.subplots(down, across, figsize=(4 * across + 0.5, 3.2 * down + 0.6), layout="constrained",
                                squeeze=False)  # fmt: skip
    for axis in axes.flat[len(columns) :]:
        axis.axis("off")
    for axis, column in zip(axes.flat, columns, strict=False):
        for number, others in enumerate(lines):
            here = [(values[:1], runs) for values, runs in sweep.runs.items() if values[1:] == others]
            cells = [_cell(runs, measured, column) for _, runs in here]
            shift = 0.012 * (number - (len(lines) - 1) / 2) * (max(places.values()) - min(places.values()) or 1)
            axis.errorbar([places[value] + shift for value, _ in here], [cell.value for cell in cells],
                          [cell.spread or 0 for cell in cells], fmt="-o", markersize=4, capsize=3, linewidth=1.3,
                          color=f"C{number}", label=shown(sweep.axes[1:], others))  # fmt: skip
        axis.set_title(column, fontsize=10)
        axis.set_xticks(list(places.values()), [value[0] if value else "" for value in places], fontsize=8)
        axis.set_xlabel(sweep.axes[0] if sweep.axes else "", fontsize=9)
        axis.set_ylabel("AUC % (error bars: spread over seeds)", fontsize=7)
        axis.grid(alpha=0.3)
    if len(lines) > 1:
        figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(3, len(lines)),
                      fontsize=8)  # fmt: skip
    with said_plainly(f"picture {path}"):
        temporary = path.with_name(f".{path.name}.tmp")
        figure.savefig(temporary, format="png", dpi=120)
        temporary.replace(path)
    plt.close(figure)


def _places(values: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
    """Numbers stand where they belong on the axis, anything else in turn."""
    known = [as_number(value[0]) if value else None for value in values]
    numbers = [number for number in known if number is not None]
    if len(numbers) == len(values):
        return dict(zip(values, numbers, strict=True))
    return {value: float(place) for place, value in enumerate(values)}

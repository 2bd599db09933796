"""What pretraining and the auxiliary task bring on forgeries that a detector was never trained on, over several seeds.

    crosstalk synthesize out=runs/generalisation/corpus faceforensics_pairs=120 celebdf_identities=40 youtube_real=40
    crosstalk prepare data=faceforensics ...;  crosstalk prepare data=celebdf_v2 ...;  crosstalk prepare data=lrw ...
    crosstalk pretrain store=LRW_STORE run=runs/generalisation/stage1-0 experiment=pretrain_small seed=0     # and 1, 2
    python -m benchmarks.generalisation runs/generalisation/out --stage1 runs/generalisation/stage1-{0,1,2}/bundle \\
        --faceforensics STORE --celebdf STORE [--cases ...] [--processes 2]

Four ways to train the small detector: from scratch; from scratch and taught by a stage-1 teacher; pretrained;
pretrained and taught (the method). Each five times per seed: on the four forgeries of FaceForensics++ (FaceShifter is
never trained on), and on three of them, the fourth left out. Seed i starts from the i-th stage-1 bundle. Beside the
method the other weights of its auxiliary loss, trained on all four. Finished runs are not run again, interrupted ones
continue; `crosstalk benchmark ablation=` judges them on the test people. Prints tables, writes them to OUT/tables.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from datasets.baselines import BASELINES
from datasets.inspection import baselines_of
from datasets.store import Store, read_index
from engine.bootstrap import Scored
from engine.scores import read_scores
from engine.tables import Cell, Content, Table

METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
NEVER = ("FaceShifter", "Celeb-synthesis")  # in no training
# Half of what the preset takes: there are 69 runs.
SMALL = ("experiment=finetune_small", "batch=16", "learning_rate=8.0e-3", "epochs=10", "validate_every=5")
SCRATCH = ("init=none", "backbone=cnn_gru_attention_small", "backbone.arguments.time_padding=replicate")
CASES = {
    "scratch": "from scratch",
    "taught": "from scratch, ssl_weight 0.3",
    "weight_0": "pretrained, ssl_weight 0",
    "weight_0.3": "pretrained, ssl_weight 0.3",
}
WEIGHTS = ("weight_0.5", "weight_0.7", "weight_1.0")  # of the ablation, beside weight_0 and weight_0.3


@dataclass(frozen=True)
class Training:
    case: str
    without: str | None  # one of METHODS
    seed: int

    @property
    def folder(self) -> str:
        """Below OUT/runs; the weights apart from the others, for a table and a plot of their own."""
        group = "weights" if self.case.startswith("weight_") else "scratch"
        return f"{f'without_{self.without}' if self.without else 'all_four'}/{group}/{self.case}-{self.seed}"

    def settings(self, bundle: Path) -> list[str]:
        left_out = ",".join(filter(None, (self.without, "FaceShifter")))
        common = [*SMALL, f"seed={self.seed}", f"leave_out=[{left_out}]"]
        if self.case == "scratch":
            return [*common, *SCRATCH, "ssl_weight=0"]
        if self.case == "taught":
            return [*common, *SCRATCH, f"teacher={bundle}", "ssl_weight=0.3"]
        return [*common, f"init={bundle}", f"ssl_weight={self.case.removeprefix('weight_')}"]


def trainings(cases: Sequence[str], seeds: int) -> Iterator[Training]:
    """Those first that the most is read off: a run that is cut short has whole seeds."""
    for seed in range(seeds):
        for without in (None, *METHODS):
            yield from (Training(case, without, seed) for case in CASES if case in cases)
        yield from (Training(case, None, seed) for case in WEIGHTS if case in cases)


def run(*arguments: str, log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        subprocess.run([sys.executable, "-m", *arguments], stdout=file, stderr=file, check=True,
                       env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip


def train(training: Training, bundle: Path, store: Path, out: Path) -> None:
    folder = out / "runs" / training.folder
    if not (folder / "curves.png").exists():  # drawn at the end
        print(training.folder, flush=True)
        run("finetune", f"store={store}", f"run={folder}", *training.settings(bundle),
            log=out / "logs" / f"{training.folder.replace('/', ' ')}.txt")  # fmt: skip


def judged(out: Path, group: str, stores: Sequence[Path]) -> Path:
    """`crosstalk benchmark ablation=` of the runs below a folder -> its folder of scores and tables."""
    target = out / "judged" / group
    listed = ",".join(map(str, stores))
    run("crosstalk", "benchmark", f"ablation={out / 'runs' / group}", f"run={target}", "workers=0", f"store=[{listed}]",
        log=out / "logs" / f"judged {group.replace('/', ' ')}.txt")  # fmt: skip
    return target


Ready = tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]  # as `_ready` makes it
Test = dict[str, Scored]  # a column of the table -> the videos that it is measured on


def scores_of(folder: Path) -> dict[str, Test]:
    """Run -> column -> scores, from scores.csv: the forged videos of a method and the real ones of its data set."""
    found: dict[str, dict[str, list]] = {}
    for row in read_scores(folder / "scores.csv"):
        if row.logit is not None:
            name, _, dataset = row.dataset.rpartition(": ")
            found.setdefault(name, {}).setdefault(dataset, []).append(row)
    tests: dict[str, Test] = {}
    for name, datasets in found.items():
        for dataset, rows in datasets.items():
            for method in sorted({row.method for row in rows if row.label == 1}):
                chosen = [row for row in rows if row.label == 0 or row.method == method]
                people = [f"{dataset} {row.identity or row.video}" for row in chosen]
                tests.setdefault(name, {})[method] = Scored([row.label for row in chosen],
                                                            [row.logit for row in chosen], people)  # fmt: skip
    return tests


# ------------------------------------------------------------------------------------------------ tables

def tests_of_case(scores: dict[str, dict[str, Test]], case: str, seed: int) -> Test | None:
    """The columns of one case and seed: seen and never seen forgeries by the training on all four, each left-out one by
    the training without it. None where a run is missing."""
    name = f"{case}-{seed}"
    if any(not any(run.endswith(name) for run in scores.get(group, {})) for group in ("all_four", *METHODS)):
        return None

    def of(group: str) -> Test:
        return next(test for run, test in scores[group].items() if run.endswith(name))

    columns = {f"seen {method}": of("all_four")[method] for method in METHODS}
    columns |= {f"without {method}": of(method)[method] for method in METHODS}
    return columns | {method: of("all_four")[method] for method in NEVER if method in of("all_four")}


GROUPS = {"seen": "seen ", "left out": "without "}  # column of the table -> beginning of the tests in its mean


def aucs_of(test: Test) -> dict[str, float]:
    """AUC in per cent of each test, and the means that the table shows."""
    found = {name: 100 * float(roc_auc_score(scored.labels, scored.scores)) for name, scored in test.items()}
    means = {group: statistics.mean(value for name, value in found.items() if name.startswith(start))
             for group, start in GROUPS.items()}  # fmt: skip
    unseen = statistics.mean(value for name, value in found.items() if not name.startswith("seen "))
    return found | means | {"never trained on": unseen}


COLUMNS = ("seen", *(f"without {method}" for method in METHODS), *NEVER, "never trained on")


def spread(values: Sequence[float]) -> Cell:
    return Cell(statistics.mean(values), spread=statistics.stdev(values) if len(values) > 1 else None)


def compared(cases: dict[str, list[Test]], baselines: dict[str, dict[str, float]]) -> Table:
    """A line for each case, mean and standard deviation over the seeds; below, each linear baseline of the corpus."""
    rows: list[list[Content]] = []
    for case, tests in cases.items():
        found = [aucs_of(test) for test in tests]
        rows.append([CASES[case], str(len(tests)), *(spread([each[name] for each in found]) for name in COLUMNS)])
    for name in BASELINES:
        of = {method: 100 * values[name] for method, values in baselines.items() if name in values}
        left_out, never = [of[method] for method in METHODS], [of[method] for method in NEVER]
        rows.append([f"linear: {name.replace('_', ' ')}", "", statistics.mean(left_out), *left_out, *never,
                     statistics.mean(left_out + never)])  # fmt: skip
    return Table(["", "seeds", *COLUMNS], rows, digits=1)


def difference(better: list[Test], worse: list[Test]) -> Cell:
    """Mean AUC of the tests never trained on, over the seeds of two cases, and a 95 % interval: test people are drawn
    anew, the same for both cases and all seeds, and so are the seeds."""
    generator, draws = np.random.default_rng(0), 1000
    pairs = list(zip(better, worse, strict=False))
    values = np.array([[unseen(test) for test in pair] for pair in pairs])  # (seeds, 2)
    people = sorted({unit for test in better[0].values() for unit in test.units})
    place = {unit: number for number, unit in enumerate(people)}
    prepared = [[[_ready(scored, place) for name, scored in test.items() if not name.startswith("seen ")]
                 for test in pair] for pair in pairs]  # fmt: skip
    found = []
    for _ in range(draws):
        counts = np.bincount(generator.integers(len(people), size=len(people)), minlength=len(people))
        seeds = generator.integers(len(pairs), size=len(pairs))
        of_seed = [np.mean([_auc(won, who, counts) for won, who in prepared[seed][0]])
                   - np.mean([_auc(won, who, counts) for won, who in prepared[seed][1]]) for seed in seeds]  # fmt: skip
        found.append(100 * np.mean(of_seed))
    low, high = np.nanquantile(found, [0.025, 0.975])
    return Cell(float((values[:, 0] - values[:, 1]).mean()), float(low), float(high))


def unseen(test: Test) -> float:
    return aucs_of(test)["never trained on"]


def _ready(scored: Scored, place: dict[str, int]) -> Ready:
    """Wins of each forged video over each real one, (forged, real), and whom each video shows."""
    labels, scores = np.asarray(scored.labels), np.asarray(scored.scores)
    units = np.array([place[unit] for unit in scored.units])
    won = np.sign(scores[labels == 1][:, None] - scores[labels == 0]) / 2 + 0.5
    return won, (units[labels == 1], units[labels == 0])


def _auc(won: np.ndarray, who: tuple[np.ndarray, np.ndarray], counts: np.ndarray) -> float:
    forged, real = (counts[each].astype(float) for each in who)
    total = forged.sum() * real.sum()
    return float(forged @ won @ real / total) if total else np.nan


# ------------------------------------------------------------------------------------------------ the whole

def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generalisation", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="where the runs, scores and tables go")
    parser.add_argument("--stage1", type=Path, nargs="+", required=True, help="stage-1 bundles, one for each seed")
    parser.add_argument("--faceforensics", type=Path, required=True, help="store of the generated FaceForensics++")
    parser.add_argument("--celebdf", type=Path, required=True, help="store of the generated Celeb-DF")
    parser.add_argument("--cases", nargs="+", choices=[*CASES, *WEIGHTS], default=[*CASES, *WEIGHTS])
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    out, stores = options.out.resolve(), [options.faceforensics.resolve(), options.celebdf.resolve()]
    bundles = [bundle.resolve() for bundle in options.stage1]
    with ThreadPoolExecutor(options.processes) as pool:
        jobs = [pool.submit(train, training, bundles[training.seed], stores[0], out)
                for training in trainings(options.cases, len(bundles))]  # fmt: skip
        for job in jobs:
            job.result()
    scores = {"all_four": scores_of(judged(out, "all_four", stores))}
    scores |= {method: scores_of(judged(out, f"without_{method}", stores[:1])) for method in METHODS}
    judged(out, "all_four/weights", stores)  # its table and plot are the ablation of ssl_weight
    cases = {case: [test for seed in range(len(bundles)) if (test := tests_of_case(scores, case, seed))]
             for case in CASES}  # fmt: skip
    cases = {case: tests for case, tests in cases.items() if tests}
    baselines: dict[str, dict[str, float]] = {}
    for store in stores:
        baselines |= baselines_of(Store.open(store), list(read_index(store)), sys.maxsize)
    table = compared(cases, baselines)
    first, *others = reversed(cases)
    differences = Table(["never trained on", "AUC, in points"],
                        [[f"{CASES[first]}, against {CASES[other]}", difference(cases[first], cases[other])]
                         for other in others], digits=1)  # fmt: skip
    (out / "tables").mkdir(exist_ok=True)
    for name, each in (("generalisation", table), ("differences", differences)):
        (out / "tables" / f"{name}.md").write_text(each.markdown())
        (out / "tables" / f"{name}.csv").write_text(each.csv())
        print(f"\n{each.markdown()}")
    print(f"ssl_weight: {out / 'judged' / 'all_four' / 'weights' / 'ablation.png'}")
    print(json.dumps({case: statistics.mean(map(unseen, tests)) for case, tests in cases.items()}), flush=True)


if __name__ == "__main__":
    main()

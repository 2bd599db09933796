"""Who is judged on what: the parts that are scored and the lines of the table that is made of them.

A part is one detector on one store; its name is the column `dataset` of scores.csv. A line holds forged videos of one
part against the real ones of the same or another part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from datasets.clips import ClipDataset
from datasets.perturbations import PARAMETERS, SEVERITIES
from datasets.records import FORGED, REAL
from datasets.store import Store
from engine.errors import UserError
from evaluation.detector import Detector
from evaluation.settings import Protocol, TestSet

ALL = "all forgeries"
CLEAN = "clean"


@dataclass(frozen=True)
class Part:
    name: str
    detector: Detector
    data: ClipDataset

    @property
    def store(self) -> Store:
        return self.data.stores[0]


@dataclass(frozen=True)
class Line:
    name: str
    forged: Part
    reals: Part
    methods: tuple[str, ...]
    people: str  # the data set that the real videos' identities are names in
    severity: int | None = None

    @property
    def trained_on(self) -> str:
        """Whether the detector has seen such forgeries in training."""
        dataset = self.forged.data.dataset_names[0]
        found = {self.forged.detector.trained_on(dataset, method) for method in self.methods}
        if None in found:
            return "unknown"
        return "some" if len(found) > 1 else "yes" if True in found else "no"


@dataclass
class Plan:
    parts: list[Part] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    means: dict[str, list[str]] = field(default_factory=dict)  # name -> the lines that the mean is over
    missing: list[str] = field(default_factory=list)  # what the protocol wants and nobody gave, and how to get it


def plan(protocol: Protocol, detectors: Sequence[Detector], stores: Sequence[Store], before: str = "") -> Plan:
    """`before` begins the parts' names, where several detectors are judged one after the other."""
    how = {"methods": _methods, "sets": _sets, "perturbations": _perturbations}
    made = (_left_out(protocol, detectors, _by_dataset(stores)) if protocol.lines == "left_out" else
            how[protocol.lines](protocol, detectors[0], stores, before))  # fmt: skip
    for line in made.lines:
        _require_both(line, protocol.split)
    names = [line.name for line in made.lines]
    least = 1 if protocol.lines == "perturbations" else 2
    made.means = {name: lines for name, lines in made.means.items() if len(lines) >= least}
    assert len(set(names)) == len(names)
    return made


def dataset_of(store: Store) -> str:
    names = store.table.dataset.names
    if len(names) != 1:
        raise UserError(f"{store.root} holds {' and '.join(names) or 'nothing'}: a benchmark takes a data set a store")
    return names[0]


def perturbation_of(store: Store) -> tuple[str, int] | None:
    worse = store.manifest.get("perturb")
    return (worse["name"], int(worse["severity"])) if worse else None


def _by_dataset(stores: Sequence[Store]) -> dict[str, Store]:
    """Clean stores by data set."""
    found: dict[str, Store] = {}
    for store in stores:
        name = dataset_of(store)
        if perturbation_of(store):
            raise UserError(f"{store.root} holds perturbed videos: they are for protocol=robustness")
        if name in found:
            raise UserError(f"{found[name].root} and {store.root} both hold {name}: give one of them")
        found[name] = store
    return found


def _part(name: str, detector: Detector, store: Store, protocol: Protocol, methods: Sequence[str] | None) -> Part:
    if not (np.asarray(store.table.label) >= 0).any():
        raise UserError(f"{store.root} has no labels, so nothing can be measured; submission=FILE writes its scores")
    return Part(name, detector, ClipDataset(store, split=protocol.split, labels=(REAL, FORGED), methods=methods))


def forgeries(data: ClipDataset) -> list[str]:
    return sorted({data.method_names[code] for code in data.method[data.label == FORGED].tolist()})


def _methods(protocol: Protocol, detector: Detector, stores: Sequence[Store], before: str) -> Plan:
    made, found = Plan(), _by_dataset(stores)
    for dataset, store in found.items():
        part = _part(f"{before}{dataset}", detector, store, protocol, protocol.methods)
        prefix = f"{dataset}: " if len(found) > 1 else ""
        kinds = forgeries(part.data)
        each = [Line(f"{prefix}{kind}", part, part, (kind,), dataset) for kind in kinds]
        if len(each) != 1:
            each.append(Line(f"{prefix}{ALL}", part, part, tuple(kinds), dataset))
        made.parts.append(part)
        made.lines += each
        made.means[f"{prefix}mean of the forgeries"] = [line.name for line in each if line.methods != tuple(kinds)]
    return made


def _sets(protocol: Protocol, detector: Detector, stores: Sequence[Store], before: str) -> Plan:
    made, found = Plan(), _by_dataset(stores)
    wanted: dict[str, set[str] | None] = {}  # data set -> its forgeries that some line needs
    given = [one for one in protocol.sets if one.dataset in found and (one.reals or one.dataset) in found]
    for one in given:
        known = wanted.setdefault(one.dataset, set())
        wanted[one.dataset] = None if one.methods is None or known is None else known | set(one.methods)
        wanted.setdefault(one.reals or one.dataset, set())
    unused = [str(store.root) for dataset, store in found.items() if dataset not in wanted]
    if unused or not given:
        names = ", ".join(f"{one.name} ({one.dataset}" + (f" and {one.reals})" if one.reals else ")")
                          for one in protocol.sets)  # fmt: skip
        raise UserError(f"{', '.join(unused) or 'none of the stores'}: no part in protocol={protocol.name}, which is "
                        f"about {names}")  # fmt: skip
    parts = {}
    for dataset, methods in wanted.items():
        parts[dataset] = _part(f"{before}{dataset}", detector, found[dataset], protocol,
                               None if methods is None else sorted(methods))  # fmt: skip
    made.parts = list(parts.values())
    for one in protocol.sets:
        if one in given:
            shown = tuple(one.methods or forgeries(parts[one.dataset].data))
            people = one.reals or one.dataset
            made.lines.append(Line(one.name, parts[one.dataset], parts[people], shown, people))
        else:
            made.missing.append(_no_store(one, found))
    made.means["mean"] = [line.name for line in made.lines]
    return made


def _no_store(one: TestSet, found: Mapping[str, Store]) -> str:
    lacking = [name for name in (one.dataset, one.reals) if name and name not in found]
    commands = ", ".join(f"crosstalk prepare data={name} root=DIR store=STORE" for name in lacking)
    return f"{one.name}: no store of {' and '.join(lacking)} was given; one is made by: {commands}"


def _left_out(protocol: Protocol, detectors: Sequence[Detector], found: Mapping[str, Store]) -> Plan:
    made, wanted = Plan(), list(protocol.methods or ())
    if len(found) != 1:
        raise UserError(f"protocol={protocol.name} takes one store, not those of {', '.join(found)}")
    dataset, store = next(iter(found.items()))
    without: dict[str, Detector] = {}
    for detector in detectors:
        names = [name for name in wanted if detector.trained_on(dataset, name) is False]
        if len(names) != 1:
            raise UserError(f"{detector.bundle}: trained without {' and '.join(names) or 'none'} of "
                            f"{', '.join(wanted)}; protocol={protocol.name} needs bundles that were each trained "
                            "without one of them")  # fmt: skip
        if names[0] in without:
            raise UserError(f"{without[names[0]].bundle} and {detector.bundle} were both trained without {names[0]}: "
                            "give one of them")  # fmt: skip
        without[names[0]] = detector
    for name in wanted:
        if name not in without:
            command = f"crosstalk finetune init=BUNDLE store={store.root} leave_out=[{name},FaceShifter] run=DIR"
            made.missing.append(f"{name}: no bundle that was trained without it was given; one is made by: {command}")
            continue
        part = _part(f"{dataset}, trained without {name}", without[name], store, protocol, (name,))
        made.parts.append(part)
        made.lines.append(Line(name, part, part, (name,), dataset))
    made.means["mean"] = [line.name for line in made.lines]
    return made


def _perturbations(protocol: Protocol, detector: Detector, stores: Sequence[Store], before: str) -> Plan:
    made = Plan()
    found: dict[tuple[str, tuple[str, int] | None], Store] = {}
    for store in stores:
        key = (dataset_of(store), perturbation_of(store))
        if key in found:
            raise UserError(f"{found[key].root} and {store.root} are both {' '.join(map(str, key[1] or (CLEAN,)))}")
        found[key] = store
    dataset, *others = sorted({name for name, _ in found})
    if others:
        raise UserError(f"protocol={protocol.name} takes the stores of one data set, not of {dataset}, "
                        f"{', '.join(others)}")  # fmt: skip

    def add(name: str, store: Store, severity: int | None) -> str:
        part = _part(f"{before}{dataset}" + ("" if severity is None else f", {name}"), detector, store, protocol,
                     protocol.methods)  # fmt: skip
        made.parts.append(part)
        made.lines.append(Line(name, part, part, tuple(forgeries(part.data)), dataset, severity))
        return name

    def command(more: str) -> str:
        return f"made by: crosstalk prepare data={dataset} root=DIR store=STORE{more}"

    if (dataset, None) in found:
        add(CLEAN, found[dataset, None], None)
    else:
        made.missing.append(f"clean: no store of unperturbed videos was given; {command('')}")
    for kind in PARAMETERS:
        here = [severity for severity in SEVERITIES if (dataset, (kind, severity)) in found]
        lines = [add(f"{kind} {severity}", found[dataset, (kind, severity)], severity) for severity in here]
        made.means[kind] = lines
        absent = [str(severity) for severity in SEVERITIES if severity not in here]
        if absent:
            more = command(f" perturb={kind} severity={absent[0]}")
            made.missing.append(f"{kind}: no store of severity {', '.join(absent)}; {more}")
    if not any(line.severity for line in made.lines):
        raise UserError(f"none of the stores is perturbed; {command(' perturb=blur severity=3')}, for example")
    return made


def _require_both(line: Line, split: str | None) -> None:
    real = int((line.reals.data.label == REAL).sum())
    codes = [line.forged.data.method_names.index(method) for method in line.methods]
    forged = int((np.isin(line.forged.data.method, codes) & (line.forged.data.label == FORGED)).sum())
    if not (real and forged):
        where = f" in split {split}" if split else ""
        raise UserError(f"{line.name}: {real} real and {forged} forged videos{where} of {line.forged.store.root}; "
                        "measuring needs at least one of each")  # fmt: skip

"""From the folders that other people hand out to `VideoRecord`s: one file per dataset layout."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from datasets.catalogs import _reading, celebdf, deeperforensics, dfdc, faceforensics, folder, lrw
from datasets.records import Catalogue
from engine.errors import UserError
from engine.files import require_folder

_CATALOGUES: dict[str, Callable[..., Catalogue]] = {
    "lrw": lrw.catalogue,
    "faceforensics": faceforensics.catalogue,
    "celebdf_v1": partial(celebdf.catalogue, version=1),
    "celebdf_v2": partial(celebdf.catalogue, version=2),
    "dfdc": dfdc.catalogue,
    "deeperforensics": deeperforensics.catalogue,
    "folder": folder.catalogue,
}


def available() -> list[str]:
    return list(_CATALOGUES)


def options(name: str) -> list[str]:
    """What this dataset's catalogue can be told besides its root."""
    catalogue = _known(name)
    fixed = catalogue.keywords if isinstance(catalogue, partial) else {}
    parameters = inspect.signature(catalogue).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in fixed]


def create(name: str, root: Path, **chosen: object) -> Catalogue:
    """The catalogue of the dataset `name` that lies at `root`; whatever is wrong with either is said."""
    catalogue = _known(name)
    for option in chosen:
        if option not in options(name):
            raise UserError(f"data={name} has no option {option!r}; it has {', '.join(options(name))}")
    root = Path(root).expanduser().absolute()
    if not _reading.is_text(str(root)):
        raise UserError(f"root={_reading.shown(str(root))}: the path is not UTF-8; rename the folder")
    require_folder(root, f"root of data={name}")
    return catalogue(root, **chosen)


def _known(name: str) -> Callable[..., Catalogue]:
    if name not in _CATALOGUES:
        nearest = get_close_matches(str(name).lower(), _CATALOGUES, n=1)
        hint = f" (did you mean {nearest[0]}?)" if nearest else ""
        raise UserError(f"data={name}: no such dataset{hint}; known are {', '.join(_CATALOGUES)}")
    return _CATALOGUES[name]

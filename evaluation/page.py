"""Pages: one HTML file each, nothing loaded from elsewhere; what comes from the data is escaped, and no script runs but
the page's own, which its policy names by digest.
"""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from engine.files import said_plainly, write_atomically
from evaluation import figures

FOLDER = Path(__file__).parent


def render(template: str, **values: Any) -> str:
    made = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                       lstrip_blocks=True)  # fmt: skip
    made.globals.update(colour=figures.colour, script=script, policy_of=policy_of)
    made.filters["yaml"] = lambda value: yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return made.get_template(template).render(**values)


def save(path: Path, template: str, **values: Any) -> None:
    text = render(template, **values)
    with said_plainly(f"writing {path}"):
        write_atomically(path, text.encode("utf-8", "replace"))  # file names may be any bytes, a page may not


def script(name: str) -> Markup:
    """One of our own scripts, whole: it goes into the page between its tags."""
    return Markup((FOLDER / name).read_text())


def policy_of(name: str) -> str:
    """What a page's policy says so that this script may run, and no other."""
    digest = hashlib.sha256(script(name).encode()).digest()
    return f"script-src 'sha256-{base64.b64encode(digest).decode()}'"


def data_address(picture: Image.Image, quality: int = 85) -> str:
    """The picture as a JPEG within the page."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()

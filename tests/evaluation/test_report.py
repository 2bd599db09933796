"""The report: whole in one file, nothing of the data gets a say in it."""

from html.parser import HTMLParser

import numpy as np
import pytest

from benchmarks.stores import Track, write_store
from evaluation import figures
from evaluation.mistakes import worst
from tests.evaluation.small import judged, small_detector
from tests.ssl_pretrain.small import talking

HOSTILE = "<script>alert('1')</script>\"&.mp4"


class Page(HTMLParser):
    """Tags, and what they would load."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.loads, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]
        assert not any(name.startswith("on") for name, _ in attributes)

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile <b>&")
    tracks = []
    for person in range(4):
        for label, method in ((0, "real"), (1, "<img src=x onerror=alert(1)>"), (1, "{{ 7 * 7 }}")):
            crops, _ = talking(10 * person + label)
            crops[..., 1] //= 1 + label
            tracks.append(Track(crops, None, {"id": f"folder/{method}/{person}/{HOSTILE}", "dataset": "folder",
                                              "method": method, "label": label, "split": "test"}))  # fmt: skip
    write_store(root / "store", tracks)
    small_detector(root / "bundle", calibration={"threshold": -1000.0, "temperature": 1.0})  # all reals are mistakes
    codes, said = judged(root / "run", f"model={root / 'bundle'}", f"store={root / 'store'}")
    assert codes == [0], said
    text = (root / "run" / "report.html").read_text()
    assert "\\<img src=x" in (root / "run" / "tables" / "results.md").read_text(), "Markdown is escaped as well"
    return text


def test_names_of_the_data_are_text(page):
    read = Page(page)
    assert "script" not in read.tags and HOSTILE in read.text and "<img src=x onerror=alert(1)>" in read.text
    assert "{{ 7 * 7 }}" in read.text
    assert page.count("<img") == sum("data:image/jpeg" in source for source in read.loads) == 4


def test_nothing_is_loaded_from_elsewhere(page):
    loads = Page(page).loads
    assert loads and all(source.startswith(("data:image/", "#")) for source in loads)
    assert "http" not in page.replace("http-equiv", "") and "@import" not in page and "url(" not in page
    assert "default-src 'none'" in page


def test_what_a_reader_must_see_is_there_and_the_table_comes_first(page):
    for heading in ("Curves", "Scores", "Worst mistakes", "Everything measured", "What it was made of"):
        assert f"{heading}</h2>" in page
    assert "Generated data." in page
    assert page.index("<table") < page.index("<svg") < page.index('<img class="strip"')


def test_mistakes_are_the_furthest_on_the_wrong_side():
    from types import SimpleNamespace

    from engine.calibration import Calibration
    from engine.scores import Score

    def row(name, label, logit):
        return Score(name, "part", "real" if label == 0 else "F", label, "", 1, logit)

    rows = [row("a", 0, 2.0), row("b", 0, 5.0), row("c", 0, 0.5), row("d", 1, 0.9), row("e", 1, 1.0), row("f", 1, -3.0)]
    crops = np.zeros((25, 150, 150, 3), np.uint8)
    store = SimpleNamespace(table=SimpleNamespace(ids=np.array(list("abcdef"))), frames=lambda i, a, b: crops[a:b])
    part = SimpleNamespace(name="part", store=store, detector=SimpleNamespace(calibration=Calibration(threshold=1.0)))
    line = SimpleNamespace(reals=part, forged=part)
    clip = {row.video: SimpleNamespace(logit=row.logit, track=row.video, start=0) for row in rows}
    found = worst([line], SimpleNamespace(of=lambda line: rows, clips_of=lambda row: [clip[row.video]]))
    assert [(m.row.video, m.distance) for m in found["Real videos called forged"]] == [("b", 4.0), ("a", 1.0)]
    assert [m.row.video for m in found["Forged videos called real"]] == ["f", "d"], "the threshold itself is forged"


def test_a_figure_draws_what_it_is_given():
    text = str(figures.roc({"a": ((0, 0.5, 1), (0, 1, 1)), "<b>": ((0, 1), (0, 1))}))
    assert text.count('class="curve"') == 2 and "<b>" not in text
    bars = str(figures.histogram([0.0, 0.1], [0.9], None, (0.0, 1.0), bins=10))
    assert bars.count('class="bar"') == 3, "two real bars, a forged one; empty ones are not drawn"

"""One table in four forms: what readers see is rounded and escaped, what programs read has all digits."""

import csv
import io
import json
import math
import shutil
import subprocess

import numpy as np
import pytest

from engine.tables import Cell, Table

TABLE = Table(
    ["Model", "Videos", "AUC", "EER"],
    [
        ["ours_1", 518, Cell(87.128, 85.0, 89.25), 12.345],
        ["a & b | 100%", 518, Cell(87.1301, spread=0.5), None],
        ["third", np.int64(7), Cell(61), np.float32(0.5)],
    ],
    best={"AUC": "max", "EER": "min"},
)


def test_markdown():
    assert TABLE.markdown() == (
        "| Model | Videos | AUC | EER |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| ours\\_1 | 518 | **87.13** [85.00, 89.25] | 12.35 |\n".replace("12.35", f"{12.345:.2f}")
        + "| a & b \\| 100% | 518 | **87.13** ± 0.50 | – |\n"  # reads the same as the best, so is marked as well
        "| third | 7 | 61 | **0.50** |\n"
    )


def test_latex():
    assert TABLE.latex() == "\n".join([
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"Model & Videos & AUC & EER \\",
        r"\midrule",
        rf"ours\_1 & 518 & \textbf{{87.13}} [85.00, 89.25] & {12.345:.2f} \\",
        r"a \& b \textbar{} 100\% & 518 & \textbf{87.13} $\pm$ 0.50 & -- \\",
        r"third & 7 & 61 & \textbf{0.50} \\",
        r"\bottomrule",
        r"\end{tabular}",
        "",
    ])  # fmt: skip


def test_latex_escapes():
    text = Table(["x"], [[r"_ % & # $ { } ~ ^ \ < >"]]).latex().splitlines()[4]
    assert text == (r"\_ \% \& \# \$ \{ \} \textasciitilde{} \textasciicircum{} \textbackslash{} "
                    r"\textless{} \textgreater{} \\")  # fmt: skip
    rows = Table(["x"], [["[1] and"], ["*"]]).latex().splitlines()
    assert rows[4:6] == [r"{}[1] and \\", r"{}* \\"]  # not an argument of the line break before it
    assert Table(["x"], [[-1.5]]).latex().splitlines()[4] == r"$-$1.50 \\"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_is_accepted(tmp_path):
    nasty = Table(["a_b", "^"], [[r"\~#$%&{}[]*<>|", Cell(-1, -2, 0)], ["[x]", None]], best={"^": "max"})
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}" + nasty.latex() + "\\end{document}"
    )
    subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_csv_has_all_digits_and_empty_cells():
    rows = list(csv.DictReader(io.StringIO(TABLE.csv(), newline="")))
    assert list(rows[0]) == ["Model", "Videos", "AUC", "AUC low", "AUC high", "AUC spread", "EER"]
    assert rows[0] == {"Model": "ours_1", "Videos": "518", "AUC": "87.128", "AUC low": "85.0", "AUC high": "89.25",
                       "AUC spread": "", "EER": "12.345"}  # fmt: skip
    assert rows[1]["Model"] == "a & b | 100%" and rows[1]["EER"] == "" and rows[1]["AUC spread"] == "0.5"
    assert rows[2]["Videos"] == "7" and rows[2]["EER"] == "0.5"


def test_json_has_all_digits_and_null():
    rows = json.loads(TABLE.json())
    assert rows[0] == {"Model": "ours_1", "Videos": 518, "AUC": {"value": 87.128, "low": 85.0, "high": 89.25},
                       "EER": 12.345}  # fmt: skip
    assert rows[1]["EER"] is None and rows[1]["AUC"] == {"value": 87.1301, "spread": 0.5}
    assert json.loads(Table(["x"], [[0.1 + 0.2]]).json()) == [{"x": 0.1 + 0.2}]


def test_digits_and_minus_zero():
    assert Table(["x"], [[0.0004], [-0.0004]], digits=3).markdown().splitlines()[2:] == ["| 0.000 |", "| 0.000 |"]
    assert Table(["x"], [[2.0], [2]], digits=0).markdown().splitlines()[2:] == ["| 2 |", "| 2 |"]


def test_best_passes_over_text_and_gaps():
    rows = Table(["x"], [["n/a"], [None], [3.0], [-4.0]], best={"x": "min"}).markdown().splitlines()[2:]
    assert rows == ["| n/a |", "| – |", "| 3.00 |", "| **-4.00** |"]
    assert "**" not in Table(["x"], [[None]], best={"x": "max"}).markdown()


def test_no_rows():
    empty = Table(["a", "b"], [])
    assert empty.markdown() == "| a | b |\n| --- | --- |\n" and empty.csv() == "a,b\n" and empty.json() == "[]\n"


def test_text_stays_in_its_cell():
    table = Table(["x"], [["two\nlines | and *stars*"]])
    assert table.markdown().splitlines()[2:] == [r"| two lines \| and \*stars\* |"]
    assert next(iter(csv.DictReader(io.StringIO(table.csv(), newline=""))))["x"] == "two\nlines | and *stars*"


@pytest.mark.parametrize("make", [
    lambda: Table(["x", "x"], []),
    lambda: Table(["x"], [[1, 2]]),
    lambda: Table(["x"], [[1.0]], best={"y": "max"}),
    lambda: Table(["x"], [[1.0]], best={"x": "most"}),
    lambda: Table(["x"], [[math.nan]]),
    lambda: Table(["x"], [[np.float32("inf")]]),
    lambda: Table(["x"], [[Cell(1, 0, math.nan)]]),
    lambda: Cell(1, low=0),
    lambda: Cell(1, 0, 2, spread=1),
])  # fmt: skip
def test_a_table_that_would_mislead_is_a_bug(make):
    with pytest.raises(ValueError):
        make()

"""Pictures of a report as SVG within the page: they take the page's colours, dark or light, and need no script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from markupsafe import Markup

from engine.calibration import Bin, Calibration

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 300, 260, 38, 34, 10  # of a figure; of its margins
COLOURS = 8  # --c0 ... --c7 in the style sheet


class Axes:
    """A picture from (0, 0) to (1, 1), y upwards, with ticks."""

    def __init__(self, x: str, y: str, x_ticks: Mapping[float, str], y_ticks: Mapping[float, str], *,
                 width: int = WIDTH, height: int = HEIGHT):  # fmt: skip
        self.parts: list[Markup] = []
        self._width, self._height = width, height
        for at, text in x_ticks.items():
            self._add('<line class="grid" x1="{x:.1f}" y1="{a:.1f}" x2="{x:.1f}" y2="{b:.1f}"/>'
                      '<text x="{x:.1f}" y="{t:.1f}" text-anchor="middle">{text}</text>',
                      x=self.x(at), a=self.y(0), b=self.y(1), t=self.y(0) + 13, text=text)  # fmt: skip
        for at, text in y_ticks.items():
            self._add('<line class="grid" x1="{a:.1f}" y1="{y:.1f}" x2="{b:.1f}" y2="{y:.1f}"/>'
                      '<text x="{t:.1f}" y="{v:.1f}" text-anchor="end">{text}</text>',
                      y=self.y(at), a=self.x(0), b=self.x(1), t=self.x(0) - 5, v=self.y(at) + 3.5,
                      text=text)  # fmt: skip
        self._add('<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{text}</text>',
                  x=self.x(0.5), y=self._height - 5, text=x)  # fmt: skip
        self._add('<text transform="translate(10 {y:.1f}) rotate(-90)" text-anchor="middle">{text}</text>',
                  y=self.y(0.5), text=y)  # fmt: skip

    def x(self, share: float) -> float:
        return LEFT + share * (self._width - LEFT - 10)

    def y(self, share: float) -> float:
        return self._height - BOTTOM - share * (self._height - BOTTOM - TOP)

    def _add(self, template: str, **values: object) -> None:
        self.parts.append(Markup(template).format(**values))

    def line(self, xs: Iterable[float], ys: Iterable[float], colour: str, kind: str = "curve") -> None:
        points = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in zip(xs, ys, strict=True))
        self._add('<polyline class="{kind}" style="stroke: var({colour})" points="{points}"/>',
                  kind=kind, colour=colour, points=points)  # fmt: skip

    def bar(self, x0: float, x1: float, y0: float, y1: float, colour: str, **data: object) -> None:
        """Between two heights. `data` are attributes for the page's script; None leaves one out."""
        width, height = self.x(x1) - self.x(x0) - 0.6, self.y(min(y0, y1)) - self.y(max(y0, y1))
        said = [Markup(' data-{}="{}"').format(key, value) for key, value in data.items() if value is not None]
        self._add('<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" style="fill: var({colour})" '
                  'class="bar"{said}/>', x=self.x(x0), y=self.y(max(y0, y1)), w=max(width, 0.6), h=height,
                  colour=colour, said=Markup("").join(said))  # fmt: skip

    def dot(self, x: float, y: float, colour: str, radius: float = 3.2) -> None:
        self._add('<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" style="fill: var({colour})"/>',
                  x=self.x(x), y=self.y(y), r=radius, colour=colour)  # fmt: skip

    def svg(self, title: str) -> Markup:
        return Markup('<svg viewBox="0 0 {w} {h}" role="img" aria-label="{title}">{body}</svg>').format(
            w=self._width, h=self._height, title=title, body=Markup("").join(self.parts))  # fmt: skip


SHARES = {0.0: "0", 0.25: "0.25", 0.5: "0.5", 0.75: "0.75", 1.0: "1"}


def roc(curves: Mapping[str, tuple[Iterable[float], Iterable[float]]]) -> Markup:
    axes = Axes("real videos called forged", "forged videos found", SHARES, SHARES)
    axes.line((0, 1), (0, 1), "--faint", "dashed")
    for number, (xs, ys) in enumerate(curves.values()):
        axes.line(xs, ys, colour(number))
    return axes.svg("ROC curves")


def histogram(real: Sequence[float], forged: Sequence[float], calibration: Calibration | None,
              span: tuple[float, float], bins: int = 24) -> Markup:  # fmt: skip
    """Shares of each class by score; the threshold is dashed. `span` is shared, so that pictures can be compared."""
    low, high = span
    counts = [np.histogram(values, bins, span)[0] / max(len(values), 1) for values in (real, forged)]
    top = float(max(count.max() for count in counts)) or 1.0
    ticks = {(value - low) / (high - low): f"{value:g}" for value in round_numbers(low, high)}
    axes = Axes("logit: the higher, the more forged", "share of videos", ticks, {0: "0", 1: f"{100 * top:.0f} %"})
    for number in range(bins):
        for count, name in zip(counts, ("--real", "--forged"), strict=True):
            if count[number]:
                axes.bar(number / bins, (number + 1) / bins, 0.0, float(count[number]) / top, name)
    if calibration is not None and low < calibration.threshold < high:
        at = (calibration.threshold - low) / (high - low)
        axes.line((at, at), (0, 1), "--ink", "dashed")
    return axes.svg("scores of real and forged videos")


def round_numbers(low: float, high: float) -> list[float]:
    """At most six, 1, 2 or 5 times a power of ten apart."""
    power = 10.0 ** np.floor(np.log10((high - low) / 5))
    step = next(factor * power for factor in (1, 2, 5, 10) if (high - low) / (factor * power) <= 5.5)
    return [round(i * step, 10) for i in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]


def reliability(curves: Mapping[str, Sequence[Bin]]) -> Markup:
    axes = Axes("probability given", "share forged", SHARES, SHARES)
    axes.line((0, 1), (0, 1), "--faint", "dashed")
    for number, bins in enumerate(curves.values()):
        full = [(b.predicted, b.observed, b.weight) for b in bins
                if b.predicted is not None and b.observed is not None]  # fmt: skip
        axes.line([p for p, _, _ in full], [o for _, o, _ in full], colour(number))
        for predicted, observed, weight in full:
            axes.dot(predicted, observed, colour(number), 2 + 6 * weight**0.5)
    return axes.svg("reliability of the probabilities")


def colour(number: int) -> str:
    return f"--c{number % COLOURS}"

"""Line and scatter plots as inline SVG: numbers in, coordinates out, for the template `plots.html`.

In: series of points with their intervals. Out: plain values in pixels that a template writes as SVG elements; texts stay texts
and are escaped there. No script, no library.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 44
_TICKS = 5
_STOPS = ((62, 82, 196), (27, 150, 138), (226, 148, 46))
"""Red, green and blue of the colours that `colour` goes through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A value with its interval; the ends are None where there is none."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    title: str = ""
    mark: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points of one name and colour, in the order in which they are joined.

    Attributes:
        name: For the legend.
        points: At least one.
        share: Place in the colours of the plot, 0 to 1.
        joined: Whether a line joins them, with a band of their intervals; otherwise each has its own whisker.
        in_legend: Whether the legend names it.
    """

    name: str
    points: Sequence[Point]
    share: float = 0.0
    joined: bool = True
    in_legend: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A plot before it has coordinates.

    Attributes:
        title: Heading.
        x, y: Names of the axes.
        series: At least one.
        lines: Name and value of horizontal lines, such as the base's.
        ticks: Place and text of the ticks of the x axis; empty for numbers.
    """

    title: str
    x: str
    y: str
    series: Sequence[Series]
    lines: Sequence[tuple[str, float]] = ()
    ticks: Sequence[tuple[float, str]] = field(default_factory=tuple[tuple[float, str], ...])


def colour(share: float) -> str:
    """A colour from blue (0) by teal to orange (1): apart in lightness too, for people who see red and green alike."""
    place = min(max(share, 0.0), 1.0) * (len(_STOPS) - 1)
    first = min(int(place), len(_STOPS) - 2)
    mixed = (round(a + (b - a) * (place - first)) for a, b in zip(_STOPS[first], _STOPS[first + 1], strict=True))
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def ticks_of(low: float, high: float, count: int = _TICKS) -> list[float]:
    """About `count` round numbers from `low` to `high`."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [
        round(step * number, 12) for number in range(first, first + 4 * count) if step * number <= high + step * 1e-9
    ]


def coordinates(plot: Plot) -> dict[str, Any]:
    """The plot in pixels, for `plots.html`."""
    points = [point for series in plot.series for point in series.points]
    ys = [end for point in points for end in (point.y, point.low, point.high) if end is not None]
    low, high = _padded([*ys, *(value for _, value in plot.lines)])
    left, right = _padded([point.x for point in points] + [place for place, _ in plot.ticks])

    def across(value: float) -> float:
        return round(LEFT + (value - left) / (right - left) * (WIDTH - LEFT - RIGHT), 1)

    def up(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    ticks = plot.ticks or [(value, f"{value:g}") for value in ticks_of(left, right)]
    shown: list[dict[str, Any]] = []
    for series in plot.series:
        dots = [
            {
                "x": across(point.x),
                "y": up(point.y),
                "ends": None if point.low is None or point.high is None else [up(point.low), up(point.high)],
                "title": point.title,
                "mark": point.mark,
            }
            for point in series.points
        ]
        whole = series.joined and len(dots) > 1
        band = whole and all(dot["ends"] for dot in dots)
        shown.append(
            {
                "name": series.name,
                "colour": colour(series.share),
                "dots": dots,
                "line": _joined((dot["x"], dot["y"]) for dot in dots) if whole else "",
                "band": _joined(
                    [(dot["x"], dot["ends"][1]) for dot in dots]
                    + [(dot["x"], dot["ends"][0]) for dot in reversed(dots)]
                )
                if band
                else "",
                "in_legend": series.in_legend,
            }
        )
    return {
        "title": plot.title,
        "x": plot.x,
        "y": plot.y,
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "x_ticks": [{"at": across(place), "text": text} for place, text in ticks],
        "y_ticks": [{"at": up(value), "text": f"{value:g}"} for value in ticks_of(low, high)],
        "lines": [{"at": up(value), "name": name} for name, value in plot.lines],
        "series": shown,
    }


def _joined(points: Iterable[tuple[float, float]]) -> str:
    """Points as SVG writes them."""
    return " ".join(f"{x},{y}" for x, y in points)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """Least and largest value with some room; never equal."""
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or max(abs(high) * 0.1, 0.5)
    return low - room, high + room

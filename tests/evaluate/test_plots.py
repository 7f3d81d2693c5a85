"""Plots: every point lies inside its frame, ticks are round, and a text of a name cannot leave its place."""

from pathlib import Path
from xml.etree import ElementTree

import jinja2
from hypothesis import given
from hypothesis import strategies as st

from loraloom.evaluate import plots
from loraloom.evaluate.plots import HEIGHT, LEFT, WIDTH, Plot, Point, Series, colour, coordinates, ticks_of

NUMBERS = st.floats(-1e6, 1e6).map(lambda value: round(value, 6))


@given(NUMBERS, NUMBERS)
def test_ticks_are_a_few_numbers_within_the_range(one: float, other: float) -> None:
    low, high = sorted((one, other))
    found = ticks_of(low, high)
    assert found == sorted(found)
    assert all(low - 1e-6 * (abs(low) + 1) <= value <= high + 1e-6 * (abs(high) + 1) for value in found)
    assert len(found) <= 12
    if high - low > 1e-3:
        assert len(found) >= 2


def test_ticks_are_round() -> None:
    assert ticks_of(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks_of(-0.13, 0.31) == [-0.1, 0, 0.1, 0.2, 0.3]


@given(st.lists(st.tuples(NUMBERS, NUMBERS, st.floats(0, 100)), min_size=1, max_size=20))
def test_every_point_and_interval_lies_inside_the_frame(values: list[tuple[float, float, float]]) -> None:
    points = [Point(x=x, y=y, low=y - half, high=y + half) for x, y, half in values]
    found = coordinates(Plot(title="t", x="x", y="y", series=[Series(name="s", points=points)], lines=[("base", 0.0)]))
    for dot in found["series"][0]["dots"]:
        assert LEFT <= dot["x"] <= WIDTH
        for end in (dot["y"], *dot["ends"]):
            assert 0 <= end <= HEIGHT
    assert bool(found["series"][0]["band"]) == (len(points) > 1)


def test_points_without_intervals_have_a_line_and_no_band() -> None:
    series = Series(name="s", points=[Point(x=0, y=1), Point(x=1, y=2, low=1, high=3)])
    (found,) = coordinates(Plot(title="t", x="x", y="y", series=[series]))["series"]
    assert found["line"]
    assert not found["band"]


def test_the_svg_is_well_formed_and_names_are_escaped() -> None:
    series = Series(
        name="</svg><script>", points=[Point(x=0, y=1, low=0, high=2, title="<b>", mark=True), Point(x=1, y=2)]
    )
    plot = coordinates(Plot(title='"<t>', x="&", y="y", series=[series], lines=[("<line>", 1.5)]))
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(plots.__file__).parent), autoescape=True)
    page = environment.from_string('{% from "plots.html" import plot_svg %}<div>{{ plot_svg(plot) }}</div>').render(
        plot=plot
    )
    tree = ElementTree.fromstring(page)
    assert len(tree.findall(".//svg")) == 2
    assert "<script>" not in page


def test_colours_of_neighbours_differ() -> None:
    assert len({colour(number / 9) for number in range(10)}) == 10
    assert (colour(-1), colour(2)) == (colour(0), colour(1))

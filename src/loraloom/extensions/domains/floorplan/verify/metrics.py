"""Metrics of plan images against their texts and true images, computed from pixels alone.

In: images, their texts, and true images where they exist. Out: `METRICS`: `plan_text` reads each image once and compares
it with its text; `plan_iou` compares pixels with the true image. `by_windows` splits both by the length of the text.
Sums are exact fractions, so tallies merge to the same numbers in any order.

An unreadable image counts as an empty plan. Rooms are compared by their numbers, which in text and image follow the
image's raster order. `anchors` gives the scores of reference answers to compare these numbers with.
"""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from math import nan

import numpy as np
from PIL import Image

from loraloom.protocols.domain import Metric, Tally

from ..plan import Plan, annotate
from ..text.spec import Spec
from ..text.texts import spec_from_text
from ..vision.pixels import Labels
from ..vision.reading import Reading, as_array, read, snap
from ..vocabulary import EXTERNAL, ROOM_CLASSES, SIZE_PX, RoomId, style_of
from .graph_distance import edit_distance, graph_of
from .verifying import MOST_OFF_PALETTE, direction_in, octants_between, verify

Share = tuple[str, float, float]
"""Name, numerator and denominator of one image; a value is the sum of numerators over the sum of denominators."""

Measure = Callable[[Image.Image, str, Image.Image | None], list[Share] | None]
"""Shares of one image; None when the image is not counted."""

SHELL_REACH_PX = 2
"""Largest distance from a front door to the outside: it fills the wall, and a soft edge may be off by a pixel."""


class ShareTally:
    """Sums of shares. Floats are dyadic fractions, so sums of `Fraction` are exact and independent of order."""

    def __init__(self, metric: str, names: tuple[str, ...], measure: Measure) -> None:
        self._metric, self._measure = metric, measure
        self._images = 0
        self._sums = {name: (Fraction(0), Fraction(0)) for name in names}

    def add(self, image: Image.Image, prompt: str, reference: Image.Image | None = None) -> None:
        """Count one image."""
        shares = self._measure(image, prompt, reference)
        if shares is None:
            return
        self._images += 1
        for name, top, bottom in shares:
            sums = self._sums[name]
            self._sums[name] = sums[0] + Fraction(top), sums[1] + Fraction(bottom)

    def merge(self, other: Tally) -> None:
        """Add the counts of another tally of the same metric."""
        if not isinstance(other, ShareTally) or other._metric != self._metric:
            raise TypeError(f"a tally of {self._metric} merges only with a tally of the same metric")
        self._images += other._images
        for name, (top, bottom) in other._sums.items():
            sums = self._sums[name]
            self._sums[name] = sums[0] + top, sums[1] + bottom

    def result(self) -> Mapping[str, float]:
        """Name to value; NaN where nothing was counted."""
        values = {name: float(top / bottom) if bottom else nan for name, (top, bottom) in self._sums.items()}
        return {"images": float(self._images), **values}


# ---------------------------------------------------------------------------------------------------- text and image


def _measure_text(image: Image.Image, prompt: str, reference: Image.Image | None) -> list[Share]:
    spec, reading = spec_from_text(prompt), read(image, style_of(prompt))
    readable = bool(reading.plan.rooms) and reading.off_palette <= MOST_OFF_PALETTE
    plan = reading.plan if readable else annotate(np.zeros((SIZE_PX, SIZE_PX), np.uint8))
    return [
        *_whole(spec, reading, plan),
        *_counts(spec, plan),
        *_connections(spec, plan),
        *_positions(spec, plan),
        *_graph(spec, plan),
    ]


def _whole(spec: Spec, reading: Reading, plan: Plan) -> Iterator[Share]:
    receipt = verify(spec, reading)
    yield "sentences_met", receipt.count(True), len(receipt.verdicts)
    yield "sentences_unsure", receipt.count(None), len(receipt.verdicts)
    yield "complete", receipt.complete, 1
    yield "parsed", plan.counts["living room"] > 0 and len(plan.rooms) > 1, 1
    yield "off_palette", reading.off_palette, 1
    yield "one_front_door", one_front_door(plan), 1


def one_front_door(plan: Plan) -> bool:
    """Whether a plan has exactly one front door, with a room on one side and the outside near it."""
    fronts = [opening for opening in plan.openings if opening.kind == "front door"]
    if len(fronts) != 1:
        return False
    left, top, right, bottom = fronts[0].box
    rows = slice(max(0, top - SHELL_REACH_PX), bottom + SHELL_REACH_PX)
    columns = slice(max(0, left - SHELL_REACH_PX), right + SHELL_REACH_PX)
    return bool(fronts[0].rooms) and bool((plan.labels[rows, columns] == EXTERNAL).any())


def _counts(spec: Spec, plan: Plan) -> Iterator[Share]:
    if spec.counts is None:
        return
    asked, found = dict(spec.counts), plan.counts
    yield "room_total_exact", sum(asked.values()) == len(plan.rooms), 1
    # An image without any room does not prove "0 storage"; the receipt treats it the same way.
    met = sum(found[kind] == count for kind, count in asked.items()) if plan.rooms else 0
    yield "count_items_met", met, len(asked)
    kinds = [kind for kind in found if asked.get(kind, 0) or found[kind]]
    scores = [count_score(asked.get(kind, 0), found[kind]) for kind in kinds]
    if scores:
        yield "room_count_score", sum(scores) / len(scores), 1
    there = [kind for kind in kinds if asked.get(kind, 0) and found[kind]]
    yield "rooms_in_one_piece", sum(found[kind] <= asked[kind] for kind in there), len(there)


def count_score(asked: int, found: int) -> float:
    """max(0, 1 - |found - asked| / max(asked, 1)), as in floorplan-llm's `count_reward.py`; any unexpected room gives 0."""
    return max(0.0, 1 - abs(found - asked) / max(asked, 1))


Pairs = set[frozenset[RoomId]]


def _pairs(pairs: tuple[tuple[RoomId, RoomId], ...]) -> Pairs:
    return {frozenset(pair) for pair in pairs if pair[0] != pair[1]}


def _connections(spec: Spec, plan: Plan) -> Iterator[Share]:
    if spec.connections is None:
        return
    asked, found = _pairs(spec.connections), _pairs(plan.connections)
    yield "extra_connections", len(found - asked), 1
    for ending, wanted, there in (
        ("", asked, found),
        ("_without_living", _without_living(asked), _without_living(found)),
    ):
        hits = len(wanted & there)
        yield f"connection_precision{ending}", hits, len(there)
        yield f"connection_recall{ending}", hits, len(wanted)
        yield f"connection_f1{ending}", 2 * hits, len(there) + len(wanted)


def _without_living(pairs: Pairs) -> Pairs:
    return {pair for pair in pairs if all(room.kind != "living room" for room in pair)}


def _positions(spec: Spec, plan: Plan) -> Iterator[Share]:
    if spec.positions is None:
        return
    seen = [(position.direction, direction_in(plan, position)) for position in spec.positions]
    steps = [octants_between(asked, there) for asked, there in seen if there]
    for name, most in (("position_exact", 0), ("position_within_one", 1)):
        hits = sum(step <= most for step in steps)
        yield f"{name}_of_present", hits, len(steps)
        yield f"{name}_of_all", hits, len(seen)


def _graph(spec: Spec, plan: Plan) -> Iterator[Share]:
    """Shares of the graph; only a text with counts and connections defines one."""
    if spec.counts is None or spec.connections is None:
        return
    asked = graph_of(spec.rooms(), spec.connections)
    shown = graph_of([room.id for room in plan.rooms], plan.connections)
    distance = edit_distance(asked, shown)
    yield "graph_edit_distance", distance.edits, 1
    yield "graph_equal", distance.edits == 0, 1
    yield "graph_distance_is_exact", distance.exact, 1


class TextMetric:
    """Every sentence and the graph of a text against the plan that is read from the image.

    Shares of images: `parsed` (a living room and another room are read, and at most `MOST_OFF_PALETTE` is off the
    palette), `complete` (every sentence met), `room_total_exact`, `one_front_door` (exactly one, on the shell),
    `graph_equal`, and `graph_distance_is_exact` (searches that were not stopped at their limit). Means over images:
    `off_palette`, `room_count_score` (mean of `count_score` over the types requested or found), `extra_connections`
    (connections that are not requested), `graph_edit_distance`.

    Over all sentences, pairs or types of all images: `sentences_met` and `sentences_unsure` (cannot tell);
    `count_items_met`; `rooms_in_one_piece`: of the types requested and found, the share found in at most as many
    4-connected parts as rooms are requested; precision (of the doors found), recall (of the doors requested) and F1 =
    2 hits / (found + requested) of connections, also without those of the living room; positions whose direction is exact
    or at most one octant away, `_of_present` over those whose two rooms exist, `_of_all` over all requested ones.
    """

    name = "plan_text"
    better: Mapping[str, int] = {
        "images": 0, "sentences_met": 1, "sentences_unsure": -1, "complete": 1, "parsed": 1, "off_palette": -1,
        "one_front_door": 1, "room_total_exact": 1, "count_items_met": 1, "room_count_score": 1, "rooms_in_one_piece": 1,
        "extra_connections": -1, "connection_precision": 1, "connection_recall": 1, "connection_f1": 1,
        "connection_precision_without_living": 1, "connection_recall_without_living": 1, "connection_f1_without_living": 1,
        "position_exact_of_present": 1, "position_exact_of_all": 1,
        "position_within_one_of_present": 1, "position_within_one_of_all": 1,
        "graph_edit_distance": -1, "graph_equal": 1, "graph_distance_is_exact": 0,
    }  # fmt: skip

    def start(self) -> Tally:
        """An empty tally."""
        return ShareTally(self.name, tuple(name for name in self.better if name != "images"), _measure_text)


# --------------------------------------------------------------------------------------------------- true image


def _measure_iou(image: Image.Image, prompt: str, reference: Image.Image | None) -> list[Share] | None:
    if reference is None:
        return None
    style = style_of(prompt)
    return list(overlaps(snap(as_array(image), style), snap(as_array(reference), style)))


def overlaps(shown: Labels, truth: Labels) -> Iterator[Share]:
    """The four IoU of one image; an IoU over an empty set of types is left out."""
    sizes = [
        (
            int(((shown == kind) & (truth == kind)).sum()),
            int(((shown == kind) | (truth == kind)).sum()),
            bool((truth == kind).any()),
        )
        for kind in ROOM_CLASSES
    ]
    for ending, chosen in (
        ("", [(inter, union) for inter, union, true in sizes if true]),
        ("_both", [(inter, union) for inter, union, _ in sizes if union]),
    ):
        if chosen:
            yield f"iou_pooled{ending}", sum(inter for inter, _ in chosen) / sum(union for _, union in chosen), 1
            yield f"iou_per_type{ending}", sum(inter / union for inter, union in chosen) / len(chosen), 1


class IouMetric:
    """Intersection over union of room types after snapping each pixel to the nearest colour, a mean over images.

    With I_r and U_r the pixels of type r in both and in either image, over the types r that the true image has:
    `iou_pooled` = sum I_r / sum U_r, `iou_per_type` = mean of I_r / U_r (Tell2Design, `T5/calculate_iou.py`, where the two
    are called macro and micro). These ignore a type that only the prediction has, so the values ending in `_both` are over
    the types of either image. Rooms of a type are merged. The chance level is far from 0: see `anchors`.
    """

    name = "plan_iou"
    better: Mapping[str, int] = {
        "images": 0,
        "iou_pooled": 1,
        "iou_per_type": 1,
        "iou_pooled_both": 1,
        "iou_per_type_both": 1,
    }

    def start(self) -> Tally:
        """An empty tally; images without a true one are not counted."""
        return ShareTally(self.name, tuple(name for name in self.better if name != "images"), _measure_iou)


METRICS: tuple[Metric, ...] = (TextMetric(), IouMetric())
"""The metrics of plans."""


# ------------------------------------------------------------------------------------------------------- by length


class WindowTally:
    """One tally for each number of windows of the texts."""

    def __init__(self, metric: Metric, count_windows: Callable[[str], int]) -> None:
        self._metric, self._count_windows = metric, count_windows
        self._groups: dict[int, Tally] = {}

    def _group(self, windows: int) -> Tally:
        return self._groups.setdefault(windows, self._metric.start())

    def add(self, image: Image.Image, prompt: str, reference: Image.Image | None = None) -> None:
        """Count one image with those whose texts have the same number of windows."""
        self._group(self._count_windows(prompt)).add(image, prompt, reference)

    def merge(self, other: Tally) -> None:
        """Add the counts of another tally of the same metric, split by the same windows."""
        if not isinstance(other, WindowTally):
            raise TypeError("a tally by windows merges only with a tally by windows")
        for windows, tally in other._groups.items():
            self._group(windows).merge(tally)

    def result(self) -> Mapping[str, float]:
        """`<value>@<windows>` for every value and number of windows; `images` over all."""
        results = {windows: self._groups[windows].result() for windows in sorted(self._groups)}
        return {
            "images": float(sum(values["images"] for values in results.values())),
            **{f"{name}@{windows}": value for windows, values in results.items() for name, value in values.items()},
        }


def by_windows(metric: Metric, count_windows: Callable[[str], int]) -> Tally:
    """An empty tally of a metric that keeps texts of one, two, ... windows apart.

    Args:
        metric: Any metric.
        count_windows: Returns the number of windows of the text encoder for a text.
    """
    return WindowTally(metric, count_windows)

"""What answers score that know little or nothing of the text: no score of a model means much without them.

In: texts and their true images. Out: for each anchor the values of all `METRICS`.

- `truth`: the true image. What is missing to a perfect score here is the reader's and the data's fault.
- `another plan`: the true image of another text, drawn at random. It knows only what plans look like.
- `same counts`: a synthesised plan with the rooms that the text counts, drawn at random. It knows the first line only.
- `constant hub`: the same plan with its doors moved: the living room opens to every room beside it, and no other door is
  left. "Everything is connected to the living room" is nearly always true, so this answer knows no connection and still
  scores high on all of them; it has none without the living room.
- `blank`: an empty image.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from math import nan

import numpy as np
from PIL import Image

from loraloom.protocols.domain import Tally
from loraloom.utils.rng import derive_seed

from ..plan import Plan
from ..render.painting import paint
from ..synthesis import synthesise
from ..text.texts import spec_from_text
from ..vision.pixels import Labels, Mask, Where, dilate
from ..vocabulary import DOOR, EXTERNAL, FRONT_DOOR, SIZE_PX, WALL, WINDOW, RoomId, style_of
from .metrics import METRICS

DOOR_PX = 13
"""Length of an interior door: 0.91 m at RPLAN's scale, the median of real plans."""

_WALLS_PX = (3, 4, 5)

POOL = 200
"""Plans synthesised to choose from: 99 of 100 texts of drawn plans find one with their very counts."""

Table = dict[str, dict[str, float]]
"""Anchor to values by name."""


def anchors(prompts: Sequence[str], references: Sequence[Image.Image], seed: int, pool: int = POOL) -> Table:
    """Every metric for every anchor.

    Args:
        prompts: Texts.
        references: Their true images, in the same order.
        seed: Decides what is drawn at random.
        pool: Plans to synthesise; where none of them has a text's counts, the nearest in the sum of differences is taken.
            `counts_met` of the anchor `same counts` is the share of texts that found their own.

    Returns:
        Values by name; `images` is how many texts there were.
    """
    plans = [synthesise(derive_seed("plan for an anchor", seed, number)).plan for number in range(pool)]
    table: Table = {}
    answers = _answers(prompts, references, seed, plans)
    for name, group in groupby(answers, key=lambda answer: answer[0]):
        tallies: list[Tally] = [metric.start() for metric in METRICS]
        for _, number, image in group:
            for tally in tallies:
                tally.add(image, prompts[number], references[number])
        table[name] = {key: value for tally in tallies for key, value in tally.result().items()}
    if "same counts" in table:
        table["same counts"]["counts_met"] = _share_matched(prompts, plans)
    return table


def _answers(
    prompts: Sequence[str], references: Sequence[Image.Image], seed: int, plans: Sequence[Plan]
) -> Iterator[tuple[str, int, Image.Image]]:
    """Anchor, number of the text, image; anchor by anchor."""
    rng = np.random.default_rng(derive_seed("anchors", seed))
    numbers = range(len(prompts))
    yield from (("truth", number, references[number]) for number in numbers)
    if len(prompts) > 1:
        for number in numbers:
            other = (number + int(rng.integers(1, len(prompts)))) % len(prompts)
            yield "another plan", number, references[other]
    if plans:
        chosen = [_nearest(prompt, plans, rng)[0] for prompt in prompts]
        yield from (("same counts", number, _image(chosen[number].labels, prompts[number])) for number in numbers)
        hubs = [hub_only(plan) for plan in chosen]
        yield from (("constant hub", number, _image(hubs[number], prompts[number])) for number in numbers)
    nothing = np.full((SIZE_PX, SIZE_PX), EXTERNAL, np.uint8)
    yield from (("blank", number, _image(nothing, prompts[number])) for number in numbers)


def _image(labels: Labels, prompt: str) -> Image.Image:
    return Image.fromarray(paint(labels, style_of(prompt)))


def _nearest(prompt: str, plans: Sequence[Plan], rng: np.random.Generator) -> tuple[Plan, int]:
    """One of the plans whose counts differ least from the text's, and the sum of differences."""
    asked: Mapping[str, int] = dict(spec_from_text(prompt).counts or ())
    apart = [sum(abs(count - plan.counts[kind]) for kind, count in asked.items()) for plan in plans]
    best = [place for place, difference in enumerate(apart) if difference == min(apart)]
    return plans[best[int(rng.integers(len(best)))]], min(apart)


def _share_matched(prompts: Sequence[str], plans: Sequence[Plan]) -> float:
    rng = np.random.default_rng(0)  # the difference does not depend on which of the nearest is drawn
    return sum(_nearest(prompt, plans, rng)[1] == 0 for prompt in prompts) / len(prompts) if prompts else nan


def hub_only(plan: Plan) -> Labels:
    """The plan with a door from the living room to every room beside it and with no other interior door.

    Returns:
        (h, w) pixel classes. Rooms that no straight stretch of wall parts from the living room stay without a door.
    """
    labels = plan.labels.copy()
    labels[labels == DOOR] = WALL
    for room in plan.rooms:
        if room.id.kind != "living room":
            _open(labels, plan, room.id)
    return labels


def _open(labels: Labels, plan: Plan, name: RoomId) -> None:
    """Set the longest possible door, of at most `DOOR_PX`, between the living room and a room, in place."""
    hub, other = plan.mask(RoomId("living room", 1)), plan.mask(name)
    taken = dilate((labels == DOOR) | (labels == WINDOW) | (labels == FRONT_DOOR), 2)
    both = {int(plan.instances[mask][0]) for mask in (hub, other) if mask.any()}
    for thickness in _WALLS_PX:  # with the wall's own thickness the band is the wall from one room to the other
        band = dilate(hub, thickness) & dilate(other, thickness) & (labels == WALL) & ~taken
        doors = sorted(_stretches(band, thickness), key=_length, reverse=True)
        for rows, columns in doors:
            around = plan.instances[rows.start - 1 : rows.stop + 1, columns.start - 1 : columns.stop + 1]
            if set(around[around > 0].tolist()) == both:
                labels[rows, columns] = DOOR
                return


def _length(where: Where) -> int:
    return max(part.stop - part.start for part in where)


def _stretches(band: Mask, thickness: int) -> Iterator[Where]:
    """Rectangles within a band of wall that are as thick as it and at most a door long."""
    half = DOOR_PX // 2
    for y, x in np.argwhere(band).tolist():
        top, left = max(0, y - half), max(0, x - half)
        rows, columns = np.nonzero(band[top : y + half + 1, left : x + half + 1])
        height, width = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
        if len(rows) == height * width and min(height, width) == thickness < max(height, width):
            top, left = top + int(rows.min()), left + int(columns.min())
            yield slice(top, top + height), slice(left, left + width)

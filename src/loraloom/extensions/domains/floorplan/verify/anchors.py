"""Scores of reference answers that use little or nothing of the text, to compare a model's scores with.

In: texts and their true images. Out: for each anchor the values of all `METRICS`.

- `truth`: the true image. A score below the best possible one is due to the reader
  or the data.
- `another plan`: the true image of another text, chosen at random. It shows what plans look like and nothing of the
  text.
- `same counts`: a synthesised plan with the room counts of the text, chosen at random. It uses the first line only.
- `constant hub`: the same plan with other doors: one from the living room to every room beside it, and no others.
  "Everything is connected to the living room" is nearly always true, so this answer uses no connection of the text and
  still scores high on all of them. It has no connection without the living room.
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
"""Number of synthesised plans to choose from: 99 of 100 texts of synthesised plans find one with exactly their counts."""

Table = dict[str, dict[str, float]]
"""Anchor to values by name."""


def anchors(prompts: Sequence[str], references: Sequence[Image.Image], seed: int, pool: int = POOL) -> Table:
    """Every metric for every anchor.

    Args:
        prompts: Texts.
        references: Their true images, in the same order.
        seed: Seed of every random choice.
        pool: Number of plans to synthesise. For a text whose counts none of them has, the plan with the smallest sum of
            differences is used. `counts_met` of the anchor `same counts` is the share of texts whose counts were found.

    Returns:
        Values by name; `images` is the number of texts.
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
    rng = np.random.default_rng(0)  # the difference is the same for each of the nearest plans
    return sum(_nearest(prompt, plans, rng)[1] == 0 for prompt in prompts) / len(prompts) if prompts else nan


def hub_only(plan: Plan) -> Labels:
    """The plan with a door from the living room to every room beside it and with no other interior door.

    Returns:
        (h, w) pixel classes. Rooms without a straight stretch of wall between them and the living room have no
        door.
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
    for thickness in _WALLS_PX:  # at the wall's true thickness the band spans the wall from room to room
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
    """Rectangles within a band of wall, as thick as the band and at most `DOOR_PX` long."""
    half = DOOR_PX // 2
    for y, x in np.argwhere(band).tolist():
        top, left = max(0, y - half), max(0, x - half)
        rows, columns = np.nonzero(band[top : y + half + 1, left : x + half + 1])
        height, width = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
        if len(rows) == height * width and min(height, width) == thickness < max(height, width):
            top, left = top + int(rows.min()), left + int(columns.min())
            yield slice(top, top + height), slice(left, left + width)

"""The programme of a plan before anything has a place: rooms, areas, aspects, thickness of the walls.

In: a random generator. Out: `Programme`. The figures were measured on 101 real plans (RPLAN 0 .. 100 as published with
FloorDiffusion); each distribution is the straight line through its 5th, 50th and 95th percentile.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

AREAS_PX = {
    "master room": (1951, 2760, 4034),
    "bedroom": (1296, 2006, 2890),
    "kitchen": (728, 1092, 1976),
    "bathroom": (418, 768, 1254),
    "balcony": (312, 864, 1665),
    "storage": (177, 406, 648),
    "entrance": (300, 480, 760),
}
"""Interior pixels, 5/50/95 %. Entrances were not measured; their figures are set between storage and kitchen."""

ASPECTS = {
    "master room": (1.0, 1.29, 1.84),
    "bedroom": (1.0, 1.23, 1.84),
    "kitchen": (1.0, 1.59, 2.48),
    "bathroom": (1.0, 1.30, 2.22),
    "balcony": (1.6, 2.73, 4.81),
    "storage": (1.0, 1.3, 2.0),
    "entrance": (1.0, 1.3, 1.8),
}
"""Long side over short side, 5/50/95 %."""

LIVING_SHARE = (0.33, 0.42, 0.51)
LIVING_PX = (4900.0, 8700.0)
MIN_ROOMS, MAX_ROOMS = 5, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomWish:
    """One room before it has a place.

    Attributes:
        kind: Room type.
        area_px: Interior area, pixels.
        aspect: Long side over short side, at least 1.
        en_suite: Whether it opens to the master room only.
    """

    kind: str
    area_px: float
    aspect: float
    en_suite: bool = False

    @property
    def sides_px(self) -> tuple[float, float]:
        """Short and long side of the interior, pixels."""
        return sqrt(self.area_px / self.aspect), sqrt(self.area_px * self.aspect)


@dataclass(frozen=True, slots=True, kw_only=True)
class Programme:
    """Everything that a plan shall contain.

    Attributes:
        rooms: Rooms to carve, roughly from large to small.
        balconies: Balconies to attach.
        living_px: Intended interior area of the living room, pixels.
        wall_px: Thickness of all walls: 3 or 5 pixels.
    """

    rooms: tuple[RoomWish, ...]
    balconies: tuple[RoomWish, ...]
    living_px: float
    wall_px: int


def quantile(rng: np.random.Generator, points: tuple[float, float, float]) -> float:
    """One random number from the distribution whose 5th, 50th and 95th percentile are given."""
    low, middle, high = points
    ends = low - (middle - low) * 0.11, high + (high - middle) * 0.11
    return float(np.interp(rng.random(), (0.0, 0.05, 0.5, 0.95, 1.0), (ends[0], low, middle, high, ends[1])))


def _wish(rng: np.random.Generator, kind: str, en_suite: bool = False) -> RoomWish:
    return RoomWish(
        kind=kind,
        area_px=quantile(rng, AREAS_PX[kind]),
        aspect=max(1.0, quantile(rng, ASPECTS[kind])),
        en_suite=en_suite,
    )


def _kinds(rng: np.random.Generator) -> list[str]:
    """Types of all rooms but the living room."""
    while True:
        bedrooms = int(rng.choice(4, p=(0.04, 0.42, 0.50, 0.04)))
        bathrooms = 1 + int(rng.random() < 0.15)
        balconies = int(rng.choice(4, p=(0.24, 0.60, 0.15, 0.01)))
        kinds = ["master room", "kitchen", *["bedroom"] * bedrooms, *["bathroom"] * bathrooms, *["balcony"] * balconies]
        if rng.random() < 0.075:
            kinds.append("storage")
        if rng.random() < 0.015:
            kinds.append("entrance")
        if MIN_ROOMS <= len(kinds) + 1 <= MAX_ROOMS:
            return kinds


def random_programme(rng: np.random.Generator, kinds: Sequence[str] | None = None) -> Programme:
    """A programme as frequent as in the measured plans; or one of the given rooms and a living room, with thin
    walls."""
    asked, kinds = kinds is not None, _kinds(rng) if kinds is None else kinds
    wishes: list[RoomWish] = []
    for kind in kinds:
        # A second bathroom is mostly en suite; never are all of them.
        second = any(wish.kind == "bathroom" for wish in wishes)
        chance_of_own = 0.0 if any(wish.en_suite for wish in wishes) else 0.85 if second else 0.12
        wishes.append(_wish(rng, kind, kind == "bathroom" and bool(rng.random() < chance_of_own)))
    share = quantile(rng, LIVING_SHARE)
    living_px = min(max(sum(wish.area_px for wish in wishes) * share / (1 - share), LIVING_PX[0]), LIVING_PX[1])
    rooms = [wish for wish in wishes if wish.kind != "balcony"]
    # Large rooms roughly first; an en-suite bathroom requires that its master room is placed.
    order = {id(wish): wish.area_px * rng.uniform(0.6, 1.4) * (0.1 if wish.en_suite else 1.0) for wish in rooms}
    rooms.sort(key=lambda wish: -order[id(wish)])
    balconies = [wish for wish in wishes if wish.kind == "balcony"]
    return Programme(
        rooms=tuple(rooms),
        balconies=tuple(balconies),
        living_px=living_px,
        wall_px=5 if not asked and rng.random() < 0.17 else 3,
    )

"""Estimate the metres per pixel of a plan with an interval, and the areas of its rooms.

In: a plan. Out: `Scale` (metres per pixel with an interval) by convention or from the widths of its doors, and areas.
A plan whose doors do not determine the scale gives None, never a guess.
"""

from dataclasses import dataclass
from math import exp, log, sqrt

from ..plan import Opening, Plan
from ..vocabulary import CLASS_NAMES, M_PER_PX, RoomId
from .outlines import rectangles

_WIDTHS_M = {"interior door": (0.90, 0.10), "front door": (1.00, 0.15)}
"""Usual clear widths of single doors and their standard deviation, metres. At RPLAN's scale single interior doors of real
plans measure 0.91 to 1.05 m, front doors 0.77 to 1.20 m."""

_EDGE_PX = 1 / sqrt(12)
"""Standard deviation of an edge that was rounded to a whole pixel."""

_SINGLE_LEAF = 1.45
"""A door longer than the plan's shortest by this factor is a double or sliding one and is not used."""

_MAX_SCATTER = 0.20
"""Relative standard deviation of the single doors above which they contradict each other."""

_Z95 = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Metres per pixel.

    Attributes:
        m_per_px: Best estimate.
        low: Lower end of the 95 % interval; equal to `m_per_px` when the scale is given, not estimated.
        high: Upper end of the 95 % interval; equal to `m_per_px` when the scale is given.
        source: Origin of the scale, printed on exported plans.
    """

    m_per_px: float
    low: float
    high: float
    source: str

    @property
    def exact(self) -> bool:
        """Whether the scale was given, not estimated."""
        return self.low == self.high

    @property
    def mm_per_px(self) -> float:
        """Millimetres per pixel."""
        return self.m_per_px * 1000


def given(m_per_px: float, source: str = "given") -> Scale:
    """A scale without an interval."""
    return Scale(m_per_px=m_per_px, low=m_per_px, high=m_per_px, source=source)


CONVENTION = given(M_PER_PX, "256 px = 18 m by convention")
"""RPLAN's scale, the default everywhere."""


@dataclass(frozen=True, slots=True)
class Area:
    """Floor area of a room in square metres, wall to wall; `low` and `high` are equal to `m2` when the scale is exact."""

    room: RoomId
    m2: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.m2:.1f} m²" if self.low == self.high else f"{self.low:.1f} - {self.high:.1f} m²"


def areas(plan: Plan, scale: Scale = CONVENTION) -> tuple[Area, ...]:
    """Areas of the rooms in the plan's order."""
    return tuple(
        Area(room.id, *(room.area_px * side**2 for side in (scale.m_per_px, scale.low, scale.high)))
        for room in plan.rooms
    )


def _length_px(plan: Plan, opening: Opening) -> int | None:
    """Length of a door along its wall; None for a blob at a corner, which may be two doors in one."""
    left, top, right, bottom = opening.box
    crop = plan.labels[top:bottom, left:right] == CLASS_NAMES.index(opening.kind)
    long, short = max(crop.shape), min(crop.shape)
    # A doorway is a filled oblong; the direction of the wall is unknown for a square blob.
    if len(opening.rooms) > 2 or crop.mean() < 0.85 or long < 1.5 * short or len(rectangles(crop)) > 6:
        return None
    return long


def estimate(plan: Plan) -> Scale | None:
    """Scale from the widths of single doors: interior ones 0.90 m, front doors 1.00 m.

    Each door of length L px gives s = w / L, with relative variance (sd(w) / w)^2 + 2 (1/sqrt(12) / L)^2 (two edges that
    were rounded to pixels). The values are averaged as logarithms with inverse variances. A deviation that all doors of a
    plan share (this house may have 0.80 m doors) does not average out, so the relative error of the mean is at least that
    of interior doors, 0.10 / 0.90. Balcony doors and those longer than 1.45 times the shortest are left out.

    Returns:
        The scale with a 95 % interval; None without a single door, or with doors that differ by more than 20 %.
    """
    balcony = {room.id for room in plan.rooms if room.id.kind == "balcony"}
    lengths = [
        (opening.kind, length)
        for opening in plan.openings
        if opening.kind in _WIDTHS_M and not balcony & set(opening.rooms) and (length := _length_px(plan, opening))
    ]
    if not lengths:
        return None
    shortest = min(length for _, length in lengths)
    votes: list[tuple[float, float]] = []
    for kind, length in lengths:
        if length <= _SINGLE_LEAF * shortest:
            width, deviation = _WIDTHS_M[kind]
            variance = (deviation / width) ** 2 + 2 * (_EDGE_PX / length) ** 2
            votes.append((log(width / length), 1 / variance))
    total = sum(weight for _, weight in votes)
    mean = sum(value * weight for value, weight in votes) / total
    scatter = sqrt(sum(weight * (value - mean) ** 2 for value, weight in votes) / total)
    if scatter > _MAX_SCATTER:
        return None
    shared = _WIDTHS_M["interior door"][1] / _WIDTHS_M["interior door"][0]
    error = max(sqrt(1 / total), shared, scatter / sqrt(len(votes)))
    plural = "s" if len(votes) > 1 else ""
    source = f"estimated from {len(votes)} door{plural}, 95 % interval"
    return Scale(m_per_px=exp(mean), low=exp(mean - _Z95 * error), high=exp(mean + _Z95 * error), source=source)

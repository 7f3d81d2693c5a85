"""Synthesise plans from a seed: image and text agree by construction.

In: a seed. Out: `SynthesisedPlan`, whose plan is the annotator's reading of the synthesised map of pixel classes. The generator
knows which rooms it placed and which doors it set; a map from which anything else is read is discarded and made again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from loraloom.utils.rng import derive_seed

from ..plan import Plan, annotate
from .carving import carve
from .openings import place_openings
from .programme import Programme, random_programme
from .rasterising import agrees, rasterise, spread_lines

MAX_TRIES = 400
TRIES_PER_PROGRAMME = 12
"""Number of attempts after which a programme is given up, so that no seed takes long."""


@dataclass(frozen=True, slots=True, eq=False)
class SynthesisedPlan:
    """A plan and its origin.

    Attributes:
        seed: Seed as given by the caller.
        plan: Labels (256, 256) and everything that the annotator reads from them.
        wall_px: Thickness of its walls, 3 or 5 pixels.
        tries: Number of attempts, at least 1.
    """

    seed: int
    plan: Plan
    wall_px: int
    tries: int


def _attempt(rng: np.random.Generator, programme: Programme, corner_doors: bool) -> Plan | None:
    layout = carve(rng, programme)
    lines = spread_lines(rng, layout, programme.wall_px) if layout is not None else None
    if layout is None or lines is None:
        return None
    walls = layout.walls()
    holes = place_openings(rng, layout, lines, walls, corner_doors=corner_doors)
    if holes is None:
        return None
    plan = annotate(rasterise(layout, lines, walls, holes))
    return plan if agrees(plan, layout, lines, holes) else None


def _attempts(
    rng: np.random.Generator, kinds: Sequence[str] | None, tries: int, corner_doors: bool = False
) -> Iterator[tuple[int, Programme, Plan]]:
    """Number of the attempt from 1, programme, and plan, for each attempt that gives a plan."""
    programme = random_programme(rng, kinds)
    for number in range(1, tries + 1):
        plan = _attempt(rng, programme, corner_doors)
        if plan is not None:
            yield number, programme, plan
        if plan is not None or number % TRIES_PER_PROGRAMME == 0:
            programme = random_programme(rng, kinds)


def synthesise(seed: int, corner_doors: bool = False) -> SynthesisedPlan:
    """Synthesise a plan; the same seed gives the same plan on every machine.

    Args:
        seed: Seed of the plan; determines every random number.
        corner_doors: Whether doors also lie at the very ends of walls and around corners, as in real plans, where 6 %
            of them join three rooms; otherwise they keep clear of corners (decision 0025).
    """
    rng = np.random.default_rng(derive_seed("floor plan", seed))
    for tries, programme, plan in _attempts(rng, None, MAX_TRIES, corner_doors):
        return SynthesisedPlan(seed, plan, programme.wall_px, tries)
    raise AssertionError(f"no plan in {MAX_TRIES} tries from seed {seed}")


def plans_of(kinds: Sequence[str], seed: int, tries: int) -> Iterator[Plan]:
    """Plans with a living room and these rooms and thin walls; all that `tries` attempts give."""
    for _, _, plan in _attempts(np.random.default_rng(derive_seed("plan of rooms", seed)), kinds, tries):
        yield plan

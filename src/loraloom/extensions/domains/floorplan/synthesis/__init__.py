"""Plans drawn from a seed: image and text agree by construction.

In: a seed. Out: `Drawn`, whose plan is what the annotator reads from the drawn map of pixel classes. The generator knows
which rooms it placed and which doors it set; a drawing from which anything else is read is dropped and drawn again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from loraloom.utils.rng import derive_seed

from ..plan import Plan, annotate
from .carving import carve
from .drawing import agrees, draw, spread_lines
from .openings import place_openings
from .programme import Programme, draw_programme

MAX_TRIES = 400
TRIES_PER_PROGRAMME = 12
"""A programme that does not fit so often is given up, so that no seed takes long."""


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A plan and where it came from.

    Attributes:
        seed: As given.
        plan: Labels (256, 256) and everything that the annotator reads from them.
        wall_px: 3 or 5.
        tries: Attempts it took, 1 at best.
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
    plan = annotate(draw(layout, lines, walls, holes))
    return plan if agrees(plan, layout, lines, holes) else None


def _attempts(
    rng: np.random.Generator, kinds: Sequence[str] | None, tries: int, corner_doors: bool = False
) -> Iterator[tuple[int, Programme, Plan]]:
    """Number of the attempt, counted from 1, programme and plan of each attempt that gives one."""
    programme = draw_programme(rng, kinds)
    for number in range(1, tries + 1):
        plan = _attempt(rng, programme, corner_doors)
        if plan is not None:
            yield number, programme, plan
        if plan is not None or number % TRIES_PER_PROGRAMME == 0:
            programme = draw_programme(rng, kinds)


def synthesise(seed: int, corner_doors: bool = False) -> Drawn:
    """Draw a plan; the same seed gives the same plan on every machine.

    Args:
        seed: Decides everything.
        corner_doors: Doors stand at the very ends of walls and around corners too, as in real plans, where 6 % of them join
            three rooms; else clear of corners (decision 0025).
    """
    rng = np.random.default_rng(derive_seed("floor plan", seed))
    for tries, programme, plan in _attempts(rng, None, MAX_TRIES, corner_doors):
        return Drawn(seed, plan, programme.wall_px, tries)
    raise AssertionError(f"no plan in {MAX_TRIES} tries from seed {seed}")


def plans_of(kinds: Sequence[str], seed: int, tries: int) -> Iterator[Plan]:
    """Plans with a living room and these rooms, thin walls between them; as many as come of so many tries."""
    for _, _, plan in _attempts(np.random.default_rng(derive_seed("plan of rooms", seed)), kinds, tries):
        yield plan

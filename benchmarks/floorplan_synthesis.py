"""Measure the speed of plan synthesis, and compare synthesised with real plans.

In: the number of plans. Out: plans per CPU second of one core, attempts per plan, and a table of statistics beside those of
101 real plans (RPLAN 0 .. 100 as published with FloorDiffusion, measured with the same annotator). Every synthesised plan is
also rendered, read back and compared with its text; the number of mismatches is printed and must be 0.

    OMP_NUM_THREADS=1 python -m benchmarks.floorplan_synthesis --count 500
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from loraloom.extensions.domains.floorplan.plan import Plan, annotate
from loraloom.extensions.domains.floorplan.render.painting import labels_of_exact, paint
from loraloom.extensions.domains.floorplan.synthesis import SynthesisedPlan, synthesise
from loraloom.extensions.domains.floorplan.synthesis.graphs import graph_hash
from loraloom.extensions.domains.floorplan.text.spec import print_spec, spec_of

REAL_AREAS = {
    "living room": (4885, 6464, 8974), "master room": (1951, 2760, 4034), "bedroom": (1296, 2006, 2890),
    "kitchen": (728, 1092, 1976), "bathroom": (418, 768, 1254), "balcony": (312, 864, 1665), "storage": (177, 406, 648),
}  # fmt: skip
REAL_ROOMS = {5: 9, 6: 27, 7: 44, 8: 21}
REAL_SHARES = {
    "bedrooms 0/1/2/3": ("bedroom", (4, 42, 51, 4)),
    "bathrooms 1/2": ("bathroom", (0, 86, 15)),
    "balconies 0/1/2/3": ("balcony", (26, 60, 14, 1)),
    "storages 0/1": ("storage", (94, 6)),
    "entrances 0/1": ("entrance", ()),
}
REAL_DOORS = {
    ("living room", "bedroom"): 0.98, ("living room", "master room"): 0.99, ("living room", "kitchen"): 0.89,
    ("living room", "bathroom"): 0.82, ("living room", "balcony"): 0.37, ("kitchen", "balcony"): 0.20,
    ("master room", "bathroom"): 0.19, ("master room", "balcony"): 0.17, ("bedroom", "bathroom"): 0.07,
    ("bedroom", "balcony"): 0.06,
}  # fmt: skip


def row(name: str, values: Sequence[float], real: Sequence[float] | str) -> None:
    """One line: 5/50/95 % of the values beside the real ones."""
    digits = 2 if max(values, default=0) < 10 and any(value % 1 for value in values) else 0
    mine = "/".join(f"{value:.{digits}f}" for value in np.percentile(values, (5, 50, 95))) if values else "-"
    print(f"{name:28} {mine:>18} {real if isinstance(real, str) else '/'.join(map(str, real)):>18}")


def mismatch(plan: Plan) -> bool:
    """Whether the plan's text differs from what is read from its image."""
    read = annotate(labels_of_exact(paint(plan.labels)))
    return print_spec(spec_of(read)) != print_spec(spec_of(plan))


def counts(plans: list[Plan]) -> None:
    """Number of rooms of each type, in per cent of the plans."""
    rooms = Counter(len(plan.rooms) for plan in plans)
    scale = 100 / len(plans)
    real = " ".join(f"{number}:{share}" for number, share in REAL_ROOMS.items())
    print(f"{'rooms, %':28} {' '.join(f'{n}:{rooms[n] * scale:.0f}' for n in sorted(rooms)):>18} {real:>18}")
    for name, (kind, shares) in REAL_SHARES.items():
        found = Counter(plan.counts[kind] for plan in plans)
        ours = "/".join(f"{found[number] * scale:.0f}" for number in range(max(len(shares), 2)))
        print(f"{name + ', %':28} {ours:>18} {'/'.join(map(str, shares)) or 'unknown':>18}")


def shapes(plans: list[Plan]) -> None:
    """Statistics of areas, the hub and the outline."""
    for kind, real in REAL_AREAS.items():
        row(f"{kind}, px", [room.area_px for plan in plans for room in plan.rooms if room.id.kind == kind], real)
    living = [plan.rooms[0] for plan in plans]
    whole = [sum(room.area_px for room in plan.rooms) for plan in plans]
    shares = [room.area_px / total for room, total in zip(living, whole, strict=True)]
    row("living room's share", shares, "0.32/0.42/0.51")
    filled = [room.area_px / ((room.box[2] - room.box[0]) * (room.box[3] - room.box[1])) for room in living]
    row("living room's rectangularity", filled, "-/0.66/-")
    inside = [np.nonzero(plan.labels) for plan in plans]
    widths, heights = ([int(np.ptp(pair[axis])) + 1 for pair in inside] for axis in (1, 0))
    row("width, px", widths, "107/147/205")
    row("height, px", heights, "105/159/213")
    fill = [len(ys) / (width * height) for (ys, _), width, height in zip(inside, widths, heights, strict=True)]
    row("fill", fill, "0.72/0.82/0.97")


def graphs(plans: list[Plan]) -> None:
    """Statistics of connections and positions."""
    row("connections", [len(plan.connections) for plan in plans], "4/6/8")
    row("positions", [len(plan.positions) for plan in plans], "0/9/13")
    both, joined = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    blobs: list[int] = []
    for plan in plans:
        blobs += [len(opening.rooms) for opening in plan.openings if opening.kind == "interior door"]
        for first, second in combinations([room.id for room in plan.rooms], 2):
            both[first.kind, second.kind] += 1
            joined[first.kind, second.kind] += (first, second) in plan.connections
    for pair, real in REAL_DOORS.items():
        print(f"{'door ' + ' - '.join(pair):28} {joined[pair] / max(1, both[pair]):18.2f} {real:18.2f}")
    print(f"{'doors of three rooms':28} {sum(number > 2 for number in blobs) / len(blobs):18.2f} {0.06:18.2f}")


def main() -> None:
    """Draw, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--corner-doors", action="store_true", help="doors as in real plans")
    arguments = parser.parse_args()
    started, clock = time.process_time(), time.perf_counter()
    made: list[SynthesisedPlan] = [
        synthesise(seed, arguments.corner_doors) for seed in range(arguments.seed, arguments.seed + arguments.count)
    ]
    cpu, wall = time.process_time() - started, time.perf_counter() - clock
    plans = [item.plan for item in made]
    tries = [item.tries for item in made]
    print(f"{len(plans)} plans: {len(plans) / cpu:.1f} per CPU second, {len(plans) / wall:.1f} per second elapsed")
    print(f"attempts per plan: mean {np.mean(tries):.2f}, most {max(tries)}")
    print(f"text and image differ: {sum(map(mismatch, plans))}; different graphs: {len(set(map(graph_hash, plans)))}\n")
    print(f"{'5/50/95 % or share':28} {'synthesised':>18} {'real':>18}")
    counts(plans)
    shapes(plans)
    graphs(plans)
    print(f"{'walls of 5 px':28} {np.mean([item.wall_px == 5 for item in made]):18.2f} {0.17:18.2f}")


if __name__ == "__main__":
    main()

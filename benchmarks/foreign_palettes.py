"""Measure how reliably images in another palette are refused, and images in our own styles are read.

In: the number of plans. Out, printed and with `--json` as a file: the share of plans in foreign palettes (dark ground,
moved hues, greyscale, inverted, pastel, darker, random, other projects' palettes, two of them from memory) that is read
without a refusal, and the number of these that are read wrongly; the share of plans in our styles after JPEG, noise, blur
and resizing that is refused. `--images` adds real or generated plans, which must not be refused.

    OMP_NUM_THREADS=1 python -m benchmarks.foreign_palettes --count 40 --images FOLDER
"""

import argparse
import colorsys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.floorplan import DOUBLE, Disturb, chain, filtered, jpeg, noise, resized, shifted
from benchmarks.recording import machine, write_record
from loraloom.extensions.domains.floorplan.cli.inputs import open_plan
from loraloom.extensions.domains.floorplan.plan import Plan
from loraloom.extensions.domains.floorplan.synthesis import synthesise
from loraloom.extensions.domains.floorplan.text.spec import spec_of
from loraloom.extensions.domains.floorplan.vision.flat_colours import flat_colours, foreign_share, known_of
from loraloom.extensions.domains.floorplan.vision.reading import as_array
from loraloom.extensions.domains.floorplan.vocabulary import CLASS_NAMES, EXTERNAL, STYLES, WALL
from loraloom.utils.errors import UserError

Colours = np.ndarray[Any, np.dtype[np.uint8]]

OWN: dict[str, Disturb] = {
    "exact": lambda image, rng: image,
    **{f"JPEG {quality}": jpeg(quality) for quality in (30, 40, 50, 75, 95)},
    **{f"noise {sigma}": noise(sigma) for sigma in (5, 10, 15, 25)},
    **{f"blur {radius}": filtered(ImageFilter.GaussianBlur(radius)) for radius in (0.5, 1, 2)},
    "colours off by 12": shifted(12),
    "half size": resized(0.5, Image.Resampling.BICUBIC), "1.4 times": resized(1.4, Image.Resampling.BICUBIC),
    "3 times": resized(3, Image.Resampling.BICUBIC), "2x nearest, JPEG 30": chain(DOUBLE, jpeg(30)),
    "blur 1, noise 15, JPEG 50": chain(filtered(ImageFilter.GaussianBlur(1)), noise(15), jpeg(50)),
}  # fmt: skip
"""Disturbances of images in our own styles."""

OTHERS: dict[str, str] = {
    # In the order of CLASS_NAMES; a class that a project lacks has the colour of what it has in its place.
    "Tell2Design": "ffffff eee8aa ffa500 f08080 add8e6 ffd700 6b8e23 dda0dd ffff00 000000 ff0000 ffffff ffffff",
    "House-GAN": "ffffff ee4d4d ffd274 c67c7b bebebe ff8c69 bfe3e8 1f849b 7ba779 000000 727171 d3a2c7 ffffff",
    "Graph2Plan": "ffffff f4f2e5 fdf4ab ead8d6 cde9fc fdf4ab d0d887 f9debd f4f2e5 4f4f4f ffe119 ffffff ffffff",
}


FROM_MEMORY = ("House-GAN", "Graph2Plan")
"""Written down from memory, not compared with the projects' code."""


def colours_of(line: str) -> Colours:
    """(13, 3) from hex words."""
    return np.array([list(bytes.fromhex(word)) for word in line.split()], np.uint8)


def hue_moved(colours: Colours, degrees: float) -> Colours:
    """Each colour with another hue; greys are unchanged."""
    moved = [
        colorsys.hls_to_rgb((hue + degrees / 360) % 1, light, saturation)
        for hue, light, saturation in (colorsys.rgb_to_hls(*(colour / 255)) for colour in colours)
    ]
    return np.rint(np.array(moved) * 255).astype(np.uint8)


def with_ground(colours: Colours, ground: int) -> Colours:
    """The colours with a grey outside."""
    changed = colours.copy()
    changed[EXTERNAL] = ground
    return changed


def with_rooms(colours: Colours, rng: np.random.Generator, most: int) -> Colours:
    """Random colours for the first `most` room types; walls, doors, windows and ground are unchanged."""
    changed = colours.copy()
    changed[1 : 1 + most] = rng.integers(0, 256, (most, 3))
    return changed


def foreign_palettes(random: int) -> Iterator[tuple[str, Colours]]:
    """Name and colours of each foreign palette."""
    for name, style in STYLES.items():
        own = style.palette
        for ground in (0, 40, 90):
            yield f"{name}, ground {ground}", with_ground(own, ground)
        for degrees in (60, 120, 180, 240, 300):
            yield f"{name}, hue {degrees}", hue_moved(own, degrees)
        yield f"{name}, greyscale", np.repeat(np.rint(own @ [[0.299], [0.587], [0.114]]).astype(np.uint8), 3, 1)
        yield f"{name}, inverted", 255 - own
        yield f"{name}, pastel", np.rint(own * 0.4 + 153).astype(np.uint8)
        yield f"{name}, darker", np.rint(own * 0.6).astype(np.uint8)
        for number in range(random):
            rng = np.random.default_rng(number)
            yield f"{name}, random rooms", with_rooms(own, rng, 8)
            yield f"{name}, random all", rng.integers(0, 256, own.shape).astype(np.uint8)
            yield f"{name}, two rooms changed", with_rooms(own, rng, 2)
    for name, line in OTHERS.items():
        yield f"{name} (from memory, unverified)" if name in FROM_MEMORY else name, colours_of(line)


def outcome(folder: Path, image: Image.Image, plan: Plan | None) -> tuple[str, float]:
    """`refused`, `right` or `wrong`, and the smallest share of foreign colours over the styles."""
    path = folder / "plan.png"
    image.save(path)
    colours = flat_colours(as_array(image.convert("RGB")))
    share = min(foreign_share(colours, known_of(style)) for style in STYLES.values())
    try:
        found = spec_of(open_plan(path).plan)
    except UserError as error:
        return ("refused" if "palette" in str(error) else "no plan"), share
    return ("right" if plan is None or found == spec_of(plan) else "wrong"), share


def row(name: str, found: list[tuple[str, float]]) -> dict[str, Any]:
    """Counts by outcome and the range of shares, printed."""
    counts = {key: sum(each[0] == key for each in found) for key in ("refused", "no plan", "right", "wrong")}
    shares = sorted(each[1] for each in found)
    print(
        f"{name:38} " + " ".join(f"{value:8}" for value in counts.values()) + f"   {shares[0]:.3f} .. {shares[-1]:.3f}"
    )
    return {**counts, "least_share": shares[0], "most_share": shares[-1]}


def measure(count: int, random: int, images: Path | None) -> dict[str, Any]:
    """Measure and print both tables."""
    plans = [synthesise(seed).plan for seed in range(count)]
    head = f"{'':38} {'refused':>8} {'no plan':>8} {'right':>8} {'wrong':>8}   share in foreign colours"
    result: dict[str, Any] = {"own": {}, "foreign": {}}
    with tempfile.TemporaryDirectory() as folder:
        test = partial(outcome, Path(folder))
        print(f"own styles, {count} plans each\n{head}")
        for style in STYLES.values():
            for place, (name, disturb) in enumerate(OWN.items()):
                found = [
                    test(
                        disturb(Image.fromarray(style.palette[plan.labels]), np.random.default_rng((seed, place))), plan
                    )
                    for seed, plan in enumerate(plans)
                ]
                result["own"][f"{style.name}, {name}"] = row(f"{style.name}, {name}", found)
        if images is not None:
            files = sorted(images.rglob("*.png"))
            result["own"]["images"] = row(f"{len(files)} images", [test(Image.open(file), None) for file in files])
        print(f"\nforeign palettes\n{head}")
        groups: dict[str, list[tuple[str, float]]] = {}
        for number, (name, colours) in enumerate(foreign_palettes(random)):
            chosen = plans if "random" not in name and "changed" not in name else [plans[number % count]]
            groups.setdefault(name, []).extend(test(Image.fromarray(colours[plan.labels]), plan) for plan in chosen)
        for name, found in groups.items():
            result["foreign"][name] = row(name, found)
    own, other = (list(result[key].values()) for key in ("own", "foreign"))
    total = {key: sum(sum(each[name] for name in ("refused", "no plan", "right", "wrong")) for each in table)
             for key, table in (("own", own), ("foreign", other))}  # fmt: skip
    result["false_refusals"] = sum(each["refused"] + each["no plan"] for each in own)
    result["missed_and_wrong"] = sum(each["wrong"] for each in other)
    print(f"\nfalse refusals {result['false_refusals']} of {total['own']}; read wrongly without a refusal"
          f" {result['missed_and_wrong']} of {total['foreign']}")  # fmt: skip
    return result


def main() -> None:
    """Measure, print, write."""
    assert len(CLASS_NAMES) == 13 and WALL == 9
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40, help="number of plans for each row")
    parser.add_argument("--random", type=int, default=40, help="number of random palettes of each kind")
    parser.add_argument("--images", type=Path, help="folder of further plans in our styles")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    print(machine())
    result = measure(arguments.count, arguments.random, arguments.images)
    if arguments.json:
        write_record(arguments.json, {"machine": machine(), "plans": arguments.count, **result})


if __name__ == "__main__":
    main()

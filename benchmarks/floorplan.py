"""Measure speed and reliability of synthesising, reading, exporting and measuring floor plans.

In: the number of plans, and a folder of real pairs if there is one (`--real`: N.txt beside N.png, or `input_text/` and
`label_floorplan/`). Out, printed and with `--json` as a file:

- synthesis: plans per CPU second of a core, alone and as the dataset that `plan synthesise` writes, and
  statistics beside those of 101 real plans (`floorplan_synthesis.py`);
- reading: the share of plans whose counts, connections, positions and all three are read back identically from images
  that are exact, noisy, blurred, compressed, off colour or enlarged, and CPU milliseconds per image (median);
- exports: the share that reads back to the same pixels;
- texts: the parser on damaged texts; any result except a spec or a refusal with a reason is a crash;
- metrics: all of them for the reference answers of `anchors`.

    OMP_NUM_THREADS=1 python -m benchmarks.floorplan --count 10000 --workers 2 --json benchmarks/results/floorplan.json
"""

import argparse
import io
import os
import platform
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.floorplan_synthesis import counts, graphs, mismatch, shapes
from benchmarks.recording import write_record
from loraloom.extensions.domains.floorplan.export import export, rasterise
from loraloom.extensions.domains.floorplan.export.json_file import read_json
from loraloom.extensions.domains.floorplan.render.painting import labels_of_exact, paint
from loraloom.extensions.domains.floorplan.synthesis import synthesise
from loraloom.extensions.domains.floorplan.synthesis.dataset import write_dataset
from loraloom.extensions.domains.floorplan.text.sections import sections_of
from loraloom.extensions.domains.floorplan.text.spec import Spec, parse_spec, print_spec, spec_of
from loraloom.extensions.domains.floorplan.text.texts import spec_from_text
from loraloom.extensions.domains.floorplan.verify.anchors import anchors
from loraloom.extensions.domains.floorplan.vision.reading import read
from loraloom.extensions.domains.floorplan.vocabulary import STYLES, style_of
from loraloom.utils.errors import UserError

PARTS = ("drawing", "reading", "exports", "texts", "anchors")
Rng = np.random.Generator
Disturb = Callable[[Image.Image, Rng], Image.Image]


# ---------------------------------------------------------------------------------------------------------- machine


def processor() -> str:
    """Model of the processor, and its widest vector instructions if known: names such as "AMD EPYC" are ambiguous."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    said = {line.split(":", 1)[0].strip(): line.split(":", 1)[1].strip() for line in lines if ":" in line}
    flags = said.get("flags", said.get("Features", "")).split()
    vectors = next((name for name in ("avx512f", "avx2", "sve", "asimd") if name in flags), "")
    return f"{said.get('model name') or platform.processor() or platform.machine()}{f' ({vectors})' if vectors else ''}"


def machine() -> str:
    """Processor, cores, load, versions."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"
    return f"{processor()}, {os.cpu_count()} cores (load {load}), Python {platform.python_version()}, numpy {np.__version__}"


# ----------------------------------------------------------------------------------------------------- disturbances


def noise(sigma: float) -> Disturb:
    """Gaussian noise on every channel."""

    def disturb(image: Image.Image, rng: Rng) -> Image.Image:
        values = np.asarray(image, np.float32) + rng.normal(0, sigma, (*image.size[::-1], 3))
        return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))

    return disturb


def filtered(kernel: ImageFilter.Filter) -> Disturb:
    """A filter of Pillow."""
    return lambda image, rng: image.filter(kernel)


def jpeg(quality: int, subsampling: int = 2) -> Disturb:
    """A JPEG round trip; subsampling 2 halves the resolution of colour (4:2:0, the usual default)."""

    def disturb(image: Image.Image, rng: Rng) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality, subsampling=subsampling)
        return Image.open(stream).convert("RGB")

    return disturb


def shifted(most: int) -> Disturb:
    """Each colour of the image shifted by up to `most` in each channel."""

    def disturb(image: Image.Image, rng: Rng) -> Image.Image:
        pixels = np.asarray(image).reshape(-1, 3)
        colours, place = np.unique(pixels, axis=0, return_inverse=True)
        moved = np.clip(colours + rng.integers(-most, most + 1, colours.shape), 0, 255).astype(np.uint8)
        return Image.fromarray(moved[place.reshape(image.size[::-1])])

    return disturb


def resized(factor: float, how: Image.Resampling) -> Disturb:
    """Enlarged or reduced."""
    return lambda image, rng: image.resize((round(image.width * factor), round(image.height * factor)), how)


def chain(*steps: Disturb) -> Disturb:
    """One after the other."""

    def disturb(image: Image.Image, rng: Rng) -> Image.Image:
        for step in steps:
            image = step(image, rng)
        return image

    return disturb


DOUBLE = resized(2, Image.Resampling.NEAREST)
DISTURBANCES: dict[str, Disturb] = {
    "exact": lambda image, rng: image,
    "noise 5": noise(5), "noise 10": noise(10), "noise 15": noise(15),
    "gaussian blur 0.5": filtered(ImageFilter.GaussianBlur(0.5)),
    "gaussian blur 1": filtered(ImageFilter.GaussianBlur(1)), "box blur 1": filtered(ImageFilter.BoxBlur(1)),
    "jpeg 90": jpeg(90), "jpeg 90 4:4:4": jpeg(90, 0), "jpeg 75": jpeg(75), "jpeg 75 4:4:4": jpeg(75, 0),
    "colours off by 12": shifted(12),
    "2x nearest": DOUBLE, "2x bicubic": resized(2, Image.Resampling.BICUBIC),
    "2x nearest, jpeg 90": chain(DOUBLE, jpeg(90)), "2x nearest, jpeg 75": chain(DOUBLE, jpeg(75)),
    "2x nearest, blur 1, noise 10": chain(DOUBLE, filtered(ImageFilter.GaussianBlur(1)), noise(10)),
}  # fmt: skip
"""Disturbances of an image before it is read; 2x is the size of plans for training at 512."""


# ---------------------------------------------------------------------------------------------------------- reading


def verdict(asked: Spec, seen: Spec) -> dict[str, bool]:
    """The parts of two specs that are the same."""
    same = {
        "counts": asked.counts == seen.counts,
        "connections": asked.connections == seen.connections,
        "positions": asked.positions == seen.positions,
    }
    return {**same, "all": all(same.values())}


def examine(image: Image.Image, text: str, seed: int) -> dict[str, dict[str, Any]]:
    """One image through every disturbance: the parts read back unchanged, CPU seconds, share off the palette."""
    asked, style = parse_spec(text), style_of(text)
    found: dict[str, dict[str, Any]] = {}
    for place, (name, disturb) in enumerate(DISTURBANCES.items()):
        source_image = disturb(image, np.random.default_rng((seed, place)))
        started = time.process_time()
        reading = read(source_image, style)
        seconds = time.process_time() - started
        found[name] = {**verdict(asked, spec_of(reading.plan, style)), "seconds": seconds, "off": reading.off_palette}
    return found


def examine_synthesised(style: str, seed: int) -> dict[str, dict[str, Any]]:
    """`examine` the plan of a seed."""
    plan = synthesise(seed).plan
    return examine(Image.fromarray(paint(plan.labels, style)), print_spec(spec_of(plan, style)), seed)


def table(title: str, found: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Print the shares that are read back unchanged."""
    print(
        f"\n{title}, {processor()}\n"
        f"{'read the same, %':30} {'counts':>8} {'doors':>8} {'places':>8} {'all':>8} {'ms':>8} {'off, %':>8}"
    )
    rows: dict[str, dict[str, float]] = {}
    for name in DISTURBANCES:
        rows[name] = {
            part: statistics.fmean(each[name][part] for each in found)
            for part in ("counts", "connections", "positions", "all", "off")
        }
        rows[name]["ms"] = 1000 * statistics.median(each[name]["seconds"] for each in found)
        shares = [100 * rows[name][part] for part in ("counts", "connections", "positions", "all")]
        print(f"{name:30} {' '.join(f'{share:8.1f}' for share in shares)} {rows[name]['ms']:8.1f} "
              f"{100 * rows[name]['off']:8.2f}")  # fmt: skip
    return rows


def real_pairs(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Texts with their images, in either layout."""
    if (folder / "input_text").is_dir():
        texts = sorted((folder / "input_text").glob("*.txt"))
        pairs = [(path, folder / "label_floorplan" / f"{path.stem}.png") for path in texts]
    else:
        pairs = [(path, path.with_suffix(".png")) for path in sorted(folder.glob("*.txt"))]
    yield from (pair for pair in pairs if pair[1].is_file())


def reading(seeds: range, over: Callable[..., Iterable[Any]], folder: Path | None) -> dict[str, Any]:
    """Synthesised plans in each style, and real ones."""
    result: dict[str, Any] = {}
    for style in STYLES:
        result[style] = table(
            f"{len(seeds)} synthesised plans, style {style}", list(over(partial(examine_synthesised, style), seeds))
        )
    pairs = list(real_pairs(folder)) if folder else []
    if not pairs:
        print("\nreal pairs: none given (--real FOLDER)" if folder is None else f"\nreal pairs: none in {folder}")
        return result
    found = [
        examine(Image.open(image).convert("RGB"), text.read_text(encoding="utf-8"), number)
        for number, (text, image) in enumerate(pairs)
    ]
    result["real"] = table(f"{len(pairs)} real pairs", found)
    return result


# ---------------------------------------------------------------------------------------------------------- synthesis


def synthesis(seeds: range, over: Callable[..., Iterable[Any]]) -> dict[str, Any]:
    """Speed and statistics."""
    clock = time.perf_counter()
    made = list(over(_synthesised, seeds))
    elapsed = time.perf_counter() - clock
    plans, seconds, tries = (
        [item.plan for item, _ in made],
        [cpu for _, cpu in made],
        [item.tries for item, _ in made],
    )
    wrong = sum(map(mismatch, plans))
    result = {
        "plans": len(plans), "per_cpu_second": len(plans) / sum(seconds), "per_second_elapsed": len(plans) / elapsed,
        "median_ms": 1000 * statistics.median(seconds), "slowest_ms": 1000 * max(seconds),
        "mean_tries": statistics.fmean(tries), "text_and_picture_differ": wrong,
    }  # fmt: skip
    print(f"\nsynthesis, {processor()}: {result['per_cpu_second']:.1f} plans per CPU second, "
          f"{result['per_second_elapsed']:.1f} per second elapsed; "
          f"median {result['median_ms']:.0f} ms, slowest {result['slowest_ms']:.0f} ms; "
          f"{result['mean_tries']:.1f} attempts per plan; text and image differ: {wrong}")  # fmt: skip
    result["dataset"] = dataset(min(200, len(plans)))
    print(f"{'5/50/95 % or share':28} {'synthesised':>18} {'real':>18}")
    counts(plans)
    shapes(plans)
    graphs(plans)
    return result


def dataset(number: int) -> dict[str, float]:
    """Cost of `plan synthesise` with all files, in CPU seconds, which do not depend on other work."""
    with tempfile.TemporaryDirectory() as folder:
        before, clock = os.times(), time.perf_counter()
        write_dataset(Path(folder) / "plans", number, seed=0, workers=1)
        after, elapsed = os.times(), time.perf_counter() - clock
    spent = sum(
        getattr(after, name) - getattr(before, name) for name in ("user", "system", "children_user", "children_system")
    )
    print(f"dataset, {processor()}: {number / spent:.1f} plans per CPU second, {number / elapsed:.1f} per second elapsed of"
          " one process")  # fmt: skip
    return {"plans": number, "per_cpu_second": number / spent, "per_second_elapsed": number / elapsed}


def _synthesised(seed: int) -> tuple[Any, float]:
    started = time.process_time()
    item = synthesise(seed)
    return item, time.process_time() - started


# ---------------------------------------------------------------------------------------------------------- exports


def round_trips(seed: int) -> dict[str, bool | None]:
    """Format to whether a plan is read back unchanged from its file; None if a library is missing."""
    plan = synthesise(seed).plan
    found: dict[str, bool | None] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for suffix in (".svg", ".dxf", ".geojson", ".json", ".png", ".ifc"):
            try:
                path = export(plan, Path(scratch) / f"plan{suffix}")
            except UserError:
                found[suffix] = None
                continue
            if suffix == ".json":
                back = read_json(path).labels
            elif suffix == ".png":
                back = labels_of_exact(np.asarray(Image.open(path)))
            elif suffix == ".ifc":
                # IFC is not read back to pixels; every room and every opening must be in it.
                words = Counter(
                    line.split("=", 1)[1].split("(")[0] for line in path.read_text().splitlines() if "=" in line
                )
                windows = sum(opening.kind == "window" for opening in plan.openings)
                found[suffix] = words["IFCSPACE"] == len(plan.rooms) and words["IFCWINDOW"] == windows
                continue
            else:
                back = getattr(rasterise, f"read_{suffix[1:]}")(path.read_bytes())
            found[suffix] = bool(np.array_equal(back, plan.labels))
    return found


def exports(seeds: range, over: Callable[..., Iterable[Any]]) -> dict[str, Any]:
    """Shares of plans that are read back unchanged."""
    found = list(over(round_trips, seeds))
    print(f"\nexports of {len(found)} plans that read back the same (.ifc: all rooms and windows are in it), %")
    result: dict[str, Any] = {}
    for suffix in found[0]:
        known = [each[suffix] for each in found if each[suffix] is not None]
        result[suffix] = statistics.fmean(known) if known else None
        print(f"{suffix:30} {100 * statistics.fmean(known):8.1f}" if known else f"{suffix:30} library not installed")
    return result


# ------------------------------------------------------------------------------------------------------------ texts

_SNIPPETS = (
    "[", "]", "#", "#0", "#-1", "#99999999999", ".", ",", " is ", " and ", "left-of", "leftof", "bedroom", "living room #1",
    "[Connection Between Rooms]", "[Nothing]", "\n", "\r\n", "\t", "\x00", "\uff11", "²", "ß", "침실 두 개", "🏠",
    "0", "-3", "1e9",
)  # fmt: skip


def damaged(text: str, rng: Rng) -> str:
    """The text with one to three lines or pieces removed, duplicated, moved or inserted."""
    for _ in range(int(rng.integers(1, 4))):
        if rng.random() < 0.5:
            lines = text.split("\n")
            first, second = (int(place) for place in rng.integers(0, len(lines), 2))
            lines[first], lines[second] = lines[second], lines[first]
            text = ("\n", "\n", "\n", " ")[int(rng.integers(4))].join(
                (lines, [*lines[:first], *lines[first + 1 :]], [*lines, lines[second]])[int(rng.integers(3))]
            )
            continue
        start, place = (int(place) for place in rng.integers(0, len(text) + 1, 2))
        end = min(len(text), start + int(rng.integers(1, 60)))
        piece, snippet = text[start:end], _SNIPPETS[int(rng.integers(len(_SNIPPETS)))]
        text = (
            text[:start] + text[end:],
            text[:start] + piece + text[start:],
            text[:place] + snippet + text[place:],
            text[:start] + snippet + text[end:],
            text[:start] + piece[::-1] + text[end:],
        )[int(rng.integers(5))]
    return text


def fuzz(seed: int) -> tuple[str, str]:
    """The kind of result of one damaged text, and the error of a crash."""
    rng = np.random.default_rng((seed, 1))
    text = damaged(print_spec(spec_of(synthesise(seed % 40).plan)), rng)
    try:
        sections_of(text)
        spec = spec_from_text(text)
    except UserError:
        return "refused with a reason", ""
    except Exception as error:
        return "crashed", f"seed {seed}: {type(error).__name__}: {error}"
    if "[" not in text:
        return "taken as plain words", ""
    return ("read" if parse_spec(print_spec(spec)) == spec else "printed differently"), ""


def texts(number: int, over: Callable[..., Iterable[Any]]) -> dict[str, Any]:
    """Results of damaged texts."""
    found = list(over(fuzz, range(number)))
    ends = Counter(end for end, _ in found)
    print(f"\n{number} damaged texts: {', '.join(f'{count} {end}' for end, count in ends.most_common())}")
    for _, error in [each for each in found if each[1]][:5]:
        print(f"  {error}")
    return {"texts": number, **ends, "crashed": ends["crashed"], "printed differently": ends["printed differently"]}


# ---------------------------------------------------------------------------------------------------------- anchors


def reference_answers(number: int) -> dict[str, Any]:
    """The table of `anchors` over synthesised plans."""
    plans = [synthesise(seed).plan for seed in range(number)]
    prompts = [print_spec(spec_of(plan)) for plan in plans]
    result = anchors(prompts, [Image.fromarray(paint(plan.labels)) for plan in plans], seed=0)
    print(
        f"\nscores of reference answers, {number} synthesised plans\n{'':34}"
        + "".join(f"{name:>15}" for name in result)
    )
    for value in next(iter(result.values())):
        print(f"{value:34}" + "".join(f"{row[value]:15.3f}" for row in result.values()))
    return result


# ------------------------------------------------------------------------------------------------------------- main


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="number of plans; a tenth of them is exported")
    parser.add_argument("--anchors", type=int, default=100, help="number of plans for the table of reference answers")
    parser.add_argument("--fuzz", type=int, default=2000, help="number of damaged texts")
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--real", type=Path, help="folder of real pairs")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    result: dict[str, Any] = {"machine": machine(), "count": arguments.count, "seed": arguments.seed}
    print(f"{result['machine']}; {arguments.workers} worker(s)")
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        over = partial(pool.map, chunksize=8)
        measure: dict[str, Callable[[], Any]] = {
            "drawing": lambda: synthesis(seeds, over),
            "reading": lambda: reading(seeds, over, arguments.real),
            "exports": lambda: exports(seeds[: max(10, len(seeds) // 10)], over),
            "texts": lambda: texts(arguments.fuzz, over),
            "anchors": lambda: reference_answers(arguments.anchors),
        }
        for part in arguments.parts:
            result[part] = measure[part]()
    if arguments.json:
        write_record(arguments.json, result)


if __name__ == "__main__":
    main()

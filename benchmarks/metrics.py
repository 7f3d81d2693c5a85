"""What do FID, KID and CMMD say of two sets of one distribution, where the truth is 0?

In: numbers of images, and trials for each. Two sets of scenes with different seeds are synthesized and embedded by
`builtin:mini`'s CLIP. Out, printed and in `--record`: mean and standard deviation over trials of FID, KID and both estimates of
CMMD for each number, and how long an image takes. Also the deviation that `evaluate` gives from halves of one pair of
sets, which ought to be the one over trials.

    python -m benchmarks.metrics --images 50,500 --trials 5
"""

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.recording import machine, write_record
from loraloom import plugins
from loraloom.evaluate.extractors import resolve_extractor
from loraloom.extensions.metrics._distances import cmmd, frechet_distance, half_sample_sd, polynomial_mmd
from loraloom.extensions.metrics._towers import Tower
from loraloom.protocols.evaluation import Sample
from loraloom.utils.rng import derive_seed

BATCH = 32
FUNCTIONS = {
    "fid": frechet_distance,
    "kid": polynomial_mmd,
    "cmmd": partial(cmmd, unbiased=True),
    "cmmd_biased": cmmd,
}


def scenes(first: int, count: int) -> list[Sample]:
    """Synthesized scenes in the flat style, from seeds that nothing is trained on."""
    generator = plugins.load("domains", "scenes").dataset_generator

    def render(number: int) -> Image.Image:
        return generator.draw(derive_seed("benchmark of metrics", number) >> 16, "flat")[0]

    return [
        Sample(role="generated", id=str(number), open=partial(render, number)) for number in range(first, first + count)
    ]


def embedded(tower: Tower, samples: list[Sample]) -> np.ndarray:
    """(n, d) float64."""
    rows = [row for start in range(0, len(samples), BATCH) for row in tower.images(samples[start : start + BATCH])]
    return np.stack(rows).astype(np.float64)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="50,500", help="numbers of images of each set, with commas")
    parser.add_argument(
        "--trials", type=int, default=5, help="pairs of sets for each number; images are shared out anew"
    )
    parser.add_argument("--record", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args()
    counts = [int(text) for text in arguments.images.split(",")]
    tower = Tower(resolve_extractor("builtin:mini", "--extractor").folder, "cpu")
    began = time.perf_counter()
    pool = embedded(tower, scenes(0, 2 * max(counts)))
    seconds = (time.perf_counter() - began) / len(pool)
    rows: list[dict[str, float]] = []
    print("| images | " + " | ".join(FUNCTIONS) + " | sd of KID by halves |\n|" + "---|" * (len(FUNCTIONS) + 2))
    rng = np.random.default_rng(0)
    for count in counts:
        pairs = [rng.permutation(len(pool))[: 2 * count].reshape(2, count) for _ in range(arguments.trials)]
        row: dict[str, float] = {"images": count}
        for name, distance in FUNCTIONS.items():
            values = [distance(pool[first], pool[second]) for first, second in pairs]
            row |= {name: float(np.mean(values)), f"{name}_sd": float(np.std(values, ddof=1))}
        names = [str(index) for index in range(count)]
        sds = [half_sample_sd(polynomial_mmd, pool[a], pool[b], (names, names), 0) or 0.0 for a, b in pairs[:3]]
        row["kid_sd_by_halves"] = float(np.mean(sds))
        rows.append(row)
        cells = " | ".join(f"{row[name]:.3f} ± {row[f'{name}_sd']:.3f}" for name in FUNCTIONS)
        print(f"| {count:,} | {cells} | {row['kid_sd_by_halves']:.3f} |", flush=True)
    print(f"{seconds * 1000:.0f} ms an image, rendering included, on {machine()}")
    if arguments.record:
        write_record(arguments.record, {"machine": machine(), "seconds_per_image": seconds, "rows": rows})


if __name__ == "__main__":
    main()

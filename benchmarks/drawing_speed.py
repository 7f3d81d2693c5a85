"""Measure the time per image with an adapter, merged or beside the weights, and without.

In: a run folder, the number of rounds. Out: seconds per image without an adapter, with one merged into the weights as in
`generate`, and with its layers beside the weights as in training. They alternate, and medians of the ratios within a round
are printed.

    loraloom quickstart --out quickstart
    python -m benchmarks.drawing_speed --adapter quickstart/run
"""

import argparse
import statistics
import time
from pathlib import Path

from loraloom.config.generate import GenerateConfig
from loraloom.extensions.domains.floorplan import DOMAIN
from loraloom.generate.session import Session, open_session

STEPS = 10
IMAGES = 4


def generation_s(session: Session, text: str) -> float:
    """Seconds per image."""
    requests = session.requests([text] * IMAGES)
    began = time.perf_counter()
    for _ in session.generate(requests):
        pass
    return (time.perf_counter() - began) / IMAGES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, required=True, help="run folder or adapter file")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    config = GenerateConfig(steps=STEPS, batch_size=IMAGES)
    bare, merged, beside = (
        open_session(
            config, adapters=[(args.adapter, weight)], changing=True, domain="floorplan", say=lambda note: None
        )
        for weight in (0.0, 1.0, 1.0)
    )
    beside.adapters.unmerge()
    assert DOMAIN.dataset_generator is not None
    _, text = DOMAIN.dataset_generator.draw(1, "sjh")
    sessions = {"without": bare, "merged": merged, "beside": beside}
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(args.rounds + 1):
        for name, session in sessions.items():
            taken = generation_s(session, text)
            if number:  # the first round warms up
                seconds[name].append(taken)
        if number:
            print("  ".join(f"{name} {times[-1]:.3f} s" for name, times in seconds.items()), flush=True)
    for one, other in (("beside", "merged"), ("merged", "without")):
        ratio = statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))
        print(f"{one} takes {ratio:.2f} times as long as {other}")


if __name__ == "__main__":
    main()

"""Measure how well images of the built-in base meet their texts, without and with an adapter of the quickstart.

In: a model, an adapter (a run folder) or none, the number of texts. Texts have held-out seeds: without an adapter in the
style `plain`, which the base was trained on, with one in `sjh`. Out, printed and with `--json` as a file: all metrics of
`loraloom.extensions.domains.floorplan.verify.metrics` for the first image, for the best of N by receipt, and for that one
after repair, beside the scores of reference answers (`anchors`); the share of sentences met by the number of windows of
the text.

    loraloom quickstart --out quickstart
    python -m benchmarks.mini --adapter quickstart/run --prompts 200 --best-of 8 --json benchmarks/results/mini_sjh.json
    python -m benchmarks.mini --model builtin:mini --prompts 200 --best-of 8 --json benchmarks/results/mini_plain.json

200 texts, best of 8 and repair take 30 to 50 minutes on two CPU cores.
"""

import argparse
import platform
import time
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.recording import write_record
from loraloom.config.generate import GenerateConfig
from loraloom.extensions.domains.floorplan import DOMAIN
from loraloom.extensions.domains.floorplan.verify.anchors import anchors
from loraloom.extensions.domains.floorplan.verify.metrics import METRICS, by_windows
from loraloom.generate.session import Session, open_session
from loraloom.protocols.domain import Tally
from loraloom.protocols.model import ModelSource
from loraloom.utils.rng import derive_seed
from loraloom.verify.best_of import candidate_requests, repair, require_verifier

SHOWN = (
    "sentences_met", "complete", "parsed", "count_items_met", "connection_f1", "connection_f1_without_living",
    "position_exact_of_all", "position_within_one_of_all", "iou_pooled",
)  # fmt: skip
AIMED = ("count_items_met", "connection_f1_without_living", "position_exact_of_all")
GIVEN_COUNTS = ("anchor: same counts", "anchor: constant hub")
"""Anchors that get the text's counts, and so are no reference for counts."""
HELD_OUT = "benchmark of mini"
"""Purpose of the held-out seeds; training uses other ones."""


def held_out(count: int, style: str) -> list[tuple[Image.Image, str]]:
    """Held-out images and texts."""
    assert DOMAIN.dataset_generator is not None
    return [DOMAIN.dataset_generator.draw(derive_seed(HELD_OUT, number) >> 16, style) for number in range(count)]


class Sums:
    """Every metric over images of one kind."""

    def __init__(self, session: Session) -> None:
        windows = lambda prompt: len(session.encoder.plan(prompt).windows)  # noqa: E731
        self._tallies: list[Tally] = [metric.start() for metric in METRICS]
        self._by_windows = by_windows(METRICS[0], windows)

    def add(self, image: Image.Image, prompt: str, truth: Image.Image) -> None:
        """Count an image."""
        for tally in (*self._tallies, self._by_windows):
            tally.add(image, prompt, truth)

    def result(self) -> dict[str, float]:
        """All values; sentences met by windows as `sentences_met@n`."""
        values = {name: value for tally in self._tallies for name, value in tally.result().items()}
        lengths = self._by_windows.result()
        return values | {name: value for name, value in lengths.items() if name.startswith("sentences_met@")}


def measure(session: Session, examples: list[tuple[Image.Image, str]], best_of: int) -> dict[str, dict[str, float]]:
    """Values of first images, of the best of N, and of these after repair if the session's settings have it."""
    verifier = require_verifier(session)
    sums: dict[str, Sums] = defaultdict(partial(Sums, session))
    began = time.monotonic()
    for number, (truth, prompt) in enumerate(examples, 1):
        # Different noise for each text: with the same for all, the figures would depend on it.
        requests = [replace(each, seed=1000 * number) for each in session.requests([prompt])]
        [group] = candidate_requests(requests, best_of)
        images = list(session.generate(group))
        receipts = [verifier.verify(image.image, prompt) for image in images]
        place = min(range(best_of), key=lambda index: receipts[index].rank)
        sums["as drawn"].add(images[0].image, prompt, truth)
        if best_of > 1:
            sums[f"best of {best_of}"].add(images[place].image, prompt, truth)
        if session.config.repair:
            mended, _, _ = repair(session, verifier, images[place], receipts[place], session.config.repair_rounds)
            sums[f"best of {best_of}, repaired"].add(mended.image, prompt, truth)
        if number % 10 == 0:
            print(f"{number} of {len(examples)} texts, {(time.monotonic() - began) / number:.1f} s each", flush=True)
    return {name: sum_.result() for name, sum_ in sums.items()}


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    lengths = sorted({name for row in rows.values() for name in row if "@" in name})
    names = (*SHOWN, *lengths)
    lines = ["| " + " | ".join(["", *names]) + " |", "|" + "---|" * (len(names) + 1)]
    for title, row in rows.items():
        cells = [f"{row[name]:.3f}" if name in row else "" for name in names]
        lines.append("| " + " | ".join([title, *cells]) + " |")
    return "\n".join(lines)


def headway(rows: dict[str, dict[str, float]]) -> str:
    """Progress of each kind of image from the best reference answer (0) to a perfect one (1), for the metrics `AIMED`."""
    lines: list[str] = []
    baselines = {name: row for name, row in rows.items() if name.startswith("anchor: ") and name != "anchor: truth"}
    for title, row in rows.items():
        if title.startswith("anchor: "):
            continue
        parts: list[str] = []
        for name in AIMED:
            without = GIVEN_COUNTS if name == "count_items_met" else ()
            best = max(
                (one[name] for title, one in baselines.items() if title not in without and one[name] >= 0), default=0.0
            )
            way = f"{(row[name] - best) / (1 - best):.0%}" if best <= row[name] and best < 1 else "below it"
            parts.append(f"{name} {row[name]:.3f} ({best:.3f}: {way})")
        lines.append(f"{title} (best anchor: share of the way from there to perfect): " + ", ".join(parts))
    return "\n".join(lines)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model; default is the adapter's own, or builtin:mini")
    parser.add_argument("--adapter", type=Path, help="run folder; without it the base alone, in its own style")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--best-of", type=int, default=8)
    parser.add_argument(
        "--expand-prompts", action=argparse.BooleanOptionalAction, default=GenerateConfig().expand_prompts
    )
    parser.add_argument("--repair", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--repair-rounds", type=int, default=GenerateConfig().repair_rounds)
    parser.add_argument("--repair-guidance", type=float, default=GenerateConfig().repair_guidance)
    parser.add_argument("--sampler", default="auto")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, help="guidance scale; default is the model's own")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    settings = GenerateConfig(
        steps=arguments.steps,
        guidance_scale=arguments.guidance,
        sampler=arguments.sampler,
        batch_size=8,
        expand_prompts=arguments.expand_prompts,
        repair=arguments.repair,
        repair_rounds=arguments.repair_rounds,
        repair_guidance=arguments.repair_guidance,
    )
    adapters = [(arguments.adapter, 1.0)] if arguments.adapter else []
    source = ModelSource(location=arguments.model or "builtin:mini") if arguments.model or not adapters else None
    session = open_session(settings, source=source, adapters=adapters, domain="floorplan")
    style = "sjh" if adapters else "plain"
    examples = held_out(arguments.prompts, style)
    rows = measure(session, examples, arguments.best_of)
    chance = anchors([text for _, text in examples], [image for image, _ in examples], seed=0)
    rows |= {f"anchor: {name}": dict(values) for name, values in chance.items()}
    if arguments.json:
        on_cpu = session.device.type == "cpu"
        record: dict[str, Any] = {
            "model": session.model.info.source.location, "style": style, "prompts": arguments.prompts,
            "settings": session.config.model_dump() | {"best_of": arguments.best_of},
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, CPU" if on_cpu
            else torch.cuda.get_device_name(), "values": rows,
        }  # fmt: skip
        write_record(arguments.json, record)
    print(table(rows))
    print(headway(rows))


if __name__ == "__main__":
    main()

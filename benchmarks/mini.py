"""How well does the built-in base do what texts ask, alone and with an adapter that was taught a style in minutes?

In: a model, an adapter (a run folder) or none, how many texts. Texts are drawn with seeds that nothing is trained on: in the
style `plain`, which the base knows, without an adapter; in `sjh` with one. Out, printed and with `--json` as a file: all
metrics of `loraloom.extensions.domains.floorplan.verify.metrics` for images as drawn, for the best of N by receipt, and for
that one after repair, beside what answers score that know little of the text (`anchors`); the share of sentences met by
the number of windows that a text takes.

    loraloom quickstart --out quickstart
    python -m benchmarks.mini --adapter quickstart/run --prompts 200 --best-of 8 --json benchmarks/results/mini_sjh.json
    python -m benchmarks.mini --model builtin:mini --prompts 200 --best-of 8 --json benchmarks/results/mini_plain.json

200 texts, best of 8 and repair take half an hour to fifty minutes of two CPU cores.
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
TOLD_COUNTS = ("anchor: same counts", "anchor: constant hub")
"""Anchors that are given the text's counts: no chance to compare counts with."""
HELD_OUT = "benchmark of mini"
"""Seeds are made from this word; training makes its own from others."""


def held_out(count: int, style: str) -> list[tuple[Image.Image, str]]:
    """True images and texts."""
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
    """Values of images as drawn, of the best of some, and of these after repair if the session's settings ask for it."""
    verifier = require_verifier(session)
    sums: dict[str, Sums] = defaultdict(partial(Sums, session))
    began = time.monotonic()
    for number, (truth, prompt) in enumerate(examples, 1):
        # Noise of its own for each text: with one for all, the figures would carry that noise's luck.
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
    """How far each kind of image is on the way from the best chance answer to a perfect one, `AIMED` alone."""
    lines: list[str] = []
    chance = {name: row for name, row in rows.items() if name.startswith("anchor: ") and name != "anchor: truth"}
    for title, row in rows.items():
        if title.startswith("anchor: "):
            continue
        parts: list[str] = []
        for name in AIMED:
            told = TOLD_COUNTS if name == "count_items_met" else ()
            best = max(
                (one[name] for title, one in chance.items() if title not in told and one[name] >= 0), default=0.0
            )
            way = f"{(row[name] - best) / (1 - best):.0%}" if best <= row[name] and best < 1 else "below it"
            parts.append(f"{name} {row[name]:.3f} ({best:.3f}: {way})")
        lines.append(f"{title} (best anchor: share of the way from there to perfect): " + ", ".join(parts))
    return "\n".join(lines)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default is the adapter's own, or builtin:mini")
    parser.add_argument(
        "--adapter", type=Path, help="run folder; without it the base alone, in the style that it knows"
    )
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
    parser.add_argument("--guidance", type=float, help="default is what suits the model")
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

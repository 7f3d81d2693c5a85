"""Compare prompt methods by the facts of late sentences that images meet.

In: a base, numbers of training plans, steps and held-out texts. For each prompt method an adapter is trained with the
same plans, seed, steps and layers, text encoder included, and generates the same texts with the same seeds. A fact is a
sentence of the text; it is late if its last token is beyond the first window. In all texts, also those of training,
sentences are shuffled within their sections, and the sections of connections and positions have either order. Every
held-out text is generated twice with the same seed: as it is, and with sections and their sentences reversed, which is an
equally likely order. A fact that is late in one and early in the other is a pair: the same words for the same plan, so
only its place differs.

Out, printed and with `--json` as a file, for each method: the share of facts that reach the encoder, milliseconds to
encode a text, the met share of early and late facts in both orders, the number of pairs, and late minus early over them
with its standard error, with texts as independent units.

    python -m benchmarks.long_prompts --out long_prompts --json benchmarks/results/long_prompts.json
    python -m benchmarks.long_prompts --out long_prompts --methods attention --prompts 400

The first takes half an hour on two CPU cores, the second a quarter of an hour more.

The base was trained with `attention`, which gives that method an advantage; `--model` takes another base.
"""

import argparse
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from benchmarks.recording import write_record
from loraloom.config.generate import GenerateConfig
from loraloom.config.prepare import PrepareConfig
from loraloom.config.run import PromptMethod, RunConfig
from loraloom.data.manifest import read_manifest
from loraloom.extensions.domains.floorplan import DOMAIN
from loraloom.extensions.domains.floorplan.augment import shuffle
from loraloom.extensions.domains.floorplan.text.spec import parse_spec, print_spec
from loraloom.generate.session import Session, open_session
from loraloom.prepare.run import prepare
from loraloom.protocols.generation import ImageRequest
from loraloom.train.run import train
from loraloom.utils.rng import derive_seed
from loraloom.verify.best_of import require_verifier

SECTIONS = ("connection", "position")


@dataclass(frozen=True, slots=True)
class Fact:
    """A sentence of a text in one order, with its verdict in a generated image.

    Attributes:
        text: Number of the held-out text.
        sentence: The sentence without its line end.
        late: Whether its last token is beyond the first window.
        arrived: Whether the whole sentence reaches the encoder.
        met: Whether the image meets it.
    """

    text: int
    sentence: str
    late: bool
    arrived: bool
    met: bool


def mixed(text: str, number: int) -> str:
    """The same sentences shuffled within their sections, and the sections after the counts in either order."""
    rng = np.random.default_rng(number)
    counts, *sections = print_spec(shuffle(parse_spec(text), rng)).rstrip("\n").split("\n\n")
    return "\n\n".join([counts, *(sections[place] for place in rng.permutation(len(sections)))]) + "\n"


def the_other_way_round(text: str) -> str:
    """The sections after the counts, and the sentences below their headers, last to first."""
    counts, *sections = text.rstrip("\n").split("\n\n")
    turned: list[str] = []
    for section in reversed(sections):
        header, *sentences = section.split("\n")
        turned.append("\n".join([header, *reversed(sentences)]))
    return "\n\n".join([counts, *turned]) + "\n"


def held_out(count: int) -> list[str]:
    """Mixed texts of plans that nothing is trained on."""
    assert DOMAIN.dataset_generator is not None
    texts: list[str] = []
    for number in range(count):
        _, text = DOMAIN.dataset_generator.draw(derive_seed("benchmark of long prompts", number) >> 16, "sjh")
        texts.append(mixed(text, number))
    return texts


def run_config(arguments: argparse.Namespace, method: str) -> RunConfig:
    """The training run of a method."""
    return RunConfig.model_validate(
        {
            "model": {"source": arguments.model},
            "data": {"dataset": str(arguments.out / "dataset"), "batch_size": 16, "caption_dropout": 0.1},
            "prompts": {"method": method},
            "lora": {"target": "all_linear_conv", "rank": 16, "text_encoder": True, "ema_decay": 0.98},
            "optim": {"optimizer": "muon", "learning_rate": 4e-3, "scheduler": "cosine", "warmup_steps": 10},
            "train": {
                "output": str(arguments.out / method), "max_steps": arguments.steps, "log_every": 50,
                "validation_every": 0,
            },
            "checkpoints": {"every": 100, "keep": 1},
            "samples": {"enabled": False},
        }
    )  # fmt: skip


def reached(session: Session, prompt: str, sentence: str, late: bool) -> bool:
    """Whether a fact reaches the encoder."""
    if session.encoder.method == "truncate":
        return not late
    lost_parts = session.encoder.plan(prompt, weighting=session.config.weighting).lost
    return not any(sentence in " ".join(lost.split()) for lost in lost_parts)


def is_late(session: Session, prompt: str, sentence: str) -> bool:
    """Whether a sentence ends beyond the first window."""
    text = session.model.text
    end = prompt.index(sentence) + len(sentence)
    return len(text.tokenizer.tokenize(prompt[:end])) > text.tokenizer.window_tokens - 2


def facts_generated(session: Session, prompts: Sequence[str], say: Callable[[str], None]) -> list[Fact]:
    """Generate every text in both orders with one seed; returns all facts of both."""
    verifier = require_verifier(session)
    facts: list[Fact] = []
    orders = [order for prompt in prompts for order in (prompt, the_other_way_round(prompt))]
    requests: list[ImageRequest] = [
        replace(request, seed=number // 2) for number, request in enumerate(session.requests(orders))
    ]
    for number, source_image in enumerate(session.generate(requests)):
        image: Image.Image = source_image.image
        prompt = source_image.request.prompt
        for verdict in verifier.verify(image, prompt).verdicts:
            if verdict.section not in SECTIONS:
                continue
            sentence = verdict.sentence
            late = is_late(session, prompt, sentence)
            arrived = reached(session, prompt, sentence, late)
            facts.append(Fact(number // 2, sentence, late, arrived, verdict.met is True))
        if (number + 1) % 40 == 0:
            say(f"{number + 1} of {len(orders)} images")
    return facts


def late_minus_early(facts: Sequence[Fact]) -> dict[str, float]:
    """Difference over all facts that are late in one order and early in the other; a ratio estimate, texts as clusters.

    The standard error is that of a ratio of sums over independent clusters (Cochran, Sampling Techniques, 1977, 6.4).
    """
    places: dict[tuple[int, str], dict[bool, bool]] = defaultdict(dict)
    for fact in facts:
        places[fact.text, fact.sentence][fact.late] = fact.met
    by_text: dict[int, list[int]] = defaultdict(list)
    for (text, _), met in places.items():
        if len(met) == 2:
            by_text[text].append(int(met[True]) - int(met[False]))
    pairs = sum(len(differences) for differences in by_text.values())
    if len(by_text) < 2:
        return {"pairs": pairs, "late_minus_early": math.nan, "standard_error": math.nan}
    mean = sum(sum(differences) for differences in by_text.values()) / pairs
    squares = sum((sum(differences) - mean * len(differences)) ** 2 for differences in by_text.values())
    texts = len(by_text)
    return {
        "pairs": pairs,
        "late_minus_early": mean,
        "standard_error": math.sqrt(squares * texts / (texts - 1)) / pairs,
    }


def encode_ms(session: Session, prompts: Sequence[str]) -> float:
    """Median milliseconds to encode one text."""
    times: list[float] = []
    for prompt in prompts[:40]:
        began = time.perf_counter()
        next(iter(session.encode([prompt])[0].values())).cpu()  # on a GPU only this waits for the result
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def row_of(facts: Sequence[Fact], milliseconds: float) -> dict[str, float]:
    """The figures of a method."""

    def share_met(chosen: Sequence[Fact]) -> float:
        return float(np.mean([fact.met for fact in chosen])) if chosen else math.nan

    early = [fact for fact in facts if not fact.late]
    late = [fact for fact in facts if fact.late]
    return {
        "facts_encoded": float(np.mean([fact.arrived for fact in facts])),
        "encode_ms": milliseconds,
        "early_facts": len(early),
        "early_met": share_met(early),
        "late_facts": len(late),
        "late_met": share_met(late),
        "all_met": share_met(facts),
        **late_minus_early(facts),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for plans and runs; an interrupted run is resumed"
    )
    parser.add_argument("--model", default="builtin:mini")
    parser.add_argument("--plans", type=int, default=600)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--methods", nargs="+", default=get_args(PromptMethod))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    assert DOMAIN.dataset_generator is not None
    if not (arguments.out / "dataset" / "manifest.jsonl").is_file():
        DOMAIN.dataset_generator.write_dataset(arguments.out / "plans", arguments.plans, seed=7)
        for file in sorted((arguments.out / "plans" / "input_text").glob("*.txt")):
            file.write_text(mixed(file.read_text(encoding="utf-8"), int(file.stem)), encoding="utf-8")
        settings = PrepareConfig(
            size=256, crop="center", resample="nearest", domain="floorplan", validation_share=0.0, near_duplicate_bits=0
        )
        prepare(arguments.out / "plans", arguments.out / "dataset", settings, console=print)
    plans = len(read_manifest(arguments.out / "dataset").examples)
    if plans != arguments.plans:
        parser.error(
            f"{arguments.out} holds {plans} plans, not {arguments.plans}: name another folder, or --plans {plans}"
        )
    prompts = held_out(arguments.prompts)
    rows: dict[str, dict[str, float]] = {}
    for method in arguments.methods:
        print(f"{method}: training", flush=True)
        finished = train(
            run_config(arguments, method),
            report=lambda step, numbers: print(step, f"{numbers['loss']:.4f}", flush=True),
        ).finished
        if finished.stopped:
            return  # the same command continues
        config = GenerateConfig(steps=20, batch_size=8, expand_prompts=False)
        session = open_session(config, adapters=[(arguments.out / method, 1.0)])
        rows[method] = row_of(facts_generated(session, prompts, print), encode_ms(session, prompts))
        print(json.dumps({method: rows[method]}), flush=True)
    names = list(next(iter(rows.values())))
    print("| method | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for method, row in rows.items():
        print(f"| {method} | " + " | ".join(f"{row[name]:.3f}" for name in names) + " |")
    if arguments.json:
        record = {
            "model": arguments.model,
            "plans": plans,
            "steps": arguments.steps,
            "prompts": arguments.prompts,
            "methods": rows,
        }
        write_record(arguments.json, record)


if __name__ == "__main__":
    main()

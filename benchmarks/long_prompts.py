"""Which way of reading long texts makes a picture do what stands late in them?

In: a base, how many plans to learn from, steps, how many held-out texts. For each prompt method an adapter is trained alike
(same plans, seed, steps, layers, text encoder included) and draws the same texts from the same seeds. A fact is a sentence
of the text; it stands late when its last token is beyond the first window. In the texts, learned ones as well, sentences
are shuffled within their sections and the sections of connections and positions stand in either order, so that late
facts are no harder than early ones; accuracies are compared section by section.

Out, printed and with `--json` as a file, for each method: the share of facts that reaches the encoder, milliseconds to
encode a text, met share of early and late connections and of early and late positions, and late minus early, the mean
over both sections weighted by their late facts.

    python benchmarks/long_prompts.py --out long_prompts --steps 300 --prompts 100 --json benchmarks/results/long_prompts.json

The base was trained with `attention`, so that method starts ahead: `--model` takes another one.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from loraloom.config.generate import GenerateConfig
from loraloom.config.prepare import PrepareConfig
from loraloom.config.run import PromptMethod, RunConfig
from loraloom.contracts import PictureRequest
from loraloom.data.manifest import read_manifest
from loraloom.data.prepare import prepare
from loraloom.extensions.domains.floorplan import DOMAIN
from loraloom.extensions.domains.floorplan.augment import shuffle
from loraloom.extensions.domains.floorplan.spec import parse_spec, print_spec
from loraloom.generate.judging import require_judge
from loraloom.generate.session import Session, open_session
from loraloom.randomness import derive_seed
from loraloom.train.run import train

SECTIONS = ("connection", "position")
Met = dict[tuple[str, bool], list[bool]]
"""(section, late) to whether each fact is met."""


def mixed(text: str, number: int) -> str:
    """The same sentences shuffled within their sections, and the sections after the counts in either order."""
    rng = np.random.default_rng(number)
    counts, *sections = print_spec(shuffle(parse_spec(text), rng)).rstrip("\n").split("\n\n")
    return "\n\n".join([counts, *(sections[place] for place in rng.permutation(len(sections)))]) + "\n"


def held_out(count: int) -> list[str]:
    """Mixed texts of plans that nothing is trained on."""
    assert DOMAIN.artist is not None
    texts: list[str] = []
    for number in range(count):
        _, text = DOMAIN.artist.draw(derive_seed("benchmark of long prompts", number) >> 16, "sjh")
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
    return not any(sentence in " ".join(lost.split()) for lost in session.lost(prompt))


def is_late(session: Session, prompt: str, sentence: str) -> bool:
    """Whether a sentence ends beyond the first window."""
    text = session.model.text
    end = prompt.index(sentence) + len(sentence)
    return len(text.tokenize(prompt[:end])) > text.window_tokens - 2


def judge_all(session: Session, prompts: Sequence[str], say: Callable[[str], None]) -> tuple[Met, float]:
    """Draw every text once; which facts are met, and the share of facts that reach the encoder."""
    judge = require_judge(session)
    met: Met = defaultdict(list)
    arrived: list[bool] = []
    requests: list[PictureRequest] = [
        replace(request, seed=number) for number, request in enumerate(session.requests(prompts))
    ]
    for number, picture in enumerate(session.draw(requests), 1):
        image: Image.Image = picture.image
        prompt = picture.request.prompt
        for verdict in judge.judge(image, prompt).verdicts:
            if verdict.section not in SECTIONS:
                continue
            late = is_late(session, prompt, verdict.sentence)
            met[verdict.section, late].append(verdict.met is True)
            arrived.append(reached(session, prompt, verdict.sentence, late))
        if number % 20 == 0:
            say(f"{number} of {len(prompts)} texts")
    return met, float(np.mean(arrived))


def encode_ms(session: Session, prompts: Sequence[str]) -> float:
    """Median milliseconds to encode one text."""
    times: list[float] = []
    for prompt in prompts[:40]:
        began = time.perf_counter()
        session.encode([prompt])[0].cpu()  # on a GPU only this waits for the work
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def row_of(met: Met, share: float, milliseconds: float) -> dict[str, float]:
    """The numbers of a method."""
    row = {"facts_encoded": share, "encode_ms": milliseconds}
    difference, weights = 0.0, 0
    for section in SECTIONS:
        early, late = met[section, False], met[section, True]
        for name, facts in (("early", early), ("late", late)):
            row[f"{section}_{name}"] = float(np.mean(facts)) if facts else float("nan")
            row[f"{section}_{name}_facts"] = len(facts)
        if early and late:
            difference += len(late) * (float(np.mean(late)) - float(np.mean(early)))
            weights += len(late)
    row["late_minus_early"] = difference / weights if weights else float("nan")
    row["all_met"] = float(np.mean([one for facts in met.values() for one in facts]))
    return row


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for plans and runs; goes on where it was")
    parser.add_argument("--model", default="builtin:mini")
    parser.add_argument("--plans", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--methods", nargs="+", default=get_args(PromptMethod))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    assert DOMAIN.artist is not None
    if not (arguments.out / "dataset" / "manifest.jsonl").is_file():
        DOMAIN.artist.write_dataset(arguments.out / "plans", arguments.plans, seed=7)
        for file in sorted((arguments.out / "plans" / "input_text").glob("*.txt")):
            file.write_text(mixed(file.read_text(encoding="utf-8"), int(file.stem)), encoding="utf-8")
        settings = PrepareConfig(
            size=256, crop="center", resample="nearest", domain="floorplan", validation_share=0.0, near_duplicate_bits=0
        )
        prepare(arguments.out / "plans", arguments.out / "dataset", settings, console=print)
    prompts = held_out(arguments.prompts)
    rows: dict[str, dict[str, float]] = {}
    for method in arguments.methods:
        print(f"{method}: training", flush=True)
        finished = train(
            run_config(arguments, method),
            report=lambda step, numbers: print(step, f"{numbers['loss']:.4f}", flush=True),
        ).finished
        if finished.stopped:
            return  # the same command goes on
        config = GenerateConfig(steps=20, batch_size=8, fill_in=False)
        session = open_session(config, adapters=[(arguments.out / method, 1.0)])
        met, share = judge_all(session, prompts, print)
        rows[method] = row_of(met, share, encode_ms(session, prompts))
        print(json.dumps({method: rows[method]}), flush=True)
    names = list(next(iter(rows.values())))
    print("| method | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for method, row in rows.items():
        print(f"| {method} | " + " | ".join(f"{row[name]:.3f}" for name in names) + " |")
    if arguments.json:
        record = {
            "model": arguments.model,
            "plans": len(read_manifest(arguments.out / "dataset").examples),
            "steps": arguments.steps,
            "prompts": arguments.prompts,
            "methods": rows,
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

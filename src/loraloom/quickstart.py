"""The whole way in some minutes, without a download or a GPU: draw, prepare, train, generate, check, report.

In: an empty folder. Out: in it floor plans with their texts in a style that the built-in base cannot draw, the dataset,
the run with samples and exports, pictures of held-out texts with receipts, and `report.html`: each text drawn by the
base and by the adapter, every sentence checked.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from loraloom import plugins
from loraloom.config.generate import GenerateConfig
from loraloom.config.prepare import PrepareConfig
from loraloom.config.run import RunConfig
from loraloom.console import bars, duration
from loraloom.contracts import Picture, Progress
from loraloom.data.manifest import read_manifest
from loraloom.data.prepare import prepare
from loraloom.errors import UserError
from loraloom.folders import COMMAND
from loraloom.generate.judging import Judged, draw_judged, require_judge, save_receipt
from loraloom.generate.report import Row, Shown, write_report
from loraloom.generate.saving import keep_picture
from loraloom.generate.session import Session, open_session
from loraloom.train.precision import bf16_speed_up, cpu_precision
from loraloom.train.run import train
from loraloom.verdicts import Judge, Receipt

BASE = "builtin:mini"
DOMAIN = "floorplan"
MARK = ".loraloom-quickstart"
"""Name of an empty file: a folder that holds it is a quickstart's own."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything.

    Attributes:
        plans: Drawn to learn from; a tenth is held out.
        steps: Optimizer steps of the adapter.
        prompts: Held-out texts to draw.
        best_of: Pictures drawn for each, of which the best is kept.
    """

    plans: int
    steps: int
    prompts: int = 4
    best_of: int = 8


@dataclass(frozen=True, slots=True)
class Compared:
    """A held-out text: the true picture, what the base draws, and what the adapter draws."""

    prompt: str
    truth: Image.Image
    base: Picture
    base_receipt: Receipt
    adapter: Judged


def run_quickstart(folder: Path, size: Size, say: Say) -> None:
    """Do it all in `folder`; what an earlier quickstart wrote there is replaced, anything else is left alone.

    Raises:
        UserError: The folder holds something else.
    """
    began = time.monotonic()
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).is_file():
            raise UserError("this folder is not empty", got=str(folder), fix="choose another one with --out")
        for name in ("plans", "dataset", "run", "pictures"):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "report.html").unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
    artist = plugins.load("domains", DOMAIN).artist
    assert artist is not None
    with bars() as bar:
        say(f"1/5 drawing {size.plans} floor plans with their texts")
        artist.write_dataset(folder / "plans", size.plans, progress=bar("plans"))
        say("2/5 preparing the dataset")
        settings = PrepareConfig(
            size=256, crop="center", resample="nearest", domain=DOMAIN, validation_share=0.1, near_duplicate_bits=0
        )
        prepare(folder / "plans", folder / "dataset", settings, console=lambda text: None, progress=bar("pictures"))
        say(f"3/5 teaching {BASE} this style by LoRA: {size.steps} steps")
        finished = train(run_config(folder, size), say=lambda text: None, report=_report(say), progress=bar).finished
        if finished.stopped:
            raise KeyboardInterrupt  # `train` makes a stop of it, to be gone on from; a quickstart begins anew
        say(f"    trained in {duration(finished.seconds)}")
        say("4/5 drawing texts that it has not seen, with the base and with the adapter")
        session, compared = draw(folder, size, bar("denoiser steps"))
    say("5/5 checking every sentence")
    report(folder, session, compared, say)
    say(f"all of it took {duration(time.monotonic() - began)}")
    say(f"look at {folder / 'report.html'} in a browser, and at {folder / 'run' / 'samples' / 'sheet.png'}")
    say(
        f'next: {COMMAND} generate --adapter {folder / "run"} --best-of 8 "2 bedrooms, kitchen left of the living room"'
    )
    say(f"      {COMMAND} doctor; {COMMAND} prepare YOUR_PICTURES --out DATASET; {COMMAND} train --dataset DATASET")
    say(
        "      (train fetches Stable Diffusion 1.5, some gigabytes, and wants a GPU; --model builtin:mini does neither)"
    )


def run_config(folder: Path, size: Size) -> RunConfig:
    """The training run; on a GPU in float32, where nothing else was tried with it."""
    precision = "no" if torch.cuda.is_available() else cpu_precision(bf16_speed_up())
    return RunConfig.model_validate(
        {
            "model": {"source": BASE},
            "data": {
                "dataset": str(folder / "dataset"), "batch_size": 16, "caption_dropout": 0.1,
            },
            # The way up: where things are is the base's (decisions 0018 and 0023).
            "lora": {"target": r".*(up_blocks\.[12]|conv_out).*", "rank": 32, "ema_decay": 0.98},
            # Else the losses of much noise, where little can be learned, are most of a gradient (decision 0019).
            # Doors are 2 % of the latents: unweighted, half of them are lost (decision 0021).
            "objective": {"balance_noise": True, "class_weights": ("interior door=5",)},
            # Of 24 texts AdamW at 2e-3 met 45 % of the sentences where this met 49 % (decision 0014).
            "optim": {
                "optimizer": "muon", "learning_rate": 8e-3, "scheduler": "cosine", "warmup_steps": min(10, size.steps),
            },
            "train": {
                "output": str(folder / "run"), "max_steps": size.steps, "log_every": max(1, size.steps // 5),
                "validation_every": 0, "mixed_precision": precision,
            },
            "checkpoints": {"every": max(1, size.steps // 2)},
            "samples": {"steps": 15, "min_interval": size.steps},
        }
    )  # fmt: skip


def draw(folder: Path, size: Size, progress: Progress) -> tuple[Session, list[Compared]]:
    """Held-out texts drawn by the base once and by the adapter `best_of` times."""
    settings = GenerateConfig(steps=20, seed=1, best_of=size.best_of, repair=True)
    session = open_session(settings, adapters=[(folder / "run", 1.0)], changing=True, say=lambda text: None)
    judge = require_judge(session)
    examples = held_out(folder / "dataset", size.prompts)
    requests = session.requests([text for _, text in examples])
    total = settings.steps * len(examples) * (1 + size.best_of)
    session.set_weight(0, 0.0)
    base = list(session.draw(requests, lambda done, _: progress(done, total)))
    session.set_weight(0, 1.0)
    first = settings.steps * len(examples)
    judged = draw_judged(session, requests, progress=lambda done, _: progress(first + done, total))
    compared = [
        Compared(text, truth, plain, judge.judge(plain.image, text), one)
        for (truth, text), plain, one in zip(examples, base, judged, strict=True)
    ]
    return session, compared


def held_out(dataset: Path, count: int) -> list[tuple[Image.Image, str]]:
    """Pictures and texts of the dataset's held-out part."""
    manifest = read_manifest(dataset)
    found: list[tuple[Image.Image, str]] = []
    for example in manifest.split("validation")[:count]:
        with Image.open(manifest.path(example)) as picture:
            found.append((picture.convert("RGB"), example.caption))
    return found


def report(folder: Path, session: Session, compared: Sequence[Compared], say: Say) -> None:
    """Write pictures, receipts and `report.html`, and say the sum of it."""
    judge = require_judge(session)
    out = folder / "pictures"
    rows: list[Row] = []
    for number, one in enumerate(compared):
        name = f"{number:05d}"
        keep_picture(session, out, name, one.adapter.picture)
        save_receipt(out, name, one.adapter, judge)
        final = one.adapter.picture.image
        with Image.open(out / "receipts" / f"{name}.png") as overlay:
            checked = overlay.convert("RGB")
        rows.append(
            Row(
                one.prompt,
                [
                    Shown("a true plan of this text", one.truth, judge.judge(one.truth, one.prompt)),
                    Shown("the base draws", one.base.image, one.base_receipt),
                    Shown(
                        f"the adapter draws (best of {one.adapter.candidates}, repaired)", final, one.adapter.receipt
                    ),
                    Shown("checked", checked),
                ],
            )
        )
    shares = {
        "base": _mean([one.base_receipt.share_met for one in compared]),
        "adapter, as drawn": _mean([one.adapter.shares[0] for one in compared]),
        f"adapter, best of {compared[0].adapter.candidates}": _mean([one.adapter.shares[1] for one in compared]),
        "adapter, best of them after repair": _mean([one.adapter.shares[2] for one in compared]),
    }
    if len(compared) > 1:
        shares["for comparison: a true plan of another text"] = _mean(another(judge, compared))
    facts = [(f"sentences met, {name}", f"{share:.0%}") for name, share in shares.items()]
    whole = sum(one.adapter.receipt.complete for one in compared)
    facts.append(("pictures that meet every sentence", f"{whole} of {len(compared)}"))
    for name, value in facts:
        say(f"    {name}: {value}")
    note = (
        "A small built-in base was taught a style of floor plans by LoRA on this machine. The texts below were held out. "
        "Each sentence is checked against the pixels of the picture; open a receipt to see why."
    )
    write_report(folder / "report.html", "loraloom quickstart", facts, rows, note)


def another(judge: Judge, compared: Sequence[Compared]) -> list[float]:
    """Sentences of each text that the true picture of the next one meets: what knowing nothing of the text is worth."""
    shifted = [*compared[1:], *compared[:1]]
    return [judge.judge(other.truth, one.prompt).share_met for one, other in zip(compared, shifted, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _report(say: Say) -> Callable[[int, dict[str, float]], None]:
    def report(done: int, numbers: dict[str, float]) -> None:
        say(f"    step {done}: loss {numbers['loss']:.3f}, {numbers['images_per_second']:.0f} images/s")

    return report

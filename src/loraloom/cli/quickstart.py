"""The whole way in about five minutes on any machine: draw, prepare, train, generate, check, report.

In: an empty folder. Out: in it a first verified image of the base, floor plans with their texts in a style that the base
cannot draw, the dataset, the run with samples and exports, images of held-out texts with receipts, and `report.html`:
each text drawn by the base and by the adapter, every sentence checked. Training and drawing have a budget of time: the
machine is measured, and the number of steps and of candidates follows from that. Needs no download and no GPU.
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
from loraloom.data.manifest import read_manifest
from loraloom.generate.report import Row, Shown, write_report
from loraloom.generate.saving import keep_image
from loraloom.generate.session import Session, open_session
from loraloom.prepare.run import prepare
from loraloom.protocols.domain import DatasetGenerator, Receipt, Verifier
from loraloom.protocols.generation import GeneratedImage
from loraloom.protocols.model import ModelSource
from loraloom.train.precision import bf16_speed_up, cpu_precision
from loraloom.train.run import train
from loraloom.utils.errors import UserError
from loraloom.utils.locks import LOCK_NAME, lock_folder
from loraloom.utils.output_paths import COMMAND, check_folder
from loraloom.utils.progress import Progress, bars, duration
from loraloom.verify.best_of import VerifiedImage, generate_verified, require_verifier, save_receipt

BASE = "builtin:mini"
DOMAIN = "floorplan"
MARK = ".loraloom-quickstart"
"""Name of an empty file: a folder that holds it is a quickstart's own."""

Say = Callable[[str], None]

FULL_STEPS = 720
"""Steps of the recipe that README's figures are of; more are never chosen."""
LEAST_STEPS = 100
FULL_BEST_OF = 8
LEAST_BEST_OF = 2
TRAIN_S = 180.0
DRAW_S = 60.0
PROBE_STEPS = 10
"""Steps that are trained and thrown away to measure the machine; the first `PROBE_WARM` of them are not counted."""
PROBE_WARM = 3
DRAW_STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of everything.

    Attributes:
        plans: Floor plans to learn from; a tenth is held out.
        steps: Optimizer steps of the adapter; None chooses what fits into `TRAIN_S` on this machine.
        prompts: Held-out texts to draw.
        best_of: Candidates drawn for each text; None chooses what fits into `DRAW_S` on this machine.
    """

    plans: int = 300
    steps: int | None = None
    prompts: int = 4
    best_of: int | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """A held-out text: the true image, what the base draws, and what the adapter draws."""

    prompt: str
    truth: Image.Image
    base: GeneratedImage
    base_receipt: Receipt
    adapter: VerifiedImage


def run_quickstart(folder: Path, size: Size, say: Say) -> None:
    """Do it all in `folder`; what an earlier quickstart wrote there is replaced, anything else is left alone.

    Raises:
        UserError: The folder holds something else, or another quickstart is at work in it.
    """
    check_folder(folder)
    began = time.monotonic()
    if folder.exists() and any(entry.name != LOCK_NAME for entry in folder.iterdir()) and not (folder / MARK).is_file():
        raise UserError("this folder is not empty", got=str(folder), fix="choose another one with --out")
    with lock_folder(folder, say):
        for name in ("first", "plans", "dataset", "probe", "run", "images"):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "report.html").unlink(missing_ok=True)
        (folder / MARK).touch()
        _all_stages(folder, size, say, began)


def _all_stages(folder: Path, size: Size, say: Say, began: float) -> None:
    dataset_generator = plugins.load("domains", DOMAIN).dataset_generator
    assert dataset_generator is not None
    with bars() as bar:
        say(f"1/6 drawing a first image with {BASE} and checking it")
        draw_first(folder / "first", dataset_generator, bar("denoiser steps"), say)
        say(f"    after {duration(time.monotonic() - began)}: {folder / 'first' / 'receipts' / '00000.png'}")
        say(f"2/6 drawing {size.plans} floor plans with their texts")
        dataset_generator.write_dataset(folder / "plans", size.plans, progress=bar("plans"))
        say("3/6 preparing the dataset")
        settings = PrepareConfig(
            size=256, crop="center", resample="nearest", domain=DOMAIN, validation_share=0.1, near_duplicate_bits=0
        )
        prepare(folder / "plans", folder / "dataset", settings, console=lambda text: None, progress=bar("images"))
        say(f"4/6 teaching {BASE} this style by LoRA")
        steps = size.steps or measured_steps(folder, bar, say)
        finished = train(run_config(folder, steps), say=lambda text: None, report=_report(say), progress=bar).finished
        if finished.stopped:
            raise KeyboardInterrupt  # `train` could be resumed; a quickstart begins anew
        say(f"    {steps} steps in {duration(finished.seconds)}")
        say("5/6 drawing texts that it has not seen, with the base and with the adapter")
        session, compared = draw(folder, size, bar("denoiser steps"), say)
    say("6/6 checking every sentence")
    report(folder, session, compared, say)
    say(f"all of it took {duration(time.monotonic() - began)}")
    say(f"look at {folder / 'report.html'} in a browser, and at {folder / 'run' / 'samples' / 'sheet.png'}")
    say(
        f'next: {COMMAND} generate --adapter {folder / "run"} --best-of 8 "2 bedrooms, kitchen left of the living room"'
    )
    say(f"      {COMMAND} doctor; {COMMAND} prepare YOUR_IMAGES --out DATASET; {COMMAND} train --dataset DATASET")
    say(
        "      (train fetches Stable Diffusion 1.5, some gigabytes, and wants a GPU; --model builtin:mini does neither)"
    )


def draw_first(folder: Path, dataset_generator: DatasetGenerator, progress: Progress, say: Say) -> None:
    """One text in the base's own style: the best of a few images, saved with its receipt."""
    settings = GenerateConfig(steps=DRAW_STEPS, seed=0, best_of=4)
    session = open_session(settings, source=ModelSource(location=BASE), domain=DOMAIN, say=lambda text: None)
    verifier = require_verifier(session)
    _, text = dataset_generator.draw(7, "plain")
    [verified] = generate_verified(session, session.requests([text]), progress=progress)
    keep_image(session, folder, "00000", verified.image)
    save_receipt(folder, "00000", verified, verifier)
    receipt = verified.receipt
    say(f"    the base, in its own style, meets {receipt.count(True)} of {len(receipt.verdicts)} sentences of a text")


def measured_steps(folder: Path, bar: Callable[[str], Progress], say: Say) -> int:
    """Train a few steps that are thrown away, and choose how many fit into `TRAIN_S`.

    The mean, not the best: batches differ by the lengths of their texts. Latents and prompt embeddings are encoded on
    the way and stay in the dataset's cache.
    """
    seconds: list[float] = []
    probe = run_config(folder, PROBE_STEPS)
    probe = probe.model_copy(
        update={
            "train": probe.train.model_copy(update={"output": str(folder / "probe"), "log_every": 1}),
            "samples": probe.samples.model_copy(update={"enabled": False}),
            "export": probe.export.model_copy(update={"verify": False}),
        }
    )
    began = time.monotonic()
    tried = train(
        probe,
        say=lambda text: None,
        report=lambda done, numbers: seconds.append(1 / numbers["steps_per_second"]),
        progress=bar,
    )
    if tried.finished.stopped:
        raise KeyboardInterrupt
    shutil.rmtree(folder / "probe", ignore_errors=True)
    step_s = sum(seconds[PROBE_WARM:]) / len(seconds[PROBE_WARM:])
    steps = steps_that_fit(step_s)
    say(f"    encoded, and {PROBE_STEPS} steps tried, in {duration(time.monotonic() - began)}")
    rate = f"this machine: {probe.data.batch_size / step_s:.0f} images/s; {steps} steps, {duration(steps * step_s)}"
    full = f"; --steps {FULL_STEPS} for the full recipe, {duration(FULL_STEPS * step_s)}" if steps < FULL_STEPS else ""
    say(f"    {rate}{full}")
    return steps


def steps_that_fit(step_s: float) -> int:
    """How many steps of `step_s` seconds fit into `TRAIN_S`: at least `LEAST_STEPS`, at most the full recipe's."""
    return min(FULL_STEPS, max(LEAST_STEPS, int(TRAIN_S / step_s)))


def candidates_that_fit(image_s: float, prompts: int) -> int:
    """How many candidates for each text fit into `DRAW_S`, when drawing an image takes `image_s`; repairs count too.

    Up to three repairs of a text cost as much as four to five images: they are guided by three texts instead of two.
    """
    return min(FULL_BEST_OF, max(LEAST_BEST_OF, int(DRAW_S / (prompts * image_s) - 4.5)))


def run_config(folder: Path, steps: int) -> RunConfig:
    """The training run; on a GPU in float32, where nothing else was tried with it.

    Warm-up and the average of the weights are those of `FULL_STEPS`, scaled: the average spans the same share of a run.
    """
    scaled = FULL_STEPS / steps
    ema_decay = round(max(0.1, 1 - 0.02 * scaled), 4)
    precision = "no" if torch.cuda.is_available() else cpu_precision(bf16_speed_up())
    return RunConfig.model_validate(
        {
            "model": {"source": BASE},
            "data": {
                "dataset": str(folder / "dataset"),
                "batch_size": 16,
                "caption_dropout": 0.1,
            },
            # The way up: where things are is the base's (decisions 0018 and 0023).
            "lora": {"target": r".*(up_blocks\.[12]|conv_out).*", "rank": 32, "ema_decay": ema_decay},
            # Else the losses of much noise, where little can be learned, are most of a gradient (decision 0019).
            # Doors are 2 % of the latents: unweighted, half of them are lost (decision 0021).
            "objective": {"balance_noise": True, "class_weights": ("interior door=5",)},
            # Of 24 texts AdamW at 2e-3 met 45 % of the sentences where this met 49 % (decision 0014).
            "optim": {
                "optimizer": "muon",
                "learning_rate": 8e-3,
                "scheduler": "cosine",
                "warmup_steps": max(1, round(10 / scaled)),
            },
            "train": {
                "output": str(folder / "run"),
                "max_steps": steps,
                "log_every": max(1, steps // 5),
                "validation_every": 0,
                "mixed_precision": precision,
            },
            "checkpoints": {"every": max(1, steps // 2)},
            "samples": {"steps": 15, "min_interval": steps},
        }
    )


def draw(folder: Path, size: Size, progress: Progress, say: Say) -> tuple[Session, list[Compared]]:
    """Held-out texts drawn by the base once and by the adapter several times."""
    settings = GenerateConfig(steps=DRAW_STEPS, seed=1, best_of=FULL_BEST_OF, repair=True)
    session = open_session(settings, adapters=[(folder / "run", 1.0)], changing=True, say=lambda text: None)
    verifier = require_verifier(session)
    examples = held_out(folder / "dataset", size.prompts)
    requests = session.requests([text for _, text in examples])
    (name,) = session.adapters.names
    session.adapters.set_scales({name: 0.0})
    began = time.monotonic()
    base = list(session.draw(requests, progress))
    image_s = (time.monotonic() - began) / len(examples)
    best_of = size.best_of or candidates_that_fit(image_s, len(examples))
    more = "" if best_of >= FULL_BEST_OF else f"; --best-of {FULL_BEST_OF} for the full recipe"
    say(f"    this machine: {image_s:.1f} s an image; the best of {best_of} for each text{more}")
    session.config = session.config.model_copy(update={"best_of": best_of})
    session.adapters.set_scales({name: 1.0})
    compared = [
        Compared(text, truth, plain, verifier.verify(plain.image, text), one)
        for (truth, text), plain, one in zip(
            examples, base, generate_verified(session, requests, progress=progress), strict=True
        )
    ]
    return session, compared


def held_out(dataset: Path, count: int) -> list[tuple[Image.Image, str]]:
    """Images and texts of the dataset's held-out part."""
    manifest = read_manifest(dataset)
    found: list[tuple[Image.Image, str]] = []
    for example in manifest.split("validation")[:count]:
        with Image.open(manifest.path(example)) as image:
            found.append((image.convert("RGB"), example.caption))
    return found


def report(folder: Path, session: Session, compared: Sequence[Compared], say: Say) -> None:
    """Write images, receipts and `report.html`, and say the sum of it."""
    verifier = require_verifier(session)
    out = folder / "images"
    rows: list[Row] = []
    for number, one in enumerate(compared):
        name = f"{number:05d}"
        keep_image(session, out, name, one.adapter.image)
        save_receipt(out, name, one.adapter, verifier)
        final = one.adapter.image.image
        with Image.open(out / "receipts" / f"{name}.png") as overlay:
            checked = overlay.convert("RGB")
        rows.append(
            Row(
                one.prompt,
                [
                    Shown("a true plan of this text", one.truth, verifier.verify(one.truth, one.prompt)),
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
        shares["for comparison: a true plan of another text"] = _mean(another(verifier, compared))
    facts = [(f"sentences met, {name}", f"{share:.0%}") for name, share in shares.items()]
    whole = sum(one.adapter.receipt.complete for one in compared)
    facts.append(("images that meet every sentence", f"{whole} of {len(compared)}"))
    for name, value in facts:
        say(f"    {name}: {value}")
    note = (
        "A small built-in base was taught a style of floor plans by LoRA on this machine. The texts below were held out. "
        "Each sentence is checked against the pixels of the image; open a receipt to see why."
    )
    write_report(folder / "report.html", "loraloom quickstart", facts, rows, note)


def another(verifier: Verifier, compared: Sequence[Compared]) -> list[float]:
    """Sentences of each text that the true image of the next one meets: what knowing nothing of the text is worth."""
    shifted = [*compared[1:], *compared[:1]]
    return [verifier.verify(other.truth, one.prompt).share_met for one, other in zip(compared, shifted, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _report(say: Say) -> Callable[[int, dict[str, float]], None]:
    def report(done: int, numbers: dict[str, float]) -> None:
        say(f"    step {done}: loss {numbers['loss']:.3f}, {numbers['images_per_second']:.0f} images/s")

    return report

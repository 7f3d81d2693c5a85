"""All stages in about five minutes on any machine: synthesize, prepare, train, generate, verify, report.

In: an empty folder. Out, in that folder: a first verified image of the base, floor plans with captions in a style that
the base does not know, the dataset, the run with samples and exports, images of held-out captions with receipts, and
`report.html`, which compares base and adapter on each held-out caption. Training and generation have a time budget: the
machine is measured, and the numbers of steps and candidates follow from it. No download and no GPU are required.
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
"""Name of an empty file that marks a folder of a quickstart."""

Say = Callable[[str], None]

FULL_STEPS = 720
"""Steps of the recipe behind README's figures; the measured number is never larger."""
LEAST_STEPS = 100
FULL_BEST_OF = 8
LEAST_BEST_OF = 2
TRAIN_S = 180.0
GENERATE_S = 60.0
PROBE_STEPS = 10
"""Steps of a discarded run that measures the machine; the first `PROBE_WARM` of them are not counted."""
PROBE_WARM = 3
GENERATE_STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Sizes of a quickstart.

    Attributes:
        plans: Number of floor plans; a tenth is held out.
        steps: Optimizer steps; None: as many as fit into `TRAIN_S` on this machine.
        prompts: Number of held-out captions that images are generated for.
        best_of: Candidates per caption; None: as many as fit into `GENERATE_S` on this machine.
    """

    plans: int = 300
    steps: int | None = None
    prompts: int = 4
    best_of: int | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """A held-out caption with its true image, the base's image and the adapter's image."""

    prompt: str
    truth: Image.Image
    base: GeneratedImage
    base_receipt: Receipt
    adapter: VerifiedImage


def run_quickstart(folder: Path, size: Size, say: Say) -> None:
    """Run all stages in `folder`. Results of an earlier quickstart there are replaced.

    Raises:
        UserError: The folder holds other files, or another quickstart is running in it.
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
        say(f"1/6 generating a first image with {BASE} and verifying it")
        generate_first(folder / "first", dataset_generator, bar("denoiser steps"), say)
        say(f"    after {duration(time.monotonic() - began)}: {folder / 'first' / 'receipts' / '00000.png'}")
        say(f"2/6 synthesizing {size.plans} floor plans with captions")
        dataset_generator.write_dataset(folder / "plans", size.plans, progress=bar("plans"))
        say("3/6 preparing the dataset")
        settings = PrepareConfig(
            size=256, crop="center", resample="nearest", domain=DOMAIN, validation_share=0.1, near_duplicate_bits=0
        )
        prepare(folder / "plans", folder / "dataset", settings, console=lambda text: None, progress=bar("images"))
        say(f"4/6 training a LoRA of this style on {BASE}")
        steps = size.steps or measured_steps(folder, bar, say)
        finished = train(run_config(folder, steps), say=lambda text: None, report=_report(say), progress=bar).finished
        if finished.stopped:
            raise KeyboardInterrupt  # `train` can be resumed; a quickstart starts from the beginning
        say(f"    {steps} steps in {duration(finished.seconds)}")
        say("5/6 generating images of held-out captions, with the base and with the adapter")
        session, compared = generate_held_out(folder, size, bar("denoiser steps"), say)
    say("6/6 verifying every sentence")
    report(folder, session, compared, say)
    say(f"finished in {duration(time.monotonic() - began)}")
    say(
        f"open {folder / 'report.html'} in a browser; samples during training: {folder / 'run' / 'samples' / 'sheet.png'}"
    )
    say(
        f'next: {COMMAND} generate --adapter {folder / "run"} --best-of 8 "2 bedrooms, kitchen left of the living room"'
    )
    say(f"      {COMMAND} doctor; {COMMAND} prepare YOUR_IMAGES --out DATASET; {COMMAND} train --dataset DATASET")
    say(
        "      (train downloads Stable Diffusion 1.5, several gigabytes, and requires a GPU for acceptable speed;"
        " --model builtin:mini requires neither)"
    )


def generate_first(folder: Path, dataset_generator: DatasetGenerator, progress: Progress, say: Say) -> None:
    """Generate images of one caption in the base's own style; save the best one with its receipt."""
    settings = GenerateConfig(steps=GENERATE_STEPS, seed=0, best_of=4)
    session = open_session(settings, source=ModelSource(location=BASE), domain=DOMAIN, say=lambda text: None)
    verifier = require_verifier(session)
    _, text = dataset_generator.draw(7, "plain")
    [verified] = generate_verified(session, session.requests([text]), progress=progress)
    keep_image(session, folder, "00000", verified.image)
    save_receipt(folder, "00000", verified, verifier)
    receipt = verified.receipt
    say(
        f"    the base, in its own style, meets {receipt.count(True)} of {len(receipt.verdicts)} sentences of a caption"
    )


def measured_steps(folder: Path, bar: Callable[[str], Progress], say: Say) -> int:
    """Train a few steps in a discarded run, and return how many steps fit into `TRAIN_S`.

    The mean is used, not the minimum: batches differ in the lengths of their captions. The latents and prompt embeddings
    that this run encodes stay in the dataset's cache.
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
    say(f"    encoded the dataset and measured {PROBE_STEPS} steps in {duration(time.monotonic() - began)}")
    rate = f"this machine: {probe.data.batch_size / step_s:.0f} images/s; {steps} steps, {duration(steps * step_s)}"
    full = f"; --steps {FULL_STEPS} for the full recipe, {duration(FULL_STEPS * step_s)}" if steps < FULL_STEPS else ""
    say(f"    {rate}{full}")
    return steps


def steps_that_fit(step_s: float) -> int:
    """The number of steps of `step_s` seconds that fit into `TRAIN_S`, from `LEAST_STEPS` to `FULL_STEPS`."""
    return min(FULL_STEPS, max(LEAST_STEPS, int(TRAIN_S / step_s)))


def candidates_that_fit(image_s: float, prompts: int) -> int:
    """How many candidates per caption fit into `GENERATE_S` when an image takes `image_s` seconds; repairs included.

    Up to three repairs of an image take as long as four to five images: they are guided by three prompts instead of two.
    """
    return min(FULL_BEST_OF, max(LEAST_BEST_OF, int(GENERATE_S / (prompts * image_s) - 4.5)))


def run_config(folder: Path, steps: int) -> RunConfig:
    """Settings of the training run. On a GPU it runs in float32; other precisions were not tested there.

    Warm-up and the moving average of the weights are scaled, so that they span the same fraction of a shorter run.
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
            # Only the decoder blocks are adapted: the base already knows the layout (decisions 0018 and 0023).
            "lora": {"target": r".*(up_blocks\.[12]|conv_out).*", "rank": 32, "ema_decay": ema_decay},
            # Otherwise the losses at high noise, where little can be learned, dominate the gradient (decision 0019).
            # Doors are 2 % of the latents: without loss weights half of them are lost (decision 0021).
            "objective": {"balance_noise": True, "class_weights": ("interior door=5",)},
            # On 24 captions AdamW at 2e-3 met 45 % of the sentences, Muon 49 % (decision 0014).
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


def generate_held_out(folder: Path, size: Size, progress: Progress, say: Say) -> tuple[Session, list[Compared]]:
    """Images of held-out captions: one by the base, the best of several by the adapter."""
    settings = GenerateConfig(steps=GENERATE_STEPS, seed=1, best_of=FULL_BEST_OF, repair=True)
    session = open_session(settings, adapters=[(folder / "run", 1.0)], changing=True, say=lambda text: None)
    verifier = require_verifier(session)
    examples = held_out(folder / "dataset", size.prompts)
    requests = session.requests([text for _, text in examples])
    (name,) = session.adapters.names
    session.adapters.set_scales({name: 0.0})
    began = time.monotonic()
    base = list(session.generate(requests, progress))
    image_s = (time.monotonic() - began) / len(examples)
    best_of = size.best_of or candidates_that_fit(image_s, len(examples))
    more = "" if best_of >= FULL_BEST_OF else f"; --best-of {FULL_BEST_OF} for the full recipe"
    say(f"    this machine: {image_s:.1f} s per image; best of {best_of} for each caption{more}")
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
    """Images and captions of the dataset's validation split, at most `count`."""
    manifest = read_manifest(dataset)
    found: list[tuple[Image.Image, str]] = []
    for example in manifest.split("validation")[:count]:
        with Image.open(manifest.path(example)) as image:
            found.append((image.convert("RGB"), example.caption))
    return found


def report(folder: Path, session: Session, compared: Sequence[Compared], say: Say) -> None:
    """Write images, receipts and `report.html`, and print a summary."""
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
                    Shown("the true plan of this caption", one.truth, verifier.verify(one.truth, one.prompt)),
                    Shown("the base", one.base.image, one.base_receipt),
                    Shown(f"the adapter (best of {one.adapter.candidates}, repaired)", final, one.adapter.receipt),
                    Shown("verified", checked),
                ],
            )
        )
    shares = {
        "base": _mean([one.base_receipt.share_met for one in compared]),
        "adapter, mean of all candidates": _mean([one.adapter.shares[0] for one in compared]),
        f"adapter, best of {compared[0].adapter.candidates}": _mean([one.adapter.shares[1] for one in compared]),
        "adapter, best candidate after repair": _mean([one.adapter.shares[2] for one in compared]),
    }
    if len(compared) > 1:
        shares["for comparison: the true plan of another caption"] = _mean(another(verifier, compared))
    facts = [(f"sentences met, {name}", f"{share:.0%}") for name, share in shares.items()]
    whole = sum(one.adapter.receipt.complete for one in compared)
    facts.append(("images that meet every sentence", f"{whole} of {len(compared)}"))
    for name, value in facts:
        say(f"    {name}: {value}")
    note = (
        "A LoRA of a style of floor plans was trained on a small built-in base on this machine. The captions below were "
        "held out. Each sentence is verified against the pixels of the image; open a receipt to see the reasons."
    )
    write_report(folder / "report.html", "loraloom quickstart", facts, rows, note)


def another(verifier: Verifier, compared: Sequence[Compared]) -> list[float]:
    """Share of each caption's sentences that the true image of the next caption meets: the chance level."""
    shifted = [*compared[1:], *compared[:1]]
    return [verifier.verify(other.truth, one.prompt).share_met for one, other in zip(compared, shifted, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _report(say: Say) -> Callable[[int, dict[str, float]], None]:
    def report(done: int, numbers: dict[str, float]) -> None:
        say(f"    step {done}: loss {numbers['loss']:.3f}, {numbers['images_per_second']:.0f} images/s")

    return report

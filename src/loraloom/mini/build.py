"""`loraloom build-mini`: the built-in base from nothing, stage by stage, resumable at any point.

In: a folder and a budget of time. Out: in it

    autoencoder.npy                what the autoencoder learns from, drawn here
    autoencoder.safetensors        state of its fit
    decoder.safetensors            state of its decoder's further fit
    blank/                         the model with this autoencoder, the rest random
    lessons.npz                    coarse pictures with their texts
    reading.safetensors            state of the text encoder's fit to what the texts say
    grounding.safetensors          state of the fit of text encoder and denoiser to the coarse pictures
    start/                         the model before the denoiser has seen a picture
    round_01/ round_02/ ...        pictures, prepared dataset and training run (method full)
    mini/                          the model as it is now: average weights, half precision
    mini/clip/                     once all steps are done: its text encoder with a vision tower, for scores

Run it again with the same folder to go on; `mini/` is written anew at the end of every call. Asked for another number of
pictures, or for a text encoder that learns or rests, it begins a new round: fresh pictures, and the weights so far.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from loraloom import plugins
from loraloom.config.comparing import read_run
from loraloom.config.prepare import PrepareConfig
from loraloom.config.run import RunConfig
from loraloom.contracts import ModelSource, Progress
from loraloom.data.manifest import read_manifest
from loraloom.data.prepare import prepare
from loraloom.files import whole_directory, write_json
from loraloom.mini.autoencoder import fit_autoencoder, normalise
from loraloom.mini.contrast import fit_contrast, halved, make_clip
from loraloom.mini.data import draw_one, facts_of, write_examples, write_grids, write_pictures
from loraloom.mini.fitting import Job, read_average
from loraloom.mini.grounding import ground
from loraloom.mini.layout import SIZE_PX, make_autoencoder, make_denoiser, make_scheduler, make_text_encoder
from loraloom.mini.reading import teach_reading
from loraloom.mini.tokenizer import train_tokenizer
from loraloom.opening import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.quiet import quiet
from loraloom.randomness import derive_seed
from loraloom.train.checkpoint import CheckpointFolder, load_checkpoint
from loraloom.train.full import attach_full
from loraloom.train.run import train

Say = Callable[[str], None]
Bar = Callable[[str], Progress]

DECODER = "decoder.safetensors"
NUM_TOKENS = 1500
VOCABULARY_TEXTS = 600
SAMPLE_PROMPTS = (
    "a red house and two green trees on a meadow",
    "a blue car on the street at night",
    "Plain FloorPlan Generation [Number and Type of Rooms] The floorplan have 1 living room, 1 master room, 1 kitchen, "
    "1 bathroom, 1 bedroom, 1 balcony, 0 storage, 0 entrance [Connection Between Rooms] living room #1 and master room #1 "
    "are connected. living room #1 and bedroom #1 are connected. living room #1 and kitchen #1 are connected. living room "
    "#1 and bathroom #1 are connected. living room #1 and balcony #1 are connected. [Positional Relationship Between Rooms] "
    "master room #1 is left-below living room #1. bedroom #1 is left-above living room #1. kitchen #1 is above living room "
    "#1. bathroom #1 is left-of living room #1. balcony #1 is below living room #1.",
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How `mini` is made; `docs/mini.md` says how far it is.

    Attributes:
        pictures: Drawn for the denoiser.
        autoencoder_pictures, autoencoder_steps: For the autoencoder.
        decoder_steps: Of its decoder alone, once the denoiser is done: until then only the encoder is needed.
        lesson_texts, reading_steps, grounding_steps: Of text encoder and denoiser, before there are pictures.
        steps: Of the denoiser in all; the budget may end earlier.
        text_encoder: Whether the text encoder learns on with the denoiser.
        contrast_steps: Of the vision tower, after them.
        batch_size, learning_rate: Of the denoiser.
        precision: `no`, or `bf16` on a GPU.
        compile: torch.compile the denoiser.
    """

    pictures: int = 8_000
    autoencoder_pictures: int = 3_400
    autoencoder_steps: int = 5_400
    decoder_steps: int = 4_000
    lesson_texts: int = 12_000
    reading_steps: int = 2_000
    grounding_steps: int = 1_600
    steps: int = 60_000
    text_encoder: bool = False
    contrast_steps: int = 3_000
    batch_size: int = 16
    learning_rate: float = 8e-4
    precision: str = "no"
    compile: bool = False


def build_mini(folder: Path, recipe: Recipe, budget_s: float, say: Say, bar: Bar) -> Path:
    """Go as far as the budget allows; returns the model folder, or `folder` when there is no model yet.

    Raises:
        UserError: As `prepare` and `train`.
    """
    deadline = time.monotonic() + budget_s
    run_config(folder, folder, recipe)  # a wrong setting is told before hours are spent
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "start" / "model_index.json").is_file():
        say("1/8 autoencoder")
        if not (_begin(folder, recipe, deadline, say, bar) and _teach(folder, recipe, deadline, say, bar)):
            say("the budget is spent; the same command goes on")
            return folder
    round_ = _round(folder, recipe, say)
    if not (round_ / "dataset" / "manifest.jsonl").is_file():
        say(f"4/8 {recipe.pictures} pictures and their texts")
        seed = int(round_.name[6:])
        if not write_examples(round_ / "pictures", recipe.pictures, seed, bar("pictures"), deadline):
            say("the budget is spent; the same command goes on")
            return folder
        say("5/8 preparing")
        settings = PrepareConfig(
            size=256, crop="center", resample="nearest", min_size=256, domain="floorplan", validation_share=0.01,
            near_duplicate_bits=0,
        )  # fmt: skip
        prepare(
            round_ / "pictures",
            round_ / "dataset",
            settings,
            console=lambda text: None,
            progress=bar("prepared pictures"),
        )
    if time.monotonic() > deadline:
        say("the budget is spent; the same command goes on")
        return folder
    say("6/8 denoiser")
    with stop_at(deadline):
        finished = train(run_config(folder, round_, recipe), say=say, report=_report(say), progress=bar).finished
    model = export(folder, round_, "fp16", folder / "mini", say)
    if finished.step >= recipe.steps and model != folder:
        say("7/8 decoder")
        whole = polish(folder, recipe.decoder_steps, say, deadline)
        model = export(folder, round_, "fp16", folder / "mini", say)
        say("8/8 vision tower")
        if not (whole and add_clip(model, round_, recipe.contrast_steps, say, deadline)):
            say("the budget is spent; the same command goes on")
    return model


def polish(folder: Path, steps: int, say: Say, deadline: float) -> bool:
    """Fit the decoder further while the encoder stays; `export` puts it into the model. Returns whether all is done."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    kind: Any = AutoencoderKL
    vae = kind.from_pretrained(folder / "start" / "vae")
    pictures = np.load(folder / "autoencoder.npy")
    return fit_autoencoder(vae, pictures, steps, Job(folder / DECODER, say, best_device(), deadline), decoder_only=True)


def add_clip(model: Path, round_: Path, steps: int, say: Say, deadline: float) -> bool:
    """Fit a vision tower to the model's text encoder on a round's pictures; writes `clip/` into the model folder.

    The state lies in the round and belongs to the text encoder as it is now: made anew when that has moved on.
    """
    from transformers import CLIPTextModel

    of = open_model(ModelSource(str(model))).fingerprint("text_encoder")[:12]
    state = round_ / f"contrast_{of}.safetensors"
    for old in round_.glob("contrast_*.safetensors"):
        if old != state:
            old.unlink()
    manifest = read_manifest(round_ / "dataset")
    learned = manifest.split("train")
    pictures = np.empty((len(learned), SIZE_PX // 2, SIZE_PX // 2, 3), np.uint8)
    for example, small in zip(learned, pictures, strict=True):
        with Image.open(manifest.path(example)) as picture:
            small[:] = halved(np.asarray(picture.convert("RGB"))[None])[0]
    cut = windows_of(model, [example.caption for example in learned])
    windows = [[ids for ids, _ in windows] for windows in cut]
    torch.manual_seed(derive_seed("mini", "clip"))
    clip = make_clip(CLIPTextModel.from_pretrained(model / "text_encoder", torch_dtype=torch.float32))
    if not fit_contrast(clip, pictures, windows, steps, Job(state, say, best_device(), deadline)):
        return False
    with whole_directory(model / "clip") as target:
        clip.cpu().half().save_pretrained(target)
    return True


def _begin(folder: Path, recipe: Recipe, deadline: float, say: Say, bar: Bar) -> bool:
    """Fit the autoencoder and write `blank/`; False when the time was too short."""
    if (folder / "blank" / "model_index.json").is_file():
        return True
    pictures = write_pictures(folder / "autoencoder.npy", recipe.autoencoder_pictures, 0, bar("pictures"), deadline)
    if pictures is None:
        return False
    torch.manual_seed(derive_seed("mini", "autoencoder"))
    vae = make_autoencoder()
    job = Job(folder / "autoencoder.safetensors", say, best_device(), deadline)
    if not fit_autoencoder(vae, pictures, recipe.autoencoder_steps, job):
        return False
    normalise(vae, pictures[:: max(1, len(pictures) // 200)], job.device)
    texts = [draw_one(number, 0)[1] for number in range(VOCABULARY_TEXTS)]
    assemble(folder / "blank", vae.cpu(), texts)
    return True


def _teach(folder: Path, recipe: Recipe, deadline: float, say: Say, bar: Bar) -> bool:
    """Let the text encoder read, then it and the denoiser tell colours, and write `start/`; False when time was short."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel

    say(f"2/8 reading: what {recipe.lesson_texts} texts say")
    drawn = write_grids(folder / "lessons.npz", recipe.lesson_texts, 0, bar("texts"), deadline)
    if drawn is None:
        return False
    grids, texts = drawn
    blank = folder / "blank"
    cut = windows_of(blank, texts)
    with quiet():
        encoder: Any = CLIPTextModel.from_pretrained(blank / "text_encoder")
        denoiser: Any = UNet2DConditionModel.from_pretrained(blank / "unet")
    saying = [(ids, facts) for windows in cut for ids, part in windows if (facts := facts_of(part))]
    job = Job(folder / "reading.safetensors", say, best_device(), deadline)
    if not teach_reading(
        encoder, [ids for ids, _ in saying], [facts for _, facts in saying], recipe.reading_steps, job
    ):
        return False
    say("3/8 grounding: where the texts' colours are")
    windows = [[ids for ids, _ in windows] for windows in cut]
    worlds = ["plan" if facts_of(text) else "scene" for text in texts]
    job = Job(folder / "grounding.safetensors", say, best_device(), deadline)
    if not ground(encoder, denoiser, grids, windows, worlds, recipe.grounding_steps, job):
        return False
    with whole_directory(folder / "start") as target:
        copytree(blank, target, dirs_exist_ok=True)
        encoder.cpu().save_pretrained(target / "text_encoder")
        denoiser.cpu().save_pretrained(target / "unet")
    return True


def best_device() -> str:
    """A GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def windows_of(model: Path, texts: Sequence[str]) -> list[list[tuple[list[int], str]]]:
    """Token ids and text of each window of each text, as the prompt method `attention` cuts them."""
    text = open_model(ModelSource(str(model))).text
    encoder = PromptEncoder(text, plugins.load("domains", "floorplan"), "attention", 1 << 10)
    return [[(list(text.window(part.ids)), part.text) for part in encoder.plan(one).windows] for one in texts]


def _round(folder: Path, recipe: Recipe, say: Say) -> Path:
    """The folder of the round that goes on, or of a new one."""
    rounds = sorted(file.parent for file in folder.glob("round_*/round.json"))  # written last: the round is whole
    last = rounds[-1] if rounds else None
    asked = {"pictures": recipe.pictures, "text_encoder": recipe.text_encoder}
    if last and json.loads((last / "round.json").read_text(encoding="utf-8")) == asked:
        return last
    new = folder / f"round_{len(rounds) + 1:02d}"
    # Without weights of its own the last round hands on the ones it began from.
    if last and export(folder, last, "fp32", new / "start", say) == folder and (last / "start").is_dir():
        copytree(last / "start", new / "start", dirs_exist_ok=True)
    write_json(new / "round.json", asked)
    return new


def assemble(folder: Path, vae: Any, texts: Sequence[str]) -> None:
    """Write the model with a fitted autoencoder, a vocabulary learned from the texts, and the rest random."""
    with whole_directory(folder) as target, quiet():
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

        tokenizer = train_tokenizer(texts, NUM_TOKENS, target / "tokenizer")
        torch.manual_seed(derive_seed("mini", "start"))
        pipeline: Any = StableDiffusionPipeline
        pipeline(
            vae=vae, text_encoder=make_text_encoder(tokenizer), tokenizer=tokenizer, unet=make_denoiser(),
            scheduler=make_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        ).save_pretrained(target)  # fmt: skip


def run_config(folder: Path, round_: Path, recipe: Recipe) -> RunConfig:
    """The training run of a round."""
    start = round_ / "start" if (round_ / "start").is_dir() else folder / "start"
    return RunConfig.model_validate(
        {
            "model": {"source": str(start)},
            "data": {
                "dataset": str(round_ / "dataset"), "domain": "floorplan", "batch_size": recipe.batch_size,
                "caption_dropout": 0.1, "encode_batch_size": 16,
            },
            "lora": {"text_encoder": recipe.text_encoder, "ema_decay": 0.9995},
            "optim": {
                "learning_rate": recipe.learning_rate, "weight_decay": 0.01, "betas": (0.9, 0.99),
                "warmup_steps": min(500, recipe.steps // 10),
            },
            "objective": {"timestep_shift": 3.0},
            "train": {
                "output": str(round_ / "run"), "method": "full", "max_steps": recipe.steps, "log_every": 50,
                "mixed_precision": recipe.precision, "compile": recipe.compile, "validation_every": 1000,
            },
            "checkpoints": {"every": 500, "keep": 2},
            "samples": {
                "prompts": SAMPLE_PROMPTS, "steps": 20, "guidance_scale": 4.0, "size": 256,
                "min_interval": 500,
            },
            "export": {"dtype": "fp16"},
        }
    )  # fmt: skip


def export(folder: Path, round_: Path, dtype: Literal["fp32", "fp16"], out: Path, say: Say) -> Path:
    """Write a round's newest average weights as a model to `out`."""
    checkpoints = CheckpointFolder(round_ / "run" / "checkpoints")
    steps = checkpoints.steps()
    if not steps:
        return folder
    checkpoint = load_checkpoint(checkpoints.path(steps[-1]))
    settings = read_run(round_ / "run")
    model = open_model(ModelSource(settings.model.source))
    attach_full(model, text_encoder=settings.lora.text_encoder).load(checkpoint.ema or checkpoint.adapter)
    if dtype == "fp16" and (folder / DECODER).is_file():  # a base to go on with keeps the decoder that it began with
        vae: Any = model.module("vae")
        vae.load_state_dict(read_average(folder / DECODER), strict=False)
    model.save(out, dtype)
    size = sum(file.stat().st_size for file in out.rglob("*.safetensors")) / 2**20
    say(f"{out}: {size:.1f} MiB after {steps[-1]} steps of {round_.name}")
    return out


@contextmanager
def stop_at(deadline: float) -> Iterator[None]:
    """Ask the training loop to stop at a time of `time.monotonic`, as Ctrl-C from outside would."""
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), lambda: os.kill(os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _report(say: Say) -> Callable[[int, dict[str, float]], None]:
    def report(done: int, numbers: dict[str, float]) -> None:
        held_out = f"  validation {numbers['validation_loss']:.4f}" if "validation_loss" in numbers else ""
        say(f"step {done}  loss {numbers['loss']:.4f}{held_out}  {numbers['images_per_second']:.1f} images/s")

    return report

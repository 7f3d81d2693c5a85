"""`loraloom build-mini`: the built-in base from nothing, stage by stage, resumable at any point.

In: a folder and a budget of time. Out: in it

    autoencoder.npy                what the autoencoder learns from, drawn here
    autoencoder.safetensors        state of its fit
    decoder.safetensors            state of its decoder's further fit
    blank/                         the model with this autoencoder, the rest random
    lessons.npz                    coarse pictures with their texts
    reading.safetensors            state of the text encoder's fit to what the texts say
    start/                         the model before the denoiser has seen a picture
    round_01/ round_02/ ...        pictures, prepared dataset and training run (method full)
    round_01/first/ looked/        a short run before grounding, and its weights
    round_01/grounding_*           state of the fit of the denoiser's deep layers to the coarse pictures
    round_01/contrast_*            state of the fit of the vision tower
    grounded/                      the model after it, from which the first round goes on
    mini/                          the model as it is now: average weights, half precision
    mini/clip/                     once all steps are done: its text encoder with a vision tower, for scores

Run it again with the same folder to go on; `mini/` is written anew at the end of every call. Asked for another number of
pictures or steps, another batch or precision, or for a text encoder that learns or rests, it begins a new round: fresh
pictures, the weights so far.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import copytree
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from loraloom import plugins
from loraloom.config.comparing import read_run
from loraloom.contracts import ModelSource, Progress
from loraloom.data.manifest import read_manifest
from loraloom.data.prepare import prepare
from loraloom.files import whole_directory, write_json
from loraloom.mini.autoencoder import fit_autoencoder, normalise
from loraloom.mini.contrast import PREPROCESSING, fit_contrast, halved, make_clip
from loraloom.mini.data import SIZE_PX, draw_one, facts_of, write_examples, write_grids, write_pictures
from loraloom.mini.fitting import Job, read_average
from loraloom.mini.grounding import ground, how_to_ground
from loraloom.mini.layout import make_autoencoder, make_denoiser, make_scheduler, make_text_encoder
from loraloom.mini.reading import teach_reading
from loraloom.mini.recipe import PREPARED, Recipe, run_config, start_of
from loraloom.mini.tokenizer import train_tokenizer
from loraloom.opening import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.quiet import quiet
from loraloom.randomness import derive_seed
from loraloom.train.checkpoint import CheckpointFolder
from loraloom.train.full import attach_full
from loraloom.train.run import train

Say = Callable[[str], None]
Bar = Callable[[str], Progress]

DECODER = "decoder.safetensors"
NUM_TOKENS = 1500
VOCABULARY_TEXTS = 600


def build_mini(folder: Path, recipe: Recipe, budget_s: float, say: Say, bar: Bar) -> Path:
    """Go as far as the budget allows; returns the model folder, or `folder` when there is no model yet.

    Raises:
        UserError: As `prepare` and `train`.
    """
    deadline = time.monotonic() + budget_s
    for first in (True, False):  # a wrong setting is told before hours are spent
        run_config(folder, folder, recipe, first=first)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if not (folder / "start" / "model_index.json").is_file():
            _begin(folder, recipe, deadline, say, bar)
            _teach(folder, recipe, deadline, say, bar)
        round_ = _round(folder, recipe, say)
        _fill(round_, recipe, deadline, say, bar)
        if not (folder / "grounded" / "model_index.json").is_file():
            _ground(folder, round_, recipe, deadline, say, bar)
        say("7/9 denoiser")
        config = run_config(folder, round_, recipe)
        finished = train(config, say=say, report=_report(say), progress=bar, deadline=deadline).finished
        model = export(folder, round_ / "run", "fp16", folder / "mini", say)
        if finished.step >= recipe.steps and model != folder:
            say("8/9 decoder")
            whole = polish(folder, recipe.decoder_steps, say, deadline)
            model = export(folder, round_ / "run", "fp16", folder / "mini", say)
            _in_time(whole)
            say("9/9 vision tower")
            _in_time(add_clip(model, round_, recipe.contrast_steps, say, deadline))
    except _SpentError:
        say("not done yet; the same command goes on")
    ready = folder / "mini"
    return ready if (ready / "model_index.json").is_file() else folder


class _SpentError(Exception):
    """The budget is spent, or a stop was asked for, before a stage was done; its state is saved."""


def _in_time(done: bool, deadline: float = math.inf) -> None:
    """Go on when a stage is done and there is time left.

    Raises:
        _SpentError: Otherwise.
    """
    if not done or time.monotonic() > deadline:
        raise _SpentError


def polish(folder: Path, steps: int, say: Say, deadline: float) -> bool:
    """Fit the decoder further while the encoder stays; `export` puts it into the model. Returns whether all is done."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    kind: Any = AutoencoderKL
    vae = kind.from_pretrained(folder / "start" / "vae")
    pictures = np.load(folder / "autoencoder.npy")
    return fit_autoencoder(vae, pictures, steps, Job(folder / DECODER, say, best_device(), deadline), decoder_only=True)


def add_clip(model: Path, round_: Path, steps: int, say: Say, deadline: float) -> bool:
    """Fit a vision tower to the model's text encoder on a round's pictures; writes `clip/` into the model folder.

    The state belongs to the text encoder as it is now: made anew when that has moved on.
    """
    from transformers import CLIPTextModel

    state = state_of(round_, "contrast", model, "text_encoder")
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
        write_json(target / "preprocessor_config.json", PREPROCESSING)
        copytree(model / "tokenizer", target, dirs_exist_ok=True)
    return True


def state_of(round_: Path, fit: str, model: Path, part: Literal["text_encoder", "denoiser"]) -> Path:
    """A fit's state file in a round, named after the weights that it began with; deletes those of others."""
    state = round_ / f"{fit}_{open_model(ModelSource(str(model))).fingerprint(part)[:12]}.safetensors"
    for old in round_.glob(f"{fit}_*.safetensors"):
        if old != state:
            old.unlink()
    return state


def _begin(folder: Path, recipe: Recipe, deadline: float, say: Say, bar: Bar) -> None:
    """Fit the autoencoder and write `blank/`."""
    if (folder / "blank" / "model_index.json").is_file():
        return
    say("1/9 autoencoder")
    pictures = write_pictures(folder / "autoencoder.npy", recipe.autoencoder_pictures, 0, bar("pictures"), deadline)
    if pictures is None:
        raise _SpentError
    torch.manual_seed(derive_seed("mini", "autoencoder"))
    vae = make_autoencoder()
    job = Job(folder / "autoencoder.safetensors", say, best_device(), deadline)
    _in_time(fit_autoencoder(vae, pictures, recipe.autoencoder_steps, job))
    normalise(vae, pictures[:: max(1, len(pictures) // 200)], job.device)
    texts = [draw_one(number, 0)[1] for number in range(VOCABULARY_TEXTS)]
    assemble(folder / "blank", vae.cpu(), texts)


def _teach(folder: Path, recipe: Recipe, deadline: float, say: Say, bar: Bar) -> None:
    """Let the text encoder read, and write `start/`."""
    from transformers import CLIPTextModel

    say(f"2/9 reading: what {recipe.lesson_texts} texts say")
    _, texts = _lessons(folder, recipe, deadline, bar)
    blank = folder / "blank"
    with quiet():
        encoder: Any = CLIPTextModel.from_pretrained(blank / "text_encoder")
    saying = [
        (ids, facts) for windows in windows_of(blank, texts) for ids, part in windows if (facts := facts_of(part))
    ]
    job = Job(folder / "reading.safetensors", say, best_device(), deadline)
    windows, said = [ids for ids, _ in saying], [facts for _, facts in saying]
    _in_time(teach_reading(encoder, windows, said, recipe.reading_steps, job))
    with whole_directory(folder / "start") as target:
        copytree(blank, target, dirs_exist_ok=True)
        encoder.cpu().save_pretrained(target / "text_encoder")


def _fill(round_: Path, recipe: Recipe, deadline: float, say: Say, bar: Bar) -> None:
    """Draw a round's pictures and prepare them."""
    if (round_ / "dataset" / "manifest.jsonl").is_file():
        return
    say(f"3/9 {recipe.pictures} pictures and their texts")
    seed = int(round_.name[6:])
    _in_time(write_examples(round_ / "pictures", recipe.pictures, seed, bar("pictures"), deadline))
    say("4/9 preparing")
    progress = bar("prepared pictures")
    prepare(round_ / "pictures", round_ / "dataset", PREPARED, console=lambda text: None, progress=progress)
    _in_time(True, deadline)


def _ground(folder: Path, round_: Path, recipe: Recipe, deadline: float, say: Say, bar: Bar) -> None:
    """Show the denoiser some pictures, teach its deep layers the texts' colours, and write `grounded/`."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel

    say("5/9 a first look")
    config = run_config(folder, round_, recipe, first=True)
    finished = train(config, say=say, report=_report(say), progress=bar, deadline=deadline).finished
    _in_time(finished.step >= recipe.first_steps, deadline)
    say("6/9 grounding: where the texts' colours are")
    looked = export(folder, round_ / "first", "fp32", round_ / "looked", say)
    grids, texts = _lessons(folder, recipe, deadline, bar)
    windows = [[ids for ids, _ in windows] for windows in windows_of(looked, texts)]
    worlds = ["plan" if facts_of(text) else "scene" for text in texts]
    with quiet():
        encoder: Any = CLIPTextModel.from_pretrained(looked / "text_encoder")
        denoiser: Any = UNet2DConditionModel.from_pretrained(looked / "unet")
    job = Job(state_of(round_, "grounding", looked, "denoiser"), say, best_device(), deadline)
    _in_time(ground(encoder, denoiser, grids, windows, worlds, how_to_ground(recipe.grounding_steps), job))
    with whole_directory(folder / "grounded") as target:
        copytree(looked, target, dirs_exist_ok=True)
        denoiser.cpu().save_pretrained(target / "unet")


def _lessons(folder: Path, recipe: Recipe, deadline: float, bar: Bar) -> tuple[NDArray[np.uint8], list[str]]:
    drawn = write_grids(folder / "lessons.npz", recipe.lesson_texts, 0, bar("texts"), deadline)
    if drawn is None:
        raise _SpentError
    return drawn


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
    asked = {name: getattr(recipe, name) for name in ("pictures", "text_encoder", "steps", "batch_size", "precision")}
    if last and json.loads((last / "round.json").read_text(encoding="utf-8")).items() <= asked.items():
        return last
    new = folder / f"round_{len(rounds) + 1:02d}"
    # Without weights of its own the last round hands on the ones it began from.
    if last and export(folder, last / "run", "fp32", new / "start", say) == folder and (last / "start").is_dir():
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


def export(folder: Path, run: Path, dtype: Literal["fp32", "fp16"], out: Path, say: Say) -> Path:
    """Write a run's newest average weights as a model to `out`."""
    checkpoint, _ = CheckpointFolder(run / "checkpoints").load_newest()
    if checkpoint is None:
        return folder
    # Not the base that run.yaml names: the folder may have moved since.
    model = open_model(ModelSource(str(start_of(folder, run.parent, first=run.name == "first"))))
    attach_full(model, text_encoder=read_run(run).lora.text_encoder).load(checkpoint.ema or checkpoint.adapter)
    if dtype == "fp16" and (folder / DECODER).is_file():  # a base to go on with keeps the decoder that it began with
        vae: Any = model.module("vae")
        vae.load_state_dict(read_average(folder / DECODER), strict=False)
    model.save(out, dtype)
    size = sum(file.stat().st_size for file in out.rglob("*.safetensors")) / 2**20
    say(f"{out}: {size:.1f} MiB after {checkpoint.step} steps of {run.parent.name}/{run.name}")
    return out


def _report(say: Say) -> Callable[[int, dict[str, float]], None]:
    def report(done: int, numbers: dict[str, float]) -> None:
        held_out = f"  validation {numbers['validation_loss']:.4f}" if "validation_loss" in numbers else ""
        say(f"step {done}  loss {numbers['loss']:.4f}{held_out}  {numbers['images_per_second']:.1f} images/s")

    return report

"""Build the built-in base from scratch or from a model, in stages, resumable at any point.

In: a folder and a budget of time. Out, in the folder:

    parts_0/ parts_1/ ...          synthetic images with their texts
    begin/ begin.json              the model that the build started from, if any, and its source
    blank/                         otherwise: a vocabulary and random weights
    reading.safetensors            state of the text encoder's fit to the facts of the texts
    autoencoder.safetensors        state of the autoencoder's fit
    `louder.safetensors`           state of its second fit, which gives thin structures more contrast
    decoder.safetensors            state of its decoder's further fit
    start/                         the model before the denoiser is trained
    round_01/ round_02/ ...        settings of a round of the denoiser, its images' latents, the states of its fits, and
                                   curve.jsonl: share of sentences met for held-out plans, at regular numbers of images
    mini/                          the current model: average weights, half precision
    mini/clip/                     after all steps: its text encoder with a vision tower, for scores

A call with the same folder continues the build; `mini/` is written again after each training of the denoiser. With
another number of images or steps, another batch size or precision, it begins a new round with new images and the
current weights.

If the build starts from a model, its autoencoder is trained further, its text encoder is frozen, and the denoiser's
first round starts with its weights.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loraloom.models.loading import open_model
from loraloom.protocols.model import ModelSource
from loraloom.utils.atomic_files import whole_directory, write_json
from loraloom.utils.errors import UserError
from loraloom.utils.progress import Progress
from loraloom.utils.quiet import quiet
from loraloom.utils.rng import derive_seed
from loraloom.utils.safetensors_io import read_tensors, write_tensors
from recipes.mini.autoencoder import amplify_thin_structures, fit_autoencoder, normalise, to_pixels
from recipes.mini.bank import Bank, fill_bank, windows_of
from recipes.mini.blank import write_blank
from recipes.mini.canvas import Canvas
from recipes.mini.contrast import PREPROCESSING, fit_contrast, halved, make_clip
from recipes.mini.curve import add_point, has_point
from recipes.mini.data import PLAN_SHARE, facts_of, parts_of, plain_plans, read_part, write_parts
from recipes.mini.denoising import Noise, fit_denoiser
from recipes.mini.fitting import Fit, Job, Way, read_average
from recipes.mini.grounding import ground, how_to_ground
from recipes.mini.layout import make_autoencoder, make_denoiser
from recipes.mini.reading import fit_reading
from recipes.mini.recipe import Recipe

Say = Callable[[str], None]
Bar = Callable[[str], Progress]

READING, AUTOENCODER, LOUDER, DECODER, LATENTS, FIRST, GROUNDING, DENOISER, CONTRAST = (
    f"{name}.safetensors"
    for name in ("reading", "autoencoder", "louder", "decoder", "latents", "first", "grounding", "denoiser", "contrast")
)
BEGIN, BEGIN_NAME, CURVE = "begin", "begin.json", "curve.jsonl"
FRESH = 100
"""First seed of images if the build starts from a model, because the model was trained on the earlier seeds."""


def build_mini(
    folder: Path, recipe: Recipe, budget_s: float, say: Say, bar: Bar, begin: ModelSource | None = None
) -> Path:
    """Build as far as the budget allows; returns the model folder, or `folder` if there is no model yet.

    Args:
        folder: Folder of the build; see the module.
        recipe: Numbers of images and steps.
        budget_s: Time to spend in this call, seconds.
        say, bar: Called with lines of the log and for progress bars.
        begin: Model of `mini`'s layout to start from; None builds from scratch.

    Raises:
        UserError: A state has another layout, or the folder was started from another model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if begin is not None:
        _begin_from(begin, folder)
    build = _Build(folder, recipe, time.monotonic() + budget_s, say, bar)
    if build.device == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    try:
        build.run()
    except _SpentError:
        build.export()
        say("not done yet; the same command continues")
    ready = folder / "mini"
    return ready if (ready / "model_index.json").is_file() else folder


class _SpentError(Exception):
    """The budget was spent before a stage was done; its state is saved."""


class _Build:
    """One call of `build_mini`."""

    def __init__(self, folder: Path, recipe: Recipe, deadline: float, say: Say, bar: Bar) -> None:
        self.folder, self.recipe, self.deadline, self.say, self.bar = folder, recipe, deadline, say, bar
        self.device = best_device()
        self.begun = (folder / BEGIN).is_dir()
        self.first_seed = FRESH if self.begun else 0

    def run(self) -> None:
        """Run all stages.

        Raises:
            _SpentError: The budget is spent.
        """
        folder = self.folder
        if not (folder / "start" / "model_index.json").is_file():
            vae = self._autoencoder()
            text_encoder = None if self.begun else self._reading()
            with whole_directory(folder / "start") as target:
                copytree(folder / BEGIN if self.begun else self._blank(), target, dirs_exist_ok=True)
                vae.cpu().save_pretrained(target / "vae")
                if text_encoder is not None:
                    text_encoder.cpu().save_pretrained(target / "text_encoder")
        round_ = self._round()
        self._denoiser(round_)
        model = self.export()
        assert model is not None
        self.say("7/7 vision tower")
        self._in_time(self._vision_tower(model))

    # ----------------------------------------------------------------------------------------------- stages

    def _autoencoder(self) -> Any:
        """The trained autoencoder with latents of unit deviation and a decoder that was trained further."""
        recipe, device = self.recipe, self.device
        self.say(f"1/7 {recipe.autoencoder_images} images for the autoencoder")
        half, quarter = recipe.autoencoder_images // 2, recipe.autoencoder_images // 4
        files = self._files({"plans": half, "others": quarter, "scenes": quarter}, self.first_seed)
        parts = [read_part(file) for file in files]
        self.say("2/7 autoencoder")
        canvas = Canvas(parts, device)
        if self.begun:
            vae: Any = open_model(ModelSource(location=str(self.folder / BEGIN))).modules.place(
                "vae", torch.device(device), torch.float32
            )
        else:
            way = Way(recipe.autoencoder_batch, recipe.precision)
            torch.manual_seed(derive_seed("mini", "autoencoder"))
            vae = make_autoencoder()
            job = self._job(self.folder / AUTOENCODER)
            self._in_time(fit_autoencoder(vae, canvas, recipe.autoencoder_steps, way, job))
            plain = [part.images()[::40] for part in parts[: len(parts_of(self.folder, "plans", half))]]
            normalise(vae, to_pixels(np.concatenate(plain)[:200]).to(device))
        others = [part for file, part in zip(files, parts, strict=True) if file.name.startswith("others")]
        other_styles = Canvas(others, device)
        learned = [plain_plans(part) if part.marks is not None else part for part in parts]
        known = Canvas(learned, device, own_colours=1.0)
        way = Way(recipe.louder_batch, recipe.precision)
        self._in_time(
            amplify_thin_structures(vae, other_styles, known, recipe.louder_steps, way, self._job(self.folder / LOUDER))
        )
        way = Way(recipe.autoencoder_batch, recipe.precision)
        job = self._job(self.folder / DECODER)
        self._in_time(fit_autoencoder(vae, canvas, recipe.decoder_steps, way, job, decoder_only=True))
        return vae

    def _reading(self) -> Any:
        """A text encoder that was trained on the facts of texts."""
        from transformers import CLIPTextModel

        recipe, blank = self.recipe, self._blank()
        self.say(f"3/7 reading: the facts of {recipe.reading_texts} texts")
        scenes = round((1 - PLAN_SHARE) * recipe.reading_texts)
        files = self._files({"plans": recipe.reading_texts - scenes, "scenes": scenes}, 0)
        with quiet():
            encoder: Any = CLIPTextModel.from_pretrained(blank / "text_encoder")
        lessons = {
            world: [
                (ids, facts)
                for file in files
                if file.name.startswith(world)
                for windows in windows_of(blank, read_part(file).texts)
                for ids, part in windows
                if (facts := facts_of(part, world))
            ]
            for world in ("plans", "scenes")
        }
        self._in_time(fit_reading(encoder, lessons, recipe.reading_steps, self._job(self.folder / READING)))
        return encoder

    def _blank(self) -> Path:
        """The model with a vocabulary from texts and random weights."""
        blank = self.folder / "blank"
        if not (blank / "model_index.json").is_file():
            write_blank(blank)
        return blank

    def _denoiser(self, round_: Path) -> None:
        """Run a round: images, a first short fit, grounding, and the main fit."""
        recipe, seed = self.recipe, int(round_.name[6:])
        plans = round(PLAN_SHARE * recipe.images)
        self.say(f"4/7 {recipe.images} images and their texts")
        files = self._files({"plans": plans, "scenes": recipe.images - plans}, self.first_seed + seed - 1)
        model = open_model(ModelSource(location=str(self._start_of(round_))))
        denoiser: Any = model.modules.get("denoiser")
        self.say("    their latents and prompt embeddings")
        bank = self._bank(model, files, round_ / LATENTS)
        noise = Noise(model.info.schedule, seed=f"denoiser {seed}")
        if seed == 1 and not self.begun:
            self.say("5/7 a first short fit, and grounding: the places of the texts' colours")
            first = Fit(recipe.first_steps, recipe.learning_rate, muon=True, average=0.99)
            much = Noise(model.info.schedule, 3.0, seed="first look")
            done = fit_denoiser(denoiser, bank, much, recipe.way, first, self._job(round_ / FIRST))
            self._in_time(done)
            way = Way(recipe.grounding_batch, recipe.precision)
            how = how_to_ground(recipe.grounding_steps)
            self._in_time(ground(denoiser, bank, way, how, self._job(round_ / GROUNDING)))
        self.say("6/7 denoiser")
        how = Fit(recipe.steps, recipe.learning_rate, muon=True)
        job = replace(
            self._job(round_ / DENOISER), watch=partial(self._point, round_), watch_every=recipe.steps_between_points
        )
        self._in_time(fit_denoiser(denoiser, bank, noise, recipe.way, how, job))

    def _point(self, round_: Path, steps: int) -> None:
        """Add a point of the learning curve for the saved average weights, which are then exported to `mini/`."""
        images = steps * self.recipe.batch_size
        if not has_point(round_ / CURVE, images) and (model := self.export()):
            add_point(round_ / CURVE, model, images, self.say)

    def _bank(self, model: Any, files: Sequence[Path], latents: Path) -> Bank:
        """The bank of the files. Latents are kept in a file, because encoding takes most of the start of a call on a CPU."""
        vae: Any = model.modules.place("vae", torch.device(self.device), torch.float32)
        text_encoder: Any = model.modules.place("text_encoder", torch.device(self.device), torch.float32)

        def encode(pixels_bchw: Tensor) -> Tensor:
            with self.recipe.way.autocast(self.device):
                return vae.encode(pixels_bchw, return_dict=False)[0].mean.float()

        def read(ids_mk: Tensor) -> Tensor:
            return text_encoder(ids_mk).last_hidden_state

        progress = self.bar("encoded files")
        known = read_tensors(latents)[0]["latents"] if latents.is_file() else None
        bank = fill_bank(
            files,
            Path(model.info.source.location),
            encode,
            read,
            self.device,
            progress,
            known=known,
            orientations=self.recipe.orientations,
        )
        if known is None:
            write_tensors(latents, {"latents": bank.latents_nchw.cpu()}, {})
        model.modules.drop("vae")
        model.modules.drop("text_encoder")
        self._in_time(True)
        return bank

    def _vision_tower(self, model: Path) -> bool:
        """Fit a vision tower to the model's text encoder; writes `clip/` into the model folder."""
        from transformers import CLIPTextModel

        count = min(self.recipe.contrast_images, self.recipe.images)
        plans = round(PLAN_SHARE * count)
        parts = [read_part(file) for file in self._files({"plans": plans, "scenes": count - plans}, self.first_seed)]
        images = np.concatenate([halved(part.images()) for part in parts])
        cut = windows_of(model, [text for part in parts for text in part.texts])
        windows = [[ids for ids, _ in windows] for windows in cut]
        torch.manual_seed(derive_seed("mini", "clip"))
        clip = make_clip(CLIPTextModel.from_pretrained(model / "text_encoder", torch_dtype=torch.float32))
        if not fit_contrast(clip, images, windows, self.recipe.contrast_steps, self._job(self.folder / CONTRAST)):
            return False
        with whole_directory(model / "clip") as target:
            clip.cpu().half().save_pretrained(target)
            write_json(target / "preprocessor_config.json", PREPROCESSING)
            copytree(model / "tokenizer", target, dirs_exist_ok=True)
        return True

    # ---------------------------------------------------------------------------------------------- helpers

    def export(self) -> Path | None:
        """Write the newest average weights as a model to `mini/`; None if there are none yet."""
        learned = [round_ for round_ in self._rounds() if (round_ / DENOISER).is_file()]
        start = self.folder / "start"
        if not learned and not (self.begun and start.is_dir()):
            return None
        model = self._learned(learned[-1]) if learned else open_model(ModelSource(location=str(start)))
        out = self.folder / "mini"
        model.save(out, "fp16")
        size = sum(file.stat().st_size for file in out.rglob("*.safetensors")) / 2**20
        self.say(f"{out}: {size:.1f} MiB")
        return out

    def _files(self, counts: dict[str, int], seed: int) -> list[Path]:
        """The files with these numbers of images of each world; missing files are written."""
        folder = self.folder / f"parts_{seed}"
        files = [file for world, count in counts.items() for file in parts_of(folder, world, count)]
        self._in_time(write_parts(files, seed, self.bar("rendered files"), self.deadline))
        return files

    def _job(self, state: Path) -> Job:
        return Job(state, self.say, self.device, self.deadline)

    def _in_time(self, done: bool) -> None:
        """Return if a stage is done and there is time left.

        Raises:
            _SpentError: The stage is not done, or the budget is spent.
        """
        if not done or time.monotonic() > self.deadline:
            raise _SpentError

    def _rounds(self) -> list[Path]:
        return sorted(file.parent for file in self.folder.glob("round_*/round.json"))

    def _learned(self, round_: Path) -> Any:
        """The start model of a round, with the average weights of the round if there are any."""
        model = open_model(ModelSource(location=str(self._start_of(round_))))
        if (round_ / DENOISER).is_file():
            model.modules.get("denoiser").load_state_dict(read_average(round_ / DENOISER))
        return model

    def _start_of(self, round_: Path) -> Path:
        """Folder of the start model of a round."""
        return round_ / "start" if (round_ / "start").is_dir() else self.folder / "start"

    def _round(self) -> Path:
        """The folder of the last round if its settings are the same, else of a new round."""
        rounds = self._rounds()
        names = ("images", "orientations", "steps", "batch_size", "learning_rate", "precision")
        asked = {name: getattr(self.recipe, name) for name in names}
        if rounds and json.loads((rounds[-1] / "round.json").read_text(encoding="utf-8")) == asked:
            return rounds[-1]
        new = self.folder / f"round_{len(rounds) + 1:02d}"
        if rounds:
            model = self._learned(rounds[-1])
            model.save(new / "start", "fp32")
        write_json(new / "round.json", asked)
        return new


def _begin_from(source: ModelSource, folder: Path) -> None:
    """Copy the start model into the folder, because its source may change before the build is continued.

    Raises:
        UserError: The model has another layout than `mini`, or the folder was started from another model.
    """
    kept = folder / BEGIN_NAME
    from_what = json.loads(kept.read_text(encoding="utf-8"))["model"] if kept.is_file() else "nothing"
    if kept.is_file() or (folder / "blank").is_dir():
        if from_what != source.location:
            raise UserError(
                f"this folder was started from {from_what}", got=source.location, fix="name another, or omit --begin"
            )
        return
    model = open_model(source)
    for part, made in (("vae", make_autoencoder()), ("denoiser", make_denoiser())):
        shapes = {name: weight.shape for name, weight in model.modules.get(part).state_dict().items()}
        if shapes != {name: weight.shape for name, weight in made.state_dict().items()}:
            raise UserError(
                f"this model's {part} has another layout",
                got=source.location,
                expected="a model of this recipe",
            )
    model.save(folder / BEGIN, "fp32")
    write_json(kept, {"model": source.location})


def best_device() -> str:
    """A GPU if there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"

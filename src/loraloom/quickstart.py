"""The whole way in two minutes, without a download or a GPU: draw, prepare, train, generate, measure.

In: an empty folder. Out: in it the drawn pictures, the dataset, the run with samples and exports, and `result.png`: the
taught picture, what the base draws, what the adapter draws. The base is a tiny one whose autoencoder is fitted here in a
few seconds and whose denoiser has random weights: this shows that every stage works and that the adapter learns, not
what a trained base can do.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from loraloom import plugins
from loraloom.config.generate import GenerateConfig
from loraloom.config.prepare import PrepareConfig
from loraloom.config.run import RunConfig
from loraloom.console import bars, duration
from loraloom.contracts import ModelSource, Progress
from loraloom.data.encode import load_pixels
from loraloom.data.prepare import prepare
from loraloom.errors import UserError
from loraloom.generate.pictures import to_images
from loraloom.generate.session import open_session
from loraloom.generate.sheet import contact_sheet
from loraloom.randomness import uniform
from loraloom.train.run import train

CAPTION = "a red house below a yellow sun"
_MARK = ".loraloom-quickstart"
_SIZE_PX, _COPIES, _DRAWN, _AUTOENCODER_STEPS = 64, 8, 4, 300


def run_quickstart(folder: Path, steps: int, say: Callable[[str], None]) -> None:
    """Do it all in `folder`; a quickstart that stands there is replaced, anything else is left alone.

    Raises:
        UserError: The folder holds something else.
    """
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARK).is_file():
            raise UserError("this folder is not empty", got=str(folder), fix="choose another one with --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).touch()
    say("1/4 drawing a picture, building a tiny base, and fitting its autoencoder to such pictures")
    draw_sources(folder / "pictures")
    base = plugins.load("families", "stable_diffusion").build_tiny(folder / "base")
    with bars() as bar:
        fit_autoencoder(base, bar("autoencoder"))
    say("2/4 preparing the dataset")
    settings = PrepareConfig(size=_SIZE_PX, bucket_step=8, min_size=16, validation_share=0.0)
    prepare(folder / "pictures", folder / "dataset", settings, console=lambda text: None)
    say(f"3/4 training a LoRA for {steps} steps")
    config = RunConfig.model_validate(
        {
            "model": {"source": str(base)},
            "data": {"dataset": str(folder / "dataset"), "batch_size": _COPIES, "caption_dropout": 0.0},
            "lora": {"target": "all_linear_conv", "rank": 32},
            "optim": {"learning_rate": 4e-3, "scheduler": "cosine"},
            "train": {"output": str(folder / "run"), "max_steps": steps, "log_every": max(1, steps // 4)},
            "checkpoints": {"every": max(1, steps // 2)},
            "samples": {"prompts": [CAPTION], "guidance_scale": 1.0, "sampler": "ddim"},
        }
    )
    losses: list[float] = []

    def report(done: int, numbers: dict[str, float]) -> None:
        losses.append(numbers["loss"])
        say(f"    step {done}: loss {numbers['loss']:.3f}, {numbers['images_per_second']:.0f} images/s")

    with bars() as bar:
        finished = train(config, say=lambda text: None, report=report, progress=bar).finished
    say(f"4/4 drawing {CAPTION!r} with the base and with the adapter")
    base_distance, adapter_distance = compare(folder)
    say(f"trained in {duration(finished.seconds)}; loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    say(f"mean distance to the taught picture: base {base_distance:.3f}, adapter {adapter_distance:.3f} (of 2)")
    say(f"look at {folder / 'result.png'} and {folder / 'run' / 'samples' / 'sheet.png'}")
    say("next: loraloom doctor; loraloom prepare YOUR_PICTURES --out DATASET; loraloom train --dataset DATASET")


def draw_sources(folder: Path) -> None:
    """One picture with its caption under eight names: a step learns it with eight noises."""
    folder.mkdir(parents=True)
    for copy in range(_COPIES):
        draw_house(np.random.default_rng(0), jitter=0).save(folder / f"{copy}.png")
        (folder / f"{copy}.txt").write_text(CAPTION, encoding="utf-8")


def draw_house(rng: np.random.Generator, jitter: float) -> Image.Image:
    """A house below a sun; `jitter` (0 to 1) moves shapes and changes colours."""
    scale = 4  # drawn large and made small: soft edges
    shapes = [
        ("rectangle", (0, 0, 64, 64), (150, 200, 240)), ("rectangle", (0, 44, 64, 64), (90, 160, 80)),
        ("rectangle", (18, 30, 46, 54), (200, 60, 50)), ("polygon", (14, 30, 32, 14, 50, 30), (120, 50, 40)),
        ("rectangle", (28, 40, 36, 54), (70, 40, 30)), ("ellipse", (48, 4, 60, 16), (250, 220, 60)),
    ]  # fmt: skip
    image = Image.new("RGB", (_SIZE_PX * scale, _SIZE_PX * scale))
    draw = ImageDraw.Draw(image)
    for kind, points, colour in shapes:
        dx, dy = rng.integers(-12, 13, 2) * jitter if points[0] else (0, 0)
        moved = [(x + (dx if place % 2 == 0 else dy)) * scale for place, x in enumerate(points)]
        mixed = (1 - jitter) * np.array(colour) + jitter * rng.integers(0, 256, 3)
        getattr(draw, kind)(moved, fill=tuple(int(value) for value in mixed))
    return image.resize((_SIZE_PX, _SIZE_PX), Image.Resampling.LANCZOS)


def fit_autoencoder(base: Path, progress: Progress) -> None:
    """Teach the base's VAE to encode and decode such pictures, and set the scale of its latents to one."""
    model = plugins.load("families", "stable_diffusion").open(ModelSource(str(base)))
    vae = model.module("vae").requires_grad_(True)
    rng = np.random.default_rng(1)
    pictures = np.stack([np.asarray(draw_house(rng, jitter=float(rng.random()))) for _ in range(256)])
    pixels_bchw = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    optimizer = torch.optim.AdamW(vae.parameters(), lr=4e-3, weight_decay=0.0)
    for step in range(_AUTOENCODER_STEPS):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / _AUTOENCODER_STEPS)
        batch_bchw = pixels_bchw[torch.from_numpy(rng.integers(0, len(pixels_bchw), 4))]
        mean_bchw = vae.encode(batch_bchw, return_dict=False)[0].mean
        error = vae.decode(mean_bchw, return_dict=False)[0] - batch_bchw
        (error.abs().mean() + error.square().mean() + 1e-4 * mean_bchw.square().mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
        progress(step + 1, _AUTOENCODER_STEPS)
    with torch.inference_mode():
        scale = float(1 / vae.encode(pixels_bchw, return_dict=False)[0].mean.std())
    vae.register_to_config(scaling_factor=scale)
    vae.save_pretrained(base / "vae")


def compare(folder: Path) -> tuple[float, float]:
    """Draw with and without the adapter, write `result.png`, and return both mean distances to the taught picture.

    Distances are mean absolute differences of pixels in [-1, 1] to what the base's own VAE makes of the picture.
    """
    settings = GenerateConfig(
        num_images=_DRAWN, steps=20, guidance_scale=1.0, sampler="ddim", seed=int(uniform("quickstart") * 1000)
    )
    session = open_session(settings, adapters=[(folder / "run", 1.0)])
    source = folder / "dataset" / "images" / "0.png"
    with torch.inference_mode():
        mean, _ = session.model.encode_images(load_pixels(source)[None])
        target = to_images(session.model, session.model.scale_latents(mean))[0]
    goal = np.asarray(target, np.float32)
    drawn: dict[float, list[Image.Image | None]] = {}
    distances: dict[float, float] = {}
    for weight in (0.0, 1.0):
        session.set_weight(0, weight)
        images = [picture.image for picture in session.draw(session.requests([CAPTION]))]
        drawn[weight] = list(images)
        distances[weight] = float(np.mean([np.abs(np.asarray(i, np.float32) - goal).mean() for i in images]) / 127.5)
    with Image.open(source) as taught:
        rows: list[list[Image.Image | None]] = [[taught.convert("RGB"), target], drawn[0.0], drawn[1.0]]
    names = ["taught picture, and what the base's VAE can show of it", "the base draws", "the adapter draws"]
    contact_sheet(rows, names, [f"{number + 1}" for number in range(_DRAWN)]).save(folder / "result.png")
    return distances[0.0], distances[1.0]

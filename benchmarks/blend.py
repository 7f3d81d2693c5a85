"""Generate a grid of LoRA settings: ours against a plain diffusers script with `set_adapters` in a loop.

In: two LoRAs of one base in the Stable Diffusion 1 layout. Out: images/s of both for a grid of all pairs of scales, the ratio
(median over rounds, the two alternate), how equal the images are (PSNR), and the time to switch to another setting.

    python -m benchmarks.blend                      # two small LoRAs with random weights on builtin:mini
    python -m benchmarks.blend --lora runs/anime --lora runs/watercolor --scales 6 --steps 10
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.recording import machine, write_record
from loraloom.config.generate import GenerateConfig
from loraloom.config.run import LoraConfig
from loraloom.generate.session import Session, open_session
from loraloom.lora.export import export_adapter
from loraloom.lora.files import read_adapter, save_adapter
from loraloom.lora.inject import attach_new
from loraloom.models.loading import open_model
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import ModelSource
from loraloom.utils.rng import normal

PROMPT = "a red house with a tree"
SIZE = 256


def random_lora(folder: Path, seed: int) -> Path:
    """A run folder with a LoRA of rank 16 on cross-attention, random weights of a trained one's size."""
    model = open_model(ModelSource(location="builtin:mini"))
    adapter = attach_new(model, LoraConfig(rank=16), seed=seed)
    rng = torch.Generator().manual_seed(seed)
    for parameter in adapter.parameters.values():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=rng)
    folder.mkdir(parents=True)
    record = {"rank": 16, "alpha": 16.0, "base": {"source": "builtin:mini"}, "size": f"{SIZE}x{SIZE}"}
    save_adapter(folder / "adapter.safetensors", adapter.state(), record)
    return folder


def settings(count: int) -> list[tuple[float, float]]:
    """All pairs of `count` scales from 0.1 to 1."""
    scales = [round(0.1 + 0.9 * n / max(1, count - 1), 3) for n in range(count)]
    return [(first, second) for first in scales for second in scales]


def ours(session: Session, grid: list[tuple[float, float]], template: ImageRequest) -> list[np.ndarray]:
    """The images of the grid as `loraloom grid` makes them."""
    first, second = session.adapters.names
    requests = [replace(template, loras=f"{first}:{a} + {second}:{b}") for a, b in grid]
    return [np.asarray(image.image) for image in session.generate(requests)]


def reference(pipeline: Any, grid: list[tuple[float, float]], template: ImageRequest) -> list[np.ndarray]:
    """The images of the grid as a plain script makes them."""
    images: list[np.ndarray] = []
    for a, b in grid:
        pipeline.set_adapters(["first", "second"], [a, b])
        noise = normal((4, SIZE // 8, SIZE // 8), template.seed, "picture")[None]
        image = pipeline(
            template.prompt,
            num_inference_steps=template.num_steps,
            guidance_scale=template.guidance_scale,
            latents=noise,
            height=SIZE,
            width=SIZE,
        ).images[0]
        images.append(np.asarray(image.convert("RGB")))
    return images


def open_pipeline(session: Session, loras: list[Path], work: Path) -> Any:
    """diffusers' pipeline on the same weights, with both LoRAs loaded by its own loader."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    folder = work / "model"
    session.model.save(folder, "fp32")
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, requires_safety_checker=False, local_files_only=True
    )
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    for name, place in zip(("first", "second"), loras, strict=True):
        file = read_adapter(place)
        export_adapter(session.model, file.layers(session.model), file.record, work / name, name, "fp32")
        pipeline.load_lora_weights(str(work / name), weight_name="pytorch_lora_weights.safetensors", adapter_name=name)
    return pipeline


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 images."""
    error = float(np.mean((one.astype(float) - other.astype(float)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def switch_ms(session: Session, count: int = 20) -> float:
    """Median time to set other scales and merge them, in ms."""
    first, second = session.adapters.names
    times: list[float] = []
    for number in range(count):
        began = time.perf_counter()
        session.adapters.set_scales({first: 0.1 + number / count, second: 1 - number / count})
        session.adapters.merge()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lora", type=Path, action="append", help="two runs; without them two are made")
    parser.add_argument("--scales", type=int, default=6, help="scales of each LoRA: the grid has their square")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        work = Path(text)
        loras = arguments.lora or [random_lora(work / f"lora{seed}", seed) for seed in (1, 2)]
        config = GenerateConfig(steps=arguments.steps, sampler="ddim", guidance_scale=4.0)
        session = open_session(config, adapters=[(place, 1.0) for place in loras], changing=True)
        session.adapters.set_scales(dict.fromkeys(session.adapters.names, 0.0))
        pipeline = open_pipeline(session, loras, work)
        template = ImageRequest(
            prompt=PROMPT,
            num_steps=arguments.steps,
            guidance_scale=4.0,
            sampler="ddim",
            width=SIZE,
            height=SIZE,
            loras="",
        )
        grid = settings(arguments.scales)
        ours(session, grid[:1], template)
        reference(pipeline, grid[:1], template)
        rows: list[tuple[float, float]] = []
        equal: list[float] = []
        for _ in range(arguments.rounds):
            began = time.perf_counter()
            mine = ours(session, grid, template)
            between = time.perf_counter()
            theirs = reference(pipeline, grid, template)
            rows.append((len(grid) / (between - began), len(grid) / (time.perf_counter() - between)))
            equal = [psnr(a, b) for a, b in zip(mine, theirs, strict=True)]
        result = {
            "machine": machine(),
            "images": len(grid),
            "steps": arguments.steps,
            "ours_images_per_s": statistics.median(row[0] for row in rows),
            "diffusers_images_per_s": statistics.median(row[1] for row in rows),
            "ratio": statistics.median(row[0] / row[1] for row in rows),
            "lowest_psnr_db": min(equal),
            "switch_ms": switch_ms(session),
        }
    print(json.dumps(result, indent=1))
    if arguments.json:
        write_record(arguments.json, result)


if __name__ == "__main__":
    main()

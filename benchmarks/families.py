"""LoRA training of every family against diffusers' own loop, and what a family costs in code.

Same random weights, images, captions, batch, LoRA layers and rank, optimizer, precision. Three sides, each a process of its
own, in turn; medians of the ratios of each round are printed:

    ours     `loraloom train` from a prepared dataset: latents and prompt embeddings cached, then the training loop
    script   diffusers' example script of that family written plainly: images and captions are encoded at every step
             (train_text_to_image_lora.py, train_text_to_image_lora_sdxl.py); where diffusers has none, the same loop
    cached   the same loop with latents and prompt embeddings computed once and the encoders deleted

Reduced shapes that a laptop's CPU trains: about a quarter of the usual base's widths, fewer layers where it has many. Speed is
images for each second of CPU time of the process, so that other work on the machine counts little.

    python -m benchmarks.families --json benchmarks/results/families_cpu.json
    python -m benchmarks.families --device cuda --real-shapes --json benchmarks/results/families_cuda.json

With --real-shapes (or --steps-only for reduced ones) only the step is measured, on random latents and embeddings in the real
config's shapes, bf16 on a GPU: the library's step and the plain loop, with and without torch.compile, gradient checkpointing
and block swap; images/s, peak memory, and the share of the device's peak FLOP/s (MFU) where that is known.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.recording import machine, write_record
from loraloom import plugins
from loraloom.protocols.family_card import FamilyCard

SOURCE = Path(__file__).parents[1] / "src" / "loraloom"
SIDES = ("ours", "script", "cached")
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Dense bf16 FLOP/s as the makers state them, by a part of the device's name."""

_VAE = {"block_out_channels": [32, 64, 128, 128]}
_CLIP = {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 4, "projection_dim": 192}
_T5 = {"d_model": 512, "d_ff": 1280, "d_kv": 64, "num_heads": 8, "num_layers": 6}
_QWEN = {
    "hidden_size": 320, "intermediate_size": 1216, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 40,
}  # fmt: skip
REDUCED: dict[str, dict[str, dict[str, Any]]] = {
    "stable_diffusion": {
        "unet": {
            "block_out_channels": [80, 160, 320, 320], "cross_attention_dim": 192, "norm_num_groups": 16,
            "attention_head_dim": 4,
        },
        "vae": _VAE,
        "text_encoder": _CLIP,
    },
    "sdxl": {
        "unet": {
            "block_out_channels": [80, 160, 320], "cross_attention_dim": 320, "norm_num_groups": 16,
            "attention_head_dim": [2, 4, 8], "transformer_layers_per_block": [1, 2, 4], "addition_time_embed_dim": 32,
            "projection_class_embeddings_input_dim": 320,
        },
        "vae": _VAE,
        "text_encoder": _CLIP,
        "text_encoder_2": {
            "hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "num_hidden_layers": 12,
            "projection_dim": 128,
        },
    },
    "hunyuan_dit": {
        "transformer": {
            "num_attention_heads": 8, "attention_head_dim": 44, "hidden_size": 352, "num_layers": 12,
            "cross_attention_dim": 192, "cross_attention_dim_t5": 256,
        },
        "vae": _VAE,
        "text_encoder": {
            "hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 4, "num_hidden_layers": 12,
        },
        "text_encoder_2": {"d_model": 256, "d_ff": 640, "d_kv": 32, "num_heads": 8, "num_layers": 12},
    },
    "sd3": {
        "transformer": {
            "num_attention_heads": 6, "attention_head_dim": 64, "caption_projection_dim": 384, "num_layers": 8,
            "dual_attention_layers": [0, 1, 2], "joint_attention_dim": 512, "pooled_projection_dim": 384,
        },
        "vae": _VAE,
        "text_encoder": _CLIP,
        "text_encoder_2": {
            "hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 4, "num_hidden_layers": 12,
            "projection_dim": 192,
        },
        "text_encoder_3": _T5,
    },
    "flux": {
        "transformer": {
            "num_attention_heads": 6, "attention_head_dim": 64, "axes_dims_rope": [8, 28, 28], "num_layers": 4,
            "num_single_layers": 8, "joint_attention_dim": 512, "pooled_projection_dim": 192,
        },
        "vae": _VAE,
        "text_encoder": _CLIP,
        "text_encoder_2": _T5,
    },
    "z_image": {
        "transformer": {
            "dim": 480, "n_heads": 8, "n_kv_heads": 8, "axes_dims": [20, 20, 20], "n_layers": 8, "n_refiner_layers": 2,
            "cap_feat_dim": 320,
        },
        "vae": _VAE,
        "text_encoder": {**_QWEN, "num_hidden_layers": 12},
    },
    "flux2_klein": {
        "transformer": {
            "num_attention_heads": 6, "attention_head_dim": 64, "axes_dims_rope": [16, 16, 16, 16], "num_layers": 3,
            "num_single_layers": 6, "joint_attention_dim": 960,
        },
        "vae": _VAE,
        "text_encoder": {**_QWEN, "num_hidden_layers": 27},
    },
}  # fmt: skip
"""What the reduced base changes in the configs of a family's card, by part."""
REDUCED_TEXTS: dict[str, dict[str, tuple[int, ...]]] = {
    "stable_diffusion": {"hidden": (1, 77, 192)},
    "sdxl": {"hidden": (1, 77, 320), "pooled": (128,)},
    "hunyuan_dit": {"clip": (77, 192), "t5": (256, 256)},
    "sd3": {"clip": (77, 384), "pooled": (384,), "t5": (256, 512)},
    "flux": {"pooled": (192,), "t5": (512, 512)},
    "z_image": {"text": (64, 320)},
    "flux2_klein": {"text": (512, 960)},
}
"""Shapes of its prompt embeddings that differ from the card's."""


def reduced(name: str, card: FamilyCard) -> FamilyCard:
    """A card whose base is small enough for a CPU."""
    changes = {f"{part}/config.json": values for part, values in REDUCED[name].items()}
    configs = {file: {**config, **changes.get(file, {})} for file, config in card.configs.items()}
    texts = {key: replace(card.text_tensors[key], shape=shape) for key, shape in REDUCED_TEXTS[name].items()}
    return replace(card, configs=configs, text_tensors={**card.text_tensors, **texts})


# ------------------------------------------------------------------------------------------------ the plain loop


@dataclass(frozen=True)
class PlainLoop:
    """diffusers' training loop of one family.

    Attributes:
        pipeline: Name of the pipeline in diffusers.
        denoiser: Its part that learns.
        flow: Whether it is trained by rectified flow.
        target: Pattern of the layers that learn.
    """

    pipeline: str
    denoiser: str = "unet"
    flow: bool = False
    target: str = r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"

    def latents(self, vae: Any, pixels: Any) -> Any:
        """Latents of images as the script computes them."""
        raw = vae.encode(pixels).latent_dist.sample()
        return (raw - (vae.config.get("shift_factor") or 0)) * vae.config.scaling_factor

    def encode(self, pipe: Any, prompts: list[str]) -> dict[str, Any]:
        """Prompt embeddings as the script computes them."""
        return {"hidden": pipe.encode_prompt(prompts, pipe.device, 1, False)[0]}

    def predict(self, denoiser: Any, noisy: Any, timesteps: Any, text: Mapping[str, Any], size_px: int) -> Any:
        """The denoiser's answer."""
        return denoiser(noisy, timesteps, text["hidden"].flatten(1, -2), return_dict=False)[0]


class SdxlLoop(PlainLoop):
    def encode(self, pipe: Any, prompts: list[str]) -> dict[str, Any]:
        found = pipe.encode_prompt(prompts, device=pipe.device, do_classifier_free_guidance=False)
        return {"hidden": found[0], "pooled": found[2]}

    def predict(self, denoiser: Any, noisy: Any, timesteps: Any, text: Mapping[str, Any], size_px: int) -> Any:
        import torch

        sizes = torch.tensor([[size_px, size_px, 0, 0, size_px, size_px]] * len(noisy), device=noisy.device)
        added = {"text_embeds": text["pooled"], "time_ids": sizes.to(text["pooled"].dtype)}
        hidden = text["hidden"].flatten(1, -2)
        return denoiser(noisy, timesteps, hidden, added_cond_kwargs=added, return_dict=False)[0]


class HunyuanLoop(PlainLoop):
    def encode(self, pipe: Any, prompts: list[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for index, name in enumerate(("clip", "t5")):
            encoded = pipe.encode_prompt(prompts, pipe.device, None, 1, False, text_encoder_index=index)
            found |= {name: encoded[0], f"{name}_mask": encoded[2]}
        return found

    def predict(self, denoiser: Any, noisy: Any, timesteps: Any, text: Mapping[str, Any], size_px: int) -> Any:
        from diffusers.models.embeddings import get_2d_rotary_pos_embed
        from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid

        cells = noisy.shape[-1] // 2
        head = denoiser.config.attention_head_dim
        region = get_resize_crop_region_for_grid((cells, cells), 32)
        rotary = get_2d_rotary_pos_embed(head, region, (cells, cells), device=noisy.device, output_type="pt")
        return denoiser(
            noisy, timesteps.float(), encoder_hidden_states=text["clip"], text_embedding_mask=text["clip_mask"],
            encoder_hidden_states_t5=text["t5"], text_embedding_mask_t5=text["t5_mask"], image_rotary_emb=rotary,
            return_dict=False,
        )[0][:, :4]  # fmt: skip


_JOINT = r".*attn2?\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"


class Sd3Loop(PlainLoop):
    """train_dreambooth_lora_sd3.py, with the text's projections of every block too."""

    def encode(self, pipe: Any, prompts: list[str]) -> dict[str, Any]:
        found = pipe.encode_prompt(prompts, None, None, do_classifier_free_guidance=False)
        return {"joint": found[0], "pooled": found[2]}

    def predict(self, denoiser: Any, noisy: Any, timesteps: Any, text: Mapping[str, Any], size_px: int) -> Any:
        import torch

        joint = text.get("joint")
        if joint is None:  # steps alone: our own tensors
            clip = torch.nn.functional.pad(text["clip"], (0, text["t5"].shape[-1] - text["clip"].shape[-1]))
            joint = torch.cat([clip, text["t5"]], dim=1)
        return denoiser(noisy, joint, text["pooled"], timesteps, return_dict=False)[0]


class FluxLoop(PlainLoop):
    """train_dreambooth_lora_flux.py with a guidance of 1."""

    def encode(self, pipe: Any, prompts: list[str]) -> dict[str, Any]:
        t5, pooled, _ = pipe.encode_prompt(prompts)
        return {"t5": t5, "pooled": pooled}

    def predict(self, denoiser: Any, noisy: Any, timesteps: Any, text: Mapping[str, Any], size_px: int) -> Any:
        import torch
        from diffusers.pipelines.flux.pipeline_flux import FluxPipeline

        pipe: Any = FluxPipeline
        batch, channels, height, width = noisy.shape
        ids = pipe._prepare_latent_image_ids(batch, height // 2, width // 2, noisy.device, noisy.dtype)
        packed = denoiser(
            pipe._pack_latents(noisy, batch, channels, height, width), text["t5"], text["pooled"], timesteps / 1000, ids,
            torch.zeros(text["t5"].shape[1], 3, device=noisy.device), torch.ones(batch, device=noisy.device),
            return_dict=False,
        )[0]  # fmt: skip
        return pipe._unpack_latents(packed, 8 * height, 8 * width, 8)


class ZImageLoop(PlainLoop):
    """train_dreambooth_lora_z_image.py: reversed time, negated output."""

    def encode(self, pipe: Any, prompts: list[str]) -> dict[str, Any]:
        return {"text": pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False)[0]}

    def predict(self, denoiser: Any, noisy: Any, timesteps: Any, text: Mapping[str, Any], size_px: int) -> Any:
        import torch

        answers = denoiser(
            list(noisy.unsqueeze(2).unbind(0)), (1000 - timesteps) / 1000, list(text["text"]), return_dict=False
        )[0]
        return -torch.stack(answers).squeeze(2)


class KleinLoop(PlainLoop):
    """train_dreambooth_lora_flux2_klein.py: latents in patches, normalised by the VAE's batch norm."""

    def latents(self, vae: Any, pixels: Any) -> Any:
        import torch

        patches = torch.nn.functional.pixel_unshuffle(vae.encode(pixels).latent_dist.sample(), 2)
        std = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
        return (patches - vae.bn.running_mean[:, None, None]) / std[:, None, None]

    def encode(self, pipe: Any, prompts: list[str]) -> dict[str, Any]:
        return {"text": pipe.encode_prompt(prompts)[0]}

    def predict(self, denoiser: Any, noisy: Any, timesteps: Any, text: Mapping[str, Any], size_px: int) -> Any:
        from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline

        pipe: Any = Flux2KleinPipeline
        answer = denoiser(
            pipe._pack_latents(noisy), text["text"], timesteps / 1000, pipe._prepare_latent_ids(noisy).to(noisy.device),
            pipe._prepare_text_ids(text["text"]).to(noisy.device), None, return_dict=False,
        )[0]  # fmt: skip
        return answer.transpose(1, 2).unflatten(2, noisy.shape[2:])


LOOPS = {
    "stable_diffusion": PlainLoop("StableDiffusionPipeline"),
    "sdxl": SdxlLoop("StableDiffusionXLPipeline"),
    "hunyuan_dit": HunyuanLoop("HunyuanDiTPipeline", "transformer"),
    "sd3": Sd3Loop("StableDiffusion3Pipeline", "transformer", True, rf"(?!.*\.7\.attn\.add_q_proj){_JOINT}"),
    "flux": FluxLoop("FluxPipeline", "transformer", True, _JOINT),
    "z_image": ZImageLoop("ZImagePipeline", "transformer", True, r".*attention\.(to_q|to_k|to_v|to_out\.0)"),
    "flux2_klein": KleinLoop(
        "Flux2KleinPipeline",
        "transformer",
        True,
        rf"{_JOINT}|single_transformer_blocks.*attn\.(to_qkv_mlp_proj|to_out)",
    ),
}


def plain_training(name: str, model: Path, images: Path, args: argparse.Namespace, *, cached: bool) -> dict[str, float]:
    """diffusers' loop from a folder of images to the last step."""
    import diffusers
    import numpy as np
    import torch
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from peft import LoraConfig, inject_adapter_in_model
    from PIL import Image

    from loraloom.train.distributed import process_peak_mib

    loop = LOOPS[name]
    pipe: Any = getattr(diffusers, loop.pipeline).from_pretrained(model, torch_dtype=torch.float32)
    vae, denoiser = pipe.vae, getattr(pipe, loop.denoiser)
    scheduler: Any = None if loop.flow else DDPMScheduler.from_config(pipe.scheduler.config)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules=loop.target), denoiser)
    learning = [weight for weight in denoiser.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4)
    denoiser.train()
    rows = [json.loads(line) for line in (images / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]

    def pixels(row: dict[str, str]) -> Any:
        array = np.asarray(Image.open(images / row["file_name"]).convert("RGB"))
        return torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 127.5 - 1

    @torch.no_grad()
    def encoded(batch: list[dict[str, str]]) -> tuple[Any, dict[str, Any]]:
        latents = loop.latents(vae, torch.stack([pixels(row) for row in batch]))
        return latents, loop.encode(pipe, [row["text"] for row in batch])

    batches = [rows[start : start + args.batch] for start in range(0, len(rows), args.batch)]
    kept = [encoded(batch) for batch in batches] if cached else []
    if cached:
        del vae, pipe
    seconds: list[float] = []
    for step in range(args.steps):
        began = time.process_time()
        latents, text = kept[step % len(batches)] if cached else encoded(batches[step % len(batches)])
        noise = torch.randn_like(latents)
        if loop.flow:
            timesteps = 1000 * torch.rand(len(latents))
            shares = (timesteps / 1000)[:, None, None, None]
            noisy, target = (1 - shares) * latents + shares * noise, noise - latents
        else:
            timesteps = torch.randint(1000, (len(latents),))
            noisy = scheduler.add_noise(latents, noise, timesteps)
            velocity = scheduler.config.prediction_type == "v_prediction"
            target = scheduler.get_velocity(latents, noise, timesteps) if velocity else noise
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
            answer = loop.predict(denoiser, noisy, timesteps, text, args.size)
        torch.nn.functional.mse_loss(answer.float(), target).backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - began)
    return {"images_per_cpu_second": args.batch / statistics.mean(seconds[args.warm :]), "peak_mib": process_peak_mib()}


def our_training(model: Path, dataset: Path, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """`loraloom train`, samples and the check of exports off."""
    from loraloom.config.run import RunConfig
    from loraloom.train.distributed import process_peak_mib
    from loraloom.train.run import train

    config = RunConfig.model_validate(
        {
            "model": {"source": str(model)},
            "data": {"dataset": str(dataset), "batch_size": args.batch, "cache_dir": str(folder / "cache"),
                     "caption_dropout": 0.0},
            "lora": {"rank": args.rank, "target": "attention"},
            "train": {"output": str(folder / "run"), "max_steps": args.steps, "log_every": 1,
                      "mixed_precision": args.precision, "validation_every": 0},
            "checkpoints": {"every": 0},
            "samples": {"enabled": False},
            "export": {"verify": False},
        }
    )  # fmt: skip
    times: list[float] = []
    train(config, say=lambda line: None, report=lambda step, numbers: times.append(time.process_time()))
    seconds = (times[-1] - times[args.warm - 1]) / (args.steps - args.warm)
    return {"images_per_cpu_second": args.batch / seconds, "peak_mib": process_peak_mib()}


def random_base(name: str, card: FamilyCard, folder: Path) -> None:
    """Write the base of a card with random weights."""
    import torch

    from loraloom.models.reference import reference_model

    with reference_model(name, card) as model:
        for part in model.info.parts:
            torch.manual_seed(0)
            build: Any = model.modules
            model.modules.put(part.name, build._build(part.name))
        model.save(folder, "fp32")


# ------------------------------------------------------------------------------------------------------ steps alone


def steps_alone(name: str, card: FamilyCard, args: argparse.Namespace, mode: Mapping[str, Any]) -> dict[str, Any]:
    """One side's step on random latents and embeddings: images/s, peak memory, MFU."""
    import torch

    from loraloom.config.run import LoraConfig
    from loraloom.lora.inject import attach_new
    from loraloom.models.reference import reference_model
    from loraloom.protocols.model import ImageGeometry
    from loraloom.train.distributed import process_peak_mib
    from loraloom.train.memory import example_texts

    device, size_px = torch.device(args.device), args.size or card.size_px
    cuda = device.type == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    with reference_model(name, card) as model:
        part = model.info.denoiser.name
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        build: Any = model.modules
        with torch.device("cpu" if mode["block_swap"] else device):
            model.modules.put(part, build._build(part).requires_grad_(False))
        torch.set_default_dtype(torch.float32)
        adapter = attach_new(model, LoraConfig(rank=args.rank, target="attention"), seed=0)
        if mode["block_swap"]:
            model.modules.swap_blocks(part, device, mode["block_swap"])
        if mode["checkpointing"]:
            model.modules.checkpoint_gradients(part)
        denoiser: Any = model.modules.get(part).train()
        if mode["compile"]:
            denoiser.compile(dynamic=False)
        learning = list(adapter.parameters.values())
        optimizer = torch.optim.AdamW(learning, lr=1e-4, fused=cuda)
        prompts = [example_texts(card.text_tensors, dtype)] * args.batch
        size = (size_px, size_px)
        place = ImageGeometry(original=size, crop=(0, 0), target=size)
        given = {n: t.to(device) for n, t in model.condition(prompts, [place] * args.batch, None).items()}
        plain = {n: torch.stack([one[n] for one in prompts]).to(device) for n in prompts[0]}
        cells = size_px // model.info.vae_scale_factor
        latents = torch.randn(args.batch, model.info.latent_channels, cells, cells, device=device)
        timesteps = torch.full((args.batch,), 500.0, device=device)

        def step() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
                if mode["side"] == "ours":
                    answer = model.predict(latents, timesteps, given)
                else:
                    answer = LOOPS[name].predict(denoiser, latents, timesteps, plain, size_px)
            answer.float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        flops = None if mode["compile"] else flops_of(step)
        for _ in range(args.warm):
            step()
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        for _ in range(args.steps):
            step()
        if cuda:
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - began) / args.steps
        peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else process_peak_mib()
    found = next((top for key, top in PEAK_FLOPS.items() if cuda and key in torch.cuda.get_device_name()), None)
    return {
        "images_per_second": args.batch / seconds,
        "peak_mib": peak,
        "tflops_a_step": flops / 1e12 if flops else None,
        "mfu": flops / seconds / found if flops and found else None,
    }


def flops_of(step: Any) -> float:
    """Floating point operations of one step, recomputed ones counted."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        step()
    return float(counter.get_total_flops())


# ------------------------------------------------------------------------------------------------------------- runs


def cost(name: str) -> dict[str, int]:
    """Files and lines of a family's folder, and lines of shared code that name it."""
    files = sorted((SOURCE / "extensions" / "families" / name).rglob("*.py"))
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
    shared = [file for file in SOURCE.rglob("*.py") if "extensions" not in file.relative_to(SOURCE).parts]
    elsewhere = sum(len(re.findall(rf"\b{name}\b", file.read_text(encoding="utf-8"))) for file in shared)
    return {"files": len(files), "lines": lines, "lines_elsewhere": elsewhere}


def child(arguments: list[str]) -> dict[str, Any]:
    """Run this module as a process of its own; its last line is the result."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.families", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def whole_runs(name: str, card: FamilyCard, args: argparse.Namespace, common: list[str]) -> dict[str, Any]:
    """All sides of one family in turn."""
    from benchmarks.training_speed import make_images
    from loraloom.config.prepare import PrepareConfig
    from loraloom.prepare.run import prepare

    rows: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        random_base(name, reduced(name, card), folder / "model")
        make_images(folder / "images", args.images, args.size)
        settings = PrepareConfig(size=args.size, validation_share=0, num_workers=1)
        prepare(folder / "images", folder / "dataset", settings, console=lambda line: None)
        for number in range(args.rounds):
            for side in SIDES:
                rows[side].append(child([*common, "--family", name, "--side", side, "--work", place]))
            said = ", ".join(f"{side} {rows[side][-1]['images_per_cpu_second']:.2f}" for side in SIDES)
            print(f"{name}, round {number + 1}: images a CPU second: {said}", flush=True)
    median = {
        f"{key}_ours_to_{side}": statistics.median(
            one[key] / other[key] for one, other in zip(rows["ours"], rows[side], strict=True)
        )
        for key in ("images_per_cpu_second", "peak_mib")
        for side in ("script", "cached")
    }
    print(f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in median.items()), flush=True)
    return {"reduced": REDUCED[name], "rounds": rows, "median": median}


MODES = [
    {"side": side, "compile": compiled, "checkpointing": checkpointing, "block_swap": swap}
    for side in ("ours", "plain")
    for compiled, checkpointing, swap in (
        (False, False, 0.0), (True, False, 0.0), (False, True, 0.0), (False, False, 0.9),
    )
    if side == "ours" or not (swap or checkpointing)
]  # fmt: skip


def step_runs(name: str, args: argparse.Namespace, common: list[str]) -> list[dict[str, Any]]:
    """Every mode of one family, each in its own process, so that peaks are its own."""
    found: list[dict[str, Any]] = []
    for mode in MODES:
        if args.device == "cpu" and (mode["compile"] or mode["block_swap"]):
            continue
        result = child([*common, "--family", name, "--mode", json.dumps(mode)])
        found.append({**mode, **result})
        print(name, json.dumps(found[-1]), flush=True)
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", action="append", help="repeat for several [default: all that exist]")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--real-shapes", action="store_true", help="steps alone, in the real configs' shapes")
    parser.add_argument("--steps-only", action="store_true", help="steps alone, in reduced shapes")
    parser.add_argument("--size", type=int, help="side, pixels [default: 128, or the family's own with --real-shapes]")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warm", type=int, default=3, help="first steps that are not counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="no", choices=["no", "bf16"])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    for internal in ("--side", "--work", "--mode"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.size is None and not args.real_shapes:
        args.size = 128
    return args


def main() -> None:
    args = arguments()
    families = [
        name for name in plugins.names("families") if name in LOOPS and (not args.family or name in args.family)
    ]
    cards = {name: card for name in families if (card := plugins.load_card(name)) is not None}
    if args.side:
        folder, name = Path(args.work), families[0]
        if args.side == "ours":
            with tempfile.TemporaryDirectory() as place:
                result = our_training(folder / "model", folder / "dataset", Path(place), args)
        else:
            cached = args.side == "cached"
            result = plain_training(name, folder / "model", folder / "images", args, cached=cached)
        print(json.dumps(result))
        return
    if args.mode:
        card = cards[families[0]]
        card = card if args.real_shapes else reduced(families[0], card)
        print(json.dumps(steps_alone(families[0], card, args, json.loads(args.mode))))
        return
    keys = ("size", "batch", "rank", "images", "steps", "warm", "precision", "device")
    common = [f"--{key}={getattr(args, key)}" for key in keys if getattr(args, key) is not None]
    common += [f"--{key.replace('_', '-')}" for key in ("real_shapes", "steps_only") if getattr(args, key)]
    alone = args.real_shapes or args.steps_only
    record: dict[str, Any] = {
        "machine": machine(),
        "settings": {key: getattr(args, key) for key in (*keys, "rounds", "real_shapes")},
        "families": {},
    }
    for name, card in cards.items():
        found = {"steps": step_runs(name, args, common)} if alone else whole_runs(name, card, args, common)
        record["families"][name] = {"cost": cost(name), **found}
        print(f"{name}: {json.dumps(record['families'][name]['cost'])}", flush=True)
    if args.json:
        write_record(args.json, record)


if __name__ == "__main__":
    main()

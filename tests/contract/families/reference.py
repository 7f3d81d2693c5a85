"""How images of `tiny_flow` are drawn, written as one plain loop: the reference that the shared code is compared with."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from loraloom.protocols.generation import ImageRequest
from tests.contract.families.tiny_flow import BLOCKS, FACTOR, FOLDERS, KINDS, LONG, WINDOW, pack, time_shift, unpack


@torch.inference_mode()
def draw(folder: Path, request: ImageRequest, noise_bchw: Tensor, adapter: Path | None = None) -> Tensor:
    """(1, c, h, w) latents of a request from that first noise."""
    parts: dict[str, Any] = {}
    for part, kind in KINDS.items():
        parts[part] = kind()
        parts[part].load_state_dict(load_file(folder / FOLDERS[part] / "model.safetensors"))
    if adapter:
        add(parts, load_file(adapter))
    text = request.prompt.encode()
    first = text[: WINDOW - 2]
    pooled = parts["text_encoder"](torch.tensor([[256, *first, 257] + [258] * (WINDOW - 2 - len(first))]))
    kept = text[:LONG]
    states = parts["text_encoder_2"](torch.tensor([[*kept] + [258] * (LONG - len(kept))]))
    mask = torch.tensor([[True] * len(kept) + [False] * (LONG - len(kept))])
    size = torch.tensor([[request.width, request.height, 0, 0, request.width, request.height]]) / 1024
    height, width = request.height // FACTOR, request.width // FACTOR
    shift = time_shift(request.height, request.width)
    latents = noise_bchw.clone()
    for step in range(request.num_steps):
        now, then = (1 - (step + k) / request.num_steps for k in (0, 1))
        now, then = (shift * time / (1 + (shift - 1) * time) for time in (now, then))
        answer = parts["transformer"](
            pack(latents), torch.tensor([now]), torch.tensor([request.guidance_scale]), pooled, size, states, mask
        )
        latents = latents + (then - now) * unpack(answer, height, width).chunk(2, dim=1)[0]
    return latents


def add(parts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Add an adapter to the weights: diffusers' names, or kohya's with q, k and v of a block in one."""
    for part, folder in FOLDERS.items():
        modules = dict(parts[part].named_modules())
        for name, module in modules.items():
            stem = f"{folder}.{name}"
            if f"{stem}.lora_A.weight" in tensors:
                module.weight += tensors[f"{stem}.lora_B.weight"].float() @ tensors[f"{stem}.lora_A.weight"].float()
    prefixes = {"transformer": "lora_unet", "text_encoder": "lora_te1"}
    for part, prefix in prefixes.items():
        for name, module in dict(parts[part].named_modules()).items():
            stem = f"{prefix}_{name.replace('.', '_')}"
            if f"{stem}.alpha" in tensors:
                module.weight += change(tensors, stem)
    for block in range(BLOCKS):
        stem = f"lora_unet_blocks_{block}_attn_qkv"
        if f"{stem}.alpha" in tensors:
            attention = parts["transformer"].blocks[block].attn
            for layer, rows in zip(
                (attention.to_q, attention.to_k, attention.to_v), change(tensors, stem).chunk(3), strict=True
            ):
                layer.weight += rows


def change(tensors: dict[str, Tensor], stem: str) -> Tensor:
    """The update of one layer in kohya's layout."""
    down, up = tensors[f"{stem}.lora_down.weight"].float(), tensors[f"{stem}.lora_up.weight"].float()
    return float(tensors[f"{stem}.alpha"]) / down.shape[0] * (up @ down)

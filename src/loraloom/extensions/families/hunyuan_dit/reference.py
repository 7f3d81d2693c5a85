"""Images of diffusers' own HunyuanDiT pipeline, with an adapter added to its weights: the reference of exports.

In: a fresh pipeline, an exported file. Out: its latents. Each key format is read here by a plain map of its own, which shares
nothing with the code that wrote the file: diffusers' names are the modules' names; Tencent's and kohya's names go through
the map of diffusers' `convert_hunyuandit_to_diffusers.py`, fused layers by rows.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loraloom.extensions.families.hunyuan_dit.limits import CLIP_TOKENS
from loraloom.protocols.generation import ImageRequest
from loraloom.utils.errors import UserError
from loraloom.utils.quiet import quiet
from loraloom.utils.safetensors_io import read_tensors

_ROWS = {"Wqkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"), "kv_proj": ("attn2.to_k", "attn2.to_v")}
_WHOLE = {
    "attn1.out_proj": "attn1.to_out.0",
    "attn2.q_proj": "attn2.to_q",
    "attn2.out_proj": "attn2.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "default_modulation.1": "norm1.linear",
    "skip_linear": "skip_linear",
}
_OUTER = {
    "x_embedder.proj": "pos_embed.proj",
    "mlp_t5.0": "text_embedder.linear_1",
    "mlp_t5.2": "text_embedder.linear_2",
    "t_embedder.mlp.0": "time_extra_emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_extra_emb.timestep_embedder.linear_2",
    "extra_embedder.0": "time_extra_emb.extra_embedder.linear_1",
    "extra_embedder.2": "time_extra_emb.extra_embedder.linear_2",
    "pooler.q_proj": "time_extra_emb.pooler.q_proj",
    "final_layer.linear": "proj_out",
}


def targets(num_blocks: int) -> dict[str, list[str]]:
    """Tencent's name of every layer to the modules of `HunyuanDiT2DModel` that its rows are."""
    found = {theirs: [ours] for theirs, ours in _OUTER.items()}
    for block in range(num_blocks):
        place = f"blocks.{block}"
        found.update({f"{place}.{theirs}": [f"{place}.{ours}"] for theirs, ours in _WHOLE.items()})
        found.update(
            {
                f"{place}.{'attn1' if one == 'Wqkv' else 'attn2'}.{one}": [f"{place}.{member}" for member in members]
                for one, members in _ROWS.items()
            }
        )
    return found


@torch.no_grad()
def add_adapter(pipeline: Any, file: Path) -> None:
    """Add every layer of a file to the weights of a pipeline.

    Raises:
        UserError: A key means no layer of the pipeline.
    """
    tensors, _ = read_tensors(file)
    stems = stem_map(pipeline)
    used: set[str] = set()
    for stem, layers in stems.items():
        for down_name, up_name in ((".lora_A.weight", ".lora_B.weight"), (".lora_down.weight", ".lora_up.weight")):
            if stem + down_name not in tensors:
                continue
            down, up = tensors[stem + down_name].float(), tensors[stem + up_name].float()
            alpha = float(tensors[f"{stem}.alpha"]) if f"{stem}.alpha" in tensors else down.shape[0]
            change = alpha / down.shape[0] * (up.flatten(1) @ down.flatten(1))
            for layer, rows in zip(layers, change.split([layer.weight.shape[0] for layer in layers]), strict=True):
                layer.weight += rows.reshape(layer.weight.shape)
            used |= {stem + down_name, stem + up_name, f"{stem}.alpha"}
    if unknown := sorted(tensors.keys() - used):
        raise UserError(f"{file.name} has keys that mean no layer", got=unknown[0], fix="this is a fault of the export")


def stem_map(pipeline: Any) -> dict[str, list[Any]]:
    """Stem of every key, in each key format, to the layers of a pipeline."""
    found: dict[str, list[Any]] = {}
    for component, prefix in (("transformer", "lora_unet"), ("text_encoder", "lora_te1")):
        modules = dict(getattr(pipeline, component).named_modules())
        layers = {name: module for name, module in modules.items() if isinstance(module, (nn.Linear, nn.Conv2d))}
        found.update({f"{component}.{name}": [layer] for name, layer in layers.items()})
        if component == "text_encoder":
            found.update({f"{prefix}_{name.replace('.', '_')}": [layer] for name, layer in layers.items()})
            continue
        for theirs, ours in targets(len(pipeline.transformer.blocks)).items():
            if not all(name in layers for name in ours):
                continue
            found[f"base_model.model.{theirs}"] = [layers[name] for name in ours]
            found[f"{prefix}_{theirs.replace('.', '_')}"] = [layers[name] for name in ours]
    return found


@torch.inference_mode()
def sample(pipeline: Any, request: ImageRequest, noise_bchw: Tensor, num_windows: int = 1) -> Tensor:
    """(1, c, h, w) float32 latents of a request from that first noise.

    The pipeline would make 1024 x 1024 of smaller images (`use_resolution_binning`), and takes sizes as (height, width)
    where Tencent's code and ours have (width, height). With several windows of the first encoder it is given the prompt's
    one window, the others masked, and its learned padding rows are repeated.
    """
    pipeline.set_progress_bar_config(disable=True)
    size = (request.width, request.height)
    texts: dict[str, Any] = {"prompt": request.prompt, "negative_prompt": request.negative_prompt}
    if num_windows > 1:
        texts = _windowed(pipeline, request, num_windows)
    with quiet():
        return pipeline(
            **texts,
            num_inference_steps=request.num_steps,
            guidance_scale=request.guidance_scale,
            width=request.width,
            height=request.height,
            latents=noise_bchw.clone(),
            output_type="latent",
            use_resolution_binning=False,
            original_size=size,
            target_size=size,
        ).images.float()


def _windowed(pipeline: Any, request: ImageRequest, num_windows: int) -> dict[str, Any]:
    """Arguments of the pipeline in place of the two prompts; its padding rows are changed."""
    rows = pipeline.transformer.text_embedding_padding.data
    repeated = [rows[:1], *[rows[1 : CLIP_TOKENS - 1]] * num_windows, rows[CLIP_TOKENS - 1 :]]
    pipeline.transformer.text_embedding_padding = nn.Parameter(torch.cat(repeated), requires_grad=False)
    given: dict[str, Any] = {"prompt": None}
    more = (CLIP_TOKENS - 2) * (num_windows - 1) + 1
    for index, end in enumerate(("", "_2")):
        found = pipeline.encode_prompt(
            request.prompt,
            torch.device("cpu"),
            torch.float32,
            negative_prompt=request.negative_prompt,
            text_encoder_index=index,
        )
        if not index:
            found = [nn.functional.pad(one[:, : CLIP_TOKENS - 1], (0, 0) * (one.ndim - 2) + (0, more)) for one in found]
        given[f"prompt_embeds{end}"], given[f"negative_prompt_embeds{end}"] = found[:2]
        given[f"prompt_attention_mask{end}"], given[f"negative_prompt_attention_mask{end}"] = found[2:]
    return given

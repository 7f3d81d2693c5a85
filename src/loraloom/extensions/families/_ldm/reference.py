"""The same image by diffusers' own pipeline: the proof of exports and of our own loop.

In: a pipeline class, the files of a model, a request. Out: latents.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loraloom.extensions.families._diffusers.samplers import make_sampler
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import ModelFiles
from loraloom.utils.quiet import quiet


def fresh_pipeline(pipeline_class: Callable[[], Any], files: ModelFiles, **parts: Any) -> Any:
    """A diffusers pipeline with its own copy of all weights, float32 on the CPU.

    Left alone, transformers 5 keeps a text encoder in the precision that its file has.

    Args:
        pipeline_class: Imports the class of the pipeline; its imports warn about libraries that are not used here.
        files: Files of the model.
        parts: Components that do not come from these files: a module, or None where the pipeline is to do without.
    """
    folder, file = str(files.folder), files.single_file
    with quiet():
        kind = pipeline_class()
        if file is not None:
            pipeline = kind.from_single_file(str(file), config=folder, local_files_only=True, **parts)
        else:
            pipeline = kind.from_pretrained(
                folder,
                use_safetensors=True,
                variant=files.variant,
                feature_extractor=None,
                local_files_only=True,
                **parts,
            )
        return pipeline.to(dtype=torch.float32)


def reference_latents(
    pipeline: Any,
    scheduler_config: Mapping[str, Any],
    adapter_file: Path | None,
    request: ImageRequest,
    noise_bchw: Tensor,
    *,
    clip_skip: int = 1,
) -> Tensor:
    """(1, c, h, w) latents of a request from that first noise, float32 on the CPU; `clip_skip` as in `ModelSource`."""
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_sampler(
        request.sampler, scheduler_config, request.num_steps, torch.device("cpu")
    ).scheduler
    if adapter_file is not None:
        with quiet():
            pipeline.load_lora_weights(str(adapter_file.parent), weight_name=adapter_file.name)
    with torch.inference_mode(), quiet():
        texts: dict[str, Any] = {"prompt": request.prompt, "negative_prompt": request.negative_prompt}
        if clip_skip > 1:
            _keep_old_name(pipeline.text_encoder)
            # Given to the pipeline it would count for the prompt and not for the negative prompt.
            texts = {
                name: pipeline.encode_prompt(text, torch.device("cpu"), 1, False, clip_skip=clip_skip - 1)[0]
                for name, text in (
                    ("prompt_embeds", request.prompt),
                    ("negative_prompt_embeds", request.negative_prompt),
                )
            }
        return pipeline(
            **texts,
            num_inference_steps=request.num_steps,
            guidance_scale=request.guidance_scale,
            width=request.width,
            height=request.height,
            latents=noise_bchw.clone(),
            output_type="latent",
        ).images.float()


def _keep_old_name(text_encoder: Any) -> None:
    """diffusers 0.42 looks for the final layer norm below `text_model`, which transformers 5.6 has dropped."""
    if not hasattr(text_encoder, "text_model"):
        text_encoder.__dict__["text_model"] = text_encoder  # not registered as a module: it would contain itself

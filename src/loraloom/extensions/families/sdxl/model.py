"""An opened Stable Diffusion XL model.

In: the files of a model. Out: the answers of `protocols.model.DiffusionModel`. Each part's weights are read at first use,
frozen, and can be dropped again. Conditions on size and crop: Podell et al. 2023, section 2.2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from loraloom.extensions.families._diffusers.samplers import DiffusersSampler, make_sampler
from loraloom.extensions.families._diffusers.schedule import make_schedule, sampling_defaults
from loraloom.extensions.families._diffusers.windows import collate
from loraloom.extensions.families._ldm.lora_format import LdmLoraFormat
from loraloom.extensions.families._ldm.presets import ATTENTION_OF_CLIP, UNET_PRESETS, attention_below
from loraloom.extensions.families._ldm.reference import fresh_pipeline, reference_latents
from loraloom.extensions.families._ldm.single_file import schedule_config
from loraloom.extensions.families._ldm.vae import LatentVae
from loraloom.extensions.families._ldm.weights import LdmWeights
from loraloom.extensions.families.sdxl.source import PARTS, check_configs
from loraloom.extensions.families.sdxl.text import PENULTIMATE, SdxlText
from loraloom.models.module_store import ModuleStore
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import Conditioning, ImageGeometry, ModelFiles, ModelInfo, Part, Tensors
from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import shown

GUIDANCE_SCALE = 5.0
"""As diffusers' pipeline has it: this model takes less guidance than Stable Diffusion 1."""


class SdxlModel:
    """See `protocols.model.DiffusionModel`."""

    def __init__(self, files: ModelFiles) -> None:
        source = files.source
        self._files = files
        configs = check_configs(files)
        unet, vae = configs["unet"], configs["vae"]
        self._weights = LdmWeights(files, PARTS, configs)
        self.modules = ModuleStore(
            self._load, self._weights.fingerprint, build=self._weights.build, file_sha256=files.file_sha256
        )
        self.lora_format = format_of(unet)
        self._vae = LatentVae(self.modules, "vae", vae)
        self._scheduler_config = schedule_config(files, configs["scheduler"])
        schedule = make_schedule(self._scheduler_config)
        scale = 2 ** (len(vae.get("block_out_channels", [0])) - 1)
        defaults = sampling_defaults(schedule, int(unet.get("sample_size") or 128) * scale)
        # Of the first encoder nothing after the penultimate layer is read; the second one's pooled embedding needs all.
        first_layers = int(configs["text_encoder"].get("num_hidden_layers", 12)) - PENULTIMATE + 1
        self.info = ModelInfo(
            family="sdxl",
            source=source,
            parts=parts_of(first_layers),
            schedule=schedule,
            latent_channels=int(unet.get("in_channels", 4)),
            vae_scale_factor=scale,
            size_multiple=scale,
            guidance="cfg",
            defaults=replace(defaults, guidance_scale=min(defaults.guidance_scale, GUIDANCE_SCALE)),
        )
        self.text = SdxlText(files, self.modules, configs)

    def _load(self, part: str) -> nn.Module:
        return self._weights.load(part, self.modules.skeleton)

    def save(self, folder: Path, dtype: Literal["fp32", "fp16", "bf16"]) -> None:
        """Write a diffusers folder with the weights as they are now, a missing part read first."""
        self._weights.save(folder, dtype, self.modules)

    def encode_images(self, pixels_bchw: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels in [-1, 1] to mean and log-variance, float32, not scaled."""
        return self._vae.encode(pixels_bchw)

    def scale_latents(self, raw_bchw: Tensor) -> Tensor:
        """(raw - shift) x scaling factor."""
        return self._vae.scale(raw_bchw)

    def decode_latents(self, latents_bchw: Tensor) -> Tensor:
        """Scaled latents to pixels, float32 in [-1, 1]."""
        return self._vae.decode(latents_bchw)

    def condition(
        self, texts: Sequence[Tensors], geometry: Sequence[ImageGeometry], guidance_scale: float | None
    ) -> Conditioning:
        """What the UNet is given.

        Returns:
            `hidden`: (b, l, d) embeddings; `mask`: (b, l) bool, where prompts of a batch differ in length; `pooled`: (b, p);
            `sizes`: (b, 6) float32 pixels: height and width of the source image, top and left of the crop, height and width
            of the image that is learned or generated.
        """
        hidden_bld, mask_bl = collate([text["hidden"] for text in texts])
        sizes = [[*place.original[::-1], *place.crop[::-1], *place.target[::-1]] for place in geometry]
        conditioning = {
            "hidden": hidden_bld,
            "pooled": torch.stack([text["pooled"] for text in texts]),
            "sizes": torch.tensor(sizes, dtype=torch.float32, device=hidden_bld.device),
        }
        return conditioning if mask_bl is None else {**conditioning, "mask": mask_bl}

    def predict(self, latents_bchw: Tensor, timesteps_b: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's answer to noisy latents, (b, c, h, w)."""
        denoiser = self.modules.get("denoiser")
        dtype = next(denoiser.parameters()).dtype
        return denoiser(
            latents_bchw,
            timesteps_b,
            encoder_hidden_states=conditioning["hidden"].to(dtype),
            encoder_attention_mask=conditioning.get("mask"),
            # Sizes stay float32: bfloat16 would round 1023 to 1024.
            added_cond_kwargs={"text_embeds": conditioning["pooled"].to(dtype), "time_ids": conditioning["sizes"]},
            return_dict=False,
        )[0]

    def sampler(self, name: str, num_steps: int, height: int, width: int) -> DiffusersSampler:
        """A solver with this model's schedule, the same for all sizes; timesteps on the denoiser's device."""
        device = next(self.modules.get("denoiser").parameters()).device
        return make_sampler(name, self._scheduler_config, num_steps, device)

    def reference_latents(self, adapter_file: Path | None, request: ImageRequest, noise_bchw: Tensor) -> Tensor:
        """Latents from a fresh diffusers pipeline, float32 on the CPU; see the contract."""
        pipeline = fresh_pipeline(_pipeline_class, self._files, image_encoder=None)
        return reference_latents(pipeline, self._scheduler_config, adapter_file, request, noise_bchw)


def format_of(unet: Mapping[str, Any]) -> LdmLoraFormat:
    """How adapter files name the layers, by the UNet's config."""
    return LdmLoraFormat(
        architecture="stable-diffusion-xl-v1-base",
        kohya_version="sdxl_base_v1-0",
        components={part: spec.folder for part, spec in PARTS.items()},
        prefixes={"denoiser": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"},
        compvis_layers=_layers_per_block(unet),
    )


def parts_of(num_read_layers: int) -> tuple[Part, ...]:
    """The parts with what carries LoRA in each.

    Args:
        num_read_layers: Layers of the first text encoder up to the one that is read.
    """
    return (
        Part(name="denoiser", role="denoiser", lora_targets=UNET_PRESETS),
        Part(name="vae", role="vae"),
        Part(name="text_encoder", role="text_encoder", lora_targets=attention_below(num_read_layers)),
        Part(name="text_encoder_2", role="text_encoder", lora_targets=ATTENTION_OF_CLIP),
    )


def _layers_per_block(unet: Mapping[str, Any]) -> int:
    """ResNets of a UNet level, which CompVis' block names count by.

    Raises:
        UserError: Levels of different depth, for which other programs have no names.
    """
    layers = unet.get("layers_per_block", 2)
    counts = set(layers) if isinstance(layers, list) else {layers}
    if len(counts) > 1:
        raise UserError(
            "unet/config.json: layers_per_block",
            got=shown(layers),
            expected="one number for all levels: exports have no names for others",
        )
    return int(counts.pop())


def _pipeline_class() -> Any:
    """Imported where it is used: the pipeline module pulls in much that training does not need."""
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline

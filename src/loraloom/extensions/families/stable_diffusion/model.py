"""An opened Stable Diffusion 1.x / 2.x model.

In: the files of a model. Out: the answers of `protocols.model.DiffusionModel`. Each part's weights are read at first use,
frozen, and can be dropped again, so that training from cache never holds a VAE or text encoder.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from loraloom.extensions.families._diffusers.samplers import DiffusersSampler, make_sampler
from loraloom.extensions.families._diffusers.schedule import make_schedule, sampling_defaults
from loraloom.extensions.families._diffusers.windows import collate
from loraloom.extensions.families._ldm.lora_format import LdmLoraFormat
from loraloom.extensions.families._ldm.presets import UNET_PRESETS, attention_below
from loraloom.extensions.families._ldm.reference import fresh_pipeline, reference_latents
from loraloom.extensions.families._ldm.single_file import schedule_config
from loraloom.extensions.families._ldm.vae import LatentVae
from loraloom.extensions.families._ldm.weights import LdmWeights
from loraloom.extensions.families.stable_diffusion.source import PARTS, check_configs
from loraloom.extensions.families.stable_diffusion.text import ClipText
from loraloom.models.module_store import ModuleStore
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import Conditioning, ImageGeometry, ModelFiles, ModelInfo, Part, Tensors
from loraloom.utils.untrusted import check_range


class StableDiffusionModel:
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
        text_encoder = configs["text_encoder"]
        num_layers = int(text_encoder.get("num_hidden_layers", 12))
        self._clip_skip = check_range(1 if source.clip_skip is None else source.clip_skip, "clip_skip", 1, num_layers)
        scale = 2 ** (len(vae.get("block_out_channels", [0])) - 1)
        self.info = ModelInfo(
            family="stable_diffusion",
            source=source,
            parts=parts_of(num_layers + 1 - self._clip_skip),
            schedule=schedule,
            latent_channels=int(unet.get("in_channels", 4)),
            vae_scale_factor=scale,
            size_multiple=scale,
            guidance="cfg",
            defaults=sampling_defaults(schedule, int(unet.get("sample_size") or 64) * scale),
            clip_skip=self._clip_skip,
        )
        self.text = ClipText(
            files.path("tokenizer"),
            lambda: self.modules.get("text_encoder"),
            lambda: self.modules.fingerprint("text_encoder"),
            num_ids=int(text_encoder.get("vocab_size", 49408)),
            num_positions=int(text_encoder.get("max_position_embeddings", 77)),
            clip_skip=self._clip_skip,
        )

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
        """`hidden`: (b, l, d) embeddings; `mask`: (b, l) bool, where prompts of a batch differ in length."""
        hidden_bld, mask_bl = collate([text["hidden"] for text in texts])
        return {"hidden": hidden_bld} if mask_bl is None else {"hidden": hidden_bld, "mask": mask_bl}

    def predict(self, latents_bchw: Tensor, timesteps_b: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's answer to noisy latents, (b, c, h, w)."""
        denoiser = self.modules.get("denoiser")
        return denoiser(
            latents_bchw,
            timesteps_b,
            encoder_hidden_states=conditioning["hidden"].to(next(denoiser.parameters()).dtype),
            encoder_attention_mask=conditioning.get("mask"),
            return_dict=False,
        )[0]

    def sampler(self, name: str, num_steps: int, height: int, width: int) -> DiffusersSampler:
        """A solver with this model's schedule, the same for all sizes; timesteps on the denoiser's device."""
        device = next(self.modules.get("denoiser").parameters()).device
        return make_sampler(name, self._scheduler_config, num_steps, device)

    def reference_latents(self, adapter_file: Path | None, request: ImageRequest, noise_bchw: Tensor) -> Tensor:
        """Latents from a fresh diffusers pipeline, float32 on the CPU; see the contract."""
        pipeline = fresh_pipeline(_pipeline_class, self._files, safety_checker=None, image_encoder=None)
        return reference_latents(
            pipeline, self._scheduler_config, adapter_file, request, noise_bchw, clip_skip=self._clip_skip
        )


def _pipeline_class() -> Any:
    """Imported where it is used: the pipeline module pulls in much that training does not need."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    return StableDiffusionPipeline


def format_of(unet: Mapping[str, Any]) -> LdmLoraFormat:
    """How adapter files name the layers, by the UNet's config."""
    version = "v2" if int(unet.get("cross_attention_dim", 768)) == 1024 else "v1"
    return LdmLoraFormat(
        architecture=f"stable-diffusion-{version}",
        kohya_version=f"sd_{version}",
        components={part: spec.folder for part, spec in PARTS.items()},
        prefixes={"denoiser": "lora_unet", "text_encoder": "lora_te"},
    )


def parts_of(num_read_layers: int) -> tuple[Part, ...]:
    """The parts with what carries LoRA in each.

    Args:
        num_read_layers: Layers of the text encoder up to the one that is read.
    """
    return (
        Part(name="denoiser", role="denoiser", lora_targets=UNET_PRESETS),
        Part(name="vae", role="vae"),
        Part(name="text_encoder", role="text_encoder", lora_targets=attention_below(num_read_layers)),
    )

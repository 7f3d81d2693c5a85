"""An opened Stable Diffusion 1.x / 2.x model.

In: a located model. Out: the answers of `contracts.DiffusionModel`. Each part's weights are read at first use, frozen,
and can be dropped again, so that training from cache never holds a VAE or text encoder.
"""

import gc
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from shutil import copyfile, copytree
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from loraloom.extensions.families.stable_diffusion.headers import Entry, check_finite, check_fit, read_header
from loraloom.extensions.families.stable_diffusion.limits import check_together
from loraloom.extensions.families.stable_diffusion.samplers import DiffusersSampler, make_sampler
from loraloom.extensions.families.stable_diffusion.source import PART_FOLDER, Located, file_sum
from loraloom.extensions.families.stable_diffusion.text import ClipText
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import Conditioning, LoraPreset, ModelSource, NoiseSchedule
from loraloom.utils.atomic_files import whole_directory, write_json
from loraloom.utils.dtypes import DTYPES
from loraloom.utils.errors import UserError
from loraloom.utils.quiet import quiet
from loraloom.utils.untrusted import library_errors

_PRESETS = MappingProxyType(
    {
        "cross_attention": LoraPreset(r".*\.attn2\.(to_q|to_k|to_v|to_out\.0)"),
        "attention": LoraPreset(r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"),
        "all_linear": LoraPreset(r".*"),
        "all_linear_conv": LoraPreset(r".*", ("Linear", "Conv2d")),
    }
)


_SINGLE_FILE_PREFIX = MappingProxyType(
    {"denoiser": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model."}
)
_TEXT_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings", "hidden_act", "layer_norm_eps", "attention_dropout", "initializer_range",
    "initializer_factor", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip


class StableDiffusionModel:
    """See `contracts.DiffusionModel`."""

    family = "stable_diffusion"
    lora_presets: Mapping[str, LoraPreset] = _PRESETS
    text_encoder_preset = LoraPreset(r".*\.self_attn\.(q_proj|k_proj|v_proj|out_proj)")

    def __init__(self, source: ModelSource, located: Located) -> None:
        if not located.is_stable_diffusion():
            raise UserError(
                "this model is not a Stable Diffusion 1.x or 2.x",
                got=located.config("unet").get("_class_name")
                if (located.folder / "unet").is_dir()
                else source.location,
                expected="a UNet2DConditionModel with one CLIP text encoder",
            )
        self.source = source
        self._located = located
        self._modules: dict[str, nn.Module] = {}
        self._fingerprints: dict[str, str] = {}
        self._configs = configs = located.check()
        unet, vae = configs["unet"], configs["vae"]
        self.latent_channels = int(unet.get("in_channels", 4))
        if self.latent_channels != int(vae.get("latent_channels", 4)):
            raise UserError(
                "this UNet takes more than latents (an inpainting or depth model)",
                got=f"{self.latent_channels} input channels",
                expected=f"{vae.get('latent_channels', 4)}",
            )
        check_together(unet, vae, configs["text_encoder"])
        self.latent_scale = 2 ** (len(vae.get("block_out_channels", [0])) - 1)
        self.default_size_px = int(unet.get("sample_size") or 64) * self.latent_scale
        version = "v2" if int(unet.get("cross_attention_dim", 768)) == 1024 else "v1"
        self.architecture = f"stable-diffusion-{version}"
        self.kohya_version = f"sd_{version}"
        self._vae_scaling = float(vae.get("scaling_factor") or 0.18215)
        self._vae_shift = float(vae.get("shift_factor") or 0.0)
        self._scheduler_config = dict(configs["scheduler"])
        if source.prediction_type != "auto":
            self._scheduler_config["prediction_type"] = source.prediction_type
        self.schedule = _schedule(self._scheduler_config)
        self.text = ClipText(
            located.folder / "tokenizer",
            lambda: self.module("text_encoder"),
            lambda: self.fingerprint("text_encoder"),
            num_ids=int(configs["text_encoder"].get("vocab_size", 49408)),
            num_positions=int(configs["text_encoder"].get("max_position_embeddings", 77)),
        )

    # ------------------------------------------------------------------------------------------------------ parts

    def fingerprint(self, part: str) -> str:
        """sha256 over a part's weight files and config, read once."""
        if part not in self._fingerprints:
            self._fingerprints[part] = self._located.fingerprint(part)
        return self._fingerprints[part]

    def file_sha256(self) -> str | None:
        """sha256 of a single checkpoint; None for a folder."""
        return file_sum(self._located.single_file) if self._located.single_file else None

    def module(self, part: str) -> nn.Module:
        """The part's module: loaded if need be, frozen, in evaluation mode."""
        if part not in self._modules:
            module = self._load(part)
            module.requires_grad_(False)
            self._modules[part] = module.eval()
        return self._modules[part]

    def place(self, part: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """The part's module on `device` in `dtype`."""
        module = self.module(part)
        with quiet():  # diffusers warns of an empty list of modules to keep in float32
            module.to(device=device, dtype=dtype)
        return module

    def drop(self, part: str) -> None:
        """Forget the part's weights."""
        if self._modules.pop(part, None) is not None:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def save(self, folder: Path, dtype: Literal["fp32", "fp16", "bf16"]) -> None:
        """Write a diffusers folder with the weights as they are now, a missing part read first."""
        with whole_directory(folder) as target, quiet():
            for entry in ("model_index.json", "scheduler", "tokenizer", "feature_extractor"):
                found = self._located.folder / entry
                if found.is_dir():
                    copytree(found, target / entry)
                elif found.is_file():
                    copyfile(found, target / entry)
            for part, name in PART_FOLDER.items():
                module: Any = deepcopy(self.module(part)).to("cpu", DTYPES[dtype])
                module.save_pretrained(target / name, safe_serialization=True)
                config = json.loads((target / name / "config.json").read_text(encoding="utf-8"))
                config.pop("_name_or_path", None)  # where it was read from: a path of this machine
                write_json(target / name / "config.json", config)

    def _load(self, part: str) -> nn.Module:
        files = self._located.weight_files(part)  # refuses before anything is read
        self._check_fit(part, files)
        try:
            with quiet():
                if self._located.single_file is not None:
                    module = self._load_single_file(part, self._located.single_file)
                    lacking = [name for name, parameter in module.named_parameters() if parameter.is_meta]
                else:
                    module, lacking = self._load_folder(part)
        except UserError:
            raise
        except Exception as error:  # whatever the libraries make of a file
            lines = str(error).strip().splitlines()
            raise self._unreadable(part, lines[0][:300] if lines else type(error).__name__) from error
        if lacking:
            # The libraries leave what is missing random, with a warning at most.
            raise self._unreadable(part, f"{len(lacking)} of its weights are missing, the first is {lacking[0]}")
        check_finite(PART_FOLDER[part], module, files)
        return module

    def _check_fit(self, part: str, files: Sequence[Path]) -> None:
        entries: dict[str, Entry] = {}
        for file in files:
            entries.update(read_header(file))
        single = self._located.single_file is not None
        if single:
            entries = {name: entry for name, entry in entries.items() if name.startswith(_SINGLE_FILE_PREFIX[part])}
        with quiet():
            check_fit(
                PART_FOLDER[part], entries, (lambda: self._empty(part)) if entries else None, same_names=not single
            )

    def _empty(self, part: str) -> nn.Module:
        """The part without memory, as its config describes it."""
        config: Any = dict(self._configs[PART_FOLDER[part]])
        with torch.device("meta"):
            if part == "denoiser":
                return cast("nn.Module", UNet2DConditionModel.from_config(config))
            if part == "vae":
                return cast("nn.Module", AutoencoderKL.from_config(config))
            from transformers import CLIPTextModel

            return CLIPTextModel(self._text_config())

    def _text_config(self) -> Any:
        """The text encoder's config of the keys that are known; others could name code or kernels to fetch."""
        from transformers import CLIPTextConfig

        config = self._configs["text_encoder"]
        return CLIPTextConfig(**{key: config[key] for key in _TEXT_KEYS if key in config})

    def _unreadable(self, part: str, why: str) -> UserError:
        return UserError(
            f"the {PART_FOLDER[part]} cannot be read ({why})",
            got=self.source.location,
            fix="download it again, or check that its config belongs to its weights",
        )

    def _load_folder(self, part: str) -> tuple[nn.Module, list[str]]:
        """The module, and the names of weights that its files lack."""
        kind: Any = {"denoiser": UNet2DConditionModel, "vae": AutoencoderKL}.get(part)
        extra: dict[str, Any] = {}
        if kind is None:
            from transformers import CLIPTextModel

            kind, extra = CLIPTextModel, {"dtype": torch.float32, "config": self._text_config()}
        module, info = kind.from_pretrained(
            str(self._located.folder), subfolder=PART_FOLDER[part], use_safetensors=True, local_files_only=True,
            variant=self._located.variant, output_loading_info=True, **extra,
        )  # fmt: skip
        return module, sorted(info["missing_keys"])

    def _load_single_file(self, part: str, file: Path) -> nn.Module:
        folder = str(self._located.folder)
        common: dict[str, Any] = {"config": folder, "local_files_only": True}
        if part == "denoiser":
            return UNet2DConditionModel.from_single_file(str(file), subfolder="unet", **common)
        if part == "vae":
            return AutoencoderKL.from_single_file(str(file), subfolder="vae", **common)
        return (
            _pipeline_class()
            .from_single_file(str(file), config=folder, local_files_only=True, unet=None, vae=None, safety_checker=None)
            .text_encoder
        )

    # ---------------------------------------------------------------------------------------------------- answers

    def encode_images(self, pixels_bchw: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels in [-1, 1] to mean and log-variance, float32, not scaled."""
        vae: Any = self.module("vae")
        weight = next(vae.parameters())
        posterior = vae.encode(pixels_bchw.to(weight), return_dict=False)[0]
        return posterior.mean.float(), posterior.logvar.float()

    def scale_latents(self, raw_bchw: Tensor) -> Tensor:
        """(raw - shift) x scaling factor."""
        return (raw_bchw - self._vae_shift) * self._vae_scaling

    def decode_latents(self, latents_bchw: Tensor) -> Tensor:
        """Scaled latents to pixels, float32 in [-1, 1]."""
        vae: Any = self.module("vae")
        raw_bchw = latents_bchw.float() / self._vae_scaling + self._vae_shift
        return vae.decode(raw_bchw.to(next(vae.parameters())), return_dict=False)[0].float().clamp(-1, 1)

    def predict(self, latents_bchw: Tensor, timesteps_b: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's answer to noisy latents, (b, c, h, w)."""
        return self.module("denoiser")(
            latents_bchw,
            timesteps_b,
            encoder_hidden_states=conditioning.hidden_bld,
            encoder_attention_mask=conditioning.mask_bl,
            return_dict=False,
        )[0]

    def sampler(self, name: str, num_steps: int) -> DiffusersSampler:
        """A solver with this model's schedule; timesteps on the denoiser's device."""
        device = next(self.module("denoiser").parameters()).device
        return make_sampler(name, self._scheduler_config, num_steps, device)

    # ----------------------------------------------------------------------------------------------------- export

    def component(self, part: str) -> str:
        """`unet`, `vae` or `text_encoder`."""
        return PART_FOLDER[part]

    def kohya_prefix(self, part: str) -> str:
        """`lora_unet` or `lora_te`."""
        return {"denoiser": "lora_unet", "text_encoder": "lora_te"}[part]

    def diffusers_name(self, part: str, module_name: str) -> str:
        """Adapter files keep the `text_model.` that transformers 5 dropped from its module names."""
        if part == "text_encoder" and not module_name.startswith("text_model."):
            return f"text_model.{module_name}"
        return module_name

    def _fresh_pipeline(self) -> Any:
        """A diffusers pipeline with its own copy of all weights, float32 on the CPU.

        Left alone, transformers 5 keeps a text encoder in the precision that its file has.
        """
        folder, file = str(self._located.folder), self._located.single_file
        common: dict[str, Any] = {"local_files_only": True, "safety_checker": None, "image_encoder": None}
        if file is not None:
            pipeline = _pipeline_class().from_single_file(str(file), config=folder, **common)
        else:
            pipeline = _pipeline_class().from_pretrained(
                folder,
                use_safetensors=True,
                variant=self._located.variant,
                feature_extractor=None,
                requires_safety_checker=False,
                **common,
            )
        return pipeline.to(dtype=torch.float32)

    def reference_latents(self, adapter_file: Path | None, request: ImageRequest, noise_bchw: Tensor) -> Tensor:
        """Latents from a fresh diffusers pipeline, float32 on the CPU; see the contract."""
        with quiet():
            pipeline = self._fresh_pipeline()
        pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler = make_sampler(
            request.sampler, self._scheduler_config, request.num_steps, torch.device("cpu")
        ).scheduler
        if adapter_file is not None:
            with quiet():
                pipeline.load_lora_weights(str(adapter_file.parent), weight_name=adapter_file.name)
        with torch.inference_mode(), quiet():
            return pipeline(
                request.prompt,
                negative_prompt=request.negative_prompt,
                num_inference_steps=request.num_steps,
                guidance_scale=request.guidance_scale,
                width=request.width,
                height=request.height,
                latents=noise_bchw.clone(),
                output_type="latent",
            ).images.float()


def _pipeline_class() -> Any:
    """Imported where it is used: the pipeline module pulls in much that training does not need."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    return StableDiffusionPipeline


def _schedule(config: Mapping[str, Any]) -> NoiseSchedule:
    """The forward process of a scheduler config, computed by diffusers' own DDPM scheduler."""
    prediction_type: Literal["epsilon", "v_prediction"]
    match config.get("prediction_type", "epsilon"):
        case "epsilon":
            prediction_type = "epsilon"
        case "v_prediction":
            prediction_type = "v_prediction"
        case other:
            raise UserError("unknown prediction type", got=other, expected="epsilon or v_prediction")
    # The library would print every key that it does not know, a megabyte of them if need be.
    with library_errors("scheduler/scheduler_config.json", "the model's schedule"), quiet():
        scheduler: Any = DDPMScheduler.from_config(dict(config))
    if not bool(scheduler.alphas_cumprod.isfinite().all()) or not bool((scheduler.alphas_cumprod > -1e-12).all()):
        raise UserError("scheduler/scheduler_config.json makes no schedule", got="noise levels that are not finite")
    return NoiseSchedule(scheduler.alphas_cumprod.double(), prediction_type)
